"""Depths that cameras agree on, and a hull that they carve."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
from surface_scene import blob, camera_at, hollowed, skin, views_of

from fusion_server.surface import SurfaceSettings, SurfaceTracker
from fusion_server.surface.carve import carved
from fusion_server.surface.cuda import CudaKernels
from fusion_server.surface.hull import Field, visual_hull
from fusion_server.surface.keyframe import _carved
from fusion_server.surface.observation import observe
from fusion_server.surface.stereo import (
    BEHIND_A_HULL,
    BESIDE_A_SURFACE,
    Depths,
    _agree,
    _between,
    _lens,
    agreed_depths,
)
from geometry.measure import SurfaceIndex
from geometry.rasterize.cpu import CpuRasterizer
from protocol.calibration import Camera

SWEEPS = 3


def level_ring(count: int, size: int = 128) -> tuple[Camera, ...]:
    """Cameras around the origin, all as high, so that they are 360 / count degrees apart; 1.3 mm a pixel of 128."""
    turns = np.arange(count) * 2 * np.pi / count
    return tuple(
        camera_at(f"cam{n}", 0.9 * np.array([np.sin(a), 0.0, np.cos(a)]), size, 2.8 * size) for n, a in enumerate(turns)
    )


CAMERAS = level_ring(12)


class Scene:
    """A head with the socket of an eye, 20 mm deep, that every outline hides, from twelve cameras."""

    def __init__(self):
        self.mesh, self.floor = hollowed(0.02, 0.4)
        self.views = views_of(self.mesh, skin(5), CAMERAS)
        self.observation = observe(self.views, True)
        self.field = visual_hull(CAMERAS, self.observation.outlines, 64)
        self.hull = self.field.surface()

    def depths(self, views=None) -> Depths:
        """What the views' pictures say."""
        observation = self.observation if views is None else observe(views, True)
        return agreed_depths(observation, self.hull, CpuRasterizer(), SWEEPS, BEHIND_A_HULL)

    def true(self, depths: Depths) -> np.ndarray:
        """Of the same pixels.  # V,h,w"""
        return CpuRasterizer().rasterize(self.mesh.vertices, self.mesh.faces, depths.cameras).depth


@pytest.fixture(scope="module")
def scene():
    return Scene()


@pytest.fixture(scope="module")
def depths(scene):
    return scene.depths()


def with_pictures(views, make):
    """Views whose pictures are made anew, from (number, picture)."""
    return [replace(view, image=make(n, view.image).astype(np.uint8)) for n, view in enumerate(views)]


def test_depths_that_cameras_agree_on_are_true(scene, depths):
    found, true = depths.depth > 0, scene.true(depths)
    pixel = 0.34 / 256  # metres
    off = np.abs(depths.depth - true)[found & (true > 0)]
    assert found.sum() > 0.85 * (true > 0).sum()
    assert np.median(off) < 0.2 * pixel
    assert np.percentile(off, 95) < 2 * pixel


def test_normals_of_agreed_depths_face_their_camera_and_are_the_surface_s(scene, depths):
    found = depths.depth > 0
    normals = depths.normal[found]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    off = []
    for n, view in enumerate(scene.views):
        wide = view.normal.repeat(2, 0).repeat(2, 1)  # maps are half as fine as pictures
        off.append(np.degrees(np.arccos(np.clip((depths.normal[n] * wide).sum(-1), -1, 1)))[found[n]])
    assert np.median(np.concatenate(off)) < 3  # 3.6 where pixels draw no planes of their own


def test_cameras_find_the_floor_of_a_socket_that_outlines_hide(scene, depths):
    floor = scene.mesh.vertices[scene.floor]
    before = SurfaceIndex(scene.hull).distances(floor)
    after = SurfaceIndex(carved(scene.field, depths).surface()).distances(floor)
    assert np.median(before) > 10e-3
    assert np.median(after) < 1.5e-3


def test_a_field_is_only_ever_carved_and_stays_where_nobody_tells(scene, depths):
    cut = carved(scene.field, depths)
    assert (cut.values <= scene.field.values).all()
    assert (cut.values < scene.field.values).any()
    nothing = replace(depths, depth=np.zeros_like(depths.depth))
    np.testing.assert_array_equal(carved(scene.field, nothing).values, scene.field.values)


