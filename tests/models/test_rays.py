from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_doubles import ball_depth, ring

import models.rays
from geometry.cameras import pixel_rays, project
from models.network import _points
from models.rays import (
    CameraInputs,
    RaysByCamera,
    camera_inputs,
    depth_along,
    pinhole_inputs,
    ray_frames,
    rig_frame,
    stack_cameras,
)

SIZE = 64


def inputs(cameras) -> CameraInputs:
    return camera_inputs(*stack_cameras(cameras), SIZE, SIZE)


def test_directions_are_the_pixels_rays():
    cameras = ring(3, SIZE)
    direction = inputs(cameras).direction
    for i, camera in enumerate(cameras):
        np.testing.assert_allclose(direction[i], pixel_rays(camera), atol=1e-6)


def test_of_a_rig_in_which_one_camera_moves_the_others_rays_are_kept(monkeypatch):
    """And the result is to the last bit what it is without, also when a view is gone, or back as it was."""
    cameras = ring(4, SIZE)
    K = cameras[2].K.copy()
    K[:2, 2] += 5.5, -3.25
    moved = [*cameras[:2], replace(cameras[2], K=K), cameras[3]]
    kept, made = RaysByCamera(SIZE, SIZE, 8), []
    once = models.rays.own_rays
    monkeypatch.setattr(models.rays, "own_rays", lambda *a: (made.append(a[0].shape), once(*a))[1])
    for rig, new in ((cameras, 4), (cameras, 0), (moved, 1), (moved[1:], 0), (cameras, 0)):
        made.clear()
        ours = kept.camera_inputs(*stack_cameras(rig)), kept.pinhole_inputs(*stack_cameras(rig))
        assert len(made) == new
        for one, function in zip(ours, (camera_inputs, pinhole_inputs), strict=True):
            for array, other in zip(one, function(*stack_cameras(rig), SIZE, SIZE), strict=True):
                assert array.dtype == np.float32
                np.testing.assert_array_equal(array, other)


def test_rig_frame_is_where_the_cameras_look():
    cameras = ring(5, SIZE, distance=2.0, center=(3.0, -1.0, 0.5))
    straight = [replace(c, K=np.array([[100, 0, 31.5], [0, 100, 31.5], [0, 0, 1.0]])) for c in cameras]
    center, unit = rig_frame(*stack_cameras(straight), SIZE, SIZE)
    np.testing.assert_allclose(center, (3.0, -1.0, 0.5), atol=1e-9)
    distances = [np.linalg.norm(c.center - center) for c in straight]
    assert unit == pytest.approx(np.mean(distances) * 0.32)


def test_moving_and_scaling_the_world_changes_nothing():
    cameras = ring(4, SIZE)
    moved = []
    for camera in cameras:  # x -> 7.5 x + shift
        eye = 7.5 * camera.center + np.array([10.0, -20.0, 5.0])
        moved.append(replace(camera, t=-camera.R @ eye))
    for before, after in zip(inputs(cameras), inputs(moved), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-5)


def test_one_camera_needs_no_baseline():
    one = ring(1, SIZE)
    far = [replace(one[0], t=one[0].t + one[0].R @ np.array([5.0, 1.0, 2.0]))]
    for before, after in zip(inputs(one), inputs(far), strict=True):
        assert np.isfinite(before).all()
        np.testing.assert_allclose(before, after, atol=1e-5)


def test_parallel_cameras_are_finite():
    camera = ring(1, SIZE)[0]
    beside = replace(camera, t=camera.t + np.array([0.1, 0, 0]))
    assert all(np.isfinite(array).all() for array in inputs([camera, beside]))


def test_cameras_that_look_apart_look_at_what_is_before_them():
    """Their rays meet, but behind their backs: nothing is looked at there."""
    back = np.diag([-1.0, 1.0, -1.0])
    apart = [replace(c, R=back @ c.R, t=back @ c.t) for c in ring(3, SIZE)[:2]]
    center, _ = rig_frame(*stack_cameras(apart), SIZE, SIZE)
    between = np.mean([camera.center for camera in apart], 0)
    assert center @ between > 1.5 * between @ between


