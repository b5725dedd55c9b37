"""Takes: what went in comes out, from a finished file, from one cut anywhere, from one whose writer was killed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader

from fusion_server.takes import TakeReader, TakeWriter
from fusion_server.takes.layout import MCAP_NAME, TakeError
from fusion_server.takes.reader import _mesh
from protocol.calibration import Calibration, Camera
from protocol.messages import Frame, FrameHeader
from protocol.rig import Rig, parse_rig

FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
UV = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], np.float32)
QUALITY = {"silhouette_iou": 0.98, "flags": ("uncertain",), "inverted": np.int64(0)}


def make_rig() -> Rig:
    cameras = [{"id": f"cam{i}", "node": "pc1", "driver": "replay"} for i in range(2)]
    return parse_rig({"name": "test rig", "calibration": "cameras.json", "fps": 25.0, "camera": cameras})


def make_calibration() -> Calibration:
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    return Calibration(tuple(Camera(f"cam{i}", 64, 48, K, np.zeros(5), np.eye(3), np.zeros(3)) for i in range(2)))


def frame(camera: str, i: int, size: int = 500) -> Frame:
    header = FrameHeader(camera, "pc1", i, 1000 + i, i, 10**18 + i * 40_000_000, -5, 7, 64, 48)
    return Frame(header, memoryview(bytes([i % 251]) * size))


def vertices(i: int) -> np.ndarray:
    return np.arange(12.0).reshape(4, 3) + i / 8


def write(root: Path, count: int = 6, close: bool = True, **kwargs) -> TakeWriter:
    take = TakeWriter(root, "scene", make_rig(), make_calibration(), **kwargs)
    for i in range(count):
        for camera in ("cam0", "cam1"):
            take.frame(frame(camera, i))
        faces = FACES if i < 4 else FACES[:, ::-1]
        number = take.topology(faces.copy(), UV if i < 4 else None)
        take.mesh(
            1000 + i, 10**18 + i, vertices(i), number,
            kind="warm", quality=QUALITY, timing={"decode": 0.01}, missing=("cam1",), spread_ns=3,
        )  # fmt: skip
    take.fault("one line")
    take.statistics({"sync": {"late": np.int64(3)}})
    if close:
        take.close()
    return take


def test_what_went_in_comes_out(tmp_path):
    written = write(tmp_path / "takes")
    assert written.path == tmp_path / "takes" / "scene_001"
    take = TakeReader(written.path)
    assert take.finished and take.cut_bytes == 0
    assert take.calibration.to_dict() == make_calibration().to_dict()
    frames = list(take.frames())
    assert [f.header for f in frames] == [frame(c, i).header for i in range(6) for c in ("cam0", "cam1")]
    assert all(bytes(f.jpeg) == bytes(frame("cam0", i // 2).jpeg) for i, f in enumerate(frames))
    assert [f.header.sequence for f in take.frames("cam1")] == list(range(6))
    assert take.frame_counts == {"cam0": 6, "cam1": 6} and take.mesh_count == 6
    meshes = list(take.meshes())
    for i, mesh in enumerate(meshes):
        assert (mesh.index, mesh.capture_ns, mesh.kind, mesh.spread_ns) == (1000 + i, 10**18 + i, "warm", 3)
        assert mesh.vertices.dtype == np.float32 and np.array_equal(mesh.vertices, vertices(i).astype(np.float32))
        assert mesh.missing == ("cam1",) and mesh.timing == {"decode": 0.01}
        assert mesh.quality == {"silhouette_iou": 0.98, "flags": ["uncertain"], "inverted": 0}
    assert [mesh.topology for mesh in meshes] == [0, 0, 0, 0, 1, 1]
    assert np.array_equal(take.topologies[0].faces, FACES) and np.array_equal(take.topologies[0].uv, UV)
    assert np.array_equal(take.topologies[1].faces, FACES[:, ::-1]) and take.topologies[1].uv is None
    assert take.faults == ["one line"] and take.statistics == [{"sync": {"late": 3}}]


def test_take_json_tells_what_the_take_is(tmp_path):
    written = write(tmp_path)
    info = json.loads((written.path / "take.json").read_text())
    assert (info["slate"], info["take"], info["fps"], info["rig"]) == ("scene", 1, 25.0, "test rig")
    assert info["finished"] and info["lost"] == {} and info["failure"] == ""
    assert info["written"]["/camera/cam0"] == 6 and info["written"]["/mesh"] == 6
    (written.path / "take.json").unlink()  # the file alone says the essentials
    alone = TakeReader(written.path / MCAP_NAME)
    assert (alone.info["slate"], alone.fps) == ("scene", 25.0)


def test_timecode_stands_with_the_take_and_each_mesh_and_older_takes_have_none(tmp_path):
    rig = parse_rig(
        {
            "name": "r",
            "calibration": "c.json",
            "fps": 29.97,
            "sync": {"timecode": "utc"},
            "camera": [{"id": "cam0", "node": "pc", "driver": "replay"}],
        }
    )
    writer = TakeWriter(tmp_path, "tc", rig, make_calibration())
    number = writer.topology(FACES)
    writer.mesh(1, 5, vertices(0), number, kind="warm", quality={}, timing={}, timecode="10:00:00;02")
    info = writer.close()
    assert re.fullmatch(r"\d\d:\d\d:\d\d;\d\d", info["timecode"])
    assert json.loads((writer.path / "take.json").read_text())["timecode"] == info["timecode"]
    assert [mesh.timecode for mesh in TakeReader(writer.path).meshes()] == ["10:00:00;02"]
    fields = {"index": 1, "capture_ns": 2, "topology": 0, "vertices": b"", "kind": "warm", "quality": {}, "timing": {}}
    old = msgpack.packb({**fields, "missing": [], "spread_ns": 3})  # as it was written before there was timecode
    assert _mesh(old).timecode == "" and _mesh(old).spread_ns == 3
    assert "timecode" not in json.loads((write(tmp_path).path / "take.json").read_text())


def test_other_programs_can_read_the_file(tmp_path):
    path = write(tmp_path).path / MCAP_NAME
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        topics = [channel.topic for _, channel, _ in reader.iter_messages()]
        schemas = {schema.name: schema.data.decode() for schema in reader.get_summary().schemas.values()}
        attachments = [attachment.name for attachment in reader.iter_attachments()]
    assert topics.count("/mesh") == 6 and topics.count("/camera/cam0") == 6
    assert attachments == ["cameras.json"]
    assert "float32 little-endian" in schemas["headstream.Mesh"] and "JPEG" in schemas["headstream.Frame"]


def test_every_take_has_a_folder_of_its_own(tmp_path):
    paths = [write(tmp_path, count=1).path.name for _ in range(3)]
    assert paths == ["scene_001", "scene_002", "scene_003"]
    assert write(tmp_path, count=1, take=2).path.name == "scene_004"
    assert TakeReader(tmp_path / "scene_004").info["take"] == 4


def test_a_file_cut_at_any_byte_gives_every_whole_record(tmp_path):
    path = write(tmp_path, count=3).path / MCAP_NAME
    whole = path.read_bytes()
    ends = []  # where each message ends, by the MCAP library's own reader
    stream = io.BytesIO(whole)
    for record in StreamReader(stream, validate_crcs=True).records:
        if type(record).__name__ == "Message":
            ends.append(stream.tell())
    folder = tmp_path / "cut"
    folder.mkdir()
    for cut in [*range(0, 400), *range(400, len(whole), 101), *ends, *(end - 1 for end in ends), len(whole) - 1]:
        (folder / MCAP_NAME).write_bytes(whole[:cut])
        take = TakeReader(folder)
        found = sum(take.frame_counts.values()) + take.mesh_count + len(take.topologies)
        found += len(take.faults) + len(take.statistics)
        assert found == sum(end <= cut for end in ends), f"cut at {cut}"
        assert not take.finished
        assert len(list(take.frames())) == sum(take.frame_counts.values())
        assert len(list(take.meshes())) == take.mesh_count
        if found:
            assert take.calibration.names == ("cam0", "cam1") and take.fps == 25.0
    (folder / MCAP_NAME).write_bytes(whole)
    assert TakeReader(folder).finished


def test_what_follows_the_last_whole_record_is_left_out_whatever_it_is(tmp_path):
    path = write(tmp_path, close=False).path / MCAP_NAME
    deadline = time.monotonic() + 5
    while len(TakeReader(path).statistics) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    whole = path.read_bytes()
    for tail in (
        bytes(1000),
        b"\xff" * 1000,
        b"\x05" + b"\xff" * 8 + bytes(50),
        b"\x05" + (40).to_bytes(8, "little") + b"\xee" * 40,
    ):
        path.write_bytes(whole + tail)
        take = TakeReader(path)
        assert take.mesh_count == 6 and take.cut_bytes == len(tail) and take.faults == ["one line"]


def test_a_take_can_be_read_while_it_is_written(tmp_path):
    writer = write(tmp_path, close=False)
    deadline = time.monotonic() + 5
    while TakeReader(writer.path).mesh_count < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not TakeReader(writer.path).finished
    assert TakeReader(writer.path).info["finished"] is False
    writer.close()
    assert TakeReader(writer.path).finished


KILLED = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_takes as t
from fusion_server.takes import TakeWriter
take = TakeWriter(Path({root!r}), "killed", t.make_rig(), t.make_calibration())
number = take.topology(t.FACES, t.UV)
real = take._write
def write(topic, at, data):
    real(topic, at, data)
    if topic == "/mesh":
        sys.stdout.write("%d\\n" % take._written["/mesh"])
        sys.stdout.flush()
take._write = write
for i in itertools.count():
    take.frame(t.frame("cam0", i, 200_000))
    take.mesh(i, i, t.vertices(i), number, kind="warm", quality={{}}, timing={{}})
    while take._waiting > 10_000_000:
        pass
"""


