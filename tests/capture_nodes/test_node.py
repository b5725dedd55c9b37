"""The whole node over real sockets, against a server that the test pumps."""

import logging
import threading
import time
from dataclasses import replace

import pytest

import capture_nodes.link
from capture_nodes.drivers.base import Captured, DriverError
from capture_nodes.node import Node
from capture_nodes.spool_file import SpoolWriter, file_name, read_index
from protocol.messages import (
    Fetch,
    Fetched,
    Frame,
    FrameHeader,
    Grant,
    Inventory,
    Record,
    Refused,
    Release,
    Welcome,
)
from protocol.rig import RigError

WIRE = {"credit": 3}


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch):
    """So that a test which waits for one need not wait for a second."""
    monkeypatch.setattr(capture_nodes.link, "_REPORT_S", 0.1)


@pytest.fixture
def stepped(capture, step_driver):
    """A node of a rig whose one camera is the step driver."""
    return lambda rig: Node(rig, "pc1", lambda camera, rig: step_driver)


def put(driver, jpeg_of, count, first=0):
    for i in range(first, first + count):
        driver.put(jpeg_of(6, 4, b"picture %d" % i), trigger=i)


def test_replayed_pictures_arrive_as_they_lie_on_disk(make_rig, capture, make_server, running):
    server = make_server(make_rig(2, fps=60.0))
    with running(Node(server.rig, "pc1")):
        server.until(lambda: len(server.frames) >= 30)
    for frame in server.frames:
        header = frame.header
        picture = capture / "frames" / f"{header.trigger % 4:03d}" / f"{header.camera}.jpg"
        assert frame.jpeg == picture.read_bytes()
        assert (header.node, header.width, header.height) == ("pc1", 6, 4)
        assert header.trigger == round(header.node_ns * 60 / 1e9)
    assert {frame.header.camera for frame in server.frames} == {"cam00", "cam01"}


def test_without_credit_the_oldest_unsent_are_dropped_counted_and_reported(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, caplog, monkeypatch
):
    monkeypatch.setattr(capture_nodes.link, "_REPORT_S", 0.5)
    monkeypatch.setattr(capture_nodes.link, "_STARVED_S", 1e6)
    server = make_server(make_rig(wire=WIRE))
    server.return_credit = False
    node = stepped(server.rig)
    with running(node):
        put(step_driver, jpeg_of, 3)
        server.until(lambda: len(server.frames) == 3)
        server.until(lambda: server.reports)
        put(step_driver, jpeg_of, 20, first=3)
        server.until(lambda: node.counts()["cam00"].captured == 23)
        server.until(lambda: server.reports[-1].cameras[0].dropped == 17)
        assert server.sequences == [0, 1, 2]  # not one more than granted
        server.say(server.data, b"pc1", Grant("cam00", 2))
        server.until(lambda: len(server.frames) == 5)
    assert server.sequences == [0, 1, 2, 20, 21]
    report = server.reports[-1].cameras[0]
    assert (report.camera, report.captured, report.errors) == ("cam00", 23, 0)
    dropped = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()]
    assert 1 <= len(dropped) <= 2  # a line a report, not one a picture
    assert dropped[0].startswith("camera cam00: ")


def test_returned_credit_keeps_the_stream_going(make_rig, make_server, running, stepped, step_driver, jpeg_of):
    server = make_server(make_rig(wire={"credit": 1}))
    node = stepped(server.rig)
    with running(node):
        for i in range(20):
            put(step_driver, jpeg_of, 1, first=i)
            server.until(lambda i=i: len(server.frames) == i + 1)
    assert server.sequences == list(range(20))
    assert node.counts()["cam00"].dropped == 0


def test_a_node_that_starts_first_finds_the_server(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, caplog
):
    first = make_server(make_rig(wire=WIRE))  # to have ports
    first.close()
    node = stepped(first.rig)
    with running(node):
        put(step_driver, jpeg_of, 10)
        deadline = time.monotonic() + 10
        while node.counts()["cam00"].captured < 10:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.25)  # two reports' time, in which nothing is to be said
        server = make_server(first.rig, again=True)
        server.until(lambda: len(server.frames) == 3)
    assert server.sequences == [7, 8, 9]  # the newest, not the oldest
    assert "dropped" not in caplog.text  # without a server everything is


