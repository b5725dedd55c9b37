"""The receiver against nodes that behave, nodes that do not, and strangers; over real sockets on free ports."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import zmq

from fusion_server.receive import Receiver
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.messages import (
    Bye,
    CameraReport,
    ClockReply,
    ClockReport,
    ClockRequest,
    Fetched,
    Frame,
    FrameHeader,
    Grant,
    Hello,
    Holdings,
    Inventory,
    Record,
    Refused,
    Release,
    Report,
    Spooled,
    SpoolReport,
    Welcome,
    pack_control,
    pack_frame,
    unpack_control,
)
from protocol.rig import Rig, ServerConfig, parse_rig

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
SIZE = (64, 48)
JPEG = bytes(range(256)) * 16
CLOCK = ClockReport(-7, 12_000, 3.5, 90_000, 1)


def make_rig(credit=2, **wire) -> Rig:
    """With so little credit each frame's comes back at once."""
    cameras = [{"id": f"cam{i}", "node": "pc1" if i < 2 else "pc2", "driver": "replay"} for i in range(3)]
    rig = parse_rig(
        {"name": "test", "calibration": "cameras.json", "camera": cameras, "wire": {"credit": credit, **wire}}
    )
    return replace(rig, server=replace(ServerConfig(), data_port=0, control_port=0))


def make_calibration(names=("cam0", "cam1", "cam2")) -> Calibration:
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    return Calibration(tuple(Camera(name, *SIZE, K, np.zeros(5), np.eye(3), np.zeros(3)) for name in names))


def frame(camera="cam0", node="pc1", sequence=0, size=SIZE) -> Frame:
    return Frame(FrameHeader(camera, node, sequence, sequence, 0, time.time_ns(), 1234, 5678, *size), JPEG)


class Peer:
    """One connection to the receiver, under any identity."""

    def __init__(self, context: zmq.Context, port: int, identity: bytes):
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def say(self, message) -> None:
        self.socket.send(pack_control(message))

    def send(self, item: Frame) -> None:
        self.socket.send_multipart(pack_frame(item))

    def hear(self, timeout_s: float = 5.0):
        assert self.socket.poll(timeout_s * 1000), "the server said nothing"
        return unpack_control(self.socket.recv())

    def hello(self, *cameras: str, node: str = "pc1", incarnation: int = 1, number: int = 1) -> None:
        self.say(Hello(node, cameras, incarnation, number))


class Bench:
    """A receiver that keeps what it hands on, and peers to it."""

    def __init__(self, rig: Rig, on_frame: Callable[[Frame], None] | None = None):
        self.frames: list[Frame] = []
        self.ticks = 0
        self.receiver = Receiver(rig, make_calibration(), on_frame or self.frames.append, self._tick)
        self.receiver.start()
        self.context = zmq.Context()

    def _tick(self) -> None:
        self.ticks += 1

    def data(self, identity: bytes = b"pc1") -> Peer:
        return Peer(self.context, self.receiver.data_port, identity)

    def control(self, identity: bytes = b"pc1") -> Peer:
        return Peer(self.context, self.receiver.control_port, identity)

    def refused(self, reason: str) -> int:
        return self.receiver.refused().get(reason, 0)

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.receiver.stop()


def until(condition: Callable[[], object], what: str, timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.002)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(make_rig())
    yield made
    made.close()


def test_hello_brings_welcome_and_credit(bench):
    data = bench.data()
    data.hello("cam0", "cam1", number=7)
    welcome = data.hear()
    assert isinstance(welcome, Welcome) and welcome.number == 7
    assert {data.hear(), data.hear()} == {Grant("cam0", 2), Grant("cam1", 2)}
    control = bench.control()
    control.hello("cam0", "cam1", number=9)
    again = control.hear()
    assert (again.number, again.server) == (9, welcome.server)


