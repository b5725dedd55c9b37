"""One take's backfill, step by step, against nodes that are there, go away, say nonsense or say nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_server.takes.account import Seen
from fusion_server.takes.backfill import TakeBackfill
from protocol.messages import Fetch, Fetched, FrameHeader, Holding, Holdings, Inventory, Release
from protocol.spans import numbers, of_numbers

PERIOD = 10**8
START, END = 1, 100 * PERIOD + PERIOD // 2


def header(camera: str, sequence: int, incarnation: int = 5) -> FrameHeader:
    at = (sequence + 1) * PERIOD
    return FrameHeader(camera, "pc0", sequence, sequence, at, at, 0, 5, 6, 4, incarnation)


def seen(sequences, incarnation: int = 5) -> list[Seen]:
    return [Seen(incarnation, i, i, (i + 1) * PERIOD) for i in sequences]


def make(have=(), cameras=("a",)) -> TakeBackfill:
    return TakeBackfill("t_001", START, END, {"pc0": cameras}, {"a": seen(have)}, 1000)


def ask(work: TakeBackfill, now: float = 0.0, connected=("pc0",)):
    questions = work.questions(connected, now)
    assert len(questions) <= 1
    return questions[0][1] if questions else None


def hold(work: TakeBackfill, held, lost=(), now: float = 0.0, camera: str = "a") -> None:
    question = ask(work, now)
    assert isinstance(question, Inventory) and (question.take, question.start_ns, question.end_ns) == (
        "t_001",
        START,
        END,
    )
    answer = Holdings(question.number, "t_001", 0, 1, True, (Holding(camera, 5, held, lost),))
    assert work.holdings("pc0", answer, now)


def test_only_what_is_not_there_is_asked_for_a_few_at_a_time():
    work = make(have=range(10, 20))
    hold(work, ((0, 40),))
    assert work.wanted == 31 and not work.done
    got = []
    while not work.done:
        question = ask(work)
        assert isinstance(question, Fetch) and (question.camera, question.incarnation) == ("a", 5)
        assert ask(work) is None, "one question at a time"
        for sequence in list(numbers(question.spans))[:16]:
            assert work.frame("pc0", question.number, header("a", sequence), 0.0)
            got.append(sequence)
        assert len(list(numbers(question.spans))) <= 16
        assert work.fetched_all("pc0", Fetched(question.number, 0, ()))
    assert sorted(got) == [*range(10), *range(20, 41)]
    assert work.releases() == [("pc0", Release("t_001"))]


def test_a_take_that_is_still_written_is_asked_for_again_after_a_while():
    work = make()
    question = ask(work)
    assert work.holdings("pc0", Holdings(question.number, "t_001", 0, 1, False, ()), 0.0)
    assert ask(work, 0.1) is None
    assert isinstance(ask(work, 1.0), Inventory)


def test_an_inventory_in_parts_counts_when_all_are_there():
    work = make()
    number = ask(work).number
    parts = [Holdings(number, "t_001", i, 3, True, (Holding("a", 5, ((10 * i, 10 * i + 9),), ()),)) for i in range(3)]
    for part in (parts[2], parts[0]):
        assert work.holdings("pc0", part, 0.0)
        assert work.wanted == 0 and not work.done
    work.holdings("pc0", parts[1], 0.0)
    assert work.wanted == 30


def test_silence_is_asked_again_without_what_has_come():
    work = make()
    hold(work, ((0, 5),))
    first = ask(work)
    assert work.frame("pc0", first.number, header("a", 0), 1.0)
    assert ask(work, 5.9) is None
    again = ask(work, 6.1)
    assert again.spans == ((1, 5),) and again.number != first.number
    assert not work.frame("pc0", first.number, header("a", 1), 6.2), "the old question is void"
    assert not work.fetched_all("pc0", Fetched(first.number, 1, ()))


def test_when_everything_came_but_the_word_that_ends_it_the_node_is_asked_what_there_is():
    work = make()
    hold(work, ((0, 1),))
    question = ask(work)
    for i in range(2):
        work.frame("pc0", question.number, header("a", i), 0.0)
    hold(work, ((0, 1),), now=6.0)
    assert work.done


def test_a_node_that_comes_back_is_asked_from_the_beginning_and_sends_nothing_twice():
    work = make()
    hold(work, ((0, 5),))
    question = ask(work)
    work.frame("pc0", question.number, header("a", 3), 0.0)
    assert ask(work, 1.0, connected=()) is None and not work.done
    assert work.waiting_for(()) == ["pc0"]
    hold(work, ((0, 5),), now=2.0)
    assert ask(work, 2.0).spans == ((0, 2), (4, 5))


def test_what_was_not_asked_for_is_refused():
    work = make(cameras=("a", "b"))
    assert not work.frame("pc0", 1, header("a", 0), 0.0)
    assert not work.holdings("pc0", Holdings(1, "t_001", 0, 1, True, ()), 0.0)
    hold(work, ((0, 5),))
    question = ask(work)
    for node, number, h in (
        ("pc9", question.number, header("a", 0)),
        ("pc0", question.number + 1, header("a", 0)),
        ("pc0", question.number, header("b", 0)),
        ("pc0", question.number, header("a", 6)),
        ("pc0", question.number, header("a", 0, incarnation=6)),
    ):
        assert not work.frame(node, number, h, 0.0)
    assert work.frame("pc0", question.number, header("a", 0), 0.0)
    assert not work.frame("pc0", question.number, header("a", 0), 0.0), "twice"
    assert not work.fetched_all("pc9", Fetched(question.number, 0, ()))
    assert work.fetched == 1


def test_cameras_of_other_nodes_in_an_answer_count_for_nothing():
    work = make()
    hold(work, ((0, 5),), camera="b")
    assert work.done and work.wanted == 0


def test_a_node_that_promises_and_does_not_send_is_given_up():
    work = make()
    hold(work, ((0, 2**62),))
    assert work.wanted <= (END - START) // 10**6 + 1000
    for _ in range(3):
        assert not work.done
        assert work.fetched_all("pc0", Fetched(ask(work).number, 16, ()))
    assert work.done
    (missing,) = work.account(10.0)
    assert missing.frames == 100 and missing.reason == "node pc0 says that it has it and does not send it"


def test_what_turns_out_to_be_lost_is_not_asked_for_again_and_is_named():
    work = make(have=[0])
    hold(work, ((0, 99),), lost=())
    while not work.done:
        question = ask(work)
        wanted = list(numbers(question.spans))
        for sequence in wanted:
            if sequence not in (7, 8):
                work.frame("pc0", question.number, header("a", sequence), 0.0)
        lost = ((0, 8, "spool file damaged at byte 99"),) if 7 in wanted else ()
        work.fetched_all("pc0", Fetched(question.number, 0, lost))
    (missing,) = work.account(10.0)
    assert (missing.sequences, missing.reason) == ((7, 8), "spool file damaged at byte 99")


def test_before_a_node_has_answered_it_is_the_reason():
    work = make(have=range(50))
    (missing,) = work.account(10.0)
    assert (missing.frames, missing.reason) == (50, "node pc0 has not come back")
    hold(work, ((0, 99),))
    (missing,) = work.account(10.0)
    assert (missing.frames, missing.reason) == (50, "node pc0 has it and has not come back")


class Unreliable:
    """A node that holds pictures, of which some are torn, and whose connection breaks again and again."""

    def __init__(self, rng: random.Random, held: set[int], torn: set[int]):
        self.rng, self.held, self.torn = rng, held, torn

    def answer(self, work: TakeBackfill, question, now: float) -> None:
        if isinstance(question, Inventory):
            if self.rng.random() < 0.8:
                closed = self.rng.random() < 0.7
                holding = Holding("a", 5, of_numbers(self.held), ((2**40, 2**40, "later"),))
                parts = (holding,) if closed else ()
                work.holdings("pc0", Holdings(question.number, "t_001", 0, 1, closed, parts), now)
            return
        breaks = self.rng.random() < 0.4  # the connection, somewhere on the way
        for sequence in numbers(question.spans):
            if breaks and self.rng.random() < 0.2:
                return
            if sequence not in self.torn:
                work.frame("pc0", question.number, header("a", sequence), now)
        if not breaks:  # it comes behind the frames by the same connection
            lost = tuple((i, i, "damaged") for i in numbers(question.spans) if i in self.torn)
            work.fetched_all("pc0", Fetched(question.number, 1, lost))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
def test_whatever_goes_wrong_on_the_way_everything_held_comes_or_is_named(seed, held, torn, have):
    rng = random.Random(seed)
    node = Unreliable(rng, held, torn)
    work = make(have=have)
    now = 0.0
    for _ in range(3000):
        now += rng.choice((0.1, 1.0, 6.0))
        connected = ("pc0",) if rng.random() < 0.9 else ()
        for _, question in work.questions(connected, now):
            node.answer(work, question, now)
        if work.done:
            break
    assert work.done
    there = {s.sequence for s in work.seen["a"]}
    assert there == have | (held - torn)
    missing = work.account(10.0)
    assert sum(m.frames for m in missing) == 100 - len(there)


@pytest.mark.parametrize("parts", [1000])
def test_an_inventory_of_the_most_parts_is_bounded(parts):
    work = make()
    number = ask(work).number
    for i in range(parts):
        work.holdings("pc0", Holdings(number, "t_001", i, parts, True, (Holding("a", 5, ((2 * i, 2 * i),), ()),)), 0.0)
    assert work.wanted == parts
