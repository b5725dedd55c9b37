"""The lane over a socket that does as the test says."""

import threading
from collections import deque

import pytest
import zmq

from capture_nodes.drivers.base import Captured
from capture_nodes.lane import Lane
from capture_nodes.outbox import Outbox
from protocol.messages import Grant, Welcome, pack_control, unpack_frame


class Socket:
    """What the lane uses of a NodeSocket; one thread at a time, or the test fails."""

    def __init__(self):
        self.sent, self.incoming, self.full = [], deque(), False
        self._used = threading.Lock()

    def send_multipart(self, parts, copy=True):
        assert self._used.acquire(blocking=False), "two threads at one socket"
        try:
            if self.full:
                raise zmq.Again
            self.sent.append([bytes(part) for part in parts])
        finally:
            self._used.release()

    def take(self):
        return self.incoming.popleft() if self.incoming else None

    def bring(self, *messages):
        self.incoming.extend([message if isinstance(message, bytes) else pack_control(message)] for message in messages)


@pytest.fixture
def parts():
    socket = Socket()
    outbox = Outbox(["a", "b"], frames=4, max_bytes=1000)
    return Lane(socket, outbox, lambda waiting: waiting.frame("pc1", 1, 0, 0)), socket, outbox


def put(outbox, camera="a", at=0):
    outbox.put(camera, Captured(b"", None, None, at, at, 6, 4), b"x" * 10)


def sequences(socket):
    return [unpack_frame(frame).header.sequence for frame in socket.sent]


def test_nothing_leaves_before_the_welcome_and_nobody_touches_the_socket(parts):
    lane, socket, outbox = parts
    socket.bring(Grant("a", 4))
    put(outbox)
    assert not lane.send() and not lane.open
    assert socket.sent == [] and len(socket.incoming) == 1


def test_a_welcome_voids_what_was_granted_before(parts):
    lane, socket, outbox = parts
    outbox.grant("a", 4, 0)
    lane.begin(0)
    put(outbox)
    assert not lane.send() and socket.sent == []


def test_grants_are_read_when_credit_is_short_and_not_before(parts):
    lane, socket, outbox = parts
    lane.begin(0)
    outbox.grant("a", 1, 0)
    socket.bring(Grant("a", 2))
    put(outbox)
    assert lane.send() and len(socket.incoming) == 1
    put(outbox)
    put(outbox)
    assert lane.send() and sequences(socket) == [0, 1, 2] and not socket.incoming
    put(outbox)
    assert not lane.send() and outbox.waiting == 1


def test_what_is_no_grant_waits_in_order_for_the_link(parts):
    lane, socket, outbox = parts
    lane.begin(0)
    welcome, strange = pack_control(Welcome(1, 2)), b"\x92\x02\xa5grant"
    socket.bring(welcome, Grant("a", 1), strange, Grant("other", 1))
    put(outbox)
    assert lane.send() and sequences(socket) == [0]
    assert lane.heard() == [[welcome], [strange], [pack_control(Grant("other", 1))]]
    assert lane.heard() == []
    lane.end()
    socket.bring(Grant("a", 1))  # before the next Welcome it counts for nothing
    assert lane.heard() == [[pack_control(Grant("a", 1))]]


def test_a_full_connection_keeps_the_picture_and_its_credit(parts):
    lane, socket, outbox = parts
    lane.begin(0)
    outbox.grant("a", 1, 0)
    put(outbox)
    socket.full = True
    assert not lane.send() and outbox.waiting == 1 and not lane.put([b"answer"])
    socket.full = False
    assert lane.put([b"answer"])
    assert lane.send() and socket.sent[0] == [b"answer"] and len(socket.sent) == 2


@pytest.mark.timeout(60)
def test_many_threads_share_one_socket_and_lose_nothing(parts):
    lane, socket, outbox = parts
    lane.begin(0)
    each = 500

    def camera(name):
        for _ in range(each):
            while outbox.waiting >= 4:  # so that none is dropped
                lane.send()
            put(outbox, name)
            lane.send()

    threads = [threading.Thread(target=camera, args=name) for name in "ab"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or outbox.waiting:
        for name in "ab":
            socket.bring(Grant(name, 2))
        lane.send()
    for thread in threads:
        thread.join()
    counts = outbox.counts()
    assert sum(count.sent for count in counts.values()) == len(socket.sent)
    for name in "ab":
        mine = [h.sequence for h in (unpack_frame(frame).header for frame in socket.sent) if h.camera == name]
        assert mine == sorted(set(mine)) and len(mine) + counts[name].dropped == each