def test_a_killed_writer_loses_nothing_that_it_had_written(tmp_path, root):
    code = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    env = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env, text=True)
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 200:
            os.kill(process.pid, signal.SIGKILL)
            break
    acknowledged = max([acknowledged, *(int(line) for line in process.stdout.read().split())])
    assert process.wait() == -signal.SIGKILL
    take = TakeReader(tmp_path / "killed_001")
    assert not take.finished
    assert acknowledged <= take.mesh_count <= acknowledged + 1
    assert [mesh.index for mesh in take.meshes()] == list(range(take.mesh_count))
    assert len(list(take.frames())) == take.frame_counts["cam0"] in (take.mesh_count, take.mesh_count + 1)
    assert not take.damaged


def stalled(monkeypatch) -> threading.Event:
    """A disk that takes nothing until the event is set."""
    go = threading.Event()
    real = os.write

    def write(file, data):
        if threading.current_thread().name.startswith("take "):
            go.wait(10)
        return real(file, data)

    monkeypatch.setattr("fusion_server.takes.writer.os.write", write)
    return go


def test_a_slow_disk_loses_frames_and_says_so(tmp_path, monkeypatch):
    go = stalled(monkeypatch)
    take = TakeWriter(
        tmp_path, "slow", make_rig(), make_calibration(), queue_bytes=42_700
    )  # four frames and a topology
    number = take.topology(FACES, UV)
    assert take.trouble == ""
    for i in range(20):
        take.frame(frame("cam0", i, 10_000))
    assert re.fullmatch(r"take slow_001 lacks 1[567] records, as the server's disk is too slow", take.trouble)
    assert 42_000 < take._waiting <= 42_700
    assert take.topology(FACES[:1]) == number + 1  # small and needed: never dropped
    go.set()
    info = take.close()
    kept = info["written"]["/camera/cam0"]
    assert 3 <= kept <= 5 and info["lost"] == {"/camera/cam0": 20 - kept}
    read = TakeReader(take.path)
    assert read.faults == [f"the disk is too slow: not recorded: {20 - kept} of /camera/cam0"]
    assert len(read.topologies) == 2 and read.frame_counts["cam0"] == kept


