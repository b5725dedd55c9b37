"""What the panel shows, as values: status to markdown, thumbnails to one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TILE = 128  # pixels, side of one thumbnail
_GAP = 3
_BACKGROUND = (22, 24, 28)
_EMPTY = (40, 43, 49)
_STALE_S = 1.0  # a camera without a frame for this long is marked


def status_markdown(status: Mapping[str, Any]) -> str:
    """The server's status for a person: what matters most first. Values that are not known are left out."""
    lines = [
        f"**{status.get('meshes_per_second', 0.0):.1f}** meshes/s · latency **{status.get('latency_ms', 0.0):.0f}** ms"
    ]
    lines += stage_lines(status)
    error = []
    if "truth_surface_mm" in status:
        error.append(f"surface **{status['truth_surface_mm']:.2f}** mm")
    if "truth_normal_deg" in status:
        error.append(f"normals **{status['truth_normal_deg']:.1f}**°")
    if error:
        lines.append("error against truth: " + " · ".join(error))
    sync = status.get("sync", {})
    trouble = [
        f"{value} {label}"
        for value, label in (
            (sync.get("incomplete", 0), "sets without a camera"),
            (sync.get("dropped_sets", 0), "sets dropped"),
            (sync.get("late", 0), "frames late"),
            (status.get("faults", 0), "faults"),
        )
        if value
    ]
    lines.append(f"{status.get('meshes', 0)} meshes" + "".join(f" · {text}" for text in trouble))
    lines += take_lines(status)
    return "\n\n".join(lines)


def stage_lines(status: Mapping[str, Any]) -> list[str]:
    """Where the time of a set goes, by thread: milliseconds a stage, and the sets that the thread does a second.
    What follows ``surface`` are parts of it."""
    lines = []
    for thread, of in status.get("stages", {}).items():
        if of["ms"]:
            told = " · ".join(f"{stage} {ms:.1f}" for stage, ms in of["ms"].items())
            lines.append(
                f"{told.replace(' · ', ': ', 1) if thread == 'surface' else told} ms, {of['per_second']:.1f} sets/s"
            )
    return lines


def take_lines(status: Mapping[str, Any]) -> list[str]:
    """What is to be known of takes beside the one that runs: pictures on their way. Nodes' disks raise alarms."""
    lines = []
    backfill = status.get("backfill", {})
    if backfill.get("take"):
        lines.append(f"backfilling {backfill['take']}: {backfill['done']:,} of {backfill['total']:,} frames")
    elif backfill.get("queued"):
        waiting = "1 take waits" if backfill["queued"] == 1 else f"{backfill['queued']} takes wait"
        lines.append(f"{waiting} for pictures of nodes")
    if backfill.get("fault"):
        lines.append(f"backfill: {backfill['fault']}")
    return lines


def alarms_markdown(alarms: Sequence[Mapping[str, Any]], now_ns: int) -> str:
    """What is wrong at the moment, and for how long; a line each."""
    if not alarms:
        return "no alarm"
    return "\n\n".join(f"**⚠ {alarm['text']}** ({_duration(now_ns - alarm['since_ns'])})" for alarm in alarms)


def time_markdown(status: Mapping[str, Any]) -> str:
    """Timecode, the spread within sets and each node's clock."""
    spread, lines = status.get("spread", {}), []
    if status.get("timecode"):
        lines.append(f"timecode **{status['timecode']}**")
    if spread.get("median") is not None:
        median, p99, last = (spread[key] for key in ("median", "p99", "last"))
        lines.append(f"spread within sets: median {median:.2f} ms · 99 % {p99:.2f} · last {last:.2f}")
    rows = ["| clock of | offset ms | ± µs | drift ppm |", "| :-- | --: | --: | --: |"]
    for name, clock in status.get("clocks", {}).items():
        if clock is None:
            rows.append(f"| {name} | not known | | |")
        else:
            rows.append(f"| {name} | {clock['offset_ms']:.3f} | {clock['sigma_us']:.0f} | {clock['drift_ppm']:+.1f} |")
    return "\n\n".join([*lines, "\n".join(rows)])


def cameras_markdown(cameras: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the receiver's statistics: frames a second, drops, and whatever else a person should know."""
    rows = ["| camera | fps | dropped | |", "| :-- | --: | --: | :-- |"]
    for name, camera in cameras.items():
        rows.append(f"| {name} | {camera['fps']:.1f} | {camera['dropped']} | {_camera_note(camera)} |")
    return "\n".join(rows)


def recording_markdown(take: str | None, trouble: str = "") -> str:
    """The state of recording: the take that runs, or that none does, and what went wrong last."""
    state = f"● recording **{Path(take).name}**" if take else "not recording"
    return state + (f"\n\n**refused:** {trouble}" if trouble else "")


def mosaic(images: Mapping[str, np.ndarray], order: Sequence[str]) -> np.ndarray:
    """Thumbnails side by side, each with its name, in the given order. A camera without a picture is an empty tile.

    images: (h, w, 3) uint8 RGB, any size.  # H,W,3 uint8
    """
    columns = min(len(order), math.ceil(math.sqrt(1.5 * len(order))))
    rows = math.ceil(len(order) / columns)
    step = TILE + _GAP
    sheet = np.full((rows * step + _GAP, columns * step + _GAP, 3), _BACKGROUND, np.uint8)
    for i, name in enumerate(order):
        y, x = _GAP + (i // columns) * step, _GAP + (i % columns) * step
        tile = sheet[y : y + TILE, x : x + TILE]
        tile[:] = _EMPTY
        if name in images:
            _fit(images[name], tile)
        _write(tile, name)
    return sheet


def _duration(ns: int) -> str:
    seconds = max(0, ns) // 1_000_000_000
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def _camera_note(camera: Mapping[str, Any]) -> str:
    age = camera.get("age_s")
    if age is None:
        return "· not seen yet"
    if age > _STALE_S:
        return f"· silent for {age:.0f} s"
    return f"· {camera['refused']} refused" if camera.get("refused") else ""


def _fit(image: np.ndarray, tile: np.ndarray) -> None:
    scale = TILE / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    y, x = (TILE - height) // 2, (TILE - width) // 2
    tile[y : y + height, x : x + width] = small


def _write(tile: np.ndarray, name: str) -> None:
    """The name in the lower left corner, readable on any picture."""
    text = name if len(name) <= 18 else name[:17] + "~"
    patch = np.ascontiguousarray(tile)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(patch, text, (5, TILE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)
    tile[:] = patch
