"""Scenes for evaluation: never those of training, the same each time, with regions where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from models.held_out import (
    HELD_OUT,
    REGIONS,
    held_out_sets,
    load_held_out,
    make_held_out,
    regions_of,
    silhouette_band,
)
from models.synthetic.photography import draw_rig
from models.synthetic.scenes import draw_scene
from models.synthetic.subject import Subject
from models.synthetic.topology import refine, smooth_normals, topology
from models.synthetic.training_sets import make_set


@pytest.fixture(scope="module")
def scene():
    return make_held_out(0, 1, views=3, size=64)


def test_no_training_seed_starts_the_same_numbers(scene):
    assert np.abs(make_set(0, 1, 3, 64)["K"] - scene.K).max() > 1  # of the same seed and index
    ours = np.random.default_rng([5, 7, HELD_OUT]).random(4)
    assert HELD_OUT % 2**32 != 0  # numpy fills [seed, index] with zeros: a third word of zero would be training's
    assert (np.random.default_rng([5, 7]).random(4) == np.random.default_rng([5, 7, 0]).random(4)).all()
    assert (np.random.default_rng([5, 7]).random(4) != ours).all()


def test_a_scene_repeats_itself_and_its_truth_hangs_together(scene):
    again = make_held_out(0, 1, views=3, size=64)
    assert (scene.image == again.image).all() and scene.kind == again.kind
    assert scene.image.dtype == np.uint8 and scene.image.shape == (3, 64, 64, 3)
    length = np.linalg.norm(scene.normal.astype(np.float32), axis=-1)
    np.testing.assert_allclose(length[scene.mask], 1, atol=2e-3)
    assert (length[~scene.mask] == 0).all()
    assert ((scene.depth > 0) == scene.mask).all()
    assert ((scene.region > 0) == scene.mask).all() if scene.kind == "person" else not scene.region.any()
    part = scene.first(2)
    assert part.image.shape[0] == len(part.cameras) == len(part.K) == 2 and part.kind == scene.kind


def test_scenes_are_those_that_earlier_weights_were_scored_on(scene):
    """Whatever the training sets' generator learns: numbers of two days compare only on the same scenes."""
    assert (scene.kind, scene.backdrop) == ("person", "black")
    np.testing.assert_allclose(scene.K[:, 0, 0], [77.9304, 90.311738, 77.141761], rtol=1e-5)
    eyes = -np.einsum("vji,vj->vi", scene.R, scene.t)
    known = [[-0.624524, -0.079588, -0.143113], [-0.426789, -0.221272, 0.50465], [0.010997, -0.259336, 0.559767]]
    np.testing.assert_allclose(eyes, known, atol=2e-6)
    np.testing.assert_allclose(scene.image.mean((1, 2, 3)), [50.2609, 53.4643, 61.5866], atol=0.3)
    rng = np.random.default_rng([0, 6, HELD_OUT])
    drawn = draw_scene(rng)
    cameras = draw_rig(rng, drawn.surface.vertices, 10, 256)
    assert drawn.kind == "skull"
    np.testing.assert_allclose([c.K[0, 0] for c in cameras[:3]], [1265.657134, 1013.717769, 1388.385732], rtol=1e-5)


def test_files_are_made_once_and_read_back(tmp_path, scene, monkeypatch):
    seen = []
    paths = held_out_sets(2, 0, 3, 64, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    loaded = load_held_out(paths[1])
    assert (loaded.image == scene.image).all() and (loaded.region == scene.region).all()
    assert (loaded.kind, loaded.backdrop) == (scene.kind, scene.backdrop)
    monkeypatch.setattr("models.held_out.make_held_out", lambda *_: pytest.fail("rendered again"))
    assert held_out_sets(2, 0, 3, 64, tmp_path) == paths
    paths[0].write_bytes(b"cut")
    with pytest.raises(ValueError, match="run again"):
        load_held_out(paths[0])
    assert not paths[0].exists()


def test_only_the_users_own_cache_is_cleaned_of_other_generators(tmp_path, monkeypatch):
    monkeypatch.setattr("models.held_out.user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr("models.held_out.make_held_out", lambda *_: pytest.fail("rendered"))
    for old in (tmp_path / "held_out" / "0123-2x32", tmp_path / "other" / "0123-2x32"):
        old.mkdir(parents=True)
    held_out_sets(0, 0, 2, 32, tmp_path / "other")
    held_out_sets(0, 0, 2, 16)
    held_out_sets(0, 0, 2, 32)
    assert len(list((tmp_path / "held_out").iterdir())) == 2  # other sizes of this generator stay
    assert not (tmp_path / "held_out" / "0123-2x32").exists()
    assert (tmp_path / "other" / "0123-2x32").exists()


@pytest.mark.parametrize("seed", [1, 4])
def test_regions_are_found_on_a_head_that_is_turned_and_unlike_the_average(seed):
    c, s = np.cos(0.35), np.sin(0.35)
    turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    vertices = refine(Subject.draw(np.random.default_rng(seed)).pose(None, turned), 1)
    found = regions_of(vertices, vertices, smooth_normals(vertices, topology().faces[1]))
    sites = topology().sites[1]  # knows where vertices belong, whatever shape they take
    face, ears, scalp, neck = (found == REGIONS.index(name) for name in REGIONS[1:])
    assert ears[sites.ear > 0.9].mean() > 0.8
    assert (sites.ear > 0.1)[ears].mean() > 0.9
    assert face[sites.lips > 0.9].mean() > 0.98
    assert scalp[sites.points[:, 1] > 0.095].all()
    assert neck[sites.points[:, 1] < -0.17].mean() > 0.98


def test_the_band_follows_the_outline_and_not_the_pictures_border():
    mask = np.zeros((1, 20, 20), bool)
    mask[:, 5:, 4:16] = True  # cut by the lower border
    band = silhouette_band(mask, 2)
    assert band[0, 5, 10] and band[0, 6, 10] and not band[0, 7, 10]
    assert band[0, 15, 4] and not band[0, 19, 10]
    assert not band[~mask].any()
