"""What training minimises: angles with a learned confidence, normal gradients, agreement between views, masks.

Pure functions on tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.network import NetworkOutput


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; ``angle`` and ``agreement`` are per radian, the others as their functions give them."""

    angle: float = 2.0
    likelihood: float = 0.1
    gradient: float = 0.5
    agreement: float = 0.5
    mask: float = 1.0
    overlap: float = 0.5
    depth: float = 1.0


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angle in radians between unit vectors (..., 3), with a gradient that stays finite at zero.  # ..."""
    cross = torch.linalg.cross(a, b)
    sine = (cross.square().sum(-1) + 1e-8).sqrt()
    return torch.atan2(sine, (a * b).sum(-1))


def angular_likelihood(angle: Tensor, kappa: Tensor) -> Tensor:
    """Negative log likelihood of the angular von Mises-Fisher distribution (Bae et al., ICCV 2021).  # ..."""
    return kappa * angle - torch.log1p(kappa.square()) + torch.log1p(torch.exp(-kappa * math.pi))


def gradient_loss(normal: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean L1 difference of finite differences over 1 and 2 pixels, where both ends are valid.

    normal, target: (..., H, W, 3); valid: (..., H, W) 0 or 1. Relief shows here that a mean angle hardly feels.
    """
    error = normal - target
    total = error.new_zeros(())
    for step in (1, 2):
        for axis in (-3, -2):
            size = error.shape[axis] - step
            difference = error.narrow(axis, step, size) - error.narrow(axis, 0, size)
            both = valid.narrow(axis + 1, step, size) * valid.narrow(axis + 1, 0, size)
            total = total + (difference.abs().sum(-1) * both).sum() / both.sum().clamp(min=1)
    return total / 4


def agreement_loss(normal: Tensor, R: Tensor, pairs: Tensor) -> Tensor:
    """Mean angle in radians between what two views say of one surface point, told in the world.

    normal: (B, V, H, W, 3) unit, camera frames; R: (B, V, 3, 3) world to camera; pairs: (B, P, 2) places of a point's
    two pixels in the flat (V, H, W), -1 where there is none. The truth agrees with itself, so this pulls to no other
    surface; it says that an error which all views share is better than one that each makes for itself.
    """
    world = torch.einsum("bvji,bvhwj->bvhwi", R, normal).flatten(1, 3)  # B,VHW,3
    known = (pairs[..., 0] >= 0).to(world.dtype)  # B,P
    one, other = (world.gather(1, pairs[..., side, None].clamp(min=0).expand(-1, -1, 3)) for side in (0, 1))
    return (angle_between(one, other) * known).sum() / known.sum().clamp(min=1)


def mask_losses(logit: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, and one minus the soft Dice overlap per picture; both (..., H, W), mask 0..1."""
    probability = logit.sigmoid()
    shared = 2 * (probability * mask).sum((-2, -1))
    overlap = (shared + 1) / (probability.sum((-2, -1)) + mask.sum((-2, -1)) + 1)
    return F.binary_cross_entropy_with_logits(logit, mask), 1 - overlap.mean()


def depth_loss(depths: Sequence[Tensor], target: Tensor) -> Tensor:
    """Mean Huber loss (beyond a tenth of the rig's unit linear) of depths (B, V, N) where the target is no NaN."""
    if not depths:
        return target.new_zeros(())
    known = ~target.isnan()
    away = torch.stack([F.smooth_l1_loss(depth, target.nan_to_num(), beta=0.1, reduction="none") for depth in depths])
    return (away * known).sum() / (len(depths) * known.sum()).clamp(min=1)


def total_loss(
    output: NetworkOutput,
    depths: Sequence[Tensor],
    normal: Tensor,
    mask: Tensor,
    depth: Tensor,
    R: Tensor,
    pairs: Tensor,
    weights: LossWeights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and its terms for the log (``angle`` and ``agreement`` in degrees).

    normal: (B, V, H, W, 3) unit camera-frame truth, zero where unknown; mask: (B, V, H, W) 0..1; depth: (B, V, N) as
    ``batch.token_depth``; R and pairs: as ``agreement_loss``.
    """
    valid = ((mask > 0.5) & (normal.square().sum(-1) > 0.5)).to(output.normal.dtype)
    count = valid.sum().clamp(min=1)
    angle = angle_between(output.normal, normal)
    mean_angle = (angle * valid).sum() / count
    likelihood = (angular_likelihood(angle, output.confidence) * valid).sum() / count
    gradient = gradient_loss(output.normal, normal, valid)
    agreement = agreement_loss(output.normal, R, pairs)
    entropy, overlap = mask_losses(output.mask, mask)
    distance = depth_loss(depths, depth)
    total = (
        weights.angle * mean_angle
        + weights.likelihood * likelihood
        + weights.gradient * gradient
        + weights.agreement * agreement
        + weights.mask * entropy
        + weights.overlap * overlap
        + weights.depth * distance
    )
    terms = {
        "angle": torch.rad2deg(mean_angle),
        "likelihood": likelihood,
        "gradient": gradient,
        "agreement": torch.rad2deg(agreement),
        "mask": entropy,
        "overlap": overlap,
        "depth": distance,
    }
    return total, {name: value.detach() for name, value in terms.items()}
