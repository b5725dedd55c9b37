"""The fuzzing itself: parsers under atheris, and strangers at the receiver's sockets while an honest node is served."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import zmq

from benchmarks import fuzz
from benchmarks._fuzz_seeds import FRAME, seeds
from benchmarks._hostile import GREETING, READY, attack, say
from fusion_server.receive import Receiver
from protocol.calibration import Calibration, Camera
from protocol.frame_record import unpack_frame_record
from protocol.keys import make_pair
from protocol.messages import Control, Frame, FrameHeader, Grant, Hello, pack_control, pack_frame, unpack_control
from protocol.rig import ServerConfig, parse_rig
from protocol.wire import data_dealer

SIZE = (64, 48)
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def test_the_fuzzer_begins_with_a_good_message_of_every_kind():
    kinds = [type(unpack_control(data)) for data in seeds("control")]
    assert set(kinds) == set(get_args(Control))
    assert unpack_frame_record(*seeds("record")).header == FRAME.header
    for name in fuzz.TARGETS:
        assert seeds(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_parser_under_atheris(name, tmp_path):
    pytest.importorskip("atheris")
    found = fuzz.parser(name, 300_000, 7, tmp_path)
    assert "crash" not in found, found["crash"]
    assert found["bytes"] >= 300_000 and found["taken"] > 0 and found["edges"] > 20


@pytest.mark.slow
def test_a_crash_would_be_seen(tmp_path, monkeypatch):
    pytest.importorskip("atheris")
    found = fuzz.parser("no such parser", 1000, 7, tmp_path)
    assert "KeyError" in found["crash"]


def test_the_strangers_speak_zeromq_well_enough_to_be_heard():
    """Else all that they send would end at the handshake."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    try:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), 5) as peer:
            message = b"\x01\x03abc\x00\x02de"
            say(peer, GREETING + READY + message)
            for _ in range(50):
                if router.poll(100):
                    break
                peer.sendall(message)
            assert router.recv_multipart(zmq.NOBLOCK)[1:] == [b"abc", b"de"]
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("security", ["plain", "curve"])
def test_an_honest_node_is_served_while_strangers_rage(tmp_path, security):
    camera = {"id": "cam", "node": "pc1", "driver": "replay"}
    wire = {"security": security, "max_frame_mb": 1}
    rig = parse_rig({"name": "t", "calibration": "c.json", "camera": [camera], "wire": wire}, root=tmp_path)
    rig = replace(rig, server=replace(ServerConfig(), data_port=0, control_port=0))
    if security == "curve":
        for who in (None, "pc1"):
            make_pair(rig.wire.keys, who)
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    frames: list[int] = []
    receiver = Receiver(
        rig,
        Calibration((Camera("cam", *SIZE, K, np.zeros(5), np.eye(3), np.zeros(3)),)),
        lambda frame: frames.append(frame.header.sequence),
    )
    receiver.start()
    context = zmq.Context()
    ports = replace(rig.server, data_port=receiver.data_port, control_port=receiver.control_port)
    strangers = [
        threading.Thread(target=attack, args=(port, 1.5, seed))
        for seed, port in enumerate((receiver.data_port, receiver.control_port))
    ]
    try:
        node = data_dealer(context, replace(rig, server=ports), "pc1")
        deadline = time.monotonic() + 60
        while True:
            try:
                node.send(pack_control(Hello("pc1", ("cam",), 1, 1)))
                break
            except zmq.Again:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        for stranger in strangers:
            stranger.start()
        credit = sent = 0
        while any(stranger.is_alive() for stranger in strangers) or sent < 50:
            assert time.monotonic() < deadline, "the node was not served"
            while node.poll(1):
                message = unpack_control(node.recv())
                credit += message.frames if isinstance(message, Grant) else 0
            if credit:
                header = FrameHeader("cam", "pc1", sent, sent, 0, time.time_ns(), 0, 0, *SIZE)
                node.send_multipart(pack_frame(Frame(header, b"\xff\xd8" * 5000)))
                credit, sent = credit - 1, sent + 1
            time.sleep(0.005)
        while len(frames) < sent:
            assert time.monotonic() < deadline, f"{len(frames)} of {sent} frames arrived"
            time.sleep(0.01)
        assert frames == list(range(sent)) and receiver.alive
        if security == "plain":
            assert sum(receiver.refused().values()) > 0, "nobody was refused: the strangers did not come through at all"
    finally:
        for stranger in strangers:
            if stranger.ident is not None:
                stranger.join()
        context.destroy(linger=0)
        receiver.stop()
