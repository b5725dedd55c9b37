"""What colour a surface has, from the pictures of one moment.

Every picture gives each point of the surface that it sees a colour and a weight: the squarer it looks at the point, the
more. Between pictures that see the same points the cameras' exposures are solved for, one gain a camera and channel, so
that no camera's border shows. A point's colour is the weighted mean; what lies far from the views' median (a gloss, a
wrong correspondence) counts little. All of it happens in linear light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from geometry.cameras import at_most
from geometry.compiled import kernel
from geometry.mesh import vertex_normals
from geometry.rasterize.base import Rasterizer
from geometry.visibility import SLACK
from protocol.calibration import Camera

DEPTH_SIZE = 128  # pixels, larger side of the depth maps that decide what is hidden; finer changes little and costs
_SQUARE = 4  # a view weighs by this power of the cosine: sharp, for views that are a millimetre apart blur each other
_GRAZING = 0.2  # cosine below which a view says nothing
_APART = 0.06  # linear light: colours this far from the median count half
_ENOUGH = 50  # points that two cameras must share before their exposures are compared
_SAMPLED = 3000  # points that exposures are compared on
_DARK, _BRIGHT = 0.01, 0.9  # linear light: outside this a picture says nothing of its exposure
_LARGEST = 2.0  # natural logarithm of a gain that is still believed
_ANCHOR = 1e-3  # of a pair's weight: holds the mean of all gains at one
_LINEAR = np.where(
    np.arange(256) <= 10, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4
).astype(np.float32)  # of each sRGB value
_CODES = 4096
_LEVELS = np.arange(_CODES + 1) / _CODES
_ENCODED = (255 * np.where(_LEVELS <= 0.0031308, 12.92 * _LEVELS, 1.055 * _LEVELS ** (1 / 2.4) - 0.055)).astype(
    np.float32
)


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture (H, W, 3) uint8 sRGB and the pinhole camera that took it, of the same size."""

    camera: Camera
    image: np.ndarray


@dataclass(frozen=True, eq=False)
class Samples:
    """What each picture says of each point: colour (V, N, 3) float32 linear light, weight (V, N) float32, 0 unseen."""

    colour: np.ndarray
    weight: np.ndarray


class Sampler:
    """Samples points of one surface in the pictures of one moment; the depth maps are made once."""

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        photos: Sequence[Photo],
        rasterizer: Rasterizer,
        depth_size: int = DEPTH_SIZE,
    ):
        self._photos = photos
        small = [at_most(photo.camera, depth_size) for photo in photos]
        if len({(camera.height, camera.width) for camera in small}) == 1:
            self._depths = list(rasterizer.rasterize(vertices, faces, small).depth)
        else:
            self._depths = [rasterizer.rasterize(vertices, faces, [camera]).depth[0] for camera in small]
        self._small = small

    def at(self, points: np.ndarray, normals: np.ndarray) -> Samples:
        """What the pictures say of points (N, 3), world metres, of unit normals (N, 3)."""
        points, normals = (np.ascontiguousarray(a, np.float64) for a in (points, normals))
        colour = np.zeros((len(self._photos), len(points), 3), np.float32)
        weight = np.zeros((len(self._photos), len(points)), np.float32)
        for n, (photo, small, depth) in enumerate(zip(self._photos, self._small, self._depths, strict=True)):
            camera = photo.camera
            scale = small.K[0, 0] / camera.K[0, 0]
            _sample(
                points, normals, camera.K @ np.hstack([camera.R, camera.t[:, None]]), camera.center, photo.image,
                _LINEAR, depth, scale, small.K[0, 0], colour[n], weight[n],
            )  # fmt: skip
        return Samples(colour, weight)


