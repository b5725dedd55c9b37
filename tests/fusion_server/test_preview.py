"""The preview: what its panel says, what its browser gets, and that nothing ever waits for it."""

from __future__ import annotations

import importlib.util
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import trimesh
import viser
from websockets.sync.client import connect

import fusion_server.preview.viewer as viewer
from fusion_server.colour import Photo
from fusion_server.preview import Preview
from fusion_server.preview.glb import coloured_glb
from fusion_server.preview.panel import (
    TILE,
    alarms_markdown,
    cameras_markdown,
    mosaic,
    recording_markdown,
    status_markdown,
    time_markdown,
)
from geometry.mesh import vertex_normals
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.rig import Rig, ServerConfig, parse_rig

VERTICES = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
STATUS = {
    "meshes_per_second": 5.23,
    "latency_ms": 210.4,
    "meshes": 84,
    "faults": 0,
    "sync": {"incomplete": 4, "dropped_sets": 0, "late": 0},
    "cameras": {"front": {"fps": 29.94, "dropped": 3, "refused": 0, "age_s": 0.02}},
    "take": None,
}


def make_rig(port: int = 0) -> Rig:
    cameras = [{"id": name, "node": "pc1", "driver": "replay"} for name in ("front", "left")]
    rig = parse_rig({"name": "test", "calibration": "cameras.json", "camera": cameras})
    return replace(rig, server=replace(ServerConfig(), preview_port=port))


def make_calibration() -> Calibration:
    """Two cameras half a metre from the origin, in front of it (+Z) and to its left."""
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    front = np.diag([1.0, -1, -1])
    left = np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])  # lies on its side
    t = np.array([0, 0, 0.5])
    return Calibration(tuple(Camera(n, 640, 480, K, np.zeros(5), R, t) for n, R in (("front", front), ("left", left))))


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.005)


class Watched(Preview):
    """Remembers what was shown and pressed."""

    def __init__(self):
        self.shown, self.pressed = [], []
        super().__init__(make_rig(), make_calibration(), lambda *what: self.pressed.append(what))

    def _show_mesh(self, mesh):
        self.shown.append(float(mesh[0][0, 0]))
        super()._show_mesh(mesh)


@pytest.fixture
def preview(monkeypatch) -> Iterator[Watched]:
    monkeypatch.setattr(viewer, "_UNWATCHED_PERIOD_S", 1 / 15)
    made = Watched()
    yield made
    made.close()


def test_the_status_says_what_matters_first():
    first, second = status_markdown(STATUS).split("\n\n")
    assert first == "**5.2** meshes/s · latency **210** ms"
    assert second == "84 meshes · 4 sets without a camera"
    with_truth = status_markdown({**STATUS, "truth_surface_mm": 0.421, "truth_normal_deg": 6.06, "faults": 2})
    assert "error against truth: surface **0.42** mm · normals **6.1**°" in with_truth and "2 faults" in with_truth
    assert "0 late" not in with_truth
    assert status_markdown({}).startswith("**0.0** meshes/s")


def test_the_status_says_where_a_set_s_time_goes():
    stages = {
        "normals": {"per_second": 31.25, "ms": {"decode": 4.0, "cut": 0.31, "normals": 20.04}},
        "surface": {"per_second": 29.8, "ms": {"surface": 25.5, "warm": 24.0, "device_frame": 5.0}},
    }
    lines = status_markdown({**STATUS, "stages": stages}).split("\n\n")
    assert lines[1] == "decode 4.0 · cut 0.3 · normals 20.0 ms, 31.2 sets/s"
    assert lines[2] == "surface 25.5: warm 24.0 · device_frame 5.0 ms, 29.8 sets/s"
    none = {thread: {"per_second": 0.0, "ms": {}} for thread in stages}
    assert status_markdown({**STATUS, "stages": none}) == status_markdown(STATUS)  # nothing before the first mesh


def test_alarms_are_shown_with_how_long_they_last():
    assert alarms_markdown((), 0) == "no alarm"
    alarms = [
        {"key": "a", "text": "camera cam0 is frozen", "since_ns": 10**9},
        {"key": "b", "text": "x", "since_ns": 0},
    ]
    first, second = alarms_markdown(alarms, 301 * 10**9).split("\n\n")
    assert "x" in second
    assert "camera cam0 is frozen" in first and first.endswith("(5 min)")
    assert alarms_markdown(alarms, 31 * 10**9).split("\n\n")[0].endswith("(30 s)")


