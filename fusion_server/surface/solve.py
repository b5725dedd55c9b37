"""One scalar per vertex: how far it moves along its normal. Rows are gathered into normal equations whose pattern is
the mesh's own edges, so a matrix is one number a vertex and one an edge, and solved by conjugate gradients.

Two unknowns that meet in a row always share an edge, whatever the row says; that is why scalars and rows along edges
are all that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from geometry.compiled import kernel
from geometry.mesh import edges

_ROUNDS = 48  # of smoothing folds, at most
_PATIENCE = 8  # rounds of smoothing a fold before its surroundings are taken one ring wider


@dataclass(frozen=True, eq=False)
class Around:
    """Faces at each vertex, ``face[start[v]:start[v + 1]]``, and those at it or at its neighbours, ``wide_...``."""

    start: np.ndarray
    face: np.ndarray
    wide_start: np.ndarray
    wide_face: np.ndarray


@dataclass(frozen=True, eq=False)
class Topology:
    """A mesh's faces with what the solver wants to know of them, made once.

    faces (F, 3) int32; edges (E, 2); face_edges (F, 3), edge k joins corners k and k + 1; neighbours of vertex v are
    ``neighbour[start[v]:start[v + 1]]`` across edges ``link[...]``. All but the faces are uint32; ``geometry.compiled``
    says why.
    """

    faces: np.ndarray
    edges: np.ndarray
    face_edges: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    link: np.ndarray

    @classmethod
    def of(cls, faces: np.ndarray, vertices: int) -> Topology:
        """Index the faces of a mesh of ``vertices`` vertices."""
        faces = np.ascontiguousarray(faces, dtype=np.int32)
        pairs = edges(faces)
        key = pairs[:, 0].astype(np.int64) * vertices + pairs[:, 1]
        sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1).astype(np.int64), axis=-1)  # F,3,2
        face_edges = np.searchsorted(key, sides[..., 0] * vertices + sides[..., 1])
        ends = np.concatenate([pairs[:, 0], pairs[:, 1]])
        order = np.argsort(ends, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=vertices))])
        neighbour = np.concatenate([pairs[:, 1], pairs[:, 0]])[order]
        link = np.tile(np.arange(len(pairs)), 2)[order]
        as32 = [np.ascontiguousarray(a, dtype=np.uint32) for a in (pairs, face_edges, start, neighbour, link)]
        return cls(faces, *as32)

    @cached_property
    def corners(self) -> np.ndarray:
        """The faces, uint32.  # F,3"""
        return self.faces.view(np.uint32)

    @cached_property
    def around(self) -> Around:
        """Which faces lie around each vertex."""
        return Around(*_around(self.corners, self.start, self.neighbour))


@dataclass(frozen=True, eq=False)
class Shape:
    """Where the vertices are, and what follows from it."""

    vertices: np.ndarray  # P,3
    normals: np.ndarray  # P,3 unit
    face_normals: np.ndarray  # F,3 unit
    areas: np.ndarray  # F
    edge: float  # mean edge length, metres

    @classmethod
    def of(cls, vertices: np.ndarray, topology: Topology) -> Shape:
        """Normals and areas of a pose."""
        vertices = np.ascontiguousarray(vertices, dtype=np.float64)
        normals = np.zeros_like(vertices)
        face_normals = np.empty((len(topology.faces), 3))
        areas = np.empty(len(topology.faces))
        edge = _shape(vertices, topology.corners, normals, face_normals, areas)
        return cls(vertices, normals, face_normals, areas, edge)

    def folded(self, topology: Topology, cosine: float = 0.0) -> np.ndarray:
        """Faces that are turned against the normals of their vertices, or away from them by more than an angle of this
        cosine.  # F bool"""
        folded = np.empty(len(topology.faces), np.bool_)
        _folded(self.normals, topology.corners, self.face_normals, cosine, folded)
        return folded