def test_a_server_that_comes_again_is_greeted_again(make_rig, make_server, running, stepped, step_driver, jpeg_of):
    first = make_server(make_rig(wire=WIRE))
    first.return_credit = False
    with running(stepped(first.rig)):
        put(step_driver, jpeg_of, 2)
        first.until(lambda: len(first.frames) == 2)
        first.close()
        second = make_server(first.rig, again=True, started=2)
        second.credit, second.return_credit = 1, False
        second.until(lambda: {plane for plane, _ in second.hellos} == {"data", "control"})
        put(step_driver, jpeg_of, 1, first=2)
        second.until(lambda: second.frames and second.reports)
        put(step_driver, jpeg_of, 1, first=3)
        second.for_a_while(0.3)
    assert second.sequences == [2]  # the credit is a new one, without the one that was left


def test_a_server_that_was_restarted_unnoticed_is_known_by_its_clock_replies(make_rig, make_server, running, stepped):
    server = make_server(make_rig())
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        before = len(server.hellos)
        server.started = 2
        server.until(lambda: {plane for plane, _ in server.hellos[before:]} == {"data", "control"})


def test_a_node_that_comes_again_counts_from_zero(make_rig, make_server, running, stepped, step_driver, jpeg_of):
    server = make_server(make_rig(wire=WIRE))
    for _ in range(2):
        with running(stepped(server.rig)):
            put(step_driver, jpeg_of, 2)
            before = len(server.frames)
            server.until(lambda before=before: len(server.frames) == before + 2)
    assert server.sequences == [0, 1, 0, 1]
    assert len({hello.incarnation for _, hello in server.hellos}) == 2


def test_a_silent_server_is_greeted_again(make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch):
    monkeypatch.setattr(capture_nodes.link, "_QUIET_S", 0.3)
    server = make_server(make_rig(wire=WIRE))
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        server.answer = False
        before = len(server.hellos)
        server.until(lambda: {plane for plane, _ in server.hellos[before:]} == {"data", "control"})
        put(step_driver, jpeg_of, 1)
        server.for_a_while(0.2)
        assert not server.frames  # its old credit is no longer worth anything
        server.answer = True
        server.until(lambda: server.frames)


def test_lost_credit_is_asked_for_again(make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch):
    monkeypatch.setattr(capture_nodes.link, "_STARVED_S", 0.2)
    server = make_server(make_rig(wire=WIRE))
    server.return_credit = False
    with running(stepped(server.rig)):
        put(step_driver, jpeg_of, 3)
        server.until(lambda: len(server.frames) == 3)
        put(step_driver, jpeg_of, 2, first=3)
        server.until(lambda: len(server.frames) == 5)
    planes = [plane for plane, _ in server.hellos]
    assert planes.count("data") >= 2 and planes.count("control") == 1


def test_only_the_answer_to_the_latest_hello_gives_credit(
    make_rig, make_server, running, stepped, step_driver, jpeg_of
):
    """A server that was busy answers three Hellos at once: the credit of one is taken, not of three."""
    server = make_server(make_rig(wire=WIRE))
    server.return_credit = False
    server.answer = False
    with running(stepped(server.rig)):
        server.until(lambda: [plane for plane, _ in server.hellos].count("data") >= 3)
        server.answer = True
        for _, hello in [hello for hello in server.hellos if hello[0] == "data"][:2]:
            server.hear(server.data, b"pc1", hello)
        put(step_driver, jpeg_of, 1)
        server.until(lambda: server.frames)
        put(step_driver, jpeg_of, 5, first=1)
        server.for_a_while(0.3)
        assert len(server.frames) == 3