def test_a_full_disk_ends_the_take_and_not_the_server(tmp_path, monkeypatch, caplog):
    real, budget = os.write, [9_000]

    def write(file, data):
        if threading.current_thread().name.startswith("take "):
            budget[0] -= len(data)
            if budget[0] < 0:
                real(file, data[: len(data) // 2])
                raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr("fusion_server.takes.writer.os.write", write)
    take = TakeWriter(tmp_path, "full", make_rig(), make_calibration())
    for i in range(50):
        take.frame(frame("cam0", i, 1000))
    deadline = time.monotonic() + 5
    while not take.failure and time.monotonic() < deadline:
        time.sleep(0.005)
    assert "No space left on device" in take.failure and str(take.path) in take.failure
    assert take.trouble.startswith("take full_001 is not recorded any more: ") and "No space left" in take.trouble
    take.frame(frame("cam0", 50))
    info = take.close()
    assert info["failure"] == take.failure and not info["finished"]
    assert info["written"]["/camera/cam0"] + info["lost"]["/camera/cam0"] == 51
    read = TakeReader(take.path)
    assert read.frame_counts["cam0"] == info["written"]["/camera/cam0"] and read.cut_bytes > 0


def test_a_damaged_picture_is_left_out_and_counted(tmp_path):
    path = write(tmp_path).path / MCAP_NAME
    data = bytearray(path.read_bytes())
    at = data.index(bytes([3]) * 500)
    data[at + 100] ^= 0xFF
    path.write_bytes(data)
    take = TakeReader(path)
    assert [f.header.sequence for f in take.frames("cam0")] == [0, 1, 2, 4, 5]
    assert take.damaged == {"crc": 1}


@dataclass
class Quality:
    confidence: float = 0.5
    flags: tuple = field(default=("lost",))


def test_a_result_of_the_pipeline_is_kept_whole(tmp_path):
    take = TakeWriter(tmp_path, "scene", make_rig(), make_calibration())
    for i, kind in enumerate(("keyframe", "warm")):
        surface = SimpleNamespace(
            vertices=vertices(i), faces=FACES, uv=None, kind=kind, quality=Quality(), seconds={"solve": 0.1}
        )
        observation = SimpleNamespace(seconds={"decode": 0.2})
        take.result(
            SimpleNamespace(
                index=i,
                capture_ns=i,
                spread_ns=0,
                missing=(),
                surface=surface,
                observation=observation,
                latency_s=0.4,
                timecode="x",
            )
        )
    take.close()
    first, second = TakeReader(take.path).meshes()
    assert (first.kind, second.kind, second.topology) == ("keyframe", "warm", 0)
    assert second.timing == {"decode": 0.2, "solve": 0.1, "latency": 0.4}
    assert second.quality == {"confidence": 0.5, "flags": ["lost"]}


@pytest.mark.parametrize("slate", ["", "a/b", "../up", ".hidden", "x" * 65, "two words"])
def test_a_slate_that_cannot_name_a_folder_is_refused(tmp_path, slate):
    with pytest.raises(TakeError, match="slate"):
        TakeWriter(tmp_path, slate, make_rig(), make_calibration())


def test_a_place_that_takes_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TakeError, match=r"file: is a file"):
        TakeWriter(tmp_path / "file", "scene", make_rig(), make_calibration())


def test_what_is_no_take_is_refused_in_one_line(tmp_path):
    with pytest.raises(TakeError, match=r"no take; a take is a folder with take\.mcap"):
        TakeReader(tmp_path)
    (tmp_path / MCAP_NAME).write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(TakeError, match="not an MCAP file"):
        TakeReader(tmp_path)
    (tmp_path / MCAP_NAME).write_bytes(b"")
    with pytest.raises(TakeError, match="nothing was recorded"):
        _ = TakeReader(tmp_path).calibration


def test_closing_twice_and_writing_afterwards_do_no_harm(tmp_path):
    take = write(tmp_path)
    take.frame(frame("cam0", 99))
    assert take.close() == take.close()
    assert TakeReader(take.path).frame_counts["cam0"] == 6


def test_a_disk_that_is_full_still_takes_the_end_of_the_take(tmp_path):
    """What is missing is looked for between the take's start and end, so both must be known."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]).returncode:
        pytest.skip("needs root and a tmpfs")
    try:
        take = TakeWriter(small, "full", make_rig(), make_calibration())
        for i in range(40):
            take.frame(frame("cam0", i, size=50_000))
        take.close(ended_ns=10**18)
        assert "No space left" in take.failure
        info = json.loads((take.path / "take.json").read_text(encoding="utf-8"))
        assert info["ended_ns"] == 10**18 and not info["finished"] and info["lost"]["/camera/cam0"] > 0
        assert sorted(path.name for path in take.path.iterdir()) == ["take.json", "take.mcap"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
