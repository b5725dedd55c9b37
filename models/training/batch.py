"""What one step of training takes: several sets at once on the device, and what follows from their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.engines.static import write_directions
from models.rays import STRIDE, depth_along, pinhole_inputs
from models.training.dataset import ViewSet
from models.training.pairs import draw_pairs
from models.training.upload import upload

PAIRS = 8192  # places of a set at which two views are looked at; what both see is told to the loss


@dataclass(frozen=True, eq=False)
class Sets:
    """B sets of V views: pictures as tensors on one device, cameras as arrays on the host."""

    image: Tensor  # B,V,S,S,3 uint8
    normal: Tensor  # B,V,S,S,3 int8
    mask: Tensor  # B,V,S,S uint8
    depth: Tensor  # B,V,S,S float16; 0 where nothing is, or nothing is known
    K: np.ndarray  # B,V,3,3
    R: np.ndarray  # B,V,3,3
    t: np.ndarray  # B,V,3


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step takes; tensors on one device."""

    image: Tensor  # B,V,S,S,3 uint8
    normal: Tensor  # B,V,S,S,3 float32, zero where unknown
    mask: Tensor  # B,V,S,S float32
    depth: Tensor  # B,V,N float32 of the tokens, as token_depth; NaN where unknown
    cameras: tuple[Tensor, ...]  # rays.CameraInputs with a batch axis
    R: Tensor  # B,V,3,3 float32
    pairs: Tensor  # B,P,2 int64 where two views show one point, as losses.agreement_loss; -1: none


def stack(sets: Sequence[ViewSet], device: torch.device) -> Sets:
    """Sets with the same number of views and the same size as one."""

    def tensor(arrays: Sequence[np.ndarray]) -> Tensor:
        return upload(np.stack(arrays), device)

    depths = [np.zeros(s.mask.shape, np.float16) if s.depth is None else s.depth for s in sets]
    return Sets(
        tensor([s.image for s in sets]),
        tensor([s.normal for s in sets]),
        tensor([s.mask for s in sets]),
        tensor(depths),
        *(np.stack([np.asarray(getattr(s, name), np.float64) for s in sets]) for name in ("K", "R", "t")),
    )


def make_batch(sets: Sets, generator: torch.Generator) -> Batch:
    """Add what the network and the loss want to know. ``generator``, of the sets' device, draws the pairs."""
    device = sets.image.device
    height, width = sets.image.shape[2:4]
    inverse, *of_tokens = (upload(a, device) for a in pinhole_inputs(sets.K, sets.R, sets.t, height, width))
    direction = torch.empty((*sets.mask.shape, 3), device=device)
    write_directions(inverse, direction)
    K, R, t = (upload(a.astype(np.float32), device) for a in (sets.K, sets.R, sets.t))
    return Batch(
        image=sets.image,
        normal=_unit(sets.normal.float()),
        mask=sets.mask.float() / 255,
        depth=token_depth(sets),
        cameras=(direction, *of_tokens),
        R=R,
        pairs=draw_pairs(sets.depth, sets.normal, K, R, t, PAIRS, generator),
    )


def _unit(normal: Tensor) -> Tensor:
    """Unit vectors out of (..., 3) ones about 127 long; what is shorter than one step stays short."""
    return normal * normal.square().sum(-1, keepdim=True).clamp(min=1).rsqrt()


def token_depth(sets: Sets) -> Tensor:
    """Each token's depth, as ``rays.depth_along`` has it: the mean of the four pixels in its middle.

    NaN where one of them does not lie on the subject, and for a single camera, whose rig frame has no scale.  # B,V,N
    """
    batch, views, height, width = sets.depth.shape
    half = STRIDE // 2
    squares = sets.depth.float().reshape(batch, views, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    middles = squares[:, :, :, half - 1 : half + 1, :, half - 1 : half + 1]
    known = (middles > 0).all(5).all(3).flatten(2)
    if views == 1:
        known = torch.zeros_like(known)
    scale, start = (
        upload(a.astype(np.float32), sets.depth.device) for a in depth_along(sets.K, sets.R, sets.t, height, width)
    )
    return torch.where(known, scale * middles.mean((3, 5)).flatten(2) + start, torch.nan)
