"""A filter in time against jitter that does not lag: what moves on passes, noise not.

Like the one-euro filter (Casiez, Roussel and Vogel, CHI 2012) it smooths less the faster something moves; unlike it,
it asks no one how fast is fast: the frames' own scatter is the measure, as the quietest of late had it, since a face
that begins to speak scatters too. The head as one piece and each vertex beside it are filtered apart, so that a head
that turns takes nothing from its face and a wobble of the whole is no trend of all its vertices. It knows no clock; a
step is a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from geometry.align import RigidMotion, rigid_motion

_LEAST = 0.17  # share of what is new that comes through where there is only noise
_TREND = 0.25  # share of what is new in the trend
_SCATTERS = 1.3  # a trend of this many scatters counts half as motion
# The next two lines were chosen on the demo's take, by its worst frames and a still head's jitter.
_AT_ONCE = 3.5  # and so does what is off by this many in one frame, whatever went before
_RISE, _FALL = 0.03, 0.3  # of the remembered scatter: in a frame at most; share of what is new
_FLOOR = 5e-6  # metres: a smaller scatter is none


@dataclass(frozen=True, eq=False)
class Steady:
    """The filter's memory after a frame: what it gave out, where that tends to (metres a frame), and how far noise
    alone scatters vertices (metres, the median of all; None until two frames were compared)."""

    vertices: np.ndarray  # P,3
    trend: np.ndarray  # P,3 of each vertex beside the whole
    drift: np.ndarray  # 6, of the whole: its middle's way, and its turn times its reach
    scatter: float | None = None


def steadied(before: Steady | None, vertices: np.ndarray, jumped: bool = False) -> Steady:
    """One more frame: vertices (P, 3) metres. They pass as they are without a memory, with one of another topology, and
    when they ``jumped``; what noise is like is remembered.

    The last frame's vertices are first moved as one piece onto the new ones. What is left, and then that motion, is let
    through by a share between ``_LEAST`` and 1 that grows with its trend, and with itself where it is far too large for
    noise; both measured in the scatter.
    """
    if before is None or jumped or before.vertices.shape != vertices.shape:
        return Steady(vertices, np.zeros_like(vertices), np.zeros(6), None if before is None else before.scatter)
    motion = _as_one_piece(before.vertices, vertices)
    carried = motion(before.vertices)
    off = vertices - carried
    trend = before.trend @ motion.turn
    trend = trend + _TREND * (off - trend)
    noise = off - trend
    scatter = _remembered(before.scatter, max(float(np.sqrt(np.median(np.vecdot(noise, noise)))), _FLOOR))
    made = carried + _share(_motion(trend, off, scatter))[:, None] * off

    way, turned = motion.onto - motion.middle, Rotation.from_matrix(motion.turn.T).as_rotvec()
    reach = np.sqrt(3 * ((before.vertices - motion.middle) ** 2).mean())
    step = np.concatenate([way, reach * turned])
    drift = before.drift + _TREND * (step - before.drift)
    share = _share(_motion(drift, step, scatter) ** 2)  # of a head that is flung about not a hundredth may stay behind
    back = Rotation.from_rotvec((share - 1) * turned).as_matrix().T
    return Steady((made - motion.onto) @ back + motion.middle + share * way, trend @ back, drift, scatter)


def _remembered(before: float | None, scatter: float) -> float:
    """What noise alone is like after a frame that scatters so: a quieter one tells, a wilder one may be motion."""
    if before is None:
        return scatter
    if scatter > before:
        return min(scatter, (1 + _RISE) * before)
    return before + _FALL * (scatter - before)


def _motion(trend: np.ndarray, off: np.ndarray, scatter: float) -> np.ndarray:
    """How sure it is that what has a trend (..., n) and is ``off`` by so much now moves; 1 is half sure."""
    going = np.vecdot(trend, trend) / (_SCATTERS * scatter) ** 2
    return going + (np.vecdot(off, off) / (_AT_ONCE * scatter) ** 2) ** 4


def _share(ratio: np.ndarray) -> np.ndarray:
    """How much of what is new comes through: half of what noise would not let at a ratio of 1."""
    return _LEAST + (1 - _LEAST) * ratio / (1 + ratio)


def _as_one_piece(a: np.ndarray, b: np.ndarray) -> RigidMotion:
    """The motion of points (P, 3) onto others; those that it leaves far away count less (reweighted once)."""
    off = b - rigid_motion(a, b)(a)
    off = np.vecdot(off, off)
    return rigid_motion(a, b, 1 / (1 + off / max(float(np.median(off)), _FLOOR**2)))
