"""Where along its normal a vertex looks the same from several cameras.

The surface is strewn with samples, a few to a face, and each sample is read from the pictures at several heights along
the normal. A vertex compares its best views on the samples of the faces around it, height by height, by normalised
cross-correlation: the patch bends as the surface does, every sample is read once however many patches it lies in, and
what a correlation needs of a face (sums of grey levels, squares and products) is summed up once for all its patches.
The height of the best correlation is a position that neither normals nor outlines know.
Curves are averaged over neighbours, by contrast, before a peak is looked for, so that weak texture adds up instead of
being thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numba
import numpy as np

from fusion_server.surface.base import Rig, View
from fusion_server.surface.each import each
from fusion_server.surface.solve import Shape, Topology
from geometry.compiled import kernel

FINE = 2  # pictures are usually this many times finer than the normal maps,
FINEST = 512  # but no coarser than this many pixels a side
_SLOTS = 4  # views kept per face
_PAIRS = np.full((_SLOTS, _SLOTS), -1)  # number of a pair of slots, whichever comes first
_PAIRS[np.triu_indices(_SLOTS, 1)] = np.arange(_SLOTS * (_SLOTS - 1) // 2)
_PAIRS = np.maximum(_PAIRS, _PAIRS.T)
GREY = np.float32(128.0)  # subtracted everywhere: sums of squares of smaller numbers keep more digits
_VIEWS = 3  # of them compared per vertex
_PIECES = 64  # that faces and vertices are cut into for the cores
FACING = 0.4  # cosine to the view; nearer to grazing a patch has no pixels
_BLUR = 0.8  # pixels
FOOTPRINT = 0.8e-3  # metres a pixel that the lengths below were found at; others scale with it
_SPACING = 2.2  # pixels between samples, about
FLAT = 1.0  # grey levels of contrast below which a patch has nothing to compare
ROUNDS = 3  # of averaging over neighbours
HEIGHT = 0.35  # correlation below which a peak is none
ABOVE = 0.03  # by which it must top any other peak
_APART = 1.2e-3  # metres away
_AGREE = 0.5e-3  # metres: difference from the neighbours that halves the weight
SHARPNESS = 0.3  # a peak's standard deviation over sqrt((1 - height) / curvature), found against known truth


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures made ready to compare: (V, h, w) float32 grey, slightly blurred, and their cameras."""

    grey: np.ndarray
    rig: Rig
    footprint: float  # metres a pixel where the subject is

    @cached_property
    def coarser(self) -> Pictures:
        """Half as many pixels each way, and a search twice as far."""
        grey = np.stack(each(cv2.pyrDown, self.grey))
        return Pictures(grey, self.halved_rig(), 2 * self.footprint)

    def halved_rig(self) -> Rig:
        """The cameras of ``coarser``: pyrDown keeps even pixels' centres."""
        matrix = self.rig.matrix * np.array([0.5, 0.5, 1.0])[:, None]
        return replace(self.rig, matrix=matrix, focal=self.rig.focal / 2)


@dataclass(frozen=True, eq=False)
class Positions:
    """Where vertices belong along their normals: points (P, 3); variance (P,) in m^2, infinite where none was found.

    scale: of lengths in the method, to those they were found at.
    """

    points: np.ndarray
    variance: np.ndarray
    scale: float


@dataclass(frozen=True, eq=False)
class Search:
    """What is looked at: heights (n,) metres along the normals, ``step`` apart; barycentric places (k, 2) of a face's
    samples; slack: metres behind what a pixel shows that a face is still seen; apart: metres to a peak's rivals; scale:
    of lengths in the method, to these."""

    heights: np.ndarray
    step: float
    places: np.ndarray
    slack: float
    apart: float
    scale: float


def fine_size(size: int) -> int:
    """The usual side of the pictures, pixels, where maps have ``size``. What a search looks at is meant for these."""
    return max(FINE * size, FINEST)


