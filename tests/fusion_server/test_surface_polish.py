"""A keyframe polished on pictures as fine as there are, by normals that tell relief alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from surface_scene import Remeshing, blob, ring, skin, views_of, wrong_alike

from fusion_server.surface import SurfaceSettings, SurfaceTracker, keyframe
from fusion_server.surface.base import Rig
from fusion_server.surface.bias import Bias
from fusion_server.surface.cuda import CudaKernels
from fusion_server.surface.fuse import Fused
from fusion_server.surface.kernels import CPU
from fusion_server.surface.keyframe import _by_few_pixels
from fusion_server.surface.observation import look, observe
from fusion_server.surface.photometric import FOOTPRINT, Positions, spare_halvings
from fusion_server.surface.refine import Step, compared, refine
from fusion_server.surface.solve import Topology
from geometry.measure import SurfaceIndex
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.cuda import CudaRasterizer

STEP = Step(gate=10.0, scale=4e-3, relax=0.3, reach=3e-3)
SETTINGS = SurfaceSettings(vertices=1500, keyframe_iterations=9, hull_cells=48, uv=False)


@pytest.fixture(scope="module")
def fine():
    """Maps of 64 pixels, pictures of 1024: one halving finer than is usual."""
    return views_of(blob(5), skin(5), ring(8, 64), fine=16)


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((a * b).sum(1), -1, 1)))


def test_the_trend_of_normals_is_told_from_their_relief(fine):
    mesh = blob(4)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    seen = look(mesh.vertices, topology, observe(fine, True), CpuRasterizer())
    draw, faces = np.random.default_rng(1), seen.shape.face_normals
    middle = mesh.vertices[mesh.faces].mean(1)
    wide = 0.2 * np.sin(40 * middle[:, [1, 2, 0]] + (0.0, 1.0, 2.0))  # 11 degrees, 16 cm long
    relief = draw.normal(0, 0.1, faces.shape)  # 6 degrees either way, another on each face
    observed = faces + wide + relief
    observed /= np.linalg.norm(observed, axis=1, keepdims=True)
    relieved = faces + relief
    relieved /= np.linalg.norm(relieved, axis=1, keepdims=True)
    seen.__dict__["fused"] = Fused(observed, np.ones(len(faces)), np.ones(len(faces)))
    left = Bias.of_trend(seen, topology, 7e-3).off_normals(seen.fused, seen.shape, topology).normal
    assert np.median(angle(observed, relieved)) > 9
    assert np.median(angle(left, relieved)) < 3
    assert np.median(angle(left, faces)) == pytest.approx(np.median(angle(relieved, faces)), rel=0.1)


def test_normals_without_a_vote_have_no_say_in_the_trend(fine):
    mesh = blob(4)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    seen = look(mesh.vertices, topology, observe(fine, True), CpuRasterizer())
    weight = (mesh.vertices[mesh.faces].mean(1)[:, 0] > 0).astype(float)
    wrong = np.where(weight[:, None] > 0, seen.shape.face_normals, -seen.shape.face_normals)
    seen.__dict__["fused"] = Fused(wrong, weight, weight)
    assert np.abs(Bias.of_trend(seen, topology, 7e-3).tilt).max() < 1e-9


@pytest.mark.parametrize(
    ("picture", "maps", "halvings"),
    [((512, 512), (256, 256), 0), ((512, 512, 3), (192, 192), 0), ((1024, 1024), (512, 512), 0),
     ((96, 96), (64, 64), 0), ((1024, 1024), (256, 256), 1), ((1424, 1424), (256, 256), 1),
     ((2048, 1500, 3), (256, 256), 2)],
)  # fmt: skip
def test_how_much_finer_pictures_are_than_is_usual(picture, maps, halvings):
    assert spare_halvings(picture, maps) == halvings


def test_a_step_looks_at_the_usual_pictures_and_a_finer_one_at_finer(fine):
    observation = observe(fine, True)
    usual = replace(observation, pictures=observation.pictures.coarser)
    assert (observation.spare_halvings, usual.spare_halvings) == (1, 0)
    mesh = blob(4)
    topology = Topology.of(mesh.faces, len(mesh.vertices))

    def found(seen_in, halvings):
        seen = look(mesh.vertices, topology, seen_in, CpuRasterizer())
        return compared(seen, topology, replace(STEP, halvings=halvings))

    np.testing.assert_array_equal(found(observation, 0).points, found(usual, 0).points)
    np.testing.assert_array_equal(found(observation, 1).points, found(usual, 1).points)
    assert found(observation, -1).scale == pytest.approx(found(usual, 0).scale / 2)
    np.testing.assert_array_equal(found(usual, -1).points, found(usual, 0).points)  # there are none finer


def test_polished_it_is_nearer_where_all_views_have_the_normals_wrong_alike():
    """No view contradicts, pictures do."""
    mesh = blob(5)
    views = wrong_alike(views_of(mesh, skin(5), ring(8, 128), fine=3))
    errors, iterations = [], []
    for polish in (0, 6):
        frame = SurfaceTracker(replace(SETTINGS, polish=polish), CpuRasterizer()).update(views)
        assert frame.quality.inverted == 0 and frame.kind == "keyframe"
        errors.append(np.percentile(SurfaceIndex(mesh).distances(frame.vertices), (50, 95)))
        iterations.append(frame.iterations)
    assert iterations[1] == iterations[0] + 6
    assert errors[1][0] < 0.8 * errors[0][0] and errors[1][1] < errors[0][1]


@pytest.mark.parametrize(("pixels", "times"), [(8.0, 1.0), (4.0, 1.0), (2.0, 4.0), (1.0, 16.0)])
def test_patches_of_few_pixels_know_less(pixels, times):
    held = Positions(np.zeros((3, 3)), np.array([1e-8, 4e-8, np.inf]), scale=0.5)
    less = _by_few_pixels(held, edge=pixels * 0.5 * FOOTPRINT)
    np.testing.assert_allclose(less.variance, times * held.variance)


def test_each_size_of_pictures_is_polished_on_in_turn_and_without_the_normals_trend(fine, monkeypatch):
    """First the usual pictures, then the finer ones; positions of few pixels count less than the search says."""
    steps, asked, trends = [], [], []

    def searching(seen, topology, step):
        steps.append(step.halvings)
        asked.append(compared(seen, topology, step))
        return asked[-1]

    def refining(seen, topology, step, settings, clock, held=None, rest=None, bias=None):
        if held is not None:  # as only polishing hands it in
            finite = np.isfinite(held.variance)
            assert steps[-1] == step.halvings and settings.sigma_normal > SETTINGS.sigma_normal
            assert (held.variance[finite] > 1.5 * asked[-1].variance[finite]).all()
            trends.append((bias.tilt, Bias.of_trend(seen, topology, keyframe._RELIEF).tilt))
        return refine(seen, topology, step, settings, clock, held, rest, bias)

    monkeypatch.setattr(keyframe, "compared", searching)
    monkeypatch.setattr(keyframe, "refine", refining)
    monkeypatch.setattr(keyframe, "_ENOUGH", 100.0)
    SurfaceTracker(replace(SETTINGS, polish=2), CpuRasterizer()).update(fine)
    assert steps == [0, 0, -1, -1]
    assert len(trends) == 4
    for used, trend in trends:
        np.testing.assert_array_equal(used, trend)


def test_a_pixel_covers_more_of_what_is_farther_away():
    rig = Rig.of(ring(8, 64))
    near = rig.footprint(np.zeros(3))
    assert near == pytest.approx(np.linalg.norm(rig.center[0]) / rig.focal[0])
    assert rig.footprint(np.array([0.0, 3.0, 0.0])) > 2 * near


def test_without_photometry_there_is_nothing_to_polish_by(fine):
    tracker = SurfaceTracker(replace(SETTINGS, photometric=False, polish=4), CpuRasterizer())
    plain = SurfaceTracker(replace(SETTINGS, photometric=False), CpuRasterizer())
    np.testing.assert_array_equal(tracker.update(fine).vertices, plain.update(fine).vertices)


def test_fine_pictures_make_the_same_track_with_cuda_s_kernels(fine, monkeypatch):
    """Emulated: a keyframe, and a warm frame, which goes step by step beside pictures this fine."""
    settings = replace(SETTINGS, vertices=800, polish=2, keyframe_iterations=8)
    ours, theirs = (
        SurfaceTracker(settings, CpuRasterizer(), CPU),
        SurfaceTracker(settings, CudaRasterizer("cpu"), CudaKernels("cpu")),
    )
    remeshing = Remeshing(monkeypatch)
    for kind in ("keyframe", "warm"):
        remeshing.record()
        one = ours.update(fine)
        assert len(remeshing.left) == (3 if kind == "keyframe" else 0)
        remeshing.replay()
        other = theirs.update(fine)
        assert not remeshing.left
        assert one.kind == other.kind == kind
        assert np.median(np.linalg.norm(one.vertices - other.vertices, axis=1)) < 2e-6


@pytest.mark.parametrize(("times", "fewest", "most"), [(2, 4_300, 5_200), (8, 17_000, 22_000)])
def test_nobody_counted_so_there_are_as_many_vertices_as_pictures_tell_apart(times, fewest, most):
    """Edges of four pixels, 10 mm and 2.5, on 0.11 m^2; never fewer than 5,000."""
    settings = replace(SETTINGS, vertices=0, keyframe_iterations=7)
    views = views_of(blob(5), skin(5), ring(8, 64), fine=times)
    frame = SurfaceTracker(settings, CpuRasterizer()).update(views)
    assert fewest < len(frame.vertices) < most
