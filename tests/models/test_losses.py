from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from models.network import NetworkOutput
from models.training.losses import (
    LossWeights,
    angle_between,
    angular_likelihood,
    depth_loss,
    gradient_loss,
    mask_losses,
    total_loss,
)


def tilted(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    return torch.tensor([math.sin(angle), 0.0, -math.cos(angle)])


@pytest.mark.parametrize("degrees", [0.5, 30.0, 90.0, 179.0])
def test_angle_between(degrees):
    got = torch.rad2deg(angle_between(tilted(0.0), tilted(degrees)))
    assert got.item() == pytest.approx(degrees, abs=0.05)


def test_angle_has_a_gradient_at_zero_and_at_the_opposite():
    for degrees in (0.0, 180.0):
        normal = tilted(degrees).requires_grad_()
        angle_between(normal, tilted(0.0)).backward()
        assert torch.isfinite(normal.grad).all()


def test_likelihood_wants_a_low_kappa_where_the_angle_is_wide():
    kappa = torch.linspace(0.1, 60, 600)
    best = [kappa[angular_likelihood(torch.tensor(a), kappa).argmin()].item() for a in (0.05, 0.2, 0.8)]
    assert best[0] > best[1] > best[2]
    assert best[1] == pytest.approx(10, abs=0.5)  # 2 kappa / (kappa^2 + 1) = angle


def test_likelihood_is_that_of_a_density():
    """exp(-loss) times the solid angle integrates to the same number whatever kappa: it is normalised."""
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    for kappa in (0.5, 5.0, 50.0):
        density = torch.exp(-angular_likelihood(angle, torch.tensor(kappa, dtype=torch.float64))) * torch.sin(angle)
        assert torch.trapezoid(density, angle).item() == pytest.approx(1.0, abs=1e-4)


def test_gradient_loss_ignores_a_constant_offset_and_pixels_without_truth():
    normal = torch.randn(1, 8, 8, 3)
    valid = torch.ones(1, 8, 8)
    assert gradient_loss(normal + torch.tensor([0.1, 0.2, 0.3]), normal, valid).item() == pytest.approx(0, abs=1e-6)
    spoilt = normal.clone()
    spoilt[:, 3, 3] += 5
    assert gradient_loss(spoilt, normal, valid) > 0.1
    valid[:, 3, 3] = 0
    assert gradient_loss(spoilt, normal, valid).item() == pytest.approx(0, abs=1e-6)


def test_mask_losses_fall_to_zero_for_the_right_mask():
    mask = torch.zeros(2, 8, 8)
    mask[:, 2:6, 3:7] = 1
    right = mask_losses((mask - 0.5) * 40, mask)
    wrong = mask_losses((0.5 - mask) * 40, mask)
    assert right[0] < 1e-3 and right[1] < 1e-3
    assert wrong[0] > 5 and wrong[1] > 0.8


def test_total_counts_only_pixels_with_truth_and_reports_degrees():
    normal = tilted(20.0).expand(1, 2, 16, 16, 3)
    truth = tilted(0.0).expand(1, 2, 16, 16, 3).clone()
    mask = torch.zeros(1, 2, 16, 16)
    mask[..., :8] = 1
    truth[:, :, 8:] = tilted(90.0)
    truth[:, :, 8:, :8] = 0  # inside the mask and unknown
    output = NetworkOutput(normal, torch.full(mask.shape, 3.0), (mask - 0.5) * 10)
    total, terms = total_loss(output, [], truth, mask, torch.full((1, 2, 1), torch.nan), LossWeights())
    assert terms["angle"].item() == pytest.approx(20.0, abs=0.1)
    assert torch.isfinite(total)


def test_total_is_finite_without_any_subject():
    shape = (1, 1, 16, 16)
    output = NetworkOutput(F.normalize(torch.randn(*shape, 3), dim=-1), torch.ones(shape), torch.zeros(shape))
    nowhere = torch.full((1, 1, 1), torch.nan)
    total, _ = total_loss(
        output, [torch.zeros(1, 1, 1)], torch.zeros(*shape, 3), torch.zeros(shape), nowhere, LossWeights()
    )
    assert torch.isfinite(total)


def test_depth_counts_only_where_it_is_known_and_every_guess_counts():
    target = torch.tensor([[[0.5, torch.nan, -0.5]]])
    right = torch.tensor([[[0.5, 9.0, -0.5]]])
    assert depth_loss([right], target) == 0
    wrong = right + 0.2
    assert depth_loss([wrong], target).item() == pytest.approx(0.2 - 0.05)
    assert depth_loss([right, wrong], target).item() == pytest.approx((0.2 - 0.05) / 2)
    assert depth_loss([], target) == 0