def test_the_panel_has_timecode_spread_and_each_nodes_clock():
    clock = {"offset_ms": -3.25, "sigma_us": 11.6, "drift_ppm": 41.26, "rtt_us": 90.0, "jumps": 0}
    text = time_markdown(
        {
            "timecode": "10:00:00:12",
            "spread": {"median": 0.21, "p99": 0.55, "last": 0.3},
            "clocks": {"pc1": clock, "pc2": None},
        }
    )
    assert "timecode **10:00:00:12**" in text and "median 0.21 ms · 99 % 0.55 · last 0.30" in text
    assert "| pc1 | -3.250 | 12 | +41.3 |" in text and "| pc2 | not known |" in text
    assert "timecode" not in time_markdown({}) and "spread" not in time_markdown({})


def test_every_camera_has_a_row_and_silence_is_marked():
    usual = STATUS["cameras"]["front"]
    table = cameras_markdown(
        {
            "front": usual,
            "left": {**usual, "age_s": 12.4},
            "back": {**usual, "fps": 0.0, "age_s": None},
            "top": {**usual, "refused": 7},
        }
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[2:] == [
        ["front", "29.9", "3", ""],
        ["left", "29.9", "3", "· silent for 12 s"],
        ["back", "0.0", "3", "· not seen yet"],
        ["top", "29.9", "3", "· 7 refused"],
    ]


def test_recording_is_told_by_the_take_and_trouble_is_shown():
    assert recording_markdown(None) == "not recording"
    assert recording_markdown("/data/takes/scene_004") == "● recording **scene_004**"
    assert "disk is full" in recording_markdown(None, "the disk is full")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 10, 24])
