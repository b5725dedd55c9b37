"""The benchmark's reference finds a shape by gradient descent, and its curve is drawn."""

from __future__ import annotations

import importlib

import cv2
import numpy as np
import pytest
import torch
from surface_scene import blob, icosphere, ring, skin, turned, views_of

from geometry.device.build import compiler
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.cuda import CudaRasterizer


@pytest.fixture
def reference(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("benchmarks.reference")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("device", [None, "cpu"], ids=["cpu", "emulated"])
def test_descent_comes_nearer_to_the_subject(reference, device):
    """Whoever draws for it."""
    if device and compiler(cuda=False) is None:
        pytest.skip("no C++ compiler for the emulation")
    rasterizer = CudaRasterizer(device) if device else CpuRasterizer()
    truth = blob(4)
    views = views_of(truth, skin(4), ring(4, 48), fine=1)
    sphere = icosphere(3)
    start = Mesh(sphere.vertices * (0.07, 0.10, 0.08), sphere.faces)
    way = reference.descent(start, views, 5e-3, rasterizer)
    for _ in range(20):
        vertices = next(way)
    index = SurfaceIndex(truth)
    before, after = (np.median(index.distances(points)) for points in (start.vertices, vertices))
    assert after < 0.5 * before


def test_the_plot_shows_each_curve(reference, tmp_path):
    runs = {
        kind: [
            reference.Curve(name, [0, 1, 4], [0.0, 0.5, 2.0], [2.0, level, level / 2], [3.0, 2.0, 1.0])
            for name, level in (("one", scale * 1.0), ("two", scale * 0.6), ("three", scale * 0.3))
        ]
        for kind, scale in (("warm", 1.0), ("cold", 1.2))
    }
    reference.drawn(runs, "title", tmp_path / "deep" / "plot.png")
    picture = cv2.imread(str(tmp_path / "deep" / "plot.png")).astype(int)
    for half in np.split(picture, 2, axis=1):  # by steps, by seconds
        for colour in reference.COLOURS[:3]:
            assert (np.abs(half[-500:] - colour).max(2) < 5).sum() > 200


def test_a_curve_is_told_where_it_was_measured_and_not_beyond(reference):
    curve = reference.Curve("one", [0, 1, 4], [0.0, 0.5, 2.0], [2.0, 1.0, 0.5], [3.0, 2.0, 1.0])
    assert [curve.at(curve.steps, mark) for mark in (0, 1, 3, 4, 5)] == [
        "", "1.000 / 2.00", "1.000 / 2.00", "0.500 / 1.00", "",
    ]  # fmt: skip
    assert curve.at(curve.seconds, 0.2) == ""  # the first step took longer


def test_a_way_is_measured_at_its_end_and_at_the_steps_that_are_told(reference):
    mesh = blob(1)
    ways = iter([mesh.vertices + n for n in range(1, 8)])
    curve = reference.trace(
        "one", mesh, ways, lambda found: (float(found.vertices[0, 0] - mesh.vertices[0, 0]), 9.0), 60
    )
    assert {0, 1, 2, 3, 5, 7} <= set(curve.steps) and curve.steps[-1] == 7
    assert curve.median == pytest.approx(curve.steps)


def test_a_warm_frame_is_tried_from_the_same_track_each_time(reference):
    cameras = ring(6, 64)
    moved = turned(blob(4), 2.0, (4e-3, 0.0, 3e-3))
    before, after = (views_of(mesh, skin(4), cameras) for mesh in (blob(4), moved))
    start, state = reference.warm_start(before, 800)
    index = SurfaceIndex(moved)

    def error(mesh):
        distances = index.distances(mesh.vertices)
        return float(np.median(distances)), float(np.percentile(distances, 95))

    curve, flags = reference.shipped(start, state, after, 800, error)
    again, _ = reference.shipped(start, state, after, 800, error)
    assert curve.steps == [0, *(count + 1 for count in reference.SHIPPED)]  # it went far
    assert curve.median == again.median and curve.median[0] == error(start)[0]
    assert max(curve.median[1:]) < 0.5 * curve.median[0]
    assert not flags
