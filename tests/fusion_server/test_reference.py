"""The benchmark's reference finds a shape by gradient descent, and its curve is drawn."""

from __future__ import annotations

import importlib

import cv2
import numpy as np
import pytest
import torch
from surface_scene import blob, icosphere, ring, skin, views_of

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
    curves = [
        reference.Curve(name, [0.0, 0.5, 2.0], [2.0, level, level / 2], [3.0, 2.0, 1.0], 2)
        for name, level in (("one", 1.0), ("two", 0.6), ("three", 0.3))
    ]
    reference.plot(curves, tmp_path / "deep" / "plot.png", "title")
    picture = cv2.imread(str(tmp_path / "deep" / "plot.png")).astype(int)
    for colour in ((180, 90, 20), (30, 140, 30), (40, 40, 200)):
        assert (np.abs(picture - colour).max(2) < 5).sum() > 200
