import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from protocol.rig import CameraConfig, Rig, RigError, is_loopback, load_rig, parse_rig, save_rig
from protocol.table import limited, parse_table

CAMERA = {"id": "cam00", "node": "pc1", "driver": "replay"}
PC = {"name": "pc1", "host": "10.0.0.11"}
RIG = {"name": "studio", "calibration": "cameras.json", "camera": [CAMERA, {**CAMERA, "id": "cam01", "node": "pc2"}]}


def rig_with(**changes):
    return {**RIG, **changes}


def test_a_short_rig_has_every_default(tmp_path):
    path = tmp_path / "rig.toml"
    path.write_text(
        'name = "studio"\ncalibration = "cameras.json"\n'
        '[[camera]]\nid = "cam00"\nnode = "pc1"\ndriver = "replay"\noptions = {capture = "loop"}\n',
        encoding="utf-8",
    )
    rig = load_rig(path)
    assert rig.calibration == tmp_path / "cameras.json"
    assert rig.server.takes == tmp_path / "takes"
    assert (rig.fps, rig.server.data_port, rig.wire.credit, rig.sync.mode) == (30.0, 5560, 4, "trigger")
    assert rig.cameras[0].options == {"capture": "loop"}


def test_nodes_and_their_cameras():
    cameras = [{**CAMERA, "id": f"cam{i}", "node": node} for i, node in enumerate(["b", "a", "b"])]
    rig = parse_rig(rig_with(camera=cameras))
    assert rig.nodes == ("b", "a")
    assert [camera.id for camera in rig.cameras_of("b")] == ["cam0", "cam2"]
    assert rig.camera_ids == ("cam0", "cam1", "cam2")
    with pytest.raises(RigError, match="'studio' has node 'c'; its nodes are b, a"):
        rig.cameras_of("c")


