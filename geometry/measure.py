"""Distances between surfaces, how they tremble in time, and angles between normal maps.

``SurfaceIndex`` answers "how far is this point from that mesh" exactly (to the nearest point of the nearest triangle)
through a tree of bounding boxes; it is built once for a mesh and asked many times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from geometry.compiled import kernel
from geometry.mesh import Mesh, face_normals, vertex_normals
from geometry.rasterize.base import Rasterizer
from protocol.calibration import Camera

_LEAF = 4  # triangles in a leaf box


@dataclass(frozen=True)
class DistanceSummary:
    """Distances in metres: of how many points, and their median, mean and 95th percentile."""

    count: int
    median: float
    mean: float
    p95: float

    @classmethod
    def of(cls, distances: np.ndarray) -> DistanceSummary:
        """Summarise distances (N,). Raises ValueError when there are none."""
        if len(distances) == 0:
            raise ValueError("no distances to summarise: at least one point is needed")
        median, p95 = np.percentile(distances, (50, 95))
        return cls(len(distances), float(median), float(np.mean(distances)), float(p95))

    def __str__(self) -> str:
        return f"median {self.median * 1e3:.3f} mm, mean {self.mean * 1e3:.3f}, 95 % {self.p95 * 1e3:.3f}"


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances both ways: from points of the first surface to the second, and back."""

    forward: DistanceSummary
    backward: DistanceSummary


class SurfaceIndex:
    """Exact distances to one mesh. Safe to use from several threads at once."""

    def __init__(self, mesh: Mesh):
        """Raises ValueError for a mesh without faces."""
        if len(mesh.faces) == 0:
            raise ValueError("a mesh without faces has no surface to measure to")
        corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]  # F,3,3
        order = _along_curve(corners.mean(1))
        self._triangles = np.ascontiguousarray(corners[order])
        self._faces = order  # tree order -> the mesh's own face number
        self._boxes = _boxes(self._triangles)

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Distance of each point (N, 3) to the surface, metres.  # N"""
        return self.closest(points)[1]

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest surface point (N, 3), its distance (N,) and the face (N,) it lies on, for each point (N, 3)."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        near = np.empty((len(points), 3))
        distance = np.empty(len(points))
        slot = np.empty(len(points), np.int64)
        _closest(points, self._triangles, self._boxes, near, distance, slot)
        return near, distance, self._faces[slot]


