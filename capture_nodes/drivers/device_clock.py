"""A camera's own clock as the node's clock. Pure: times are handed in, all of them integer nanoseconds.

The node sees a picture when it has arrived: after its exposure by the least time that a picture needs, and then by what
queues add. Queues only ever add, so of all pairs (device time, arrival) those with the least delay know best, and the
line below all of them is the device's clock: its height is the offset, its slope the drift (free-running cameras drift
by 50 to 100 ppm). Of all lines below the points that one is taken which has the least distance to them, which is the
edge of their lower convex hull above the middle of the window. The least delay itself cannot be seen in this way; what
is known of it (the exposure) is handed in, the rest is in every time of this camera, and alike for cameras of one kind.

A device that keeps PTP time has the node's wall clock already, and its times are taken as they are. One that is ahead
of it by the leap seconds has TAI, the time scale in which PTP grandmasters speak, and is corrected by them. Both are
recognised by their value, and doubted as soon as they drift like a quartz that was only set once.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

TAI_MINUS_UTC_S = 37  # since 2017; a leap second would change it (IERS Bulletin C)

_BUCKET_NS = 500_000_000  # one point, that of the least delay, is kept of so much time
_BUCKETS = 120  # so the window is a minute
_DRIFT_FROM_NS = 5_000_000_000  # a window shorter than this says nothing of a drift of parts in a million
_MOST_DRIFT = 500e-6  # beyond this it is no quartz, but a clock that was set
_USUAL_DRIFT = 100e-6  # for the uncertainty while the drift is not known
_JUMP_NS = 5_000_000  # a picture cannot arrive earlier than the least delay by more than this
_FIRST_NS = 50_000_000  # by how much a first picture may have been late
_SURE_BUCKETS = 4  # from so many on, a jump is worth a line in the log
_STALL_NS = 20_000_000  # nor can all pictures be later by more than this
_STALL_BUCKETS = 8  # in so many buckets
_EARLY_NS, _LATE_NS = 20_000_000, 500_000_000  # where a picture's arrival lies after a device time that is UTC
_DOUBT_NS = 5_000_000_000  # a PTP clock whose pictures are all late for so long is none
_WATCH_FROM_NS = 30_000_000_000  # window from which on a PTP clock's drift is looked at
_PTP_DRIFT = 20e-6  # a PTP slave and a PTP node differ by less
_PTP_SIGMA_NS = 50_000  # a PTP slave keeps within a microsecond, a node's system clock within some tens


@dataclass(frozen=True, slots=True)
class Exposure:
    """When a picture was exposed, on the node's clock, with one standard deviation of what is not constant."""

    node_ns: int
    sigma_ns: int