def test_a_frame_is_handed_on_and_its_credit_comes_back(bench):
    data = bench.data()
    data.hello("cam0", "cam1")
    for _ in range(3):
        data.hear()
    sent = frame()
    data.send(sent)
    assert data.hear() == Grant("cam0", 1)
    (got,) = bench.frames
    assert got.header == sent.header and bytes(got.jpeg) == JPEG
    state = bench.receiver.statistics()["cam0"]
    assert (state["received"], state["offset_ns"], state["offset_sigma_ns"]) == (1, 1234, 5678)
    assert state["age_s"] < 5 and state["fps"] > 0


def test_credit_comes_back_for_half_of_it_at_once_and_is_never_owed_to_a_new_connection():
    bench = Bench(make_rig(credit=4))
    try:
        data = bench.data()
        data.hello("cam0", "cam1")
        assert [data.hear() for _ in range(3)][1:] == [Grant("cam0", 4), Grant("cam1", 4)]
        for sequence, camera in enumerate(["cam0", "cam1", "cam0", "cam0"]):
            data.send(frame(camera, sequence=sequence))
        until(lambda: len(bench.frames) == 4, "the frames")
        assert data.hear() == Grant("cam0", 2)
        data.hello("cam0", "cam1", number=2)  # replaces all credit, that which is owed too
        assert [data.hear() for _ in range(3)][1:] == [Grant("cam0", 4), Grant("cam1", 4)]
        data.send(frame("cam1", sequence=1))
        until(lambda: len(bench.frames) == 5, "a frame after the new Hello")
        assert not data.socket.poll(100), "one frame is less than half of the credit"
    finally:
        bench.close()


def test_a_kept_frame_outlives_those_that_follow(bench):
    data = bench.data()
    pictures = [bytes([i]) * 100_000 for i in range(20)]  # large enough for libzmq to hand over its own buffers
    for i, picture in enumerate(pictures):
        data.send(Frame(frame(sequence=i).header, picture))
    until(lambda: len(bench.frames) == 20, "all frames")
    assert [bytes(f.jpeg) for f in bench.frames] == pictures


def test_gaps_in_the_sequence_are_counted_and_a_new_process_starts_anew(bench):
    data = bench.data()
    data.hello("cam0", "cam1", incarnation=1)
    for sequence in (0, 1, 5):
        data.send(frame(sequence=sequence))
    until(lambda: bench.receiver.statistics()["cam0"]["received"] == 3, "three frames")
    assert bench.receiver.statistics()["cam0"]["missed"] == 3
    data.hello("cam0", "cam1", incarnation=2)
    data.send(frame(sequence=9))
    until(lambda: bench.receiver.statistics()["cam0"]["received"] == 4, "the fourth frame")
    assert bench.receiver.statistics()["cam0"]["missed"] == 3


def spoilt(kind: str) -> list[bytes]:
    head, jpeg = (bytes(part) for part in pack_frame(frame()))
    if kind == "crc":
        return [head, jpeg[:-1] + b"\x00"]
    if kind == "version":
        return [head.replace(b"\x9f\x01", b"\x9f\x09", 1), jpeg]
    if kind == "malformed":
        return [b"\xc1garbage", jpeg]
    if kind == "oversized":
        return [bytes(part) for part in pack_frame(Frame(frame().header, bytes(20_000)))]
    if kind == "unknown_camera":
        return [bytes(part) for part in pack_frame(frame("cam9"))]
    if kind == "wrong_node":
        return [bytes(part) for part in pack_frame(frame("cam2"))]
    assert kind == "size"
    return [bytes(part) for part in pack_frame(frame(size=(640, 480)))]


@pytest.mark.parametrize("kind", ["crc", "version", "malformed", "oversized", "unknown_camera", "wrong_node", "size"])
def test_bad_frames_are_refused_logged_once_and_the_stream_goes_on(kind, caplog):
    bench = Bench(make_rig(max_frame_mb=0.0125))
    try:
        with caplog.at_level(logging.WARNING):
            data = bench.data()
            for _ in range(5):
                data.socket.send_multipart(spoilt(kind))
            data.send(frame())
            until(lambda: bench.frames, "the good frame")
        assert bench.refused(kind) == 5
        assert bench.receiver.refused() == {kind: 5}
        lines = [record.getMessage() for record in caplog.records]
        assert len([line for line in lines if line.startswith(f"refused ({kind})")]) == 1
        assert all("\n" not in line for line in lines)
        if kind in ("crc", "oversized", "size"):  # the camera is known: its credit comes back, its count goes up
            assert bench.receiver.statistics()["cam0"]["refused"] == 5
            assert [data.hear() for _ in range(6)] == [Grant("cam0", 1)] * 6
        if kind == "size":
            assert "640x480" in lines[0] and "64x48" in lines[0] and "cam0" in lines[0]
    finally:
        bench.close()


