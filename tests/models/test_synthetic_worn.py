"""What people wear fits the head and the shoulders that wear it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from models.synthetic.garments import headscarf, shirt
from models.synthetic.glasses import earrings, glasses
from models.synthetic.heads import turn
from models.synthetic.subject import Subject
from models.synthetic.topology import refine, topology

ROTATION = turn(0.25, 0.15, -0.1)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return refine(Subject.draw(np.random.default_rng(3)).pose(None, ROTATION), 1)


def test_glasses_stand_before_the_eyes_and_reach_the_ears(head):
    sites = topology().sites[1]
    for seed in range(4):
        frame = glasses(np.random.default_rng(seed), head, sites)
        tree = cKDTree(frame.vertices)
        for part in (3, 4):
            eye = head[sites.part == part]
            assert 0.008 < tree.query(eye.mean(0))[0] < 0.045
        local, eyes = frame.vertices @ ROTATION, head[np.isin(sites.part, (3, 4))] @ ROTATION
        assert local[:, 2].max() > eyes[:, 2].max()
        for side in (-1, 1):
            ear = head[(sites.ear > 0.6) & (sites.points[:, 0] * side > 0)]
            assert tree.query(ear)[0].min() < 0.01
        assert np.ptp(local[:, 0]) < 0.2
        assert np.isfinite(frame.normals).all()


def test_earrings_hang_at_the_lobes(head):
    sites = topology().sites[1]
    jewels = earrings(np.random.default_rng(1), head, sites)
    distance = cKDTree(head[sites.ear > 0.6]).query(jewels.vertices)[0]
    assert distance.min() < 0.006
    assert distance.max() < 0.06


def test_a_shirt_covers_the_shoulders_and_leaves_the_face(head):
    sites = topology().sites[1]
    shoulders = head[(head[:, 1] < -0.19) & (head[:, 1] > -0.24) & (np.abs(head[:, 0]) < 0.15) & sites.skin]
    for seed in range(6):
        cloth = shirt(np.random.default_rng(seed), head)
        low = cloth.vertices[cloth.vertices[:, 1] < -0.15]
        turned = np.arctan2(low[:, 0], low[:, 2] + 0.035), low[:, 1] * 8
        tree = cKDTree(np.stack(turned, 1))
        own = np.stack([np.arctan2(shoulders[:, 0], shoulders[:, 2] + 0.035), shoulders[:, 1] * 8], 1)
        away, near = tree.query(own)
        reach = np.hypot(low[near, 0], low[near, 2] + 0.035) - np.hypot(shoulders[:, 0], shoulders[:, 2] + 0.035)
        assert (reach[away < 0.1] > -0.004).mean() > 0.97
        assert cloth.vertices[:, 1].max() < -0.02
        assert np.isfinite(cloth.normals).all()


def test_a_headscarf_leaves_the_face_free_and_covers_the_crown(head):
    cloth = headscarf(np.random.default_rng(0), head, ROTATION)
    used = cloth.vertices[np.unique(cloth.faces)] @ ROTATION
    face = (used[:, 2] > 0.07) & (np.abs(used[:, 0]) < 0.02) & (np.abs(used[:, 1]) < 0.03)
    assert not face.any()
    assert used[:, 1].max() > (head @ ROTATION)[:, 1].max()