def spare_halvings(picture: Sequence[int], maps: Sequence[int]) -> int:
    """How often pictures (height, width) can be halved before they are as coarse as is usual beside such maps."""
    return max(0, round(math.log2(max(picture[:2]) / fine_size(max(maps)))))


def search_of(shape: Shape, pictures: Pictures, reach: float, step: float) -> Search:
    """Heights from -reach to reach and samples of a face, for pictures of this footprint."""
    scale = float(np.clip(pictures.footprint / FOOTPRINT, 0.25, 4.0))
    half = round(reach / step)
    heights = np.arange(-half, half + 1) * (step * scale)
    places = _sample_places(shape.edge / pictures.footprint)
    return Search(heights, step * scale, places, 3 * scale * FOOTPRINT, scale * _APART, scale)


def pictures(views: Sequence[View], middle: np.ndarray) -> Pictures:
    """Grey, blurred pictures of all views; middle (3,): where the subject is."""
    height = max(view.image.shape[0] for view in views)
    width = max(view.image.shape[1] for view in views)
    grey = np.empty((len(views), height, width), np.float32)

    def blur(n: int) -> None:
        image = views[n].image if views[n].image.ndim == 2 else cv2.cvtColor(views[n].image, cv2.COLOR_RGB2GRAY)
        rows, columns = image.shape
        cv2.GaussianBlur(image.astype(np.float32), (0, 0), _BLUR, dst=grey[n, :rows, :columns])
        grey[n, rows:], grey[n, :, columns:] = 0, 0

    each(blur, range(len(views)))
    return Pictures(grey, *pictures_rig(views, middle))


def pictures_rig(views: Sequence[View], middle: np.ndarray) -> tuple[Rig, float]:
    """The pictures' cameras, and metres a pixel where the subject is, middle (3,)."""
    rig = Rig.of([view.image_camera for view in views])
    return rig, rig.footprint(middle)


def photometric_positions(
    shape: Shape, topology: Topology, pictures: Pictures, map_rig: Rig, depth: np.ndarray, reach: float, step: float
) -> Positions:
    """Compare pictures at heights -reach to reach (metres at the method's footprint, scaled to this one's).

    depth: (V, H, W) from the rasteriser with map_rig's cameras, to know which views see a face.
    """
    search = search_of(shape, pictures, reach, step)
    heights, places = search.heights, search.places
    slot_of = np.full((len(topology.faces), len(depth)), -1, np.int8)
    sums = np.empty((len(topology.faces), 2 * _SLOTS + 6, len(heights)), np.float32)
    _sample(
        shape.vertices, shape.normals, topology.corners, shape.face_normals, places, heights, pictures.grey,
        pictures.rig.matrix, pictures.rig.center, map_rig.matrix, depth, search.slack, slot_of, sums,
    )  # fmt: skip
    curves = np.zeros((len(shape.vertices), len(heights)), np.float32)
    contrast = np.zeros(len(shape.vertices), np.float32)
    around = topology.around
    _correlate(
        shape.vertices, shape.normals, pictures.rig.center, slot_of, sums, len(places), around.start, around.face,
        around.wide_start, around.wide_face, curves, contrast,
    )  # fmt: skip
    for _ in range(ROUNDS):
        curves, contrast = _averaged(curves, contrast, topology.start, topology.neighbour)
    want = np.zeros(len(curves))
    variance = np.full(len(curves), np.inf)
    _peaks(curves, contrast, search.step, search.apart, want, variance)
    return Positions(shape.vertices + want[:, None] * shape.normals, variance, search.scale)


def agreed(want: np.ndarray, held: Positions, topology: Topology) -> np.ndarray:
    """The variance of wanted displacements (P,), raised for those that differ from their neighbours'.  # P"""
    variance = held.variance.copy()
    _agreement(want, variance, topology.start, topology.neighbour, held.scale * _AGREE)
    return variance