def test_a_camera_of_another_node_is_not_taken_under_its_name(bench):
    stranger = bench.data(b"pc2")
    stranger.send(frame("cam0", node="pc1"))
    stranger.send(frame("cam0", node="pc2"))
    until(lambda: bench.refused("wrong_node") == 2, "two refusals")
    assert bench.frames == [] and bench.receiver.statistics()["cam0"]["refused"] == 2
    assert stranger.socket.poll(100) == 0  # and no credit for it


def test_strangers_are_refused(bench, caplog):
    with caplog.at_level(logging.WARNING):
        stranger = bench.data(b"\x00\xff\x01")
        stranger.send(frame())
        unknown = bench.data(b"pc9")
        unknown.hello("cam0", node="pc9")
        assert isinstance(answer := unknown.hear(), Refused) and "pc1, pc2" in answer.text
        until(lambda: bench.refused("unknown_node") == 1, "the stranger's frame")
    assert bench.refused("hello") == 1 and bench.frames == []


def test_a_hello_for_what_the_rig_file_does_not_give_is_refused_with_a_reason(bench):
    data = bench.data()
    data.hello("cam0", "cam2")
    assert isinstance(answer := data.hear(), Refused) and "cam2" in answer.text
    data.hello("cam0", node="pc2")
    assert isinstance(answer := data.hear(), Refused) and "pc2" in answer.text


def test_the_clock_is_answered_with_the_servers_time(bench):
    control = bench.control()
    before = time.time_ns()
    control.say(ClockRequest(42))
    reply = control.hear()
    assert isinstance(reply, ClockReply)
    assert reply.t0 == 42 and before <= reply.t1 <= reply.t2 <= time.time_ns()


def test_the_clock_is_answered_while_pictures_pour_in():
    slow = Bench(make_rig(), on_frame=lambda item: time.sleep(0.01))
    try:
        data, control = slow.data(), slow.control()
        for i in range(14):
            data.send(frame(sequence=i))
        until(lambda: slow.receiver.statistics()["cam0"]["received"], "the first frame")
        start = time.monotonic()
        control.say(ClockRequest(1))
        control.hear()
        assert slow.receiver.statistics()["cam0"]["received"] < 14, "it waited behind the pictures"
        assert time.monotonic() - start < 0.1
    finally:
        slow.close()


def test_reports_arrive_in_the_statistics(bench):
    control, data = bench.control(), bench.data()
    control.hello("cam0", "cam1")
    data.hello("cam0", "cam1")
    control.hear(), data.hear()
    reports = (CameraReport("cam0", 100, 90, 7, 3, 29.5), CameraReport("cam2", 1, 1, 1, 1, 1.0))
    control.say(Report("pc1", "", reports, CLOCK))
    until(lambda: bench.receiver.statistics()["cam0"]["captured"] == 100, "the report")
    cameras, nodes = bench.receiver.statistics(), bench.receiver.nodes()
    assert (cameras["cam0"]["dropped"], cameras["cam0"]["errors"]) == (7, 3)
    assert cameras["cam0"]["captured_fps"] == 29.5 and cameras["cam0"]["drift_ppm"] == 3.5
    assert cameras["cam2"]["drift_ppm"] is None
    assert nodes["pc1"]["clock"] == CLOCK and nodes["pc2"]["clock"] is None
    assert cameras["cam2"]["captured"] == 0, "pc1 may not speak for the camera of pc2"
    assert nodes["pc1"]["connected"] and not nodes["pc2"]["connected"]
    control.say(Bye("pc1"))
    until(lambda: not bench.receiver.nodes()["pc1"]["connected"], "the end of pc1")