def test_the_spool_of_a_rig_that_was_made_lies_beside_its_file(tmp_path):
    calibration, cameras = tmp_path / "cameras.json", (CameraConfig("cam0", "pc0", "replay"),)
    save_rig(Rig("made", tmp_path, calibration, cameras), tmp_path / "rig.toml")
    assert load_rig(tmp_path / "rig.toml").spool.folder == tmp_path / "spool"
    assert "[spool]" not in (tmp_path / "rig.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_saved_rig_is_read_back_the_same(tmp_path, where):
    options = {"capture": 'a "quoted" \\ name\n\x07é', "n": 3, "x": 0.1, "on": True, "list": [1, "a"], "t": {"a b": 1}}
    data = rig_with(
        name='"studio"\tA',
        fps=29.97,
        server={"data_port": 7000, "takes": "/takes/of today"},
        sync={"mode": "time", "min_cameras": 2, "alarm_ms": 1.5, "timecode": "utc"},
        metrics={"node_port": 9200},
        wire={"queue_mb": 20},
        spool={"folder": "/data/spool", "keep": True},
        normals={"weights": "nets/best.safetensors", "engine": "torch"},
        surface={"photometric": False},
        camera=[{**CAMERA, "options": options, "serial": "S-1"}, RIG["camera"][1]],
        node=[
            PC,
            {"name": "pc2", "host": "b", "user": "c", "port": 2222, "folder": "/d e", "command": "hs", "python": "p"},
        ],
    )
    rig = parse_rig(data, root=tmp_path / "here")
    path = tmp_path / where / "rig.toml"
    path.parent.mkdir()
    save_rig(rig, path)
    assert replace(load_rig(path), root=rig.root) == rig
    assert list(path.parent.iterdir()) == [path]
    relative = tomllib.loads(path.read_text(encoding="utf-8"))["calibration"] == "cameras.json"
    assert relative == (where == "here")


def test_a_saved_rig_leaves_defaults_out(tmp_path):
    save_rig(parse_rig(RIG, root=tmp_path), tmp_path / "rig.toml")
    written = tomllib.loads((tmp_path / "rig.toml").read_text(encoding="utf-8"))
    assert set(written) == {"name", "calibration", "fps", "camera"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (rig_with(server={"data_prt": 1}), "server.data_prt: unknown key; did you mean 'data_port'?; known are host, "),
        (rig_with(servr={}), "rig.toml: servr: unknown key; did you mean 'server'?; known are name, "),
        (rig_with(camera=[CAMERA, {**CAMERA, "fps": 3}]), "camera[1].fps: unknown key; known are id, node, driver, "),
        (rig_with(camera=[{"id": "cam00", "driver": "replay"}]), "camera[0].node: missing; must be text"),
        (rig_with(camera=[CAMERA, CAMERA]), "camera[1].id: 'cam00' is also camera[0]"),
        (rig_with(camera=[{**CAMERA, "id": "../x"}]), "camera[0].id: '../x'; must be 1 to 64 of"),
        (rig_with(camera=[{**CAMERA, "node": ""}]), "camera[0].node: ''; must be 1 to 64 of"),
        (rig_with(camera=[{**CAMERA, "options": 3}]), "camera[0].options: 3; must be a table"),
        (rig_with(camera=[]), "camera: must be at least one [[camera]]"),
        (rig_with(camera=CAMERA), "camera: must be at least one [[camera]]"),
        (rig_with(camera=[3]), "camera[0]: 3; must be a table"),
        ({"name": "s", "camera": [CAMERA]}, "rig.toml: calibration: missing; must be a path"),
        (rig_with(calibration=""), "rig.toml: calibration: empty; must be a path"),
        (rig_with(name=3), "rig.toml: name: 3; must be text"),
        (rig_with(server=3), "server: 3; must be a table"),
        (rig_with(sync={"mode": "foo"}), "sync.mode: 'foo'; must be 'trigger' or 'time'"),
        (rig_with(sync={"mode": "triger"}), "must be 'trigger' or 'time'; did you mean 'trigger'?"),
        (rig_with(sync={"mode": 3}), "sync.mode: 3; must be 'trigger' or 'time'"),
        (rig_with(fps=0), "fps: 0; must be a number from 0.01 to 1000"),
        (rig_with(fps=float("nan")), "fps: nan; must be a number from 0.01 to 1000"),
        (rig_with(fps=True), "fps: true; must be a number"),
        (rig_with(fps="30"), "fps: '30'; must be a number"),
        (rig_with(wire={"credit": 2.0}), "wire.credit: 2.0; must be a whole number from 1 to 64"),
        (rig_with(wire={"allow_plain": 1}), "wire.allow_plain: 1; must be true or false"),
        (rig_with(server={"data_port": 0}), "server.data_port: 0; must be a whole number from 1 to 65535"),
        (rig_with(server={"data_port": 8080}), "server.preview_port: 8080 is also server.data_port"),
        (rig_with(server={"host": "tcp://10.0.0.1"}), "server.host: 'tcp://10.0.0.1'; must be an address"),
        (rig_with(server={"host": ""}), "server.host: ''; must be an address"),
        (rig_with(server={"host": "10.0.0.1"}), "wire.security: 'plain' would cross the network to 10.0.0.1"),
        (rig_with(wire={"queue_mb": 2}), "wire.queue_mb: 2; must be at least max_frame_mb, 16"),
        (rig_with(metrics={"server_port": 8080}), "metrics.server_port: 8080 is also server.preview_port"),
        (rig_with(metrics={"host": "a b"}), "metrics.host: 'a b'; must be an address"),
        (rig_with(metrics={"node_port": 65535}), "metrics.node_port: 65535; must leave room for the ports of 2 nodes"),
        (rig_with(sync={"timecode": "ltc"}), "sync.timecode: 'ltc'; must be 'none' or 'utc'"),
        (rig_with(fps=12.5, sync={"timecode": "utc"}), "sync.timecode: 12.5 frames a second have no timecode; whole"),
        (rig_with(sync={"alarm_ms": -1}), "sync.alarm_ms: -1; must be a number from 0 to 1000"),
        (rig_with(sync={"min_cameras": 3}), "sync.min_cameras: 3; the rig has 2 cameras"),
        (rig_with(normals={"device": "gpu0"}), "normals.device: 'gpu0'; must be 'cuda', 'cuda:<number>' or 'cpu'"),
        (rig_with(normals={"windows": "gpu"}), "normals.windows: 'gpu'; must be 'cpu' or 'cuda'"),
        (
            rig_with(normals={"decode_threads": 300}),
            "normals.decode_threads: 300; must be a whole number from 0 to 256",
        ),
        (rig_with(normals={"decode": "opencv"}), "normals.decode: 'opencv'; must be 'turbojpeg' or 'nvjpeg'"),
        (rig_with(normals={"decode": "nvjpeg"}), "normals.decode: 'nvjpeg' leaves pictures on the GPU; say normals.wi"),
        (rig_with(surface={"device": "", "kernels": "cuda"}), "surface.device: ''; must be 'cuda', 'cuda:<number>' or"),
        (rig_with(surface={"device": "cuda:1"}), "surface.device: 'cuda:1'; neither surface.rasterizer nor surface.k"),
        (rig_with(node={}), "node: must be [[node]] tables with name and host"),
        (rig_with(node=[{"name": "pc1"}]), "node[0].host: missing; must be text"),
        (rig_with(node=[{**PC, "prt": 22}]), "node[0].prt: unknown key; did you mean 'port'?; known are name, host, "),
        (rig_with(node=[{**PC, "name": "pc3"}]), "node[0].name: 'pc3'; no camera has this node; did you mean 'pc"),
        (rig_with(node=[PC, PC]), "node[1].name: 'pc1' is also node[0]; one PC a node"),
        (rig_with(node=[{**PC, "host": "a b"}]), "node[0].host: 'a b'; must be an address or a host's name"),
        (rig_with(node=[{**PC, "host": "-oProxyCommand=x"}]), "node[0].host: '-oProxyCommand=x'; must be an address"),
        (rig_with(node=[{**PC, "user": "a;b"}]), "node[0].user: 'a;b'; must be a user's name"),
        (rig_with(node=[{**PC, "port": 65_536}]), "node[0].port: 65536; must be a whole number from 0 to 65535"),
        (rig_with(node=[{**PC, "folder": "headstream"}]), "node[0].folder: 'headstream'; must be a path that starts"),
        (rig_with(node=[{**PC, "command": "a\nb"}]), "node[0].command: 'a\\nb'; must be the path"),
        (rig_with(sync={"mode": "time", "tolerance_ms": 17}), "sync.tolerance_ms: 17; must be under half"),
    ],
)
def test_refusals_name_the_path_and_what_would_be_right(data, says):
    with pytest.raises(RigError) as caught:
        parse_rig(data)
    assert str(caught.value).startswith("rig.toml: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_on_a_network_must_be_allowed_in_as_many_words():
    data = rig_with(server={"host": "10.0.0.1"}, wire={"allow_plain": True})
    assert parse_rig(data).server.host == "10.0.0.1"


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("0.0.0.0", False), ("pc1", False)]
    + [("127.example.org", False), ("10.127.0.0", False)],
)
def test_loopback(host, here):
    assert is_loopback(host) == here


