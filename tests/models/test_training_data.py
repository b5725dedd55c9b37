from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_doubles import ball, ball_depth, ring, write_sets

from geometry.cameras import cropped
from models.training.dataset import (
    HOLD_OUT,
    BatchPlan,
    Loader,
    ViewSet,
    _window,
    augment,
    list_sets,
    load_set,
    make_batch,
    mirrored,
)
from protocol.errors import HeadstreamError


@pytest.fixture(scope="module")
def views() -> ViewSet:
    cameras = ring(4, 96)
    image, normal, mask = ball(cameras, 0.2, np.random.default_rng(0))
    K, R, t = (np.stack([getattr(c, k) for c in cameras]).astype(np.float32) for k in ("K", "R", "t"))
    depth = ball_depth(cameras, 0.2).astype(np.float16)
    return ViewSet(image, np.round(127 * normal).astype(np.int8), (mask * 255).astype(np.uint8), K, R, t, depth)


def truth_error(views: ViewSet, radius: float = 0.2) -> float:
    """Mean angle in degrees between the set's normals and those of the ball that its cameras see."""
    worst = []
    for normal, mask, K, R, t in zip(views.normal, views.mask, views.K, views.R, views.t, strict=True):
        y, x = np.nonzero(mask > 250)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K.astype(np.float64)).T @ R
        eye = -R.T @ t
        a, b = (rays**2).sum(-1), rays @ eye
        inside = b * b - a * (eye @ eye - radius**2)
        distance = (-b - np.sqrt(np.maximum(inside, 0))) / a
        expected = (eye + distance[:, None] * rays) / radius @ R.T
        got = normal[y, x] / 127.0
        cosine = (expected * got).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(got, axis=-1)
        keep = inside > 0.004 * a  # away from the outline, where a fraction of a pixel is many degrees
        worst.append(np.degrees(np.arccos(cosine[keep].clip(-1, 1))).mean())
    return max(worst)


def depth_error(views: ViewSet, radius: float = 0.2) -> float:
    """Median of how far the set's depths put points from the ball that its cameras see, metres."""
    away = []
    for depth, K, R, t in zip(views.depth, views.K, views.R, views.t, strict=True):
        y, x = np.nonzero(depth > 0)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K.astype(np.float64)).T
        points = (rays * depth[y, x, None].astype(np.float64) - t) @ R
        away.append(np.abs(np.linalg.norm(points, axis=-1) - radius))
    return float(np.median(np.concatenate(away)))


def test_a_mirrored_set_is_true(views):
    assert depth_error(views) < 3e-4 and depth_error(mirrored(views)) < 3e-4
    assert truth_error(views) < 0.5
    assert truth_error(mirrored(views)) < 0.5
    twice = mirrored(mirrored(views))
    np.testing.assert_array_equal(twice.image, views.image)
    np.testing.assert_allclose(twice.R, views.R)


@pytest.mark.parametrize("seed", range(6))
def test_an_augmented_set_is_true(views, seed):
    made = augment(views, 80, np.random.default_rng(seed))
    assert made.image.shape == (4, 80, 80, 3) and made.image.dtype == np.uint8
    assert truth_error(made) < 2.0
    assert depth_error(made) < 2e-3  # a pixel is 6 mm, and depths are taken from the nearest
    assert not np.allclose(made.R, views.R)


def test_a_window_has_the_camera_of_a_crop(views):
    camera = ring(4, 96)[1]
    *_, K, _ = _window(views, 1, 3.3, -2.1, 70.0, 48, exact=False)
    np.testing.assert_allclose(K, cropped(camera, 3.3, -2.1, 70.0, 48).K, atol=1e-4)
    image, *_, K, _ = _window(views, 1, 5, 7, 48, 48, exact=True)
    np.testing.assert_allclose(K, cropped(camera, 5, 7, 48, 48).K, atol=1e-4)
    np.testing.assert_array_equal(image, views.image[1, 7:55, 5:53])


def test_augmentation_keeps_cameras_where_they_are_to_each_other(views):
    made = augment(views, 80, np.random.default_rng(3))
    eyes = [-np.einsum("vji,vj->vi", s.R, s.t) for s in (views, made)]
    np.testing.assert_allclose(*(np.linalg.norm(e[1:] - e[:-1], axis=1) for e in eyes), rtol=1e-4)


def test_sets_larger_pictures_than_stored_are_refused(views):
    with pytest.raises(HeadstreamError, match="96 pixels wide, training asks for 128"):
        augment(views, 128, np.random.default_rng(0))


def test_every_25th_set_is_held_out(tmp_path):
    for n in range(60):
        (tmp_path / f"{n:06d}.npz").touch()
    (tmp_path / "notes.npz").touch()
    training, held_out = list_sets([tmp_path]), list_sets([tmp_path], held_out=True)
    assert [int(p.stem) for p in held_out] == [0, HOLD_OUT, 2 * HOLD_OUT]
    assert len(training) == 57 and not set(training) & set(held_out)


def test_folders_that_do_not_exist_yet_are_empty(tmp_path):
    assert list_sets([tmp_path / "later"]) == []


def test_half_a_file_is_one_clear_line(tmp_path):
    write_sets(tmp_path, 1)
    path = tmp_path / "000000.npz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(HeadstreamError, match="not a training set"):
        load_set(path)


def test_sets_without_depth_teach_none(views):
    batch = make_batch([views, replace(views, depth=None)])
    assert batch.depth.shape == (2, 4, 36)
    assert batch.depth[0].isfinite().any() and batch.depth[1].isnan().all()


def test_batches_hold_unit_normals_and_zeros(views):
    batch = make_batch([views, views])
    length = torch.linalg.norm(batch.normal, dim=-1)
    assert batch.normal.shape == (2, 4, 96, 96, 3)
    assert torch.allclose(length[batch.mask > 0.5], torch.tensor(1.0))
    assert (length[batch.mask < 0.5] == 0).all()
    assert [c.shape[:2] for c in batch.cameras] == [(2, 4)] * 4


def test_loader_draws_every_number_of_views_and_follows_a_changed_plan(tmp_path):
    write_sets(tmp_path, 6)
    loader = Loader([tmp_path], BatchPlan(pictures=4, size=48, views=(1, 2, 3)), seed=0)
    try:
        shapes = [batch.image.shape for batch, _ in zip(loader, range(12), strict=False)]
        assert {s[1] for s in shapes} == {1, 2, 3}
        assert all(s[0] == 4 // s[1] for s in shapes)
        loader.plan = BatchPlan(pictures=1, size=64, views=(2,))
        later = [batch.image.shape for batch, _ in zip(loader, range(5), strict=False)]
        assert later[-1] == (1, 2, 64, 64, 3)
    finally:
        loader.close()


def test_loader_without_data_says_so(tmp_path):
    loader = Loader([tmp_path], BatchPlan(), seed=0)
    try:
        with pytest.raises(HeadstreamError, match="no training sets in"):
            next(iter(loader))
    finally:
        loader.close()
