"""The receiver of a rig with keys, against strangers, thieves and nodes that run twice."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import zmq

from fusion_server.receive import Receiver
from protocol.calibration import Calibration, Camera
from protocol.keys import make_pair, node_pair, server_public
from protocol.messages import (
    Frame,
    FrameHeader,
    Grant,
    Hello,
    Refused,
    Welcome,
    pack_control,
    pack_frame,
    unpack_control,
)
from protocol.rig import Rig, ServerConfig, parse_rig

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
SIZE = (64, 48)
JPEG = bytes(range(256)) * 16


def until(condition, what: str, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.002)


class Peer:
    """A raw connection with any key and any identity."""

    def __init__(self, context: zmq.Context, port: int, server: bytes, pair, identity: bytes = b""):
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = *pair, server
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def hello(self, node: str, *cameras: str, number: int = 1) -> None:
        self.socket.send(pack_control(Hello(node, cameras, 1, number)))

    def send(self, camera: str, node: str, sequence: int = 0) -> None:
        header = FrameHeader(camera, node, sequence, sequence, 0, time.time_ns(), 0, 0, *SIZE)
        self.socket.send_multipart(pack_frame(Frame(header, JPEG)))

    def hear(self):
        assert self.socket.poll(10_000), "the server said nothing"
        return unpack_control(self.socket.recv())

    def welcome(self, node: str, *cameras: str) -> None:
        self.hello(node, *cameras)
        assert isinstance(self.hear(), Welcome)
        assert {self.hear() for _ in cameras} == {Grant(camera, 2) for camera in cameras}


class Bench:
    def __init__(self, rig: Rig):
        K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
        cameras = (Camera(name, *SIZE, K, np.zeros(5), np.eye(3), np.zeros(3)) for name in rig.camera_ids)
        self.rig, self.frames = rig, []
        self.receiver = Receiver(rig, Calibration(tuple(cameras)), self.frames.append)
        self.receiver.start()
        self.context = zmq.Context()

    def data(self, key, identity: bytes = b"") -> Peer:
        """``key``: a node of the rig, or a pair."""
        pair = key
        if isinstance(key, str):
            mine = node_pair(self.rig.wire.keys, key)
            pair = mine.public, mine.secret
        return Peer(self.context, self.receiver.data_port, server_public(self.rig.wire.keys), pair, identity)

    def refused(self, reason: str) -> int:
        return self.receiver.refused().get(reason, 0)


@pytest.fixture
def bench(tmp_path):
    cameras = [{"id": f"cam{i}", "node": f"pc{i}", "driver": "replay"} for i in (1, 2)]
    data = {"name": "test", "calibration": "c.json", "camera": cameras, "wire": {"security": "curve", "credit": 2}}
    rig = parse_rig(data, root=tmp_path)
    for who in (None, *rig.nodes):
        make_pair(rig.wire.keys, who)
    made = Bench(replace(rig, server=replace(ServerConfig(), data_port=0, control_port=0)))
    yield made
    made.context.destroy(linger=0)
    made.receiver.stop()


def test_a_node_with_its_key_is_served(bench):
    peer = bench.data("pc1")
    peer.welcome("pc1", "cam1")
    peer.send("cam1", "pc1")
    assert peer.hear() == Grant("cam1", 1)
    assert bench.frames[0].header.camera == "cam1" and bytes(bench.frames[0].jpeg) == JPEG
    assert bench.receiver.refused() == {}


def test_unknown_keys_are_counted_and_logged_once(bench, caplog):
    strangers = [bench.data(zmq.curve_keypair(), b"pc1") for _ in range(20)]
    for stranger in strangers:
        stranger.send("cam1", "pc1")
    until(lambda: bench.refused("unknown_key") == 20, "twenty refusals")
    lines = [record.message for record in caplog.records if "unknown_key" in record.message]
    (first,) = (line for line in lines if line.startswith("refused (unknown_key)"))
    assert "127.0.0.1: its key" in first and len(lines) <= 2  # the rest is summed up every ten seconds
    assert not bench.frames and not any(node["connected"] for node in bench.receiver.nodes().values())


def test_a_stolen_identity_neither_sends_as_another_nor_takes_its_place(bench):
    real, thief = bench.data("pc2"), bench.data("pc1", b"pc2")
    real.welcome("pc2", "cam2")
    thief.hello("pc2", "cam2")
    answer = thief.hear()
    assert isinstance(answer, Refused) and "this connection is node pc1, its Hello says pc2" in answer.text
    thief.send("cam2", "pc2")
    until(lambda: bench.refused("wrong_node") == 1, "the thief's frame to be refused")
    for sequence in range(3):
        real.send("cam2", "pc2", sequence)
        assert real.hear() == Grant("cam2", 1)
    assert [frame.header.sequence for frame in bench.frames] == [0, 1, 2]
    assert not thief.socket.poll(50)


def test_a_node_that_runs_twice_is_told_so(bench):
    first, second = bench.data("pc1"), bench.data("pc1")
    first.welcome("pc1", "cam1")
    second.welcome("pc1", "cam1")
    first.hello("pc1", "cam1", number=2)
    answer = first.hear()
    assert isinstance(answer, Refused) and "is the node running twice?" in answer.text
    first.send("cam1", "pc1")
    until(lambda: bench.refused("superseded") == 1, "the frame to be refused")
    second.send("cam1", "pc1")
    assert second.hear() == Grant("cam1", 1)


def test_stopping_ends_the_doorkeeper(bench):
    assert bench.receiver.alive
    bench.receiver.stop()
    bench.receiver.stop()
    assert not bench.receiver.alive
