"""A thread that calls on the schedule that every process computes from the wall clock: software triggers, actions."""

from __future__ import annotations

import threading
from collections.abc import Callable

from capture_nodes.drivers.schedule import Schedule
from protocol.errors import HeadstreamError

_WAIT_S = 0.1  # bounds how long ending takes


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
        """Ends it and waits for that. May be called twice."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

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
