"""Vertices follow the skin: pictures tell where a point went along the surface, which normals and outlines do not.

A surface that moves along its normals is soon in the right place and no longer of the same points: when a head turns on
its neck, all that is the same all around slides, and what was shaped like the corner of a nose has to become a cheek.
So a keyframe keeps what each camera saw at each vertex, and a warm frame looks for it. Pictures are made comparable by
their surroundings (what is left has mean zero and contrast one), so exposure and slow shading do not matter; each
vertex says which way along the surface its residual falls (Lucas and Kanade, IJCAI 1981), neighbours are to move alike
(Horn and Schunck, Artificial Intelligence 1981), and one sparse system answers for all, group by group (`groups`). What
is looked for is the keyframe and not the last frame: what one frame gets wrong, the next does not inherit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from fusion_server.surface.comparable import Comparable
from fusion_server.surface.groups import Groups
from fusion_server.surface.observation import Look, Observation
from fusion_server.surface.photometric import sees
from fusion_server.surface.solve import Topology
from geometry.compiled import kernel

# Chosen by how far vertices slide on the demo's take, every 9th frame of it, with a network's normals.
_FOOTPRINTS = (3.2e-3, 1.6e-3)  # metres a pixel, about: pictures are halved until they are as coarse
_ROUNDS = 4  # on each of them, at most
_NEARLY_ALL = 0.95  # of the groups
_NEAR = 0.2  # pixels: when they go less far in a round, another is not worth it
_FAR = 0.5  # pixels: when they go farther, coarser pictures have to lead the way
_FACING = 0.3  # cosine to the view; nearer to grazing, neighbours fall on one pixel
_SLACK = 3e-3  # metres behind what a pixel shows, a vertex is hidden
_NOISE = 0.7  # of a comparable picture, which has contrast one
_OUTLIER = 1.5  # times the contrast: half the weight where what is seen is that different from the keyframe
_ALIKE = 1.2e-3  # metres by which neighbours' motion may differ as soon as one picture's residual may be noise
_ROUNDING = 1e-7  # metres: a smaller way is none, or a still surface would tremble


@dataclass(frozen=True, eq=False)
class Skin:
    """What a keyframe's vertices look like. mean (n, P) float32: of pictures of each size, the comparable grey level
    that the cameras see, NaN where none does. seen: for each camera, the same as it alone sees it, the mean where it
    does not show a vertex. unlike: how little these see alike, as ``unlikeness`` has it: near 1 where the skin has
    nothing to be told by."""

    seen: dict[str, np.ndarray]
    mean: np.ndarray
    groups: Groups
    unlike: float

    @classmethod
    def of(cls, look: Look, observation: Observation, topology: Topology) -> Skin:
        """Remember what the observation's pictures show of the look's vertices. The look is to be at maps like those
        that later ones will be at, so that a surface at rest is seen by the same cameras, and stays."""
        o, shape, facing = observation, look.shape, _facing(look)
        grey = []
        for footprint in _FOOTPRINTS:
            pictures = Comparable.begun(o, footprint)
            grey.append(_seen(shape.vertices, facing, pictures.maps(), pictures.matrix))
        grey = np.stack(grey, 1)  # V,n,P
        weight = np.where(np.isnan(grey), 0.0, facing[:, None] ** 2)
        total = weight.sum(0)
        mean = np.where(total > 0, (weight * np.nan_to_num(grey)).sum(0) / np.maximum(total, 1e-12), np.nan)
        names = [camera.name for camera in o.cameras]
        unlike = _between_cameras(grey[:, -1], weight[:, -1])
        mean = mean.astype(np.float32)
        seen = np.where(np.isnan(grey), mean, grey)
        return cls(dict(zip(names, seen, strict=True)), mean, Groups.of_mesh(topology), unlike)

    def expected(self, names: Sequence[str], size: int) -> np.ndarray:
        """What these cameras should see on pictures of one size: what they saw, or else what the others did.  # V,P"""
        return np.stack([self.seen.get(name, self.mean)[size] for name in names])


def begun(observation: Observation) -> Comparable:
    """The pictures that the skin is looked for on first."""
    return Comparable.begun(observation, _FOOTPRINTS[-1])


