"""Rows that pull the mesh's outline onto the outline of the masks.

On an edge whose ends look to different sides of a camera lies a point of the mesh's contour (Hertzmann's smooth
silhouettes). Where it is the outermost one, it belongs on the mask's outline. Vertices that stand clearly outside a
mask are pulled in as well, contour or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from fusion_server.surface.base import Rig
from fusion_server.surface.silhouette import Silhouettes
from fusion_server.surface.solve import Shape, Topology
from geometry.compiled import kernel

OUTWARD = 2.0  # pixels beyond a contour point at which an outermost one sees no more mesh
INWARD = 1.5  # pixels before a contour point, where the surface that it belongs to is seen
ROUND = 0.2  # metres: twice the radius of what an outline belongs to, about
HIDDEN = 1.5  # what lies further behind the surface there than this times as far as it bends away is hidden
OUTSIDE = 1.5  # pixels outside a mask that a vertex may stand before it is pulled in
# An outline runs as its contour does. Where the two directions differ, the contour belongs to another part of it: on
# the truth's own mesh (three frames of the demo, by hand) rows want 0.05 mm where they are parallel, 0.7 mm at 8
# degrees, 7 mm beyond 60. The power was chosen by first meshes of these frames.
ASTRAY = 0.5  # cosine between the two below which there is no row
PARALLEL = 30.0  # power of that cosine that a row's weight has,
SETTLED = 5e-3  # metres: where residuals up to there lose no weight; a surface that has far to go may still turn


@dataclass(frozen=True, eq=False)
class ContourRows:
    """Points on edges that should move, each by one row (``System.add_edge_points``).

    view (n,) int, whose outline; edge (n,) uint32; share (n,) where on the edge, 0 at its first end; gradient (n, 3)
    unit-less direction in the world along which the signed distance grows metre by metre; want (n,) metres to move
    along it; weight (n,).
    """

    view: np.ndarray
    edge: np.ndarray
    share: np.ndarray
    gradient: np.ndarray
    want: np.ndarray
    weight: np.ndarray


def contour_rows(
    shape: Shape,
    topology: Topology,
    depth: np.ndarray,
    rig: Rig,
    outlines: Silhouettes,
    gate: float,
    scale: float,
) -> ContourRows:
    """Find contour points of all views and what the masks say of them.

    depth (V, H, W) from the rasteriser; gate in pixels: a contour point further from the outline is not its own;
    scale in metres: residuals beyond it lose weight (Cauchy), from 1.
    """
    views, room = len(rig.focal), len(topology.edges) + len(shape.vertices)  # where a head is gone, all stand outside
    edge = np.empty((views, room), np.uint32)
    data = np.empty((views, room, 6))
    count = np.zeros(views, np.int64)
    _contours(
        shape.vertices, shape.normals, topology.edges, topology.start, topology.link, depth, rig.matrix, rig.rotation,
        rig.center, rig.focal, outlines.distance, outlines.known, outlines.blind, gate, scale, edge, data, count,
    )  # fmt: skip
    view = np.repeat(np.arange(views), count)
    edge, data = (np.concatenate([of[v, :n] for v, n in enumerate(count)]) for of in (edge, data))
    return ContourRows(view, edge, data[:, 0], data[:, 1:4], data[:, 4], data[:, 5])


def add_contours(system, shape: Shape, topology: Topology, rows: ContourRows) -> None:
    """Put the rows into a system of displacements along vertex normals."""
    i, j = topology.edges[rows.edge].T
    first = (1 - rows.share) * (rows.gradient * shape.normals[i]).sum(1)
    second = rows.share * (rows.gradient * shape.normals[j]).sum(1)
    system.add_edge_points(rows.edge, first, second, rows.want, rows.weight)


@kernel
def power_of(scale: float) -> float:
    """Of the cosine between a contour and its outline, in a row's weight, where residuals beyond scale lose weight."""
    return PARALLEL if scale <= SETTLED else 0.0


@kernel
def _bilinear(image, x, y):
    x0, y0 = min(int(x), image.shape[1] - 2), min(int(y), image.shape[0] - 2)
    fx, fy = x - x0, y - y0
    upper = image[y0, x0] + fx * (image[y0, x0 + 1] - image[y0, x0])
    lower = image[y0 + 1, x0] + fx * (image[y0 + 1, x0 + 1] - image[y0 + 1, x0])
    return upper + fy * (lower - upper)


@kernel
def _row(p0, p1, p2, m, r, focal, distance, known, limit, scale, out):
    """One point against one outline: fills gradient, want and weight, returns (ok, pixel x, pixel y, distance)."""
    w = m[2, 0] * p0 + m[2, 1] * p1 + m[2, 2] * p2 + m[2, 3]
    if w < 0.01:
        return False, 0.0, 0.0, 0.0
    x = (m[0, 0] * p0 + m[0, 1] * p1 + m[0, 2] * p2 + m[0, 3]) / w
    y = (m[1, 0] * p0 + m[1, 1] * p1 + m[1, 2] * p2 + m[1, 3]) / w
    if x < known[0] + 1.5 or y < known[1] + 1.5 or x > known[2] - 1.5 or y > known[3] - 1.5:
        return False, x, y, 0.0
    s = _bilinear(distance, x, y)
    if abs(s) > limit:
        return False, x, y, s
    gx = 0.5 * (_bilinear(distance, x + 1.0, y) - _bilinear(distance, x - 1.0, y))
    gy = 0.5 * (_bilinear(distance, x, y + 1.0) - _bilinear(distance, x, y - 1.0))
    size = np.sqrt(gx * gx + gy * gy)
    if size < 0.3:
        return False, x, y, s
    gx, gy = gx / size, gy / size
    s /= min(max(size, 0.7), 1.4)  # a mask softer than thought has a distance that grows slower than a pixel a pixel
    metre = w / focal
    # d pixel / d point = (rows 0, 1 of matrix - pixel * row 2) / w, times metres a pixel
    for axis in range(3):
        out[axis] = (gx * (m[0, axis] - x * m[2, axis]) + gy * (m[1, axis] - y * m[2, axis])) / focal
    out[3] = -s * metre
    out[4] = 1.0 / (1.0 + (s * metre / scale) ** 2)
    return True, x, y, s


