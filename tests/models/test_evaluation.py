from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluation import angular_error, mask_iou, normal_errors


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
    assert errors.below == (0.5, 0.75, 0.75)
    assert errors.pixels == 4
    assert str(errors) == "mean 16.25 deg, median 7.00 deg, 50 % < 5, 75 % < 11.25, 75 % < 30"


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
