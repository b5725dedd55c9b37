"""New looks at sets, on whatever device they are: other windows, mirrored, in a turned world, through other cameras.

Cameras and normals follow the pictures, so the result is as true as the sets were. Numbers a picture come from numpy's
generator, noise a pixel from torch's; the host waits for no result.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.batch import Sets
from models.training.upload import upload
from protocol.errors import HeadstreamError

_FLIP = np.diag([-1.0, 1.0, 1.0])
_REACH = 4  # pixels a blur looks to each side
_GREY = (0.299, 0.587, 0.114)


def augment(sets: Sets, size: int, rng: np.random.Generator, generator: torch.Generator) -> Sets:
    """Crop or scale to ``size``, mirror, turn the world, change light sensitivity and noise.

    Every view has its own crop, colour and noise, as cameras in a rig do; ``generator`` is of the sets' device. Raises
    HeadstreamError when the sets are smaller than that.
    """
    batch, views, have = sets.image.shape[:3]
    if have < size:
        raise HeadstreamError(f"the sets are {have} pixels wide, training asks for {size}")
    x, y, side = draw_windows(batch, views, have, size, rng)
    mirror = rng.random(batch) < 0.5
    seen = look(sets, size, x, y, side, mirror)
    turns = np.stack([_random_turn(rng) for _ in range(batch)])
    light = rng.normal(0, 0.12, (batch, 1)) + rng.normal(0, 0.06, (batch, views))
    image = photographed(seen.image.flatten(0, 1), seen.mask.flatten(0, 1), light.ravel(), rng, generator)
    return replace(seen, image=image.reshape(seen.image.shape), R=seen.R @ turns[:, None])


def draw_windows(
    batch: int, views: int, have: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left, top and side of a square of each picture of ``have`` pixels, each (B, V).

    Half of the sets have whole-pixel windows, which cost no sharpness; the others 0.75 to 1.4 times the size.
    """
    exact = (rng.random(batch) < 0.5)[:, None]
    side = np.where(exact, size, size * rng.uniform(0.75, 1.4, (batch, views)))
    x, y = (have - side) * rng.random((2, batch, views))
    return np.where(exact, np.floor(x), x), np.where(exact, np.floor(y), y), side


def look(sets: Sets, size: int, x: np.ndarray, y: np.ndarray, side: np.ndarray, mirror: np.ndarray) -> Sets:
    """Squares of the pictures at ``size``; of the sets in ``mirror`` (B bool) as a mirror shows pictures and world.

    x, y, side: (B, V) left and top edge and side in pixels.
    """
    batch, views, have = sets.image.shape[:3]
    scale = size / side
    K, R, t = (a.copy() for a in (sets.K, sets.R, sets.t))
    K[..., :2, :] *= scale[..., None, None]
    K[..., 0, 2] = (sets.K[..., 0, 2] + 0.5 - x) * scale - 0.5
    K[..., 1, 2] = (sets.K[..., 1, 2] + 0.5 - y) * scale - 0.5
    K[mirror, :, 0, 2] = size - 1 - K[mirror, :, 0, 2]
    K[mirror, :, 0, 1] *= -1
    R[mirror], t[mirror] = _FLIP @ R[mirror] @ _FLIP, t[mirror] @ _FLIP

    device = sets.image.device
    steps = (np.arange(size) + 0.5) / size
    columns = x[..., None] + side[..., None] * np.where(mirror[:, None, None], steps[::-1], steps)  # B,V,size
    rows = y[..., None] + side[..., None] * steps
    columns, rows = (upload((2 * a / have - 1).astype(np.float32), device) for a in (columns, rows))
    n = batch * views
    grid = torch.stack(
        [columns.reshape(n, 1, size).expand(n, size, size), rows.reshape(n, size, 1).expand(n, size, size)], -1
    )

    def planes(maps: Tensor) -> Tensor:
        """B,V,S,S[,C] -> BV,C,S,S float32"""
        return maps.reshape(n, have, have, -1).permute(0, 3, 1, 2).float()

    def sampled(maps: Tensor, how: str, beyond: str) -> Tensor:
        return F.grid_sample(maps, grid, how, beyond, align_corners=False)

    picture = sampled(planes(sets.image), "bilinear", "border")
    normal, mask = sampled(torch.cat([planes(sets.normal), planes(sets.mask)], 1), "bilinear", "zeros").split([3, 1], 1)
    signs = upload(np.where(mirror, -1.0, 1.0).astype(np.float32), device).repeat_interleave(views)
    normal = torch.cat([normal[:, :1] * signs[:, None, None, None], normal[:, 1:]], 1)
    # Never between two depths: there is no surface between an ear and what is behind it.
    depth = sampled(planes(sets.depth), "nearest", "zeros")
    shape = (batch, views, size, size)
    return Sets(
        image=picture.round().to(torch.uint8).permute(0, 2, 3, 1).reshape(*shape, 3),
        normal=normal.round().to(torch.int8).permute(0, 2, 3, 1).reshape(*shape, 3),
        mask=mask.round().to(torch.uint8).reshape(shape),
        depth=depth.half().reshape(shape),
        K=K,
        R=R,
        t=t,
    )


