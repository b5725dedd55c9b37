"""What a keyframe's own observation still wants of it: errors that normals, outlines and pictures have, not motion.

Normals, masks and pictures never agree. A keyframe is the balance between them, and each still pulls at it. A track
that followed these pulls would creep, frame after frame, to where the weaker ones give way. So they are remembered, per
face, edge and vertex, in the surface's own frame, and only what differs from them moves the surface: a subject at rest
stays exactly where it is. The prototype did so for low frequencies of the normals, frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from fusion_server.surface.contour import ContourRows
from fusion_server.surface.fuse import Fused
from fusion_server.surface.observation import Look
from fusion_server.surface.solve import Shape, Topology
from geometry.compiled import kernel
from protocol.calibration import Camera

_LEARN = 0.3  # of how much of the tilt is seen again in a frame, what is new; the rest is what earlier frames showed


@dataclass(frozen=True, eq=False)
class Bias:
    """tilt (F, 2): of the fused normal against the face's, along its first edge and across. outline: for each camera,
    metres that its outline wants of the points of edges and of vertices (E + P,). height (P,): metres above a vertex
    that pictures want it to be. Where nothing was found, outline and height are their neighbours', or zero. share: how
    much of the tilt is still there, 0 to 1."""

    tilt: np.ndarray
    outline: dict[str, np.ndarray]
    height: np.ndarray
    share: float = 1.0

    @classmethod
    def of_normals(cls, seen: Look, topology: Topology) -> Bias:
        """Measure the tilt alone."""
        return cls(_tilt(seen.fused, seen.shape, topology), {}, np.zeros(len(seen.shape.vertices)))

    @classmethod
    def of_trend(cls, seen: Look, topology: Topology, reach: float) -> Bias:
        """Measure what the tilt is on average over ``reach`` metres (a standard deviation) around each face.

        A network knows relief better than the shape that carries it. Without the trend its normals tell relief alone.
        """
        shape, fused = seen.shape, seen.fused
        off = np.c_[fused.normal - shape.face_normals, np.ones(len(fused.weight))] * fused.weight[:, None]  # F,4
        corners = topology.faces.ravel()
        wide = np.stack([np.bincount(corners, np.repeat(part, 3), len(shape.vertices)) for part in off.T], 1)  # P,4
        step = _averaging(topology)
        for _ in range(round(4 * (reach / shape.edge) ** 2)):  # each spreads by half an edge along either axis
            wide = step @ wide
        trend = wide[:, :3] / np.maximum(wide[:, 3:], 1e-9)
        trend = replace(fused, normal=trend[topology.faces].mean(1))
        return cls(_tilt(trend, shape, topology), {}, np.zeros(len(shape.vertices)))

    @classmethod
    def of(cls, seen: Look, topology: Topology, rows: ContourRows, height: np.ndarray) -> Bias:
        """Measure all of it; height (P,) metres, NaN where pictures found nothing."""
        ends, count = topology.edges, len(seen.shape.vertices)
        outline = {}
        place = _places(rows, topology)
        for view, camera in enumerate(seen.observation.cameras):
            own = rows.view == view
            found = _mean(place[own], rows.want[own], rows.weight[own], len(ends) + count)
            # A contour that shifts by an edge finds what the one beside it wanted.
            here = np.flatnonzero(np.isfinite(found[: len(ends)]))
            beside = _mean(ends[here].ravel(), np.repeat(found[here], 2), None, count)
            offers = np.concatenate([beside[ends.ravel()], beside])
            where = np.concatenate([np.arange(len(ends)).repeat(2), len(ends) + np.arange(count)])
            outline[camera.name] = _filled(found, where, offers)
        height = _filled(height, ends.ravel(), height[ends[:, ::-1].ravel()])
        return replace(cls.of_normals(seen, topology), outline=outline, height=height)

    def seen_again(self, fused: Fused, shape: Shape, topology: Topology) -> Bias:
        """With a share that learnt from one more frame: a network's errors stay with the surface, noise does not."""
        now = (fused.weight * (_tilt(fused, shape, topology) * self.tilt).sum(1)).sum()
        then = (fused.weight * (self.tilt**2).sum(1)).sum()
        left = float(np.clip(now / then, 0, 1)) if then > 0 else 1.0
        return replace(self, share=self.share + _LEARN * (left - self.share))

    def off_normals(self, fused: Fused, shape: Shape, topology: Topology) -> Fused:
        """The fused normals without it."""
        normal = np.empty_like(fused.normal)
        _untilted(shape.vertices, topology.corners, shape.face_normals, fused.normal, self.tilt, self.share, normal)
        return replace(fused, normal=normal)

    def off_outlines(self, rows: ContourRows, cameras: Sequence[Camera], topology: Topology) -> ContourRows:
        """The contour rows of these cameras without it."""
        want, place = rows.want.copy(), _places(rows, topology)
        for view, camera in enumerate(cameras):
            if camera.name in self.outline:
                own = rows.view == view
                want[own] -= self.outline[camera.name][place[own]]
        return replace(rows, want=want)


