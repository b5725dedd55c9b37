"""Normal equations of a rigid motion (see ``rigid``): every pixel's normal, rendered against observed."""

from __future__ import annotations

import numba
import numpy as np

from fusion_server.surface.base import Rig
from geometry.compiled import kernel
from geometry.rasterize.base import Raster

CUT = 0.4  # difference of unit normals beyond which a pixel loses weight
SLACK = 8e-3  # metres: a larger step of depth between neighbours is no surface to take a gradient on
# Of so many pixels one is asked, and stands for the others: those whose row and column add up to a multiple of it. Over
# 300 frames (`benchmarks surface`, noisy normals) with 1: 0.117 / 0.81 mm, with 2: 0.119 / 0.81.
EVERY = 2


def rigid_rows(
    vertex_normals: np.ndarray,
    faces: np.ndarray,
    raster: Raster,
    rig: Rig,
    centers: np.ndarray,
    intrinsics: np.ndarray,
    normal: np.ndarray,
    trust: np.ndarray,
    distance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """System (6, 6) and right side (6,) of rotation vector and translation, world, about a centre.

    All pixels weigh 1, those that are asked for all: see ``EVERY``.
    centers: (V, 3) that centre in the cameras' frames; maps as for ``fuse.fuse_normals``.
    """
    system, right = np.zeros((len(centers), 6, 6)), np.zeros((len(centers), 6))
    _normal_rows(
        vertex_normals, faces, raster.face, raster.bary, raster.depth, normal, trust, distance, intrinsics,
        rig.rotation, centers, system, right,
    )  # fmt: skip
    return system.sum(0), right.sum(0)


@kernel(parallel=True)
def _normal_rows(
    vertex_normals, faces, face, bary, depth, observed, trust, distance, intrinsics, rotation, center, system, right
):
    """Normal equations of all views, turned to the world: unknowns are rotation vector and translation."""
    height, width = face.shape[1:]
    for v in numba.prange(face.shape[0]):
        fx, fy, cx, cy = intrinsics[v]
        rendered = _rendered(vertex_normals, faces, face[v], bary[v], rotation[v])
        a = np.zeros((6, 6))
        b = np.zeros(6)
        row = np.zeros(6)
        off = np.zeros(3)
        for y in range(np.uint64(1), np.uint64(height - 1)):
            for x in range(np.uint64(1), np.uint64(width - 1)):
                if (x + y) % np.uint64(EVERY) or distance[v, y, x] < 1.0 or not _smooth(face[v], depth[v], y, x):
                    continue
                z = depth[v, y, x]
                px, py = (float(x) - cx) / fx, (float(y) - cy) / fy
                n0, n1, n2 = rendered[y, x]
                square = 0.0
                for k in range(3):
                    off[k] = observed[v, y, x, k] - rendered[y, x, k]
                    square += off[k] * off[k]
                weight = EVERY * trust[v, y, x] / (1.0 + square / (CUT * CUT))
                d0, d1, d2 = px * z - center[v, 0], py * z - center[v, 1], z - center[v, 2]
                for k in range(3):
                    gx = 0.5 * (rendered[y, x + 1, k] - rendered[y, x - 1, k]) * fx / z
                    gy = 0.5 * (rendered[y + 1, x, k] - rendered[y - 1, x, k]) * fy / z
                    # -gradient . flow for a translation, and for a rotation omega x d by omega . (d x that)
                    t0, t1, t2 = -gx, -gy, gx * px + gy * py
                    row[0], row[1], row[2] = d1 * t2 - d2 * t1, d2 * t0 - d0 * t2, d0 * t1 - d1 * t0
                    row[3], row[4], row[5] = t0, t1, t2
                    if k == 0:  # omega x n
                        row[1] += n2
                        row[2] -= n1
                    elif k == 1:
                        row[0] -= n2
                        row[2] += n0
                    else:
                        row[0] += n1
                        row[1] -= n0
                    for i in range(6):
                        weighted = weight * row[i]
                        b[i] += weighted * off[k]
                        for j in range(i + 1):
                            a[i, j] += weighted * row[j]
        for i in range(6):
            for j in range(i):
                a[j, i] = a[i, j]
        turn = np.zeros((6, 6))
        turn[:3, :3] = rotation[v]
        turn[3:, 3:] = rotation[v]
        system[v] = turn.T @ (a @ turn)
        right[v] = turn.T @ b


@kernel
def _smooth(face, depth, y, x):
    """Whether a pixel and its four neighbours show one smooth piece of surface."""
    if face[y, x] < 0:
        return False
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        if face[y + dy, x + dx] < 0 or abs(depth[y + dy, x + dx] - depth[y, x]) > SLACK:
            return False
    return True


@kernel
def _rendered(vertex_normals, faces, face, bary, rotation):
    """The surface's normals as the camera would see them.  # H,W,3"""
    out = np.zeros((face.shape[0], face.shape[1], 3))
    n = np.zeros(3)
    for y in range(face.shape[0]):
        for x in range(face.shape[1]):
            if face[y, x] < 0:
                continue
            i, j, k = faces[face[y, x]]
            u, w = bary[y, x]
            for axis in range(3):
                n[axis] = (
                    u * vertex_normals[i, axis] + w * vertex_normals[j, axis] + (1 - u - w) * vertex_normals[k, axis]
                )
            scale = 1.0 / max(np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), 1e-9)
            for axis in range(3):
                out[y, x, axis] = scale * (
                    rotation[axis, 0] * n[0] + rotation[axis, 1] * n[1] + rotation[axis, 2] * n[2]
                )
    return out
