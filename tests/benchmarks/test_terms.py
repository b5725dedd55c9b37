"""What is switched off is off, and nothing else; what is measured lands in the right column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from surface_scene import blob, ring, skin, turned, views_of

from benchmarks.terms import FIRST, TILE, WARM, Kernels, Terms, drawn, made, opened, row, sheet, spread, taken
from fusion_server.surface import SurfaceTracker
from fusion_server.surface.kernels import CPU
from fusion_server.surface.observation import look, observe
from fusion_server.surface.solve import System, Topology
from geometry.mesh import read_ply
from geometry.rasterize.cpu import CpuRasterizer
from protocol.calibration import Calibration, save_calibration
from protocol.errors import HeadstreamError

COUNT = 800


@pytest.fixture(scope="module")
def take():
    cameras = ring(6, 64)
    return {f"{n:03}": views_of(turned(blob(4), 2.0 * n), skin(4), cameras) for n in range(2)}


def surfaces(take, settings, kernels):
    tracker = SurfaceTracker(replace(settings, hull_cells=40, keyframe_iterations=8), CpuRasterizer(), kernels)
    return [tracker.update(views) for views in take.values()]


def test_with_everything_the_kernels_are_the_cpu_s(take):
    terms = Terms()
    ours, theirs = (surfaces(take, terms.settings(COUNT), kernels) for kernels in (Kernels(terms), CPU))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)


def test_pictures_that_find_nothing_are_as_good_as_none(take):
    """So that the skin, which needs pictures, can stay where they are not compared."""
    lone = {name: take[name] for name in list(take)[:1]}
    (quiet,) = surfaces(lone, Terms().settings(COUNT), Kernels(Terms(photometric=False)))
    (without,) = surfaces(lone, Terms(photometric=False, skin=False).settings(COUNT), CPU)
    (whole,) = surfaces(lone, Terms().settings(COUNT), CPU)
    np.testing.assert_array_equal(quiet.vertices, without.vertices)
    assert quiet.vertices.shape != whole.vertices.shape or not np.array_equal(quiet.vertices, whole.vertices)


def test_without_normals_none_moves_a_vertex_or_the_head(take):
    mesh = blob(3)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    (views,) = list(take.values())[:1]
    kernels = Kernels(Terms(normals=False))
    seen = look(mesh.vertices * 1.02, topology, observe(views, False, kernels), CpuRasterizer())
    for each, moves in ((kernels, False), (CPU, True)):
        system = System(topology)
        each.add_normals(system, seen.shape, seen.fused.normal, seen.fused.weight)
        rows = each.rigid_rows(seen.shape, topology, seen.raster, seen.observation, np.zeros(3))
        for values in (system.right, system.off, *rows):
            assert np.any(values) == moves
    assert seen.fused.weight.any()  # they are still there to judge by


def test_meshes_are_written_by_frame_and_a_take_that_cannot_begin_says_so(take, tmp_path):
    flags, failed = made(Terms(), [take], COUNT, tmp_path)
    assert sorted(path.stem for path in (tmp_path / "mesh").iterdir()) == list(take) and not failed
    assert "lost" not in flags
    first, second = (read_ply(tmp_path / "mesh" / f"{name}.ply") for name in take)
    np.testing.assert_array_equal(first.faces, second.faces)
    empty = [type(view)(view.camera, view.normal, view.confidence, 0 * view.mask, view.image, view.image_camera)
             for view in take["000"]]  # fmt: skip
    _, failed = made(Terms(), [{"007": empty}], COUNT, tmp_path / "none")
    assert failed.startswith("frame 007: ") and not (tmp_path / "none").exists()


def test_every_row_of_the_tables_is_another_surface():
    assert len(set(FIRST.values())) == len(FIRST) and len(set(WARM.values())) == len(WARM)
    assert Terms(photometric=False).settings(COUNT).photometric  # for the skin
    assert not Terms(photometric=False, skin=False).settings(COUNT).photometric


def test_cells_are_under_their_columns():
    scores = {
        "meshes": 3, "surface_median_mm": 0.25, "surface_mean_mm": 0.5, "surface_95_mm": 2.0, "depth_median_mm": 9.0,
        "mesh_normals_mean_deg": 6.66, "mesh_normals_below_10_deg_percent": 84.6, "slid_median_mm": 1.0,
        "slid_95_mm": 3.0,
    }  # fmt: skip
    assert row(scores) == {
        "meshes": "3",
        "median / mean / 95 % mm": "0.25 / 0.50 / 2.00",
        "mesh normals, deg": "6.7",
        "below 10 deg, %": "85",
        "slid, median / 95 % mm": "1.00 / 3.00",
    }
    points = {"meshes": 1, "surface_points_median_mm": 0.42, "surface_points_mean_mm": 1.0, "surface_points_95_mm": 6.4}
    assert row(points)["median / mean / 95 % mm"] == "0.42 / 1.00 / 6.40"
    assert row(points)["mesh normals, deg"] == ""


def test_frames_are_spread_and_takes_are_long_enough():
    names = [f"{n:03}" for n in range(300)]
    assert spread(names, 3) == ["000", "100", "200"]
    assert spread(["000"], 3) == ["000"]
    assert taken(names, 2, 3) == ["000", "003", "006"]
    assert taken(names, 0, 3) == taken(["000"], 5, 3) == []  # not wanted; one moment
    with pytest.raises(HeadstreamError, match="needs 301 frames; there are 300"):
        taken(names, 100, 3)


def test_a_capture_is_opened_with_the_cameras_it_names(tmp_path):
    folder = tmp_path / "a:b"
    (folder / "frames" / "000").mkdir(parents=True)
    save_calibration(Calibration(ring(4, 32), {"front": ("cam0", "cam1")}), folder / "cameras.json")
    assert opened(str(folder))[1].names == ("cam0", "cam1", "cam2", "cam3")
    assert opened(f"{folder}:front")[1].names == ("cam0", "cam1")
    with pytest.raises(HeadstreamError, match="back"):
        opened(f"{folder}:back")


def test_a_mesh_is_drawn_where_its_camera_sees_it():
    (camera, *_) = ring(4, 96)
    tile = drawn(blob(3), camera)
    assert tile.shape == (TILE, TILE, 3) and (tile[:10] == 255).all()
    assert tile[TILE // 2, TILE // 2].max() < 255 and np.ptp(tile[..., 0][tile[..., 0] < 255].astype(int)) > 60
    both = sheet({"one": tile, "two": tile})
    assert both.shape == (TILE + 30, 2 * TILE, 3) and (both[:30] < 100).any()
