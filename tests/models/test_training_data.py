from __future__ import annotations

import numpy as np
import pytest
import torch
from model_doubles import ball, ball_depth, ring, write_sets

from geometry.cameras import cropped
from models.matches import surface_matches
from models.rays import camera_inputs
from models.training.augment import _blurred, augment, draw_windows, look, photographed
from models.training.batch import Sets, make_batch, stack, token_depth
from models.training.dataset import HOLD_OUT, ViewSet, list_sets, load_set
from models.training.pairs import draw_pairs
from protocol.errors import HeadstreamError

CPU = torch.device("cpu")
RADIUS = 0.2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def one() -> ViewSet:
    cameras = ring(4, 96)
    image, normal, mask = ball(cameras, RADIUS, np.random.default_rng(0))
    K, R, t = (np.stack([getattr(c, k) for c in cameras]).astype(np.float32) for k in ("K", "R", "t"))
    depth = ball_depth(cameras, RADIUS).astype(np.float16)
    return ViewSet(image, np.round(127 * normal).astype(np.int8), (mask * 255).astype(np.uint8), K, R, t, depth)


@pytest.fixture(scope="module")
def sets(one) -> Sets:
    """Twice the same set, so that what is drawn for one is not for the other."""
    return stack([one, one], CPU)


def pictures(sets: Sets, *names: str):
    """Every picture of every set: arrays by name."""
    for b, v in np.ndindex(*sets.mask.shape[:2]):
        yield [np.asarray(getattr(sets, name)[b, v]) for name in names]


def truth_error(sets: Sets) -> float:
    """Mean angle in degrees between normals and those of the ball that the cameras see, of the worst picture."""
    worst = []
    for normal, mask, K, R, t in pictures(sets, "normal", "mask", "K", "R", "t"):
        y, x = np.nonzero(mask > 250)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T @ R
        eye = -R.T @ t
        a, b = (rays**2).sum(-1), rays @ eye
        inside = b * b - a * (eye @ eye - RADIUS**2)
        distance = (-b - np.sqrt(np.maximum(inside, 0))) / a
        expected = (eye + distance[:, None] * rays) / RADIUS @ R.T
        got = normal[y, x] / 127.0
        cosine = (expected * got).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(got, axis=-1)
        keep = inside > 0.004 * a  # away from the outline, where a fraction of a pixel is many degrees
        worst.append(np.degrees(np.arccos(cosine[keep].clip(-1, 1))).mean())
    return max(worst)


def depth_error(sets: Sets) -> float:
    """Median of how far depths put points from the ball that the cameras see, metres."""
    away = []
    for depth, K, R, t in pictures(sets, "depth", "K", "R", "t"):
        y, x = np.nonzero(depth > 0)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
        points = (rays * depth[y, x, None].astype(np.float64) - t) @ R
        away.append(np.abs(np.linalg.norm(points, axis=-1) - RADIUS))
    return float(np.median(np.concatenate(away)))


def whole(sets: Sets, mirror: list[bool]) -> Sets:
    """The sets looked at as they are."""
    shape, size = sets.mask.shape[:2], sets.mask.shape[2]
    return look(sets, size, np.zeros(shape), np.zeros(shape), np.full(shape, float(size)), np.array(mirror))


def test_a_look_at_the_whole_changes_nothing(sets):
    made = whole(sets, [False, False])
    for name in ("image", "normal", "mask", "depth"):
        torch.testing.assert_close(getattr(made, name), getattr(sets, name), rtol=0, atol=0)
    for name in ("K", "R", "t"):
        np.testing.assert_allclose(getattr(made, name), getattr(sets, name), atol=1e-9)


def test_a_mirrored_set_is_true_and_only_that_one_is_mirrored(sets):
    assert truth_error(sets) < 0.5 and depth_error(sets) < 3e-4
    made = whole(sets, [True, False])
    assert truth_error(made) < 0.5 and depth_error(made) < 3e-4
    assert (made.normal[0] == sets.normal[0].flip(2) * torch.tensor([-1, 1, 1], dtype=torch.int8)).all()
    assert (made.normal[1] == sets.normal[1]).all()
    assert (made.image[0] == sets.image[0].flip(2)).all() and (made.image[1] == sets.image[1]).all()


