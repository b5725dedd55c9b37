"""How deep each pixel of a picture lies, found by comparing it with the pictures of the cameras beside it.

PatchMatch stereo (Bleyer, Rhemann and Rother, BMVC 2011) in the order that Galliani, Lasinger and Schindler (ICCV 2015)
gave it for many cores: each pixel has a plane, that is, a depth and a slant. It tries its neighbours' planes and a few
of its own drawing, and keeps the one through which its patch looks most alike in other cameras. A mesh that is searched
along its normals does not come around the edge of a deep hollow; a pixel looks straight at the floor.
A depth counts where another camera has found the same place by itself. ``carve`` cuts a hull by them, ``depth_rows``
lays a finished mesh onto them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numba
import numpy as np

from fusion_server.surface.base import Rig
from fusion_server.surface.observation import Observation
from fusion_server.surface.photometric import FLAT, GREY, Pictures
from geometry.compiled import kernel
from geometry.mesh import Mesh, face_normals
from geometry.rasterize.base import Rasterizer
from protocol.calibration import Camera

# Most of these are first choices; `python -m benchmarks subjects --cameras 16 --quality final` judges them.
_LARGEST = 1024  # pixels a side: larger pictures are halved
_BESIDE = 4  # cameras that a pixel is compared in; the two in which it looks most alike count
_APART = (math.radians(5), math.radians(65))  # between their directions: nearer they tell no depth, farther no likeness
_HALF, _STRIDE = 4, 2  # pixels: a patch reaches so far from its middle, and every second one of it is read
_OFFSETS = np.arange(-_HALF, _HALF + 1, _STRIDE, dtype=np.float32)
_DOWN, _RIGHT = np.repeat(_OFFSETS, len(_OFFSETS)), np.tile(_OFFSETS, len(_OFFSETS))
_SAMPLES = len(_DOWN)
_STRETCHED = 6.0  # times: patches that are wider in the other picture are not compared
_OWN = 3  # planes of its own that a pixel draws a sweep
_GRAZING = 0.15  # cosine of a plane to the ray that meets it, at least
_UNLIKE = 0.5  # one less the correlation: above, nothing was found
_ALIKE = 0.5  # cosine between two cameras' normals of one place
_BEFORE = 0.01  # metres before a camera, at least, that it sees a point
_NONE = np.float32(2.0)  # unlikeness where nothing can be compared
# Neighbours of the other colour of a chessboard, near and far to each side; the likeliest of each group is tried.
_GROUPS = np.array([
    group
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
    for group in (
        [(dx, dy), (2 * dx + dy, 2 * dy + dx), (2 * dx - dy, 2 * dy - dx), (dx, dy), (dx, dy)],
        [(far * dx, far * dy) for far in (3, 5, 7, 11, 17)],
    )
])  # fmt: skip


@dataclass(frozen=True)
class Search:
    """Where depths are looked for: metres before and behind a mesh; in pictures of ``finest`` metres a pixel or more
    (finer ones are halved); of cameras whose nearest neighbour is less than ``lonely`` radians away."""

    before: float
    behind: float
    finest: float
    lonely: float


# Behind a hull, of depths that two cameras 45 degrees apart agreed on one in seven was more than 3 mm off (of simulated
# people and skulls), and meshes that began with them did not become better.
BEHIND_A_HULL = Search(2e-3, 40e-3, 0.5e-3, math.radians(40))
BESIDE_A_SURFACE = Search(4e-3, 4e-3, 0.25e-3, math.radians(60))


@dataclass(frozen=True, eq=False)
class Depths:
    """Depths that cameras agree on: (V, h, w) float32 metres along the optical axes, 0 where they do not; normal
    (V, h, w, 3) float32 of the surface there, in the camera's frame; and the cameras of these pixels."""

    depth: np.ndarray
    normal: np.ndarray
    cameras: tuple[Camera, ...]

    @property
    def lens(self) -> np.ndarray:
        """fx, fy, cx, cy of each camera.  # V,4"""
        return _lens(self.cameras)


