from __future__ import annotations

import cv2
import numpy as np
import pytest

from geometry.align import rigid_motion

DRAW = np.random.default_rng(3)
POINTS = DRAW.normal(size=(50, 3)) * (0.1, 0.15, 0.08)
TURN = cv2.Rodrigues(np.array([0.4, -1.1, 0.3]))[0]


def test_a_motion_is_found():
    moved = POINTS @ TURN + (0.3, -0.2, 0.05)
    np.testing.assert_allclose(rigid_motion(POINTS, moved)(POINTS), moved, atol=1e-12)


def test_a_point_without_weight_has_no_say():
    moved = POINTS @ TURN
    spoilt, weight = moved.copy(), np.ones(50)
    spoilt[7] += 0.5
    weight[7] = 0
    np.testing.assert_allclose(rigid_motion(POINTS, spoilt, weight)(POINTS), moved, atol=1e-12)
    assert np.abs(rigid_motion(POINTS, spoilt)(POINTS) - moved).max() > 1e-3


@pytest.mark.parametrize("points", [POINTS, POINTS * (1, 1, 0)])  # a plane has no handedness
def test_a_mirror_image_is_no_motion(points):
    turn = rigid_motion(points, points * (-1, 1, 1)).turn
    assert np.linalg.det(turn) == pytest.approx(1)
