"""When a picture is due, by the wall clock: every process that knows the rate comes to the same moments and numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_STEPPED_BACK_S = 1.0  # a clock set back by more than this is a new schedule, not a long wait


class Schedule:
    """Triggers are the wall clock in frames: trigger ``n`` is due at Unix time ``n / fps``.

    With ``count`` the schedule ends after so many from ``first`` on. Who comes late still gets the last ``buffers``
    triggers before the present one. The clock and the sleep are handed in.
    """

    def __init__(
        self,
        fps: float,
        first: int = 0,
        count: int | None = None,
        *,
        buffers: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], object] = time.sleep,
    ):
        self.fps = fps
        self.first = first
        self.missed = 0  # triggers whose time passed unused
        self.finished = False
        self._last = None if count is None else first + count - 1
        self._buffers = buffers
        self._next: int | None = None  # trigger to be used next
        self._now_ns, self._sleep = now_ns, sleep

    def wait(self, timeout_s: float) -> int | None:
        """Until the next trigger is due: that trigger, or None when the time is over or the schedule is."""
        now = self._now_ns()
        current = math.floor(now * self.fps / 1e9)  # the last trigger whose time has come
        upcoming = max(self.first, current + 1)
        if self._next is None:
            self._next = upcoming if self._last is None else self.first
        elif self._next - upcoming > 1 + _STEPPED_BACK_S * self.fps:
            self._next = upcoming
        if current > self._next:
            newest = current if self._last is None else min(current, self._last + 1)
            oldest = max(self._next, newest - self._buffers)
            self.missed += oldest - self._next
            self._next = oldest
        if self._last is not None and self._next > self._last:
            self.finished = True
            return None
        wait = (self.time_of(self._next) - now) / 1e9
        if wait > timeout_s:
            self._sleep(timeout_s)
            return None
        if wait > 0:
            self._sleep(wait)
        self._next += 1
        return self._next - 1

    def time_of(self, trigger: int) -> int:
        """When a trigger is due, Unix nanoseconds."""
        return round(trigger * 1e9 / self.fps)
