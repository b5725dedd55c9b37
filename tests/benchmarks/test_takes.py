"""Played takes: what is summarised, what goes wrong on request, and what another exposure of a picture is."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO

import cv2
import numpy as np
import pytest
from rich.console import Console

from benchmarks._phases import Phase, around, back_after, drift, flags_in, said, typical, whole
from benchmarks._tables import accuracy_table, add_rows
from benchmarks._takes import Fault, Played, faulty, order, photographed, trembling, truth_views
from fusion_server.surface import Quality, View
from geometry.measure import DistanceSummary
from geometry.mesh import Mesh, write_ply
from models.synthetic.photography import through_jpeg
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.capture_folder import CaptureFolder


def frame(number: int, median: float | None, p95: float = 1e-3, flags: tuple[str, ...] = ()) -> Played:
    distances = None if median is None else DistanceSummary(10, median, median, p95)
    quality = Quality(0.95, 5.0, 0, 0.9, flags)
    return Played(number, "warm" if number else "keyframe", quality, {}, 1.0, distances, distances, None)


def view(name: str, seed: int) -> View:
    size = 8
    picture = np.random.default_rng(seed).integers(0, 255, (size, size), np.uint8)
    camera = Camera(name, size, size, np.diag([9.0, 9.0, 1.0]), np.zeros(5), np.eye(3), np.array([0.0, 0.0, 1.0]))
    return View(camera, np.zeros((size, size, 3)), np.ones((size, size)), np.ones((size, size)), picture, camera)


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize(("there", "count", "stride"), [(37, 90, 8), (300, 45, 8), (5, 12, 1), (1, 4, 1), (2, 5, 3)])
def test_no_step_of_a_take_is_larger_than_the_stride(there, count, stride, loop):
    chosen = np.array(order(there, count, stride, loop))
    assert len(chosen) == count and chosen[0] == 0 and chosen.min() >= 0 and chosen.max() < there
    step = np.abs(np.diff(chosen))
    step = np.minimum(step, there - step) if loop else step
    assert step.max() <= stride
    if there > stride:
        assert chosen[1] == stride


def test_a_take_that_is_long_enough_is_played_in_order():
    assert order(10, 10, 1, True) == order(10, 10, 1, False) == list(range(10))


@pytest.mark.parametrize(
    ("errors", "first", "after"),
    [
        ([9, 9, 9, 1, 1, 1, 1], 1, 2),
        ([9, 1, 1, 1], 1, 0),
        ([9, 1, 9, 1, 1, 9, 1, 1, 1], 1, 5),  # a lucky frame is no recovery
        ([1, 1, 1, 9, 9, 9, 9], 3, None),
        ([9, 9, 9, 9, 9, 1, 1], 1, None),  # too few are left to tell
    ],
)
def test_recovery_is_the_first_of_several_good_frames_in_a_row(errors, first, after):
    assert back_after(dict(enumerate(errors)), first, 1.5) == after


def test_recovery_counts_frames_also_where_not_all_are_measured():
    assert back_after({0: 9, 3: 9, 6: 9, 9: 1, 12: 1, 15: 1}, 3, 1.5) == 6


def test_drift_is_of_the_measured_warm_frames_at_either_end():
    played = [frame(0, 9e-3)] + [frame(n, 1e-4 if n <= 30 else 5e-4 if n < 71 else 2e-4) for n in range(1, 101)]
    assert drift(played) == pytest.approx((2.0, 1.0))
    thinned = [each if each.frame % 5 == 0 else frame(each.frame, None) for each in played]  # 20 are: halves
    assert drift(thinned) == pytest.approx((2.0, 1.0))
    assert drift([frame(0, 1e-4), frame(1, 1e-4)]) is None


def test_a_single_bad_frame_is_in_the_table_with_its_number():
    played = [frame(n, 1e-4, 5e-4) for n in range(300)]
    played[217] = frame(217, 1e-3, 3e-3)
    played[40] = frame(40, 1.1e-4, 9e-3)
    assert typical(played).median == pytest.approx(1e-4)  # a median of medians does not notice
    table = accuracy_table("take")
    add_rows(table, "true", played, whole(len(played)))
    shown = printed(table)
    assert "0.100 / 0.50" in shown
    assert "1.000 (217) / 9.00 (40)" in shown


def test_a_fault_s_table_says_when_the_surface_is_back_and_what_was_flagged():
    count = 90
    fault = Fault.within("lost", count)
    assert fault.frames == range(30, 60)  # a second at 30 frames a second
    played = [
        frame(n, 5e-4 if 30 <= n < 64 else 1e-4, 4e-3 if 30 <= n < 66 else 1e-3, ("uncertain",) * (31 <= n < 50))
        for n in range(count)
    ]
    table = accuracy_table("take")
    rows = add_rows(table, "true", played, around(fault, count))
    shown = printed(table)
    assert "4 / 6" in shown
    assert "uncertain x19 (from 31)" in shown
    assert {part: len(frames) for (_, part), frames in rows.items()} == {
        "keyframe": 1,
        "before": 29,
        "during": 30,
        "after": 30,
    }


def test_what_is_wrong_from_the_start_is_compared_with_a_take_without_it():
    fault = Fault.within("turned-from-start", 90)
    assert fault.frames == range(0, 60)
    phases = around(fault, 90)
    assert [phase.name for phase in phases] == ["keyframe", "during", "after"]
    played = [frame(n, 3e-4 if n < 62 else 1e-4) for n in range(90)]
    alone, compared = accuracy_table("take"), accuracy_table("take")
    add_rows(alone, "true", played, phases)
    add_rows(compared, "true", played, phases, [frame(n, 1e-4) for n in range(1, 30)])
    assert "2 / 0" in printed(compared)
    assert "2 / 0" not in printed(alone)  # nothing to compare with


def test_flags_are_counted_from_where_they_begin():
    played = [frame(n, None, flags=("stuck:cam1", "uncertain")[: 1 + (n > 5)] if n > 3 else ()) for n in range(8)]
    assert flags_in(played) == {"stuck:cam1": (4, 4), "uncertain": (2, 6)}
    assert flags_in(Phase("early", range(3)).of(played)) == {}


def test_every_number_that_the_tracker_says_of_itself_is_shown():
    @dataclass(frozen=True)
    class Wider(Quality):
        photometric_residual: float | None = None

    played = [
        Played(n, "warm", Wider(0.9 + n / 100, 5.0, n, 0.9, (), None if n == 0 else 2.0 * n), {}, 1.0, None, None, None)
        for n in range(3)
    ]
    numbers = said(played)
    assert set(numbers) == {
        "silhouette_iou",
        "normal_residual_deg",
        "inverted",
        "confidence",
        "photometric_residual",
    }
    assert numbers["inverted"] == (1.0, 0.0, 2.0)
    assert numbers["photometric_residual"] == (3.0, 2.0, 4.0)
    assert said([]) == {}


def test_faults_touch_the_cameras_that_they_name_and_no_other():
    views, last = [view(f"cam{n}", n) for n in range(8)], [view(f"cam{n}", 50 + n) for n in range(8)]
    lost = faulty(views, last, "lost")
    assert [each.camera.name for each in lost] == ["cam0", "cam2", "cam3", "cam5", "cam6", "cam7"]
    frozen = faulty(views, last, "frozen")
    assert frozen[1] is last[1] and frozen[0] is views[0] and frozen[2:] == views[2:]
    for name in ("turned", "turned-from-start"):
        turned = faulty(views, last, name)
        assert turned[0] is views[0] and turned[2:] == views[2:]
        for camera in (turned[1].camera, turned[1].image_camera):
            away = camera.R @ views[1].camera.R.T
            assert np.degrees(np.arccos((np.trace(away) - 1) / 2)) == pytest.approx(1.0)
            np.testing.assert_allclose(camera.center, views[1].camera.center, atol=1e-12)


def test_another_exposure_trembles_as_pictures_of_the_scene_do():
    """Though it is made of a picture that went through JPEG: rounded on the same grid again it would keep a third."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[0:128, 0:128]
    scene = np.stack([120 + 30 * np.sin(x / 9), 110 + 20 * np.cos(y / 7), 90 + 25 * np.sin((x + y) / 11)], -1)
    scene += 4 * draw.standard_normal((128, 128, 1))  # skin has pores
    noise = 1.1 * np.sqrt(1.6 * scene / 255 + 0.1)

    def exposed():
        levels = np.clip(scene + noise * draw.standard_normal(scene.shape) + 0.5, 0, 255)
        return through_jpeg(levels.astype(np.uint8), 92)

    def tremble(pictures):
        return np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(float) for each in pictures]).std(0).mean()

    picture = exposed()
    again = [photographed(picture, draw) for _ in range(12)]
    assert again[0].shape == picture.shape and again[0].dtype == np.uint8
    assert tremble(again) == pytest.approx(tremble([exposed() for _ in range(12)]), rel=0.1)
    assert abs(np.mean(again) - picture.mean()) < 0.2  # no brighter and no darker