def agreed_depths(observation: Observation, mesh: Mesh, rasterizer: Rasterizer, sweeps: int, search: Search) -> Depths:
    """Depths within the masks and near a mesh; ``sweeps``: how often every pixel looks for a better plane.

    The same on any number of cores. The observation must have pictures.
    """
    assert observation.pictures is not None
    sharp = observation.pictures
    while sharp.footprint < search.finest or max(sharp.grey.shape[1:]) > _LARGEST:
        sharp = sharp.coarser
    grey = observation.kernels.on_host(sharp).grey
    cameras = _cameras(observation, sharp, grey.shape[1:])
    lens, between, beside = _lens(cameras), _between(cameras), _neighbours(observation, search.lonely)
    raster = rasterizer.rasterize(mesh.vertices, mesh.faces, cameras)
    depth, unlike = np.zeros(grey.shape, np.float32), np.full(grey.shape, _NONE)
    normal = np.zeros((*grey.shape, 3), np.float32)
    pixels = grey, lens, between, beside, raster.depth, search.before, search.behind
    slants = np.einsum("vij,fj->vfi", observation.rig.rotation, face_normals(mesh.vertices, mesh.faces)[0])
    _begin(*pixels, raster.face, slants, observation.outlines.inside, observation.intrinsics, depth, normal, unlike)
    for sweep in range(sweeps):
        for colour in range(2):
            _sweep(*pixels, sweep, colour, depth, normal, unlike)
    agreed = np.zeros_like(depth)
    _agree(lens, between, depth, normal, unlike, sharp.footprint, agreed)
    return Depths(agreed, normal, cameras)


def _cameras(observation: Observation, sharp: Pictures, shape: tuple[int, ...]) -> tuple[Camera, ...]:
    """The pictures' cameras."""
    K = sharp.rig.matrix[:, :, :3] @ observation.rig.rotation.transpose(0, 2, 1)
    return tuple(
        replace(camera, K=own, height=shape[0], width=shape[1])
        for camera, own in zip(observation.cameras, K, strict=True)
    )


def _lens(cameras: tuple[Camera, ...]) -> np.ndarray:
    K = np.stack([camera.K for camera in cameras])
    return np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1)


def _between(cameras: tuple[Camera, ...]) -> np.ndarray:
    """[from, to]: a point in one camera's frame to another's homogeneous pixel.  # V,V,3,4"""
    rig = Rig.of(cameras)
    world = np.concatenate([rig.rotation.transpose(0, 2, 1), rig.center[:, :, None]], 2)  # camera to world
    out = np.einsum("sij,vjk->vsik", rig.matrix[:, :, :3], world)
    out[..., 3] += rig.matrix[None, :, :, 3]
    return out


def _neighbours(observation: Observation, lonely: float) -> np.ndarray:
    """The cameras to compare each with, nearest first, -1 where there are no more.  # V,4"""
    way = observation.middle - observation.rig.center
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    apart = np.arccos(np.clip(way @ way.T, -1, 1))
    out = np.full((len(way), _BESIDE), -1)
    for own, angles in zip(out, apart, strict=True):
        chosen = [n for n in np.argsort(angles, kind="stable") if _APART[0] < angles[n] < _APART[1]][:_BESIDE]
        if chosen and angles[chosen[0]] < lonely:
            own[: len(chosen)] = chosen
    return out


