"""Which pictures of a take are not there, and why. Pure: what is there and what nodes say in, a list out.

A picture is named by its camera, its node's incarnation and its sequence; where cameras have triggers, triggers say how
many pictures there should be between two that are there, else sequences do. Before the first and after the last picture
of a camera, and where its node was restarted, the time does: one picture a period.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from protocol.messages import Lost
from protocol.spans import join, without

NOT_DELIVERED = "never captured: the camera delivered no picture"
_SLACK = 0.1  # of a period: so near to the take's ends a picture may be inside or outside
_CLEAR = 2.0  # periods by which triggers and times may differ across a restart before triggers are not believed
_FOREVER = 2**62


class Seen(NamedTuple):
    """One picture that is there. Sorts in the order in which a camera took them."""

    incarnation: int
    sequence: int
    trigger: int | None
    capture_ns: int  # server clock


@dataclass(frozen=True)
class Missing:
    """Pictures of one camera, taken one after the other, that are not in the take. Numbers are first and last."""

    camera: str
    frames: int
    triggers: tuple[int, int] | None
    sequences: tuple[int, int] | None  # of that incarnation; None where none was given out
    incarnation: int | None
    from_ns: int  # server clock, where it is not known as computed from the pictures before and after
    to_ns: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``take.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """What is asked of ``account``: one camera of one take.

    lost: by incarnation, what its node knows to be lost, with the reason. unknown: the reason for pictures that must
    have been there and of which nobody says anything; down: that for the time between two incarnations.
    """

    camera: str
    start_ns: int
    end_ns: int
    fps: float
    lost: Mapping[int, Sequence[Lost]]
    unknown: str = "not in the node's spool"
    down: str = "the node was down: killed or restarted"
    silent: str = NOT_DELIVERED  # from the last picture to the take's end
    late: str = "never captured: the node or its camera was not ready"  # from the take's start to the first picture


def account(question: Question, seen: Iterable[Seen]) -> list[Missing]:
    """Everything of the camera that is missing, in order. seen: what is there; pictures outside the take help."""
    there = sorted(set(seen))
    period = _period(there, question.fps)
    if not there:
        return _nothing(question, period)
    found = _before(question, there[0], period)
    for one, other in pairwise(there):
        if one.incarnation == other.incarnation:
            found += _within(question, one, other)
        else:
            found += _across(question, one, other, period)
    return found + _after(question, there[-1], period)


def _period(there: Sequence[Seen], fps: float) -> float:
    """Nanoseconds from one picture to the next."""
    steps = []
    for one, other in pairwise(there):
        pictures = other.sequence - one.sequence
        if one.trigger is not None and other.trigger is not None:
            pictures = max(pictures, other.trigger - one.trigger)
        if one.incarnation == other.incarnation and pictures > 0 and other.capture_ns > one.capture_ns:
            steps.append((other.capture_ns - one.capture_ns) / pictures)
    return statistics.median(steps) if len(steps) >= 3 else 1e9 / fps


def _within(q: Question, one: Seen, other: Seen) -> list[Missing]:
    """Between two pictures of one process."""
    numbered = other.sequence - one.sequence - 1
    due = numbered
    if one.trigger is not None and other.trigger is not None and other.trigger > one.trigger:
        due = max(numbered, other.trigger - one.trigger - 1)
    if due <= 0:
        return []
    step = (other.capture_ns - one.capture_ns) / (due + 1)
    pieces = _reasons(q, one.incarnation, one.sequence + 1, other.sequence - 1)
    if due == numbered:
        found = []
        for first, last, reason in pieces:
            triggers = None
            if one.trigger is not None and other.trigger is not None and other.trigger - one.trigger == due + 1:
                triggers = (one.trigger + first - one.sequence, one.trigger + last - one.sequence)
            span = one.capture_ns + step * (first - one.sequence), one.capture_ns + step * (last - one.sequence)
            found.append(_clipped(q, last - first + 1, triggers, (first, last), one.incarnation, span, reason))
        return [missing for missing in found if missing]
    # The camera gave fewer pictures than triggers: which of them were lost later cannot be told one by one.
    assert one.trigger is not None and other.trigger is not None
    reasons = [f"{last - first + 1}: {reason}" for first, last, reason in pieces]
    reason = "; ".join([*reasons, f"{due - numbered}: {NOT_DELIVERED}"]) if reasons else NOT_DELIVERED
    sequences = (one.sequence + 1, other.sequence - 1) if numbered else None
    span = one.capture_ns + step, other.capture_ns - step
    triggers = (one.trigger + 1, other.trigger - 1)
    missing = _clipped(q, due, triggers, sequences, one.incarnation if numbered else None, span, reason)
    return [missing] if missing else []


def _across(q: Question, one: Seen, other: Seen, period: float) -> list[Missing]:
    """Between the last picture of one process and the first of the next: losses at both ends, nothing between."""
    due = max(0, round((other.capture_ns - one.capture_ns) / period) - 1)
    by_trigger = False
    if one.trigger is not None and other.trigger is not None:
        by_trigger = (
            abs(other.trigger - one.trigger - 1 - due) <= max(_CLEAR, due * 0.02) and other.trigger > one.trigger
        )
        due = other.trigger - one.trigger - 1 if by_trigger else due
    tail, head = _tail(q, one, period), _head(q, other, period)
    between = [inc for inc in sorted(q.lost) if one.incarnation < inc < other.incarnation and q.lost[inc]]
    told = sum(missing.frames for missing in tail + head)
    lost = [_lost_alone(q, inc, one.capture_ns, other.capture_ns) for inc in between]
    rest = due - told - sum(missing.frames for missing in lost)
    down = []
    if rest > 0:
        first = tail[-1].to_ns + period if tail else one.capture_ns + period
        last = head[0].from_ns - period if head else other.capture_ns - period
        triggers = None
        if by_trigger and not lost and one.trigger is not None:
            begin = one.trigger + 1 + sum(missing.frames for missing in tail)
            triggers = (begin, begin + rest - 1)
        down = [_clipped(q, rest, triggers, None, None, (first, last), q.down)]
    return [*tail, *lost, *(missing for missing in down if missing), *head]


def _before(q: Question, first: Seen, period: float) -> list[Missing]:
    """From the take's start to the camera's first picture."""
    head = _head(q, first, period)
    known_ns = head[0].from_ns if head else first.capture_ns  # from here on every picture is there or accounted for
    rest = int((known_ns - q.start_ns) / period - _SLACK)
    if rest <= 0:
        return head
    triggers = None
    if first.trigger is not None:
        last = first.trigger - round((first.capture_ns - known_ns) / period) - 1
        triggers = (last - rest + 1, last) if last - rest + 1 >= 0 else None
    missing = _clipped(q, rest, triggers, None, None, (known_ns - period * rest, known_ns - period), q.late)
    return [*([missing] if missing else []), *head]


def _after(q: Question, last: Seen, period: float) -> list[Missing]:
    """From the camera's last picture to the take's end."""
    tail = _tail(q, last, period)
    known_ns = tail[-1].to_ns if tail else last.capture_ns
    lost = [_lost_alone(q, inc, known_ns, q.end_ns) for inc in sorted(q.lost) if inc > last.incarnation and q.lost[inc]]
    rest = int((q.end_ns - known_ns) / period - _SLACK) - sum(missing.frames for missing in lost)
    if rest <= 0:
        return tail + lost
    triggers = None
    if last.trigger is not None and not lost:
        first = last.trigger + round((known_ns - last.capture_ns) / period) + 1
        triggers = (first, first + rest - 1)
    missing = _clipped(q, rest, triggers, None, None, (known_ns + period, known_ns + period * rest), q.silent)
    return [*tail, *([missing] if missing else []), *lost]


def _nothing(q: Question, period: float) -> list[Missing]:
    """No picture at all is there."""
    lost = [_lost_alone(q, inc, q.start_ns, q.end_ns) for inc in sorted(q.lost) if q.lost[inc]]
    due = max(1, round((q.end_ns - q.start_ns) / period))
    rest = due - sum(missing.frames for missing in lost)
    if rest <= 0:
        return lost
    return [*lost, _made(q, rest, None, None, None, (q.start_ns, q.end_ns), q.late if not lost else q.unknown)]


def _tail(q: Question, one: Seen, period: float) -> list[Missing]:
    """What the process gave numbers to after its last picture that is there, as far as losses are known."""
    told = _told(q, one.incarnation, one.sequence + 1, _FOREVER)
    return _ends(q, one, period, one.sequence + 1, max((last for _, last, _ in told), default=-1))


def _head(q: Question, other: Seen, period: float) -> list[Missing]:
    """What the process gave numbers to before its first picture that is there, as far as losses are known."""
    told = _told(q, other.incarnation, 0, other.sequence - 1)
    return _ends(q, other, period, min((first for first, _, _ in told), default=_FOREVER), other.sequence - 1)


def _ends(q: Question, seen: Seen, period: float, low: int, high: int) -> list[Missing]:
    found = []
    low = max(
        low, seen.sequence - 1 - math.ceil((seen.capture_ns - q.start_ns) / period)
    )  # a node can say what it wants
    high = min(high, seen.sequence + 1 + math.ceil((q.end_ns - seen.capture_ns) / period))
    for first, last, reason in _reasons(q, seen.incarnation, low, high):
        span = tuple(seen.capture_ns + period * (number - seen.sequence) for number in (first, last))
        triggers = None
        if seen.trigger is not None and seen.trigger + first - seen.sequence >= 0:
            triggers = (seen.trigger + first - seen.sequence, seen.trigger + last - seen.sequence)
        missing = _clipped(q, last - first + 1, triggers, (first, last), seen.incarnation, (span[0], span[1]), reason)
        if missing:
            found.append(missing)
    return found


def _lost_alone(q: Question, incarnation: int, from_ns: int, to_ns: int) -> Missing:
    """A process of which no picture is there: what it says that it lost."""
    spans = join((first, last) for first, last, _ in q.lost[incarnation])
    reasons = "; ".join(dict.fromkeys(reason for _, _, reason in q.lost[incarnation]))
    most = round((to_ns - from_ns) * q.fps / 1e9)  # a node can say what it wants
    frames = min(sum(last - first + 1 for first, last in spans), max(1, most))
    sequences = (spans[0][0], spans[-1][1]) if spans else None
    return _made(q, frames, None, sequences, incarnation, (from_ns, to_ns), reasons)


def _reasons(q: Question, incarnation: int, low: int, high: int) -> list[Lost]:
    """Every sequence from low to high with the reason for its absence, in order."""
    if high < low:
        return []
    told = _told(q, incarnation, low, high)
    untold = without(((low, high),), join((first, last) for first, last, _ in told))
    return sorted([*told, *((first, last, q.unknown) for first, last in untold)])


def _told(q: Question, incarnation: int, low: int, high: int) -> list[Lost]:
    """What the node says of these sequences, each told once."""
    told: list[Lost] = []
    known: tuple[tuple[int, int], ...] = ()
    for first, last, reason in q.lost.get(incarnation, ()):
        for fresh in without(join([(max(first, low), min(last, high))]), known):
            told.append((*fresh, reason))
        known = join([*known, (max(first, low), min(last, high))])
    return sorted(told)


def _clipped(
    q: Question,
    frames: int,
    triggers: tuple[int, int] | None,
    sequences: tuple[int, int] | None,
    incarnation: int | None,
    span: tuple[float, float],
    reason: str,
) -> Missing | None:
    """The part of evenly spread pictures that was exposed within the take; None when no part was."""
    step = (span[1] - span[0]) / (frames - 1) if frames > 1 else 1.0
    skip = min(frames, max(0, math.ceil((q.start_ns - span[0]) / step)))
    drop = min(frames, max(0, math.ceil((span[1] - q.end_ns) / step)))
    left = frames - skip - drop
    if left <= 0:
        return None
    span = span[0] + skip * step, span[1] - drop * step
    if triggers:
        triggers = (triggers[0] + skip, triggers[1] - drop)
    if sequences and sequences[1] - sequences[0] + 1 == frames:
        sequences = (sequences[0] + skip, sequences[1] - drop)
    return _made(q, left, triggers, sequences, incarnation, span, reason)


def _made(
    q: Question,
    frames: int,
    triggers: tuple[int, int] | None,
    sequences: tuple[int, int] | None,
    incarnation: int | None,
    span: tuple[float, float],
    reason: str,
) -> Missing:
    return Missing(q.camera, frames, triggers, sequences, incarnation, round(span[0]), round(span[1]), reason)