def test_the_inside_of_an_open_mesh_is_no_true_normal(tmp_path):
    """A baked head's mesh has no inside of the mouth: behind open lips a camera sees the head's back from within."""
    size = 32
    left, right = [[-1, -1, 2], [0, -1, 2], [0, 1, 2], [-1, 1, 2]], [[0, -1, 2], [1, -1, 2], [1, 1, 2], [0, 1, 2]]
    faces = np.array([[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7]], np.int32)  # toward the camera, and away from it
    camera = Camera(
        "cam0", size, size, np.array([[24.0, 0, 15.5], [0, 24.0, 15.5], [0, 0, 1]]), np.zeros(5), np.eye(3), np.zeros(3)
    )
    (tmp_path / "frames" / "000").mkdir(parents=True)
    (tmp_path / "mesh").mkdir()
    save_calibration(Calibration((camera,), {}), tmp_path / "cameras.json")
    write_ply(tmp_path / "mesh" / "000.ply", Mesh(np.array(left + right, float), faces))
    for name, level in (("cam0.jpg", 90), ("cam0_mask.png", 255)):
        cv2.imwrite(str(tmp_path / "frames" / "000" / name), np.full((size, size), level, np.uint8))
    (seen,) = truth_views(CaptureFolder.open(tmp_path), "000", size)
    np.testing.assert_allclose(seen.normal[10:20, 6:12], np.broadcast_to([0, 0, -1], (10, 6, 3)), atol=1e-6)
    assert (seen.confidence[10:20, 6:12] == 1).all()
    assert (seen.normal[10:20, 20:26] == 0).all() and (seen.confidence[10:20, 20:26] == 0).all()


def test_jitter_is_across_the_surface_and_about_each_vertex_s_own_mean():
    draw = np.random.default_rng(4)
    normals = np.tile([0.0, 0.0, 1.0], (50, 1))
    place = draw.normal(size=(50, 3))
    along, across = draw.normal(size=(2, 400, 50, 1)) * np.array([2e-5, 5e-4])[:, None, None, None]
    vertices = place + along * [0, 0, 1] + across * [1, 0, 0]
    assert trembling(vertices, normals).median == pytest.approx(2e-5, rel=0.1)
    assert trembling(np.stack([place] * 5), normals).p95 == pytest.approx(0, abs=1e-12)


def printed(table) -> str:
    text = StringIO()
    Console(width=220, file=text).print(table)
    return text.getvalue()
