"""A node's clock against the server's: offset, drift and how well both are known, out of four timestamps an exchange.

The node sends at t0 (its clock), the server receives at t1 and answers at t2 (the server's clock), the answer arrives
at t3 (the node's clock), as NTP does it (RFC 5905 section 8). Then ``rtt = (t3 - t0) - (t2 - t1)`` and ``offset =
((t1 - t0) + (t2 - t3)) / 2``, and whatever the two ways took, the true offset lies within rtt / 2 of that. The exchange
with the least rtt knows best, as queues only ever add.

So of every few exchanges only the one with the least rtt is kept, and a line is laid through those of the last 50 s:
its height is the offset, its slope the drift. Each weighs by what its rtt has beyond the least one and by its age, as
no crystal keeps its rate for ever. Before there is much to lay a line through, the slope is held near zero by what
crystals do. All times are integer nanoseconds. No clock is read here: values in, values out.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import NamedTuple

UNKNOWN_SIGMA_NS = 10**15  # eleven days: what a frame carries before the first exchange
_WINDOW = 16  # exchanges of which the least rtt counts as today's
_GROUP = 8  # exchanges of which one is kept for the line
_KEPT = 24  # kept ones: 48 s at four exchanges a second
_FEW = 2  # kept ones: until then every exchange of the group counts
_SHORTER = (6, 12)  # of the kept ones, where a line does not fit all of them
_MISFIT = 4.0  # times worse than the best fit is too bad
_CRYSTAL = 50e-6  # one standard deviation of the rate of two clocks that run free
_WANDER = 0.3e-6  # how much a rate has changed after a while, one standard deviation
_STAMP_NS = 1_500.0  # scatter of a timestamp itself
_FLOOR = 3  # exchanges that should be about as quick as the quickest, where that met no queue
_DOUBT = 4.0  # standard deviations beyond which an exchange contradicts what was known
_STEP_NS = 1_000_000  # the node's clock against its own monotonic one, from one look to the next: more was a step
_LINGER_NS = 5_000_000_000  # pictures from before a step may still wait to be sent for so long
JUMP_NS = 500_000  # a contradiction larger than this is a clock that was set; smaller, one that was sped up or slowed


class Exchange(NamedTuple):
    """One exchange: how long it was on its way, what it says of the offset, and the node's clock in its middle."""

    rtt_ns: int
    offset_ns: int
    at_ns: int


class ClockState(NamedTuple):
    """What a node knows of its clock at one moment; server clock = node clock + offset_ns."""

    offset_ns: int
    sigma_ns: int  # one standard deviation of offset_ns; UNKNOWN_SIGMA_NS before the first exchange
    drift_ppm: float  # how much faster the server's clock runs than the node's
    rtt_ns: int  # least of the last exchanges
    jumps: int  # times that one of the two clocks was set, since the node started


class _Line(NamedTuple):
    """offset(t) = offset_ns + drift * (t - at_ns), and the variances of both."""

    at_ns: int
    offset_ns: float  # beyond base_ns, which keeps it exact
    base_ns: int
    drift: float
    offset_var: float
    drift_var: float
    ways_var: float  # the two ways of the best exchange may differ by its rtt; no averaging helps against that
    newest_ns: int
    rtt_ns: int  # least of the last exchanges

    def at(self, node_ns: int) -> int:
        return self.base_ns + round(self.offset_ns + self.drift * (node_ns - self.at_ns))

    def sigma(self, node_ns: int) -> int:
        away, ahead = node_ns - self.at_ns, abs(node_ns - self.newest_ns)
        wander = (_WANDER * ahead) ** 2
        variance = self.offset_var + self.drift_var * away * away + self.ways_var + wander
        return min(UNKNOWN_SIGMA_NS, max(1, round(math.sqrt(variance))))


