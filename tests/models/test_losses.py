from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from models.network import NetworkOutput
from models.training.losses import (
    LossWeights,
    agreement_loss,
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


def apart(views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations of views that share no point, and the matches that they have not."""
    return torch.eye(3).expand(1, views, 3, 3), torch.full((1, 4, 2), -1)


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
    total, terms = total_loss(output, [], truth, mask, torch.full((1, 2, 1), torch.nan), *apart(2), LossWeights())
    assert terms["angle"].item() == pytest.approx(20.0, abs=0.1)
    assert torch.isfinite(total)


def test_total_is_finite_without_any_subject():
    shape = (1, 1, 16, 16)
    output = NetworkOutput(F.normalize(torch.randn(*shape, 3), dim=-1), torch.ones(shape), torch.zeros(shape))
    nowhere = torch.full((1, 1, 1), torch.nan)
    total, _ = total_loss(
        output, [torch.zeros(1, 1, 1)], torch.zeros(*shape, 3), torch.zeros(shape), nowhere, *apart(1), LossWeights()
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


def turned(degrees: float) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def test_views_agree_when_they_tell_the_same_normal_in_their_own_frames():
    R = torch.stack([torch.eye(3), turned(40.0)])[None]
    world = tilted(10.0)
    normal = (R[0] @ world)[None, :, None, None].expand(1, 2, 4, 4, 3)
    matches = torch.tensor([[[5, 16 + 6], [0, 31]]])
    assert torch.rad2deg(agreement_loss(normal, R, matches)).item() == pytest.approx(0, abs=0.01)
    alike = world.expand(1, 2, 4, 4, 3)  # the same numbers in two frames are two directions
    assert torch.rad2deg(agreement_loss(alike, R, matches)).item() == pytest.approx(40.0, abs=0.01)


def test_only_matched_pixels_are_asked_to_agree():
    normal = tilted(0.0).repeat(1, 2, 4, 4, 1)
    normal[0, 1, 1, 2] = tilted(30.0)  # place 16 + 6
    normal.requires_grad_()
    R = torch.eye(3).expand(1, 2, 3, 3)
    half = agreement_loss(normal, R, torch.tensor([[[5, 22], [6, 23], [-1, -1]]]))
    assert torch.rad2deg(half).item() == pytest.approx(15.0, abs=0.05)
    half.backward()
    moved = (normal.grad.abs().sum(-1) > 1e-6).nonzero().tolist()
    assert [0, 0, 1, 1] in moved and [0, 1, 1, 2] in moved and [0, 1, 3, 3] not in moved
    assert agreement_loss(normal, R, torch.full((1, 3, 2), -1)) == 0
