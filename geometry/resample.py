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
    averages = _averages(count, size, count / size)
    return Taps(averages.first.astype(np.int32), averages.weight.astype(np.float32))


def lens_table(camera: Camera) -> tuple[np.ndarray, np.ndarray] | None:
    """Where each pixel of the undistorted picture is in the distorted one: whole pixels x, y (H, W, 2) int16, and
    (H, W) uint16 that holds y * PARTS + x of what is left, in 1/PARTS; None for a camera without distortion."""
    if not np.any(camera.dist):
        return None
    size = (camera.width, camera.height)
    return cv2.initUndistortRectifyMap(camera.K, camera.dist, None, camera.K, size, cv2.CV_16SC2)


def _axis(fixed: np.ndarray, count: int, shrink: float) -> Taps:
    """Bilinear places, in 1/_FIXED pixel, on an axis of ``count`` pixels that was shrunk by averages first."""
    places = np.floor(fixed * (PARTS / _FIXED) + 0.5) / PARTS
    below = np.floor(places).astype(int)
    beyond = places - below
    if shrink < 1:
        averages = _averages(count, round(count * shrink), 1 / shrink)
    else:
        averages = _Averages(np.arange(count), np.ones(count, int), np.ones((count, 1)))
    kept = len(averages.first)
    sides = [(below, 1 - beyond), (below + 1, beyond)]
    used = [(weight != 0) & (at >= 0) & (at < kept) for at, weight in sides]
    cells = [np.where(use, at, 0) for (at, _), use in zip(sides, used, strict=True)]
    first = [np.where(use, averages.first[at], count) for at, use in zip(cells, used, strict=True)]
    start = np.minimum(*first)
    start[start == count] = 0  # black
    ends = [np.where(use, averages.first[at] + averages.count[at], 1) for at, use in zip(cells, used, strict=True)]
    taps = max(int((np.maximum(*ends) - start).max()), 1)
    spread = np.arange(averages.weight.shape[1])
    sums = np.zeros((len(start), taps + len(spread)))  # an average's unused room may reach beyond the taps
    for (_, weight), use, at in zip(sides, used, cells, strict=True):
        rows = np.flatnonzero(use)
        columns = (averages.first[at] - start)[rows, None] + spread
        sums[rows[:, None], columns] += weight[rows, None] * averages.weight[at[rows]]
    return Taps(start.astype(np.int32), sums[:, :taps].astype(np.float32))


class _Averages(NamedTuple):
    """Output n is the sum over k of weight[n, k] times input first[n] + k, of which the first count[n] are not 0."""

    first: np.ndarray  # N
    count: np.ndarray  # N
    weight: np.ndarray  # N,T float64


def _averages(count: int, size: int, scale: float) -> _Averages:
    """What OpenCV's INTER_AREA averages for each of ``size`` outputs that cover ``scale`` pixels of ``count`` each."""
    n = np.arange(size)
    low, high = n * scale, (n + 1) * scale
    cell = np.minimum(scale, count - low)
    last = np.minimum(np.floor(high), count - 1).astype(int)
    begin = np.minimum(np.ceil(low), last).astype(int)
    first = begin - (begin - low > _LITTLE)
    end = last + (high - last > _LITTLE)
    pixel = first[:, None] + np.arange(int((end - first).max()))
    weight = np.where((begin[:, None] <= pixel) & (pixel < last[:, None]), 1 / cell[:, None], 0.0)
    weight += np.where(pixel < begin[:, None], ((begin - low) / cell)[:, None], 0.0)
    part = np.minimum(np.minimum(high - last, 1.0), cell) / cell
    weight += np.where((pixel == last[:, None]) & (pixel < end[:, None]), part[:, None], 0.0)
    return _Averages(first, end - first, weight)
