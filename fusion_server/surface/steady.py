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
from geometry.compiled import kernel

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
    off, trend, noise = np.empty_like(vertices), np.empty_like(vertices), np.empty(len(vertices))
    _beside(before.vertices, vertices, before.trend, *motion, off, trend, noise)
    scatter = _remembered(before.scatter, max(float(np.sqrt(np.median(noise))), _FLOOR))

    way, turned = motion.onto - motion.middle, Rotation.from_matrix(motion.turn.T).as_rotvec()
    reach = np.sqrt(3 * ((before.vertices - motion.middle) ** 2).mean())
    step = np.concatenate([way, reach * turned])
    drift = before.drift + _TREND * (step - before.drift)
    # Of a head that is flung about not a hundredth may stay behind.
    share = _share(_motion(_square(drift), _square(step), scatter) ** 2)
    back = Rotation.from_rotvec((share - 1) * turned).as_matrix().T
    made = np.empty_like(vertices)
    _let_through(vertices, off, trend, scatter, motion.onto, back, motion.middle + share * way, made)
    return Steady(made, trend, drift, scatter)


def _remembered(before: float | None, scatter: float) -> float:
    """What noise alone is like after a frame that scatters so: a quieter one tells, a wilder one may be motion."""
    if before is None:
        return scatter
    if scatter > before:
        return min(scatter, (1 + _RISE) * before)
    return before + _FALL * (scatter - before)


@kernel
def _beside(before, vertices, then, turn, middle, onto, off, trend, noise):
    """What each vertex went beside the whole, its trend in the pose it has now, and what is neither, squared."""
    for n in range(vertices.shape[0]):
        noise[n] = 0.0
        for k in range(3):
            carried, kept = onto[k], 0.0
            for j in range(3):
                carried += (before[n, j] - middle[j]) * turn[j, k]
                kept += then[n, j] * turn[j, k]
            off[n, k] = vertices[n, k] - carried
            trend[n, k] = kept + _TREND * (off[n, k] - kept)
            noise[n] += (off[n, k] - trend[n, k]) ** 2


@kernel
def _let_through(vertices, off, trend, scatter, onto, back, to, made):
    """Vertices with so much of what they went as comes through, and then, as their trends, turned back with the
    whole."""
    left, going = np.empty(3), np.empty(3)
    for n in range(vertices.shape[0]):
        kept = 1.0 - _share(_motion(_square(trend[n]), _square(off[n]), scatter))
        for k in range(3):
            left[k], going[k] = vertices[n, k] - kept * off[n, k] - onto[k], trend[n, k]
        for k in range(3):
            made[n, k] = left[0] * back[0, k] + left[1] * back[1, k] + left[2] * back[2, k] + to[k]
            trend[n, k] = going[0] * back[0, k] + going[1] * back[1, k] + going[2] * back[2, k]


@kernel
def _square(way):
    total = 0.0
    for part in way:
        total += part * part
    return total


@kernel
def _motion(trend: float, off: float, scatter: float) -> float:
    """How sure it is that what has a trend and is off by so much now (both squared) moves; 1 is half sure."""
    return trend / (_SCATTERS * scatter) ** 2 + (off / (_AT_ONCE * scatter) ** 2) ** 4


@kernel
def _share(ratio: float) -> float:
    """How much of what is new comes through: half of what noise would not let at a ratio of 1."""
    return _LEAST + (1 - _LEAST) * ratio / (1 + ratio)


def _as_one_piece(a: np.ndarray, b: np.ndarray) -> RigidMotion:
    """The motion of points (P, 3) onto others; those that it leaves far away count less (reweighted once)."""
    off = b - rigid_motion(a, b)(a)
    off = np.vecdot(off, off)
    return rigid_motion(a, b, 1 / (1 + off / max(float(np.median(off)), _FLOOR**2)))
