import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_nodes.drivers.base import Captured
from capture_nodes.outbox import Counts, Outbox


def picture(at=0):
    return Captured(b"", None, None, at, at, 6, 4)


def put(outbox, camera="a", size=10, at=0):
    outbox.put(camera, picture(at), bytes(size))


def take_all(outbox):
    taken = []
    while (waiting := outbox.next()) is not None:
        taken.append((waiting.camera, waiting.sequence))
    return taken


def test_without_credit_the_newest_are_kept_and_the_oldest_dropped_and_counted():
    outbox = Outbox(["a"], frames=3, max_bytes=1000)
    for _ in range(10):
        put(outbox)
    assert outbox.next() is None
    assert outbox.counts() == {"a": Counts(captured=10, dropped=7)}
    outbox.grant("a", 3, now=0)
    assert take_all(outbox) == [("a", 7), ("a", 8), ("a", 9)]
    assert outbox.counts() == {"a": Counts(captured=10, sent=3, dropped=7)}


def test_one_credit_one_frame_and_no_more_credit_than_frames():
    outbox = Outbox(["a", "b"], frames=3, max_bytes=1000)
    assert outbox.grant("a", 1, now=0)
    for _ in range(2):
        put(outbox, "a")
        put(outbox, "b")
    assert take_all(outbox) == [("a", 0)]
    outbox.grant("b", 1000, now=0)
    assert take_all(outbox) == [("b", 0), ("b", 1)]
    for _ in range(5):
        put(outbox, "b")
        take_all(outbox)
    assert outbox.counts()["b"].sent == 3
    assert not outbox.grant("c", 1, now=0)


def test_the_oldest_picture_of_all_cameras_goes_first():
    outbox = Outbox(["a", "b"], frames=3, max_bytes=1000)
    for camera in "ab":
        outbox.grant(camera, 3, now=0)
    put(outbox, "b", at=2)
    put(outbox, "a", at=1)
    put(outbox, "a", at=3)
    assert take_all(outbox) == [("a", 0), ("b", 0), ("a", 1)]


def test_bytes_are_bounded_for_each_camera_and_so_for_all():
    outbox = Outbox(["a", "b"], frames=64, max_bytes=200)
    put(outbox, "b", size=100)
    for _ in range(10):
        put(outbox, "a", size=30)
        assert outbox.waiting_bytes <= 200
    assert outbox.counts()["a"] == Counts(captured=10, dropped=7)
    assert outbox.counts()["b"] == Counts(captured=1)  # a flood of one camera does not cost the other its frames
    put(outbox, "a", size=101)
    assert outbox.counts()["a"] == Counts(captured=11, dropped=11)


def test_what_could_not_be_sent_takes_its_place_again_if_there_is_one():
    outbox = Outbox(["a"], frames=2, max_bytes=1000)
    outbox.grant("a", 2, now=0)
    put(outbox)
    put(outbox)
    outbox.unsent(outbox.next())
    assert outbox.waiting == 2
    waiting = outbox.next()
    put(outbox)
    outbox.unsent(waiting)  # two newer ones are there
    assert take_all(outbox) == [("a", 1), ("a", 2)]
    assert outbox.counts()["a"] == Counts(captured=3, sent=2, dropped=1)


def test_missed_pictures_leave_a_gap_in_the_sequence():
    outbox = Outbox(["a"], frames=3, max_bytes=1000)
    outbox.grant("a", 3, now=0)
    put(outbox)
    outbox.missed("a", 4)
    put(outbox)
    assert take_all(outbox) == [("a", 0), ("a", 5)]
    assert outbox.counts()["a"] == Counts(captured=6, sent=2, dropped=4)


def test_starving_means_frames_no_credit_and_no_grant_for_a_while():
    outbox = Outbox(["a", "b"], frames=3, max_bytes=1000)
    outbox.forget_credit(now=10)
    assert not outbox.starving(100, 1)  # nothing waits
    put(outbox, "b")
    assert not outbox.starving(10.9, 1)
    assert outbox.starving(11, 1)
    outbox.grant("b", 0, now=11)
    assert not outbox.starving(11.9, 1)  # none, but the server speaks
    outbox.grant("b", 1, now=11)
    assert not outbox.starving(100, 1)
    outbox.forget_credit(now=100)
    assert outbox.next() is None
    assert outbox.starving(101, 1)


def test_counts_are_a_copy():
    outbox = Outbox(["a"], frames=3, max_bytes=1000)
    before = outbox.counts()
    put(outbox)
    outbox.failed("a")
    assert before["a"] == Counts()
    assert outbox.counts()["a"] == Counts(captured=1, errors=1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "grant", "send", "fail", "forget", "missed"]), st.sampled_from("ab"))
        | st.tuples(st.just("put"), st.sampled_from("ab"), st.integers(1, 150)),
        max_size=60,
    )
)
def test_bounds_and_sums_hold_whatever_happens(steps):
    outbox = Outbox(["a", "b"], frames=3, max_bytes=200)
    sent = {"a": [], "b": []}
    for kind, camera, *size in steps:
        if kind == "put":
            put(outbox, camera, *size)
        elif kind == "grant":
            outbox.grant(camera, 2, now=0)
        elif kind == "forget":
            outbox.forget_credit(now=0)
        elif kind == "missed":
            outbox.missed(camera, 2)
        elif (waiting := outbox.next()) is not None:
            if kind == "send":
                sent[waiting.camera].append(waiting.sequence)
            else:
                outbox.unsent(waiting)
        assert outbox.waiting <= 6 and outbox.waiting_bytes <= 200
        counts = outbox.counts().values()
        assert sum(c.captured - c.sent - c.dropped for c in counts) == outbox.waiting
    for numbers in sent.values():
        assert numbers == sorted(set(numbers))


@pytest.mark.timeout(30)
def test_no_frame_is_lost_between_threads():
    outbox = Outbox(["a", "b"], frames=3, max_bytes=10_000)
    threads = [threading.Thread(target=lambda c=c: [put(outbox, c) for _ in range(2000)]) for c in "ab"]
    for thread in threads:
        thread.start()
    taken = []
    while any(thread.is_alive() for thread in threads) or outbox.waiting:
        for camera in "ab":
            outbox.grant(camera, 3, now=0)
        taken += take_all(outbox)
    counts = outbox.counts()
    assert len(taken) == len(set(taken)) == sum(c.sent for c in counts.values())
    assert all(c.captured == 2000 == c.sent + c.dropped for c in counts.values())
