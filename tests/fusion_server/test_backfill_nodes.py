"""Takes that end whole: real nodes, their spools, the receiver and backfill, over loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import capture_nodes.link
import fusion_server.takes.backfiller as backfiller
from capture_nodes.node import Node
from fusion_server.receive import Receiver
from fusion_server.takes import TakeReader, TakeWriter
from fusion_server.takes.backfiller import Backfiller
from protocol.calibration import Calibration, Camera, load_calibration, save_calibration
from protocol.rig import Rig, load_rig, parse_rig, save_rig

NAMES = ("cam0", "cam1")
FRAMES, FPS, SIZE = 6, 30.0, (64, 48)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(capture_nodes.link, "_REPORT_S", 0.1)
    monkeypatch.setattr(backfiller, "_GATHER_S", 0.5)


@pytest.fixture
def rig(tmp_path) -> Rig:
    """Two cameras at two nodes, playing a capture whose pictures differ."""
    noise = np.random.default_rng(1)
    for frame in range(FRAMES):
        folder = tmp_path / "capture" / "frames" / f"{frame:03d}"
        folder.mkdir(parents=True)
        for name in NAMES:
            cv2.imwrite(str(folder / f"{name}.jpg"), noise.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    cameras = tuple(Camera(name, *SIZE, K, np.zeros(5), np.eye(3), np.zeros(3)) for name in NAMES)
    save_calibration(Calibration(cameras), tmp_path / "capture" / "cameras.json")
    table = [
        {"id": name, "node": f"pc{k}", "driver": "replay", "options": {"capture": "capture"}}
        for k, name in enumerate(NAMES)
    ]
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    data = {
        "name": "test",
        "calibration": "capture/cameras.json",
        "fps": FPS,
        "camera": table,
        "server": {"data_port": ports[0], "control_port": ports[1]},
        "spool": {"min_free_gb": 0},
    }
    made = parse_rig(data, "rig.toml", tmp_path)
    save_rig(made, tmp_path / "rig.toml")
    return load_rig(tmp_path / "rig.toml")


class Server:
    """Receiver, take and backfill as the server joins them, without the rest of it."""

    def __init__(self, rig: Rig, *, drop: int = 0):
        """drop: of each camera only every so manieth picture reaches the take; 0: all do."""
        self.rig, self.drop = rig, drop
        self.calibration = load_calibration(rig.calibration)
        self.take: TakeWriter | None = None
        self.done: list[dict] = []
        self.counts: Counter[str] = Counter()
        self.receiver = Receiver(rig, self.calibration, self._frame)
        self.backfill = Backfiller(
            rig,
            self.receiver,
            lambda: self.take.path if self.take else None,
            on_done=lambda path, info: self.done.append(info),
        )
        self.receiver.start()
        self.backfill.start()

    def _frame(self, frame) -> None:
        self.counts[frame.header.camera] += 1
        if self.take is not None and (not self.drop or self.counts[frame.header.camera] % self.drop == 0):
            self.take.frame(frame)

    def connected(self) -> bool:
        return all(node["connected"] for node in self.receiver.nodes().values())

    def record(self, slate: str = "live") -> Path:
        self.take = TakeWriter(self.rig.server.takes, slate, self.rig, self.calibration)
        self.receiver.record(True, self.take.path.name, self.take.started_ns)
        until(lambda: self.told(self.take.path.name), "nodes to know of the take")
        return self.take.path

    def told(self, take: str) -> bool:
        return all(node["take"] == take for node in self.receiver.nodes().values() if node["connected"])

    def end(self) -> None:
        take, ended = self.take, time.time_ns()
        self.receiver.record(False, at_ns=ended)
        self.take = None
        take.close(ended)
        self.backfill.add(take.path)

    def settled(self, count: int = 1) -> dict:
        until(lambda: len(self.done) >= count, "the take to be settled", 20)
        return self.done[-1]

    def close(self) -> None:
        self.backfill.stop()
        self.receiver.stop()
        if self.take is not None:
            self.take.close()


def until(condition, what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)


class Nodes:
    """Nodes on threads of their own."""

    def __init__(self, rig: Rig):
        self.rig, self.running = rig, {}

    def start(self, *names: str) -> None:
        for name in names:
            stop = threading.Event()
            thread = threading.Thread(target=Node(self.rig, name).run, args=(stop,))
            thread.start()
            self.running[name] = (stop, thread)

    def stop(self, name: str) -> None:
        stop, thread = self.running.pop(name)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def nodes(rig):
    made = Nodes(rig)
    yield made
    for name in list(made.running):
        made.stop(name)


@pytest.fixture
def serve(rig):
    made: list[Server] = []

    def make(rig: Rig = rig, **kwargs) -> Server:
        made.append(Server(rig, **kwargs))
        return made[-1]

    yield make
    for server in made:
        server.close()


def whole(take: Path, info: dict) -> dict[str, list]:
    """The take's triggers by camera, after checking that within the take each is there, once and intact."""
    read = TakeReader(take)
    triggers: dict[str, list] = {}
    for frame in read.frames():
        source = take.parent.parent / "capture" / "frames" / f"{frame.header.trigger % FRAMES:03d}"
        assert bytes(frame.jpeg) == (source / f"{frame.header.camera}.jpg").read_bytes()
        triggers.setdefault(frame.header.camera, []).append(frame.header.trigger)
    for found in triggers.values():
        assert found == list(range(found[0], found[-1] + 1))
        first, last = (info[key] * FPS / 1e9 for key in ("started_ns", "ended_ns"))
        assert found[0] <= first + 1 and found[-1] >= last - 1
    assert not read.damaged
    return triggers


def test_a_take_of_which_most_was_dropped_ends_whole_and_the_spool_is_emptied(rig, nodes, serve):
    server = serve(drop=7)
    nodes.start("pc0", "pc1")
    until(server.connected, "both nodes")
    take = server.record()
    time.sleep(1.0)
    server.end()
    info = server.settled()
    assert info["complete"] and info["settled"] and info["missing"] == []
    triggers = whole(take, info)
    assert set(triggers) == set(NAMES) and min(map(len, triggers.values())) >= 28
    assert TakeReader(take).backfilled > 40
    assert json.loads((take / "take.json").read_text())["frames"] == {n: len(t) for n, t in triggers.items()}
    until(lambda: not (rig.spool.folder / take.name).exists(), "the nodes to delete what the server has")
    assert server.receiver.refused() == {}