class System:
    """Normal equations A d = b for the displacements d (P,), metres."""

    def __init__(self, topology: Topology):
        self.topology = topology
        self.diagonal = np.zeros(len(topology.start) - 1)
        self.off = np.zeros(len(topology.edges))
        self.right = np.zeros(len(topology.start) - 1)

    def add_normals(self, shape: Shape, normals: np.ndarray, weights: np.ndarray) -> None:
        """Edges of a face are to stand at right angles to its wanted normal (F, 3), with weight (F,) in 1/rad^2."""
        topology = self.topology
        _normal_rows(
            shape.vertices, shape.normals, topology.corners, topology.face_edges, normals, weights, self.diagonal,
            self.off, self.right,
        )  # fmt: skip

    def add_edge_points(self, edge, first, second, want, weight) -> None:
        """Rows first d_i + second d_j = want (metres) for edges (i, j), weight in 1/m^2; all arrays (n,)."""
        _edge_rows(self.topology.edges, edge, first, second, want, weight, self.diagonal, self.off, self.right)

    def add_points(self, want: np.ndarray, weight: np.ndarray) -> None:
        """Rows d = want (P,) metres, weight (P,) in 1/m^2."""
        self.diagonal += weight
        self.right += weight * want

    def add_membrane(self, weight: np.ndarray | float, damping: float) -> None:
        """Neighbours are to move alike (weight, 1/m^2, one for all edges or (E,)), and none without a reason (damping,
        1/m^2)."""
        ends = self.topology.edges
        weight = np.broadcast_to(np.asarray(weight, np.float64), len(ends))
        self.diagonal += damping + np.bincount(ends.ravel(), np.repeat(weight, 2), minlength=len(self.diagonal))
        self.off -= weight

    def add_bending(self, shape: Shape, height: np.ndarray, weight: float) -> None:
        """Neighbours are to have these heights (2E,), metres, over a vertex's tangent plane, with weight in 1/m^2 an
        edge. To be used with a membrane of that weight, whose matrix is these rows' too: normals are held."""
        topology = self.topology
        _bending(shape.vertices, shape.normals, topology.start, topology.neighbour, height, 0.5 * weight, self.right)

    def solve(self, steps: int = 30, start: np.ndarray | None = None) -> np.ndarray:
        """Conjugate gradients, preconditioned by the diagonal, a fixed number of steps.  # P"""
        solution = np.zeros_like(self.right) if start is None else np.array(start, dtype=np.float64)
        topology = self.topology
        _conjugate_gradients(
            self.diagonal, self.off, topology.start, topology.neighbour, topology.link, self.right, solution, steps
        )
        return solution


def relaxed(shape: Shape, topology: Topology, layout: np.ndarray, share: float) -> np.ndarray:
    """Vertices moved by ``share`` of the way to their neighbours' mean, weighted by ``layout`` (2E,), within the
    surface.  # P,3"""
    out = np.empty_like(shape.vertices)
    _relax(shape.vertices, shape.normals, topology.start, topology.neighbour, layout, share, out)
    return out


def even_layout(topology: Topology) -> np.ndarray:
    """Equal weights of all neighbours, of sum 1.  # 2E"""
    count = np.diff(topology.start)
    return np.repeat(1 / np.maximum(count, 1), count)


