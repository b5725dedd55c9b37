"""What is taken from the network is what the row says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_doubles import ball, ring, tiny_network, write_sets

from benchmarks.ablations import alone, apart, blind, compare, exchanged, shown, unknown, whole
from models.held_out import KnownScene
from models.rays import stack_cameras
from models.training.dataset import load_set
from protocol.errors import HeadstreamError

VIEWS, SIZE = 3, 64


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture(scope="module")
def scene():
    cameras = ring(VIEWS, SIZE)
    image, normal, mask = ball(cameras, 0.2, np.random.default_rng(0))
    none = np.zeros(mask.shape)
    return KnownScene(image, normal, mask, none, none, *stack_cameras(cameras), kind="solid", backdrop="plain")


def only_picture_changed(scene: KnownScene, view: int) -> KnownScene:
    image = scene.image.copy()
    image[view] = 255 - image[view]
    return KnownScene(**vars(scene) | {"image": image})


@pytest.mark.parametrize(
    ("way", "looks"), [(whole, True), (exchanged, True), (unknown, True), (apart, False), (alone, False)]
)
def test_other_pictures_matter_only_where_views_look_at_each_other(network, scene, way, looks):
    before, after = way(network, scene), way(network, only_picture_changed(scene, 2))
    assert before.normal.shape == (VIEWS, SIZE, SIZE, 3) and before.mask.shape == (VIEWS, SIZE, SIZE)
    assert np.abs(before.normal[2] - after.normal[2]).max() > 0.01
    assert (np.abs(before.normal[0] - after.normal[0]).max() > 1e-3) == looks


@pytest.mark.parametrize(
    ("way", "knows"), [(whole, True), (exchanged, True), (apart, True), (unknown, False), (alone, False)]
)
def test_the_rigs_geometry_matters_only_where_it_is_told(network, scene, way, knows):
    """Cameras that stand elsewhere in the rig, but look in the same directions: only their places differ."""
    moved = KnownScene(**vars(scene) | {"t": scene.t * np.array([[1.0], [1.3], [0.7]])})
    difference = np.abs(way(network, scene).normal - way(network, moved).normal).max()
    assert (difference > 1e-3) == knows


def test_a_single_view_is_the_same_however_it_is_asked(network, scene):
    one = scene.first(1)
    for way in (apart, alone):
        np.testing.assert_allclose(way(network, one).normal, whole(network, one).normal, atol=1e-6)


def test_differences_are_paired_and_counted_from_the_first_row(network, scene, monkeypatch):
    monkeypatch.setattr("benchmarks.ablations.load_held_out", lambda path: scene)
    rows = compare({"whole": (network, whole), "apart": (network, apart)}, ["a", "b"], 2)
    assert rows["whole"]["worse_deg"] == 0 and rows["whole"]["pixels"] == 2 * scene.first(2).mask.sum()
    assert rows["apart"]["worse_deg"] == pytest.approx(rows["apart"]["mean_deg"] - rows["whole"]["mean_deg"], abs=1e-3)
    assert rows["apart"]["worse_error_deg"] == 0  # the same scene twice
    assert "| apart (" in shown(rows, 2) and "| whole |" in shown(rows, 2)


def test_blind_sets_keep_all_but_the_cameras(tmp_path):
    write_sets(tmp_path / "sets", 2)
    assert blind(tmp_path / "sets", tmp_path / "blind") == 2
    for name in ("000000.npz", "000001.npz"):
        before, after = load_set(tmp_path / "sets" / name), load_set(tmp_path / "blind" / name)
        assert (before.image == after.image).all() and (before.normal == after.normal).all()
        assert (np.ptp(after.K, axis=0) == 0).all() and (np.ptp(after.t, axis=0) == 0).all()
        assert np.abs(after.R - np.eye(3)).max() == 0
        assert np.ptp(before.t, axis=0).max() > 0
    with pytest.raises(HeadstreamError, match="no training sets"):
        blind(tmp_path, tmp_path / "other")
