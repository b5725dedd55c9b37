"""``headstream evaluate``: the engine alone on scenes and captures, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from geometry.mesh import Mesh, read_ply, vertex_normals, write_ply
from launch.cli import app
from launch.evaluate import evaluate
from launch.evaluate_capture import capture_table, far_apart
from launch.evaluate_synthetic import parse_views
from models.synthetic.bake import BakeSettings, bake_capture, ring
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    out = tmp_path_factory.mktemp("bake") / "tiny"
    return bake_capture(out, seconds=0.03, cameras=3, size=96, maps_every=1, workers=1)


def printed(*arguments):
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_synthetic_scenes_are_scored(tmp_path):
    few = ["--sets", 2, "--views", "2,1", "--size", 64, "--engine", "torch", "--precision", "f32", "--cache", tmp_path]
    scores = printed("--synthetic", *few)
    assert scores["sets"] == 2 and scores["views"] == 2 and scores["seed"] == 0
    assert set(scores["by_views"]) == {"1", "2"} and 0 < scores["by_kind"]["all"]["mean_deg"] < 90
    assert "torch" in scores["engine"] and len(list(tmp_path.glob("*/0-*.npz"))) == 2
    assert printed("--synthetic", *few)["by_kind"] == scores["by_kind"]


def test_a_capture_that_knows_its_normals_scores_the_engine(capture):
    scores = printed(capture, "--engine", "torch", "--precision", "f32", "--size", 96)
    assert scores["frames"] == 1 and 0 < scores["mean_deg"] < 60 and scores["mask_iou"] > 0.5
    assert 0 < scores["sampling_deg"] < scores["disagreement_deg"]


def test_a_capture_is_scored_by_region_and_by_number_of_views(capture):
    scores = printed(capture, "--engine", "torch", "--precision", "f32", "--size", 96, "--views", "3,1")
    assert set(scores["by_views"]) == {"1", "3"} and (scores["views"], scores["compared_views"]) == (3, 1)
    alone, beside = scores["by_views"]["1"], scores["by_views"]["3"]
    assert alone["pixels"] == beside["pixels"] < scores["pixels"]  # the same picture, whatever stands beside it
    assert alone["mean_deg"] != beside["mean_deg"]
    regions = scores["by_region"]
    band, inside = regions["silhouette band"], regions["inside of it"]
    assert min(band["pixels"], inside["pixels"]) > 0 and band["pixels"] + inside["pixels"] == scores["pixels"]
    head = sum(regions[name]["pixels"] for name in ("face", "ears", "scalp", "neck and body"))  # a baked capture's
    assert 0.9 < head / scores["pixels"] <= 1
    shown = capture_table(scores)
    assert "| face |" in shown and "The same 1 pictures" in shown and "| 3 |" in shown
    usual = printed(capture, "--engine", "torch", "--precision", "f32", "--size", 96)
    assert set(usual["by_views"]) == {"3"} and "The same" not in capture_table(usual)


def test_only_a_capture_that_shows_a_person_for_sure_knows_regions(capture, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(capture, other)
    (other / "capture.json").unlink()
    scores = printed(other, "--engine", "torch", "--precision", "f32", "--size", 96)
    assert set(scores["by_region"]) == {"silhouette band", "inside of it"}


@pytest.mark.slow
def test_a_bust_that_no_training_saw_is_predicted_as_well_as_ever(shared_data):
    scores = printed(shared_data / "nefertiti_soft", "--engine", "torch", "--precision", "f32", "--views", 8)
    assert scores["mean_deg"] < 12.5 and scores["mask_iou"] > 0.97
    assert scores["disagreement_deg"] < 10.5


def test_more_views_than_a_capture_has_are_refused(capture):
    done = CliRunner().invoke(app, ["evaluate", str(capture), "--views", "2,6"])
    assert isinstance(done.exception, HeadstreamError) and "--views: 6" in str(done.exception)


def test_the_first_views_of_a_ring_look_from_all_sides():
    cameras = ring(BakeSettings(cameras=8))
    order = far_apart(cameras)
    assert sorted(order) == list(range(8)) and order[0] == 0
    nearest = []
    for three in (range(3), order[:3]):
        axes = np.array([cameras[i].R[2] for i in three])
        nearest.append((axes @ axes.T)[np.triu_indices(3, 1)].max())
    assert nearest[1] < 0.5 < nearest[0]  # the cosine of 60 degrees
    parallel = [replace(camera, R=np.eye(3), t=np.array([i, 0.0, 1.0])) for i, camera in enumerate(cameras[:4])]
    assert sorted(far_apart(parallel)) == [0, 1, 2, 3]


def test_saved_normals_are_scored_against_the_truth_and_each_other(capture, tmp_path):
    folder = CaptureFolder.open(capture)
    frame = folder.frames[0]
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / f"{frame}.ply").write_bytes(folder.mesh(frame).read_bytes())
    (tmp_path / "normals" / frame).mkdir(parents=True)
    for name in folder.calibration.names:
        with np.load(folder.normal(frame, name)) as data:
            normal = data["normal"]
        mask = np.abs(normal).sum(-1) > 0
        np.savez(tmp_path / "normals" / frame / f"{name}.npz", normal=normal, mask=mask)
    scores = evaluate(tmp_path, capture, None, lambda *_: None)
    assert scores["normals_mean_deg"] < 0.1 and scores["normals_gradient"] < 1e-3
    assert scores["normals_below_5_deg_percent"] == 100 and scores["mask_iou"] == 1
    between = scores["normals_between_views_deg"], scores["normals_between_views_sampling_deg"]
    assert 0 < between[0] < 5 and between[0] == pytest.approx(between[1], abs=1.0)


def test_a_mesh_is_scored_by_area_and_not_by_where_its_vertices_are(capture, tmp_path):
    """The farther to one side, the farther it is off; whether that side is of few faces or of many changes nothing."""
    folder = CaptureFolder.open(capture)
    truth = read_ply(folder.mesh(folder.frames[0]))
    aside = truth.vertices[:, 0] - truth.vertices[:, 0].min()
    off = 3e-3 * aside / aside.max()
    moved = Mesh(truth.vertices + vertex_normals(truth.vertices, truth.faces) * off[:, None], truth.faces)
    fine = (off > 2e-3)[truth.faces].all(1)
    corners, count = moved.faces[fine], len(moved.vertices)
    middles = (moved.vertices[corners] + moved.vertices[np.roll(corners, -1, 1)]).reshape(-1, 3) / 2
    a, b, c = corners.T
    ab, bc, ca = (count + np.arange(len(middles))).reshape(-1, 3).T
    split = np.concatenate([np.stack(each, 1) for each in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    finer = Mesh(
        np.concatenate([moved.vertices, middles]), np.concatenate([moved.faces[~fine], split]).astype(np.int32)
    )
    scores = []
    for mesh in (moved, finer):
        out = tmp_path / str(len(mesh.faces))
        (out / "mesh").mkdir(parents=True)
        write_ply(out / "mesh" / f"{folder.frames[0]}.ply", mesh)
        scores.append(evaluate(out, capture, None, lambda done, count: None))
    coarse, fine_scores = scores
    for key in ("surface_median_mm", "surface_95_mm", "surface_with_unseen_parts_median_mm"):
        assert fine_scores[key] == pytest.approx(coarse[key], rel=0.03), key
    assert 1 < coarse["surface_median_mm"] < 2


def test_vertices_that_slide_over_the_skin_are_noticed(capture, tmp_path):
    """Later every vertex is in the middle of a face beside it: on the surface still, and no longer on its point."""
    folder = CaptureFolder.open(capture)
    truth = read_ply(folder.mesh(folder.frames[0]))
    middle = truth.vertices.copy()
    middle[truth.faces[:, 0]] = truth.vertices[truth.faces].mean(1)
    moved = np.linalg.norm(middle - truth.vertices, axis=1)
    scores = []
    for name, second in (("still", truth.vertices), ("slid", middle)):
        (tmp_path / name / "mesh").mkdir(parents=True)
        for frame, vertices in (("0", truth.vertices), ("1", second)):
            write_ply(tmp_path / name / "mesh" / f"{frame}.ply", Mesh(vertices, truth.faces))
        scores.append(evaluate(tmp_path / name, capture, None, lambda *_: None))
    still, slid = scores
    assert still["slid_median_mm"] == pytest.approx(0.0, abs=1e-3)
    assert slid["surface_median_mm"] < 0.05
    assert slid["slid_median_mm"] == pytest.approx(1e3 * np.median(moved), rel=0.01) and slid["slid_median_mm"] > 0.3
    first = evaluate(tmp_path / "slid", capture, 1, lambda *_: None)
    assert "slid_median_mm" not in first


def written(root, meshes):
    """A folder as `reconstruct` writes it."""
    for frame, mesh in meshes.items():
        write_ply(root / "mesh" / f"{frame}.ply", mesh)
    return root


def test_a_mesh_off_by_a_millimetre_is_off_by_that_in_every_score(capture, tmp_path):
    """Every vertex outward by 1 mm: along a ray that meets the surface aslant the way is longer."""
    truth = read_ply(CaptureFolder.open(capture).mesh("000000"))
    off = Mesh(truth.vertices + 1e-3 * vertex_normals(truth.vertices, truth.faces), truth.faces)
    exact, scores = (
        evaluate(written(tmp_path / name, {"000000": mesh}), capture, None, lambda *_: None)
        for name, mesh in (("exact", truth), ("off", off))
    )
    for key in ("surface_mean_mm", "surface_worst_median_mm", "depth_mean_mm", "depth_median_mm"):
        assert exact[key] == pytest.approx(0, abs=2e-3), key
    assert exact["mesh_normals_below_10_deg_percent"] > 90
    assert scores["surface_mean_mm"] == pytest.approx(1, rel=0.05)
    assert 1 < scores["depth_median_mm"] < 2 and scores["depth_median_mm"] < scores["depth_mean_mm"] < 3
    assert "temporal_jitter_mm" not in scores


def test_normals_that_are_turned_are_not_below_ten_degrees(capture, tmp_path):
    """Half of the head leans by a shear of 30 degrees, the other half is as it was."""
    truth = read_ply(CaptureFolder.open(capture).mesh("000000"))
    x = truth.vertices[:, 0]
    leaning = truth.vertices + np.c_[0 * x, np.tan(np.radians(30)) * np.maximum(x, 0), 0 * x]
    scores = [
        evaluate(written(tmp_path / name, {"000000": Mesh(at, truth.faces)}), capture, None, lambda *_: None)
        for name, at in (("straight", truth.vertices), ("leaning", leaning))
    ]
    straight, half = (each["mesh_normals_below_10_deg_percent"] for each in scores)
    assert 0.4 * straight < half < 0.8 * straight


def test_noise_from_frame_to_frame_is_jitter(capture, tmp_path):
    truth = read_ply(CaptureFolder.open(capture).mesh("000000"))
    draw = np.random.default_rng(3)
    noisy = {str(n): Mesh(truth.vertices + draw.normal(0, 1e-4, truth.vertices.shape), truth.faces) for n in range(3)}
    scores = evaluate(written(tmp_path, noisy), capture, None, lambda *_: None)
    assert scores["temporal_jitter_along_normals_mm"] == pytest.approx(0.1, rel=0.05)
    assert scores["temporal_jitter_mm"] == pytest.approx(0.1 * np.sqrt(3), rel=0.05)
    some = evaluate(tmp_path, capture, 2, lambda *_: None)
    assert "temporal_jitter_mm" not in some and "slid_median_mm" in some


def test_a_mesh_is_scored_against_sure_points(capture, tmp_path):
    """A capture whose truth is points: 2 mm off, some of them not sure."""
    cloud = tmp_path / "capture"
    cloud.mkdir()
    (cloud / "cameras.json").write_bytes((capture / "cameras.json").read_bytes())
    (cloud / "frames" / "000000").mkdir(parents=True)
    truth = read_ply(CaptureFolder.open(capture).mesh("000000"))
    points = truth.vertices + 2e-3 * vertex_normals(truth.vertices, truth.faces)
    points[::4] += 1.0
    np.savez(cloud / "points.npz", xyz=points, err=np.where(np.arange(len(points)) % 4 == 0, 2.0, 0.5))
    scores = evaluate(written(tmp_path / "out", {"000000": truth}), cloud, None, lambda *_: None)
    assert scores["surface_points_mean_mm"] == pytest.approx(2, rel=0.05)
    assert scores["surface_points_median_mm"] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("text", ["", "3,x", "0,3", "3,33", "3;4"])
def test_numbers_of_views_that_cannot_be_are_one_line(text):
    with pytest.raises(HeadstreamError, match="from 1 to 32"):
        parse_views(text)
    assert parse_views("8,3,3") == (3, 8)


@pytest.mark.parametrize("arguments", [[], ["somewhere", "--synthetic"]])
def test_either_a_result_or_synthetic_scenes(arguments):
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    assert isinstance(done.exception, HeadstreamError) and "give either" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "idle"),
    [
        (["somewhere", "--sets", "3"], ["--sets"]),
        (["somewhere", "--seed", "0", "--cache", "x"], ["--seed", "--cache"]),  # typed, though it is the usual one
        (["--synthetic", "--cameras", "ring"], ["--cameras"]),
        (["--synthetic", "--meshes", "3", "--truth", "x"], ["--meshes", "--truth"]),
        (["somewhere", "--truth", "x", "--engine", "torch"], ["--engine"]),
        (["somewhere", "--truth", "x", "--views", "3", "--size", "64"], ["--views", "--size"]),
        (["somewhere", "--truth", "x", "--cameras", "a", "--weights", "w"], ["--cameras", "--weights"]),
    ],
)
def test_options_that_would_change_nothing_are_refused_in_one_line(arguments, idle):
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    assert isinstance(done.exception, HeadstreamError)
    refused, _, known = str(done.exception).partition(" would change nothing; what goes with ")
    assert known and "\n" not in known and all(name in refused and name not in known for name in idle)


def test_a_result_without_truth_is_told_what_it_needs(tmp_path):
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path)])
    assert isinstance(done.exception, HeadstreamError) and "--truth" in str(done.exception)


def test_a_capture_without_normals_is_refused(shared_data):
    done = CliRunner().invoke(app, ["evaluate", str(shared_data / "skull")])
    assert isinstance(done.exception, HeadstreamError) and "no frame has true normals" in str(done.exception)
