"""Where along its normal a vertex looks the same from several cameras.

Per vertex the best few views are compared on a patch of the tangent plane, moved along the normal; the height at which
the patches correlate best is a position that neither normals nor outlines know. Curves are averaged over neighbours
before a peak is looked for, so that weak texture adds up instead of being thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numba
import numpy as np

from fusion_server.surface.base import Rig, View
from fusion_server.surface.solve import Shape, Topology

_VIEWS = 3  # compared per vertex
_FACING = 0.45  # cosine to the view; nearer to grazing a patch has no pixels
_HALF = 3  # samples to either side of a patch's middle
_FOOTPRINT = 0.8e-3  # metres a pixel that surface-method.md's lengths were found at; others scale with it
_FLAT = 1.0  # grey levels of contrast below which a patch has nothing to compare
_ROUNDS = 3  # of averaging over neighbours
_HEIGHT = 0.35  # correlation below which a peak is none
_ABOVE = 0.03  # by which it must top any other peak
_APART = 1.2e-3  # metres away
_AGREE = 0.5e-3  # metres: difference from the neighbours that halves the weight


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures made ready to compare: (V, h, w) float32 grey, slightly blurred, and their cameras."""

    grey: np.ndarray
    rig: Rig
    footprint: float  # metres a pixel where the subject is


@dataclass(frozen=True, eq=False)
class Positions:
    """Heights along vertex normals: want (P,) metres; score (P,) 0 where there is none, to 1; found: their number."""

    want: np.ndarray
    score: np.ndarray
    found: int


def pictures(views: Sequence[View], middle: np.ndarray) -> Pictures:
    """Grey, blurred pictures of all views; middle (3,): where the subject is."""
    height = max(view.image.shape[0] for view in views)
    width = max(view.image.shape[1] for view in views)
    grey = np.zeros((len(views), height, width), np.float32)
    for n, view in enumerate(views):
        image = view.image if view.image.ndim == 2 else cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)
        grey[n, : image.shape[0], : image.shape[1]] = blurred
    rig = Rig.of([view.image_camera for view in views])
    away = np.linalg.norm(rig.center - middle, axis=1)
    return Pictures(grey, rig, float(np.median(away / rig.focal)))


def photometric_positions(
    shape: Shape,
    topology: Topology,
    pictures: Pictures,
    map_rig: Rig,
    depth: np.ndarray,
    reach: float,
    step: float,
) -> Positions:
    """Compare pictures at heights -reach to reach (metres at the method's footprint, scaled to this one's).

    depth: (V, H, W) from the rasteriser with map_rig's cameras, to know which views see a vertex.
    """
    scale = float(np.clip(pictures.footprint / _FOOTPRINT, 0.4, 2.0))
    half = round(reach / step)
    step *= scale
    curves = np.zeros((len(shape.vertices), 2 * half + 1), np.float32)
    valid = np.zeros(len(shape.vertices), np.float32)
    _curves(
        shape.vertices, shape.normals, pictures.grey, pictures.rig.matrix, pictures.rig.center, map_rig.matrix, depth,
        scale * _FOOTPRINT, step, curves, valid,
    )  # fmt: skip
    for _ in range(_ROUNDS):
        curves, valid = _averaged(curves, valid, topology.start, topology.neighbour)
    want = np.zeros(len(curves))
    score = np.zeros(len(curves))
    _peaks(curves, valid, step, scale * _APART, want, score)
    _agreement(want, score, topology.start, topology.neighbour, scale * _AGREE)
    return Positions(want, score, int((score > 0).sum()))


@numba.njit(cache=True, nogil=True, inline="always")
def _inside(x, y, height, width):
    return 0.0 <= x < width - 1 and 0.0 <= y < height - 1