def test_line_features_multiply_to_the_squared_reciprocal_product():
    cameras = ring(3, SIZE)
    got = inputs(cameras)
    product = np.einsum("vnf,wmf->vnwm", got.lines[:, :, 0], got.lines[:, :, 1])
    line = got.tokens[..., :6].astype(np.float64)
    reciprocal = np.einsum("vni,wmi->vnwm", line[..., :3], line[..., 3:])
    reciprocal = reciprocal + np.einsum("vni,wmi->vnwm", line[..., 3:], line[..., :3])
    np.testing.assert_allclose(product, -(reciprocal**2), atol=2e-5)
    assert product.min() < -0.1


def test_line_features_are_zero_for_rays_that_see_the_same_point():
    point = np.array([[0.03, -0.05, 0.02]])
    cameras = []
    for camera in ring(2, SIZE):  # put the point on the middle of a token
        pixel = project(camera, point)[0][0]
        K = camera.K.copy()
        K[:2, 2] += 39.5 - pixel
        cameras.append(replace(camera, K=K))
    got = inputs(cameras)
    token = 2 * 4 + 2
    assert got.lines[0, token, 0] @ got.lines[1, token, 1] == pytest.approx(0, abs=1e-5)
    assert got.lines[0, token, 0] @ got.lines[1, 0, 1] < -0.02


def test_frames_take_the_ray_frame_to_the_world():
    cameras = ring(3, SIZE)
    got = inputs(cameras)
    frames = got.frames.reshape(3, -1, 3, 3)
    np.testing.assert_allclose(frames[..., 2], got.tokens[..., :3], atol=1e-6)  # third column: the ray itself
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-5)


def test_ray_frames_turn_as_little_as_possible():
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(20, 3)) * (0.5, 0.5, 0) + (0, 0, 1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    turn = ray_frames(rays)
    np.testing.assert_allclose(turn @ np.swapaxes(turn, 1, 2), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    angle = np.arccos((np.trace(turn, axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(angle, np.arccos(rays[:, 2]), atol=1e-9)


def test_a_size_that_is_no_multiple_of_16_is_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        camera_inputs(*stack_cameras(ring(1, 40)), 40, 40)


def test_depth_along_puts_the_tokens_on_the_surface():
    cameras = ring(4, SIZE, center=(0.02, 0.01, -0.03))
    stacked = stack_cameras(cameras)
    depth = ball_depth(cameras, 0.2).reshape(4, 4, 16, 4, 16)[:, :, 7:9, :, 7:9]
    known = (depth > 0).all((2, 4)).reshape(4, 16)
    scale, start = depth_along(*stacked, SIZE, SIZE)
    along = scale * depth.mean((2, 4)).reshape(4, 16) + start
    center, unit = rig_frame(*stacked, SIZE, SIZE)
    tokens = torch.from_numpy(inputs(cameras).tokens)[None]
    points = _points(tokens, torch.from_numpy(along.astype(np.float32))[None])[0].numpy()  # V,N,3 rig frame
    assert 0.2 < known.mean() < 0.9
    radius = np.linalg.norm(points[known] * unit + center, axis=-1)
    np.testing.assert_allclose(radius, 0.2, atol=1e-3)  # the mean of four pixels' depths lies a little behind


def test_many_rigs_at_once_are_as_one_by_one():
    camera = ring(1, SIZE)[0]
    beside = [replace(camera, t=camera.t + np.array([0.1 * i, 0, 0])) for i in range(4)]  # parallel: rays never meet
    rigs = [ring(4, SIZE), ring(4, SIZE, distance=2.0, center=(3.0, -1.0, 0.5)), beside]
    together = [np.stack(arrays) for arrays in zip(*map(stack_cameras, rigs), strict=True)]
    made, along = camera_inputs(*together, SIZE, SIZE), depth_along(*together, SIZE, SIZE)
    for i, rig in enumerate(rigs):
        for got, alone in zip(made, inputs(rig), strict=True):
            np.testing.assert_allclose(got[i], alone, atol=1e-6)
        for got, alone in zip(along, depth_along(*stack_cameras(rig), SIZE, SIZE), strict=True):
            np.testing.assert_allclose(got[i], alone, rtol=1e-9)
