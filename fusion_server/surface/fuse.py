"""Normal maps of all views -> one normal and one weight a face. Every pixel votes for the face it sees."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from fusion_server.surface.base import Rig
from fusion_server.surface.solve import Shape
from geometry.compiled import kernel

ERODED = 1.0  # pixels from the outline: nearer, a pixel mixes subject and background
GRAZING = 0.1  # cosine of the angle to the view: below this a normal is noise
VOTED = 0.2  # weight above which a face has votes enough to disagree


@dataclass(frozen=True, eq=False)
class Fused:
    """What the views agree each face's normal to be.

    normal: (F, 3) unit, world. weight: (F,) 0 for unseen faces, about 1 for a well seen one of mean area.
    agreement: (F,) length of the mean vote, 1 when all votes are the same.
    """

    normal: np.ndarray
    weight: np.ndarray
    agreement: np.ndarray

    def disagreement(self) -> float:
        """How far votes for one face typically lie apart, radians: the noise that the views can know of."""
        seen = self.agreement[self.weight > VOTED]
        return float(np.sqrt(2 * (1 - np.median(seen)))) if len(seen) else 0.0


def fuse_normals(
    shape: Shape,
    face: np.ndarray,
    rig: Rig,
    intrinsics: np.ndarray,
    normal: np.ndarray,
    trust: np.ndarray,
    distance: np.ndarray,
) -> Fused:
    """Fuse maps over the faces that a rasteriser saw.

    face (V, H, W) int32 from the rasteriser; intrinsics (V, 4) fx, fy, cx, cy; normal (V, H, W, 3) camera frames; trust
    (V, H, W) weights of mean 1; distance (V, H, W) pixels inside the outline.
    A vote counts by the cosine of its normal to the view. A face's weight is min(W / 2, 1) times the fourth power of
    the votes' agreement times its area over the mean area, W being the sum of its votes (surface-method.md, 3).
    """
    votes = np.zeros((len(face), len(shape.areas), 4), np.float32)
    _votes(face, rig.rotation, intrinsics, normal, trust, distance, shape.face_normals, votes)
    fused = np.empty((len(shape.areas), 3))
    weight = np.empty(len(shape.areas))
    agreement = np.empty(len(shape.areas))
    _reduce(votes, shape.face_normals, shape.areas, shape.areas.mean(), fused, weight, agreement)
    return Fused(fused, weight, agreement)


@kernel(parallel=True)
def _votes(face, rotation, intrinsics, normal, trust, distance, face_normals, votes):
    for v in numba.prange(face.shape[0]):
        r = rotation[v]
        fx, fy, cx, cy = intrinsics[v]
        for y in range(face.shape[1]):
            ry = (y - cy) / fy
            for x in range(face.shape[2]):
                f = face[v, y, x]
                if f < 0 or distance[v, y, x] < ERODED:
                    continue
                rx = (x - cx) / fx
                n0, n1, n2 = normal[v, y, x, 0], normal[v, y, x, 1], normal[v, y, x, 2]
                cosine = -(n0 * rx + n1 * ry + n2) / np.sqrt(rx * rx + ry * ry + 1.0)
                if cosine < GRAZING:
                    continue
                w0 = r[0, 0] * n0 + r[1, 0] * n1 + r[2, 0] * n2
                w1 = r[0, 1] * n0 + r[1, 1] * n1 + r[2, 1] * n2
                w2 = r[0, 2] * n0 + r[1, 2] * n1 + r[2, 2] * n2
                if w0 * face_normals[f, 0] + w1 * face_normals[f, 1] + w2 * face_normals[f, 2] <= 0.0:
                    continue
                weight = cosine * trust[v, y, x]
                votes[v, f, 0] += weight * w0
                votes[v, f, 1] += weight * w1
                votes[v, f, 2] += weight * w2
                votes[v, f, 3] += weight


@kernel(parallel=True)
def _reduce(votes, face_normals, areas, mean_area, normal, weight, agreement):
    for f in numba.prange(areas.shape[0]):
        n0, n1, n2, total = 0.0, 0.0, 0.0, 0.0
        for v in range(votes.shape[0]):
            n0 += votes[v, f, 0]
            n1 += votes[v, f, 1]
            n2 += votes[v, f, 2]
            total += votes[v, f, 3]
        size = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
        if total < 1e-3 or size < 1e-6:
            normal[f] = face_normals[f]
            weight[f] = 0.0
            agreement[f] = 0.0
            continue
        normal[f, 0], normal[f, 1], normal[f, 2] = n0 / size, n1 / size, n2 / size
        agreement[f] = min(size / total, 1.0)
        turn = max(n0 * face_normals[f, 0] + n1 * face_normals[f, 1] + n2 * face_normals[f, 2], 0.0) / size
        weight[f] = min(0.5 * total, 1.0) * agreement[f] ** 4 * turn**2 * areas[f] / mean_area
