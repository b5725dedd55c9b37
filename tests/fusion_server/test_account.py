"""What is missing from a take, and why: every picture that should be there is there or in the list, once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_server.takes.account import NOT_DELIVERED, Missing, Question, Seen, account
from protocol.spans import of_numbers

PERIOD = 10**8  # 10 fps
START, END = 1000 * PERIOD + 1, 1100 * PERIOD - 1  # triggers 1001 to 1099


def seen(triggers, incarnation=1, first=1000, with_trigger=True):
    """Pictures of a camera whose sequence 0 is trigger ``first``."""
    return [Seen(incarnation, t - first, t if with_trigger else None, t * PERIOD) for t in triggers]


def question(lost=None, **changes):
    return Question("cam0", START, END, 10.0, lost or {}, **changes)


def test_a_whole_take_misses_nothing_whatever_lies_around_it():
    assert account(question(), seen(range(1001, 1100))) == []
    assert account(question(), seen(range(990, 1200), first=900)) == []
    assert account(question(), seen(range(1001, 1100), with_trigger=False)) == []


def test_pictures_that_the_node_lost_have_its_reasons_and_their_triggers():
    there = seen([*range(1001, 1020), *range(1030, 1100)])
    missing = account(question({1: [(20, 24, "disk full at 12:03:11")]}), there)
    assert missing == [
        Missing("cam0", 5, (1020, 1024), (20, 24), 1, 1020 * PERIOD, 1024 * PERIOD, "disk full at 12:03:11"),
        Missing("cam0", 5, (1025, 1029), (25, 29), 1, 1025 * PERIOD, 1029 * PERIOD, "not in the node's spool"),
    ]


def test_triggers_that_the_camera_did_not_answer_were_never_captured():
    there = [Seen(1, i, t, t * PERIOD) for i, t in enumerate([*range(1001, 1020), *range(1023, 1100)])]
    (missing,) = account(question(), there)
    assert (missing.frames, missing.triggers, missing.sequences, missing.reason) == (
        3,
        (1020, 1022),
        None,
        NOT_DELIVERED,
    )


def test_one_gap_with_both_is_counted_by_trigger():
    there = [Seen(1, t - 1001, t, t * PERIOD) for t in range(1001, 1020)]
    there += [Seen(1, t - 1001 - 4, t, t * PERIOD) for t in range(1030, 1100)]  # 10 triggers, 6 sequences
    (missing,) = account(question({1: [(19, 24, "disk full")]}), there)
    assert (missing.frames, missing.triggers, missing.sequences) == (10, (1020, 1029), (19, 24))
    assert missing.reason == f"6: disk full; 4: {NOT_DELIVERED}"


def test_a_node_that_was_down_captured_nothing_meanwhile():
    there = seen(range(1001, 1020)) + seen(range(1070, 1100), incarnation=2, first=1070)
    (missing,) = account(question(), there)
    assert (missing.frames, missing.triggers, missing.incarnation) == (50, (1020, 1069), None)
    assert missing.reason == "the node was down: killed or restarted"


def test_losses_at_both_ends_of_a_restart_keep_their_reasons():
    there = seen(range(1001, 1020)) + seen(range(1070, 1100), incarnation=2, first=1065)
    missing = account(question({1: [(20, 29, "disk full")], 2: [(0, 4, "disk slow")]}), there)
    assert [(m.frames, m.triggers, m.reason) for m in missing] == [
        (10, (1020, 1029), "disk full"),
        (35, (1030, 1064), "the node was down: killed or restarted"),
        (5, (1065, 1069), "disk slow"),
    ]


def test_a_camera_whose_counter_starts_again_with_its_node_is_counted_by_time():
    there = seen(range(1001, 1020))
    there += [Seen(2, i, i + 1, (1070 + i) * PERIOD) for i in range(30)]
    (missing,) = account(question(), there)
    assert (missing.frames, missing.triggers) == (50, None)


def test_the_ends_of_the_take_belong_to_it():
    missing = account(question(), seen(range(1011, 1080), first=1011))
    assert [(m.frames, m.triggers) for m in missing] == [(10, (1001, 1010)), (20, (1080, 1099))]
    assert missing[0].reason == "never captured: the node or its camera was not ready"
    assert missing[1].reason == NOT_DELIVERED


def test_losses_outside_the_take_are_none_of_it():
    lost = {1: [(0, 10, "before"), (100, 150, "partly"), (200, 2**62, "after")]}
    there = [s for s in seen(range(950, 1050), first=900) if not 100 <= s.sequence <= 150]
    missing = account(question(lost), there)
    assert [(m.frames, m.triggers, m.reason) for m in missing] == [
        (50, (1001, 1050), "partly"),
        (49, (1051, 1099), "not in the node's spool"),  # numbers were given out, as there are some after them
    ]


def test_a_camera_without_any_picture():
    (missing,) = account(question(), [])
    assert (missing.frames, missing.reason) == (100, "never captured: the node or its camera was not ready")
    missing = account(question({7: [(0, 2**62, "disk full")]}), [])
    assert [(m.frames, m.reason) for m in missing] == [(100, "disk full")]


def test_a_node_that_does_not_answer_is_the_reason_of_everything():
    away = "node pc1 has not come back"
    there = seen([*range(1001, 1020), *range(1030, 1050)])
    missing = account(question(None, unknown=away, down=away, silent=away, late=away), there)
    assert [(m.frames, m.reason) for m in missing] == [(10, away), (50, away)]


@settings(deadline=None, derandomize=True)
@given(
    st.sets(st.integers(1001, 1099), min_size=4),
    st.sets(st.integers(1001, 1099)),
    st.booleans(),
)
def test_every_trigger_is_there_or_listed_once(present, dropped, told):
    """Of the pictures between the take's ends some are there, some were lost by the node, which may say so or not."""
    there = seen(sorted(present))
    gone = sorted(dropped - present)
    lost = {1: [(first, last, "disk full") for first, last in of_numbers(t - 1000 for t in gone)]} if told else {}
    missing = account(question(lost), there)
    listed = [t for m in missing for t in range(m.triggers[0], m.triggers[1] + 1)]
    assert len(listed) == len(set(listed)) == sum(m.frames for m in missing)
    assert set(listed) | present == set(range(1001, 1100)) and not set(listed) & present
    if told:
        assert {t for m in missing if m.reason == "disk full" for t in range(m.triggers[0], m.triggers[1] + 1)} == set(
            gone
        )
    assert [m.from_ns for m in missing] == sorted(m.from_ns for m in missing)


@pytest.mark.parametrize("with_trigger", [True, False])
def test_pictures_that_jitter_miss_nothing(with_trigger):
    there = [
        s._replace(capture_ns=s.capture_ns + (-1) ** s.sequence * PERIOD // 50)
        for s in seen(range(1001, 1100), with_trigger=with_trigger)
    ]
    assert account(question(), there) == []