def test_a_late_welcome_does_not_cost_the_credit_that_came_since(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch
):
    monkeypatch.setattr(capture_nodes.link, "_STARVED_S", 1e6)
    server = make_server(make_rig())
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        server.say(server.data, b"pc1", Welcome(0, server.started))
        server.for_a_while(0.1)
        put(step_driver, jpeg_of, 1)
        server.until(lambda: server.frames)


def test_a_picture_leaves_at_once_and_not_when_something_else_is_due(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch
):
    for name in ("_SPEAK_S", "_REPORT_S", "_CLOCK_FIRST_S"):
        monkeypatch.setattr(capture_nodes.link, name, 60)
    server = make_server(make_rig())
    with running(stepped(server.rig)) as ended:
        server.until(lambda: len(server.hellos) >= 2)
        server.for_a_while(0.2)
        put(step_driver, jpeg_of, 1)
        server.until(lambda: server.frames)
        step_driver.finish()
        ended.result(10)


def test_a_picture_that_waits_for_credit_leaves_when_the_credit_comes(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch
):
    for name in ("_SPEAK_S", "_REPORT_S", "_CLOCK_FIRST_S"):  # nothing else wakes the node
        monkeypatch.setattr(capture_nodes.link, name, 60)
    server = make_server(make_rig())
    server.credit, server.return_credit = 1, False
    with running(stepped(server.rig)) as ended:
        server.until(lambda: len(server.hellos) >= 2)
        server.for_a_while(0.2)
        for count in range(1, 6):
            put(step_driver, jpeg_of, 1)
            server.for_a_while(0.05)
            assert len(server.frames) == max(1, count - 1)
            if count > 1:
                server.say(server.data, b"pc1", Grant("cam00", 1))
                server.until(lambda count=count: len(server.frames) == count)
        step_driver.finish()
        ended.result(10)
    assert server.sequences == [0, 1, 2, 3, 4]


def test_while_lost_credit_is_asked_for_nobody_counts_grants(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch
):
    """Those after the Welcome would be forgotten with it, if a camera's thread read them first."""
    monkeypatch.setattr(capture_nodes.link, "_STARVED_S", 0.2)
    server = make_server(make_rig())
    server.credit, server.return_credit = 1, False
    node = stepped(server.rig)
    with running(node):
        server.until(lambda: len(server.hellos) >= 2)
        server.for_a_while(0.2)
        server.answer = False
        put(step_driver, jpeg_of, 3)
        server.until(lambda: [plane for plane, _ in server.hellos].count("data") == 2)
        assert not node._link._lane.open
        server.answer, server.credit, server.return_credit = True, 3, True
        server.until(lambda: len(server.frames) == 3)


def test_a_refused_node_says_why_and_sends_nothing(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, caplog
):
    server = make_server(make_rig())
    server.answer = False
    with running(stepped(server.rig)):
        server.until(lambda: len({plane for plane, _ in server.hellos}) == 2)
        for socket in (server.data, server.control):
            server.say(socket, b"pc1", Refused("the rig file has no such node"))
        server.say(server.data, b"pc1", Grant("cam00", 3))
        put(step_driver, jpeg_of, 1)
        before = len(server.hellos)
        server.for_a_while(0.5)
        assert not server.frames
        assert len(server.hellos) <= before + 2  # it does not hammer on the door
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert said == ["node pc1: the server refuses this node: the rig file has no such node"]


def test_a_clock_that_jumps_costs_no_frame_its_time_and_is_reported(
    make_rig, make_server, running, step_driver, jpeg_of, caplog
):
    """The node's clock is set by 2 s while it runs: pictures from before and after keep the time of their exposure."""
    ahead = [0]

    def now_ns():
        return time.time_ns() + ahead[0]

    server = make_server(make_rig(wire=WIRE))
    node = Node(server.rig, "pc1", lambda camera, rig: step_driver, now_ns)
    with running(node):
        server.until(lambda: server.reports and server.reports[-1].clock.sigma_ns < 10**9)
        assert server.reports[-1].clock.jumps == 0
        for i, jump in enumerate([0, 2 * 10**9, -(10**9)]):
            ahead[0] += jump
            exposed = time.time_ns()
            picture = jpeg_of(6, 4, b"%d" % i)
            step_driver.put(Captured(picture, None, i, exposed, exposed + ahead[0], 6, 4))
            server.until(lambda i=i: len(server.frames) == i + 1)
        server.until(lambda: server.reports[-1].clock.jumps == 2)
    for frame in server.frames:
        assert abs(frame.header.capture_ns - frame.header.device_ns) < 5e7  # the test pumps both ends
        assert frame.header.offset_sigma_ns < 1e9
    steps = [r.getMessage() for r in caplog.records if "clock was set" in r.getMessage()]
    assert len(steps) == 2 and "by +2.0" in steps[0] and "by -1.0" in steps[1]