def follow_skin(
    vertices: np.ndarray,
    skin: Skin,
    look: Look,
    observation: Observation,
    topology: Topology,
    finest: Comparable | None = None,
) -> np.ndarray:
    """Vertices (P, 3) moved along the surface to where the observation's pictures show what the keyframe saw there.

    look: at nearly these vertices, to know which of them each view shows.  # P,3
    finest: the observation's pictures, where they have been begun.
    """
    facing = _facing(look)
    names = [camera.name for camera in observation.cameras]
    last = len(_FOOTPRINTS) - 1
    finest = finest or begun(observation)
    there = _followed(vertices, skin, look, topology, facing, finest, skin.expected(names, last), _FAR)
    if there is not None:
        return there
    for size, footprint in enumerate(_FOOTPRINTS):
        pictures = finest if size == last else Comparable.begun(observation, footprint)
        there = _followed(vertices, skin, look, topology, facing, pictures, skin.expected(names, size))
        assert there is not None  # no way is too far without a limit
        vertices = there
    return vertices


def _followed(
    vertices: np.ndarray,
    skin: Skin,
    look: Look,
    topology: Topology,
    facing: np.ndarray,
    pictures: Comparable,
    expected: np.ndarray,
    far: float = np.inf,
) -> np.ndarray | None:
    """Vertices (P, 3) after a few rounds on pictures of one size, on which cameras expect (V, P) of them; None when
    nearly all have more than ``far`` pixels to go at first, and coarser pictures should lead the way."""
    maps, groups = pictures.maps(), skin.groups
    for n in range(_ROUNDS):
        system, right = np.empty((len(groups.start) - 1, 3, 3)), np.empty((len(groups.start) - 1, 3))
        _gather(
            vertices, look.shape.normals, facing, maps, pictures.matrix, expected, groups.first, groups.member,
            system, right,
        )  # fmt: skip
        moves = groups.solve(system, right, 1 / _ALIKE**2)
        way = np.sqrt(np.vecdot(moves, moves))
        usual = np.quantile(way, _NEARLY_ALL) / pictures.footprint
        if n == 0 and usual > far:
            return None
        if way.max() < _ROUNDING:
            break
        vertices = vertices + groups.spread(moves, topology)
        if usual < _NEAR:
            break
    return vertices


def unlikeness(skin: Skin, look: Look, pictures: Comparable) -> float:
    """How little pictures show of what the keyframe saw at the vertices of a look: one less the correlation of both,
    over all vertices and views that know it. 0: the same; 1: nothing in common; NaN when there is nothing to compare.
    pictures: as ``begun`` makes them."""
    names = [camera.name for camera in look.observation.cameras]
    facing, expected = _facing(look), skin.expected(names, len(_FOOTPRINTS) - 1)
    sums = np.zeros((len(look.shape.vertices), 6))
    _moments(look.shape.vertices, facing, pictures.maps(), pictures.matrix, expected, sums)
    return uncorrelated(*sums.sum(0))


def _between_cameras(grey: np.ndarray, weight: np.ndarray) -> float:
    """One less the correlation of what each camera sees (V, P) with the mean of what the others do."""
    grey = np.nan_to_num(grey)
    others = weight.sum(0) - weight
    mean = ((weight * grey).sum(0) - weight * grey) / np.maximum(others, 1e-12)
    shared = np.minimum(weight, others)
    products = (np.ones_like(grey), grey, mean, grey * grey, grey * mean, mean * mean)
    return uncorrelated(*((shared * product).sum() for product in products))


def uncorrelated(weight: float, a: float, b: float, aa: float, ab: float, bb: float) -> float:
    """One less the correlation of two quantities, from weighted sums of one, each, and their products; NaN where
    either is constant."""
    if weight <= 0:
        return float("nan")
    spread = (aa - a * a / weight) * (bb - b * b / weight)
    return float(1 - (ab - a * b / weight) / np.sqrt(spread)) if spread > 0 else float("nan")


def _facing(look: Look) -> np.ndarray:
    """How squarely each view shows each vertex: from 1 down to 0 where it is nearly grazing or hidden. No vertex comes
    into sight with a jerk.  # V,P float32"""
    shape, rig = look.shape, look.observation.rig
    out = np.zeros((len(rig.matrix), len(shape.vertices)), np.float32)
    _faces(shape.vertices, shape.normals, rig.matrix, rig.center, look.raster.depth, out)
    return out


@kernel(parallel=True)
def _faces(x, normals, matrix, center, depth, out):
    for i in numba.prange(x.shape[0]):
        for v in range(matrix.shape[0]):
            d0, d1, d2 = center[v, 0] - x[i, 0], center[v, 1] - x[i, 1], center[v, 2] - x[i, 2]
            cosine = (normals[i, 0] * d0 + normals[i, 1] * d1 + normals[i, 2] * d2) / np.sqrt(
                d0 * d0 + d1 * d1 + d2 * d2
            )
            if cosine > _FACING and sees(matrix[v], depth[v], x[i, 0], x[i, 1], x[i, 2], _SLACK):
                out[v, i] = (cosine - _FACING) / (1.0 - _FACING)


