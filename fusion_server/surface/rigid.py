"""How the whole head moved since the last frame: six parameters from normals and outlines.

A normal at a pixel changes in two ways when the surface moves: it turns, and another point of the surface comes to
the pixel. Leaving out the second makes every shift look like a turn. With it, and with the gradient taken from the
rendered surface (which has no noise) rather than from the observation, a few steps find motions of many pixels:
Lucas and Kanade's registration, inverse compositional (Baker and Matthews, IJCV 2004), on maps of normals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from fusion_server.surface.base import SurfaceSettings
from fusion_server.surface.observation import Look, Observation, look
from fusion_server.surface.refine import contours
from fusion_server.surface.solve import Topology
from geometry.rasterize.base import Rasterizer

# Of one pixel's normal. Errors of a network's pixels are so alike that a thousand count as few, and far from the answer
# outlines lead there faster.
_SIGMAS = (2.0, 0.3)  # on coarse maps, on the finest
_CUT = 0.4  # difference of unit normals beyond which a pixel loses weight
_SLACK = 8e-3  # metres: a larger step of depth between neighbours is no surface to take a gradient on
_GATE = 64.0  # of the finest maps' pixels, to either side of an outline
_SCALES = (40e-3, 10e-3)  # metres: contour residuals beyond it lose weight; on coarse maps, on the finest
_FAR = 2e-3  # metres: a larger first step is not to be trusted on fine maps
_NEAR = 1e-3  # metres: a smaller step ends the search on coarse maps
_STILL = 0.2e-3  # metres: a smaller step ends the search
_ROUNDING = 1e-6  # metres: a smaller step is none; a larger one is taken, or the mesh would slide over a slow turn
_FARTHEST = 0.3  # metres: a larger step is no head and ends it too


def rigid_step(
    seen: Look,
    topology: Topology,
    settings: SurfaceSettings,
    scale: float = _SCALES[-1],
    sigma: float = _SIGMAS[-1],
) -> np.ndarray:
    """The small motion that fits normals and outlines best: rotation vector and translation about the mean vertex.  # 6

    scale: metres, contour residuals beyond it lose weight. sigma: of one pixel's normal, radians.
    """
    shape, raster, o = seen.shape, seen.raster, seen.observation
    center = shape.vertices.mean(0)
    system = np.zeros((len(o.cameras), 6, 6))
    right = np.zeros((len(o.cameras), 6))
    centers = np.stack([camera.R @ center + camera.t for camera in o.cameras])
    _normal_rows(
        shape.normals, topology.faces, raster.face, raster.bary, raster.depth, o.normal, o.trust, o.outlines.distance,
        o.intrinsics, o.rig.rotation, centers, system, right,
    )  # fmt: skip
    system, right = system.sum(0) / sigma**2, right.sum(0) / sigma**2
    rows = contours(seen, topology, _GATE * o.scale, scale, settings)
    if len(rows.edge):
        i, j = topology.edges[rows.edge].T
        share = rows.share[:, None]
        points = (1 - share) * shape.vertices[i] + share * shape.vertices[j]
        row = np.hstack([np.cross(points - center, rows.gradient), rows.gradient])  # n,6
        system += (rows.weight[:, None] * row).T @ row
        right += (rows.weight * rows.want) @ row
    system[np.diag_indices(6)] += 1e-9 * np.trace(system) + 1e-9
    return np.linalg.solve(system, right)


def follow_rigid(
    vertices: np.ndarray,
    topology: Topology,
    pyramid: Sequence[Observation],
    rasterizer: Rasterizer,
    settings: SurfaceSettings,
    rest: np.ndarray,
    rounds: int = 2,
) -> np.ndarray:
    """Vertices (P, 3) moved rigidly to fit an observation, given coarse to fine, ``rounds`` steps on each.  # P,3

    Most frames find a head near where it was, so the finest maps are asked first, and the coarse ones only when it has
    gone far.
    rest: (6,) the ``rigid_step`` that the finest maps of the last frame wanted of that frame's own surface. Normals and
    masks never fit perfectly, and what they want of a surface at rest is error and no motion: it is subtracted, or the
    surface would creep away from where the pictures hold it.
    """

    def moved(vertices: np.ndarray, level: int) -> tuple[np.ndarray, float]:
        seen = look(vertices, topology, pyramid[level], rasterizer)
        finest = level == len(pyramid) - 1
        step = rigid_step(seen, topology, settings, _SCALES[finest], _SIGMAS[finest])
        step = step - rest if finest else step
        center = vertices.mean(0)
        there = (vertices - center) @ _rotation(step[:3]).T + center + step[3:]
        largest = float(np.sqrt(((there - vertices) ** 2).sum(1).max()))
        return (there, largest) if largest < _FARTHEST else (vertices, 0.0)

    finest = len(pyramid) - 1
    there, largest = moved(vertices, finest)
    if largest < _ROUNDING:
        return vertices
    if largest > _FAR:
        for level in range(finest):
            for _ in range(rounds):
                vertices, largest = moved(vertices, level)
                if largest < _NEAR:
                    break
        there, largest = moved(vertices, finest)
    for _ in range(rounds - 1):
        if largest < _STILL:
            break
        there, largest = moved(there, finest)
    return there


def _rotation(omega: np.ndarray) -> np.ndarray:
    """The rotation by a vector (Rodrigues).  # 3,3"""
    angle = float(np.linalg.norm(omega))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = omega / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@numba.njit(parallel=True, cache=True, nogil=True)
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
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if distance[v, y, x] < 1.0 or not _smooth(face[v], depth[v], y, x):
                    continue
                z = depth[v, y, x]
                px, py = (x - cx) / fx, (y - cy) / fy
                n0, n1, n2 = rendered[y, x]
                square = 0.0
                for k in range(3):
                    off[k] = observed[v, y, x, k] - rendered[y, x, k]
                    square += off[k] * off[k]
                weight = trust[v, y, x] / (1.0 + square / (_CUT * _CUT))
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


@numba.njit(cache=True, nogil=True)
def _smooth(face, depth, y, x):
    """Whether a pixel and its four neighbours show one smooth piece of surface."""
    if face[y, x] < 0:
        return False
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        if face[y + dy, x + dx] < 0 or abs(depth[y + dy, x + dx] - depth[y, x]) > _SLACK:
            return False
    return True


@numba.njit(cache=True, nogil=True)
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