def test_frames_carry_the_offset_of_the_servers_clock(make_rig, make_server, running, stepped, step_driver, jpeg_of):
    server = make_server(make_rig())
    server.clock_ahead_ns = -3_600 * 10**9
    with running(stepped(server.rig)):
        server.until(lambda: server.clock_requests >= 3)
        put(step_driver, jpeg_of, 1)
        server.until(lambda: server.frames)
    header = server.frames[0].header
    assert abs(header.offset_ns - server.clock_ahead_ns) < 5e7  # the test pumps both ends, on a busy machine
    assert 0 < header.offset_sigma_ns < 1e9


def test_before_the_first_exchange_a_frame_says_that_it_knows_nothing(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, monkeypatch
):
    monkeypatch.setattr(capture_nodes.link.Link, "_ask_time", lambda self, now: None)
    monkeypatch.setattr(capture_nodes.link.Link, "_clock_pause", 1e6)
    server = make_server(make_rig())
    with running(stepped(server.rig)):
        put(step_driver, jpeg_of, 1)
        server.until(lambda: server.frames)
    header = server.frames[0].header
    assert (header.offset_ns, header.offset_sigma_ns) == (0, 10**15)


def test_the_clock_is_asked_often_at_first(make_rig, make_server, running, stepped):
    server = make_server(make_rig())
    with running(stepped(server.rig)):
        server.until(lambda: server.clock_requests)
        server.for_a_while(1.0)
        assert server.clock_requests > 8
        fast = server.clock_requests
        server.until(lambda: server.clock_requests >= 22)
        before = server.clock_requests
        server.for_a_while(1.0)
        assert server.clock_requests - before < min(7, fast)


def test_the_take_that_is_recorded_stands_in_the_report(make_rig, make_server, running, stepped):
    server = make_server(make_rig())
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        assert server.reports[-1].take == ""
        server.say(server.control, b"pc1", Record(True, "a_003"))
        server.until(lambda: server.reports[-1].take == "a_003")
        server.say(server.control, b"pc1", Record(False, "a_003"))
        server.until(lambda: server.reports[-1].take == "")


def test_nonsense_from_the_server_is_said_once_and_the_stream_goes_on(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, caplog
):
    def errors():
        return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]

    server = make_server(make_rig())
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        for _ in range(3):
            server.data.send_multipart([b"pc1", b"\x92\x02\xa5grant"])
            server.data.send_multipart([b"pc1", b"two", b"parts"])
            server.say(server.data, b"pc1", Grant("other", 1))
        put(step_driver, jpeg_of, 1)
        server.until(lambda: server.frames and len(errors()) == 3)
        server.for_a_while(0.2)
    said = errors()
    assert len(said) == 3
    assert any("speaks version 1" in line for line in said)
    assert any("grants frames of other, which is not this node's" in line for line in said)


def test_a_stopped_node_says_bye(make_rig, make_server, running, stepped):
    server = make_server(make_rig())
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
    server.until(lambda: server.byes == ["pc1"])


@pytest.mark.parametrize("cameras", [1, 2])
def test_a_node_whose_cameras_are_finished_ends_by_itself_with_every_frame_sent(
    make_rig, capture, make_server, running, cameras
):
    options = {"loop": False, "start": time.time() + 0.7, "fps": 60.0}
    server = make_server(make_rig(cameras, options, wire={"credit": 4}))
    with running(Node(server.rig, "pc1")) as ended:
        server.until(ended.done)
        server.until(lambda: len(server.frames) == 4 * cameras)
    assert sorted(server.sequences) == sorted([0, 1, 2, 3] * cameras)


