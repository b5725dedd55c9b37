"""Where vertices belong as depths tell it, and a keyframe that is laid onto them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from surface_scene import blob, ring, skin, views_of, wrong_alike

from fusion_server.surface import SurfaceSettings, SurfaceTracker, keyframe
from fusion_server.surface.bias import Bias
from fusion_server.surface.depth_rows import _gather, depth_positions
from fusion_server.surface.refine import refine
from fusion_server.surface.rest import Rest
from fusion_server.surface.solve import Shape, Topology
from fusion_server.surface.stereo import Depths
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from geometry.rasterize.cpu import CpuRasterizer

CAMERAS = ring(8, 256)
PIXEL = 0.34 / 256  # metres
TRUE = blob(5)
MESH = blob(3)  # edges of 15 mm, which hold tens of pixels
TOPOLOGY = Topology.of(MESH.faces, len(MESH.vertices))
SHAPE = Shape.of(MESH.vertices, TOPOLOGY)


def depths_of(mesh: Mesh, cameras=CAMERAS) -> Depths:
    """What cameras would tell of a mesh that agreed on every pixel of it."""
    raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, cameras)
    face_normals = Shape.of(mesh.vertices, Topology.of(mesh.faces, len(mesh.vertices))).face_normals
    normal = np.stack([(face_normals @ c.R.T)[face] for c, face in zip(cameras, raster.face, strict=True)])
    return Depths(raster.depth, normal.astype(np.float32), tuple(cameras))


def grown(by: np.ndarray | float) -> Mesh:
    """The coarse mesh with its vertices moved along their normals, metres."""
    return Mesh(MESH.vertices + np.broadcast_to(by, len(MESH.vertices))[:, None] * SHAPE.normals, MESH.faces)


def heights(depths: Depths) -> tuple[np.ndarray, np.ndarray]:
    """How far along their normals the coarse mesh's vertices are told to go, and the variance.  # P, P"""
    told = depth_positions(depths, SHAPE, TOPOLOGY, CpuRasterizer())
    return np.vecdot(told.points - SHAPE.vertices, SHAPE.normals), told.variance


@pytest.mark.parametrize("by", [-0.8e-3, 0.0, 0.5e-3])
def test_vertices_are_told_to_go_as_far_as_the_surface_is_away(by):
    height, variance = heights(depths_of(grown(by)))
    assert np.isfinite(variance).mean() > 0.95
    np.testing.assert_allclose(np.median(height[np.isfinite(variance)]), by, atol=0.02e-3)
    assert np.percentile(np.abs(height - by)[np.isfinite(variance)], 90) < 0.05e-3


def test_a_step_like_motion_is_told_apart():
    """One half of the surface 0.6 mm out, the other half in."""
    side = MESH.vertices[:, 0]
    height, variance = heights(depths_of(grown(np.sign(side) * 0.6e-3)))
    away = (np.abs(side) > 0.03) & np.isfinite(variance)
    assert (np.sign(height[away]) == np.sign(side[away])).all()
    np.testing.assert_allclose(np.abs(height[away]), 0.6e-3, atol=0.1e-3)


def test_where_nobody_tells_a_depth_nothing_is_known():
    depths = depths_of(grown(0.5e-3))
    upper = replace(depths, depth=depths.depth * (np.arange(256)[:, None] < 118))  # the blob's upper half, about
    height, variance = heights(upper)
    below = MESH.vertices[:, 1] < -0.03
    assert below.sum() > 50
    assert np.isinf(variance[below]).all()
    np.testing.assert_array_equal(height[below], 0)
    assert np.isfinite(variance[MESH.vertices[:, 1] > 0.03]).mean() > 0.9


def test_a_depth_that_faces_another_way_is_not_this_face_s():
    depths = depths_of(grown(0.5e-3))
    away = depths.normal @ np.diag([-1.0, -1.0, 1.0]).astype(np.float32)  # as seen squarely, and else mirrored
    aslant = np.abs(depths.normal[..., 2]) < 0.6  # the cosine of twice the slant is below 0 there
    depths = replace(depths, depth=depths.depth * aslant)
    assert np.isfinite(heights(depths)[1]).any()
    assert np.isinf(heights(replace(depths, normal=away.astype(np.float32)))[1]).all()


def test_one_camera_s_mistake_counts_little():
    depths = depths_of(grown(0.0))
    wrong = depths.depth.copy()
    wrong[0] += np.where(wrong[0] > 0, 3e-3, 0).astype(np.float32)  # behind the surface
    height, variance = heights(replace(depths, depth=wrong))
    shared = np.isfinite(variance) & np.isfinite(heights(depths_of(grown(0.0), CAMERAS[1:]))[1])
    seen = height < -1e-6
    assert (seen & shared).sum() > 50
    assert np.median(-height[seen & shared]) < 0.25e-3  # 0.9 mm where all count alike
    assert np.median(variance[seen & shared]) > 2 * np.median(heights(depths)[1][seen & shared])


