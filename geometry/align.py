"""The rigid motion that lays points onto others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class RigidMotion(NamedTuple):
    """``(points - middle) @ turn + onto``; metres in, metres out. turn (3, 3) is a rotation; middle, onto (3,)."""

    turn: np.ndarray
    middle: np.ndarray
    onto: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) moved.  # N,3"""
        return (points - self.middle) @ self.turn + self.onto


def rigid_motion(a: np.ndarray, b: np.ndarray, weight: np.ndarray | None = None) -> RigidMotion:
    """The motion of points a (N, 3) that comes nearest to b (N, 3) in the (weighted) least-squares sense.

    Kabsch's solution (Acta Crystallographica A32, 1976); never a mirroring, whatever the points are.
    """
    weight = np.ones(len(a)) if weight is None else weight
    middle, onto = weight @ a / weight.sum(), weight @ b / weight.sum()
    u, _, vt = np.linalg.svd(((a - middle) * weight[:, None]).T @ (b - onto))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return RigidMotion(turn, middle, onto)