def test_the_last_pictures_of_a_finished_camera_are_not_cut_off(
    make_rig, make_server, running, stepped, step_driver, jpeg_of
):
    server = make_server(make_rig(wire=WIRE))
    with running(stepped(server.rig)) as ended:
        server.until(lambda: server.reports)
        for i in range(3):
            step_driver.put(jpeg_of(6, 4, bytes(10 << 20)), trigger=i)
        step_driver.finish()
        ended.result(10)
        server.until(lambda: len(server.frames) == 3)


def test_a_node_ends_at_once_without_a_server_and_with_a_full_queue(
    make_rig, make_server, running, stepped, step_driver, jpeg_of
):
    server = make_server(make_rig())
    server.close()
    with running(stepped(server.rig)) as ended:
        put(step_driver, jpeg_of, 10)
        time.sleep(0.05)
        assert not ended.done()


def test_memory_is_bounded_in_bytes_while_nobody_takes_frames(
    make_rig, make_server, running, stepped, step_driver, jpeg_of
):
    server = make_server(make_rig(wire={"credit": 64, "queue_mb": 1, "max_frame_mb": 1}))
    server.credit, server.return_credit = 0, False
    node = stepped(server.rig)
    with running(node):
        server.until(lambda: server.reports)
        for i in range(40):
            step_driver.put(jpeg_of(6, 4, bytes(200_000)), trigger=i)
        server.until(lambda: node.counts()["cam00"].captured == 40)
        counts = node.counts()["cam00"]
        assert counts.dropped == 40 - 5  # five of 200 kB are a megabyte
        assert counts.sent == 0


