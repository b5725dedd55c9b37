"""Counts what a receiver receives in a window of time. Needs nothing but Python: peers' environments run it, too."""

from __future__ import annotations

import json
import time


class Meter:
    """A window that opens ``warm_s`` after the first frame of the last camera and closes after ``seconds``.

    Opening and closing are each told as a line of JSON on the standard output, for the process that started this one.
    """

    def __init__(self, cameras: int, warm_s: float, seconds: float):
        self._cameras, self._warm_s, self._seconds = cameras, warm_s, seconds
        self._seen: set[str] = set()
        self._opens = self._closes = float("inf")
        self._open = False
        self._frames = self._bytes = 0
        self._late_ns: list[int] = []
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._gaps = 0
        self.done = False

    def frame(self, camera: str, sequence: int, size: int, exposed_ns: int) -> None:
        """A frame of ``size`` bytes is in hand; exposed_ns: ``time.time_ns`` when it should have been exposed."""
        if self._open:
            self._frames += 1
            self._bytes += size
            self._late_ns.append(time.time_ns() - exposed_ns)
            if camera in self._last:
                self._gaps += max(0, sequence - self._last[camera] - 1)
            self._last[camera] = sequence
        elif camera not in self._seen:
            self._seen.add(camera)
            if len(self._seen) == self._cameras:
                self._opens = time.monotonic() + self._warm_s

    def look(self) -> None:
        """Open or close the window when it is time; to be called often."""
        now = time.monotonic()
        if not self._open and now >= self._opens:
            self._open, self._began, self._closes = True, now, now + self._seconds
            say({"event": "open"})
        elif self._open and not self.done and now >= self._closes:
            self.done = True
            late = sorted(self._late_ns) or [0]
            percentiles = {name: late[min(len(late) - 1, int(share * len(late)))] / 1e6 for name, share in SHARES}
            seconds = now - self._began
            say(
                {"event": "close", "seconds": seconds, "frames": self._frames, "bytes": self._bytes}
                | {"gaps": self._gaps, "late_ms": percentiles}
            )


SHARES = (("50 %", 0.5), ("95 %", 0.95), ("99 %", 0.99))


def say(line: dict[str, object]) -> None:
    """One object, one line, at once."""
    print(json.dumps(line), flush=True)