class ClockFilter:
    """Offset, drift and uncertainty by the best exchanges; ``add`` them, and ask for any moment of the node's clock.

    Safe between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of those who change it
        self._recent: deque[Exchange] = deque(maxlen=_WINDOW)
        self._kept: deque[Exchange] = deque(maxlen=_KEPT)  # the best of each group, oldest first
        self._group: list[Exchange] = []  # the group that is not full yet
        self._line: _Line | None = None
        self._before: tuple[_Line, int, int] | None = None  # until the node's clock stepped: line, last and first time
        self._looked: tuple[int, int, int] | None = None
        self._now_ns = 0  # the node's clock when it was last heard of
        self._last: tuple[_Line, int, tuple[int, int]] | None = None  # what ``at`` was asked for last
        self.jumps = 0
        self.steps = 0  # those jumps that ``look`` saw

    @property
    def known(self) -> bool:
        """Whether any exchange was taken; before that offsets are 0 and sigmas UNKNOWN_SIGMA_NS."""
        return self._line is not None

    @property
    def rtt_ns(self) -> int:
        """The least round trip of the last exchanges; 0 before the first."""
        return self._line.rtt_ns if self._line else 0

    @property
    def drift_ppm(self) -> float:
        """How much faster the server's clock runs than the node's, parts in a million; 0 before it is known."""
        return self._line.drift * 1e6 if self._line else 0.0

    def at(self, node_ns: int) -> tuple[int, int]:
        """Server clock minus node clock when the node's clock showed this, and one standard deviation of it, ns.

        The deviation grows with the time since the last exchange; 0 and UNKNOWN_SIGMA_NS before the first.
        """
        line = self._line_of(node_ns)
        if line is None:
            return 0, UNKNOWN_SIGMA_NS
        last = self._last  # a picture is asked for twice: for the disk and for the network
        if last is None or last[0] is not line or last[1] != node_ns:
            self._last = last = (line, node_ns, (line.at(node_ns), line.sigma(node_ns)))
        return last[2]

    def offset_at(self, node_ns: int) -> int:
        """The first of ``at``."""
        return self.at(node_ns)[0]

    def sigma_at(self, node_ns: int) -> int:
        """The second of ``at``."""
        return self.at(node_ns)[1]

    def state(self, node_ns: int) -> ClockState:
        """Everything at once, at this moment of the node's clock."""
        drift = round(self.drift_ppm, 3)
        return ClockState(*self.at(node_ns), drift, self.rtt_ns, self.jumps)

    def add(self, t0: int, t1: int, t2: int, t3: int, steps: int = 0) -> bool:
        """Take one exchange; False when it cannot be true (a clock was set during it) and is left out.

        steps: what ``steps`` was when t0 was read.

        An exchange that contradicts what is known, by more than its round trip and any doubt allow, means that a clock
        was set meanwhile (or is being slewed): what was known before is forgotten.
        """
        with self._lock:
            return steps == self.steps and self._add(t0, t1, t2, t3)

    def _add(self, t0: int, t1: int, t2: int, t3: int) -> bool:
        rtt = (t3 - t0) - (t2 - t1)
        if rtt < 0 or t3 < t0 or t2 < t1:
            return False
        self._now_ns = t3
        new = Exchange(rtt, ((t1 - t0) + (t2 - t3)) // 2, (t0 + t3) // 2)
        if self._line is not None:
            away = abs(new.offset_ns - self._line.at(new.at_ns))
            if new.at_ns < self._line.newest_ns or away > rtt / 2 + _DOUBT * self._line.sigma(new.at_ns):
                self.jumps += away > rtt / 2 + JUMP_NS
                self._forget()
        self._recent.append(new)
        self._group.append(new)
        self._lay(new.at_ns)
        if len(self._group) == _GROUP:
            self._kept.append(min(self._group))
            self._group.clear()
        return True

    def look(self, before_ns: int, wall_ns: int, after_ns: int) -> int:
        """Watch the node's clock for steps: its monotonic clock, its clock, its monotonic clock again, read in a row.

        A step shows at once and to the microsecond, long before the next exchange: all that is known moves with it.
        Returns the step, 0 for none. Times before a step keep the offset that was theirs.
        """
        with self._lock:
            return self._look(before_ns, wall_ns, after_ns)

    def _look(self, before_ns: int, wall_ns: int, after_ns: int) -> int:
        seen, self._looked, self._now_ns = self._looked, (before_ns, wall_ns, after_ns), wall_ns
        if seen is None:
            return 0
        most = (wall_ns - before_ns) - (seen[1] - seen[2])
        least = (wall_ns - after_ns) - (seen[1] - seen[0])
        if least <= _STEP_NS and most >= -_STEP_NS:
            return 0
        step = (least + most) // 2
        self.jumps += 1
        self.steps += 1
        if self._line is not None:
            self._before = (self._line, seen[1] + after_ns - seen[0], wall_ns)
            self._recent = deque((_moved(each, step) for each in self._recent), _WINDOW)
            self._kept = deque((_moved(each, step) for each in self._kept), _KEPT)
            self._group = [_moved(each, step) for each in self._group]
            self._lay(self._line.newest_ns + step)
        return step

    def _line_of(self, node_ns: int) -> _Line | None:
        """The line that holds at a moment: the one before the last step for what was exposed before it."""
        before, now_ns = self._before, self._now_ns
        if before is not None and now_ns - before[2] <= _LINGER_NS:
            line, last_ns, first_ns = before
            step = first_ns - last_ns
            if node_ns <= last_ns if step > 0 else node_ns > now_ns - step // 2:
                return line  # earlier than a step forward or, as nothing is exposed in the future, than one back
        return self._line

    def _forget(self) -> None:
        self._recent.clear()
        self._kept.clear()
        self._group.clear()

    def _lay(self, now_ns: int) -> None:
        """The line through as many of the kept exchanges as one line fits: fewer where the rate has changed."""
        few = len(self._kept) < _FEW
        points = [*self._kept, *(self._group if few or not self._group else [min(self._group)])]
        least, *others = sorted({*points, *self._recent})[:_FLOOR]
        # Of an exchange that took longer by x, up to x / 2 may be a queue on one way. Even the best one may have met a
        # queue: how near the next best come says how likely that is.
        floor = (others[-1].rtt_ns - least.rtt_ns) / 2 if others else 0.0
        doubts = [
            _STAMP_NS**2 + floor**2 + ((rtt - least.rtt_ns) / 2) ** 2 + (_WANDER * (now_ns - at)) ** 2
            for rtt, _, at in points
        ]
        fits = [_fit(points[-n:], doubts[-n:]) for n in {len(points), *(n for n in _SHORTER if n < len(points))}]
        best = min(fit.worse for fit in fits)
        fit = max((fit for fit in fits if fit.worse <= _MISFIT * best), key=lambda fit: fit.points)
        self._line = _Line(
            at_ns=fit.at_ns,
            offset_ns=fit.offset_ns,
            base_ns=fit.base_ns,
            drift=fit.drift,
            offset_var=fit.worse / fit.total,
            drift_var=fit.worse / fit.along,
            ways_var=(min(self._recent).rtt_ns / 2) ** 2 / 3,  # uniform within rtt / 2
            newest_ns=now_ns,
            rtt_ns=min(self._recent).rtt_ns,
        )


class _Fit(NamedTuple):
    at_ns: int
    offset_ns: float
    base_ns: int
    drift: float
    total: float  # weight, 1 / ns^2
    along: float  # weight times squared time
    worse: float  # how many times more the points scatter (squared) than their doubts say, at least 1
    points: int


def _fit(points: list[Exchange], doubts: list[float]) -> _Fit:
    """A weighted least-squares line, its slope tied to zero by what crystals do. doubts: variances."""
    base, at = points[-1].offset_ns, points[-1].at_ns  # so that floats hold what is left
    rows = [
        (1 / doubt, float(p.at_ns - at), float(p.offset_ns - base)) for p, doubt in zip(points, doubts, strict=True)
    ]
    total = sum(w for w, _, _ in rows)
    mean_t = sum(w * t for w, t, _ in rows) / total
    mean_o = sum(w * o for w, _, o in rows) / total
    along = sum(w * (t - mean_t) ** 2 for w, t, _ in rows) + _CRYSTAL**-2
    drift = sum(w * (t - mean_t) * (o - mean_o) for w, t, o in rows) / along
    scatter = sum(w * (o - mean_o - drift * (t - mean_t)) ** 2 for w, t, o in rows)
    worse = max(1.0, scatter / (len(rows) - 2)) if len(rows) > 2 else 1.0
    return _Fit(at + round(mean_t), mean_o, base, drift, total, along, worse, len(rows))


def _moved(exchange: Exchange, step: int) -> Exchange:
    """The same exchange as a node clock would have seen it that had always been ahead by the step."""
    return Exchange(exchange.rtt_ns, exchange.offset_ns - step, exchange.at_ns + step)
