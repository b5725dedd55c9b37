"""Cutting a window as weights: for each pixel of a window's picture, which pixels of the whole picture it averages.

``geometry.cameras.crop_image`` and ``undistort`` are the mathematics, carried out by OpenCV. This says the same as
sums, axis by axis, for a device that does it all at once: whole-picture area averages, then bilinear sampling at places
that OpenCV rounds to 1/32 pixel, and OpenCV's own table of where a lens has put each pixel. What stays different is
rounding: OpenCV rounds to whole grey levels after each step, a sum once.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from geometry.cameras import crop_plan
from protocol.calibration import Camera

PARTS = 32  # of a pixel: OpenCV's places (INTER_TAB_SIZE)
_FIXED = 1024  # of a pixel: what OpenCV computes them in (AB_SCALE)
_LITTLE = 1e-3  # of a pixel: OpenCV leaves out what an average covers less of


class Taps(NamedTuple):
    """One axis: output i is the sum over k of weight[i, k] times input start[i] + k; all of them lie inside."""

    start: np.ndarray  # N int32
    weight: np.ndarray  # N,T float32


def window_taps(x0: float, y0: float, side: float, size: int, width: int, height: int) -> tuple[Taps, Taps]:
    """Columns and rows of ``crop_image``, for a picture of width x height; outside it is black."""
    shrink, back = crop_plan(x0, y0, side, size)
    # As warpAffine rounds: in columns each term by itself, in rows their sum, and then to 1/PARTS, halves up.
    columns = np.rint(back[0, 0] * np.arange(size) * _FIXED) + np.rint(back[0, 2] * _FIXED)
    rows = np.rint((back[1, 1] * np.arange(size) + back[1, 2]) * _FIXED)
    return _axis(columns, width, shrink), _axis(rows, height, shrink)


def area_taps(count: int, size: int) -> Taps:
    """An axis of ``cv2.resize(..., INTER_AREA)`` from ``count`` pixels to ``size``, not more."""
    return _packed(_averages(count, size, count / size))


def lens_table(camera: Camera) -> tuple[np.ndarray, np.ndarray] | None:
    """Where each pixel of the undistorted picture is in the distorted one: whole pixels x, y (H, W, 2) int16, and
    (H, W) uint16 that holds y * PARTS + x of what is left, in 1/PARTS; None for a camera without distortion."""
    if not np.any(camera.dist):
        return None
    size = (camera.width, camera.height)
    return cv2.initUndistortRectifyMap(camera.K, camera.dist, None, camera.K, size, cv2.CV_16SC2)


def _axis(fixed: np.ndarray, count: int, shrink: float) -> Taps:
    """Bilinear places, in 1/_FIXED pixel, on an axis of ``count`` pixels that was shrunk by averages first."""
    averages = _averages(count, round(count * shrink), 1 / shrink) if shrink < 1 else None
    kept = count if averages is None else len(averages)
    places = np.floor(fixed * (PARTS / _FIXED) + 0.5) / PARTS
    below = np.floor(places).astype(int)
    rows: list[dict[int, float]] = []
    for place, low in zip(places, below, strict=True):
        row: dict[int, float] = {}
        for at, weight in ((low, 1 - (place - low)), (low + 1, place - low)):
            if weight and 0 <= at < kept:
                for pixel, share in (averages[at] if averages is not None else {at: 1.0}).items():
                    row[pixel] = row.get(pixel, 0.0) + weight * share
        rows.append(row)
    return _packed(rows)


def _averages(count: int, size: int, scale: float) -> list[dict[int, float]]:
    """What OpenCV's INTER_AREA averages for each of ``size`` outputs that cover ``scale`` pixels of ``count`` each."""
    rows = []
    for n in range(size):
        low, high = n * scale, (n + 1) * scale
        cell = min(scale, count - low)
        last = min(int(np.floor(high)), count - 1)
        begin = min(int(np.ceil(low)), last)
        row = {pixel: 1 / cell for pixel in range(begin, last)}
        if begin - low > _LITTLE:
            row[begin - 1] = (begin - low) / cell
        if high - last > _LITTLE:
            row[last] = min(high - last, 1.0, cell) / cell
        rows.append(row)
    return rows


def _packed(rows: list[dict[int, float]]) -> Taps:
    start = np.array([min(row, default=0) for row in rows], np.int32)
    taps = max((max(row) - min(row) + 1 for row in rows if row), default=1)
    weight = np.zeros((len(rows), taps), np.float32)
    for n, row in enumerate(rows):
        for pixel, share in row.items():
            weight[n, pixel - start[n]] = share
    return Taps(start, weight)
