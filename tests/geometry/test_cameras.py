"""Projecting, cropping and undistorting agree with each other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from geometry.cameras import (
    crop_image,
    cropped,
    pixel_rays,
    project,
    projection_matrix,
    rig_center,
    undistort,
    without_distortion,
)
from protocol.calibration import Camera

POINTS = np.array([[0.02, -0.05, 0.03], [-0.1, 0.04, 0.0], [0.0, 0.0, 0.1]])


def camera(dist=(0, 0, 0, 0, 0), eye=(0.3, 0.1, 0.9), width=160, height=120) -> Camera:
    forward = -np.array(eye) / np.linalg.norm(eye)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[300.0, 0, 83.5], [0, 310.0, 58.0], [0, 0, 1]])
    return Camera("c", width, height, K, np.array(dist, float), R, -R @ np.array(eye))


def smooth_picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (128 + 60 * np.sin(x / 17) + 50 * np.cos(y / 13)).astype(np.float32)


def test_projection_agrees_with_opencv_and_with_the_matrix():
    cam = camera()
    pixels, depth = project(cam, POINTS)
    wanted, _ = cv2.projectPoints(POINTS, cv2.Rodrigues(cam.R)[0], cam.t, cam.K, np.zeros(5))
    np.testing.assert_allclose(pixels, wanted[:, 0], atol=1e-9)
    homogeneous = projection_matrix(cam) @ np.vstack([POINTS.T, np.ones(3)])
    np.testing.assert_allclose(homogeneous[:2] / homogeneous[2], pixels.T, atol=1e-9)
    np.testing.assert_allclose(homogeneous[2], depth)


def test_a_point_behind_the_camera_has_negative_depth():
    cam = camera()
    _, depth = project(cam, cam.center[None] - 0.5 * cam.R[2])
    assert depth[0] == pytest.approx(-0.5)


def test_rays_go_through_the_points_that_project_to_their_pixels():
    cam = camera()
    rays = pixel_rays(cam)
    point = cam.center + 0.7 * cam.R.T @ rays[40, 90]
    pixels, _ = project(cam, point[None])
    np.testing.assert_allclose(pixels[0], (90, 40), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(("x0", "y0", "side", "size"), [(20.5, 10.0, 80.0, 160), (0, 0, 120, 40), (-30, -20, 200, 100)])
def test_a_cropped_picture_shows_each_point_where_the_cropped_camera_projects_it(x0, y0, side, size):
    cam = camera()
    picture = smooth_picture(cam.height, cam.width)
    small, small_camera = crop_image(picture, x0, y0, side, size), cropped(cam, x0, y0, side, size)
    before, _ = project(cam, POINTS)
    after, _ = project(small_camera, POINTS)
    inside = ((after > 1) & (after < size - 2)).all(1) & ((before > 1) & (before < 118)).all(1)
    assert inside.any()
    for source, target in zip(before[inside], after[inside], strict=True):
        a = cv2.getRectSubPix(picture, (1, 1), tuple(map(float, source)))[0, 0]
        b = cv2.getRectSubPix(small, (1, 1), tuple(map(float, target)))[0, 0]
        assert a == pytest.approx(b, abs=0.6)


def test_a_crop_beyond_the_picture_is_black_there():
    small = crop_image(np.full((120, 160), 200, np.uint8), -40, -40, 80, 40)
    assert small[:15, :15].max() == 0
    assert small[25:, 25:].min() == 200


def test_undistorting_puts_points_where_the_pinhole_sees_them():
    cam = camera(dist=(-0.25, 0.05, 0.001, -0.002, 0.0))
    bent, _ = cv2.projectPoints(POINTS, cv2.Rodrigues(cam.R)[0], cam.t, cam.K, cam.dist)
    picture = np.zeros((cam.height, cam.width), np.uint8)
    x, y = np.rint(bent[1, 0]).astype(int)
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    flat = undistort(cam, picture)
    straight, _ = project(without_distortion(cam), POINTS)
    rows, cols = np.nonzero(flat > 128)
    np.testing.assert_allclose((cols.mean(), rows.mean()), straight[1], atol=1.0)
    plain = camera()
    assert undistort(plain, picture) is picture


def test_rig_center_is_where_the_axes_meet():
    shift = np.array([0.1, -0.2, 0.05])
    cameras = []
    for eye in ((0, 0.2, 1), (0.9, 0, 0.3), (-0.5, 0.4, -0.8)):
        cam = camera(eye=eye)
        cameras.append(Camera("c", 160, 120, cam.K, cam.dist, cam.R, cam.t - cam.R @ shift))
    np.testing.assert_allclose(rig_center(cameras), shift, atol=1e-9)


def test_one_axis_fixes_no_center():
    with pytest.raises(ValueError, match="do not meet"):
        rig_center([camera(), camera()])
