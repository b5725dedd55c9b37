"""Keeps the server's timing and alarms: reads the clocks, holds the lock, logs what changes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fusion_server.synchronize import FrameSet
from fusion_server.timing import TAI_UTC_S, Timing
from protocol.messages import Frame
from protocol.rig import Rig

log = logging.getLogger(__name__)


class Watch:
    """May be used from any thread. ``on_alarm(line)`` gets each alarm when it is raised and when it is over."""

    def __init__(self, rig: Rig, on_alarm: Callable[[str], None] = lambda line: None):
        self._timing = Timing(rig, time.monotonic(), _tai_utc_s())
        self._on_alarm = on_alarm
        self._lock = threading.Lock()
        self._timecode = ""

    def frame(self, frame: Frame) -> None:
        """A frame has arrived."""
        with self._lock:
            self._timing.frame(frame, time.time_ns())

    def frame_set(self, frame_set: FrameSet) -> None:
        """A set has left the synchroniser."""
        with self._lock:
            self._timing.frame_set(frame_set, time.monotonic())
            self._timecode = frame_set.timecode

    def update(
        self,
        cameras: Mapping[str, Mapping[str, Any]],
        nodes: Mapping[str, Mapping[str, Any]],
        others: Mapping[str, str] | None = None,
    ) -> None:
        """Once a second, with what the receiver knows, and alarms that others found (key to text)."""
        with self._lock:
            changes = self._timing.update(cameras, nodes, time.monotonic(), time.time_ns(), others)
        for change in changes:
            log.log(logging.WARNING if change.raised else logging.INFO, "%s", change.line)
            self._on_alarm(change.line)

    def status(self) -> dict[str, Any]:
        """alarms: key, text and since_ns of each, oldest first; clocks; spread (ms); timecode of the newest set."""
        with self._lock:
            return {
                "alarms": [vars(alarm) for alarm in self._timing.active],
                "clocks": self._timing.clocks(),
                "spread": self._timing.spread_ms(),
                "timecode": self._timecode,
            }


def _tai_utc_s() -> float:
    """TAI minus UTC as this machine's kernel knows it, which is 0 where nobody told it; then today's."""
    clock = getattr(time, "CLOCK_TAI", None)
    told = round(time.clock_gettime(clock) - time.time()) if clock is not None else 0
    return float(told) if told > 0 else TAI_UTC_S
