"""``headstream backfill``: fetch what takes lack out of the nodes' spools, by hand, without the rest of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion_server.receive import Receiver
from fusion_server.recorder import rig_calibration
from fusion_server.takes.backfiller import Backfiller
from fusion_server.takes.contents import read_info
from fusion_server.takes.layout import MCAP_NAME
from protocol.errors import HeadstreamError
from protocol.rig import Rig

_TICK_S = 0.1


def backfill(
    rig: Rig,
    take: Path | None,
    stop: threading.Event,
    step: Callable[[str, int, int], None],
    patience_s: float,
) -> list[dict[str, Any]]:
    """Until nothing is left to fetch, ``stop`` is set, or nothing came for ``patience_s`` seconds.

    take: a folder, or a name below the rig's takes; None: every take of the rig that wants pictures. step(what, done,
    total) is told of progress. Returns for each of these takes its name, complete, settled, missing_frames and missing.
    Raises HeadstreamError when there is no such take, or the rig's server runs: it does this by itself.
    """
    only = None
    if take is not None:
        only = take if (take / MCAP_NAME).exists() else rig.server.takes / take
        if not (only / MCAP_NAME).exists():
            raise HeadstreamError(
                f"{take}: no take; a take is a folder with {MCAP_NAME}, here or in {rig.server.takes}"
            )
        if read_info(only).get("rig") != rig.name:
            raise HeadstreamError(f"{only}: is a take of rig {read_info(only).get('rig')!r}; this one is {rig.name!r}")
    receiver = Receiver(rig, rig_calibration(rig), lambda frame: None)
    try:
        work = Backfiller(rig, receiver, lambda: None, only=only)
        wanted = work.waiting
        receiver.start()
        work.start()
        try:
            _watch(work, stop, step, patience_s)
        finally:
            work.stop()
    finally:
        receiver.stop()
    return [_summary(path) for path in wanted]


def _watch(work: Backfiller, stop: threading.Event, step: Callable[[str, int, int], None], patience_s: float) -> None:
    before, since = (-1, "", -1), time.monotonic()
    while work.status()["queued"] and not stop.wait(_TICK_S):
        status = work.status()
        if status["take"]:
            step(status["take"], status["done"], status["total"])
        now = status["done"], status["take"], status["queued"]
        if now != before or status["opening"]:
            before, since = now, time.monotonic()
        elif time.monotonic() - since >= patience_s:
            return


def _summary(path: Path) -> dict[str, Any]:
    info = read_info(path)
    keys = ("complete", "settled", "missing_frames", "missing")
    return {"take": path.name, **{key: info.get(key) for key in keys}}


def report_lines(takes: list[dict[str, Any]]) -> list[str]:
    """What a person wants to know: whole or not, and for each gap how much, whose, when and why."""
    lines = [] if takes else ["no take wants pictures"]
    for take in takes:
        if take["complete"]:
            lines.append(f"{take['take']}: complete")
            continue
        missing = take.get("missing")
        if missing is None:
            lines.append(f"{take['take']}: no node was there to be asked")
            continue
        state = "are gone" if take["settled"] else "are missing so far"
        lines.append(f"{take['take']}: {take['missing_frames']:,} frames {state}")
        for (camera, reason), gaps in _by_reason(missing).items():
            lines.append(f"  {camera}: {_gaps(gaps)}: {reason}")
    return lines


def _by_reason(missing: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for gap in missing:
        found.setdefault((gap["camera"], gap["reason"]), []).append(gap)
    return found


def _gaps(gaps: list[dict[str, Any]]) -> str:
    """How many frames in how many gaps, and when; ``take.json`` has each of them."""
    first, last = (
        time.strftime("%H:%M:%S", time.localtime(at / 1e9)) for at in (gaps[0]["from_ns"], gaps[-1]["to_ns"])
    )
    frames = sum(gap["frames"] for gap in gaps)
    if len(gaps) > 1:
        return f"{frames:,} in {len(gaps)} gaps from {first} to {last}"
    number = f", triggers {gaps[0]['triggers'][0]} to {gaps[0]['triggers'][1]}" if gaps[0]["triggers"] else ""
    return f"{frames:,} from {first} to {last}{number}"
