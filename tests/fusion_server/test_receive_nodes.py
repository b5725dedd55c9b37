"""The receiver and the synchroniser with real nodes that replay a capture: the whole way from JPEG on disk to sets."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_threads import Nodes

from fusion_server.decode import TurboDecoder
from fusion_server.receive import Receiver
from fusion_server.synchronize import FrameSet, Synchronizer
from fusion_server.takes import TakeReader, TakeWriter
from protocol.calibration import Calibration, Camera, load_calibration, save_calibration
from protocol.keys import make_pair
from protocol.rig import Rig, parse_rig

NAMES = ("cam0", "cam1", "cam2", "cam3")
FRAMES, FPS, SIZE = 6, 30.0, (64, 48)


def shade(camera: int, frame: int) -> int:
    return 20 + 40 * camera + 5 * frame


@pytest.fixture(params=["plain", "curve"])
def rig(tmp_path, request) -> Rig:
    """Four cameras at two nodes, playing a capture of flat pictures that tell camera and frame."""
    for frame in range(FRAMES):
        folder = tmp_path / "capture" / "frames" / f"{frame:03d}"
        folder.mkdir(parents=True)
        for k, name in enumerate(NAMES):
            cv2.imwrite(str(folder / f"{name}.jpg"), np.full((SIZE[1], SIZE[0], 3), shade(k, frame), np.uint8))
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    cameras = tuple(Camera(name, *SIZE, K, np.zeros(5), np.eye(3), np.zeros(3)) for name in NAMES)
    save_calibration(Calibration(cameras), tmp_path / "capture" / "cameras.json")
    table = [
        {"id": name, "node": f"pc{k // 2}", "driver": "replay", "options": {"capture": "capture"}}
        for k, name in enumerate(NAMES)
    ]
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    data = {"name": "test", "calibration": "capture/cameras.json", "fps": FPS, "camera": table}
    made = parse_rig({**data, "wire": {"security": request.param}}, "rig.toml", tmp_path)
    if request.param == "curve":
        for who in (None, *made.nodes):
            make_pair(made.wire.keys, who)
    return replace(
        made, server=replace(made.server, data_port=ports[0], control_port=ports[1], takes=tmp_path / "takes")
    )


class Server:
    """Receiver, synchroniser and take, as the pipeline joins them."""

    def __init__(self, rig: Rig, calibration: Calibration):
        self.sets: list[FrameSet] = []
        self.take: TakeWriter | None = None
        self.sync = Synchronizer(NAMES, "trigger", 8_000_000, 500_000_000)
        self.receiver = Receiver(rig, calibration, self._frame, self._tick)
        self.receiver.start()

    def _frame(self, frame) -> None:
        if self.take is not None:
            self.take.frame(frame)
        self.sets += self.sync.add(frame, time.monotonic_ns())

    def _tick(self) -> None:
        self.sets += self.sync.poll(time.monotonic_ns())


def until(condition, what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)


@pytest.fixture
def nodes(rig):
    made = Nodes(rig)
    yield made
    for name in list(made.running):
        made.stop(name)


def complete(sets: list[FrameSet]) -> list[FrameSet]:
    return [s for s in sets if not s.missing]


def test_sets_of_real_nodes_are_the_captures_frames_and_a_restart_is_survived(rig, nodes):
    calibration = load_calibration(rig.calibration)
    nodes.start("pc0")  # before the server
    server = Server(rig, calibration)
    try:
        nodes.start("pc1")
        until(lambda: len(complete(server.sets)) >= 10, "ten complete sets")
        decoder = TurboDecoder(1)
        for each in complete(server.sets)[:10]:
            images, faults = decoder.decode({name: frame.jpeg for name, frame in each.frames.items()}, calibration)
            assert faults == {}
            for k, name in enumerate(NAMES):
                assert abs(int(images[name].mean()) - shade(k, each.index % FRAMES)) <= 1
        assert [s.index for s in server.sets] == sorted(s.index for s in server.sets)

        nodes.stop("pc1")
        before = server.sets[-1].index
        nodes.start("pc1")
        until(lambda: sum(s.index > before + 5 for s in complete(server.sets)) >= 5, "complete sets after the restart")

        until(lambda: all(node["connected"] for node in server.receiver.nodes().values()), "both nodes")
        cameras = server.receiver.statistics()
        assert all(camera["offset_sigma_ns"] < 50_000_000 for camera in cameras.values()), "one machine, one clock"
        assert server.receiver.refused() == {}
    finally:
        server.receiver.stop()


def test_a_take_of_real_nodes_holds_what_was_received(rig, nodes):
    calibration = load_calibration(rig.calibration)
    server = Server(rig, calibration)
    try:
        for name in ("pc0", "pc1"):
            nodes.start(name)
        until(lambda: complete(server.sets), "the first complete set")
        take = TakeWriter(rig.server.takes, "live", rig, calibration)
        server.take = take
        server.receiver.record(True, take.path.name)
        until(lambda: {n["take"] for n in server.receiver.nodes().values()} == {"live_001"}, "both nodes to know")
        until(lambda: len(TakeReader(take.path).frame_counts) == 4, "frames of all cameras")
        until(lambda: min(TakeReader(take.path).frame_counts.values()) >= 5, "five frames each")
        server.receiver.record(False)
        until(lambda: {n["take"] for n in server.receiver.nodes().values()} == {""}, "both nodes to have stopped")
        server.take = None
        take.close()
    finally:
        server.receiver.stop()
    read = TakeReader(take.path)
    assert read.finished and not read.damaged
    source = {(k, f): Path(rig.root / "capture" / "frames" / f"{f:03d}" / f"{NAMES[k]}.jpg").read_bytes()
              for k in range(4) for f in range(FRAMES)}  # fmt: skip
    for frame in read.frames():
        key = NAMES.index(frame.header.camera), frame.header.trigger % FRAMES
        assert bytes(frame.jpeg) == source[key], "the JPEG went through unchanged"