def test_nodes_are_told_of_a_take_until_they_say_that_they_know(bench):
    control = bench.control()
    control.hello("cam0", "cam1")
    assert isinstance(control.hear(), Welcome)
    bench.receiver.record(True, "scene_001", 5_000)
    assert control.hear() == Record(True, "scene_001", 5_000)
    assert control.hear() == Record(True, "scene_001", 5_000)  # again, for nothing came back
    control.say(Report("pc1", "scene_001", (), CLOCK))
    until(lambda: bench.receiver.nodes()["pc1"]["take"] == "scene_001", "the report")
    while control.socket.poll(400):
        control.socket.recv()
    bench.receiver.record(False, at_ns=7_000)
    assert control.hear() == Record(False, "scene_001", 7_000)


def test_a_node_that_records_what_nobody_here_began_is_told_that_it_ends_now(bench):
    control = bench.control()
    control.hello("cam0", "cam1")
    assert isinstance(control.hear(), Welcome)
    control.say(Report("pc1", "of_a_server_before_004", (), CLOCK))
    assert control.hear() == Record(False, "of_a_server_before_004", 0)


class Answers:
    """Whoever asks nodes about takes: here one question, number 7."""

    def __init__(self):
        self.frames, self.messages = [], []

    def spooled(self, node: str, number: int, item: Frame) -> bool:
        self.frames.append((node, number, item))
        return number == 7

    def answered(self, node: str, message) -> bool:
        self.messages.append((node, message))
        return message.number == 7


def spooled(item: Frame, number: int) -> list[bytes]:
    return [*(bytes(part) for part in pack_frame(item)), pack_control(Spooled(number))]


def test_frames_out_of_a_spool_go_to_whoever_asked_and_are_no_live_frames(bench):
    bench.receiver.answers = answers = Answers()
    data, control = bench.data(), bench.control()
    data.socket.send_multipart(spooled(frame(sequence=3), 7))
    data.say(Fetched(7, 1, ((4, 5, "damaged"),)))
    control.say(Holdings(7, "t_001", 0, 1, True, ()))
    until(lambda: len(answers.messages) == 2, "both answers")
    assert [(node, number, item.header.sequence) for node, number, item in answers.frames] == [("pc1", 7, 3)]
    assert bytes(answers.frames[0][2].jpeg) == JPEG
    assert not bench.frames and bench.receiver.statistics()["cam0"]["received"] == 0
    assert not data.socket.poll(100), "no credit for what cost none"
    assert bench.receiver.refused() == {}


@pytest.mark.parametrize("asked", [True, False])
def test_what_nobody_asked_for_is_refused(bench, asked):
    bench.receiver.answers = Answers() if asked else None
    data, control = bench.data(), bench.control()
    data.socket.send_multipart(spooled(frame(), 8))
    data.say(Fetched(8, 1, ()))
    control.say(Holdings(8, "t_001", 0, 1, True, ()))
    until(lambda: bench.refused("unasked") == 3, "three refusals")


def test_bad_frames_out_of_a_spool_are_refused(bench):
    bench.receiver.answers = answers = Answers()
    data = bench.data()
    head, jpeg, mark = spooled(frame(), 7)
    for parts in (
        [head, jpeg[:-1] + b"\x00", mark],
        [head, jpeg, b"\xc1"],
        [head, jpeg, pack_control(Bye("pc1"))],
        [head, jpeg, mark, mark],
        spooled(frame("cam2"), 7),
        spooled(frame(size=(640, 480)), 7),
    ):
        data.socket.send_multipart(parts)
    stranger = bench.data(b"stranger")
    stranger.socket.send_multipart([head, jpeg, mark])
    until(lambda: sum(bench.receiver.refused().values()) == 7, "seven refusals")
    assert bench.receiver.refused() == {"crc": 1, "malformed": 3, "wrong_node": 1, "size": 1, "unknown_node": 1}
    assert not answers.frames


def test_answers_by_the_wrong_socket_are_refused(bench):
    bench.receiver.answers = answers = Answers()
    data, control = bench.data(), bench.control()
    data.say(Holdings(7, "t_001", 0, 1, True, ()))
    control.say(Fetched(7, 1, ()))
    until(lambda: bench.refused("malformed") == 2, "two refusals")
    assert not answers.messages


