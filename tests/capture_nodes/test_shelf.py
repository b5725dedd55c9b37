"""What a node answers about its spool."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_nodes.shelf import Shelf, paged
from capture_nodes.spool_file import SpoolWriter, file_name
from protocol.fields import MOST_LOST
from protocol.messages import (
    Fetch,
    Fetched,
    Frame,
    FrameHeader,
    Holding,
    Holdings,
    Inventory,
    Release,
    Spooled,
    pack_control,
    unpack_control,
    unpack_frame,
)
from protocol.spans import join

EVER = (0, 2**62)


def frame(sequence, camera="a", incarnation=5, sigma=7, size=1000, offset=0):
    at = sequence * 10
    header = FrameHeader(camera, "pc1", sequence, sequence, at, at, offset, sigma, 6, 4, incarnation)
    return Frame(header, bytes([1 + sequence % 250]) * size)


class OpenTake:
    """A spool that still writes the take."""

    keep = False

    def __init__(self):
        self.open = {"t_001"}

    def is_open(self, take):
        return take in self.open

    def unwritten(self, take, camera):
        return [(90, 91, "disk full")]


@pytest.fixture
def make(tmp_path):
    made = []

    def shelf(spool=None, cameras=("a",)):
        made.append(Shelf("pc1", cameras, tmp_path, spool, lambda: None))
        made[-1].start()
        return made[-1]

    yield shelf
    for it in made:
        it.close()


@pytest.fixture
def spooled(tmp_path):
    """Pictures 0 to 9 of camera a, of which 4 and 5 were lost, in take t_001."""
    writer = SpoolWriter(tmp_path / "t_001" / file_name("a", 5))
    for i in (0, 1, 2, 3):
        writer.frame(frame(i))
    writer.lost(4, 5, "disk full at 12:03:11")
    for i in (6, 7, 8, 9):
        writer.frame(frame(i))
    writer.end("the take ended")
    writer.close()
    return writer.path


def answer(shelf, seconds=5.0):
    end = time.monotonic() + seconds
    while (found := shelf.next()) is None:
        assert time.monotonic() < end, "no answer"
        time.sleep(0.002)
    return found


def said(shelf):
    return unpack_control(answer(shelf).parts[0])


def fetched(shelf):
    """Sequences of the pictures, and the Fetched that ends them."""
    sequences = []
    while True:
        found = answer(shelf)
        assert found.data
        if len(found.parts) == 1:
            return sequences, unpack_control(found.parts[0])
        head, jpeg, mark = found.parts
        taken = unpack_frame([head, jpeg])
        assert taken == frame(taken.header.sequence)
        sequences.append((taken.header.sequence, unpack_control(mark)))


def test_the_inventory_says_what_is_held_and_what_is_lost(make, spooled):
    shelf = make()
    shelf.ask(Inventory(3, "t_001", *EVER))
    holding = Holding("a", 5, ((0, 3), (6, 9)), ((4, 5, "disk full at 12:03:11"),))
    assert said(shelf) == Holdings(3, "t_001", 0, 1, True, (holding,))


def test_the_inventory_is_of_the_takes_time(make, spooled):
    shelf = make()
    shelf.ask(Inventory(3, "t_001", 15, 75))
    assert said(shelf).holdings[0].held == ((2, 3), (6, 7))
    shelf.ask(Inventory(4, "t_001", 1000, 2000))
    assert said(shelf).holdings[0].held == ()


def test_pictures_of_unknown_time_are_of_every_time(make, tmp_path):
    writer = SpoolWriter(tmp_path / "t_001" / file_name("a", 5))
    for i in range(4):
        writer.frame(frame(i, sigma=10**15))
    writer.close()
    shelf = make()
    shelf.ask(Inventory(3, "t_001", 1000, 2000))
    assert said(shelf).holdings[0].held == ((0, 3),)


def test_pictures_from_before_the_clock_was_known_are_timed_by_the_first_that_knew_it(make, tmp_path):
    writer = SpoolWriter(tmp_path / "t_001" / file_name("a", 5))
    for i in range(6):
        writer.frame(frame(i, sigma=10**15))
    for i in range(6, 10):
        writer.frame(frame(i, offset=1000))
    writer.close()
    shelf = make()
    shelf.ask(Inventory(3, "t_001", 1035, 1075))
    assert said(shelf).holdings[0].held == ((4, 7),)


def test_a_take_that_is_unknown_or_not_this_nodes_holds_nothing(make, spooled, tmp_path):
    shelf = make(cameras=("b",))
    for take in ("t_001", "t_999"):
        shelf.ask(Inventory(3, take, *EVER))
        assert said(shelf) == Holdings(3, take, 0, 1, True, ())


def test_a_take_that_is_still_written_is_to_be_asked_for_again(make, spooled):
    spool = OpenTake()
    shelf = make(spool)
    shelf.ask(Inventory(3, "t_001", *EVER))
    assert said(shelf) == Holdings(3, "t_001", 0, 1, False, ())
    shelf.ask(Release("t_001"))
    shelf.ask(Inventory(3, "t_001", *EVER))
    assert not said(shelf).closed
    spool.open.clear()
    shelf.ask(Inventory(4, "t_001", *EVER))
    assert said(shelf).holdings[0].lost == ((4, 5, "disk full at 12:03:11"), (90, 91, "disk full"))
    assert spooled.exists(), "what is still written is not deleted"


def test_pictures_are_fetched_as_they_lie_there(make, spooled):
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((1, 2), (4, 6)), 10**6))
    sequences, end = fetched(shelf)
    assert sequences == [(1, Spooled(9)), (2, Spooled(9)), (6, Spooled(9))]
    missing = "not in the node's spool"
    assert end == Fetched(9, 3, ((4, 4, missing), (5, 5, missing)))


def test_bytes_are_bounded_and_one_picture_always_goes(make, spooled):
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((0, 3),), 2000))
    assert [sequence for sequence, _ in fetched(shelf)[0]] == [0, 1]
    shelf.ask(Fetch(10, "t_001", "a", 5, ((0, 3),), 1))
    assert [sequence for sequence, _ in fetched(shelf)[0]] == [0]


def test_a_damaged_picture_is_named(make, spooled):
    data = bytearray(spooled.read_bytes())
    at = data.index(b"\x03" * 100)
    data[at + 50] ^= 1
    spooled.write_bytes(data)
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((1, 3),), 10**6))
    sequences, end = fetched(shelf)
    assert [sequence for sequence, _ in sequences] == [1, 3]
    ((first, last, reason),) = end.lost
    assert (first, last) == (2, 2) and reason.startswith("spool file damaged at byte ")


def test_a_file_that_is_gone_is_named(make, tmp_path):
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((1, 3),), 10**6))
    assert fetched(shelf) == ([], Fetched(9, 0, ((1, 3, "spool file cannot be read (No such file or directory)"),)))


def test_a_new_question_takes_the_place_of_the_old_one(make, spooled):
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((0, 3),), 10**6))
    answer(shelf)
    shelf.ask(Fetch(10, "t_001", "a", 5, ((8, 9),), 10**6))
    assert {mark.number for _, mark in fetched(shelf)[0]} == {10}
    shelf.ask(Fetch(11, "t_001", "a", 5, ((0, 3),), 10**6))
    answer(shelf)
    shelf.forget()
    time.sleep(0.05)
    assert shelf.next() is None and not shelf.waiting


def test_an_answer_that_could_not_be_sent_is_the_next_again(make, spooled):
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((0, 1),), 10**6))
    first = answer(shelf)
    shelf.unsent(first)
    assert answer(shelf) == first


def test_answers_wait_bounded_in_bytes(make, tmp_path, monkeypatch):
    monkeypatch.setattr("capture_nodes.shelf._WAITING_BYTES", 3000)
    writer = SpoolWriter(tmp_path / "t_001" / file_name("a", 5))
    for i in range(20):
        writer.frame(frame(i))
    writer.close()
    shelf = make()
    shelf.ask(Fetch(9, "t_001", "a", 5, ((0, 19),), 10**6))
    time.sleep(0.1)
    assert shelf._waiting <= 3000
    assert len(fetched(shelf)[0]) == 20


def test_released_takes_are_deleted_or_marked(make, spooled):
    spool = OpenTake()
    spool.open.clear()
    spool.keep = True
    shelf = make(spool)
    shelf.ask(Release("t_001"))
    shelf.ask(Release("t_002"))
    shelf.ask(Inventory(4, "t_001", *EVER))
    assert said(shelf).holdings[0].held
    assert (spooled.parent / "pc1.released").exists() and spooled.exists()
    spool.keep = False
    shelf.ask(Release("t_001"))
    shelf.ask(Inventory(5, "t_001", *EVER))
    assert said(shelf).holdings == () and not spooled.parent.exists()


spans = st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 3)), max_size=3000).map(
    lambda pairs: join((first, first + more) for first, more in pairs)
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(spans, st.integers(0, 300)), max_size=4))
def test_paged_holdings_each_fit_and_together_are_the_whole(wholes):
    holdings = [
        Holding(f"c{i}", i, held, tuple((n, n, "x" * 100) for n in range(lost)))
        for i, (held, lost) in enumerate(wholes)
    ]
    parts = paged(holdings)
    together: dict[str, tuple] = {}
    for i, part in enumerate(parts):
        unpack_control(pack_control(Holdings(1, "t", i, len(parts), True, part)))
        assert sum(len(h.lost) for h in part) <= MOST_LOST
        for h in part:
            held, lost = together.get(h.camera, ((), ()))
            together[h.camera] = held + h.held, lost + h.lost
    assert together == {h.camera: (h.held, h.lost) for h in holdings}
