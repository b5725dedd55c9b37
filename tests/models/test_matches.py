from __future__ import annotations

import numpy as np
import pytest
from model_doubles import ball, ball_depth, ring

from models.matches import surface_matches

RADIUS = 0.2


@pytest.fixture(scope="module")
def scene():
    """Four cameras round a ball: K, R, t, depth, normal, mask, image."""
    cameras = ring(4, 96)
    image, normal, mask = ball(cameras, RADIUS, np.random.default_rng(0))
    K, R, t = (np.stack([getattr(c, k) for c in cameras]) for k in ("K", "R", "t"))
    return K, R, t, ball_depth(cameras, RADIUS), normal, mask, image


def places(matches, side: int, K, R, t, depth, pixel) -> np.ndarray:
    """World points of pixels (row, column) by their views' depth."""
    view = matches.views[:, side]
    z = depth[view, pixel[:, 0], pixel[:, 1]]
    rays = np.einsum("nij,nj->ni", np.linalg.inv(K)[view], np.c_[pixel[:, ::-1], np.ones(len(pixel))])
    return np.einsum("nji,nj->ni", R[view], rays * z[:, None] - t[view])


def test_matched_pixels_show_one_point_of_the_ball(scene):
    K, R, t, depth, normal, *_ = scene
    matches = surface_matches(depth, normal, K, R, t, step=2)
    assert len(matches.views) > 500
    assert (matches.views[:, 0] < matches.views[:, 1]).all()
    flat = matches.nearest_pixels(96, 96)
    first, second = (np.stack(np.unravel_index(flat[:, side], (4, 96, 96)), -1) for side in (0, 1))
    np.testing.assert_array_equal(first[:, 0], matches.views[:, 0])
    np.testing.assert_array_equal(second[:, 0], matches.views[:, 1])
    one = places(matches, 0, K, R, t, depth, first[:, 1:])
    other = places(matches, 1, K, R, t, depth, second[:, 1:])
    seen = np.linalg.norm(other, axis=-1) < RADIUS * 1.01  # the nearest pixel may lie just off the ball
    assert seen.mean() > 0.97
    pixel = 0.01  # metres: what a pixel of these pictures covers where the ball turns away
    assert np.linalg.norm(one - other, axis=-1)[seen].max() < 3 * pixel
    world = np.einsum("vji,vhwj->vhwi", R, normal)
    cosine = (matches.sample_first(world) * matches.sample_second(world)).sum(-1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).mean() < 3


def test_what_is_hidden_or_turned_away_is_no_match(scene):
    K, R, t, depth, normal, *_ = scene
    everything = len(surface_matches(depth, normal, K, R, t).views)
    wall = np.minimum(np.where(depth > 0, depth, np.inf), 0.3)  # something before every camera but the first
    hidden = np.where(np.arange(4)[:, None, None] == 0, depth, np.where(depth > 0, wall, 0))
    pairs = surface_matches(hidden, normal, K, R, t).views
    assert not (pairs[:, 0] == 0).any()
    assert len(surface_matches(depth, -normal, K, R, t).views) < everything / 20
    assert len(surface_matches(depth[:1], normal[:1], K[:1], R[:1], t[:1]).views) == 0
