"""A filter in time against jitter that does not lag: what moves as one piece passes, what moves on passes, noise not.

Like the one-euro filter (Casiez, Roussel and Vogel, CHI 2012) it smooths less the faster something moves; unlike it,
it asks no one how fast is fast: the frame's own scatter is the measure. It knows no clock; a step is a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAST = 0.25  # share of what is new that comes through where there is only noise
_TREND = 0.3  # share of what is new in the trend
_SCATTERS = 1.5  # a trend of this many scatters counts half as motion
_FLOOR = 5e-6  # metres: a smaller scatter is none


@dataclass(frozen=True, eq=False)
class Steady:
    """The filter's memory after a frame: what it gave out, and where each vertex tends to (metres a frame)."""

    vertices: np.ndarray  # P,3
    trend: np.ndarray  # P,3


def steadied(before: Steady | None, vertices: np.ndarray) -> Steady:
    """One more frame: vertices (P, 3) metres. Without a memory, or with one of another topology, they pass as they are.

    The last frame's vertices are first moved as one piece onto the new ones, so that a head that turns is not filtered
    at all. What is left is let through by a share between ``_LEAST`` and 1 that grows with the trend of it, measured in
    the median scatter of all vertices.
    """
    if before is None or before.vertices.shape != vertices.shape:
        return Steady(vertices, np.zeros_like(vertices))
    turn, middle, onto = _rigid(before.vertices, vertices)
    carried = (before.vertices - middle) @ turn + onto
    off = vertices - carried
    trend = before.trend @ turn
    trend = trend + _TREND * (off - trend)
    scatter = max(float(np.median(np.linalg.norm(off - trend, axis=1))), _FLOOR)
    ratio = (trend**2).sum(1) / (_SCATTERS * scatter) ** 2
    share = _LEAST + (1 - _LEAST) * ratio / (1 + ratio)
    return Steady(carried + share[:, None] * off, trend)


def _rigid(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The motion of points (P, 3) onto others: (a - middle) @ turn + onto; far ones count less (reweighted once)."""
    weight = np.ones(len(a))
    for _ in range(2):
        middle, onto = np.average(a, 0, weight), np.average(b, 0, weight)
        u, _, vt = np.linalg.svd(((a - middle) * weight[:, None]).T @ (b - onto))
        turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
        off = ((b - (a - middle) @ turn - onto) ** 2).sum(1)
        weight = 1 / (1 + off / max(float(np.median(off)), _FLOOR**2))
    return turn, middle, onto
