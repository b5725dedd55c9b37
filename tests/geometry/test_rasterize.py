"""Every rasteriser that this machine can run, against rays that are traced one by one and against each other."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from shapes import camera, octahedron_sphere, square, torus

from geometry.cameras import pixel_rays, project
from geometry.device.build import compiler
from geometry.mesh import Mesh
from geometry.rasterize import make_rasterizer
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.cuda import CudaRasterizer
from geometry.rasterize.nvdiffrast import clip_space, from_seen
from protocol.calibration import Camera
from protocol.errors import HeadstreamError


@pytest.fixture(scope="module", params=["cpu", "emulated", "cuda", "nvdiffrast"])
def engine(request):
    """A rasteriser; ``emulated`` is the CUDA one's kernels run on the CPU."""
    if request.param == "emulated":
        if compiler(cuda=False) is None:
            pytest.skip("no C++ compiler for the emulation")
        return CudaRasterizer("cpu")
    if request.param != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    if request.param == "nvdiffrast":
        pytest.importorskip("nvdiffrast")
    return make_rasterizer(request.param)  # what is there must work: a compiler that refuses is a failure


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
def test_every_pixel_sees_what_its_ray_meets(engine, eye):
    mesh, cam = torus(24, 12), camera(eye)
    raster = engine.rasterize(mesh.vertices, mesh.faces, [cam])
    draw = np.random.default_rng(0)
    for y, x in draw.integers(0, 48, (250, 2)):
        face, depth = traced(mesh, cam, y, x)
        assert raster.face[0, y, x] == face
        assert raster.depth[0, y, x] == pytest.approx(depth, abs=1e-5)
    assert (raster.face >= 0).any()
    assert (raster.face < 0).any()


def test_barycentrics_are_perspective_correct(engine):
    mesh = square()
    cam = camera((0.5, 0.2, 0.9), focal=30)
    raster = engine.rasterize(mesh.vertices, mesh.faces, [cam])
    world = raster.interpolate(mesh.faces, mesh.vertices)[0]
    y, x = np.nonzero(raster.face[0] >= 0)
    pixels, depth = project(cam, world[y, x].astype(float))
    np.testing.assert_allclose(pixels, np.stack([x, y], 1), atol=1e-3)
    np.testing.assert_allclose(depth, raster.depth[0, y, x], atol=1e-5)
    assert (world[raster.face[0] < 0] == 0).all()


@pytest.mark.parametrize("away", [(), (0, 1), (2, 3), (0, 1, 2, 3)])
def test_the_nearer_face_wins_whatever_the_order_and_wherever_faces_look(engine, away):
    near = Mesh(0.5 * square().vertices + (-0.25, -0.25, 0.5), square().faces)  # all of it before the other
    vertices = np.vstack([near.vertices, square().vertices + (-0.5, -0.5, 0.0)])
    faces = np.vstack([near.faces, near.faces + 4])
    faces[list(away)] = faces[list(away), ::-1]
    cam = camera((0, 0.001, 3.0))
    front = engine.rasterize(vertices, faces, [cam]).face
    back = engine.rasterize(vertices, faces[::-1], [cam]).face
    assert front[0, 24, 24] in (0, 1)
    assert back[0, 24, 24] in (2, 3)


def test_both_sides_of_a_face_are_drawn(engine):
    mesh = square()
    cam = camera((0.5, 0.5, -3.0))
    raster = engine.rasterize(mesh.vertices, mesh.faces, [cam])
    assert (raster.face >= 0).sum() > 100


def test_views_are_independent_and_may_be_oblong(engine):
    mesh = octahedron_sphere(3)
    cameras = [camera((0, 0.5, 3), 40, height=30), camera((3, 0.5, 0), 40, height=30)]
    both = engine.rasterize(mesh.vertices, mesh.faces, cameras)
    assert both.face.shape == (2, 30, 40)
    for n, cam in enumerate(cameras):
        alone = engine.rasterize(mesh.vertices, mesh.faces, [cam])
        np.testing.assert_array_equal(alone.face[0], both.face[n])


def test_what_is_behind_the_camera_is_not_drawn(engine):
    mesh = octahedron_sphere(2, 0.2)
    cam = camera((0, 0.1, 3.0))
    behind = Mesh(mesh.vertices + (0, 0, 6.0), mesh.faces)
    assert (engine.rasterize(behind.vertices, behind.faces, [cam]).face == -1).all()


def test_cameras_of_different_sizes_are_refused(engine):
    mesh = octahedron_sphere(1)
    with pytest.raises(ValueError, match="one size"):
        engine.rasterize(mesh.vertices, mesh.faces, [camera((0, 0.1, 3), 40), camera((0, 0.1, 3), 48)])


def scene():
    """Bumps, a ball within the bumps, something that reaches behind a camera, and coarse faces: all rules at once."""
    ball, ring = octahedron_sphere(4, 0.7), torus(60, 30)
    large = square()
    vertices = np.vstack([ball.vertices, ring.vertices, large.vertices * 3 + (-1.5, -1.5, -0.6), [[0, 0.1, 4.0]]])
    counts = np.cumsum([0, len(ball.vertices), len(ring.vertices)])
    through = [[0, 1, len(vertices) - 1]]  # its last corner is behind the first camera
    faces = np.vstack([ball.faces, ring.faces + counts[1], large.faces + counts[2], through]).astype(np.int32)
    return vertices, faces, [camera((0.3, 0.4, 3.0), 96), camera((-2.0, 1.5, 1.8), 96), camera((0.1, -3.0, 0.3), 96)]