def test_a_mirrored_camera_with_skew_sees_the_mirrored_world(one):
    K = one.K.copy()
    K[:, 0, 1] = 7.0
    skewed = stack([ViewSet(one.image, one.normal, one.mask, K, one.R, one.t, one.depth)], CPU)
    made = whole(skewed, [True])
    points = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 3))
    for v in range(4):
        here, there = (
            (at @ s.R[0, v].T + s.t[0, v]) @ s.K[0, v].T for s, at in ((skewed, points), (made, points * [-1, 1, 1]))
        )
        here, there = (pixels[:, :2] / pixels[:, 2:] for pixels in (here, there))
        np.testing.assert_allclose(there, np.stack([95 - here[:, 0], here[:, 1]], 1), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_augmented_sets_are_true(sets, seed):
    made = augment(sets, 80, np.random.default_rng(seed), generator(seed))
    assert made.image.shape == (2, 4, 80, 80, 3) and made.image.dtype == torch.uint8
    assert truth_error(made) < 2.0
    assert depth_error(made) < 2e-3  # a pixel is 6 mm, and depths are taken from the nearest
    assert not np.allclose(made.R[0], sets.R[0]) and not np.allclose(made.R[0], made.R[1])


def test_augmentation_is_the_same_for_the_same_numbers_and_differs_for_others(sets):
    made = [augment(sets, 80, np.random.default_rng(seed), generator(seed)).image for seed in (1, 1, 2)]
    assert (made[0] == made[1]).all() and not (made[0] == made[2]).all()


def test_a_window_has_the_camera_of_a_crop(sets):
    camera = ring(4, 96)[1]
    x, y, side = (np.full((2, 4), value) for value in (3.3, -2.1, 70.0))
    made = look(sets, 48, x, y, side, np.zeros(2, bool))
    np.testing.assert_allclose(made.K[1, 1], cropped(camera, 3.3, -2.1, 70.0, 48).K, atol=1e-4)
    x, y, side = (np.full((2, 4), value) for value in (5.0, 7.0, 48.0))
    made = look(sets, 48, x, y, side, np.zeros(2, bool))
    np.testing.assert_allclose(made.K[1, 1], cropped(camera, 5, 7, 48, 48).K, atol=1e-4)
    assert (made.image[0, 1] == sets.image[0, 1, 7:55, 5:53]).all()


def test_windows_lie_in_the_pictures_or_about_them():
    rng = np.random.default_rng(0)
    x, y, side = draw_windows(400, 3, 96, 80, rng)
    exact = (side == 80).all(1)
    assert 0.4 < exact.mean() < 0.6
    for edge in (x, y):
        assert (edge[exact] == np.floor(edge[exact])).all()
        low, high = np.minimum(0, 96 - side), np.maximum(0, 96 - side)
        assert ((edge >= low) & (edge <= high)).all()


def test_augmentation_keeps_cameras_where_they_are_to_each_other(sets):
    made = augment(sets, 80, np.random.default_rng(3), generator())
    eyes = [-np.einsum("bvji,bvj->bvi", s.R, s.t) for s in (sets, made)]
    np.testing.assert_allclose(*(np.linalg.norm(e[:, 1:] - e[:, :-1], axis=-1) for e in eyes), rtol=1e-4)


def test_cameras_differ_in_light_colour_noise_and_what_is_behind():
    n, size = 400, 32
    image = torch.tensor([150, 100, 60], dtype=torch.uint8).expand(n, size, size, 3)
    mask = torch.zeros((n, size, size), dtype=torch.uint8)
    mask[:, :, : size // 2] = 255
    light = np.repeat([-0.2, 0.2], n // 2)
    made = photographed(image, mask, light, np.random.default_rng(0), generator()).float()
    subject, behind = made[:, 4:-4, 4:10], made[:, 4:-4, -10:-4]
    bright = subject.mean((1, 2, 3))
    assert bright[n // 2 :].mean() > 1.5 * bright[: n // 2].mean()  # a gain of exp(0.8) before the pictures clip
    noisy = subject.std((1, 2)).amax(1) > 0.8
    assert 0.33 < noisy.float().mean() < 0.47
    replaced = (subject.mean((1, 2)) - behind.mean((1, 2))).abs().amax(1) > 5
    assert 0.13 < replaced.float().mean() < 0.27
    ratio = subject.mean((1, 2))[:, 0] / subject.mean((1, 2))[:, 2].clamp(min=1)  # red to blue: contrast and balance
    assert (
        0.02 < (ratio.log() < 0.45).float().mean() < 0.2
    )  # some are made grey, more or less; contrast alone keeps 0.6


def test_a_new_background_stays_behind_the_subject():
    image = torch.full((200, 32, 32, 3), 128, dtype=torch.uint8)
    mask = torch.full((200, 32, 32), 255, dtype=torch.uint8)
    made = photographed(image, mask, np.zeros(200), np.random.default_rng(1), generator())
    steps = made.float().mean(-1)  # without noise a picture that is all subject stays one colour
    flat = steps.flatten(1).std(1) < 0.8
    assert 0.53 < flat.float().mean() < 0.67


def test_a_blur_has_its_width_and_keeps_the_light():
    maps = torch.zeros(2, 1, 21, 21)
    maps[:, :, 10, 10] = 100
    made = _blurred(maps, torch.tensor([0.8, 1.2]))
    torch.testing.assert_close(made.sum((1, 2, 3)), torch.full((2,), 100.0))
    steps = torch.arange(21.0) - 10
    spread = ((made[:, 0].sum(1) * steps.square()).sum(1) / 100).sqrt()
    torch.testing.assert_close(spread, torch.tensor([0.8, 1.2]), rtol=0.02, atol=0)


def test_larger_pictures_than_stored_are_refused(sets):
    with pytest.raises(HeadstreamError, match="96 pixels wide, training asks for 128"):
        augment(sets, 128, np.random.default_rng(0), generator())


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


def test_sets_without_depth_teach_none(one):
    blind = ViewSet(one.image, one.normal, one.mask, one.K, one.R, one.t)
    batch = make_batch(stack([one, blind], CPU), generator())
    assert batch.depth.shape == (2, 4, 36)
    assert batch.depth[0].isfinite().any() and batch.depth[1].isnan().all()
    assert (batch.pairs[0, :, 0] >= 0).any() and (batch.pairs[1] == -1).all()


def test_a_single_view_has_no_depth_and_no_pairs(one):
    batch = make_batch(stack([one.first_view()], CPU), generator())
    assert batch.image.shape == (1, 1, 96, 96, 3)
    assert batch.depth.isnan().all() and (batch.pairs == -1).all()


def test_a_token_has_no_depth_where_one_of_its_middle_pixels_has_none(one):
    depth = one.depth.copy()
    depth[1, 7, 7] = 0
    depth[1, 8, 8], depth[1, 7, 8], depth[1, 8, 7] = 1, 1, 1
    made = stack([ViewSet(one.image, one.normal, one.mask, one.K, one.R, one.t, depth)], CPU)
    assert token_depth(made)[0, 1, 0].isnan()
    made.depth[0, 1, 7, 7] = 1
    assert token_depth(made)[0, 1, 0].isfinite()


def test_batches_hold_unit_normals_and_zeros_and_the_cameras_of_each_set(sets):
    turned = augment(sets, 80, np.random.default_rng(1), generator())
    batch = make_batch(turned, generator())
    length = torch.linalg.norm(batch.normal, dim=-1)
    assert batch.normal.shape == (2, 4, 80, 80, 3)
    torch.testing.assert_close(length[batch.mask == 1], torch.ones(int((batch.mask == 1).sum())))
    assert (length[batch.mask == 0] == 0).all()
    for b in range(2):
        expected = camera_inputs(turned.K[b], turned.R[b], turned.t[b], 80, 80)
        for got, array in zip(batch.cameras, expected, strict=True):
            np.testing.assert_allclose(got[b].numpy(), array, atol=1e-5)


def test_drawn_pairs_are_among_all_matches(sets):
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (sets.K, sets.R, sets.t)]
    pairs = draw_pairs(sets.depth, sets.normal, *tensors, 8000, generator())
    assert pairs.shape == (2, 8000, 2)
    known = pairs[..., 0] >= 0
    assert known.sum(1).min() > 300
    assert (pairs[~known] == -1).all()
    assert not (pairs[0] == pairs[1]).all()  # each set draws its own
    cameras = (sets.K[0], sets.R[0], sets.t[0])
    found = surface_matches(sets.depth[0].numpy(), sets.normal[0].numpy(), *cameras, step=1)
    every = {tuple(pair) for pair in found.nearest_pixels(96, 96).tolist()}
    drawn = pairs[0][known[0]].tolist()
    forward = [tuple(pair) in every for pair in drawn if pair[0] // 96**2 < pair[1] // 96**2]
    assert len(forward) > 100 and np.mean(forward) > 0.99  # float32 may round a half pixel otherwise


def test_no_pair_is_of_one_view_and_none_of_what_is_turned_away_or_hidden(sets):
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (sets.K, sets.R, sets.t)]

    def drawn(depth: torch.Tensor, normal: torch.Tensor) -> np.ndarray:
        pairs = draw_pairs(depth, normal, *tensors, 8000, generator(2))[0]
        return (pairs[pairs[:, 0] >= 0] // 96**2).numpy()

    views = drawn(sets.depth, sets.normal)
    assert (views[:, 0] != views[:, 1]).all() and len(views) > 300
    assert len(drawn(sets.depth, -sets.normal)) < len(views) / 20
    wall = sets.depth.clone()  # something before every camera but the first
    wall[:, 1:] = torch.where(wall[:, 1:] > 0, 0.3, 0.0).half()
    assert not (drawn(wall, sets.normal) == 0).any()


def test_pairs_show_one_point_of_the_ball_from_both_sides(sets):
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (sets.K, sets.R, sets.t)]
    pairs = draw_pairs(sets.depth, sets.normal, *tensors, 6000, generator(1))[0]
    pairs = pairs[pairs[:, 0] >= 0].numpy()
    points = []
    for side in (0, 1):
        v, y, x = np.unravel_index(pairs[:, side], (4, 96, 96))
        z = sets.depth[0].numpy()[v, y, x].astype(np.float64)
        rays = np.einsum("nij,nj->ni", np.linalg.inv(sets.K[0])[v], np.stack([x, y, np.ones_like(x)], -1))
        points.append(np.einsum("nji,nj->ni", sets.R[0][v], rays * z[:, None] - sets.t[0][v]))
    on = np.linalg.norm(points[1], axis=-1) < RADIUS * 1.01  # the nearest pixel may lie just off the ball
    assert on.mean() > 0.97
    assert np.linalg.norm(points[0] - points[1], axis=-1)[on].max() < 0.03  # three pixels where the ball turns away