@numba.njit(cache=True, nogil=True)
def _visible(m, depth, x, y, z, slack):
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if w < 0.01:
        return False
    px = int(np.rint((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w))
    py = int(np.rint((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w))
    if px < 1 or py < 1 or px >= depth.shape[1] - 1 or py >= depth.shape[0] - 1:
        return False
    return depth[py, px] > 0.0 and w < depth[py, px] + slack


@numba.njit(parallel=True, cache=True, nogil=True)
def _curves(vertices, normals, grey, matrix, center, map_matrix, depth, spacing, step, curves, valid):
    height, width = grey.shape[1:]
    heights = curves.shape[1]
    side = 2 * _HALF + 1
    slack = 3.0 * spacing
    for i in numba.prange(vertices.shape[0]):
        x, y, z = vertices[i]
        n0, n1, n2 = normals[i]
        best = np.full(_VIEWS, -1, np.int64)
        facing = np.full(_VIEWS, _FACING)
        for v in range(matrix.shape[0]):
            d0, d1, d2 = center[v, 0] - x, center[v, 1] - y, center[v, 2] - z
            cosine = (n0 * d0 + n1 * d1 + n2 * d2) / np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
            if cosine <= facing[_VIEWS - 1] or not _visible(map_matrix[v], depth[v], x, y, z, slack):
                continue
            at = _VIEWS - 1
            while at > 0 and cosine > facing[at - 1]:
                facing[at], best[at] = facing[at - 1], best[at - 1]
                at -= 1
            facing[at], best[at] = cosine, v
        if best[1] < 0:
            continue
        # Two directions of the tangent plane.
        if abs(n0) < 0.7:
            u0, u1, u2 = 0.0, n2, -n1
        else:
            u0, u1, u2 = -n2, 0.0, n0
        size = np.sqrt(u0 * u0 + u1 * u1 + u2 * u2)
        u0, u1, u2 = u0 / size, u1 / size, u2 / size
        w0, w1, w2 = n1 * u2 - n2 * u1, n2 * u0 - n0 * u2, n0 * u1 - n1 * u0
        patch = np.empty((_VIEWS, heights, side * side), np.float32)
        used = 0
        for slot in range(_VIEWS):
            v = best[slot]
            if v < 0:
                continue
            m = matrix[v]
            good = True
            for h in range(heights):
                t = (h - heights // 2) * step
                p0, p1, p2 = x + t * n0, y + t * n1, z + t * n2
                w = m[2, 0] * p0 + m[2, 1] * p1 + m[2, 2] * p2 + m[2, 3]
                px = (m[0, 0] * p0 + m[0, 1] * p1 + m[0, 2] * p2 + m[0, 3]) / w
                py = (m[1, 0] * p0 + m[1, 1] * p1 + m[1, 2] * p2 + m[1, 3]) / w
                # A patch is a few pixels wide: its projection is taken as affine about its middle.
                s = spacing / w
                ax = ((m[0, 0] - px * m[2, 0]) * u0 + (m[0, 1] - px * m[2, 1]) * u1 + (m[0, 2] - px * m[2, 2]) * u2) * s
                ay = ((m[1, 0] - py * m[2, 0]) * u0 + (m[1, 1] - py * m[2, 1]) * u1 + (m[1, 2] - py * m[2, 2]) * u2) * s
                bx = ((m[0, 0] - px * m[2, 0]) * w0 + (m[0, 1] - px * m[2, 1]) * w1 + (m[0, 2] - px * m[2, 2]) * w2) * s
                by = ((m[1, 0] - py * m[2, 0]) * w0 + (m[1, 1] - py * m[2, 1]) * w1 + (m[1, 2] - py * m[2, 2]) * w2) * s
                wide, tall = _HALF * (abs(ax) + abs(bx)), _HALF * (abs(ay) + abs(by))
                if not (_inside(px - wide, py - tall, height, width) and _inside(px + wide, py + tall, height, width)):
                    good = False
                    break
                total, square = 0.0, 0.0
                k = 0
                for a in range(-_HALF, _HALF + 1):
                    for b in range(-_HALF, _HALF + 1):
                        qx, qy = px + a * ax + b * bx, py + a * ay + b * by
                        jx, jy = int(qx), int(qy)
                        gx, gy = np.float32(qx - jx), np.float32(qy - jy)
                        g00, g01 = grey[v, jy, jx], grey[v, jy, jx + 1]
                        g10, g11 = grey[v, jy + 1, jx], grey[v, jy + 1, jx + 1]
                        upper = g00 + gx * (g01 - g00)
                        value = upper + gy * (g10 + gx * (g11 - g10) - upper)
                        patch[used, h, k] = value
                        total += value
                        square += value * value
                        k += 1
                mean = total / k
                spread = np.sqrt(max(square / k - mean * mean, 0.0))
                if spread < _FLAT:
                    good = False
                    break
                scale = 1.0 / (spread * np.sqrt(k))
                for k in range(side * side):
                    patch[used, h, k] = (patch[used, h, k] - mean) * scale
            if good:
                used += 1
        if used < 2:
            continue
        pairs = used * (used - 1) // 2
        for h in range(heights):
            total = np.float32(0.0)
            for a in range(used):
                for b in range(a + 1, used):
                    for k in range(side * side):
                        total += patch[a, h, k] * patch[b, h, k]
            curves[i, h] = total / pairs
        valid[i] = 1.0


@numba.njit(parallel=True, cache=True, nogil=True)
def _averaged(curves, valid, start, neighbour):
    out = np.zeros_like(curves)
    weight = np.zeros_like(valid)
    for i in numba.prange(curves.shape[0]):
        total = valid[i]
        out[i] = curves[i] * valid[i]
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            total += valid[j]
            out[i] += curves[j] * valid[j]
        if total > 0.0:
            out[i] /= total
        weight[i] = min(total, 1.0)
    return out, weight


@numba.njit(cache=True, nogil=True)
def _peaks(curves, valid, step, apart, want, score):
    heights = curves.shape[1]
    for i in range(curves.shape[0]):
        if valid[i] <= 0.0:
            continue
        c = curves[i]
        top = 0
        for h in range(1, heights):
            if c[h] > c[top]:
                top = h
        if top == 0 or top == heights - 1 or c[top] < _HEIGHT:
            continue
        rival = -1.0
        for h in range(1, heights - 1):
            if abs(h - top) * step >= apart and c[h] >= c[h - 1] and c[h] >= c[h + 1]:
                rival = max(rival, c[h])
        if c[top] - rival < _ABOVE:
            continue
        bend = c[top - 1] - 2.0 * c[top] + c[top + 1]
        shift = 0.5 * (c[top - 1] - c[top + 1]) / bend if bend < 0.0 else 0.0
        want[i] = (top - heights // 2 + min(max(shift, -0.5), 0.5)) * step
        score[i] = min((c[top] - _HEIGHT) / (1.0 - _HEIGHT) + 0.1, 1.0)


@numba.njit(cache=True, nogil=True)
def _agreement(want, score, start, neighbour, scale):
    agreed = score.copy()
    for i in range(want.shape[0]):
        if score[i] <= 0.0:
            continue
        total, mean = 0.0, 0.0
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            total += score[j]
            mean += score[j] * want[j]
        if total > 0.0:
            agreed[i] = score[i] / (1.0 + ((want[i] - mean / total) / scale) ** 2)
        else:
            agreed[i] = 0.25 * score[i]
    score[:] = agreed