def solve_gains(samples: Samples) -> np.ndarray:
    """By what each picture's linear light is to be multiplied to agree with the others.  # V,3

    Least squares over the pairs of cameras that see enough points in common, each pair saying the median of its log
    ratios; their geometric mean is 1. A camera that shares nothing keeps 1.
    """
    views, count = samples.weight.shape
    step = max(count // _SAMPLED, 1)
    colour, weight = samples.colour[:, ::step], samples.weight[:, ::step]
    usable = (weight > 0) & (colour.min(2) > _DARK) & (colour.max(2) < _BRIGHT)
    logs = np.log(np.maximum(colour, _DARK))
    system, right = np.zeros((views, views)), np.zeros((views, 3))
    for i, j in combinations(range(views), 2):
        shared = usable[i] & usable[j]
        number = int(shared.sum())
        if number * step < _ENOUGH:
            continue
        ratio = np.median(logs[j, shared] - logs[i, shared], axis=0)  # gain i over gain j
        system[[i, j], [i, j]] += number
        system[[i, j], [j, i]] -= number
        right[i] += number * ratio
        right[j] -= number * ratio
    system += _ANCHOR * max(float(system.max()), 1.0) * np.ones((views, views)) / views
    solved = np.linalg.lstsq(system, right, rcond=None)[0]
    return np.exp(np.clip(solved, -_LARGEST, _LARGEST))


def blend(samples: Samples, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) float32 in linear light and their summed weights (N,), 0 where no picture sees a point."""
    colour = np.zeros(samples.colour.shape[1:], np.float32)
    total = np.zeros(len(colour), np.float32)
    _blend(samples.colour, samples.weight, gains.astype(np.float32), colour, total)
    return colour, total


def filled(colour: np.ndarray, known: np.ndarray, faces: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Colours (P, 3) of vertices, those that are not known spread from their neighbours.  # P,3

    What no known vertex reaches gets the mean.
    """
    colour, known = colour.copy(), known.copy()
    mean = colour[known].mean(0) if known.any() else np.full(3, 0.2, np.float32)
    _fill(colour, known, np.ascontiguousarray(faces, np.int32), rounds)
    colour[~known] = mean
    return colour


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light, 0 to 1, as sRGB.  # uint8, same shape"""
    codes = np.clip(linear * _CODES + 0.5, 0, _CODES).astype(np.int32)
    return (_ENCODED[codes] + 0.5).astype(np.uint8)


def vertex_colours(
    vertices: np.ndarray, faces: np.ndarray, photos: Sequence[Photo], rasterizer: Rasterizer
) -> np.ndarray:
    """Linear light of each vertex of a mesh, from the pictures of its moment.  # P,3 float32

    vertices: (P, 3) world metres; faces: (F, 3). A vertex that no picture sees gets its neighbours' colour.
    """
    samples = Sampler(vertices, faces, photos, rasterizer).at(vertices, vertex_normals(vertices, faces))
    colour, total = blend(samples, solve_gains(samples))
    return filled(colour, total > 0, faces)


class LiveColours:
    """Colours of a mesh that moves: looked for anew only now and then, and mixed with those before.

    Exposures drift slowly and cost as much as colours do, so they are solved for more seldom still.
    """

    def __init__(self, rasterizer: Rasterizer, period: float = 0.4, gains_period: float = 5.0):
        self._rasterizer = rasterizer
        self._period, self._gains_period = period, gains_period
        self._faces: np.ndarray | None = None
        self._colour = np.empty((0, 3), np.float32)
        self._gains = np.empty((0, 3))
        self._cameras: tuple[str, ...] = ()
        self._at = self._gains_at = -np.inf

    def of(self, vertices: np.ndarray, faces: np.ndarray, photos: Sequence[Photo], now: float) -> np.ndarray:
        """Linear light of each vertex (P, 3) at ``now`` (seconds); photos are of the moment of the mesh."""
        same = self._faces is not None and (faces is self._faces or np.array_equal(faces, self._faces))
        known = same and len(self._colour) == len(vertices)
        self._faces = faces
        if known and now - self._at < self._period:
            return self._colour
        samples = Sampler(vertices, faces, photos, self._rasterizer).at(vertices, vertex_normals(vertices, faces))
        cameras = tuple(photo.camera.name for photo in photos)
        if cameras != self._cameras or now - self._gains_at >= self._gains_period:
            self._gains, self._cameras, self._gains_at = solve_gains(samples), cameras, now
        colour, total = blend(samples, self._gains)
        colour = filled(colour, total > 0, faces)
        self._colour = 0.5 * (colour + self._colour) if known else colour
        self._at = now
        return self._colour


@kernel
def _sample(points, normals, m, center, image, linear, depth, scale, focal, colour, weight):
    height, width = image.shape[0], image.shape[1]
    for i in range(points.shape[0]):
        p0, p1, p2 = points[i]
        d0, d1, d2 = center[0] - p0, center[1] - p1, center[2] - p2
        away = np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
        cosine = (normals[i, 0] * d0 + normals[i, 1] * d1 + normals[i, 2] * d2) / max(away, 1e-9)
        z = m[2, 0] * p0 + m[2, 1] * p1 + m[2, 2] * p2 + m[2, 3]
        if cosine < _GRAZING or z < 0.01:
            continue
        x = (m[0, 0] * p0 + m[0, 1] * p1 + m[0, 2] * p2 + m[0, 3]) / z
        y = (m[1, 0] * p0 + m[1, 1] * p1 + m[1, 2] * p2 + m[1, 3]) / z
        if x < 0 or y < 0 or x > width - 1 or y > height - 1:
            continue
        # The nearest of the depths around it: beside what hides it, a point is taken as hidden too.
        column, row = int(np.rint((x + 0.5) * scale - 0.5)), int(np.rint((y + 0.5) * scale - 0.5))
        nearest, empty = np.inf, 0
        for r in range(max(row - 1, 0), min(row + 2, depth.shape[0])):
            for c in range(max(column - 1, 0), min(column + 2, depth.shape[1])):
                if depth[r, c] == 0:
                    empty += 1
                elif depth[r, c] < nearest:
                    nearest = depth[r, c]
        steep = np.sqrt(max(1 - cosine * cosine, 0.0)) / cosine
        if z > nearest + SLACK + 2 * steep * z / focal:
            continue
        x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
        fx, fy = x - x0, y - y0
        for k in range(3):
            upper = (1 - fx) * linear[image[y0, x0, k]] + fx * linear[image[y0, x0 + 1, k]]
            lower = (1 - fx) * linear[image[y0 + 1, x0, k]] + fx * linear[image[y0 + 1, x0 + 1, k]]
            colour[i, k] = (1 - fy) * upper + fy * lower
        weight[i] = (cosine - _GRAZING) ** _SQUARE * (1 - empty / 9.0) ** 2


@kernel
def _blend(colour, weight, gains, out, total):
    views = colour.shape[0]
    value, vote, off = np.empty(views), np.empty(views), np.empty(views)
    for i in range(colour.shape[1]):
        seen = 0
        off[:] = 0
        for v in range(views):
            total[i] += weight[v, i]
            seen += weight[v, i] > 0
        if seen == 0:
            continue
        for k in range(3):
            # The median, views voting by the root of their cosine: by their weights one of them would have its way.
            count, votes = 0, 0.0
            for v in range(views):
                if weight[v, i] <= 0:
                    continue
                c, w = gains[v, k] * colour[v, i, k], weight[v, i] ** (0.5 / _SQUARE)
                votes += w
                place = count
                while place > 0 and value[place - 1] > c:
                    value[place], vote[place] = value[place - 1], vote[place - 1]
                    place -= 1
                value[place], vote[place] = c, w
                count += 1
            half, middle = 0.0, value[0]
            for n in range(count):
                half += vote[n]
                middle = value[n]
                if half >= 0.5 * votes:
                    break
            for v in range(views):
                off[v] += (gains[v, k] * colour[v, i, k] - middle) ** 2
        kept = 0.0
        for v in range(views):
            w = weight[v, i] / (1 + off[v] / _APART**2)
            kept += w
            for k in range(3):
                out[i, k] += w * gains[v, k] * colour[v, i, k]
        for k in range(3):
            out[i, k] /= kept


@kernel
def _fill(colour, known, faces, rounds):
    total = np.zeros((colour.shape[0], 4), np.float32)
    for _ in range(rounds):
        reached = False
        for f in range(faces.shape[0]):
            for k in range(3):
                i = faces[f, k]
                if known[i]:
                    continue
                for other in (faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]):
                    if known[other]:
                        total[i, 0] += colour[other, 0]
                        total[i, 1] += colour[other, 1]
                        total[i, 2] += colour[other, 2]
                        total[i, 3] += 1
        for i in range(colour.shape[0]):
            if total[i, 3] > 0 and not known[i]:
                for k in range(3):
                    colour[i, k] = total[i, k] / total[i, 3]
                known[i] = True
                reached = True
        if not reached:
            break