def test_dates_among_options_are_refused_with_their_path(tmp_path):
    path = tmp_path / "rig.toml"
    save_rig(parse_rig(RIG, root=tmp_path), path)
    path.write_text(path.read_text(encoding="utf-8") + "options = {a = [1, {b = 2026-11-24}]}\n", encoding="utf-8")
    with pytest.raises(RigError, match=r"camera\[1\].options.a\[1\].b: 2026-11-24; must be text, a number"):
        load_rig(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'name = "s"\ncalibration = cameras\n', "rig.toml:2: not TOML (Invalid value)"),
        (b"\xff", "rig.toml: cannot be read ("),
    ],
)
def test_files_that_are_no_toml(tmp_path, text, says):
    (tmp_path / "rig.toml").write_bytes(text)
    with pytest.raises(RigError) as caught:
        load_rig(tmp_path / "rig.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(RigError, match=r"absent\.toml: there is no such rig file"):
        load_rig(tmp_path / "absent.toml")
    with pytest.raises(RigError, match="cannot be read"):
        load_rig(tmp_path)


@dataclass(frozen=True)
class Options:
    path: Path
    rate: float = limited(2.0, 1, 3)
    rest: dict = field(default_factory=dict)


def test_a_table_of_ones_own():
    table = parse_table(Options, {"path": "a/b", "rate": 3}, "file", "x", RigError)
    assert table == Options(Path("a/b"), 3.0, {})
    assert isinstance(table.rate, float)
    with pytest.raises(RigError, match=r"^file: x.rate: 4; must be a number from 1 to 3$"):
        parse_table(Options, {"path": "a", "rate": 4}, "file", "x", RigError)


def test_normals_and_surface_on_a_gpu_each(tmp_path):
    normals = {"engine": "torch", "device": "cuda:0", "windows": "cuda", "decode": "nvjpeg"}
    surface = {"rasterizer": "cuda", "kernels": "cuda", "device": "cuda:1"}
    rig = parse_rig(rig_with(normals=normals, surface=surface), "rig.toml", tmp_path)
    assert (rig.normals.device, rig.surface.device) == ("cuda:0", "cuda:1")
    assert (rig.normals.windows, rig.normals.decode) == ("cuda", "nvjpeg")
    save_rig(rig, tmp_path / "rig.toml")
    assert load_rig(tmp_path / "rig.toml") == rig
    plain = parse_rig(rig_with(), "rig.toml", tmp_path)
    assert (plain.normals.device, plain.normals.windows, plain.normals.decode) == ("", "cpu", "turbojpeg")
    assert plain.surface.device == "cuda"