class DeviceClock:
    """Pairs in by ``add``, exposures out. ``note`` is what there is to log once, empty otherwise."""

    def __init__(self, least_delay_ns: int = 0, recognise_ptp: bool = True, tai_minus_utc_s: int = TAI_MINUS_UTC_S):
        """least_delay_ns: from the moment that the device stamps to the earliest possible arrival, as far as known."""
        self._least_delay_ns = least_delay_ns
        self._recognise = recognise_ptp
        self._tai_ns = tai_minus_utc_s * 10**9
        self._buckets: deque[tuple[int, int]] = deque(maxlen=_BUCKETS)  # (device, arrival - device), least of each
        self._newest: int | None = None  # device time
        self._late = 0  # buckets in a row whose best was far above the line
        self._late_from: int | None = None  # device time from which on a PTP clock's pictures were all late
        self._line: tuple[int, int, float] | None = None  # device time, offset there, drift
        self._usual_ns = 0  # how far the buckets' points lie above the line: the median
        self._ahead_ns: int | None = None  # of UTC: 0 for a PTP clock in UTC, the leap seconds for TAI
        self._note = ""
        self.restarts = 0

    @property
    def kind(self) -> str:
        """``unknown``, ``free`` (running), ``utc`` or ``tai``."""
        if self._newest is None:
            return "unknown"
        if self._ahead_ns is None:
            return "free"
        return "tai" if self._ahead_ns else "utc"

    @property
    def drift_ppm(self) -> float:
        """By how much the node's clock is faster than the device's; 0 while that is not known."""
        return self._line[2] * 1e6 if self._line else 0.0

    def take_note(self) -> str:
        """What is new and worth a line in the log; empty when nothing is. Once each."""
        note, self._note = self._note, ""
        return note

    def add(self, device_ns: int, arrived_ns: int) -> Exposure:
        """A picture's device time and when it arrived here; when it was exposed. A device time of 0 is none."""
        if device_ns <= 0:
            return Exposure(arrived_ns - self._least_delay_ns, _FIRST_NS)
        if self._newest is not None and device_ns < self._newest:
            self._start_again("went back, as after a restart")
        offset = arrived_ns - device_ns
        if self._ahead_ns is not None:
            self._doubt(device_ns, offset + self._ahead_ns)
        elif self._line is not None:
            self._look_for_jump(device_ns, offset)
        if self._newest is None:
            self._recognise_wall_clock(offset)
        self._newest = device_ns
        self._put(device_ns, offset)
        if self._ahead_ns is not None and self._drifts():
            self._note = self._join(
                f"its clock is near the wall clock but drifts by {self.drift_ppm:.0f} ppm; measured"
            )
            self._ahead_ns = None
        if self._ahead_ns is not None:
            return Exposure(device_ns - self._ahead_ns, _PTP_SIGMA_NS)
        # Nothing is exposed after it arrived: with few points, or a drift that changes, the line can say so.
        node_ns = min(device_ns + self._offset_at(device_ns), arrived_ns)
        return Exposure(node_ns - self._least_delay_ns, self._sigma())

    def _recognise_wall_clock(self, offset: int) -> None:
        for ahead in (0, self._tai_ns) if self._recognise else ():
            if -_EARLY_NS <= offset + ahead <= _LATE_NS:
                self._ahead_ns = ahead
        if self._ahead_ns:
            seconds = self._ahead_ns // 10**9
            self._note = self._join(f"its clock is TAI, {seconds} s ahead of UTC as PTP has it; corrected")

    def _doubt(self, device_ns: int, delay: int) -> None:
        """Start again when what was taken for a PTP clock is none."""
        if delay < -_EARLY_NS:
            self._start_again("is ahead of the node's, which it was not before")
        elif delay <= _LATE_NS:
            self._late_from = None
        elif self._late_from is None:
            self._late_from = device_ns
        elif device_ns - self._late_from > _DOUBT_NS:
            self._start_again("is behind the node's, which it was not before")

    def _drifts(self) -> bool:
        span = self._buckets[-1][0] - self._buckets[0][0]
        return span >= _WATCH_FROM_NS and abs(self.drift_ppm) > 1e6 * (_PTP_DRIFT + 4 * self._usual_ns / span)

    def _look_for_jump(self, device_ns: int, offset: int) -> None:
        above = offset - self._offset_at(device_ns)
        allowed = self._drift_allowance(device_ns) + 4 * self._usual_ns
        if above < -(_JUMP_NS + allowed + 4 * _FIRST_NS // len(self._buckets) ** 2):
            self._start_again("jumped ahead, or the node's was set back")
        elif self._stalled(device_ns, above > _STALL_NS + allowed):
            self._start_again("fell behind, or the node's was set ahead")

    def _put(self, device_ns: int, offset: int) -> None:
        if self._buckets and device_ns // _BUCKET_NS == self._buckets[-1][0] // _BUCKET_NS:
            if offset >= self._buckets[-1][1]:
                return
            self._buckets[-1] = (device_ns, offset)
            if self._line is not None and offset >= self._offset_at(device_ns):
                return  # the line stays below all points; how near, is looked at with the next bucket
        else:
            self._buckets.append((device_ns, offset))
        self._line = _line_below(list(self._buckets))
        above = sorted(offset - self._offset_at(at) for at, offset in self._buckets)
        self._usual_ns = above[len(above) // 2]

    def _stalled(self, device_ns: int, late: bool) -> bool:
        """Whether every picture of many buckets has been late: no queue, but another clock."""
        if not late:
            self._late = 0
        elif device_ns // _BUCKET_NS != self._buckets[-1][0] // _BUCKET_NS:
            self._late += 1
        return self._late >= _STALL_BUCKETS

    def _offset_at(self, device_ns: int) -> int:
        assert self._line is not None
        at, offset, drift = self._line
        return offset + round(drift * (device_ns - at))

    def _drift_allowance(self, device_ns: int) -> int:
        """By how much the line may be off there because the drift is not known, or changes."""
        span = self._buckets[-1][0] - self._buckets[0][0]
        beyond = device_ns - self._buckets[-1][0]
        return round(_MOST_DRIFT * (beyond + (span if span < _DRIFT_FROM_NS else 0)))

    def _sigma(self) -> int:
        """What the line is off by: usual delays, a drift that is only guessed, first pictures that were all late."""
        span = self._buckets[-1][0] - self._buckets[0][0]
        drift = _USUAL_DRIFT * span if span < _DRIFT_FROM_NS else 0.0
        first = _FIRST_NS / len(self._buckets) ** 2
        return max(1000, round(math.hypot(self._usual_ns, drift, first)))

    def _start_again(self, why: str) -> None:
        """Forget what was measured; what follows is another clock."""
        if len(self._buckets) >= _SURE_BUCKETS or self._ahead_ns is not None:
            self._note = self._join(f"its clock {why}; measured anew")
        self._buckets.clear()
        self._line, self._newest, self._late = None, None, 0
        self._ahead_ns, self._late_from = None, None
        self.restarts += 1

    def _join(self, text: str) -> str:
        return f"{self._note}; {text}" if self._note else text


def _line_below(points: list[tuple[int, int]]) -> tuple[int, int, float]:
    """(device, offset there, slope) of the line below all points with the least distance to them."""
    first, base = points[0]
    span = points[-1][0] - first
    if span < _DRIFT_FROM_NS:
        at, offset = min(points, key=lambda point: point[1])
        return at, offset, 0.0
    hull: list[tuple[int, int]] = []
    for x, y in ((x - first, y - base) for x, y in points):
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    middle = sum(x - first for x, _ in points) / len(points)
    for (x0, y0), (x1, y1) in pairwise(hull):
        if x1 >= middle:
            slope = (y1 - y0) / (x1 - x0)
            return first + x0, base + y0, max(-_MOST_DRIFT, min(_MOST_DRIFT, slope))
    raise AssertionError("the middle of the points is among them")


def _turns_down(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether b is above the line from a to c, or on it."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
