"""The recorder by itself: takes without meshes, and what its operator is told."""

from __future__ import annotations

import json
import socket
import time

import pytest

from fusion_server.recorder import Recorder, _spool_faults
from fusion_server.watch import Watch
from protocol.errors import HeadstreamError
from protocol.messages import Frame, FrameHeader, SpoolReport
from protocol.rig import load_rig


def node(fault: str = "") -> dict:
    return {"spool": {"fault": fault}}


def test_nodes_whose_disks_fail_raise_one_alarm():
    full = "pictures of take a_001 are not kept: disk full"
    nodes = {"pc1": node(full), "pc2": node(), "pc3": node(full), "pc4": node("room for 2 minutes")}
    assert list(_spool_faults(nodes).values()) == [f"node pc1, pc3: {full}; node pc4: room for 2 minutes"]
    assert _spool_faults({"pc1": node()}) == {}


def test_an_alarm_whose_words_change_is_raised_once(rig):
    """Room shrinks by the second: a key made of the words was a new alarm each time, in the log and in the take."""
    lines = []
    recorder, watch = Recorder(rig), Watch(rig, lines.append)
    try:
        cameras, nodes = recorder.receiver.statistics(), recorder.receiver.nodes()
        for minutes in range(60, 0, -1):
            watch.update(cameras, nodes, _spool_faults({"pc1": node(f"room for {minutes} minutes of recording")}))
    finally:
        recorder.receiver.stop()
    disks = [alarm for alarm in watch.status()["alarms"] if "room for" in alarm["text"]]
    assert [alarm["text"] for alarm in disks] == ["node pc1: room for 1 minutes of recording"]
    assert sum("room for" in line for line in lines) == 1


@pytest.fixture
def rig(tmp_path):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    data, control = (each.getsockname()[1] for each in held)
    for each in held:
        each.close()
    K, R = [[8, 0, 4], [0, 8, 4], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    camera = {"name": "cam0", "width": 8, "height": 8, "K": K, "R": R, "t": [0, 0, 1]}
    (tmp_path / "cameras.json").write_text(json.dumps({"version": 1, "cameras": [camera]}))
    (tmp_path / "rig.toml").write_text(
        f'name = "t"\ncalibration = "cameras.json"\n[server]\ndata_port = {data}\ncontrol_port = {control}\n'
        '[[camera]]\nid = "cam0"\nnode = "pc1"\ndriver = "replay"\n'
    )
    return load_rig(tmp_path / "rig.toml")


def test_a_take_without_a_node_is_kept_and_says_that_nobody_was_there(rig):
    recorder = Recorder(rig)
    recorder.start()
    try:
        take = recorder.record("scene")
        with pytest.raises(HeadstreamError, match="still being recorded"):
            recorder.record("scene")
        assert recorder.status()["take"] == str(take) and "meshes" not in recorder.status()
        assert recorder.stop_recording() == take
        assert recorder.stop_recording() is None
        assert recorder.failure is None
    finally:
        recorder.stop()
    info = json.loads((take / "take.json").read_text())
    assert info["finished"] and not info["complete"] and info["written"].get("/camera/cam0", 0) == 0


class Spy:
    """In the place of the recorder's watch: remembers what it is told."""

    def __init__(self):
        self.frames, self.sets, self.troubles = [], [], []

    def frame(self, frame):
        self.frames.append(frame)

    def frame_set(self, frame_set):
        self.sets.append(frame_set)

    def update(self, cameras, nodes, trouble):
        self.troubles.append(trouble)

    def status(self):
        return {}


def test_the_watch_is_told_of_frames_sets_and_nodes_disks(rig, monkeypatch):
    monkeypatch.setattr("fusion_server.recorder.STATUS_PERIOD_S", 0.01)
    recorder = Recorder(rig)
    spy = recorder.watch = Spy()
    try:
        header = FrameHeader("cam0", "pc1", 0, 7, 1, 10**18, 0, 1000, 8, 8)
        recorder._on_frame(Frame(header, b"jpeg"))
        assert [frame.header.trigger for frame in spy.frames] == [7]
        assert [made.index for made in spy.sets] == [7]
        recorder.receiver._nodes["pc1"].spool = SpoolReport(fault="disk full")
        recorder.start()
        deadline = time.monotonic() + 10
        while not any("disk full" in text for trouble in spy.troubles for text in trouble.values()):
            assert time.monotonic() < deadline, "nobody is told"
            time.sleep(0.01)
    finally:
        recorder.stop()