def _places(rows: ContourRows, topology: Topology) -> np.ndarray:
    """The number of each row's edge, or E and the number of its vertex where it is about an end of the edge.  # n"""
    end = (rows.share == 0) | (rows.share == 1)
    vertex = topology.edges[rows.edge, (rows.share > 0.5).astype(int)]
    return np.where(end, len(topology.edges) + vertex, rows.edge)


def _mean(place: np.ndarray, value: np.ndarray, weight: np.ndarray | None, count: int) -> np.ndarray:
    """Weighted means of values (n,) by their places (n,); NaN where there are none.  # count"""
    weight = np.ones(len(value)) if weight is None else weight
    total = np.bincount(place, weight, count)
    with np.errstate(invalid="ignore"):
        return np.bincount(place, weight * value, count) / total


def _filled(values: np.ndarray, place: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """NaNs replaced by the mean of what is offered (n,) for their place (n,), or by zero."""
    good = np.isfinite(offered)
    offers = _mean(place[good], offered[good], None, len(values))
    return np.nan_to_num(np.where(np.isfinite(values), values, offers), nan=0.0)


def _averaging(topology: Topology) -> sparse.csr_matrix:
    """Half of a vertex's value and half of its neighbours' mean.  # P,P"""
    count = np.diff(topology.start)
    shares = np.repeat(0.5 / np.maximum(count, 1), count)
    neighbours = sparse.csr_matrix((shares, topology.neighbour, topology.start), (len(count),) * 2)
    return (neighbours + 0.5 * sparse.identity(len(count))).tocsr()


def _tilt(fused: Fused, shape: Shape, topology: Topology) -> np.ndarray:
    """Of the fused normals against the faces', where there are any.  # F,2"""
    tilt = np.zeros((len(topology.faces), 2))
    _tilts(shape.vertices, topology.corners, shape.face_normals, fused.normal, fused.weight, tilt)
    return tilt


@kernel(inline="always")
def _axes(vertices, face, n):
    """Two unit vectors within a face, at right angles: along its first edge, and the normal's product with that."""
    a, b = face[0], face[1]
    x, y, z = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
    scale = 1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-12)
    x, y, z = x * scale, y * scale, z * scale
    return x, y, z, n[1] * z - n[2] * y, n[2] * x - n[0] * z, n[0] * y - n[1] * x


@kernel
def _tilts(vertices, faces, face_normals, normal, weight, tilt):
    for f in range(faces.shape[0]):
        if weight[f] > 0.0:
            x, y, z, u, v, w = _axes(vertices, faces[f], face_normals[f])
            tilt[f, 0] = normal[f, 0] * x + normal[f, 1] * y + normal[f, 2] * z
            tilt[f, 1] = normal[f, 0] * u + normal[f, 1] * v + normal[f, 2] * w


@kernel
def _untilted(vertices, faces, face_normals, normal, tilt, share, out):
    for f in range(faces.shape[0]):
        x, y, z, u, v, w = _axes(vertices, faces[f], face_normals[f])
        s, t = share * tilt[f, 0], share * tilt[f, 1]
        a, b, c = normal[f, 0] - s * x - t * u, normal[f, 1] - s * y - t * v, normal[f, 2] - s * z - t * w
        scale = 1.0 / max(np.sqrt(a * a + b * b + c * c), 1e-9)
        out[f, 0], out[f, 1], out[f, 2] = a * scale, b * scale, c * scale