def test_engines_draw_the_same(engine):
    vertices, faces, cameras = scene()
    ours, theirs = (each.rasterize(vertices, faces, cameras) for each in (engine, CpuRasterizer()))
    same = ours.face == theirs.face
    # Where faces cross or meet at a pixel's centre either may win; float32 of nvdiffrast decides a few more edges.
    assert (~same).mean() < (2e-3 if engine.name == "nvdiffrast" else 1e-5)
    precise = 1e-3 if engine.name == "nvdiffrast" else 1e-6
    np.testing.assert_allclose(ours.bary[same], theirs.bary[same], atol=precise)
    np.testing.assert_allclose(ours.depth[same], theirs.depth[same], atol=precise)
    values = np.random.default_rng(0).normal(size=(len(vertices), 5))
    np.testing.assert_allclose(
        ours.interpolate(faces, values)[same], theirs.interpolate(faces, values)[same], atol=10 * precise
    )
    assert (theirs.face >= len(faces) - 3).any()  # the coarse ones are there


def test_faces_on_both_sides_of_an_edge_leave_no_gap(engine):
    """Corners at pixel centres: what rounding makes of a pixel on the edge of two faces must not be a hole."""
    n = 17
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    vertices = np.stack([x.ravel() / 16 - 0.5, y.ravel() / 16 - 0.5, np.zeros(n * n)], 1)
    first = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    faces = np.vstack([np.stack([first, first + 1, first + n + 1], 1), np.stack([first, first + n + 1, first + n], 1)])
    K = np.array([[96.0, 0, 24], [0, 96, 24], [0, 0, 1]])
    straight = Camera("c", 49, 49, K, np.zeros(5), np.diag([1.0, -1.0, -1.0]), np.array([0, 0, 2.0]))
    raster = engine.rasterize(vertices, faces.astype(np.int32), [straight])
    assert (raster.face[0, 1:48, 1:48] >= 0).all()


def test_no_face_and_no_view_of_any_is_an_empty_raster(engine):
    mesh = octahedron_sphere(1)
    raster = engine.rasterize(mesh.vertices, np.zeros((0, 3), np.int32), [camera((0, 0.1, 3))])
    assert (raster.face == -1).all() and not raster.depth.any() and not raster.bary.any()


def test_a_copy_of_an_engine_draws_the_same(engine):
    vertices, faces, cameras = scene()
    again = copy.deepcopy(engine)
    np.testing.assert_array_equal(
        again.rasterize(vertices, faces, cameras).face, engine.rasterize(vertices, faces, cameras).face
    )


def test_a_rasteriser_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(HeadstreamError, match=r"surface.rasterizer: 'gl'; must be 'cpu' or 'cuda' or 'nvdiffrast'"):
        make_rasterizer("gl")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("name", "why"), [("cuda", "no CUDA GPU"), ("nvdiffrast", "(cannot be imported|no CUDA GPU)")])
def test_a_rasteriser_that_cannot_run_here_says_why_and_what_can(name, why):
    with pytest.raises(HeadstreamError, match=rf"^surface.rasterizer: '{name}' cannot run here: .*{why}.*; 'cpu' can$"):
        make_rasterizer(name)


def test_nvdiffrast_is_handed_its_own_pixels():
    """Its documentation's rules, applied here to what we would hand over, give the pixels of our own projection."""
    cam = camera((0.4, 1.0, 3.0), 40, height=30)
    vertices = torus(12, 8).vertices
    clip, away = clip_space(vertices, cam)
    x, y, z = (clip[:, :3] / clip[:, 3:]).T
    pixels, depth = project(cam, vertices)
    np.testing.assert_allclose(np.stack([((x + 1) * 40 - 1) / 2, ((y + 1) * 30 - 1) / 2], 1), pixels, atol=1e-9)
    np.testing.assert_allclose(away, depth)
    assert (np.abs(z) < 1).all()
    assert (np.argsort(z) == np.argsort(depth)).all()


def test_what_nvdiffrast_gives_becomes_a_raster():
    vertices, faces, cameras = scene()
    cam = cameras[0]
    theirs = CpuRasterizer().rasterize(vertices, faces, [cam])
    drawn = np.flatnonzero((project(cam, vertices)[1][faces] >= 0.01).all(1))
    number = np.full(len(faces), -1)
    number[drawn] = np.arange(len(drawn))
    face = theirs.face[0]
    seen = np.concatenate(
        [theirs.bary[0], np.zeros((96, 96, 1)), np.where(face < 0, 0, number[face] + 1)[..., None]], -1
    )
    got, bary, depth = from_seen(seen.astype(np.float32), faces, drawn, project(cam, vertices)[1])
    np.testing.assert_array_equal(got, face)
    np.testing.assert_array_equal(bary, theirs.bary[0])
    np.testing.assert_allclose(depth, theirs.depth[0], atol=1e-5)
