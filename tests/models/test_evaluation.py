from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from model_doubles import ball, ring

from models.evaluation import angular_error, gradient_errors, mask_iou, normal_errors, view_disagreement
from models.rays import stack_cameras


def tilted(degrees):
    angle = np.radians(degrees)
    return np.stack([np.sin(angle), np.zeros_like(angle), -np.cos(angle)], -1)


def test_angles_are_exact_from_tiny_to_opposite():
    degrees = np.array([0.0, 1e-4, 1.0, 45.0, 180.0])
    truth = np.tile(tilted(np.array(0.0)), (5, 1))
    np.testing.assert_allclose(angular_error(tilted(degrees), truth), degrees, atol=1e-9)
    np.testing.assert_allclose(angular_error(127 * tilted(degrees), 0.5 * truth), degrees, atol=1e-9)


def test_statistics():
    degrees = np.array([[1.0, 4.0], [10.0, 50.0]])
    errors = normal_errors(tilted(degrees), tilted(np.zeros((2, 2))))
    assert errors.mean == pytest.approx(16.25)
    assert errors.median == pytest.approx(7.0)
    assert errors.below == (0.5, 0.5, 0.75)
    assert errors.pixels == 4
    assert str(errors) == "mean 16.25 deg, median 7.00 deg, 50 % < 5, 50 % < 10, 75 % < 30"


def test_pixels_outside_the_mask_or_without_truth_do_not_count():
    predicted = tilted(np.array([10.0, 80.0, 80.0]))
    truth = tilted(np.zeros(3))
    truth[2] = 0
    errors = normal_errors(predicted, truth, np.array([1, 0, 1]))
    assert (errors.mean, errors.pixels) == (pytest.approx(10.0), 1)


def test_nothing_to_compare_is_not_a_number():
    errors = normal_errors(np.zeros((4, 3)), np.zeros((4, 3)))
    assert math.isnan(errors.mean) and errors.pixels == 0


def test_mask_iou():
    a = np.zeros((10, 10), bool)
    b = a.copy()
    a[:, :6] = True
    b[:, 4:] = True
    assert mask_iou(a, b) == pytest.approx(0.2)
    assert mask_iou(a.astype(np.float32) * 0.9, a) == 1.0
    assert mask_iou(a & b & False, b & False) == 1.0
    assert mask_iou(a, ~a) == 0.0


def test_gradient_error_feels_detail_and_no_constant_tilt():
    flat = np.zeros((1, 6, 6, 3), np.float32)
    flat[..., 2] = -1
    valid = np.ones((1, 6, 6), bool)
    assert gradient_errors(flat + [0.3, 0, 0], flat, valid).max() < 1e-6
    step = flat.copy()
    step[:, :, 3:, 0] += 0.5  # one edge of six pixels' height
    found = gradient_errors(step, flat, valid)
    assert len(found) == 60
    np.testing.assert_allclose(np.sort(found)[-6:], 0.5)
    assert found.sum() == pytest.approx(3.0)
    for outside in (2, 3):  # pairs with one end outside do not count, whichever
        valid[:] = True
        valid[:, :, outside] = False
        assert gradient_errors(step, flat, valid).sum() == 0


def seen_ball(radius=0.2, size=96, views=4):
    """Cameras, true normals and depth of a ball."""
    cameras = ring(views, size)
    _, normal, mask = ball(cameras, radius, np.random.default_rng(0))
    K, R, t = stack_cameras(cameras)
    points = np.einsum("vji,vhwj->vhwi", R, normal) * radius  # a ball's normals are its points
    depth = (np.einsum("vj,vhwj->vhw", R[:, 2], points) + t[:, 2, None, None]) * mask
    return normal, depth, K, R, t


def test_views_that_are_right_agree_and_one_that_is_tilted_does_not():
    normal, depth, K, R, t = seen_ball()
    tilted_view = normal.copy()
    tilted_view[1] = tilted_view[1] @ cv2.Rodrigues(np.array([0.0, 0.0, np.radians(20)]))[0].T
    own, theirs = view_disagreement((normal, tilted_view), depth, K, R, t, step=1)
    assert len(own) > 1000 and len(own) == len(theirs)
    assert own.max() < 2.0
    unlike = theirs > 3.0
    assert 0.3 < unlike.mean() < 0.7  # pairs with the second of four views in a ring
    assert theirs[unlike].max() < 21.0


def test_what_one_view_cannot_see_is_not_compared():
    normal, depth, K, R, t = seen_ball(views=2)  # from opposite sides
    assert len(view_disagreement((normal,), depth, K, R, t)[0]) == 0
    normal, depth, K, R, t = seen_ball(views=4)
    every = len(view_disagreement((normal,), depth, K, R, t, step=1)[0])
    hidden = depth.copy()
    hidden[1] = np.where(hidden[1] > 0, 0.5, 0)  # something stands before the second view
    fewer = len(view_disagreement((normal,), hidden, K, R, t, step=1)[0])
    assert 0 < fewer < 0.6 * every


def test_both_sides_of_a_sheet_are_two_surfaces():
    _, _, K, R, t = seen_ball(size=32, views=2)
    K, R, t = K[[0, 0]], np.stack([np.eye(3), np.diag([-1.0, 1, -1])]), np.array([[0, 0, 1.0], [0, 0, 1.0]])
    depth, normal = np.ones((2, 32, 32)), np.zeros((2, 32, 32, 3))
    normal[..., 2] = -1  # each view sees its own side
    assert len(view_disagreement((normal,), depth, K, R, t)[0]) == 0
    assert len(view_disagreement((normal,), depth, K, R[[0, 0]], t)[0]) > 100  # two views of the same side
