"""A rig's frame sets: its synchroniser, told the time, and the timecode that is stamped on what comes out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from fusion_server.synchronize import FrameSet, SyncCounters, Synchronizer
from protocol.messages import Frame
from protocol.rig import Rig
from protocol.timecode import TimecodeStamper


class FrameSets:
    """Frames in, sets out, as the rig file's ``[sync]`` says. For the receiver's thread; any may look at the counts."""

    def __init__(self, rig: Rig, cameras: tuple[str, ...]) -> None:
        self._synchronizer = Synchronizer(
            cameras,
            mode=rig.sync.mode,
            tolerance_ns=round(rig.sync.tolerance_ms * 1e6),
            wait_ns=round(rig.sync.wait_ms * 1e6),
            min_cameras=rig.sync.min_cameras,
        )
        self._stamper = TimecodeStamper(rig.fps) if rig.sync.timecode == "utc" else None

    def add(self, frame: Frame) -> list[FrameSet]:
        """The sets that a received frame completes."""
        return self._stamped(self._synchronizer.add(frame, time.monotonic_ns()))

    def poll(self) -> list[FrameSet]:
        """The sets that have waited long enough."""
        return self._stamped(self._synchronizer.poll(time.monotonic_ns()))

    @property
    def counters(self) -> SyncCounters:
        """What became of frames and sets so far."""
        return self._synchronizer.counters

    @property
    def waiting(self) -> int:
        """Frames that wait for their set."""
        return self._synchronizer.waiting

    def _stamped(self, sets: Iterable[FrameSet]) -> list[FrameSet]:
        if self._stamper is None:
            return list(sets)
        return [replace(each, timecode=str(self._stamper.stamp(each.capture_ns))) for each in sets]
