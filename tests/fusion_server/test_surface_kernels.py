"""Every implementation of a frame's heavy steps against the CPU's, on one subject and through a whole track."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from surface_scene import Remeshing, blob, ring, skin, turned, views_of

from fusion_server.surface import SurfaceSettings, SurfaceTracker
from fusion_server.surface.cuda import CudaKernels
from fusion_server.surface.kernels import CPU, make_kernels
from fusion_server.surface.observation import look, observe
from fusion_server.surface.quality import fit_of
from fusion_server.surface.refine import Clock, Step, refine
from fusion_server.surface.rigid import rigid_step
from fusion_server.surface.solve import Shape, System, Topology
from geometry.mesh import vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.cuda import CudaRasterizer
from launch.checkpoint import _ROOMS
from launch.freeze import freeze, thaw
from protocol.errors import HeadstreamError

CAMERAS = ring(12, 96)  # so many that a face has more views than are kept for it


@pytest.fixture(scope="module")
def scene():
    """A subject whose normals its views disagree on a little, and a surface that is off by up to a millimetre."""
    mesh = blob(4)
    draw = np.random.default_rng(0)
    views = views_of(mesh, skin(4), CAMERAS, fine=3)
    for view in views:
        view.normal[...] += 0.1 * draw.normal(size=3)
        view.normal[...] /= np.maximum(np.linalg.norm(view.normal, axis=-1, keepdims=True), 1e-6)
        view.confidence[...] = draw.uniform(0.5, 2, view.confidence.shape)
    x, y, z = mesh.vertices.T
    off = 1e-3 * np.sin(40 * x + 30 * y) * np.cos(35 * z)
    vertices = mesh.vertices + off[:, None] * vertex_normals(mesh.vertices, mesh.faces)
    return vertices, views, Topology.of(mesh.faces, len(mesh.vertices))


def seen_with(scene, kernels, rasterizer=None):
    vertices, views, topology = scene
    return look(vertices, topology, observe(views, True, kernels), rasterizer or CpuRasterizer())


def orders(kernels):
    """Again and again, the emulation's threads in every order it has."""
    libraries = [each for each in kernels._library.values() if each.emulated]
    for order in (0, 1, 2):
        for library in libraries:
            library.emulate_order(order)
        yield order
    for library in libraries:
        library.emulate_order(0)


def test_fused_normals_are_the_cpu_s(scene, kernels):
    ours, theirs = seen_with(scene, kernels).fused, seen_with(scene, CPU).fused
    assert (theirs.weight > 0.1).mean() > 0.8 and (theirs.weight == 0).any()
    np.testing.assert_array_equal(ours.weight > 0, theirs.weight > 0)
    np.testing.assert_allclose(ours.normal, theirs.normal, atol=2e-6)
    np.testing.assert_allclose(ours.weight, theirs.weight, atol=1e-5)
    np.testing.assert_allclose(ours.agreement, theirs.agreement, atol=1e-5)


def test_what_a_warm_frame_asks_of_a_raster_stays_on_its_device(scene, device, kernels):
    seen = seen_with(scene, kernels, CudaRasterizer(device))
    refine(seen, scene[2], Step(10.0, 4e-3, 0.1, 3e-3), SurfaceSettings(), Clock())
    rigid_step(seen, scene[2], SurfaceSettings())
    fit_of(seen, scene[2])
    assert not {"face", "bary", "depth"} & vars(seen.raster).keys()  # nobody copied it out


@pytest.mark.parametrize(("reach", "step", "halvings"), [(3e-3, 0.75e-3, 0), (2e-3, 0.5e-3, 0), (3e-3, 0.75e-3, 1)])
def test_positions_from_pictures_are_the_cpu_s(scene, kernels, reach, step, halvings):
    topology = scene[2]
    found = []
    for each in (kernels, CPU):
        seen = seen_with(scene, each)
        pictures = seen.observation.pictures
        for _ in range(halvings):
            pictures = pictures.coarser
        found.append(
            each.photometric_positions(seen.shape, topology, seen.raster, seen.observation, pictures, reach, step)
        )
    ours, theirs = found
    both = np.isfinite(ours.variance) & np.isfinite(theirs.variance)
    assert np.isfinite(theirs.variance).mean() > 0.4
    # Sums in float32 and another order: a peak that stands at a threshold is found by one and not by the other.
    assert (np.isfinite(ours.variance) != np.isfinite(theirs.variance)).mean() < 2e-3
    off = np.linalg.norm(ours.points - theirs.points, axis=1)[both]
    assert np.percentile(off, 99) < 1e-6 and np.median(off) < 1e-7  # metres
    assert np.percentile(np.abs(ours.variance[both] / theirs.variance[both] - 1), 99) < 1e-2
    assert ours.scale == theirs.scale