def test_the_more_cameras_tell_the_surer_it_is():
    one, two = heights(depths_of(MESH, CAMERAS[:1]))[1], heights(depths_of(MESH, CAMERAS[:2]))[1]
    both = np.isfinite(one) & np.isfinite(heights(depths_of(MESH, CAMERAS[1:2]))[1])
    assert both.sum() > 30
    np.testing.assert_allclose(two[both], one[both] / 2, rtol=0.05)
    assert np.median(one[both]) == pytest.approx((0.25 * PIXEL) ** 2, rel=0.2)


def test_a_pixel_moves_each_corner_by_how_near_it_is_and_how_squarely_it_sees():
    """One pixel, a millimetre nearer than the face that it sees, which leans by 60 degrees."""
    normal, ray = np.array([np.sin(np.radians(60)), 0.0, -0.5]), np.array([-0.1, 0.2, 1.0])
    one = np.zeros((1, 1, 1), np.float32)
    sums, telling = np.zeros((4, 3)), np.zeros((1, 4), np.bool_)
    turned = CAMERAS[1].R
    _gather(
        one.astype(np.int32), np.array([[[[0.2, 0.7]]]], np.float32), one + 1.0, np.array([[2, 0, 3]], np.uint32),
        (normal @ turned)[None], turned[None], np.array([[1.0, 1.0, *-ray[:2]]]), one + 0.999,
        normal.astype(np.float32).reshape(1, 1, 1, 3), sums, telling,
    )  # fmt: skip
    off = -1e-3 * (normal @ ray)
    weight = (normal @ ray) ** 2 / (ray @ ray) / (1 + (off / 1e-3) ** 2)
    shares = np.array([0.7, 0.0, 0.2, 0.1])
    np.testing.assert_allclose(sums, (shares * weight)[:, None] * (1, off, off**2), rtol=1e-3)
    np.testing.assert_array_equal(telling, [[True, False, True, True]])


SETTINGS = SurfaceSettings(vertices=3000, keyframe_iterations=9, hull_cells=48, uv=False, polish=4)


@pytest.fixture(scope="module")
def views():
    """Twelve cameras whose normals are wrong alike."""
    return wrong_alike(views_of(TRUE, skin(5), ring(12, 128), fine=4))


def test_a_keyframe_on_depths_is_nearer(views):
    errors, iterations = [], []
    for stereo in (0, 2):
        frame = SurfaceTracker(replace(SETTINGS, stereo=stereo), CpuRasterizer()).update(views)
        errors.append(np.percentile(SurfaceIndex(TRUE).distances(frame.vertices), (50, 95)))
        iterations.append(frame.iterations)
    assert iterations[1] == iterations[0] + 8
    assert errors[1][0] < 0.8 * errors[0][0] and errors[1][1] < errors[0][1]


def test_on_depths_normals_tell_relief_alone_and_what_no_picture_has_is_carried(views, monkeypatch):
    """A tenth of a radian is the most that they are trusted with; what is known of a depth stands in its variance."""
    calls, carried, rest_carried = [], [], Rest.carried

    def refining(seen, topology, step, settings, clock, held=None, rest=None, bias=None):
        points, held = refine(seen, topology, step, settings, clock, held, rest, bias)
        trend = Bias.of_trend(seen, topology, keyframe._RELIEF).tilt
        calls.append((settings, bias, trend, points))
        return points, held

    def carrying(self, points, topology):
        carried.append((points, rest_carried(self, points, topology)))
        return carried[-1][1]

    monkeypatch.setattr(keyframe, "refine", refining)
    monkeypatch.setattr(Rest, "carried", carrying)
    SurfaceTracker(replace(SETTINGS, vertices=800, polish=0, stereo=1), CpuRasterizer()).update(views)
    on_depths = [call for call in calls if call[0].sigma_photometric == 0]
    assert len(on_depths) == 8 and calls[-8:] == on_depths
    for settings, bias, trend, points in on_depths:
        assert settings.sigma_normal == 0.1 > SETTINGS.sigma_normal
        np.testing.assert_array_equal(bias.tilt, trend)
        assert any(points is given for given, _ in carried)


def test_a_keyframe_of_pictures_without_texture_stays_as_polished_and_the_log_says_so(views, caplog):
    caplog.set_level("INFO")
    grey = [replace(view, image=np.full_like(view.image, 90)) for view in views]
    settings = replace(SETTINGS, vertices=1000, polish=1)
    without, asked = (
        SurfaceTracker(replace(settings, stereo=stereo), CpuRasterizer()).update(grey) for stereo in (0, 2)
    )
    np.testing.assert_array_equal(asked.vertices, without.vertices)
    assert asked.iterations == without.iterations
    assert caplog.text.count("no depths beside the mesh, which stays") == 1
