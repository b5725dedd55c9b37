"""Wrinkles lie where faces fold, and deepen with age and expression."""

from __future__ import annotations

import numpy as np

from models.synthetic.relief import FaceMap, face_relief
from models.synthetic.topology import topology


def wrinkles(amount: float, **actions: float) -> np.ndarray:
    return face_relief(np.random.default_rng(7), topology().sites[1], amount, actions)


def test_a_groove_lies_along_its_line_and_the_skin_swells_beside_it():
    face = FaceMap()
    face.line(np.array([[-0.02, 0.05], [0.02, 0.05]]), 0.001, 0.003)
    sites = topology().sites[2]
    near = sites.skin & (np.abs(sites.points[:, 0]) < 0.01) & (sites.points[:, 2] > 0.05)
    height, away = face.read(sites.points)[near], np.abs(sites.points[near, 1] - 0.05)
    assert height.min() < -0.0004
    assert away[height.argmin()] < 0.001
    assert height[(away > 0.002) & (away < 0.004)].max() > 5e-5
    assert np.abs(height[away > 0.02]).max() == 0


def test_age_and_expression_deepen_what_they_fold():
    points = topology().sites[1].points
    forehead = (points[:, 1] > 0.04) & (points[:, 1] < 0.09) & (points[:, 2] > 0.06)
    young, old, raised = wrinkles(0.0), wrinkles(1.0), wrinkles(0.0, browInnerUp=1.0)
    assert np.abs(old[forehead]).mean() > 2 * np.abs(young[forehead]).mean()
    assert np.abs(raised[forehead]).mean() > 2 * np.abs(young[forehead]).mean()
    assert (young == wrinkles(0.0)).all()
    assert np.abs(old).max() < 0.006


def test_only_skin_has_relief():
    sites = topology().sites[1]
    assert (wrinkles(1.0)[~sites.skin] == 0).all()
    assert (wrinkles(1.0)[sites.points[:, 2] < -0.06] == 0).all()