def _sample_places(edge: float) -> np.ndarray:
    """Barycentric places of samples: the middles of a face cut into n x n alike; edge in pixels.  # n*n,2"""
    n = int(np.clip(round(edge / _SPACING / 1.6), 1, 3))
    upright = [((i + 1 / 3) / n, (j + 1 / 3) / n) for i in range(n) for j in range(n - i)]
    turned = [((i + 2 / 3) / n, (j + 2 / 3) / n) for i in range(n - 1) for j in range(n - 1 - i)]
    return np.array(upright + turned)


@kernel
def sees(m: np.ndarray, depth: np.ndarray, x: float, y: float, z: float, slack: float) -> bool:
    """Whether a point is on a map, no more than slack (metres) behind what is drawn there; m (3, 4), depth (H, W)."""
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if w < 0.01:
        return False
    px = int(np.rint((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w))
    py = int(np.rint((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w))
    if px < 1 or py < 1 or px >= depth.shape[1] - 1 or py >= depth.shape[0] - 1:
        return False
    return depth[py, px] > 0.0 and w < depth[py, px] + slack


@kernel
def _ranked(facing, best, cosine, view):
    """Insert a view into a short list that is sorted by cosine; the last one falls out."""
    at = len(best) - 1
    while at > 0 and cosine > facing[at - 1]:
        facing[at], best[at] = facing[at - 1], best[at - 1]
        at -= 1
    facing[at], best[at] = cosine, view


@kernel
def _cosine(n, center, x, y, z):
    d0, d1, d2 = center[0] - x, center[1] - y, center[2] - z
    return (n[0] * d0 + n[1] * d1 + n[2] * d2) / np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)


@kernel(parallel=True, fastmath=True)
def _sample(
    vertices, normals, faces, face_normals, places, heights, grey, matrix, center, map_matrix, depth, slack, slot_of,
    sums,
):  # fmt: skip
    """Per face, of each slot: the sum of grey levels and that of their squares; of each pair: that of products.

    slot_of: (F, V) int8, which of a face's slots is a view's; left at -1 where it has none.
    """
    rows, columns = grey.shape[1:]
    count = heights.shape[0]
    reach = heights[-1]
    for piece in numba.prange(_PIECES):
        # Room for one face after the other: to ask for it anew for each takes an eighth of the time.
        facing, view = np.empty(_SLOTS), np.empty(_SLOTS, np.int64)
        corner, rise = np.empty((_SLOTS, 3, 2)), np.empty((_SLOTS, 3, 2))
        level = np.empty((_SLOTS, count), np.float32)
        for f in range(piece * faces.shape[0] // _PIECES, (piece + 1) * faces.shape[0] // _PIECES):
            sums[f] = 0.0
            a, b, c = faces[f]
            x = (vertices[a, 0] + vertices[b, 0] + vertices[c, 0]) / 3.0
            y = (vertices[a, 1] + vertices[b, 1] + vertices[c, 1]) / 3.0
            z = (vertices[a, 2] + vertices[b, 2] + vertices[c, 2]) / 3.0
            facing[:], view[:] = FACING, -1
            for v in range(matrix.shape[0]):
                cosine = _cosine(face_normals[f], center[v], x, y, z)
                if cosine > facing[_SLOTS - 1] and sees(map_matrix[v], depth[v], x, y, z, slack):
                    _ranked(facing, view, cosine, v)
            # Over a face, and over the few millimetres of a search, the projection is affine: where the corners are in
            # each picture, and how far they go there when they rise by ``reach``.
            for s in range(_SLOTS):
                v = view[s]
                if v < 0:
                    break
                m = matrix[v]
                over = 1.0 / (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
                for axis in range(2):
                    at = (m[axis, 0] * x + m[axis, 1] * y + m[axis, 2] * z + m[axis, 3]) * over
                    g0, g1, g2 = (
                        (m[axis, 0] - at * m[2, 0]) * over,
                        (m[axis, 1] - at * m[2, 1]) * over,
                        (m[axis, 2] - at * m[2, 2]) * over,
                    )
                    for q in range(3):
                        i = faces[f, q]
                        to = at + g0 * (vertices[i, 0] - x) + g1 * (vertices[i, 1] - y) + g2 * (vertices[i, 2] - z)
                        by = reach * (g0 * normals[i, 0] + g1 * normals[i, 1] + g2 * normals[i, 2])
                        corner[s, q, axis], rise[s, q, axis] = to, by
                        if not (abs(by) <= to < (columns, rows)[axis] - 1.001 - abs(by)):
                            view[s] = -2  # keeps its place, so that the slots behind it are still visited
                if view[s] >= 0:
                    slot_of[f, v] = s
            for k in range(places.shape[0]):
                wa, wb = places[k]
                wc = 1.0 - wa - wb
                for s in range(_SLOTS):
                    v = view[s]
                    if v < 0:
                        continue
                    picture = grey[np.uint64(v)]
                    dx = wa * rise[s, 0, 0] + wb * rise[s, 1, 0] + wc * rise[s, 2, 0]
                    dy = wa * rise[s, 0, 1] + wb * rise[s, 1, 1] + wc * rise[s, 2, 1]
                    x0 = np.float32(wa * corner[s, 0, 0] + wb * corner[s, 1, 0] + wc * corner[s, 2, 0] - dx)
                    y0 = np.float32(wa * corner[s, 0, 1] + wb * corner[s, 1, 1] + wc * corner[s, 2, 1] - dy)
                    dx, dy = np.float32(2.0 * dx / (count - 1)), np.float32(2.0 * dy / (count - 1))
                    for h in range(count):
                        px, py = x0 + np.float32(h) * dx, y0 + np.float32(h) * dy
                        fx, fy = px - np.float32(np.int32(px)), py - np.float32(np.int32(py))
                        jx, jy = np.uint32(px), np.uint32(py)  # of what may be negative, numba asks whether it is
                        upper = picture[jy, jx] + fx * (picture[jy, jx + 1] - picture[jy, jx])
                        lower = picture[jy + 1, jx] + fx * (picture[jy + 1, jx + 1] - picture[jy + 1, jx])
                        level[s, h] = upper + fy * (lower - upper) - GREY
                    for h in range(count):
                        sums[f, s, h] += level[s, h]
                        sums[f, _SLOTS + s, h] += level[s, h] * level[s, h]
                    for t in range(s):
                        if view[t] >= 0:
                            pair = 2 * _SLOTS + _PAIRS[s, t]
                            for h in range(count):
                                sums[f, pair, h] += level[s, h] * level[t, h]


@kernel(parallel=True, fastmath=True)
def _correlate(
    vertices, normals, center, slot_of, sums, places, start, face, wide_start, wide_face, curves, contrast
):  # fmt: skip
    """slot_of: (F, V) the place that a view has in a face's sums, or -1."""
    heights, count = sums.shape[2], vertices.shape[0]
    for piece in numba.prange(_PIECES):
        best, facing, slot = np.empty(_VIEWS, np.int64), np.empty(_VIEWS), np.empty(_VIEWS, np.int64)
        total = np.empty((_VIEWS, heights), np.float32)
        square = np.empty((_VIEWS, heights), np.float32)
        cross = np.empty((_VIEWS, heights), np.float32)
        for i in range(piece * count // _PIECES, (piece + 1) * count // _PIECES):
            best[:], facing[:] = -1, FACING
            for v in range(center.shape[0]):
                cosine = _cosine(normals[i], center[v], vertices[i, 0], vertices[i, 1], vertices[i, 2])
                if cosine <= facing[_VIEWS - 1]:
                    continue
                seen = 0
                for n in range(start[i], start[i + 1]):
                    seen += slot_of[face[n], v] >= 0
                if 4 * seen >= 3 * (start[i + 1] - start[i]):
                    _ranked(facing, best, cosine, v)
            views = 0
            for s in range(_VIEWS):
                views += best[s] >= 0
            if views < 2:
                continue
            pairs = 3 if views == 3 else 1
            total[:], square[:], cross[:] = 0.0, 0.0, 0.0
            used = 0
            for n in range(wide_start[i], wide_start[i + 1]):
                f = wide_face[n]
                common = True
                for b in range(views):
                    slot[b] = slot_of[f, best[b]]
                    common &= slot[b] >= 0
                if not common:
                    continue
                used += 1
                for b in range(views):
                    at = np.uint64(slot[b])
                    for h in range(heights):
                        total[b, h] += sums[f, at, h]
                        square[b, h] += sums[f, _SLOTS + at, h]
                for b in range(pairs):
                    pair = 2 * _SLOTS + np.uint64(_PAIRS[slot[b], slot[(b + 1) % 3]])
                    for h in range(heights):
                        cross[b, h] += sums[f, pair, h]
            if used < 6:
                continue
            over = np.float32(1.0) / np.float32(used * places)
            least = np.float32(1e9)
            for h in range(heights):
                for b in range(views):
                    total[b, h] *= over
                    square[b, h] = max(square[b, h] * over - total[b, h] * total[b, h], np.float32(1e-6))
                    least = min(least, square[b, h])
                mean = np.float32(0.0)
                for b in range(pairs):
                    d = (b + 1) % 3
                    mean += (cross[b, h] * over - total[b, h] * total[d, h]) / np.sqrt(square[b, h] * square[d, h])
                curves[i, h] = mean / np.float32(pairs)
            if least > FLAT * FLAT:
                contrast[i] = least


@kernel(parallel=True)
def _averaged(curves, contrast, start, neighbour):
    """Curves averaged over each vertex and its neighbours, weighted by contrast (bounded, so that an edge of two
    colours does not rule its surroundings)."""
    out = np.zeros_like(curves)
    weight = np.zeros_like(contrast)
    for i in numba.prange(curves.shape[0]):
        own = min(contrast[i], np.float32(100.0))
        total = own
        for h in range(curves.shape[1]):
            out[i, h] = own * curves[i, h]
        for n in range(start[i], start[i + 1]):
            j = neighbour[n]
            w = min(contrast[j], np.float32(100.0))
            total += w
            for h in range(curves.shape[1]):
                out[i, h] += w * curves[j, h]
        if total > 0.0:
            for h in range(curves.shape[1]):
                out[i, h] /= total
        weight[i] = total / (start[i + 1] - start[i] + 1)
    return out, weight


@kernel
def _peaks(curves, contrast, step, apart, want, variance):
    heights = curves.shape[1]
    for i in range(curves.shape[0]):
        if contrast[i] <= 0.0:
            continue
        c = curves[i]
        top = 0
        for h in range(1, heights):
            if c[h] > c[top]:
                top = h
        if top == 0 or top == heights - 1 or c[top] < HEIGHT:
            continue
        rival = np.float32(-1.0)
        for h in range(1, heights - 1):
            if abs(h - top) * step >= apart and c[h] >= c[h - 1] and c[h] >= c[h + 1]:
                rival = max(rival, c[h])
        bend = 2.0 * c[top] - c[top - 1] - c[top + 1]
        if c[top] - rival < ABOVE or bend < 1e-6:
            continue
        shift = 0.5 * (c[top + 1] - c[top - 1]) / bend
        want[i] = (top - heights // 2 + min(max(shift, -0.5), 0.5)) * step
        variance[i] = SHARPNESS**2 * (1.02 - min(c[top], 1.0)) / bend * step * step


@kernel
def _agreement(want, variance, start, neighbour, scale):
    """Raise the variance of heights that differ from their neighbours'."""
    factor = np.ones_like(want)
    for i in range(want.shape[0]):
        if variance[i] == np.inf:
            continue
        total, mean = 0.0, 0.0
        for n in range(start[i], start[i + 1]):
            weight = 1.0 / variance[neighbour[n]]
            total += weight
            mean += weight * want[neighbour[n]]
        if total > 0.0:
            factor[i] = 1.0 + ((want[i] - mean / total) / scale) ** 2
        else:
            factor[i] = 4.0
    variance *= factor