@pytest.mark.parametrize("off", [-2e-3, 8e-3])
def test_contour_rows_are_the_cpu_s(scene, kernels, off):
    """Of a surface that is too small or too large, with a view that saw nothing and one whose picture ends early."""
    vertices, views, topology = scene
    views = list(views)
    views[1] = replace(views[1], mask=np.zeros_like(views[1].mask))
    half = np.ones(views[2].mask.shape, bool)
    half[:, 60:] = False
    views[2] = replace(views[2], valid=half)
    vertices = vertices + off * Shape.of(vertices, topology).normals
    ours, theirs = (
        each.contour_rows(seen.shape, topology, seen.raster, seen.observation, 10.0, 4e-3)
        for each in (kernels, CPU)
        for seen in [look(vertices, topology, observe(views, False, each), CpuRasterizer())]
    )
    assert len(theirs.edge) > 300 and ((theirs.share == 0) | (theirs.share == 1)).any() == (off > 0)
    for name in ("view", "edge"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("share", "gradient", "want", "weight"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-9)


def test_rigid_rows_and_overlap_are_the_cpu_s(scene, device, kernels):
    for rasterizer in (CpuRasterizer(), CudaRasterizer(device)):
        results = []
        for each, with_ in ((kernels, rasterizer), (CPU, CpuRasterizer())):
            seen = seen_with(scene, each, with_)
            center = scene[0].mean(0)
            rows = each.rigid_rows(seen.shape, scene[2], seen.raster, seen.observation, center)
            results.append((*rows, *each.overlap(seen.raster, seen.observation)))
        (a, b, *counts), (c, d, *others) = results
        np.testing.assert_allclose(a, c, atol=1e-6 * np.abs(c).max())
        np.testing.assert_allclose(b, d, atol=1e-6 * np.abs(d).max())
        np.testing.assert_array_equal(counts, others)
        assert (counts[0] > 1000).all() and (counts[0] < counts[1]).all()


def test_rows_of_normals_and_their_solution_are_the_cpu_s(scene, kernels):
    vertices, _, topology = scene
    shape = Shape.of(vertices, topology)
    draw = np.random.default_rng(1)
    wanted = shape.face_normals + 0.1 * draw.normal(size=shape.face_normals.shape)
    weights = np.maximum(draw.uniform(-0.2, 1, len(topology.faces)), 0) / 0.05**2
    systems = []
    for each in (kernels, CPU):
        system = System(topology)
        system.add_membrane(1e4, 1e5)
        each.add_normals(system, shape, wanted, weights)
        systems.append(system)
    for name in ("diagonal", "off", "right"):
        ours, theirs = (getattr(system, name) for system in systems)
        np.testing.assert_allclose(ours, theirs, atol=1e-10 * np.abs(theirs).max())
    for steps in (1, 3, 30, 2000):  # a few, as many as a frame takes, and long after it is solved
        ours, theirs = kernels.solve(systems[1], steps), CPU.solve(systems[1], steps)
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * np.abs(theirs).max())


def test_a_system_that_wants_nothing_moves_nothing(scene, kernels):
    system = System(scene[2])
    system.add_membrane(1e4, 1e5)
    assert not kernels.solve(system, 30).any()


def test_a_frame_is_the_same_whichever_thread_comes_first(scene, kernels):
    results = []
    for _ in orders(kernels):
        seen = seen_with(scene, kernels)
        vertices, held = refine(seen, scene[2], Step(10.0, 4e-3, 0.1, 3e-3), SurfaceSettings(), Clock())
        motion = rigid_step(seen, scene[2], SurfaceSettings())
        results.append((vertices, held.points, motion))
    for each in results[1:]:
        for ours, first in zip(each, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)


def test_an_iteration_moves_a_surface_as_the_cpu_does(scene, device, kernels):
    step = Step(10.0, 4e-3, 0.1, 3e-3)
    ours, theirs = (
        refine(seen_with(scene, each, rasterizer), scene[2], step, SurfaceSettings(), Clock())[0]
        for each, rasterizer in ((kernels, CudaRasterizer(device)), (CPU, CpuRasterizer()))
    )
    moved = np.linalg.norm(theirs - scene[0], axis=1)
    off = np.linalg.norm(ours - theirs, axis=1)
    assert np.median(moved) > 0.2e-3
    assert np.median(off) < 1e-7 and np.percentile(off, 99) < 5e-6  # metres


def test_what_a_frame_left_on_the_device_goes_with_it(scene, kernels):
    before = len(kernels._maps._held)
    seen = seen_with(scene, kernels)
    assert seen.fused is not None and len(kernels._maps._held) == before + 1
    del seen
    assert len(kernels._maps._held) == before


def test_a_track_follows_as_it_does_on_the_cpu(device, monkeypatch):
    """Keyframe, turn, expression, and what a checkpoint keeps between frames: once it refused a tracker on a device."""
    settings = SurfaceSettings(vertices=800, hull_cells=32, keyframe_iterations=8, uv=False)
    meshes = [blob(4), turned(blob(4), 3.0), turned(blob(4, 2e-3), 5.0)]
    takes, remeshing = [], Remeshing(monkeypatch)
    for tracker, shared in (
        (SurfaceTracker(settings, CpuRasterizer()), remeshing.record),
        (
            SurfaceTracker(settings, CudaRasterizer(device), CudaKernels(device)),
            partial(remeshing.replay, furthest=2e-5),
        ),
    ):
        shared()
        surfaces = []
        for mesh in meshes:
            surfaces.append(tracker.update(views_of(mesh, skin(4), CAMERAS[::2], fine=3)))
            tracker.restore(thaw(freeze(tracker.state(), _ROOMS), _ROOMS))
        takes.append(surfaces)
    assert not remeshing.left
    for theirs, ours in zip(*takes, strict=True):
        assert ours.kind == theirs.kind and ours.quality.flags == theirs.quality.flags
        assert ours.quality.silhouette_iou == pytest.approx(theirs.quality.silhouette_iou, abs=2e-3)
        assert ours.quality.normal_residual_deg == pytest.approx(theirs.quality.normal_residual_deg, rel=0.02, abs=0.02)


def test_kernels_that_are_not_there_are_named_with_those_that_are():
    with pytest.raises(HeadstreamError, match=r"surface.kernels: 'gpu'; must be 'cpu' or 'cuda'"):
        make_kernels("gpu")
    assert make_kernels("cpu") is CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_that_cannot_run_here_say_why_and_what_can():
    with pytest.raises(
        HeadstreamError, match=r"^surface.kernels: 'cuda' cannot run here: .* no CUDA GPU here; 'cpu' can"
    ):
        make_kernels("cuda")
