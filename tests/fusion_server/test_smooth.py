"""Paths smoothed in time: noise goes, motion stays, nothing lags."""

from __future__ import annotations

import numpy as np

from fusion_server.smooth import smoothed, weights


def window(path: np.ndarray, times: np.ndarray, at: int) -> np.ndarray:
    return smoothed([path[:, None, :][n] for n in range(len(times))], list(times), at)[0]


def test_a_parabola_is_left_alone_even_where_frames_are_missing():
    times = np.array([0.0, 1, 2, 4, 5, 6])
    path = np.stack([3e-3 * times, 1e-3 * times**2, 0.2 - 5e-4 * times**2], 1)
    for at in range(len(times)):
        np.testing.assert_allclose(window(path, times, at), path[at], atol=1e-12)


def test_noise_falls_as_the_square_root_of_what_is_averaged():
    draw = np.random.default_rng(0)
    paths = draw.normal(scale=5e-5, size=(7, 4000, 3))
    out = smoothed(list(paths), list(range(7)), 3)
    assert abs(out.std() / 5e-5 - np.sqrt(1 / 3)) < 0.03  # 7 frames, degree 2: the middle weighs 1/3
    np.testing.assert_allclose(weights(np.arange(-3.0, 4))[3], 1 / 3)


def test_a_jerk_is_kept():
    """A jaw that drops 8 mm from one frame to the next must not start before it does."""
    path = np.zeros((7, 3))
    path[4:, 1] = -8e-3
    for at in (3, 4):
        assert np.abs(window(path, np.arange(7.0), at) - path[at]).max() < 0.1e-3


def test_few_frames_are_no_reason_to_fail():
    path = np.array([[0.0, 0, 0], [1e-3, 0, 0]])
    np.testing.assert_allclose(window(path, np.array([0.0, 1]), 1), path[1])
    np.testing.assert_allclose(window(path[:1], np.array([0.0]), 0), path[0])