def unfolded(vertices: np.ndarray, topology: Topology, cosine: float = 0.0) -> np.ndarray:
    """Vertices (P, 3) with the surroundings of folded faces smoothed until none is left; see ``Shape.folded``.

    A fold keeps itself: its faces are hidden or seen from behind, so no pixel votes for them. Smoothing it away gives
    them back to the views. What one ring of neighbours does not untangle, a wider one does. Where none does, as in a
    tunnel that is too narrow for the faces, the surface stays as it was when the fewest were folded: smoothed on, a
    whole shoulder would be drawn together.  # P,3
    """
    best, fewest = vertices, len(topology.faces) + 1
    for n in range(_ROUNDS + 1):
        shape = Shape.of(vertices, topology)
        folded = shape.folded(topology, cosine)
        count = int(folded.sum())
        if count < fewest:
            best, fewest = shape.vertices, count
        if count == 0:
            break
        vertices = _smoothed_there(shape.vertices, topology, folded, n // _PATIENCE)
    return best


def less_folded(vertices: np.ndarray, topology: Topology, rounds: int) -> np.ndarray:
    """The same for a track, in a few rounds: what they leave is not of its making.  # P,3"""
    for _ in range(rounds):
        shape = Shape.of(vertices, topology)
        folded = shape.folded(topology)
        if not folded.any():
            break
        vertices = _smoothed_there(shape.vertices, topology, folded, 0)
    return vertices


def widened(marked: np.ndarray, topology: Topology) -> np.ndarray:
    """The marked vertices (P,) bool and their neighbours.  # P bool"""
    out = marked.copy()
    i, j = topology.edges.T
    touched = marked[i] | marked[j]
    out[i[touched]] = out[j[touched]] = True
    return out


def _smoothed_there(vertices: np.ndarray, topology: Topology, folded: np.ndarray, rings: int) -> np.ndarray:
    """Vertices (P, 3) smoothed at and beside the folded faces (F,), and so many rings around.  # P,3"""
    marked = np.zeros(len(vertices), np.bool_)
    marked[topology.faces[folded]] = True
    for _ in range(rings):
        marked = widened(marked, topology)
    out = vertices.copy()
    _smooth_marked(vertices, topology.start, topology.neighbour, marked, out)
    return out


@kernel
def _smooth_marked(x, start, neighbour, marked, out):
    for i in range(x.shape[0]):
        near = marked[i]
        for n in range(start[i], start[i + 1]):
            near |= marked[neighbour[n]]
        if not near:
            continue
        count = start[i + 1] - start[i]
        for axis in range(3):
            total = 0.0
            for n in range(start[i], start[i + 1]):
                total += x[neighbour[n], axis]
            out[i, axis] = 0.5 * x[i, axis] + 0.5 * total / count


@kernel
def _around(faces, start, neighbour):
    count = start.shape[0] - 1
    first = np.zeros(count + 1, np.uint32)
    for f in range(faces.shape[0]):
        for k in range(3):
            first[faces[f, k] + 1] += 1
    for v in range(count):
        first[v + 1] += first[v]
    fill = first[:-1].copy()
    face = np.empty(3 * faces.shape[0], np.uint32)
    for f in range(faces.shape[0]):
        for k in range(3):
            face[fill[faces[f, k]]] = f
            fill[faces[f, k]] += 1
    room = 0
    for v in range(count):
        room += first[v + 1] - first[v]
        for n in range(start[v], start[v + 1]):
            room += first[neighbour[n] + 1] - first[neighbour[n]]
    wide_first = np.zeros(count + 1, np.uint32)
    wide = np.empty(room, np.uint32)
    taken = np.full(faces.shape[0], -1, np.int32)
    size = 0
    for v in range(count):
        for n in range(start[v] - 1, start[v + 1]):
            u = v if n < start[v] else neighbour[n]
            for m in range(first[u], first[u + 1]):
                if taken[face[m]] != v:
                    taken[face[m]] = v
                    wide[size] = face[m]
                    size += 1
        wide_first[v + 1] = size
    return first, face, wide_first, wide[:size].copy()


@kernel
def _shape(vertices, faces, normals, face_normals, areas):
    length = 0.0
    for f in range(faces.shape[0]):
        a, b, c = faces[f]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        wx, wy, wz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        size = np.sqrt(nx * nx + ny * ny + nz * nz)
        length += np.sqrt(ux * ux + uy * uy + uz * uz)
        areas[f] = 0.5 * size
        scale = 1.0 / max(size, 1e-20)
        face_normals[f, 0], face_normals[f, 1], face_normals[f, 2] = nx * scale, ny * scale, nz * scale
        for k in range(3):
            v = faces[f, k]
            normals[v, 0] += nx
            normals[v, 1] += ny
            normals[v, 2] += nz
    for v in range(vertices.shape[0]):
        size = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
        for axis in range(3):
            normals[v, axis] /= max(size, 1e-20)
    return length / max(faces.shape[0], 1)


@kernel(parallel=True)
def _folded(normals, faces, face_normals, cosine, folded):
    for f in numba.prange(faces.shape[0]):
        a, b, c = faces[f]
        total = 0.0
        for axis in range(3):
            total += (normals[a, axis] + normals[b, axis] + normals[c, axis]) * face_normals[f, axis]
        folded[f] = total < 3.0 * cosine


@kernel
def _normal_rows(x, v, faces, face_edges, wanted, weights, diagonal, off, right):
    for f in range(faces.shape[0]):
        w = weights[f]
        if w <= 0.0:
            continue
        n0, n1, n2 = wanted[f]
        for k in range(3):
            i, j = faces[f, k], faces[f, (k + 1) % 3]
            e0, e1, e2 = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
            scale = 1.0 / max(np.sqrt(e0 * e0 + e1 * e1 + e2 * e2), 1e-9)
            tilt = (n0 * e0 + n1 * e1 + n2 * e2) * scale
            a = (n0 * v[i, 0] + n1 * v[i, 1] + n2 * v[i, 2]) * scale
            b = (n0 * v[j, 0] + n1 * v[j, 1] + n2 * v[j, 2]) * scale
            diagonal[i] += w * a * a
            diagonal[j] += w * b * b
            off[face_edges[f, k]] -= w * a * b
            right[i] -= w * a * tilt
            right[j] += w * b * tilt


@kernel
def _bending(x, v, start, neighbour, height, weight, right):
    for i in range(x.shape[0]):
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            e0, e1, e2 = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
            pull = weight * (height[n] - (v[i, 0] * e0 + v[i, 1] * e1 + v[i, 2] * e2))
            right[i] -= pull
            right[j] += pull


@kernel
def _edge_rows(edges, edge, first, second, want, weight, diagonal, off, right):
    for n in range(edge.shape[0]):
        i, j = edges[edge[n]]
        a, b, w = first[n], second[n], weight[n]
        diagonal[i] += w * a * a
        diagonal[j] += w * b * b
        off[edge[n]] += w * a * b
        right[i] += w * a * want[n]
        right[j] += w * b * want[n]


@kernel  # on one core: cores that other work shares would wait for each other each time
def _multiply(diagonal, values, start, neighbour, x, out):
    """The matrix times x, and x times that."""
    along = 0.0
    for i in range(diagonal.shape[0]):
        total = diagonal[i] * x[i]
        for n in range(start[i], start[i + 1]):
            total += values[n] * x[neighbour[n]]
        out[i] = total
        along += x[i] * total
    return along


@kernel
def _conjugate_gradients(diagonal, off, start, neighbour, link, right, x, steps):
    count = diagonal.shape[0]
    values = off[link]  # row by row: each product reads them in order
    inverse = 1.0 / diagonal
    product, p, r = np.empty(count), np.empty(count), np.empty(count)
    _multiply(diagonal, values, start, neighbour, x, product)
    fall, size = 0.0, 0.0
    for i in range(count):
        r[i] = right[i] - product[i]
        p[i] = r[i] * inverse[i]
        fall += r[i] * p[i]
        size += right[i] * right[i] * inverse[i]
    least = 1e-16 * max(size, 1e-300)
    for _ in range(steps):
        if fall <= least:
            break
        alpha = fall / _multiply(diagonal, values, start, neighbour, p, product)
        following = 0.0
        for i in range(count):
            x[i] += alpha * p[i]
            r[i] -= alpha * product[i]
            following += r[i] * r[i] * inverse[i]
        beta = following / fall
        fall = following
        for i in range(count):
            p[i] = r[i] * inverse[i] + beta * p[i]


@kernel
def _relax(x, v, start, neighbour, layout, share, out):
    for i in range(x.shape[0]):
        m0, m1, m2 = -x[i, 0], -x[i, 1], -x[i, 2]
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            m0 += layout[n] * x[j, 0]
            m1 += layout[n] * x[j, 1]
            m2 += layout[n] * x[j, 2]
        along = m0 * v[i, 0] + m1 * v[i, 1] + m2 * v[i, 2]
        out[i, 0] = x[i, 0] + share * (m0 - along * v[i, 0])
        out[i, 1] = x[i, 1] + share * (m1 - along * v[i, 1])
        out[i, 2] = x[i, 2] + share * (m2 - along * v[i, 2])
