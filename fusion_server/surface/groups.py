"""Groups of neighbouring vertices that move alike, and the small system that says how.

A motion of ten thousand vertices that changes little from one to the next is one of a thousand groups: the system is a
tenth as large, conjugate gradients get across it in a few steps, and what a single vertex is too poor to know its group
knows (aggregation, as in algebraic multigrid).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from fusion_server.surface.solve import Topology
from geometry.compiled import kernel

_STEPS = 15  # of conjugate gradients: forty gave the same
_SPREADS = 3  # each takes half of the neighbours' mean
_HELD = 1e-2  # 1 / m^2: keeps what nobody knows of from making the system singular


@dataclass(frozen=True, eq=False)
class Groups:
    """Vertices by groups of neighbours.

    of (P,): each one's group. first (G + 1,), member (P,): a group's vertices, row by row. start (G + 1,), neighbour,
    links: which groups touch, row by row, and over how many edges.
    """

    of: np.ndarray
    first: np.ndarray
    member: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    links: np.ndarray

    @classmethod
    def of_mesh(cls, topology: Topology) -> Groups:
        """Every vertex with its neighbours, as far as these are not in another group."""
        group = np.full(len(topology.start) - 1, -1, np.int32)
        count = _grouped(topology.start, topology.neighbour, group)
        ends = group[topology.edges].astype(np.int64)
        ends = ends[ends[:, 0] != ends[:, 1]]
        key, links = np.unique(np.concatenate([ends @ [count, 1], ends @ [1, count]]), return_counts=True)
        start = np.searchsorted(key, np.arange(count + 1) * count).astype(np.uint32)
        member = np.argsort(group, kind="stable").astype(np.uint32)
        first = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count))]).astype(np.uint32)
        return cls(
            group.view(np.uint32), first, member, start, (key % count).astype(np.uint32), links.astype(np.float64)
        )

    def solve(self, system: np.ndarray, right: np.ndarray, alike: float) -> np.ndarray:
        """The motions (G, 3) that fit each group's own normal equations, system (G, 3, 3) and right (G, 3), while every
        edge between two groups asks for the same motion with weight ``alike``: a few conjugate gradients.  # G,3"""
        return _solved(system, right, self.start, self.neighbour, self.links * alike, _STEPS)

    def spread(self, motions: np.ndarray, topology: Topology) -> np.ndarray:
        """What the groups' motions (G, 3) are for their vertices, without steps from one group to the next.  # P,3"""
        out = motions[self.of]
        for _ in range(_SPREADS):
            out = _spread(out, topology.start, topology.neighbour)
        return out


@kernel
def _grouped(start, neighbour, group):
    count = 0
    for i in range(group.shape[0]):
        free = group[i] < 0
        for n in range(start[i], start[i + 1]):
            free &= group[neighbour[n]] < 0
        if free:
            group[i] = count
            for n in range(start[i], start[i + 1]):
                group[neighbour[n]] = count
            count += 1
    alone = group.copy()
    for i in range(group.shape[0]):
        if group[i] < 0:
            for n in range(start[i], start[i + 1]):
                if alone[neighbour[n]] >= 0:
                    group[i] = alone[neighbour[n]]
                    break
        if group[i] < 0:
            group[i] = count
            count += 1
    return count


@kernel
def _inverted(a, out):
    """Inverse of a symmetric 3 x 3."""
    c00, c01, c02 = (
        a[1, 1] * a[2, 2] - a[1, 2] * a[1, 2],
        a[0, 2] * a[1, 2] - a[0, 1] * a[2, 2],
        a[0, 1] * a[1, 2] - a[0, 2] * a[1, 1],
    )
    over = 1.0 / (a[0, 0] * c00 + a[0, 1] * c01 + a[0, 2] * c02)
    out[0, 0], out[0, 1], out[0, 2] = c00 * over, c01 * over, c02 * over
    out[1, 1] = (a[0, 0] * a[2, 2] - a[0, 2] * a[0, 2]) * over
    out[1, 2] = (a[0, 1] * a[0, 2] - a[0, 0] * a[1, 2]) * over
    out[2, 2] = (a[0, 0] * a[1, 1] - a[0, 1] * a[0, 1]) * over
    out[1, 0], out[2, 0], out[2, 1] = out[0, 1], out[0, 2], out[1, 2]


@kernel
def _solved(system, right, start, neighbour, alike, steps):
    """Conjugate gradients, preconditioned by blocks: system (G, 3, 3) on the diagonal, links of weight alike."""
    count = system.shape[0]
    inverse = np.empty_like(system)
    for g in range(count):
        for n in range(start[g], start[g + 1]):
            for k in range(3):
                system[g, k, k] += alike[n]
        for k in range(3):
            system[g, k, k] += _HELD
        _inverted(system[g], inverse[g])
    x = np.zeros((count, 3))
    r = right.copy()
    z, q = np.empty((count, 3)), np.empty((count, 3))
    p = np.zeros((count, 3))
    fall, least = 0.0, 0.0
    for step in range(steps + 1):
        following = 0.0
        for g in range(count):
            for j in range(3):
                z[g, j] = inverse[g, j, 0] * r[g, 0] + inverse[g, j, 1] * r[g, 1] + inverse[g, j, 2] * r[g, 2]
                following += z[g, j] * r[g, j]
        if step == 0:
            least = 1e-6 * following
        if step == steps or following <= least:
            break
        beta = following / fall if step else 0.0
        fall = following
        for g in range(count):
            for j in range(3):
                p[g, j] = z[g, j] + beta * p[g, j]
        along = 0.0
        for g in range(count):
            for j in range(3):
                q[g, j] = system[g, j, 0] * p[g, 0] + system[g, j, 1] * p[g, 1] + system[g, j, 2] * p[g, 2]
            for n in range(start[g], start[g + 1]):
                for j in range(3):
                    q[g, j] -= alike[n] * p[neighbour[n], j]
            for j in range(3):
                along += q[g, j] * p[g, j]
        alpha = fall / along
        for g in range(count):
            for j in range(3):
                x[g, j] += alpha * p[g, j]
                r[g, j] -= alpha * q[g, j]
    return x


@kernel(parallel=True)
def _spread(x, start, neighbour):
    out = np.empty_like(x)
    for i in numba.prange(x.shape[0]):
        over = 0.5 / max(start[i + 1] - start[i], 1)
        for k in range(3):
            total = 0.0
            for n in range(start[i], start[i + 1]):
                total += x[neighbour[n], k]
            out[i, k] = 0.5 * x[i, k] + over * total
    return out
