"""Gradients through the rasteriser, against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shapes import octahedron_sphere

from geometry.cameras import projection_matrix
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.differentiable import antialias, interpolate, outlines, to_pixels
from protocol.calibration import Camera

K = np.array([[60.0, 0, 23.3], [0, 62, 19.6], [0, 0, 1]])
TURN = np.array([[np.cos(0.9), 0, -np.sin(0.9)], [0, 1, 0], [np.sin(0.9), 0, np.cos(0.9)]])
CAMERAS = [
    Camera("front", 48, 40, K, np.zeros(5), np.eye(3), np.array([0.02, -0.01, 3.0])),
    Camera("side", 48, 40, K, np.zeros(5), TURN, np.array([0.0, 0.05, 3.2])),
]
MATRICES = torch.tensor(np.stack([projection_matrix(camera) for camera in CAMERAS]))


@pytest.fixture(scope="module")
def scene():
    mesh = octahedron_sphere(2)
    vertices = mesh.vertices * [0.7, 0.9, 0.8]
    raster = CpuRasterizer().rasterize(vertices, mesh.faces, CAMERAS)
    return torch.tensor(vertices), mesh.faces, raster


def against_differences(function, at: torch.Tensor, count: int, step: float = 1e-6) -> None:
    """The gradient of a scalar function at some coordinates, to a thousandth of the largest."""
    at = at.clone().requires_grad_()
    function(at).backward()
    gradient = at.grad.numpy()
    scale = np.abs(gradient).max()
    assert scale > 0
    strong = np.argsort(-np.abs(gradient).ravel())[:count]
    chosen = np.concatenate([strong, np.random.default_rng(0).choice(gradient.size, count)])
    for index in chosen:
        shift = torch.zeros(gradient.size, dtype=torch.float64)
        shift[index] = step
        shift = shift.reshape(at.shape)
        with torch.no_grad():
            difference = (function(at + shift) - function(at - shift)) / (2 * step)
        assert abs(float(difference) - gradient.ravel()[index]) <= 1e-3 * scale, index


def test_interpolation_is_the_rasterisers_own(scene):
    vertices, faces, raster = scene
    values = torch.tensor(np.random.default_rng(1).normal(size=(len(vertices), 4)))
    ours = interpolate(values, to_pixels(vertices, MATRICES), faces, raster)
    np.testing.assert_allclose(ours.numpy(), raster.interpolate(faces, values.numpy()), atol=1e-4)


def test_gradients_of_interpolated_values(scene):
    vertices, faces, raster = scene
    draw = np.random.default_rng(2)
    values = torch.tensor(draw.normal(size=(len(vertices), 3)))
    wanted = torch.tensor(draw.normal(size=(*raster.face.shape, 3)))
    pixels = to_pixels(vertices, MATRICES)
    against_differences(lambda v: (interpolate(v, pixels, faces, raster) * wanted).sum(), values, 10)


def test_gradients_to_where_vertices_are(scene):
    vertices, faces, raster = scene
    draw = np.random.default_rng(3)
    values = torch.tensor(draw.normal(size=(len(vertices), 3)))
    wanted = torch.tensor(draw.normal(size=(*raster.face.shape, 3)))
    against_differences(
        lambda x: (interpolate(values, to_pixels(x, MATRICES), faces, raster) * wanted).sum(), vertices, 15
    )
    pixels = to_pixels(vertices, MATRICES)
    against_differences(lambda h: (interpolate(values, h, faces, raster) * wanted).sum(), pixels, 15)


def test_gradients_of_outlines(scene):
    vertices, faces, raster = scene
    draw = np.random.default_rng(4)
    image = torch.tensor((raster.face >= 0)[..., None] + 0.3 * draw.normal(size=(*raster.face.shape, 2)))
    wanted = torch.tensor(draw.normal(size=image.shape))
    outline = outlines(to_pixels(vertices, MATRICES), faces, raster)
    assert len(outline.near) > 100
    against_differences(lambda x: (antialias(image, to_pixels(x, MATRICES), outline) * wanted).sum(), vertices, 20)
    pixels = to_pixels(vertices, MATRICES)
    against_differences(lambda i: (antialias(i, pixels, outline) * wanted).sum(), image, 20)


def test_only_outlines_are_blended_and_a_mask_becomes_coverage(scene):
    """The area under the blended mask is that of the projected outline, which the hard mask knows only to a pixel."""
    vertices, faces, _ = scene
    areas = []
    for grow in (1.0, 1.004, 1.008):
        at = vertices * grow
        raster = CpuRasterizer().rasterize(at.numpy(), faces, CAMERAS)
        pixels = to_pixels(at, MATRICES)
        hard = torch.tensor((raster.face >= 0)[..., None].astype(np.float64))
        soft = antialias(hard, pixels, outlines(pixels, faces, raster))
        changed = (soft != hard).numpy()[..., 0]
        inner = np.ones_like(changed)
        for axis in (1, 2):
            for shift in (-1, 1):
                inner &= np.roll(hard.numpy()[..., 0], shift, axis) == hard.numpy()[..., 0]
        assert changed.any() and not (changed & inner).any()
        fine = CpuRasterizer().rasterize(at.numpy(), faces, [_finer(camera, 8) for camera in CAMERAS])
        areas.append((float(soft.sum()), (fine.face >= 0).sum() / 64))
    for soft_area, true_area in areas:
        assert abs(soft_area / true_area - 1) < 1e-3


def test_an_outline_that_is_too_small_grows_towards_the_mask(scene):
    vertices, faces, raster = scene
    hard = torch.tensor((raster.face >= 0)[..., None].astype(np.float64))
    larger = CpuRasterizer().rasterize(vertices.numpy() * 1.1, faces, CAMERAS)
    mask = torch.tensor((larger.face >= 0)[..., None].astype(np.float64))
    x = vertices.clone().requires_grad_()
    pixels = to_pixels(x, MATRICES)
    ((antialias(hard, pixels, outlines(pixels, faces, raster)) - mask) ** 2).sum().backward()
    assert float((x.grad * vertices).sum()) < 0


def _finer(camera: Camera, times: int) -> Camera:
    finer = camera.K.copy()
    finer[:2] *= times
    finer[:2, 2] = (camera.K[:2, 2] + 0.5) * times - 0.5
    return Camera(camera.name, 48 * times, 40 * times, finer, camera.dist, camera.R, camera.t)
