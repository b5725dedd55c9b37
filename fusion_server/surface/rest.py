"""The rest pose: what a tracked surface goes back to where nobody measures it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from fusion_server.surface.solve import Shape, Topology, widened
from geometry.align import rigid_motion
from geometry.compiled import kernel

_ROUNDS = 32  # of leading folds back to the pose
_PATIENCE = 4  # of them before a fold's surroundings are taken one ring wider
_SWEEPS = 20  # of Gauss and Seidel a time; each frame goes on where the last one stopped


@dataclass(frozen=True, eq=False)
class Rest:
    """What a surface of this topology looks like when nothing acts on it, however it is turned and bent.

    vertices (P, 3). height (2E,): metres, of each neighbour over a vertex's tangent plane. layout (2E,): weights of a
    vertex's neighbours, of sum 1, whose mean lies straight above or below it. unseen (P,) bool: vertices that nobody
    saw when the pose was taken.
    """

    vertices: np.ndarray
    height: np.ndarray
    layout: np.ndarray
    unseen: np.ndarray

    @classmethod
    def of(cls, shape: Shape, topology: Topology, unseen: np.ndarray) -> Rest:
        """Take a pose as the one at rest; unseen (P,) bool."""
        height, layout = np.empty(len(topology.neighbour)), np.empty(len(topology.neighbour))
        _rest(shape.vertices, shape.normals, topology.start, topology.neighbour, height, layout)
        return cls(shape.vertices, height, layout, unseen)

    @cached_property
    def _inner(self) -> np.ndarray:
        return np.flatnonzero(self.unseen).astype(np.uint32)

    def _laid_onto(self, vertices: np.ndarray) -> np.ndarray:
        """The pose moved as one piece to where the seen vertices are.  # P,3"""
        others = ~self.unseen
        return rigid_motion(self.vertices[others], vertices[others])(self.vertices)

    def apart(self, vertices: np.ndarray) -> float:
        """How far vertices (P, 3) are from any rigid copy of the pose, metres, three quarters of those seen."""
        off = np.linalg.norm(vertices - self._laid_onto(vertices), axis=1)[~self.unseen]
        return float(np.percentile(off, 75)) if len(off) else 0.0

    def carried(self, vertices: np.ndarray, topology: Topology) -> np.ndarray:
        """Vertices (P, 3) with the unseen ones where the others take them.

        The others have moved as one piece, and each a little by itself; that little is spread over the unseen ones as
        heat would be. It depends on the rest pose and on the others alone, so that what nobody sees cannot creep.
        # P,3
        """
        if not len(self._inner):
            return vertices
        stiff = self._laid_onto(vertices)
        off = vertices - stiff
        _spread(off, topology.start, topology.neighbour, self._inner, _SWEEPS)
        return np.where(self.unseen[:, None], stiff + off, vertices)

    def unfolded(self, vertices: np.ndarray, topology: Topology) -> np.ndarray:
        """Vertices (P, 3) with the surroundings of folded faces led back to the pose, which has no folds, turned and
        shifted as each patch is. Where a deep crease folds, smoothing would only draw it together.  # P,3
        """
        for n in range(_ROUNDS):
            folded = Shape.of(vertices, topology).folded(topology)
            if not folded.any():
                break
            marked = np.zeros(len(vertices), np.bool_)
            marked[topology.faces[folded]] = True
            for _ in range(1 + n // _PATIENCE):
                marked = widened(marked, topology)
            vertices = vertices.copy()
            for patch in _patches(marked, topology):
                there = rigid_motion(self.vertices[patch], vertices[patch])(self.vertices[patch])
                vertices[patch] += 0.5 * (there - vertices[patch])
        return vertices


def _patches(marked: np.ndarray, topology: Topology) -> list[np.ndarray]:
    """The marked vertices (P,) bool, by what hangs together: numbers of vertices of each patch."""
    i, j = topology.edges.T
    inner = marked[i] & marked[j]
    members, own = np.flatnonzero(marked), np.cumsum(marked) - 1  # their numbers among all, and among themselves
    graph = sparse.coo_matrix((np.ones(inner.sum(), np.bool_), (own[i[inner]], own[j[inner]])), (len(members),) * 2)
    count, label = connected_components(graph, directed=False)
    return [members[label == number] for number in range(count)]


@kernel
def _rest(x, v, start, neighbour, height, layout):
    """Layout: equal weights, changed as little as takes the tangential part of the neighbours' mean to zero."""
    for i in range(x.shape[0]):
        n0, n1, n2 = v[i]
        m0, m1, m2 = 0.0, 0.0, 0.0
        count = start[i + 1] - start[i]
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            m0 += x[j, 0] / count
            m1 += x[j, 1] / count
            m2 += x[j, 2] / count
        # The plane's own axes: any two at right angles to the normal will do.
        a0, a1, a2 = (0.0, -n2, n1) if abs(n0) < 0.7 else (n2, 0.0, -n0)
        size = max(np.sqrt(a0 * a0 + a1 * a1 + a2 * a2), 1e-12)  # no normal where all faces around have no area
        a0, a1, a2 = a0 / size, a1 / size, a2 / size
        b0, b1, b2 = n1 * a2 - n2 * a1, n2 * a0 - n0 * a2, n0 * a1 - n1 * a0
        aa, ab, bb = 0.0, 0.0, 0.0
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            e0, e1, e2 = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
            height[n] = n0 * e0 + n1 * e1 + n2 * e2
            p = a0 * (x[j, 0] - m0) + a1 * (x[j, 1] - m1) + a2 * (x[j, 2] - m2)
            q = b0 * (x[j, 0] - m0) + b1 * (x[j, 1] - m1) + b2 * (x[j, 2] - m2)
            aa += p * p
            ab += p * q
            bb += q * q
        det = max(aa * bb - ab * ab, 1e-30)
        p = a0 * (x[i, 0] - m0) + a1 * (x[i, 1] - m1) + a2 * (x[i, 2] - m2)
        q = b0 * (x[i, 0] - m0) + b1 * (x[i, 1] - m1) + b2 * (x[i, 2] - m2)
        s, t = (bb * p - ab * q) / det, (aa * q - ab * p) / det
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            d0, d1, d2 = x[j, 0] - m0, x[j, 1] - m1, x[j, 2] - m2
            layout[n] = 1.0 / count + s * (a0 * d0 + a1 * d1 + a2 * d2) + t * (b0 * d0 + b1 * d1 + b2 * d2)


@kernel
def _spread(x, start, neighbour, free, rounds):
    for _ in range(rounds):
        for i in free:
            m0, m1, m2 = 0.0, 0.0, 0.0
            for n in range(start[i], start[i + 1]):
                j = neighbour[n]
                m0 += x[j, 0]
                m1 += x[j, 1]
                m2 += x[j, 2]
            count = start[i + 1] - start[i]
            x[i, 0], x[i, 1], x[i, 2] = m0 / count, m1 / count, m2 / count
