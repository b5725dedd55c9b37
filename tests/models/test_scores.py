"""What ``evaluate --synthetic`` says of predictions whose errors are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_doubles import ball, ring

from models.engines.base import NormalPrediction
from models.held_out import KnownScene
from models.rays import stack_cameras
from models.scores import Measures, Tally, rows_table, score_scenes, table


@pytest.fixture(scope="module")
def scene() -> KnownScene:
    """A ball in three views, with regions in stripes."""
    cameras = ring(3, 64)
    K, R, t = stack_cameras(cameras)
    image, normal, mask = ball(cameras, 0.2, np.random.default_rng(0))
    points = np.einsum("vji,vhwj->vhwi", R, normal) * 0.2  # a ball's normals are its points
    depth = (np.einsum("vj,vhwj->vhw", R[:, 2], points) + t[:, 2, None, None]) * mask
    region = (mask * (1 + np.arange(64) % 4)).astype(np.uint8)
    return KnownScene(image, normal.astype(np.float16), mask, depth, region, K, R, t, kind="person", backdrop="clutter")


def tilted(scene: KnownScene, degrees: float) -> NormalPrediction:
    """The truth, turned away by so much at each pixel; surest where the picture's row is low."""
    axis = np.cross(scene.normal.astype(np.float64), [0.3, 0.5, 0.8])
    axis /= np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-9)
    a = np.radians(degrees)
    normal = np.cos(a) * scene.normal + np.sin(a) * np.cross(axis, scene.normal)
    rows = np.broadcast_to(np.arange(64)[:, None] + 1.0, scene.mask.shape)
    return NormalPrediction(normal.astype(np.float32), rows.astype(np.float32), scene.mask.astype(np.float32))


def test_an_error_of_seven_degrees_is_said_to_be_seven(scene):
    tally = Tally()
    tally.add(Measures.of(scene, tilted(scene, 7.0)))
    row = tally.row()
    assert row["mean_deg"] == pytest.approx(7, abs=0.05) and row["median_deg"] == pytest.approx(7, abs=0.05)
    assert (row["below_5_deg"], row["below_10_deg"], row["below_30_deg"]) == (0, 1, 1)
    assert row["mask_iou"] == 1.0 and row["pixels"] == scene.mask.sum()
    assert 0 < row["sampling_deg"] < row["disagreement_deg"] < row["sampling_deg"] + 14.1


def test_the_truth_itself_has_no_error_and_disagrees_by_sampling_alone(scene):
    tally = Tally()
    tally.add(Measures.of(scene, tilted(scene, 0.0)))
    row = tally.row()
    assert row["mean_deg"] < 0.05 and row["gradient"] < 1e-3
    assert row["disagreement_deg"] == pytest.approx(row["sampling_deg"], abs=0.02)


def test_scenes_are_sorted_by_kind_backdrop_region_and_views(scene):
    nowhere = np.zeros_like(scene.region)
    solid = replace(scene, kind="solid", backdrop="plain", region=nowhere, image=255 - scene.image)

    def engine(views: int):
        def predict(images, cameras):
            assert len(images) == len(cameras) == views
            part = scene.first(views)
            found = tilted(part, 12.0 if views == 2 else 4.0)
            return found if (images == part.image).all() else replace(found, mask=np.zeros_like(found.mask))

        return predict

    ticks = []
    scores = score_scenes([lambda: scene, lambda: solid], {3: engine(3), 2: engine(2)}, lambda: ticks.append(1))
    assert len(ticks) == scores["sets"] == 2 and (scores["views"], scores["compared_views"]) == (3, 2)
    assert {"all", "person", "solid"} == set(scores["by_kind"])
    assert scores["by_kind"]["all"]["mean_deg"] == pytest.approx(4, abs=0.05)
    assert scores["by_views"]["2"]["mean_deg"] == pytest.approx(12, abs=0.05)
    assert scores["by_views"]["3"]["mean_deg"] == pytest.approx(4, abs=0.05)
    same = {scores["by_views"][views]["pixels"] for views in ("2", "3")}
    assert same == {2 * scene.first(2).mask.sum()}  # the same pictures, whatever stands beside them
    assert scores["mask_iou"] == {"clutter": 1.0, "plain": 0.0}  # the solid's mask was missed
    regions = scores["by_region"]
    assert {"silhouette band, all kinds", "inside of it, all kinds", "scalp"} <= set(regions)
    people = sum(row["pixels"] for name, row in regions.items() if "all kinds" not in name)
    assert people == scene.mask.sum()  # regions are people's
    parts = regions["silhouette band, all kinds"]["pixels"], regions["inside of it, all kinds"]["pixels"]
    assert min(parts) > 0 and sum(parts) == 2 * scene.mask.sum()
    shown = table(scores)
    assert "| person | 4.00 | 4.00 | 100 / 100 / 100 % |" in shown and "1.000 on clutter" in shown


def test_confidence_is_judged_by_where_it_is_sure(scene):
    tally = Tally()
    error = np.where(np.arange(64)[:, None] < 32, 3.0, 9.0) * np.ones((3, 64, 64))
    prediction = tilted(scene, 0.0)
    measures = replace(Measures.of(scene, prediction), angles=error[scene.mask])
    tally.add(measures)
    assert tally.surest()["0.25"] >= tally.row()["mean_deg"]  # surest below, where it errs by nine
    tally = Tally()
    tally.add(replace(measures, confidence=-measures.confidence))
    assert tally.surest()["0.25"] < tally.row()["mean_deg"]


def test_columns_that_no_row_has_are_left_out():
    tally = Tally()
    tally.pixels(np.array([1.0, 8.0, 40.0]))
    shown = rows_table("region", {"face": tally.row()})
    assert shown.splitlines()[0] == "| region | mean | median | below 5 / 10 / 30 |"
    assert shown.splitlines()[2] == "| face | 16.33 | 8.00 | 33 / 67 / 67 % |"
