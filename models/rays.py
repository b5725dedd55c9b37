"""What the network is told about the cameras: rays, in a frame that does not depend on the studio.

The world is brought into a *rig frame* first: its origin is the point the pictures look at, its unit is the radius of
what they see there. A rig moved, scaled, or re-calibrated in other units gives the same inputs; only the world's
orientation stays (Y is up). Everything here is float64 numpy and is computed once per set of cameras; the network
receives float32 arrays and needs no camera mathematics of its own, which an engine in bfloat16 would spoil. Many sets
of V cameras go through at once where training needs it: any axes may stand before V.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from protocol.calibration import Camera

STRIDE = 16  # pixels a token covers
TOKEN_FEATURES = 6 + 3 + 16 + 4
LINE_FEATURES = 21
_OCTAVES = 4


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


def camera_inputs(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> CameraInputs:
    """Rays of V pinhole cameras (pixels, metres or any other unit) for pictures of height x width, multiples of 16.

    K, R: (..., V, 3, 3); t: (..., V, 3). Raises ValueError when the size is not a multiple of 16.
    """
    _, *of_tokens = pinhole_inputs(K, R, t, height, width)
    inverse = np.linalg.inv(np.asarray(K, np.float64)).astype(np.float32)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return CameraInputs(_directions(inverse, x, y), *of_tokens)


def pinhole_inputs(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> PinholeInputs:
    """As ``camera_inputs``, some tens of times quicker: nothing here is as large as a picture."""
    rays = _token_rays(K, R, t, height, width)
    moment = np.cross(rays.eyes[..., None, :], rays.world)
    frames = np.asarray(R, np.float64).swapaxes(-1, -2)[..., None, :, :] @ ray_frames(rays.seen)  # ...,V,N,3,3

    x, y = _token_middles(height, width)
    across, down = np.meshgrid(2 * (x + 0.5) / width - 1, 2 * (y + 0.5) / height - 1)
    place = np.stack([across.ravel(), down.ravel()], -1)  # N,2
    waves = np.concatenate([f(place * np.pi * 2.0**k / 2) for k in range(_OCTAVES) for f in (np.sin, np.cos)], -1)
    spread = np.broadcast_to
    shape = rays.seen.shape[:-1]
    toward = rays.eyes / np.linalg.norm(rays.eyes, axis=-1, keepdims=True)
    optics = np.concatenate([toward, _half_view(np.asarray(K, np.float64), height, width)], -1)
    features = [rays.world, moment, rays.seen, spread(waves, (*shape, 16)), spread(optics[..., None, :], (*shape, 4))]
    line = np.concatenate([rays.world, moment], -1)
    lines = np.stack([-_square(line), _square(np.concatenate([moment, rays.world], -1))], -2)
    arrays = (rays.inverse, np.concatenate(features, -1), frames.reshape(*shape, 9), lines)
    return PinholeInputs(*(np.ascontiguousarray(a, np.float32) for a in arrays))


def depth_along(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """How far along its ray a token's surface is, out of its depth: ``scale * depth + start``, each (..., V, N).

    Depth is along the camera's axis in the unit of t; the result is in the rig's unit, from where the ray passes the
    rig's middle. A single camera's rig frame has no scale: there it means nothing.
    """
    rays = _token_rays(K, R, t, height, width)
    return 1 / (rays.seen[..., 2] * rays.unit[..., None, None]), (rays.world @ rays.eyes[..., None])[..., 0]


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


class _TokenRays(NamedTuple):
    """The rays through the tokens' middles; float64."""

    inverse: np.ndarray  # ...,V,3,3 inverse of K
    seen: np.ndarray  # ...,V,N,3 unit, camera frame
    world: np.ndarray  # ...,V,N,3 the same in the world's orientation
    eyes: np.ndarray  # ...,V,3 in the rig frame
    unit: np.ndarray  # ... of the rig


def _token_rays(K: np.ndarray, R: np.ndarray, t: np.ndarray, height: int, width: int) -> _TokenRays:
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"pictures of {width} x {height}; both must be multiples of {STRIDE}")
    K, R, t = (np.asarray(a, np.float64) for a in (K, R, t))
    inverse = np.linalg.inv(K)
    center, unit = rig_frame(K, R, t, height, width)
    eyes = (-np.einsum("...ji,...j->...i", R, t) - center[..., None, :]) / unit[..., None, None]
    seen = _directions(inverse, *_token_middles(height, width))
    seen = seen.reshape(*seen.shape[:-3], -1, 3)
    return _TokenRays(inverse, seen, seen @ R, eyes, unit)


def _token_middles(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x of the columns and y of the rows of tokens."""
    return (np.arange(width // STRIDE) + 0.5) * STRIDE - 0.5, (np.arange(height // STRIDE) + 0.5) * STRIDE - 0.5


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


def _square(line: np.ndarray) -> np.ndarray:
    """Products of a line's six coordinates, so that an inner product of two squares is a squared inner product."""
    i, j = np.triu_indices(6)
    return line[..., i] * line[..., j] * np.where(i == j, 1.0, np.sqrt(2.0))