@kernel(inline="always")
def _at(maps, m, x, y, z):
    """Comparable level at a world point in one view, NaN off the subject, and its steps to the right and down; the
    pixel; one over the depth."""
    over = 1.0 / (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
    px = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) * over
    py = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) * over
    rows, columns = maps.shape[:2]
    if not (0.0 <= px < columns - 1.001 and 0.0 <= py < rows - 1.001):
        return np.nan, 0.0, 0.0, px, py, over
    jx, jy = int(px), int(py)
    fx, fy = px - jx, py - jy
    a, b, c, d = (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy
    upper, lower = maps[jy], maps[jy + 1]
    value = a * upper[jx, 0] + b * upper[jx + 1, 0] + c * lower[jx, 0] + d * lower[jx + 1, 0]
    right = a * upper[jx, 1] + b * upper[jx + 1, 1] + c * lower[jx, 1] + d * lower[jx + 1, 1]
    down = a * upper[jx, 2] + b * upper[jx + 1, 2] + c * lower[jx, 2] + d * lower[jx + 1, 2]
    return value + 0.0 * (right + down), right, down, px, py, over  # beside what is off, a step is NaN, and so is all


@kernel(parallel=True)
def _seen(x, facing, maps, matrix):
    """Each view's comparable level at each vertex, NaN where it has none.  # V,P float32"""
    out = np.full(facing.shape, np.nan, np.float32)
    for i in numba.prange(x.shape[0]):
        for v in range(matrix.shape[0]):
            if facing[v, i] > 0.0:
                out[v, i] = _at(maps[v], matrix[v], x[i, 0], x[i, 1], x[i, 2])[0]
    return out


@kernel(parallel=True)
def _moments(x, facing, maps, matrix, expected, sums):
    """Of each vertex, over the views that know it: weight, and weighted what it should be, is, and their products."""
    for i in numba.prange(x.shape[0]):
        for v in range(matrix.shape[0]):
            weight, should = facing[v, i], expected[v, i]
            if weight <= 0.0 or np.isnan(should):
                continue
            value = _at(maps[v], matrix[v], x[i, 0], x[i, 1], x[i, 2])[0]
            if np.isnan(value):
                continue
            sums[i, 0] += weight
            sums[i, 1] += weight * should
            sums[i, 2] += weight * value
            sums[i, 3] += weight * should * should
            sums[i, 4] += weight * should * value
            sums[i, 5] += weight * value * value


@kernel(parallel=True)
def _gather(x, normals, facing, maps, matrix, expected, first, member, system, right):
    """Normal equations of each group's motion, from what its vertices see and should see."""
    for group in numba.prange(first.shape[0] - 1):
        a00, a01, a02, a11, a12, a22, b0, b1, b2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for n in range(first[group], first[group + 1]):
            i = member[n]
            for v in range(matrix.shape[0]):
                if facing[v, i] <= 0.0 or np.isnan(expected[v, i]):
                    continue
                m = matrix[v]
                value, across, down, px, py, over = _at(maps[v], m, x[i, 0], x[i, 1], x[i, 2])
                if np.isnan(value):
                    continue
                g0 = (across * (m[0, 0] - px * m[2, 0]) + down * (m[1, 0] - py * m[2, 0])) * over
                g1 = (across * (m[0, 1] - px * m[2, 1]) + down * (m[1, 1] - py * m[2, 1])) * over
                g2 = (across * (m[0, 2] - px * m[2, 2]) + down * (m[1, 2] - py * m[2, 2])) * over
                off = g0 * normals[i, 0] + g1 * normals[i, 1] + g2 * normals[i, 2]  # is for others to tell
                g0, g1, g2 = g0 - off * normals[i, 0], g1 - off * normals[i, 1], g2 - off * normals[i, 2]
                missing = expected[v, i] - value
                weight = facing[v, i] / (_NOISE * _NOISE * (1.0 + (missing / _OUTLIER) ** 2))
                a00 += weight * g0 * g0
                a01 += weight * g0 * g1
                a02 += weight * g0 * g2
                a11 += weight * g1 * g1
                a12 += weight * g1 * g2
                a22 += weight * g2 * g2
                b0 += weight * missing * g0
                b1 += weight * missing * g1
                b2 += weight * missing * g2
        s = system[group]
        s[0, 0], s[0, 1], s[0, 2], s[1, 1], s[1, 2], s[2, 2] = a00, a01, a02, a11, a12, a22
        s[1, 0], s[2, 0], s[2, 1] = a01, a02, a12
        right[group, 0], right[group, 1], right[group, 2] = b0, b1, b2
