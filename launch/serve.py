"""``headstream serve``: the fusion server in the foreground, one status line a second."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion_server.preview.panel import take_lines
from fusion_server.server import Server
from launch.local import until_asked_to_stop
from launch.truth import TruthMonitor
from protocol.capture_folder import CaptureFolder
from protocol.rig import load_rig

log = logging.getLogger(__name__)
_MOST_ALARMS = 3  # in the status line
_BACKFILL_S = 30.0  # how long the end of the server may wait for pictures that nodes hold


def serve(
    path: Path,
    *,
    preview: bool,
    record: str | None,
    truth: Path | None,
    say: Callable[[dict[str, Any]], None],
) -> int:
    """Run until asked to stop; returns the exit status, 1 when the pipeline died of a bug.

    ``record`` names the slate of a take that starts with the first frame. ``truth`` is the capture folder that the rig
    replays, to measure against.
    """
    stop = until_asked_to_stop()
    rig = load_rig(path)
    monitor = TruthMonitor(CaptureFolder.open(truth)) if truth else None
    server = Server(rig, preview=preview)
    if monitor:
        server.pipeline.observe(monitor.offer)
        monitor.start()
    recorded = server.record(record) if record else None  # before the first frame: the keyframe belongs to the take
    server.start()
    try:
        while not stop.wait(1.0) and server.failure is None:
            if monitor:
                server.annotate(**monitor.status())
            say(server.status())
        if not server.failure:
            _complete_take(server, say)
        failure = server.failure
        if failure:
            log.error("%s", failure)
    finally:
        server.stop()
        if monitor:
            monitor.stop()
    say({**server.status(), "ended": True, "take": str(recorded) if recorded else None})
    return 1 if failure else 0


def _complete_take(server: Server, say: Callable[[dict[str, Any]], None]) -> None:
    """End the take that is recorded and wait a while for what it lacks; the rest comes when the server is next here."""
    if server.stop_recording() is None:
        return
    end = time.monotonic() + _BACKFILL_S
    while time.monotonic() < end and not server.backfill.wait_idle(1.0):
        status = server.status()
        say(status)
        backfill = status["backfill"]
        if backfill["take"] is None and backfill["stuck"] == backfill["queued"]:
            return  # nobody is there who has something


def say_json(status: dict[str, Any]) -> None:
    """One JSON object a line, for machines."""
    print(json.dumps(status, default=float), flush=True)


def say_line(status: dict[str, Any]) -> None:
    """One line for people."""
    print(status_line(status), file=sys.stdout, flush=True)


def _stages(stages: dict[str, Any]) -> list[str]:
    """What limits the rate: each thread's stages, without the parts of the surface's, and the sets it does a second."""
    told = []
    for thread, of in stages.items():
        shown = {"surface": of["ms"].get("surface", 0.0)} if thread == "surface" else of["ms"]
        if of["ms"]:
            told.append(" ".join(f"{name} {ms:.0f}" for name, ms in shown.items()) + f" ms ({of['per_second']:.1f}/s)")
    return told


def status_line(status: dict[str, Any]) -> str:
    """Rates, drops, spread, latency, stages and, where it is known, the error: one line."""
    cameras = status["cameras"].values()
    rates = [camera["fps"] for camera in cameras]
    span = f"{min(rates):.0f}-{max(rates):.0f}" if rates else "0"
    missed = sum(camera["missed"] for camera in cameras)
    parts = [
        time.strftime("%H:%M:%S"),
        f"{len(rates)} cameras {span} fps, {missed} frames missed",
        f"spread {status['spread'].get('last') or 0:.1f} ms",
    ]
    if "meshes" in status:
        parts += [f"{status['meshes_per_second']:.1f} meshes/s", f"latency {status['latency_ms']:.0f} ms"]
        parts += _stages(status["stages"])
    if "truth_surface_mm" in status:
        parts.append(f"error {status['truth_surface_mm']:.2f} mm, {status['truth_normal_deg']:.1f} deg")
    if status.get("timecode"):
        parts.insert(1, status["timecode"])
    parts += [f"ALARM {alarm['text']}" for alarm in status.get("alarms", [])[:_MOST_ALARMS]]
    if len(status.get("alarms", [])) > _MOST_ALARMS:
        parts.append(f"and {len(status['alarms']) - _MOST_ALARMS} more alarms")
    if status.get("faults"):
        parts.append(f"{status['faults']} faults")
    if status["take"]:
        parts.append(f"REC {Path(status['take']).name}")
    parts += take_lines(status)
    return " | ".join(parts)
