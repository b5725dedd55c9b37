"""What stands around and behind a subject."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from models.synthetic import backdrop
from models.synthetic.backdrop import Backdrop
from models.synthetic.render import Surface
from models.synthetic.surroundings import surroundings


@pytest.fixture(scope="module")
def ball() -> Surface:
    mesh = trimesh.creation.icosphere(3, radius=0.1)
    vertices = np.asarray(mesh.vertices, np.float32)
    blank = np.ones((len(vertices), 4), np.float32)
    return Surface(vertices, np.asarray(mesh.faces, np.int32), vertices / 0.1, vertices * 0 + 0.5, blank)


def test_things_stand_around_and_not_inside_the_subject(ball):
    seen = 0
    for seed in range(12):
        for thing in surroundings(np.random.default_rng(seed), ball):
            surface = thing.surface
            assert np.isfinite(surface.normals).all()
            assert surface.faces.max() < len(surface.vertices)
            assert surface.normals.shape == surface.albedo.shape == surface.vertices.shape
            if not thing.always:
                assert np.linalg.norm(surface.vertices.mean(0) * [1, 0, 1]) > 0.1
            seen += 1
    assert seen > 10


def test_a_backdrop_is_a_picture_and_repeats_itself():
    for seed in range(24):
        style = Backdrop.draw(np.random.default_rng(seed), dark=seed % 4 == 0)
        one, again = (style.picture(np.random.default_rng(5), 48) for _ in range(2))
        assert one.shape == (48, 48, 3)
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert (one == again).all()


def test_noise_like_a_photograph_is_strongest_where_it_is_coarse():
    field = np.mean(
        [np.abs(np.fft.fft2(backdrop._spectrum(np.random.default_rng(k), 128, 1.0)[..., 0])) for k in range(8)], 0
    )
    rows = [field[k, 0] + field[0, k] for k in range(64)]
    assert np.mean(rows[2:6]) > 4 * np.mean(rows[20:40])