def test_nodes_are_asked_by_the_control_socket_and_one_that_is_not_there_harms_nobody(bench):
    control = bench.control()
    control.hello("cam0", "cam1")
    assert isinstance(control.hear(), Welcome)
    bench.receiver.tell("pc2", Release("t_001"))
    bench.receiver.tell("pc1", Inventory(1, "t_001", 5, 6))
    assert control.hear() == Inventory(1, "t_001", 5, 6)


def test_the_state_of_a_nodes_spool_is_known(bench):
    control = bench.control()
    control.say(Report("pc1", "", (), CLOCK, SpoolReport(10, 2, 3, 4, "disk full")))
    until(lambda: bench.receiver.nodes()["pc1"]["spool"]["fault"], "the report")
    assert bench.receiver.nodes()["pc1"]["spool"] == {
        "kept": 10, "lost": 2, "waiting_bytes": 3, "free_bytes": 4, "fault": "disk full",
    }  # fmt: skip


def test_a_node_that_comes_during_a_take_is_told(bench):
    bench.receiver.record(True, "scene_002")
    control = bench.control()
    control.hello("cam0", "cam1")
    assert [type(control.hear()) for _ in range(2)] == [Welcome, Record]


def test_nonsense_on_the_control_socket_is_refused(bench):
    control = bench.control()
    control.socket.send(b"\xc1")
    control.socket.send_multipart([b"one", b"two"])
    control.say(Welcome(1, 1))  # not for a server
    control.say(ClockRequest(5))
    assert isinstance(control.hear(), ClockReply)
    assert bench.refused("malformed") == 3


def test_it_ticks_without_any_traffic(bench):
    until(lambda: bench.ticks > 5, "ticks")


def test_a_node_that_is_gone_before_its_answer_harms_nobody():
    there, gone = threading.Event(), threading.Event()

    def on_frame(item: Frame) -> None:
        there.set()
        gone.wait(5)

    bench = Bench(make_rig(), on_frame)
    try:
        peer = bench.data()
        monitor = bench.receiver._data.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        peer.send(frame())
        assert there.wait(5)
        peer.socket.close()
        assert monitor.poll(5000), "the server never noticed"
        gone.set()  # and now its credit goes to nobody
        last = bench.data(b"pc2")
        last.hello("cam2", node="pc2")
        assert isinstance(last.hear(), Welcome) and bench.receiver.alive
    finally:
        gone.set()
        bench.close()


def test_names_made_up_by_strangers_fill_neither_memory_nor_log(bench, caplog):
    data = bench.data()
    for i in range(1000):
        data.send(frame(f"made_up_{i}"))
    until(lambda: bench.refused("unknown_camera") == 1000, "all refusals")
    assert len([r for r in caplog.records if r.getMessage().startswith("refused (unknown_camera)")]) == 256


def test_a_port_in_use_is_named():
    first = Receiver(make_rig(), make_calibration(), lambda item: None)
    try:
        rig = make_rig()
        taken = replace(rig, server=replace(rig.server, control_port=first.control_port))
        with pytest.raises(HeadstreamError, match=rf"{first.control_port}: the port is in use"):
            Receiver(taken, make_calibration(), lambda item: None)
    finally:
        first.stop()


def test_a_camera_without_calibration_is_named():
    with pytest.raises(HeadstreamError, match=r"no camera 'cam2' as in the rig file; it has cam0, cam1"):
        Receiver(make_rig(), make_calibration(("cam0", "cam1")), lambda item: None)


def test_stopping_frees_the_ports_and_ends_the_thread():
    receiver = Receiver(make_rig(), make_calibration(), lambda item: None)
    receiver.start()
    receiver.stop()
    receiver.stop()
    assert not receiver.alive
    rig = make_rig()
    again = replace(rig, server=replace(rig.server, data_port=receiver.data_port, control_port=receiver.control_port))
    Receiver(again, make_calibration(), lambda item: None).stop()
