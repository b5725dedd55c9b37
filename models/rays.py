"""What the network is told about the cameras: rays, in a frame that does not depend on the studio.

The world is brought into a *rig frame* first: its origin is the point the pictures look at, its unit is the radius of
what they see there. A rig moved, scaled, or re-calibrated in other units gives the same inputs; only the world's
orientation stays (Y is up). Everything here is float64 numpy and is computed once per set of cameras; the network
receives float32 arrays and needs no camera mathematics of its own, which an engine in bfloat16 would spoil. Many sets
of V cameras go through at once where training needs it: any axes may stand before V.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from protocol.calibration import Camera

STRIDE = 16  # pixels a token covers
TOKEN_FEATURES = 6 + 3 + 16 + 4
LINE_FEATURES = 21
_OCTAVES = 4
_PAIRS = list(zip(*(index.tolist() for index in np.triu_indices(6)), strict=True))
_SWAPPED = [_PAIRS.index((min(i, j), max(i, j))) for i, j in (((i + 3) % 6, (j + 3) % 6) for i, j in _PAIRS)]


class CameraInputs(NamedTuple):
    """The camera side of one network call, float32; N = (H / 16) * (W / 16) tokens a view."""

    direction: np.ndarray  # V,H,W,3 unit viewing directions in the camera frame
    tokens: np.ndarray  # V,N,TOKEN_FEATURES
    frames: np.ndarray  # V,N,9 rotation from the token's ray frame to the rig frame, row by row
    lines: np.ndarray  # V,N,2,LINE_FEATURES: product of [i, 0] and [j, 1] is -(reciprocal product of rays i, j)^2


class PinholeInputs(NamedTuple):
    """``CameraInputs`` for a device that writes the directions out itself: they are nine tenths of the bytes."""

    inverse: np.ndarray  # V,3,3 inverse of K, float32
    tokens: np.ndarray  # the rest as in CameraInputs
    frames: np.ndarray
    lines: np.ndarray


def stack_cameras(cameras: Sequence[Camera]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K (V, 3, 3), R (V, 3, 3), t (V, 3) of pinhole cameras, float64."""
    return np.stack([c.K for c in cameras]), np.stack([c.R for c in cameras]), np.stack([c.t for c in cameras])


class OwnRays(NamedTuple):
    """What a camera's K and R alone say: the share of ``PinholeInputs`` that stays when another camera changes."""

    world: np.ndarray  # ...,V,N,3 unit rays in the world's orientation, float64
    inverse: np.ndarray  # as in PinholeInputs
    tokens: np.ndarray  # the same, but for what depends on where the cameras are: that is empty
    frames: np.ndarray  # as in PinholeInputs


def camera_inputs(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> CameraInputs:
    """Rays of V pinhole cameras (pixels, metres or any other unit) for pictures of height x width, multiples of 16.

    K, R: (..., V, 3, 3); t: (..., V, 3). Raises ValueError when the size is not a multiple of 16.
    """
    inverse, *of_tokens = pinhole_inputs(K, R, t, height, width)
    return CameraInputs(pixel_directions(inverse, height, width), *of_tokens)


def pixel_directions(inverse: np.ndarray, height: int, width: int) -> np.ndarray:
    """Unit viewing directions (..., H, W, 3) through pixels of inverse calibrations (..., 3, 3), float32."""
    return _directions(inverse, np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))


def own_rays(K: np.ndarray, R: np.ndarray, height: int, width: int) -> OwnRays:
    """Of cameras (..., V, 3, 3) as for ``camera_inputs``; which cameras stand beside each other does not matter."""
    K, R = (np.asarray(a, np.float64) for a in (K, R))
    inverse, seen, world = _token_rays(K, R, height, width)
    frames = R.swapaxes(-1, -2)[..., None, :, :] @ ray_frames(seen)  # ...,V,N,3,3
    tokens = np.empty((*seen.shape[:-1], TOKEN_FEATURES), np.float32)
    tokens[..., :3], tokens[..., 6:9], tokens[..., 9:25] = world, seen, _waves(height, width)
    return OwnRays(world, inverse.astype(np.float32), tokens, frames.reshape(*seen.shape[:-1], 9).astype(np.float32))