@kernel
def _drawn(state):
    """A number from 0 to 1 that belongs to a state (splitmix64)."""
    state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return float((state ^ (state >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@kernel
def _pixel(m, x, y, z):
    """Where a point in one camera's frame is in another's picture (column, row), and how deep; m: see ``_between``."""
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    over = 1.0 / max(w, _BEFORE)
    column = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) * over
    return column, (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) * over, w


@kernel(fastmath=True)
def _patch(picture, x, y, level):
    """Grey levels around a pixel, their mean 0 and their variance 1; False where they are all alike."""
    total, square, k = np.float32(0), np.float32(0), 0
    for dy in range(-_HALF, _HALF + 1, _STRIDE):
        for dx in range(-_HALF, _HALF + 1, _STRIDE):
            level[k] = picture[y + dy, x + dx] - GREY
            total += level[k]
            square += level[k] * level[k]
            k += 1
    mean = total / np.float32(_SAMPLES)
    variance = square / np.float32(_SAMPLES) - mean * mean
    if variance < FLAT * FLAT:
        return False
    over = np.float32(1) / math.sqrt(variance)
    for k in range(_SAMPLES):
        level[k] = (level[k] - mean) * over
    return True


@kernel(fastmath=True)
def _unlikeness(grey, lens, between, beside, x, y, z, n0, n1, n2, level):
    """One less the mean correlation of a patch with the two pictures that it is most like, through a plane.

    lens (4,) and between (V, 3, 4) of its camera, beside (4,) its neighbours; z and n: the plane, in its frame.
    """
    rx, ry = (x - lens[2]) / lens[0], (y - lens[3]) / lens[1]
    slope = z / (n0 * rx + n1 * ry + n2)
    # How the plane's point at the pixel moves from one pixel to the next: over a patch it is as good as straight.
    ax, ay = slope * n0 / lens[0], slope * n1 / lens[1]
    u0, u1, u2 = z / lens[0] - rx * ax, -ry * ax, -ax
    w0, w1, w2 = -rx * ay, z / lens[1] - ry * ay, -ay
    rows, columns = grey.shape[1:]
    first, second, compared = np.float32(-2), np.float32(0), 0
    for b in range(beside.shape[0]):
        s = beside[b]
        if s < 0:
            break
        m = between[s]
        px, py, w = _pixel(m, rx * z, ry * z, z)
        if w < _BEFORE:
            continue
        over = 1.0 / w
        away = m[2, 0] * u0 + m[2, 1] * u1 + m[2, 2] * u2
        xx = np.float32((m[0, 0] * u0 + m[0, 1] * u1 + m[0, 2] * u2 - px * away) * over)
        yx = np.float32((m[1, 0] * u0 + m[1, 1] * u1 + m[1, 2] * u2 - py * away) * over)
        away = m[2, 0] * w0 + m[2, 1] * w1 + m[2, 2] * w2
        xy = np.float32((m[0, 0] * w0 + m[0, 1] * w1 + m[0, 2] * w2 - px * away) * over)
        yy = np.float32((m[1, 0] * w0 + m[1, 1] * w1 + m[1, 2] * w2 - py * away) * over)
        wide, high = _HALF * (abs(xx) + abs(xy)), _HALF * (abs(yx) + abs(yy))
        if not (wide <= px < columns - 1.01 - wide and high <= py < rows - 1.01 - high):
            continue
        if max(wide, high) > _STRETCHED * _HALF:
            continue
        total, square, product = np.float32(0), np.float32(0), np.float32(0)
        picture, middle_x, middle_y = grey[np.uint64(s)].ravel(), np.float32(px), np.float32(py)
        for k in range(_SAMPLES):  # one loop, so that eight samples are read at once
            qx, qy = middle_x + _RIGHT[k] * xx + _DOWN[k] * xy, middle_y + _RIGHT[k] * yx + _DOWN[k] * yy
            jx, jy = np.int32(qx), np.int32(qy)
            fx, fy = qx - np.float32(jx), qy - np.float32(jy)
            at = np.uint32(jy * np.int32(columns) + jx)
            left, lower_left = picture[at], picture[at + np.uint32(columns)]
            upper = left + fx * (picture[at + np.uint32(1)] - left)
            lower = lower_left + fx * (picture[at + np.uint32(columns + 1)] - lower_left)
            there = upper + fy * (lower - upper) - GREY
            total += there
            square += there * there
            product += there * level[k]
        mean = total / np.float32(_SAMPLES)
        variance = square / np.float32(_SAMPLES) - mean * mean
        if variance < FLAT * FLAT:
            continue
        compared += 1
        alike = product / np.float32(_SAMPLES) / math.sqrt(variance)
        if alike > first:
            first, second = alike, max(first, np.float32(0))
        elif alike > second:
            second = alike
    if compared == 0:
        return _NONE
    if beside[2] < 0:  # of two neighbours one is often hidden
        return np.float32(1) - first
    return np.float32(1) - np.float32(0.5) * (first + second)


@kernel(parallel=True)
def _begin(grey, lens, between, beside, surface, front, back, face, slants, inside, maps, depth, normal, unlike):
    """A plane for each pixel of the subject, slanted as the surface is, near to it more often than far behind."""
    views, rows, columns = grey.shape
    for line in numba.prange(views * rows):
        v, y = line // rows, line % rows
        level = np.empty(_SAMPLES, np.float32)
        if beside[v, 0] < 0 or not _HALF <= y < rows - _HALF:
            continue
        ry = (y - lens[v, 3]) / lens[v, 1]
        row = int(np.rint(maps[v, 1] * ry + maps[v, 3]))
        if not 0 <= row < inside.shape[1]:
            continue
        for x in range(_HALF, columns - _HALF):
            rx = (x - lens[v, 2]) / lens[v, 0]
            column = int(np.rint(maps[v, 0] * rx + maps[v, 2]))
            if not 0 <= column < inside.shape[2] or not inside[v, row, column] or surface[v, y, x] <= 0.0:
                continue
            if not _patch(grey[v], x, y, level):
                continue
            away = _drawn(np.uint64(line * columns + x))
            z = surface[v, y, x] + back * away * away
            n0, n1, n2 = slants[v, face[v, y, x]]
            over = -1.0 / math.sqrt(rx * rx + ry * ry + 1.0)
            if (n0 * rx + n1 * ry + n2) * over < _GRAZING:
                n0, n1, n2 = rx * over, ry * over, over
            depth[v, y, x] = z
            normal[v, y, x, 0], normal[v, y, x, 1], normal[v, y, x, 2] = n0, n1, n2
            unlike[v, y, x] = _unlikeness(grey, lens[v], between[v], beside[v], x, y, z, n0, n1, n2, level)


@kernel(parallel=True)
def _sweep(grey, lens, between, beside, surface, front, back, sweep, colour, depth, normal, unlike):
    """Let every pixel of one colour of a chessboard try planes: those of the other colour, and of its own drawing."""
    views, rows, columns = grey.shape
    for line in numba.prange(views * rows):
        v, y = line // rows, line % rows
        level = np.empty(_SAMPLES, np.float32)
        for x in range((y + colour) % 2, columns, 2):
            if depth[v, y, x] == 0.0:
                continue
            _patch(grey[v], x, y, level)
            rx, ry = (x - lens[v, 2]) / lens[v, 0], (y - lens[v, 3]) / lens[v, 1]
            far = math.sqrt(rx * rx + ry * ry + 1.0)
            z, least = float(depth[v, y, x]), unlike[v, y, x]
            n0, n1, n2 = float(normal[v, y, x, 0]), float(normal[v, y, x, 1]), float(normal[v, y, x, 2])
            low, high = surface[v, y, x] - front, surface[v, y, x] + back
            for g in range(len(_GROUPS) + _OWN):
                if g < len(_GROUPS):
                    likeliest, bx, by = _NONE, -1, -1
                    for k in range(_GROUPS.shape[1]):
                        qx, qy = x + _GROUPS[g, k, 0], y + _GROUPS[g, k, 1]
                        if 0 <= qx < columns and 0 <= qy < rows and unlike[v, qy, qx] < likeliest:
                            likeliest, bx, by = unlike[v, qy, qx], qx, qy
                    if bx < 0:
                        continue
                    c0, c1, c2 = normal[v, by, bx, 0], normal[v, by, bx, 1], normal[v, by, bx, 2]
                    d = depth[v, by, bx] * (
                        c0 * (bx - lens[v, 2]) / lens[v, 0] + c1 * (by - lens[v, 3]) / lens[v, 1] + c2
                    )
                    c = d / min(c0 * rx + c1 * ry + c2, -1e-6)
                else:
                    own = g - len(_GROUPS)
                    state = np.uint64((((line * columns + x) * 64 + sweep) * _OWN + own + 1) * 4)
                    if own == 0:  # anywhere
                        c, spread = low + _drawn(state) * (high - low), 0.5
                    else:  # ever nearer to what was found
                        c = z + (_drawn(state) - 0.5) * (high - low) * 0.5 * 0.35 ** (own - 1 + sweep)
                        spread = 0.4 * 0.6 ** (own - 1 + sweep)
                    c0 = n0 + (2.0 * _drawn(state + np.uint64(1)) - 1.0) * spread
                    c1 = n1 + (2.0 * _drawn(state + np.uint64(2)) - 1.0) * spread
                    c2 = n2 + (2.0 * _drawn(state + np.uint64(3)) - 1.0) * spread
                    over = 1.0 / math.sqrt(c0 * c0 + c1 * c1 + c2 * c2)
                    c0, c1, c2 = c0 * over, c1 * over, c2 * over
                if not low <= c <= high or c0 * rx + c1 * ry + c2 > -_GRAZING * far:
                    continue
                found = _unlikeness(grey, lens[v], between[v], beside[v], x, y, c, c0, c1, c2, level)
                if found < least:
                    least, z, n0, n1, n2 = found, c, c0, c1, c2
            depth[v, y, x], unlike[v, y, x] = z, least
            normal[v, y, x, 0], normal[v, y, x, 1], normal[v, y, x, 2] = n0, n1, n2


@kernel(parallel=True)
def _agree(lens, between, depth, normal, unlike, near, agreed):
    """Keep the depths of places that another camera finds within ``near`` metres, facing about the same way."""
    views, rows, columns = depth.shape
    for line in numba.prange(views * rows):
        v, y = line // rows, line % rows
        for x in range(columns):
            if unlike[v, y, x] > _UNLIKE:
                continue
            z = depth[v, y, x]
            rx, ry = (x - lens[v, 2]) / lens[v, 0], (y - lens[v, 3]) / lens[v, 1]
            for s in range(views):
                m = between[v, s]
                px, py, w = _pixel(m, rx * z, ry * z, z)
                if s == v or w < _BEFORE:
                    continue
                qx, qy = int(np.rint(px)), int(np.rint(py))
                if not (0 <= qx < columns and 0 <= qy < rows) or unlike[s, qy, qx] > _UNLIKE:
                    continue
                n = normal[s, qy, qx]
                sx, sy = (px - lens[s, 2]) / lens[s, 0], (py - lens[s, 3]) / lens[s, 1]
                tx, ty = (qx - lens[s, 2]) / lens[s, 0], (qy - lens[s, 3]) / lens[s, 1]
                there = depth[s, qy, qx] * (n[0] * tx + n[1] * ty + n[2]) / min(n[0] * sx + n[1] * sy + n[2], -1e-6)
                if abs(there - w) > near:
                    continue
                # This camera's normal in the other's frame: ``between`` less its lens.
                o = normal[v, y, x]
                c2 = m[2, 0] * o[0] + m[2, 1] * o[1] + m[2, 2] * o[2]
                c0 = (m[0, 0] * o[0] + m[0, 1] * o[1] + m[0, 2] * o[2] - lens[s, 2] * c2) / lens[s, 0]
                c1 = (m[1, 0] * o[0] + m[1, 1] * o[1] + m[1, 2] * o[2] - lens[s, 3] * c2) / lens[s, 1]
                if c0 * n[0] + c1 * n[1] + c2 * n[2] > _ALIKE:
                    agreed[v, y, x] = z
                    break
