"""The offset between two clocks, out of four timestamps an exchange (as NTP does it, RFC 5905 section 8).

The node sends at t0 (its clock), the server receives at t1 and answers at t2 (the server's clock), the answer arrives
at t3 (the node's clock). Then ``rtt = (t3 - t0) - (t2 - t1)`` and ``offset = ((t1 - t0) + (t2 - t3)) / 2``, and
whatever the two ways took, the true offset lies within rtt / 2 of that. The exchange with the least rtt knows best, as
queues only ever add. All times are integer nanoseconds.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

UNKNOWN_SIGMA_NS = 10**15  # eleven days: what a frame carries before the first exchange
_DRIFT = 200e-6  # two free-running clocks part by less than this; more is a clock that was set


class Exchange(NamedTuple):
    """One exchange: what it says of the offset, how long it was on its way, when it ended (node clock)."""

    rtt_ns: int
    offset_ns: int
    at_ns: int


class ClockFilter:
    """The offset by the best of the last exchanges. No clock is read here: values in, values out."""

    def __init__(self, window: int = 16):
        self._exchanges: deque[Exchange] = deque(maxlen=window)
        self.offset_ns = 0  # server clock = node clock + offset_ns
        self.sigma_ns = UNKNOWN_SIGMA_NS  # one standard deviation of offset_ns

    @property
    def known(self) -> bool:
        """Whether any exchange was taken; before that offset_ns is 0 and sigma_ns is UNKNOWN_SIGMA_NS."""
        return bool(self._exchanges)

    @property
    def rtt_ns(self) -> int:
        """The least round trip in the window; 0 before the first."""
        return min(self._exchanges).rtt_ns if self._exchanges else 0

    def add(self, t0: int, t1: int, t2: int, t3: int) -> bool:
        """Take one exchange; False when it cannot be true (a clock was set during it) and is left out.

        An exchange that contradicts the best one by more than both round trips and any drift allow means that a clock
        was set meanwhile: what was known before is forgotten.
        """
        rtt = (t3 - t0) - (t2 - t1)
        if rtt < 0 or t3 < t0 or t2 < t1:
            return False
        new = Exchange(rtt, ((t1 - t0) + (t2 - t3)) // 2, t3)
        if self._exchanges:
            best = min(self._exchanges)
            possible = (rtt + best.rtt_ns) / 2 + _DRIFT * abs(t3 - best.at_ns) + 1
            if abs(new.offset_ns - best.offset_ns) > possible:
                self._exchanges.clear()
        self._exchanges.append(new)
        best = min(self._exchanges)
        self.offset_ns = best.offset_ns
        self.sigma_ns = self._sigma(best)
        return True

    def _sigma(self, best: Exchange) -> int:
        """Uniform within rtt / 2 of the best exchange, and how far the others are from it.

        Of an exchange that took longer by x, a distance of x / 2 is explained by a queue on one way; the rest of it
        (clocks that drift, timestamps that jitter) is not, and counts.
        """
        total = 0.0
        for rtt, offset, _ in self._exchanges:
            total += max(0.0, abs(offset - best.offset_ns) - (rtt - best.rtt_ns) / 2) ** 2
        spread = math.sqrt(total / len(self._exchanges))
        return max(1, round(math.hypot(best.rtt_ns / 2 / math.sqrt(3), spread)))