def test_what_one_camera_alone_sees_through_stays(scene, depths):
    lonely = np.zeros_like(depths.depth)
    lonely[3] = np.where(depths.depth[3] > 0, depths.depth[3] + 0.03, 0)  # a mistake of three centimetres
    alone = replace(depths, depth=lonely)
    np.testing.assert_array_equal(carved(scene.field, alone).values, scene.field.values)
    lonely[4] = np.where(depths.depth[4] > 0, depths.depth[4] + 0.03, 0)
    assert (carved(scene.field, replace(depths, depth=lonely)).values < scene.field.values).any()


def two_cameras() -> tuple[Camera, ...]:
    """A metre before the origin, four centimetres apart, looking along z."""
    return tuple(replace(CAMERAS[0], R=np.eye(3), t=np.array([shift, 0.0, 1.0])) for shift in (-0.02, 0.02))


def wall(camera: Camera, normal: tuple[float, ...], z: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth (h, w) and normal (h, w, 3) of a plane through (0, 0, z), for a camera that is not turned."""
    n = np.array(normal) / np.linalg.norm(normal)
    x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack(
        [(x - camera.K[0, 2]) / camera.K[0, 0], (y - camera.K[1, 2]) / camera.K[1, 1], np.ones(x.shape)], -1
    )
    depth = n @ (np.array([0, 0, z]) + camera.t) / (rays @ n)
    return depth.astype(np.float32), np.broadcast_to(n, rays.shape).astype(np.float32)


def test_a_slanted_plane_s_distance_counts_by_how_squarely_it_is_seen():
    """One camera tells a wall that it sees squarely, the other one that leans by 60 degrees, through another point."""
    cameras = two_cameras()
    (straight, ahead), (leaning, aside) = (
        wall(camera, normal, z)
        for camera, normal, z in zip(cameras, ((0, 0, -1), (np.sqrt(3), 0, -1)), (0.001, 0.003), strict=True)
    )
    block = Field(np.full((9, 9, 9), 0.02, np.float32), np.full(3, -4e-3), 1e-3)
    values = carved(block, Depths(np.stack([straight, leaning]), np.stack([ahead, aside]), cameras)).values
    ray = cameras[1].t / np.linalg.norm(cameras[1].t)  # to the origin
    cosine = cameras[0].t[2] / np.linalg.norm(cameras[0].t), -ray @ (np.sqrt(3) / 2, 0, -0.5)
    expected = (cosine[0] * -0.001 + cosine[1] * -0.0015) / sum(cosine)  # of the origin, which lies before both walls
    assert values[4, 4, 4] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("turned", "away", "agree"), [(0, 0.0, True), (70, 0.0, False), (0, 1.5e-3, False)])
def test_cameras_agree_on_a_place_and_on_the_way_it_faces(turned, away, agree):
    cameras = two_cameras()
    seen = [wall(cameras[0], (0, 0, -1), 0.0), wall(cameras[1], (0, 0, -1), away)]
    depth, normal = (np.stack(part) for part in zip(*seen, strict=True))
    c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    normal[1] = (0, s, -c)
    agreed = np.zeros_like(depth)
    _agree(_lens(cameras), _between(cameras), depth, normal, np.zeros_like(depth), 1e-3, agreed)
    assert (agreed[0, 64, 64] > 0) == agree
    assert agreed[0, 64, 64] in (0, depth[0, 64, 64])


def test_a_plane_that_two_cameras_see_is_where_the_field_becomes_zero():
    """A wall before both, five centimetres behind the front of a block."""
    cameras = two_cameras()
    depth, normal = zip(*(wall(camera, (0, 0, -1), 0.013) for camera in cameras), strict=True)
    depth, normal = np.stack(depth), np.stack(normal)
    block = Field(np.full((9, 9, 40), 0.02, np.float32), np.array([-0.008, -0.008, -0.04]), 2e-3)
    values = carved(block, Depths(depth, normal, cameras)).values[4, 4]
    behind = block.low[2] + block.step * np.arange(40) - 0.013
    near = np.abs(behind) < 5.5e-3
    np.testing.assert_allclose(values[near], behind[near], atol=1e-5)
    np.testing.assert_allclose(values[behind < -6.5e-3], -6e-3, atol=1e-5)  # three cells: seen through
    np.testing.assert_array_equal(values[behind > 6.5e-3], block.values[4, 4, behind > 6.5e-3])


def test_outside_of_the_masks_nothing_is_looked_for(scene, depths):
    upper = np.arange(128)[:, None] < 64
    found = scene.depths([replace(view, mask=view.mask * upper) for view in scene.views])
    assert depths.depth[:, 140:].any()
    assert found.depth[:, :120].any()
    assert not found.depth[:, 132:].any()


@pytest.mark.parametrize("grey", [0, 200])
def test_pictures_without_texture_tell_no_depth(scene, grey):
    assert not scene.depths(with_pictures(scene.views, lambda _, picture: np.full_like(picture, grey))).depth.any()


def test_a_camera_whose_picture_is_noise_agrees_with_nobody(scene, depths):
    noise = np.random.default_rng(5)
    spoiled = with_pictures(scene.views, lambda n, p: noise.integers(0, 255, p.shape) if n == 2 else p)
    found = scene.depths(spoiled)
    # By chance alone: what agrees is within 1.3 mm to either side, what is searched 42 mm.
    assert (found.depth[2] > 0).sum() < 0.08 * (depths.depth[2] > 0).sum()
    for n in (3, 8):  # beside it, and far from it
        assert (found.depth[n] > 0).sum() > 0.7 * (depths.depth[n] > 0).sum()


def test_cameras_too_far_apart_tell_no_depth(scene):
    """Eight in a ring: 45 degrees from one to the next."""
    few = observe(views_of(scene.mesh, skin(5), level_ring(8)), True)
    assert not agreed_depths(few, scene.hull, CpuRasterizer(), SWEEPS, BEHIND_A_HULL).depth.any()


@pytest.mark.parametrize(("cameras", "asked"), [(8, True), (5, False)])
def test_beside_a_surface_cameras_may_be_farther_apart(scene, cameras, asked):
    """45 degrees, not 72; and what they tell is within four millimetres of it."""
    few = observe(views_of(scene.mesh, skin(5), level_ring(cameras)), True)
    depth = agreed_depths(few, scene.mesh, CpuRasterizer(), SWEEPS, BESIDE_A_SURFACE).depth
    assert depth.any() == asked
    surface = CpuRasterizer().rasterize(scene.mesh.vertices, scene.mesh.faces, level_ring(cameras, 256)).depth
    off = np.abs(depth - surface)[depth > 0]
    assert (off < 4e-3 + 1e-6).all() and (not asked or np.median(off) < 0.5e-3)


def test_depths_are_the_same_on_one_core(scene, depths):
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again = scene.depths()
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(again.depth, depths.depth)


def test_pictures_finer_than_half_a_millimetre_are_halved():
    cameras = level_ring(6, 64)
    views = views_of(blob(5), skin(5), cameras, fine=16)  # a third of a millimetre
    observation = observe(views, True)
    hull = visual_hull(cameras, observation.outlines, 48).surface()
    found = agreed_depths(observation, hull, CpuRasterizer(), 1, BEHIND_A_HULL)
    assert found.depth.shape == (6, 512, 512)
    for camera, own in zip(found.cameras, cameras, strict=True):
        point = np.array([0.01, 0.02, 0.03])
        there, here = (c.K @ (c.R @ point + c.t) for c in (camera, own))
        # cv2.pyrDown keeps the middles of even pixels: 16 times as fine, then every second one of them.
        np.testing.assert_allclose(there[:2] / there[2], ((here[:2] / here[2] + 0.5) * 16 - 0.5) / 2, atol=1e-9)


def test_a_keyframe_is_carved_where_that_is_asked_and_pictures_are_compared(scene, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "fusion_server.surface.keyframe.agreed_depths", lambda *rest: asked.append(rest[3:]) or agreed_depths(*rest)
    )
    settings = SurfaceSettings(vertices=1200, keyframe_iterations=8, hull_cells=48, uv=False)
    for stereo, photometric, kernels in ((0, True, None), (2, False, None), (2, True, None), (2, True, "cpu")):
        tracker = SurfaceTracker(
            replace(settings, stereo=stereo, photometric=photometric),
            CpuRasterizer(),
            *([CudaKernels(kernels)] if kernels else []),
        )
        frame = tracker.update(scene.views)
        assert ("stereo" in frame.seconds) == (bool(stereo) and photometric)
        assert "lost" not in frame.quality.flags
    assert asked == 2 * [(2, BEHIND_A_HULL), (2, BESIDE_A_SURFACE), (2, BESIDE_A_SURFACE)]


def test_a_carved_field_without_a_surface_leaves_the_hull_and_says_so(scene, depths, monkeypatch, caplog):
    empty = replace(scene.field, values=np.full_like(scene.field.values, -1.0))
    monkeypatch.setattr("fusion_server.surface.keyframe.carved", lambda *_: empty)
    assert _carved(scene.field, scene.hull, depths) is scene.hull
    assert "the mesh starts from the hull as it is" in caplog.text
    assert _carved(scene.field, scene.hull, replace(depths, depth=np.zeros_like(depths.depth))) is scene.hull
