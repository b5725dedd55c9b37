"""Takes that end whole: real nodes, their spools, the receiver and backfill, over loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_threads import Nodes

import capture_nodes.link
import fusion_server.takes.backfiller as backfiller
from fusion_server.receive import Receiver
from fusion_server.takes import TakeReader, TakeWriter
from fusion_server.takes.backfiller import Backfiller
from fusion_server.takes.layout import TakeError
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
    options = {"capture": "capture", "buffers": 1000}  # on a busy machine too, cameras take every picture
    table = [{"id": name, "node": f"pc{k}", "driver": "replay", "options": options} for k, name in enumerate(NAMES)]
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


class NodeProcess:
    """A node as the operating system sees it: something that can be killed."""

    def __init__(self, rig: Rig, name: str):
        self.rig, self.name = rig, name
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        root = Path(__file__).parents[2]
        return subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "node", str(self.rig.root / "rig.toml"), "--name", self.name],
            env={**os.environ, "PYTHONPATH": str(root)},
            cwd=root,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def again(self) -> None:
        self.process = self._start()


@pytest.fixture
def node_process(rig):
    made: list[NodeProcess] = []

    def make(name: str) -> NodeProcess:
        made.append(NodeProcess(rig, name))
        return made[-1]

    yield make
    for node in made:
        node.kill()


def test_a_node_killed_in_a_take_takes_its_place_again_and_what_it_missed_is_listed(rig, nodes, serve, node_process):
    server = serve(drop=5)
    nodes.start("pc0")
    victim = node_process("pc1")
    until(server.connected, "both nodes")
    take = server.record()
    before = server.counts["cam1"]
    until(lambda: server.counts["cam1"] >= before + 30, "frames before the kill")
    victim.kill()
    victim.again()
    before = server.counts["cam1"]
    until(lambda: server.counts["cam1"] >= before + 30, "frames after the restart")
    until(lambda: server.told(take.name), "the node to know of the take")
    server.end()
    info = server.settled()
    read = TakeReader(take)
    triggers = {name: [f.header.trigger for f in read.frames(name)] for name in NAMES}
    assert triggers["cam0"] == list(range(triggers["cam0"][0], triggers["cam0"][-1] + 1))
    assert {gap["camera"] for gap in info["missing"]} == {"cam1"} and not info["complete"] and info["settled"]
    listed = [t for gap in info["missing"] for t in range(gap["triggers"][0], gap["triggers"][1] + 1)]
    assert len(listed) == info["missing_frames"]
    there = triggers["cam1"]
    assert len(there) == len(set(there)) and not set(listed) & set(there)
    assert sorted([*there, *listed]) == list(range(there[0], there[-1] + 1)), "each trigger is there or listed"
    assert any(gap["reason"] == "the node was down: killed or restarted" for gap in info["missing"])


SERVER = """
import sys, time
sys.path.insert(0, {tests!r})
import test_backfill_nodes as t
from protocol.rig import load_rig
server = t.Server(load_rig({rig!r}), drop=4)
t.until(server.connected, "both nodes")
print(server.record().name, flush=True)
time.sleep(60)
"""


def test_a_server_killed_in_a_take_finds_it_again_and_completes_it_up_to_its_death(rig, nodes, serve):
    nodes.start("pc0", "pc1")
    code = SERVER.format(tests=str(Path(__file__).parent), rig=str(rig.root / "rig.toml"))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env, text=True)
    try:
        take = rig.server.takes / first.stdout.readline().strip()
        until(lambda: min(TakeReader(take).frame_counts.values()) >= 8, "frames of both cameras")
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    time.sleep(0.3)  # the nodes go on
    server = serve()
    info = server.settled()
    assert info["cut"] and not info["finished"] and info["complete"]
    triggers = whole(take, info)
    assert min(map(len, triggers.values())) >= 25  # of eight that were kept, every fourth
    assert server.told(""), "the nodes were told that it is over"
    assert not TakeReader(take).finished


def test_interrupted_backfill_goes_on_where_it_was(rig, nodes, serve, monkeypatch):
    nodes.start("pc0", "pc1")
    server = serve(drop=10)
    until(server.connected, "both nodes")
    take = server.record()
    time.sleep(2.0)
    real, sent = backfiller.BackfillFile.append, []

    def append(self, frame):
        if len(sent) >= 20:
            raise TakeError("the disk is full")
        sent.append((frame.header.camera, frame.header.sequence))
        real(self, frame)

    monkeypatch.setattr(backfiller.BackfillFile, "append", append)
    server.end()
    until(lambda: server.backfill.status()["fault"] == "the disk is full", "the fault in the status")
    server.close()
    with (take / "backfill.mcap").open("ab") as file:
        file.write(b"\x05" + (10_000).to_bytes(8, "little") + b"half a record")
    assert TakeReader(take).backfilled == 20 and json.loads((take / "take.json").read_text())["complete"] is False
    later: list = []
    monkeypatch.setattr(backfiller.BackfillFile, "append", lambda self, frame: (later.append(frame), real(self, frame)))
    second = serve()
    info = second.settled()
    assert info["complete"]
    whole(take, info)
    assert not {(f.header.camera, f.header.sequence) for f in later} & set(sent), "nothing is fetched twice"
    assert TakeReader(take).backfilled == 20 + len(later)


def test_a_node_that_never_comes_back_is_the_reason_and_its_return_completes_the_take(rig, nodes, serve):
    server = serve(drop=3)
    nodes.start("pc0", "pc1")
    until(server.connected, "both nodes")
    take = server.record()
    time.sleep(0.7)
    nodes.stop("pc1")
    until(lambda: not server.connected(), "the node to be gone")
    server.end()
    until(lambda: json.loads((take / "take.json").read_text()).get("missing"), "the list of what is missing")
    info = json.loads((take / "take.json").read_text())
    assert not info["settled"] and {gap["camera"] for gap in info["missing"]} == {"cam1"}
    assert {gap["reason"] for gap in info["missing"]} == {"node pc1 has not come back"}
    until(lambda: server.backfill.status()["queued"] == 1, "the take to wait")
    nodes.start("pc1")
    info = server.settled()
    assert info["settled"]
    there = sorted(f.header.trigger for f in TakeReader(take).frames("cam1"))
    assert there == list(range(there[0], there[-1] + 1)), "all that it had captured is here"
    assert {gap["reason"].split(":")[0] for gap in info["missing"]} <= {"never captured", "the node was down"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_costs_what_was_not_on_it_and_nothing_else(rig, nodes, serve, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        limited = replace(rig, spool=replace(rig.spool, folder=small / "spool"))
        server = serve(drop=4)
        Nodes.__init__(nodes, limited)
        nodes.start("pc0", "pc1")
        until(server.connected, "both nodes")
        take = server.record()
        until(
            lambda: any("disk was full" in n["spool"]["fault"] for n in server.receiver.nodes().values()), "a full disk"
        )
        received = Counter(server.counts)
        time.sleep(0.5)
        assert all(server.counts[name] > received[name] + 5 for name in NAMES), "the live stream does not mind"
        server.end()
        info = server.settled()
        for name in list(nodes.running):
            nodes.stop(name)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert not info["complete"] and info["settled"]
    assert all("the node's disk was full at " in gap["reason"] for gap in info["missing"])
    read = TakeReader(take)
    for name in NAMES:
        there = [f.header.trigger for f in read.frames(name)]
        listed = [
            t
            for gap in info["missing"]
            if gap["camera"] == name
            for t in range(gap["triggers"][0], gap["triggers"][1] + 1)
        ]
        assert sorted([*there, *listed]) == list(range(min(there + listed), max(there + listed) + 1))


def test_without_spool_the_take_says_so(rig, nodes, serve):
    limited = replace(rig, spool=replace(rig.spool, enabled=False))
    server = serve(drop=3)
    Nodes.__init__(nodes, limited)
    nodes.start("pc0", "pc1")
    until(server.connected, "both nodes")
    server.record()
    time.sleep(0.5)
    server.end()
    info = server.settled()
    assert info["settled"] and not info["complete"]
    assert "not in the node's spool" in {gap["reason"] for gap in info["missing"]}
    assert not rig.spool.folder.exists()


def test_nothing_is_asked_while_a_take_is_recorded(rig, nodes, serve):
    server = serve(drop=3)
    nodes.start("pc0", "pc1")
    until(server.connected, "both nodes")
    first = server.record()
    time.sleep(0.3)
    take, server.take = server.take, None
    take.close(time.time_ns())
    second = server.record()
    server.backfill.add(first)
    time.sleep(0.5)
    assert server.backfill.status()["queued"] == 1 and server.backfill.status()["take"] is None
    server.end()
    server.settled(2)
    for path in (first, second):
        info = json.loads((path / "take.json").read_text())
        assert info["complete"]
        whole(path, info)
