"""Meshes of one topology smoothed in time, with what came after as well as what came before: no lag.

A parabola is laid through each vertex's path over a few frames (Savitzky and Golay 1964, as weighted least squares so
that frames may be missing). Where the path itself is further from the parabola than noise would take it, it moves
faster than the window can follow, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REACH = 3  # frames before and after
_DEGREE = 2
_NOISE = 0.3e-3  # metres: half of a correction of this size is believed


def smoothed(paths: Sequence[np.ndarray], times: Sequence[float], at: int) -> np.ndarray:
    """Vertices (P, 3) of mesh ``at`` of a window.

    paths: the window's vertices, (P, 3) each; times: of the same, frames, all different.
    """
    share = weights(np.asarray(times, np.float64) - times[at])
    fit = sum(part * vertices for part, vertices in zip(share, paths, strict=True))
    off = fit - paths[at]
    believed = 1 / (1 + (np.linalg.norm(off, axis=1, keepdims=True) / _NOISE) ** 2)
    return paths[at] + believed * off


def weights(times: np.ndarray) -> np.ndarray:
    """What each of a window's values counts in the parabola's value at time 0.  # n"""
    powers = np.vander(times, min(_DEGREE + 1, len(times)), increasing=True)  # n,3
    return np.linalg.pinv(powers)[0]
