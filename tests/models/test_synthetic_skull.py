"""A skull has the hollows and the teeth of one."""

from __future__ import annotations

import numpy as np
import pytest

from models.synthetic.lighting import Lighting
from models.synthetic.photography import look_at
from models.synthetic.render import Rendering, Surface, render
from models.synthetic.skull import draw_skull


@pytest.fixture(scope="module")
def skull() -> Surface:
    return draw_skull(np.random.default_rng(2))


def seen(surface: Surface, place) -> Rendering:
    front = look_at("a", place, (0, 0, 0), 320, (96, 96))
    return render(surface, [front], Lighting(np.zeros((9, 3), np.float32), ()))[0]


def test_it_is_a_head_facing_z(skull):
    low, high = skull.vertices.min(0), skull.vertices.max(0)
    assert 0.11 < high[0] - low[0] < 0.2
    assert 0.15 < high[1] - low[1] < 0.3
    assert np.allclose(np.linalg.norm(skull.normals, axis=1), 1, atol=1e-3)
    teeth = (skull.vertices[:, 2] > 0.08) & (np.abs(skull.vertices[:, 1] + 0.06) < 0.02)
    assert teeth.sum() > 200


def test_its_sockets_are_deep_and_its_normals_face_out(skull):
    view = seen(skull, (0, 0, 1.0))
    eyes = [view.depth[48, 48 + side * 10] for side in (-1, 1)]
    brow = view.depth[40, 48]
    assert min(eyes) > brow + 0.01
    assert (view.normal[..., 2][view.mask] < 0.1).mean() > 0.97
    outward = (skull.vertices * skull.normals).sum(1)
    assert (outward > 0).mean() > 0.75


def test_the_same_draw_is_the_same_skull(skull):
    assert (draw_skull(np.random.default_rng(2)).vertices == skull.vertices).all()
    assert len(draw_skull(np.random.default_rng(3)).vertices) != len(skull.vertices)
