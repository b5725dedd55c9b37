"""The CPU rasteriser against rays that are traced one by one."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import octahedron_sphere, square, torus

from geometry.cameras import pixel_rays, project
from geometry.mesh import Mesh
from geometry.rasterize.cpu import CpuRasterizer
from protocol.calibration import Camera


def camera(eye, size=48, focal=60.0, height=None) -> Camera:
    eye = np.asarray(eye, float)
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    height = height or size
    K = np.array([[focal, 0, (size - 1) / 2 + 0.3], [0, focal * 1.1, (height - 1) / 2], [0, 0, 1]])
    return Camera("c", size, height, K, np.zeros(5), R, -R @ eye)


def traced(mesh: Mesh, cam: Camera, y: int, x: int) -> tuple[int, float]:
    """The nearest face along a pixel's ray and its depth along z (Moeller and Trumbore)."""
    direction = cam.R.T @ pixel_rays(cam)[y, x].astype(float)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    p = np.cross(direction, c - a)
    scale = ((b - a) * p).sum(1)
    s = cam.center - a
    u = (s * p).sum(1) / scale
    q = np.cross(s, b - a)
    v = (q @ direction) / scale
    t = ((c - a) * q).sum(1) / scale
    t[(u < 0) | (v < 0) | (u + v > 1) | (t < 0)] = np.inf
    face = int(np.argmin(t))
    return (-1, 0.0) if np.isinf(t[face]) else (face, float(t[face] * (cam.R[2] @ direction)))


@pytest.mark.parametrize("eye", [(0.4, 1.0, 3.0), (-3.0, 0.2, -0.5), (0.01, 3.0, 0.0)])
def test_every_pixel_sees_what_its_ray_meets(eye):
    mesh, cam = torus(24, 12), camera(eye)
    raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [cam])
    draw = np.random.default_rng(0)
    for y, x in draw.integers(0, 48, (250, 2)):
        face, depth = traced(mesh, cam, y, x)
        assert raster.face[0, y, x] == face
        assert raster.depth[0, y, x] == pytest.approx(depth, abs=1e-5)
    assert (raster.face >= 0).any()
    assert (raster.face < 0).any()


def test_barycentrics_are_perspective_correct():
    mesh = square()
    cam = camera((0.5, 0.2, 0.9), focal=30)
    raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [cam])
    world = raster.interpolate(mesh.faces, mesh.vertices)[0]
    y, x = np.nonzero(raster.face[0] >= 0)
    pixels, depth = project(cam, world[y, x].astype(float))
    np.testing.assert_allclose(pixels, np.stack([x, y], 1), atol=1e-3)
    np.testing.assert_allclose(depth, raster.depth[0, y, x], atol=1e-5)
    assert (world[raster.face[0] < 0] == 0).all()


def test_the_nearer_face_wins_whatever_the_order():
    near = Mesh(square().vertices + (-0.5, -0.5, 0.5), square().faces)
    vertices = np.vstack([near.vertices, square().vertices + (-0.5, -0.5, 0.0)])
    faces = np.vstack([near.faces, near.faces + 4])
    cam = camera((0, 0.001, 3.0))
    front = CpuRasterizer().rasterize(vertices, faces, [cam]).face
    back = CpuRasterizer().rasterize(vertices, faces[::-1], [cam]).face
    assert front[0, 24, 24] in (0, 1)
    assert back[0, 24, 24] in (2, 3)


def test_both_sides_of_a_face_are_drawn():
    mesh = square()
    cam = camera((0.5, 0.5, -3.0))
    raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [cam])
    assert (raster.face >= 0).sum() > 100


def test_views_are_independent_and_may_be_oblong():
    mesh = octahedron_sphere(3)
    cameras = [camera((0, 0.5, 3), 40, height=30), camera((3, 0.5, 0), 40, height=30)]
    both = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, cameras)
    assert both.face.shape == (2, 30, 40)
    for n, cam in enumerate(cameras):
        alone = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [cam])
        np.testing.assert_array_equal(alone.face[0], both.face[n])


def test_what_is_behind_the_camera_is_not_drawn():
    mesh = octahedron_sphere(2, 0.2)
    cam = camera((0, 0.1, 3.0))
    behind = Mesh(mesh.vertices + (0, 0, 6.0), mesh.faces)
    assert (CpuRasterizer().rasterize(behind.vertices, behind.faces, [cam]).face == -1).all()


def test_cameras_of_different_sizes_are_refused():
    mesh = octahedron_sphere(1)
    with pytest.raises(ValueError, match="one size"):
        CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [camera((0, 0.1, 3), 40), camera((0, 0.1, 3), 48)])
