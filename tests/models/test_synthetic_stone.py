"""Statues: what is carved has relief, what is painted has none of its own, what breaks off is gone."""

from __future__ import annotations

import numpy as np

from models.synthetic.stone import _break, _carved_hair, _necklace, carve
from models.synthetic.topology import topology

SITES = topology().sites[1]


def test_a_statue_is_whole_and_the_same_for_the_same_draw():
    for seed in range(8):
        made, again = (carve(np.random.default_rng(seed), SITES, skull=False) for _ in range(2))
        assert (made.relief == again.relief).all()
        assert (made.albedo == again.albedo).all()
        assert np.isfinite(made.relief).all()
        assert np.abs(made.relief).max() < 0.06
        assert 0 < made.albedo.min() <= made.albedo.max() < 1


def test_a_skull_hides_eyes_and_teeth_and_sinks_its_sockets():
    made = carve(np.random.default_rng(1), SITES, skull=True)
    assert made.hidden[SITES.part == 3].all()
    lids = SITES.skin & (np.linalg.norm(SITES.points - SITES.eyes[0], axis=1) < 0.017)
    assert made.shift[lids, 2].mean() < -0.01


def test_carved_hair_stands_out_everywhere():
    top = SITES.points[SITES.skin & (SITES.points[:, 1] > 0.06)]
    for seed in range(8):
        height = _carved_hair(np.random.default_rng(seed), top, seed)
        assert 0.0005 < height.mean() < 0.05
        assert height.std() > 1e-4


def test_breaking_takes_away_and_painting_a_necklace_can_leave_the_surface():
    taken, flat, raised = 0, 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        albedo, shift = np.full((len(SITES.points), 3), 0.5), np.zeros((len(SITES.points), 3))
        relief = np.zeros(len(SITES.points))
        _break(rng, SITES, albedo, relief, shift)
        assert shift[:, 2].max() <= 0
        assert relief.max() <= 0.0011
        taken += relief.min() < -0.001
        relief[:] = 0
        _necklace(rng, SITES.points, albedo, relief)
        flat += bool((relief == 0).all() and np.ptp(albedo) > 0)
        raised += bool(relief.max() > 4e-4)
    assert taken > 10
    assert flat > 2
    assert raised > 5
