"""Light that is drawn at random, and how skin lets it bleed."""

from __future__ import annotations

import numpy as np
import pytest
from test_synthetic_render import DARK, egg

from models.synthetic.lighting import Lamp, Lighting
from models.synthetic.photography import look_at
from models.synthetic.render import render
from models.synthetic.scenes import draw_light


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(4)
    return [draw_light(rng) for _ in range(300)]


def test_light_comes_in_every_kind_and_never_none(drawn):
    kinds = [tuple(lamp.kind for lamp in lighting.lamps) for lighting, _ in drawn]
    assert {kind for lamps in kinds for kind in lamps} == {"far", "near", "camera"}
    assert 20 < sum(flash for _, flash in drawn) < 80
    assert sum(len(lamps) == 0 for lamps in kinds) > 5  # the sky alone
    assert max(map(len, kinds)) >= 4
    for lighting, _ in drawn:
        assert (np.isfinite(lighting.sky).all() and (lighting.sky[0] > 0).all()) or lighting.lamps
        for lamp in lighting.lamps:
            assert min(lamp.color) > 0 and 0 <= lamp.soft <= 1 and np.linalg.norm(lamp.place) > 0


def test_a_flash_sits_at_the_camera_and_goes_with_it(drawn):
    cameras = [look_at("a", place, (0, 0, 0), 200.0, (32, 32)) for place in ((0, 0, 1), (0.8, 0.3, -0.4))]
    for lighting, flash in drawn:
        if not flash:
            continue
        assert lighting.lamps[-1].kind == "camera" and sum(lamp.kind == "camera" for lamp in lighting.lamps) == 1
        assert lighting.sky[0].max() < 0.15  # hardly any light but its own
        for camera in cameras:
            row = lighting.lamps_for(camera.center, camera.R)[-1]
            assert np.linalg.norm(row[1:4] - camera.center) < 0.25  # a ring, or beside the lens
            assert abs((row[1:4] - camera.center) @ camera.R[2]) < 1e-6  # neither before nor behind it


def test_red_light_bleeds_further_past_the_terminator_than_blue():
    lamp = Lighting(DARK, (Lamp("far", (1, 0, 0), (1, 1, 1), 0.0, shadow=False),))
    front = look_at("front", (0, 0, 0.8), (0, 0, 0), 300.0, (96, 96))
    lit = {}
    for translucency in (0.0, 1.0):
        ball = egg((0.1, 0.1, 0.1))
        ball.material[:, 2] = translucency
        (view,) = render(ball, [front], lamp)
        dark_side = view.mask & (view.normal[..., 0] < -0.03)  # the camera's x is the world's here: away from the lamp
        lit[translucency] = (view.light[dark_side] > 0.01).sum(0)
    assert (lit[0.0] == 0).all()
    assert lit[1.0][0] > 1.3 * lit[1.0][1] > 1.3 * 1.3 * lit[1.0][2] > 0
