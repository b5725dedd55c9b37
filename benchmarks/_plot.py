"""Curves as a PNG, by OpenCV: panels side by side, both axes logarithmic, the abscissa with a place for zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

Colour = tuple[int, int, int]  # blue, green, red

WIDTH, HEIGHT = 600, 520  # of a panel, pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 34, 18, 58  # around its axes
LEGEND = 26  # pixels a line above the panels
INK, GRID = (40, 40, 40), (225, 225, 225)
_DASH, _GAP = 9.0, 7.0  # pixels


@dataclass(frozen=True)
class Line:
    """One curve: x (n,) from 0 up, ascending, and y (n,) above 0."""

    x: Sequence[float]
    y: Sequence[float]
    colour: Colour
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over one abscissa, which is linear below ``knee`` and logarithmic above it."""

    lines: Sequence[Line]
    abscissa: str
    ordinate: str
    knee: float


def plot(title: str, legend: Sequence[tuple[str, Colour | None]], panels: Sequence[Panel], path: Path) -> None:
    """Draw panels side by side on one scale of y; legend: what each colour stands for, or a remark without one.

    Raises ValueError when there is nothing to draw.
    """
    values = [value for panel in panels for line in panel.lines for value in line.y]
    if not values:
        raise ValueError("no curve to plot")
    heads = [np.full((LEGEND, WIDTH * len(panels), 3), 255, np.uint8) for _ in range(1 + len(legend) // 2 + 1)]
    _write(heads[0], title, (LEFT, 19), 0.55)
    for n, (text, colour) in enumerate(legend):
        row, left = heads[1 + n // 2], LEFT + n % 2 * WIDTH
        if colour is not None:
            cv2.line(row, (left, 13), (left + 28, 13), colour, 3)
        _write(row, text, (left + 38 * (colour is not None), 18))
    drawn = np.hstack([_panel(panel, min(values) * 0.85, max(values) * 1.15) for panel in panels])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.vstack([*heads, drawn]), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())


def _panel(panel: Panel, low: float, high: float) -> np.ndarray:
    sheet = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    widest = max(x for line in panel.lines for x in line.x) or panel.knee

    def at(x: float, y: float) -> tuple[float, float]:
        across = np.log1p(x / panel.knee) / np.log1p(widest / panel.knee)
        up = np.log(y / low) / np.log(high / low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    marks = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]
    for mark in [0.0, *(mark for mark in marks if 0.9 * panel.knee < mark <= widest)]:
        x = round(at(mark, low)[0])
        cv2.line(sheet, (x, TOP), (x, HEIGHT - BOTTOM), GRID, 1)
        _write(sheet, f"{mark:g}", (x - 4 * len(f"{mark:g}"), HEIGHT - BOTTOM + 20))
    for mark in (mark for mark in marks if low <= mark <= high):
        y = round(at(0, mark)[1])
        cv2.line(sheet, (LEFT, y), (WIDTH - RIGHT, y), GRID, 1)
        _write(sheet, f"{mark:g}", (LEFT - 10 - 9 * len(f"{mark:g}"), y + 5))
    _write(sheet, panel.ordinate, (LEFT, TOP - 12))
    _write(sheet, panel.abscissa, (LEFT + 120, HEIGHT - 14))
    for line in panel.lines:
        points = np.array([at(x, y) for x, y in zip(line.x, line.y, strict=True)])
        for piece in _dashes(points) if line.dashed else [points]:
            cv2.polylines(sheet, [np.rint(piece).astype(np.int32)], False, line.colour, 2, cv2.LINE_AA)
        for x, y in np.rint(points).astype(int):
            cv2.circle(sheet, (int(x), int(y)), 3, line.colour, -1, cv2.LINE_AA)
    return sheet


def _dashes(points: np.ndarray) -> list[np.ndarray]:
    """A line through points (n, 2) cut into dashes.  # 2,2 each"""
    pieces, along = [], 0.0
    for a, b in pairwise(points):
        length = float(np.linalg.norm(b - a))
        first = -(along % (_DASH + _GAP))
        for begin in np.arange(first, length, _DASH + _GAP):
            ends = np.clip([begin, begin + _DASH], 0, length)
            if ends[1] > ends[0]:
                pieces.append(a + (b - a) * (ends / length)[:, None])
        along += length
    return pieces


def _write(sheet: np.ndarray, text: str, place: tuple[int, int], size: float = 0.45) -> None:
    cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