def _random_turn(rng: np.random.Generator) -> np.ndarray:
    """Any turn about the vertical and a small tilt: studios agree on up, hardly on anything else.  # 3,3"""
    yaw = rng.uniform(-np.pi, np.pi)
    pitch, roll = np.radians(rng.normal(0, 6, 2))
    about_y, about_x, about_z = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    turn = np.array([[about_y[0], 0, about_y[1]], [0, 1, 0], [-about_y[1], 0, about_y[0]]])
    turn = turn @ np.array([[1, 0, 0], [0, about_x[0], -about_x[1]], [0, about_x[1], about_x[0]]])
    return turn @ np.array([[about_z[0], -about_z[1], 0], [about_z[1], about_z[0], 0], [0, 0, 1]])


def photographed(
    image: Tensor, mask: Tensor, light: np.ndarray, rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """Pictures (n, S, S, 3) uint8 through n cameras' background, blur, exposure, white balance, contrast and noise.

    mask: (n, S, S) uint8; light: (n) exposure of each, natural logarithm of half a gain.
    """
    n, size = mask.shape[:2]
    picture = image.permute(0, 3, 1, 2).float()

    def on_device(values: np.ndarray) -> Tensor:
        return upload(np.asarray(values, np.float32), image.device)

    def some(share: float) -> Tensor | None:
        chosen = np.flatnonzero(rng.random(n) < share)
        return upload(chosen, image.device) if len(chosen) else None

    if (chosen := some(0.2)) is not None:
        behind = _backgrounds(len(chosen), size, rng, generator)
        cover = _blurred(mask[chosen, None].float() / 255, on_device(np.full(len(chosen), 0.7)))
        picture[chosen] = (picture[chosen] * cover + behind * (1 - cover)).clamp(0, 255)
    if (chosen := some(0.2)) is not None:
        picture[chosen] = _blurred(picture[chosen], on_device(rng.uniform(0.3, 1.2, len(chosen))))
    gamma = np.exp(rng.normal(0, 0.15, n))
    gain = np.exp(2 * light[:, None] + rng.normal(0, 0.06, (n, 3)))
    gamma, gain, haze = (on_device(a.reshape(n, -1, 1, 1)) for a in (gamma, gain, rng.normal(0, 0.02, n)))
    picture = ((picture / 255).pow(gamma) * gain + haze).clamp(0, 1) * 255
    if (chosen := some(0.15)) is not None:
        keep = on_device(rng.random(len(chosen)))[:, None, None, None]
        coloured = picture[chosen]
        grey = (coloured * on_device(np.array(_GREY))[:, None, None]).sum(1, keepdim=True)
        picture[chosen] = keep * coloured + (1 - keep) * grey
    noise = torch.randn(picture.shape, generator=generator, device=picture.device)
    strength = np.where(rng.random(n) < 0.4, rng.uniform(1, 6, n), 0)
    picture = (picture + noise * on_device(strength)[:, None, None, None]).clamp(0, 255)
    return picture.round().to(torch.uint8).permute(0, 2, 3, 1)


def _backgrounds(n: int, size: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Black, one colour, or a soft gradient with some mottling, as studios have.  # n,3,S,S"""
    kind = rng.random((n, 1, 1, 1))
    corners = np.where(kind > 0.4, rng.uniform(0, 255, (n, 3, 1, 1)), 0)
    corners = corners + np.where(kind > 0.7, rng.normal(0, 40, (n, 3, 2, 2)), 0)
    shape, device = (size, size), generator.device
    back = upload(np.clip(corners, 0, 255).astype(np.float32), device)
    mottle = torch.randn((n, 3, size // 4, size // 4), generator=generator, device=device)
    mottle = mottle * upload(rng.uniform(0, 4, (n, 1, 1, 1)).astype(np.float32), device)
    return sum(F.interpolate(part, shape, mode="bilinear", align_corners=False) for part in (back, mottle))


def _blurred(maps: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (n, C, H, W), each with its own width (n) in pixels."""
    n, channels, height, width = maps.shape
    steps = torch.arange(-_REACH, _REACH + 1, device=maps.device)
    taps = torch.exp(-0.5 * (steps / sigma[:, None]).square())
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]  # nC,1,taps
    maps = F.pad(maps, (_REACH,) * 4, mode="replicate").reshape(1, n * channels, height + 2 * _REACH, -1)
    maps = F.conv2d(maps, taps[:, :, None, :], groups=n * channels)
    maps = F.conv2d(maps, taps[:, :, :, None], groups=n * channels)
    return maps.reshape(n, channels, height, width)