@dataclass(frozen=True, eq=False)
class Attached:
    """Points of one surface, nailed to another whose topology stays: where they are when they move as that one does.

    Distances to a surface do not notice points that slide along it; distances to where a point was nailed do.
    """

    points: np.ndarray  # numbers of those that were near enough to be nailed
    faces: np.ndarray  # F,3 of the other surface
    face: np.ndarray  # n
    weights: np.ndarray  # n,3 of that face's corners

    @classmethod
    def of(cls, points: np.ndarray, mesh: Mesh, within: float = 2e-3) -> Attached:
        """Nail the points (N, 3) that are nearer than ``within`` metres to a mesh."""
        near, distance, face = SurfaceIndex(mesh).closest(points)
        chosen = np.flatnonzero(distance < within)
        a, b, c = mesh.vertices[mesh.faces[face[chosen]]].transpose(1, 0, 2).astype(np.float64)
        basis = np.stack([b - a, c - a], -1)  # n,3,2
        share = (np.linalg.pinv(basis) @ (near[chosen] - a)[..., None])[..., 0]
        return cls(chosen, mesh.faces, face[chosen], np.c_[1 - share.sum(1), share])

    def away(self, points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """How far the nailed ones of the points (N, 3) are from their nails on that surface (P, 3) now, metres.  # n"""
        return np.linalg.norm(self.off(points, vertices), axis=1)

    def off(self, points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """From the nails on that surface (P, 3) to the nailed ones of the points (N, 3) now, metres.  # n,3"""
        return points[self.points] - at_places(vertices, self.faces, self.face, self.weights)


class Slides:
    """How far the vertices of meshes are from where the first mesh of their topology had them on the true surfaces."""

    def __init__(self) -> None:
        self._faces: np.ndarray | None = None
        self._nails: Attached | None = None

    def away(self, mesh: Mesh, truth: Mesh) -> np.ndarray | None:
        """Metres, of the vertices that were near the truth at first; None where either topology is new.  # n"""
        nails, first = self.nails(mesh, truth)
        return None if first or not len(nails.points) else nails.away(mesh.vertices, truth.vertices)

    def nails(self, mesh: Mesh, truth: Mesh) -> tuple[Attached, bool]:
        """Where the first mesh of this topology had its vertices on the truth's; and whether this is that mesh."""
        nails = self._nails
        if nails is not None and np.array_equal(mesh.faces, self._faces) and np.array_equal(truth.faces, nails.faces):
            return nails, False
        self._faces, self._nails = mesh.faces, Attached.of(mesh.vertices, truth)
        return self._nails, True


class Jitter:
    """How much the vertices of meshes of one topology tremble from frame to frame, beside what the subject does.

    A vertex's motion is taken against that of its own point of the true skin (``Slides``): what the subject does is no
    jitter, nor is a vertex that is off, or slides evenly. Of what is left the second difference over three frames in a
    row counts, divided by the square root of 6: of white noise, drawn anew each frame, that is its standard deviation.
    """

    def __init__(self) -> None:
        self._slides = Slides()
        self._at = 0
        self._off: list[np.ndarray] = []  # of the last frames in a row, at most 3; n,3 each
        self._normals = np.empty((0, 3))  # of the last of them
        self._count, self._along, self._whole = 0, 0.0, 0.0  # vertices and sums of squares

    def add(self, at: int, mesh: Mesh, truth: Mesh) -> None:
        """One more mesh; at: the number of its frame. A frame left out, or another topology, begins a new row."""
        nails, first = self._slides.nails(mesh, truth)
        if first or at != self._at + 1:
            self._off = []
        self._at = at
        self._off = [*self._off[-2:], nails.off(mesh.vertices, truth.vertices)]
        if len(self._off) == 3:
            before, middle, after = self._off
            second = before - 2 * middle + after
            self._count += len(second)
            self._along += float(((second * self._normals).sum(1) ** 2).sum())
            self._whole += float((second**2).sum())
        self._normals = vertex_normals(mesh.vertices, mesh.faces)[nails.points]

    def rms(self) -> tuple[float, float] | None:
        """Along the normals, and the length in any direction: root mean square over vertices and times, metres.

        None where no three frames were in a row.
        """
        if not self._count:
            return None
        along, whole = (float(np.sqrt(total / self._count / 6)) for total in (self._along, self._whole))
        return along, whole


def point_to_mesh(points: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Exact distance of each point (N, 3) to the surface, metres. To ask twice, keep a ``SurfaceIndex``.  # N"""
    return SurfaceIndex(mesh).distances(points)


def sample_surface(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    """Points spread over the surface, as many per area everywhere; the same ones each time.  # count,3"""
    return at_places(mesh.vertices, mesh.faces, *sample_places(mesh, count, seed))


def at_places(values: np.ndarray, faces: np.ndarray, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What vertices have (P, C), at places on faces: ``sample_places``.  # N,C"""
    return (values[faces[face]] * weights[:, :, None]).sum(1)


def sample_places(mesh: Mesh, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Where ``sample_surface`` puts its points: faces, and the weights of their corners.  # count; count,3"""
    _, area = face_normals(mesh.vertices, mesh.faces)
    total = np.cumsum(area)
    if not len(total) or total[-1] <= 0:
        raise ValueError("a mesh without area has no surface to sample")
    draw = np.random.default_rng(seed)
    steps = (np.arange(count) + draw.random(count)) / count * total[-1]
    face = np.minimum(np.searchsorted(total, steps), len(total) - 1)
    u, v = draw.random((2, count))
    folded = u + v > 1
    u, v = np.where(folded, 1 - u, u), np.where(folded, 1 - v, v)
    return face, np.stack([1 - u - v, u, v], 1)


def surface_distance(first: Mesh, second: Mesh, samples: int = 20_000) -> SurfaceDistance:
    """Both ways between two surfaces, from points spread evenly over each."""
    forward = SurfaceIndex(second).distances(sample_surface(first, samples))
    backward = SurfaceIndex(first).distances(sample_surface(second, samples))
    return SurfaceDistance(DistanceSummary.of(forward), DistanceSummary.of(backward))


def depth_differences(
    mesh: Mesh, counted: np.ndarray, truth: Mesh, cameras: Sequence[Camera], rasterizer: Rasterizer
) -> np.ndarray:
    """How far apart two surfaces are along z, in the pixels of pinhole cameras that show both of them, metres.  # n

    counted (F,): which faces of the first count, where they are what a pixel shows. Pixels at edges, where one surface
    may show the nose and the other the cheek behind it, count like all others: a depth map has them too.
    """
    found = []
    for camera in cameras:
        ours = rasterizer.rasterize(mesh.vertices, mesh.faces, [camera])
        true = rasterizer.rasterize(truth.vertices, truth.faces, [camera])
        both = (ours.face >= 0) & (true.face >= 0)
        both[both] = counted[ours.face[both]]
        found.append(np.abs(ours.depth[both].astype(np.float64) - true.depth[both]))
    return np.concatenate(found) if found else np.empty(0)


def normal_error_degrees(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Angles between two normal maps (..., 3) where ``mask`` (...) is true, degrees; they need not be unit.  # n"""
    a, b = np.asarray(a)[mask].astype(np.float64), np.asarray(b)[mask].astype(np.float64)
    # atan2 keeps its precision at small angles, where arccos of a float32 dot product has none.
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)))


def _along_curve(centers: np.ndarray) -> np.ndarray:
    """An order in which neighbours in the list are neighbours in space (Morton's curve).  # N"""
    low, high = centers.min(0), centers.max(0)
    cell = ((centers - low) / max(float((high - low).max()), 1e-12) * 1023).astype(np.uint64)
    code = np.zeros(len(centers), np.uint64)
    for axis in range(3):
        bits = cell[:, axis]
        for shift, mask in ((16, 0xFF0000FF), (8, 0x0F00F00F), (4, 0xC30C30C3), (2, 0x49249249)):
            bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
        code |= bits << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _boxes(triangles: np.ndarray) -> np.ndarray:
    """Bounding boxes of a complete binary tree over runs of triangles; node n has children 2n + 1, 2n + 2.  # n,2,3"""
    leaves = -(-len(triangles) // _LEAF)
    width = 1 << max(leaves - 1, 0).bit_length()
    boxes = np.empty((2 * width - 1, 2, 3))
    boxes[:, 0], boxes[:, 1] = np.inf, -np.inf
    starts = np.arange(leaves) * _LEAF
    boxes[width - 1 : width - 1 + leaves, 0] = np.minimum.reduceat(triangles.min(1), starts)
    boxes[width - 1 : width - 1 + leaves, 1] = np.maximum.reduceat(triangles.max(1), starts)
    while width > 1:
        width //= 2
        children = boxes[2 * width - 1 : 4 * width - 1].reshape(width, 2, 2, 3)
        boxes[width - 1 : 2 * width - 1, 0] = children[:, :, 0].min(1)
        boxes[width - 1 : 2 * width - 1, 1] = children[:, :, 1].max(1)
    return boxes


@kernel(inline="always")
def _box_distance(point, box):
    total = 0.0
    for axis in range(3):
        below, above = box[0, axis] - point[axis], point[axis] - box[1, axis]
        outside = max(below, above, 0.0)
        total += outside * outside
    return total


@kernel
def _closest_on_triangle(p, corners, out):
    """Nearest point of a triangle (Ericson, Real-Time Collision Detection, 5.1.5); returns the squared distance."""
    ab0, ab1, ab2 = corners[1, 0] - corners[0, 0], corners[1, 1] - corners[0, 1], corners[1, 2] - corners[0, 2]
    ac0, ac1, ac2 = corners[2, 0] - corners[0, 0], corners[2, 1] - corners[0, 1], corners[2, 2] - corners[0, 2]
    ap0, ap1, ap2 = p[0] - corners[0, 0], p[1] - corners[0, 1], p[2] - corners[0, 2]
    d1, d2 = ab0 * ap0 + ab1 * ap1 + ab2 * ap2, ac0 * ap0 + ac1 * ap1 + ac2 * ap2
    bb, bc, cc = ab0 * ab0 + ab1 * ab1 + ab2 * ab2, ab0 * ac0 + ab1 * ac1 + ab2 * ac2, ac0 * ac0 + ac1 * ac1 + ac2 * ac2
    d3, d4 = d1 - bb, d2 - bc  # ab.bp, ac.bp
    d5, d6 = d1 - bc, d2 - cc  # ab.cp, ac.cp
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    v, w = 0.0, 0.0
    if d1 <= 0.0 and d2 <= 0.0:
        pass
    elif d3 >= 0.0 and d4 <= d3:
        v = 1.0
    elif d6 >= 0.0 and d5 <= d6:
        w = 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0 and d1 > d3:  # an edge without length is none
        v = d1 / (d1 - d3)
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0 and d2 > d6:
        w = d2 / (d2 - d6)
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0 and d4 - d3 + d5 - d6 > 0.0:
        w = (d4 - d3) / (d4 - d3 + d5 - d6)
        v = 1.0 - w
    else:
        total = va + vb + vc
        if total > 0.0:
            v, w = vb / total, vc / total
    out[0] = corners[0, 0] + v * ab0 + w * ac0
    out[1] = corners[0, 1] + v * ab1 + w * ac1
    out[2] = corners[0, 2] + v * ab2 + w * ac2
    x, y, z = out[0] - p[0], out[1] - p[1], out[2] - p[2]
    return x * x + y * y + z * z


@kernel(parallel=True)
def _closest(points, triangles, boxes, near, distance, slot):
    leaf0 = boxes.shape[0] // 2
    for i in numba.prange(points.shape[0]):
        stack = np.empty(64, np.int64)
        candidate = np.empty(3)
        best = np.inf
        best_slot = 0
        stack[0] = 0
        size = 1
        while size > 0:
            size -= 1
            node = stack[size]
            if _box_distance(points[i], boxes[node]) >= best:
                continue
            if node >= leaf0:
                first = (node - leaf0) * _LEAF
                for t in range(first, min(first + _LEAF, triangles.shape[0])):
                    square = _closest_on_triangle(points[i], triangles[t], candidate)
                    if square < best:
                        best = square
                        best_slot = t
                        near[i] = candidate
                continue
            left, right = 2 * node + 1, 2 * node + 2
            if _box_distance(points[i], boxes[left]) < _box_distance(points[i], boxes[right]):
                left, right = right, left
            stack[size] = left  # the nearer one is on top and looked at first
            stack[size + 1] = right
            size += 2
        distance[i] = np.sqrt(best)
        slot[i] = best_slot