def test_the_mosaic_holds_every_camera_in_order(count):
    names = [f"c{i}" for i in range(count)]
    shades = {name: np.full((90, 120, 3), 60 + 5 * i, np.uint8) for i, name in enumerate(names)}
    sheet = mosaic(shades, names)
    centers = [
        sheet[y, x, 0] for y in range(TILE // 2, len(sheet), TILE) for x in range(TILE // 2, sheet.shape[1], TILE)
    ]
    shown = [shade for shade in centers if shade >= 60]
    assert shown == [60 + 5 * i for i in range(count)]


def test_a_missing_camera_is_an_empty_tile_with_its_name():
    sheet = mosaic({"front": np.full((64, 64, 3), 200, np.uint8)}, ["front", "left"])
    left = sheet[:, TILE + 6 :]
    assert sheet[TILE // 2, TILE // 2, 0] == 200
    assert left[TILE // 2, TILE // 2, 0] < 60 and left.max() > 200, "dark, with a bright name"
    assert mosaic({"front": np.zeros((1000, 10, 3), np.uint8)}, ["front"]).shape[2] == 3


def test_vertices_move_in_place_while_the_topology_stays(preview):
    preview.update_mesh(VERTICES, FACES)
    until(lambda: preview._mesh is not None, "the first mesh")
    first = preview._mesh
    preview.update_mesh(VERTICES + 0.01, FACES.copy())
    until(lambda: np.allclose(preview._mesh.vertices, VERTICES + 0.01), "the moved mesh")
    assert preview._mesh is first
    preview.update_mesh(VERTICES, FACES[:2])
    until(lambda: preview._mesh is not first, "the new topology")
    assert len(preview._mesh.faces) == 2 and np.allclose(preview._mesh.vertices, VERTICES)


def photos() -> list[Photo]:
    return [Photo(camera, np.full((480, 640, 3), (200, 120, 90), np.uint8)) for camera in make_calibration().cameras]


def test_in_colour_one_painted_head_stands_where_the_clay_one_stood(preview, monkeypatch):
    preview.update_mesh(VERTICES, FACES, photos())
    until(lambda: preview._mesh is not None, "the clay mesh")
    preview._in_colour.value = True
    preview.update_mesh(VERTICES + 0.3, FACES, photos())
    until(lambda: np.allclose(preview._mesh.vertices, VERTICES + 0.3), "the second mesh in clay")
    assert preview._painted is None and preview._mesh.visible, "nobody watches: nothing is painted"

    monkeypatch.setattr(preview._server, "get_clients", lambda: {0: None})
    names = []
    for n in range(3):
        before = preview._painted
        preview.update_mesh(VERTICES + n, FACES, photos())
        until(lambda before=before: preview._painted not in (None, before), "a painted mesh")
        names.append(preview._painted.name)
        until(lambda: preview._retired is None, "the painted mesh before it to go")
        assert before is None or before._impl.removed
    assert names[0] == names[2] != names[1] and not preview._mesh.visible
    painted = trimesh.load(BytesIO(preview._painted.glb_data), file_type="glb", process=False)
    np.testing.assert_allclose(painted.to_geometry().bounds, [[2, 2, 2], [2.1, 2.1, 2.1]], atol=1e-6)

    preview._in_colour.value = False
    preview.update_mesh(VERTICES + 0.5, FACES, photos())
    until(lambda: preview._painted is None, "the painted mesh to go")
    assert preview._mesh.visible and np.allclose(preview._mesh.vertices, VERTICES + 0.5)


def test_a_mesh_becomes_gltf_with_its_colours_and_normals():
    linear = np.array([[1, 0, 0], [0, 0.5, 0], [0.25, 0.25, 0.25], [0, 0, 2.0]])
    data = coloured_glb(VERTICES, FACES, linear)
    (mesh,) = trimesh.load(BytesIO(data), file_type="glb", process=False).geometry.values()
    assert np.array_equal(mesh.faces, FACES)
    np.testing.assert_allclose(mesh.vertices, VERTICES, atol=1e-7)
    length = int.from_bytes(data[12:16], "little")
    scene = json.loads(data[20 : 20 + length])
    binary = data[28 + length :]
    assert len(data) == int.from_bytes(data[8:12], "little") and len(binary) == scene["buffers"][0]["byteLength"]

    def array(name: str, kind: type, columns: int) -> np.ndarray:
        view = scene["bufferViews"][scene["meshes"][0]["primitives"][0]["attributes"][name]]
        return np.frombuffer(binary, kind, view["byteLength"] // np.dtype(kind).itemsize, view["byteOffset"]).reshape(
            -1, columns
        )

    np.testing.assert_allclose(array("COLOR_0", np.uint16, 4)[:, :3] / 65535, np.clip(linear, 0, 1), atol=1e-4)
    assert (array("COLOR_0", np.uint16, 4)[:, 3] == 65535).all()
    np.testing.assert_allclose(array("NORMAL", np.int8, 4)[:, :3] / 127, vertex_normals(VERTICES, FACES), atol=5e-3)
    many = np.zeros((70_000, 3))
    many[1:] = 1
    wide = coloured_glb(many, np.array([[0, 1, 69_999]]), many)
    assert json.loads(wide[20 : 20 + int.from_bytes(wide[12:16], "little")])["accessors"][3]["componentType"] == 5125


def test_status_and_thumbnails_arrive_in_the_panel(preview):
    preview.update_status(STATUS)
    preview.update_thumbnails({"left": np.full((120, 120, 3), 180, np.uint8)})
    until(lambda: "5.2" in preview._status.content, "the status")
    assert "29.9" in preview._cameras.content
    until(lambda: (preview._thumbnails.image > 170).mean() > 0.4, "the thumbnail")


def test_newest_wins_and_nobody_waits(preview):
    start = time.monotonic()
    for i in range(500):
        preview.update_mesh(VERTICES + i, FACES)
    assert time.monotonic() - start < 0.5
    until(lambda: preview.shown and preview.shown[-1] == 499, "the newest")
    assert len(preview.shown) < 50 and preview.shown == sorted(preview.shown)


def test_the_button_starts_and_stops_a_take(preview):
    event = SimpleNamespace(client=None)
    preview._slate.value = " scene_7 "
    assert preview._button.label == "Record"
    preview._pressed(event)
    assert preview.pressed == [(True, "scene_7")]
    until(lambda: preview._button.label == "Stop", "the button's new face")
    preview.update_status({**STATUS, "take": "/takes/scene_7_003"})
    until(lambda: preview._recording.content == "● recording **scene_7_003**", "the take's name")
    preview._pressed(event)
    assert preview.pressed[1][0] is False
    until(lambda: preview._button.label == "Record" and preview._recording.content == "not recording", "the end")
    assert not preview._button.disabled


def test_a_new_first_mesh_can_be_asked_for_but_not_while_a_take_is_recorded():
    event, asked = SimpleNamespace(client=None), []

    def anew() -> None:
        asked.append(True)
        if len(asked) == 2:
            raise HeadstreamError("scene_7_003 is being recorded")

    preview = Preview(make_rig(), make_calibration(), None, anew)
    try:
        assert not preview._anew.disabled
        preview._wants_anew(event)
        preview.update_status({**STATUS, "take": "/takes/scene_7_003"})
        until(lambda: preview._anew.disabled, "the button's rest")
        preview._wants_anew(event)  # pressed just before
        until(lambda: "scene_7_003 is being recorded" in preview._recording.content, "the reason")
        preview.update_status({**STATUS, "take": None})
        until(lambda: not preview._anew.disabled, "the end of it")
        assert len(asked) == 2
    finally:
        preview.close()
    nobody = Preview(make_rig(), make_calibration())
    assert nobody._anew.disabled
    nobody.close()


def test_a_take_that_cannot_begin_is_said_to_the_operator():
    def refuse(wanted: bool, slate: str) -> None:
        raise HeadstreamError("slate '': must be a name")

    preview = Preview(make_rig(), make_calibration(), refuse)
    try:
        preview._pressed(SimpleNamespace(client=None))
        until(lambda: "must be a name" in preview._recording.content, "the reason")
        assert preview._button.label == "Record" and not preview._button.disabled
    finally:
        preview.close()


def test_the_first_look_is_from_in_front_and_the_cameras_stand_where_they_are(preview):
    initial = preview._server.initial_camera
    np.testing.assert_allclose(initial.look_at, [0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(initial.position, [0, 0, 0.7], atol=1e-9)
    handles = preview._server.scene._handle_from_node_name
    frustum = handles["/cameras/left"]
    np.testing.assert_allclose(frustum.position, [0.5, 0, 0], atol=1e-9)
    forward = viser.transforms.SO3(frustum.wxyz).as_matrix()[:, 2]
    np.testing.assert_allclose(forward, [-1, 0, 0], atol=1e-6)
    assert frustum.aspect == pytest.approx(4 / 3) and frustum.fov == pytest.approx(2 * np.arctan(0.48))


def test_a_browser_that_does_not_read_costs_no_memory(preview):
    def resident() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6

    vertices = np.random.default_rng(0).random((50_000, 3), np.float32)  # 0.6 MB each
    faces = np.random.default_rng(1).integers(0, 50_000, (100, 3)).astype(np.int32)
    preview.update_mesh(vertices, faces)
    until(lambda: preview._mesh is not None, "the first mesh")
    address = f"ws://127.0.0.1:{preview.port}"
    with connect(address, subprotocols=[f"viser-v{viser.__version__}"], max_size=None, max_queue=1, close_timeout=0.1):
        before = resident()
        end = time.monotonic() + 10
        while len(preview.shown) < 30 and time.monotonic() < end:
            preview.update_mesh(vertices + len(preview.shown), faces)
            time.sleep(0.02)
        assert len(preview.shown) >= 30
        assert resident() - before < 12, "18 MB were sent; it does not keep what a client has not read"


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HeadstreamError, match=rf"http://127.0.0.1:{port}: .*Address already in use.*preview_port"):
            Preview(make_rig(port), make_calibration())


def test_nothing_is_written_on_the_standard_output(capfd):
    preview = Preview(make_rig(), make_calibration())
    preview.close()
    preview.close()
    assert capfd.readouterr().out == ""


def test_a_rig_whose_cameras_meet_nowhere_still_has_a_preview():
    one = make_calibration().cameras[0]
    Preview(make_rig(), Calibration((one,))).close()


@pytest.mark.slow
def test_a_browser_shows_the_head_the_cameras_and_the_rates(preview, root, shared_data, tmp_path):
    from geometry.mesh import read_ply

    spec = importlib.util.spec_from_file_location("screenshot", root / "tests" / "fusion_server" / "screenshot.py")
    screenshot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshot)
    if screenshot.chromium() is None:
        pytest.skip("Chromium is not installed")
    head = read_ply(shared_data / "nefertiti_soft" / "mesh" / "000.ply")
    preview.update_mesh(head.vertices, head.faces)
    preview.update_thumbnails({"front": np.full((128, 128, 3), (20, 200, 60), np.uint8)})
    preview.update_status(STATUS)

    def picture(browser) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(browser.picture(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)

    def skin(image: np.ndarray) -> np.ndarray:
        return (image[..., 0] > image[..., 2] + 12) & (image[..., 0] > 70)

    with screenshot.Browser() as browser:
        browser.open(preview.address)
        browser.wait_for_text("5.2 meshes/s")
        browser.wait_for_text("29.9")
        until(lambda: skin(picture(browser)).mean() > 0.05, "the head", timeout_s=60)
        image = picture(browser)
        head_rows, head_columns = np.nonzero(skin(image)[:, 320 : image.shape[1] * 2 // 3])  # right of viser's notice
        assert np.ptp(head_rows) > 1.3 * np.ptp(head_columns), "a head with a tall crown stands upright"
        green = (image[..., 1] > 150) & (image[..., 0] < 90) & (image[..., 2] < 110)
        assert green.sum() > 1000, "the front camera's thumbnail"
        browser.press("Record")
        until(lambda: preview.pressed == [(True, "take")], "the press")
        browser.wait_for_text("recording take")