def test_a_mistake_in_a_driver_ends_the_node_with_it(make_rig, make_server, stepped, step_driver):
    server = make_server(make_rig())
    step_driver.put(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        stepped(server.rig).run(threading.Event())


def test_what_the_rig_has_wrong_is_refused_before_anything_runs(make_rig, capture):
    with pytest.raises(RigError, match="has node 'pc9'; its nodes are pc1"):
        Node(make_rig(), "pc9")
    with pytest.raises(DriverError, match=r"camera\[0\]\.options\.fps"):
        Node(make_rig(1, {"fps": -1}), "pc1")


def put_spooled(rig, take, count, jpeg):
    """A take in the node's spool, of a process before this one."""
    writer = SpoolWriter(rig.spool.folder / take / file_name("cam00", 7))
    for i in range(count):
        writer.frame(Frame(FrameHeader("cam00", "pc1", i, i, i, i, 0, 5, 6, 4, 7), jpeg))
    writer.end("the take ended")
    writer.close()


def test_pictures_of_a_take_go_to_the_disk_with_or_without_credit(
    make_rig, make_server, running, stepped, step_driver, jpeg_of
):
    server = make_server(make_rig(wire=WIRE, spool={"min_free_gb": 0}))
    server.credit, server.return_credit = 0, False
    node = stepped(server.rig)
    with running(node):
        server.until(lambda: server.reports and server.clock_requests >= 3)
        start = time.time_ns()
        server.say(server.control, b"pc1", Record(True, "a_003", start))
        server.until(lambda: server.reports[-1].take == "a_003")
        put(step_driver, jpeg_of, 20)
        server.until(lambda: server.reports[-1].spool.kept == 20)
        server.say(server.control, b"pc1", Record(False, "a_003", time.time_ns()))
        server.until(lambda: server.reports[-1].take == "")
        server.say(server.control, b"pc1", Inventory(5, "a_003", start, time.time_ns()))
        server.until(lambda: server.answers)
        while not server.answers[-1].closed:
            server.say(server.control, b"pc1", Inventory(5, "a_003", start, time.time_ns()))
            count = len(server.answers)
            server.until(lambda count=count: len(server.answers) > count)
        (holding,) = server.answers[-1].holdings
        assert (holding.camera, holding.held, holding.lost) == ("cam00", ((0, 19),), ())
        assert holding.incarnation == server.hellos[0][1].incarnation
        server.say(server.control, b"pc1", Fetch(6, "a_003", "cam00", holding.incarnation, ((3, 5),), 10**6))
        server.until(lambda: isinstance(server.answers[-1], Fetched))
        assert server.answers[-1] == Fetched(6, 3, ())
    assert not server.frames
    assert [(f.header.sequence, f.header.trigger) for _, f in server.spooled] == [(3, 3), (4, 4), (5, 5)]
    assert all(f.jpeg == jpeg_of(6, 4, b"picture %d" % f.header.sequence) for _, f in server.spooled)


def test_live_frames_go_before_those_of_the_spool(make_rig, make_server, running, stepped, step_driver, jpeg_of):
    server = make_server(make_rig(wire={"credit": 2}))
    put_spooled(server.rig, "a_003", 300, jpeg_of(6, 4, bytes(100_000)))
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        server.say(server.control, b"pc1", Fetch(6, "a_003", "cam00", 7, ((0, 299),), 2**40))
        server.until(lambda: server.spooled)
        put(step_driver, jpeg_of, 1)
        before = len(server.spooled)
        server.until(lambda: server.frames)
        # What the connection had taken already comes first; that is at most its queue and what the system buffers.
        assert len(server.spooled) - before < 150
        server.until(lambda: isinstance(server.answers[-1] if server.answers else None, Fetched))
    assert [f.header.sequence for _, f in server.spooled] == list(range(300))
    assert {mark.number for mark, _ in server.spooled} == {6}


def test_answers_for_a_server_that_is_gone_are_forgotten(make_rig, make_server, running, stepped, jpeg_of):
    first = make_server(make_rig(wire=WIRE))
    put_spooled(first.rig, "a_003", 100, jpeg_of(6, 4, bytes(100_000)))
    with running(stepped(first.rig)):
        first.until(lambda: first.reports)
        first.say(first.control, b"pc1", Fetch(6, "a_003", "cam00", 7, ((0, 99),), 2**40))
        first.until(lambda: first.spooled)
        first.close()
        second = make_server(first.rig, again=True, started=2)
        second.until(lambda: second.reports)
        second.for_a_while(0.3)
        assert not second.spooled and not second.answers
        second.say(second.control, b"pc1", Fetch(9, "a_003", "cam00", 7, ((0, 1),), 2**40))
        second.until(lambda: second.answers)
    assert [mark.number for mark, _ in second.spooled] == [9, 9]


def test_a_released_take_is_deleted(make_rig, make_server, running, stepped, jpeg_of):
    server = make_server(make_rig(wire=WIRE))
    put_spooled(server.rig, "a_003", 3, jpeg_of(6, 4))
    put_spooled(server.rig, "a_004", 3, jpeg_of(6, 4))
    with running(stepped(server.rig)):
        server.until(lambda: server.reports)
        server.say(server.control, b"pc1", Release("a_003"))
        server.until(lambda: not (server.rig.spool.folder / "a_003").exists())
    assert (server.rig.spool.folder / "a_004").exists()


def test_a_take_goes_on_without_a_server_for_a_while_and_then_ends(
    make_rig, make_server, running, stepped, step_driver, jpeg_of, caplog
):
    server = make_server(make_rig(wire=WIRE, spool={"min_free_gb": 0}))
    with running(stepped(replace(server.rig, spool=replace(server.rig.spool, alone_minutes=0.01)))):
        server.until(lambda: server.reports)
        server.say(server.control, b"pc1", Record(True, "a_003", time.time_ns()))
        server.until(lambda: server.reports[-1].take == "a_003")
        server.close()
        put(step_driver, jpeg_of, 5)
        deadline = time.monotonic() + 20
        while "take a_003 ends here" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    (path,) = (server.rig.spool.folder / "a_003").iterdir()
    with path.open("rb") as file:
        assert read_index(file, path.stat().st_size).held() == ((0, 4),)