@kernel
def _depth(m, x, y, z):
    return m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]


@kernel
def _depth_at(depth, x, y):
    """At the nearest pixel; 0 where nothing is or the picture ends."""
    column, row = int(np.rint(x)), int(np.rint(y))
    if 0 <= column < depth.shape[1] and 0 <= row < depth.shape[0]:
        return depth[row, column]
    return np.float32(0.0)


@kernel
def _perhaps_outside(m, distance, x, y, z):
    """A cheap look at the nearest pixel; nearly all vertices are inside and need no more."""
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if w < 0.01:
        return False
    over = 1.0 / w
    col = int((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) * over + 0.5)
    row = int((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) * over + 0.5)
    if col < 0 or row < 0 or col >= distance.shape[1] or row >= distance.shape[0]:
        return False
    return distance[np.uint64(row), np.uint64(col)] < 1.0 - OUTSIDE


@kernel(parallel=True)
def _contours(
    x, normals, edges, start, link, depth, matrix, rotation, center, focal, distance, known, blind, gate, scale,
    edge_out, data_out, count,
):  # fmt: skip
    power = power_of(scale)
    for v in numba.prange(matrix.shape[0]):
        if blind[v]:
            continue
        side = np.empty(x.shape[0])
        for i in range(x.shape[0]):
            side[i] = (
                normals[i, 0] * (center[v, 0] - x[i, 0])
                + normals[i, 1] * (center[v, 1] - x[i, 1])
                + normals[i, 2] * (center[v, 2] - x[i, 2])
            )
        found = 0
        out = np.empty(5)
        for e in range(edges.shape[0]):
            i, j = edges[e]
            if (side[i] > 0.0) == (side[j] > 0.0):
                continue
            share = side[i] / (side[i] - side[j])
            p0 = x[i, 0] + share * (x[j, 0] - x[i, 0])
            p1 = x[i, 1] + share * (x[j, 1] - x[i, 1])
            p2 = x[i, 2] + share * (x[j, 2] - x[i, 2])
            n0 = normals[i, 0] + share * (normals[j, 0] - normals[i, 0])
            n1 = normals[i, 1] + share * (normals[j, 1] - normals[i, 1])
            n2 = normals[i, 2] + share * (normals[j, 2] - normals[i, 2])
            # A smooth surface bends away from its chord: by l^2 / 8 r in the middle of an edge on a sphere.
            bulge = (x[j, 0] - x[i, 0]) * (normals[j, 0] - normals[i, 0])
            bulge += (x[j, 1] - x[i, 1]) * (normals[j, 1] - normals[i, 1])
            bulge += (x[j, 2] - x[i, 2]) * (normals[j, 2] - normals[i, 2])
            bulge *= 0.5 * share * (1.0 - share)
            p0, p1, p2 = p0 + bulge * n0, p1 + bulge * n1, p2 + bulge * n2
            ok, px, py, _ = _row(p0, p1, p2, matrix[v], rotation[v], focal[v], distance[v], known[v], gate, scale, out)
            if not ok:
                continue
            ox = rotation[v, 0, 0] * n0 + rotation[v, 0, 1] * n1 + rotation[v, 0, 2] * n2
            oy = rotation[v, 1, 0] * n0 + rotation[v, 1, 1] * n1 + rotation[v, 1, 2] * n2
            size = max(np.sqrt(ox * ox + oy * oy), 1e-9)
            ox, oy = ox / size, oy / size
            if _depth_at(depth[v], px + OUTWARD * ox, py + OUTWARD * oy) > 0.0:
                continue
            before = _depth_at(depth[v], px - INWARD * ox, py - INWARD * oy)
            bend = np.sqrt(ROUND * INWARD * before / focal[v])
            if before > 0.0 and _depth(matrix[v], p0, p1, p2) > before + HIDDEN * bend:
                continue
            sizes = (n0 * n0 + n1 * n1 + n2 * n2) * (out[0] * out[0] + out[1] * out[1] + out[2] * out[2])
            if not sizes > 0.0:  # where faces cancel out, a vertex has no normal
                continue
            parallel = -(n0 * out[0] + n1 * out[1] + n2 * out[2]) / np.sqrt(sizes)
            if parallel < ASTRAY:
                continue
            out[4] *= parallel**power
            edge_out[v, found] = e
            data_out[v, found, 0] = share
            data_out[v, found, 1:6] = out
            found += 1
        for i in range(x.shape[0]):
            if not _perhaps_outside(matrix[v], distance[v], x[i, 0], x[i, 1], x[i, 2]):
                continue
            ok, px, py, s = _row(
                x[i, 0], x[i, 1], x[i, 2], matrix[v], rotation[v], focal[v], distance[v], known[v], 2.0 * gate, scale,
                out,
            )  # fmt: skip
            if not ok or s > -OUTSIDE:
                continue
            e = link[start[i]]
            edge_out[v, found] = e
            data_out[v, found, 0] = 0.0 if edges[e, 0] == i else 1.0
            data_out[v, found, 1:6] = out
            data_out[v, found, 5] *= 0.25
            found += 1
        count[v] = found
