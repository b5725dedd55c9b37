"""``headstream record``: a take without meshes, on a machine that need not compute: frames now, the mesh later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion_server.recorder import STATUS_PERIOD_S, Recorder
from fusion_server.takes.contents import read_info
from launch.local import until_asked_to_stop
from protocol.errors import HeadstreamError
from protocol.rig import Rig, load_rig

log = logging.getLogger(__name__)
_TICK_S = 0.1

Say = Callable[[dict[str, Any]], None]


def record(
    path: Path, slate: str, *, seconds: float | None, gather_s: float, patience_s: float, say: Say
) -> dict[str, Any]:
    """Wait for the cameras, record one take, fetch what was missed; returns what ``take.json`` says, and its ``path``.

    seconds: the take's length; None: until asked to stop. gather_s: how long to wait for cameras that are silent; the
    take begins without them then, and says so. patience_s: how long backfill may bring nothing before it is left to the
    next start; a second request to stop leaves it at once. say(status): told once a second. Raises HeadstreamError for
    a rig or a slate that cannot be used, and when the recorder fails.
    """
    return record_rig(load_rig(path), slate, until_asked_to_stop(), seconds, gather_s, patience_s, say)


def record_rig(
    rig: Rig,
    slate: str,
    stop: threading.Event,
    seconds: float | None,
    gather_s: float,
    patience_s: float,
    say: Say,
) -> dict[str, Any]:
    """The same for a rig that is loaded, until ``stop`` is set."""
    recorder = Recorder(rig)
    said_at = 0.0

    def watch(done: Callable[[], bool], longest_s: float | None) -> None:
        """Until done, asked to stop, or over; the operator is told meanwhile."""
        nonlocal said_at
        end = float("inf") if longest_s is None else time.monotonic() + longest_s
        while not done() and time.monotonic() < end and not stop.wait(_TICK_S):
            if recorder.failure is not None:
                raise HeadstreamError(f"{recorder.failure}; the log has why")
            if time.monotonic() - said_at >= STATUS_PERIOD_S:
                said_at = time.monotonic()
                say(recorder.status())

    recorder.start()
    try:
        watch(lambda: not _silent(recorder), gather_s)
        silent = _silent(recorder)
        if silent and not stop.is_set():
            log.warning("no pictures from %s; the take begins without", ", ".join(silent))
        take = recorder.record(slate)
        watch(lambda: False, seconds)
        recorder.stop_recording()
        stop.clear()
        progress = _Progress(recorder, take, patience_s)
        watch(progress.over, None)
        if not progress.settled:
            log.warning("%s lacks pictures that no node sends now; the next start of the server asks again", take.name)
    finally:
        recorder.stop()
    return {**read_info(take), "path": str(take)}


def _silent(recorder: Recorder) -> list[str]:
    return [name for name, camera in recorder.receiver.statistics().items() if not camera["received"]]


class _Progress:
    """Whether backfill of a take is over: everything is there or known to be gone, or nothing has come for long."""

    def __init__(self, recorder: Recorder, take: Path, patience_s: float) -> None:
        self._recorder, self._take, self._patience_s = recorder, take, patience_s
        self._before: Any = None
        self._since = time.monotonic()

    @property
    def settled(self) -> bool:
        return bool(read_info(self._take).get("settled"))

    def over(self) -> bool:
        status = self._recorder.backfill.status()
        now = status["take"], status["done"]
        if now != self._before:
            self._before, self._since = now, time.monotonic()
        return self.settled or time.monotonic() - self._since >= self._patience_s