def pinhole_inputs(
    K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int, own: OwnRays | None = None
) -> PinholeInputs:
    """As ``camera_inputs``, some tens of times quicker: nothing here is as large as a picture. own: what ``own_rays``
    says of the same cameras, where somebody kept it."""
    own = own_rays(K, R, height, width) if own is None else own
    eyes, _ = _eyes(K, R, t, height, width)
    moment = np.cross(eyes[..., None, :], own.world)
    toward = eyes / np.linalg.norm(eyes, axis=-1, keepdims=True)
    optics = np.concatenate([toward, _half_view(np.asarray(K, np.float64), height, width)], -1)
    tokens = own.tokens.copy()
    tokens[..., 3:6], tokens[..., 25:] = moment, optics[..., None, :]
    return PinholeInputs(own.inverse, tokens, own.frames, _lines(own.world, moment))


class RaysByCamera:
    """The same for rigs whose cameras change one at a time: what one camera alone says is kept, by camera.

    kept: of how many cameras, the last ones.
    """

    def __init__(self, height: int, width: int, kept: int) -> None:
        self._shape, self._kept = (height, width), kept
        self._own: OrderedDict[bytes, OwnRays] = OrderedDict()
        self._directions: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def camera_inputs(self, K: np.ndarray, R: np.ndarray, t: np.ndarray) -> CameraInputs:
        """See the function."""
        inverse, *of_tokens = self.pinhole_inputs(K, R, t)
        directions = [
            self._of(self._directions, each.tobytes(), partial(pixel_directions, each, *self._shape))
            for each in inverse
        ]
        return CameraInputs(np.stack(directions), *of_tokens)

    def pinhole_inputs(self, K: np.ndarray, R: np.ndarray, t: np.ndarray) -> PinholeInputs:
        """See the function."""
        own = [
            self._of(self._own, k.tobytes() + r.tobytes(), partial(own_rays, k, r, *self._shape))
            for k, r in zip(K, R, strict=True)
        ]
        return pinhole_inputs(K, R, t, *self._shape, OwnRays(*map(np.stack, zip(*own, strict=True))))

    def _of(self, held: OrderedDict[bytes, Any], key: bytes, make: Callable[[], Any]) -> Any:
        found = held.pop(key, None)
        held[key] = found = make() if found is None else found  # now the newest
        if len(held) > self._kept:
            held.popitem(last=False)
        return found


