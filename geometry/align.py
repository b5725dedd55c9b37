"""The rigid motion that lays points onto others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geometry.compiled import kernel


class RigidMotion(NamedTuple):
    """``(points - middle) @ turn + onto``; metres in, metres out. turn (3, 3) is a rotation; middle, onto (3,)."""

    turn: np.ndarray
    middle: np.ndarray
    onto: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) moved.  # N,3"""
        points = np.ascontiguousarray(points, dtype=np.float64)
        out = np.empty_like(points)
        _moved(points, *self, out)
        return out


def rigid_motion(a: np.ndarray, b: np.ndarray, weight: np.ndarray | None = None) -> RigidMotion:
    """The motion of points a (N, 3) that comes nearest to b (N, 3) in the (weighted) least-squares sense.

    Kabsch's solution (Acta Crystallographica A32, 1976); never a mirroring, whatever the points are.
    """
    a, b = (np.ascontiguousarray(points, dtype=np.float64) for points in (a, b))
    weight = np.ones(len(a)) if weight is None else np.ascontiguousarray(weight, dtype=np.float64)
    middle, onto, product = np.zeros(3), np.zeros(3), np.zeros((3, 3))
    _moments(a, b, weight, middle, onto, product)
    u, _, vt = np.linalg.svd(product)
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return RigidMotion(turn, middle, onto)


@kernel
def _moments(a, b, weight, middle, onto, product):
    """Means of both, and the sum of the products of what is beside them, (3, 3)."""
    total = weight.sum()
    for n in range(a.shape[0]):
        share = weight[n] / total
        for k in range(3):
            middle[k] += share * a[n, k]
            onto[k] += share * b[n, k]
    for n in range(a.shape[0]):
        for i in range(3):
            weighted = weight[n] * (a[n, i] - middle[i])
            for j in range(3):
                product[i, j] += weighted * (b[n, j] - onto[j])


@kernel
def _moved(points, turn, middle, onto, out):
    for n in range(points.shape[0]):
        x, y, z = points[n, 0] - middle[0], points[n, 1] - middle[1], points[n, 2] - middle[2]
        for k in range(3):
            out[n, k] = x * turn[0, k] + y * turn[1, k] + z * turn[2, k] + onto[k]
