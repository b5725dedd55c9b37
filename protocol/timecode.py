"""SMPTE timecode (ST 12-1) of a wall clock: hours, minutes, seconds and frames since midnight UTC. Pure.

The count of frames since midnight at the exact rate is labelled ``hh:mm:ss:ff``. At 29.97 and its multiples labels are
dropped (``hh:mm:ss;ff``): of every minute but each tenth the first two (59.94: four) are left out. Labels then fall
behind the clock by 60 ms in a first minute and are ahead by 60 ms in a tenth, and gain 86.4 ms a day: at most 147 ms
ahead of it, at 23:59. 23.976 knows no dropping; its labels fall behind the clock by 3.6 s an hour, as they do
everywhere. Every count begins anew at midnight (UTC), where a few labels of 29.97 come twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from protocol.errors import HeadstreamError

_NS = 1_000_000_000
_DAY_NS = 86_400 * _NS
_MOST_FPS = 120
_SLACK = 0.25  # frames
_PHASE_STEP = 0.02  # how fast a stamper follows the shutter's phase


class TimecodeError(HeadstreamError):
    """A rate that has no timecode; the message says which have."""


@dataclass(frozen=True, order=True)
class Timecode:
    """One frame's label."""

    hours: int
    minutes: int
    seconds: int
    frames: int
    drop: bool = False

    def __str__(self) -> str:
        separator = ";" if self.drop else ":"
        return f"{self.hours:02}:{self.minutes:02}:{self.seconds:02}{separator}{self.frames:02}"


def timecode_rate(fps: float) -> Fraction:
    """The exact rate that is meant: a whole number, or one divided by 1.001 (23.976, 29.97, 59.94).

    Raises TimecodeError for any other.
    """
    for whole in range(1, _MOST_FPS + 1):
        for rate in (Fraction(whole), Fraction(whole * 1000, 1001)):
            if abs(fps - rate) < 5e-4 * whole / 30:
                return rate
    raise TimecodeError(
        f"{fps:g} frames a second have no timecode; whole numbers up to 120 have, and 23.976, 29.97, 59.94"
    )


def label(count: int, rate: Fraction) -> Timecode:
    """The label of the frame that is ``count`` frames after midnight."""
    nominal = -(-rate.numerator // rate.denominator)  # 30 for 29.97
    drop = rate.denominator != 1 and nominal % 30 == 0
    if drop:
        left_out = nominal // 15  # labels a minute, except each tenth
        tens, rest = divmod(count, 600 * nominal - 9 * left_out)
        count += 9 * left_out * tens
        if rest >= 60 * nominal:
            count += left_out * (1 + (rest - 60 * nominal) // (60 * nominal - left_out))
    seconds, frames = divmod(count, nominal)
    return Timecode(seconds // 3600 % 24, seconds // 60 % 60, seconds % 60, frames, drop)


def timecode_at(wall_ns: int, fps: float) -> Timecode:
    """The label of the frame that lasts at this moment (Unix nanoseconds, UTC). Raises TimecodeError."""
    rate = timecode_rate(fps)
    return label(int(Fraction(wall_ns % _DAY_NS, _NS) * rate), rate)


class TimecodeStamper:
    """Labels one exposure after the other, so that neighbours differ by one however their times jitter.

    Exposures are not aligned to whole frames since midnight, and one that is taken right at a boundary would fall now
    on this side of it, now on the other. So the phase of the shutter is followed, and the count rounded around that.
    """

    def __init__(self, fps: float):
        """Raises TimecodeError for a rate without timecode."""
        self.rate = timecode_rate(fps)
        self._phase: float | None = None  # frames
        self._day = -1

    def stamp(self, capture_ns: int) -> Timecode:
        """The label of what was exposed then (Unix nanoseconds, UTC)."""
        day, since = divmod(capture_ns, _DAY_NS)
        exact = Fraction(since, _NS) * self.rate
        if self._phase is None or day != self._day:
            self._phase, self._day = float(exact - int(exact)), day
            return label(int(exact), self.rate)
        count = round(float(exact) - self._phase)
        away = float(exact) - self._phase - count
        self._phase += _PHASE_STEP * away
        if not -_SLACK <= self._phase <= 1 + _SLACK:  # cameras that run a little off the rate: back to the clock
            self._phase -= math.floor(self._phase)
        return label(max(0, count), self.rate)
