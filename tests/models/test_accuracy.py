"""Shipped weights are as good as they were on scenes that no training saw: bounds a little above what they reach."""

from __future__ import annotations

from functools import partial

import pytest

from models.engines import make_engine
from models.held_out import make_held_out
from models.scores import score_scenes

VIEWS, SIZE = 4, 256


@pytest.fixture(scope="module")
def engine():
    return make_engine("torch", views=VIEWS, size=SIZE, precision="f32")


def scores(engine, indices):
    scenes = [partial(make_held_out, 0, index, VIEWS, SIZE) for index in indices]
    return score_scenes(scenes, {VIEWS: engine.predict})["by_kind"]["all"]


def test_two_people_and_a_skull_are_predicted_as_well_as_ever(engine):
    found = scores(engine, (5, 6, 7))
    assert found["mean_deg"] < 16.2 and found["mask_iou"] > 0.965 and found["disagreement_deg"] < 11


@pytest.mark.slow
def test_ten_scenes_are_predicted_as_well_as_ever(engine):
    found = scores(engine, range(10))
    assert found["mean_deg"] < 19.3 and found["mask_iou"] > 0.95 and found["disagreement_deg"] < 12.5