def depth_along(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How far along its ray a token's surface is, out of its depth: ``scale * depth + start``, each (..., V, N).

    Depth is along the camera's axis in the unit of t; the result is in the rig's unit, from where the ray passes the
    rig's middle. A single camera's rig frame has no scale: there it means nothing.
    """
    _, seen, world = _token_rays(K, R, height, width)
    eyes, unit = _eyes(K, R, t, height, width)
    return 1 / (seen[..., 2] * unit[..., None, None]), (world @ eyes[..., None])[..., 0]


def rig_frame(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The point (..., 3) that the pictures' middles look at, and the mean radius (...) of what they see there.

    The nearest point to the middle rays in the least-squares sense; where they do not meet (one camera, parallel
    cameras) the mean of the points one baseline (or one unit) down the rays, which for a single picture is as good as
    any, since the unit follows.
    """
    middle = np.array([(width - 1) / 2, (height - 1) / 2, 1.0])
    rays = np.einsum("...ji,...jk,k->...i", R, np.linalg.inv(K), middle)  # ...,V,3
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    eyes = -np.einsum("...ji,...j->...i", R, t)
    off_axis = np.eye(3) - rays[..., :, None] * rays[..., None, :]  # ...,V,3,3
    system = off_axis.sum(-3)
    away = np.linalg.norm(eyes - eyes.mean(-2, keepdims=True), axis=-1).mean(-1)
    away = np.where(away == 0, 1.0, away)
    center = (eyes + rays * away[..., None, None]).mean(-2)
    meet = np.linalg.cond(system) < 1e4
    right = np.einsum("...vij,...vj->...i", off_axis, eyes)
    met = np.linalg.solve(np.where(meet[..., None, None], system, np.eye(3)), right[..., None])[..., 0]
    ahead = (((met[..., None, :] - eyes) * rays).sum(-1) > 0).all(-1)
    center = np.where((meet & ahead)[..., None], met, center)
    distance = np.linalg.norm(eyes - center[..., None, :], axis=-1)
    return center, np.maximum((distance * _half_view(K, height, width)[..., 0]).mean(-1), 1e-9)


def _token_rays(K: np.ndarray, R: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Inverses of K (..., V, 3, 3), and the unit rays through the tokens' middles (..., V, N, 3) in the camera's frame
    and in the world's orientation; float64."""
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"pictures of {width} x {height}; both must be multiples of {STRIDE}")
    K, R = (np.asarray(a, np.float64) for a in (K, R))
    inverse = np.linalg.inv(K)
    seen = _directions(inverse, *_token_middles(height, width))
    seen = seen.reshape(*seen.shape[:-3], -1, 3)
    return inverse, seen, seen @ R


def _eyes(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The cameras (..., V, 3) in the rig frame, and the rig's unit (...); float64."""
    K, R, t = (np.asarray(a, np.float64) for a in (K, R, t))
    center, unit = rig_frame(K, R, t, height, width)
    return (-np.einsum("...ji,...j->...i", R, t) - center[..., None, :]) / unit[..., None, None], unit


def _token_middles(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x of the columns and y of the rows of tokens."""
    return (np.arange(width // STRIDE) + 0.5) * STRIDE - 0.5, (np.arange(height // STRIDE) + 0.5) * STRIDE - 0.5


@lru_cache(maxsize=8)
def _waves(height: int, width: int) -> np.ndarray:
    """Where in the picture tokens are, as sines and cosines.  # N,16"""
    x, y = _token_middles(height, width)
    across, down = np.meshgrid(2 * (x + 0.5) / width - 1, 2 * (y + 0.5) / height - 1)
    place = np.stack([across.ravel(), down.ravel()], -1)  # N,2
    return np.concatenate([f(place * np.pi * 2.0**k / 2) for k in range(_OCTAVES) for f in (np.sin, np.cos)], -1)


def ray_frames(direction: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes (0, 0, 1) to each unit direction (..., 3).  # ...,3,3

    A normal told in this frame depends on how the surface looks and not on where in the picture, or with what focal
    length, it is seen.
    """
    x, y, z = np.moveaxis(direction, -1, 0)
    a = 1 / (1 + z)
    rows = [1 - a * x * x, -a * x * y, x, -a * x * y, 1 - a * y * y, y, -x, -y, z]
    return np.stack(rows, -1).reshape(*direction.shape, 3)


def _directions(inverse: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit rays (..., len(y), len(x), 3) through pixels of inverse calibrations (..., 3, 3), in their precision."""
    a, b, c = (inverse[..., None, None, :, k] for k in range(3))
    rays = a * x[:, None] + (b * y[:, None, None] + c)
    rays /= np.sqrt(np.einsum("...i,...i->...", rays, rays))[..., None]
    return rays


def _half_view(K: np.ndarray, height: int, width: int) -> np.ndarray:
    return ((width / 2 / K[..., 0, 0] + height / 2 / K[..., 1, 1]) / 2)[..., None]  # ...,V,1 tangent of half the view


def _lines(world: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Products of each line's six coordinates, so that an inner product of two such squares is a squared inner product:
    less those of (direction, moment), and those of (moment, direction).  # ...,N,2,LINE_FEATURES float32"""
    line = np.concatenate([world, moment], -1)
    shape, coordinates = line.shape[:-1], np.ascontiguousarray(line.reshape(-1, 6).T)
    products = np.empty((LINE_FEATURES, coordinates.shape[1]))
    begin = 0
    for i in range(6):  # those of np.triu_indices(6), in its order
        end = begin + 6 - i
        np.multiply(coordinates[i], coordinates[i:], out=products[begin:end])
        products[begin + 1 : end] *= np.sqrt(2.0)
        begin = end
    single = products.astype(np.float32).T
    return np.stack([-single, single[:, _SWAPPED]], 1).reshape(*shape, 2, LINE_FEATURES)
