"""What lens and sensor do to a picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.synthetic.photography import Sensor, develop, draw_cameras, through_jpeg

PLAIN = Sensor((1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 90, 0.6)


def picture(sensor: Sensor) -> np.ndarray:
    """A red disc on half a grey and half a white wall."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    mask = x * x + y * y < 0.3
    light = np.where(mask[..., None], np.float32([0.5, 0.1, 0.1]), np.float32(0)).astype(np.float32)
    wall = np.where(x > 0.8, 0.9, 0.4).astype(np.float32)
    return develop(light, mask, np.repeat(wall[..., None], 3, 2), sensor, np.random.default_rng(0)).astype(float)


def test_what_is_rendered_covers_the_background_even_outside_the_mask():
    light = np.zeros((16, 16, 3), np.float32)
    light[:, :8] = 0.2
    wall = np.full((16, 16, 3), 0.9, np.float32)
    made = develop(light, np.zeros((16, 16), bool), wall, PLAIN, np.random.default_rng(0))
    assert made[8, 2, 0] < 140
    assert made[8, 13, 0] > 220


def test_a_monochrome_camera_has_no_colour():
    grey = picture(replace(PLAIN, saturation=0.0))
    assert np.ptp(grey, axis=2).max() <= 1
    assert np.ptp(picture(PLAIN), axis=2).max() > 60


def test_motion_blurs_along_its_way_only():
    across = picture(replace(PLAIN, streak=(4.0, 0.0)))
    up = picture(replace(PLAIN, streak=(0.0, 4.0)))
    step = lambda image: np.abs(np.diff(image[5, :, 1])).max()  # noqa: E731 - over the wall's upright edge
    assert step(across) < 0.5 * step(picture(PLAIN))
    assert step(up) == pytest.approx(step(picture(PLAIN)), abs=2)


def test_corners_darken_haze_lifts_and_sharpening_overshoots():
    plain = picture(PLAIN)
    corners = picture(replace(PLAIN, vignette=0.3))
    assert corners[0, 0, 0] == pytest.approx(0.7 * plain[0, 0, 0], abs=3)
    assert corners[32, 32, 0] == pytest.approx(plain[32, 32, 0], abs=1)
    assert picture(replace(PLAIN, haze=0.1)).min() > plain.min() + 15
    sharp = picture(replace(PLAIN, sharpen=1.0))
    assert sharp[5].min() < plain[5].min() - 5


def test_cameras_of_a_rig_share_what_belongs_to_the_rig():
    one, other = (Sensor.draw(np.random.default_rng(k), np.random.default_rng(9)) for k in (1, 2))
    assert one.saturation == other.saturation
    assert one.sharpen == other.sharpen
    assert one.gain != other.gain


def test_jpeg_keeps_colours_and_costs_detail_by_quality():
    image = picture(replace(PLAIN, noise=6.0)).astype(np.uint8)
    lost = []
    for quality in (50, 80, 95):
        through = through_jpeg(image, quality)
        assert through.shape == image.shape and through.dtype == np.uint8
        np.testing.assert_allclose(through.mean((0, 1)), image.mean((0, 1)), atol=1.5)  # red stays red
        lost.append(np.abs(through.astype(int) - image).mean())
    assert lost[0] > lost[1] > lost[2] > 0


def test_training_cameras_come_near_and_far_with_short_and_long_lenses_and_keep_clear_of_the_subject():
    rng = np.random.default_rng(3)
    head = rng.normal(size=(2000, 3)) * [0.03, 0.045, 0.04]
    head = np.vstack([head, rng.uniform([-0.2, -0.27, -0.1], [0.2, -0.16, 0.1], (500, 3))])  # and shoulders
    away, lens, uneven, spread = [], [], [], []
    for _ in range(300):
        cameras = draw_cameras(rng, head, 6, 128)
        assert len({camera.name for camera in cameras}) == 6
        own = np.array([np.linalg.norm(camera.center - [0, -0.02, 0]) for camera in cameras])
        away.append(own)
        lens.append([36 * camera.K[0, 0] / 128 for camera in cameras])
        uneven.append(own.max() / own.min())
        for camera in cameras:
            at = head @ camera.R.T + camera.t
            assert at[:, 2].min() > 0.12  # nothing is behind a camera, or in its lens
            pixels = at @ camera.K.T
            inside = ((pixels[:, :2] > 0) & (pixels[:, :2] < 128 * pixels[:, 2:])).all(1)
            spread.append(inside.mean())
    away, lens = np.concatenate(away), np.concatenate(lens)
    assert away.min() < 0.34 and away.max() > 1.9 and ((away > 0.25) & (away < 2.6)).all()
    assert lens.min() == pytest.approx(20, abs=1.5) and lens.max() > 135
    assert ((lens > 20 - 1e-6) & (lens < 35)).mean() > 0.05
    independent = np.mean(np.array(uneven) > 1.8)  # distances that no rig has
    assert 0.1 < independent < 0.25
    assert np.median(spread) > 0.6 and np.quantile(spread, 0.02) > 0.05
