"""A thread that calls on the schedule that every process computes from the wall clock: software triggers, actions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from capture_nodes.drivers.schedule import Schedule
from protocol.errors import HeadstreamError

_WAIT_S = 0.1  # bounds how long ending takes
_END_S = 0.5
_LOST_NS = 10**9  # a software trigger that brought no picture in this time never will


@dataclass(frozen=True, slots=True)
class Fired:
    """A software trigger: its number, when it was (node clock) and one standard deviation of that, nanoseconds."""

    trigger: int
    node_ns: int
    sigma_ns: int


class SoftwareTrigger:
    """Fires a camera, one trigger at a time, so that each picture has its own. Used by two threads."""

    def __init__(self, fire: Callable[[], None], now_ns: Callable[[], int] = time.time_ns):
        self._fire, self._now_ns = fire, now_ns
        self._lock = threading.Lock()
        self._fired: Fired | None = None
        self._passed = 0

    def beat(self, trigger: int) -> None:
        """A trigger is due. Passed over while the picture of the one before is awaited. Raises what ``fire`` raises."""
        with self._lock:
            before = self._now_ns()
            if self._fired is not None and before - self._fired.node_ns < _LOST_NS:
                self._passed += 1
                return
            self._fired = None
            self._fire()
            half = (self._now_ns() - before) // 2  # the camera acts between the question and the answer
            self._fired = Fired(trigger, before + half, max(1, half))

    def answered(self) -> tuple[Fired | None, int]:
        """A picture came: the trigger that it answers (None: one that was given up), and how many were passed over."""
        with self._lock:
            fired, self._fired = self._fired, None
            passed, self._passed = self._passed, 0
        return fired, passed


class Metronome:
    """Calls ``fire(trigger)`` whenever one is due, from ``start`` to ``stop``. What it raises ends it: ``error``."""

    def __init__(self, fps: float, fire: Callable[[int], None], name: str):
        self.error: HeadstreamError | None = None
        self._fire = fire
        self._ended = threading.Event()
        self._schedule = Schedule(fps, sleep=self._ended.wait)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and waits a little for a call that hangs in a camera which is gone. May be called twice."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._ended.is_set():
            trigger = self._schedule.wait(_WAIT_S)
            if trigger is None or self._ended.is_set():
                continue
            try:
                self._fire(trigger)
            except HeadstreamError as error:
                self.error = error
                return
