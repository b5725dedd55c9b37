"""Vertices follow what they look like: along the surface, whatever the exposure, and not at all where nothing moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from surface_scene import camera_at, egg, icosphere, marks, ring, turned, views_of

from fusion_server.surface import SurfaceSettings, SurfaceTracker
from fusion_server.surface.observation import look, observe
from fusion_server.surface.skin import Skin, _facing, begun, follow_skin, uncorrelated, unlikeness
from fusion_server.surface.solve import Topology
from geometry.measure import Attached
from geometry.mesh import Mesh
from geometry.rasterize.cpu import CpuRasterizer

CAMERAS = ring(8, 128)
SETTINGS = SurfaceSettings(vertices=2500, keyframe_iterations=9, hull_cells=64, uv=False)
RASTERIZER = CpuRasterizer()


TEXTURE = marks()


def observed(mesh: Mesh):
    return views_of(mesh, TEXTURE, CAMERAS, fine=3)


def relit(view, gain: float, offset: float):
    return replace(view, image=np.clip(gain * view.image.astype(float) + offset, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def scene():
    """The egg at rest: its mesh with its topology, what is seen of it, and its skin."""
    mesh = egg(0.0)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    seen = look(mesh.vertices, topology, observe(observed(mesh), True), RASTERIZER)
    return mesh, topology, seen, Skin.of(seen, seen.observation, topology)


def off(vertices: np.ndarray, target: Mesh) -> np.ndarray:
    """Distances of the vertices that cameras see well, between the poles.  # n"""
    return np.linalg.norm(vertices - target.vertices, axis=1)[np.abs(target.vertices[:, 1]) < 0.08]


@pytest.mark.parametrize("degrees", [1.0, -3.0, 6.0])
def test_vertices_go_where_their_skin_goes(scene, degrees):
    """6 degrees are 9 mm at the widest, too far for the finer pictures: coarser ones lead."""
    mesh, topology, seen, known = scene
    target = egg(degrees)
    moved = follow_skin(mesh.vertices, known, seen, observe(observed(target), True), topology)
    assert np.median(off(mesh.vertices, target)) > 0.7e-3 * abs(degrees)
    assert np.median(off(moved, target)) < 0.1e-3 + 0.1e-3 * abs(degrees)
    assert np.percentile(off(moved, target), 90) < 0.2e-3 + 0.2e-3 * abs(degrees)


def test_what_is_still_stays(scene):
    mesh, topology, seen, known = scene
    moved = follow_skin(mesh.vertices, known, seen, seen.observation, topology)
    assert np.abs(moved - mesh.vertices).max() < 1e-9


def test_other_exposures_move_nothing(scene):
    """Each camera brighter or darker in a way of its own, as one that meters by itself."""
    mesh, topology, seen, known = scene
    views = [relit(view, 0.7 + 0.08 * n, 5.0 * n - 20.0) for n, view in enumerate(observed(mesh))]
    moved = follow_skin(mesh.vertices, known, seen, observe(views, True), topology)
    assert np.percentile(np.linalg.norm(moved - mesh.vertices, axis=1), 95) < 0.15e-3


def test_a_camera_that_was_not_there_is_told_what_the_others_saw(scene):
    mesh, topology, _, _ = scene
    views = observed(mesh)
    first = look(mesh.vertices, topology, observe(views[::2], True), RASTERIZER)
    known = Skin.of(first, first.observation, topology)
    target = egg(2.0)
    later = observe(observed(target)[1::2], True)
    moved = follow_skin(mesh.vertices, known, look(mesh.vertices, topology, later, RASTERIZER), later, topology)
    assert np.median(off(mesh.vertices, target)) > 1.5e-3
    assert np.median(off(moved, target)) < 0.8e-3


def test_a_vertex_that_turns_to_cameras_which_never_saw_it_is_still_followed(scene):
    """By 135 degrees, three cameras on: what each of them should see there, only the others know."""
    mesh, topology, _, known = scene
    c, s = np.cos(np.radians(135)), np.sin(np.radians(135))
    start, target = (Mesh(each.vertices @ [[c, 0, -s], [0, 1, 0], [s, 0, c]], each.faces) for each in (mesh, egg(2.0)))
    observation = observe(observed(target), True)
    seen = look(start.vertices, topology, observation, RASTERIZER)
    moved = follow_skin(start.vertices, known, seen, observation, topology)
    assert np.median(off(start.vertices, target)) > 1.5e-3
    assert np.median(off(moved, target)) < 0.8e-3


def test_what_is_no_skin_does_not_drag_the_rest(scene):
    """Hard black and white stripes over half of what two cameras see, as of a slate: they are no skin."""
    mesh, topology, seen, known = scene
    target = egg(2.0)
    views = observed(target)
    for n in (0, 1):
        picture = views[n].image.copy()
        side = len(picture)
        stripes = np.where(np.arange(side // 2) % 8 < 4, 0, 255)
        picture[side // 4 : -side // 4, side // 4 : -side // 4] = stripes
        views[n] = replace(views[n], image=picture)
    moved = follow_skin(mesh.vertices, known, seen, observe(views, True), topology)
    away = np.linalg.norm(moved - target.vertices, axis=1)
    x, y, z = target.vertices.T
    behind = (x + 2 * z < 0) & (np.abs(y) < 0.08)  # where the other cameras look
    assert np.percentile(away[behind], 90) < 0.6e-3
    assert np.median(off(moved, target)) < 0.6e-3


def test_how_far_out_a_surface_is_the_skin_leaves_to_others(scene):
    """A millimetre too small: each camera sees the marks shifted another way, which no motion within helps."""
    mesh, topology, _, known = scene
    out = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    observation = observe(observed(mesh), True)
    small = mesh.vertices - 1e-3 * out
    moved = follow_skin(small, known, look(small, topology, observation, RASTERIZER), observation, topology)
    assert np.percentile(np.abs(((moved - small) * out).sum(1)), 90) < 0.6e-3


def played(settings: SurfaceSettings) -> tuple[float, dict[str, float]]:
    """How far vertices slide in the median when the head turns by 12 degrees; and the last frame's stages."""
    tracker = SurfaceTracker(settings, RASTERIZER)
    for degrees in range(0, 13, 2):
        surface = tracker.update(observed(egg(degrees)))
        if degrees == 0:
            nails = Attached.of(surface.vertices, egg(0), 2e-3)
            between = np.abs(surface.vertices[nails.points, 1]) < 0.08
    assert surface.kind == "warm" and surface.quality.flags == ()
    return float(np.median(nails.away(surface.vertices, egg(12).vertices)[between])), surface.seconds


def test_how_alike_pictures_are_to_the_keyframe_s_is_a_correlation(scene):
    mesh, topology, _, known = scene

    def unlike(views, vertices=mesh.vertices):
        again = look(vertices, topology, observe(views, True), RASTERIZER)
        return unlikeness(known, again, begun(again.observation))

    views = observed(mesh)
    assert unlike(views) == pytest.approx(0, abs=1e-6) and 0 < known.unlike < 0.2
    assert unlike([relit(view, 1 + 0.1 * n, -5 * n) for n, view in enumerate(views)]) < 0.02  # exposures are no skin
    assert unlike(views, egg(6.0).vertices) > 0.5  # each vertex is 9 mm from its point, and no normal tells
    assert unlike([replace(view, image=np.full_like(view.image, 90)) for view in views]) > 0.9
    assert 0.05 < unlike([*views[:4], *(relit(view, -1, 255) for view in views[4:])]) < 1.2


def test_nothing_is_alike_where_nothing_varies():
    assert np.isnan(uncorrelated(0, 0, 0, 0, 0, 0)) and np.isnan(uncorrelated(2, 2, 0, 2, 0, 1))
    assert uncorrelated(2, 0, 0, 2, 2, 2) == 0 and uncorrelated(2, 0, 0, 2, -2, 2) == 2


@pytest.mark.parametrize("degrees", [10.0, -14.0])
def test_a_round_head_that_turned_too_far_for_its_skin_is_found_by_small_turns(degrees):
    """16 or 22 mm between two meshes, of which no normal and no outline tells."""
    tracker = SurfaceTracker(SETTINGS, RASTERIZER)
    first = tracker.update(observed(egg(0.0)))
    nails = Attached.of(first.vertices, egg(0.0))
    there = turned(egg(0.0), degrees)
    frame = tracker.update(observed(there))
    assert frame.kind == "warm" and frame.quality.flags == ("recovered",)
    assert np.median(nails.away(frame.vertices, there.vertices)) < 0.6e-3


def test_when_the_light_goes_out_the_shape_is_followed_and_the_skin_is_said_to_be_strange():
    tracker, tried = SurfaceTracker(SETTINGS, RASTERIZER), []
    key = tracker.update(observed(egg(0.0)))
    sought = tracker._sought
    tracker._sought = lambda *asked: tried.append(asked) or sought(*asked)
    dark = [replace(view, image=np.full_like(view.image, 20)) for view in observed(egg(0.0))]
    frames = [tracker.update([replace(view, image=view.image + n % 2) for view in dark]) for n in range(6)]
    assert all(frame.faces is key.faces and frame.kind == "warm" for frame in frames)
    assert all(frame.quality.flags == ("strange skin",) and frame.quality.confidence <= 0.5 for frame in frames)
    assert np.percentile(np.linalg.norm(frames[-1].vertices - key.vertices, axis=1), 95) < 0.3e-3
    assert len(tried) == 4  # at once, and after one, two and four frames
    assert tracker.update(observed(egg(0.0))).quality.flags == ()


def test_a_track_keeps_its_vertices_on_the_skin_and_without_it_they_slide():
    kept, stages = played(SETTINGS)
    assert kept < 1.5e-3 and "skin" in stages  # of 15 mm
    slid, stages = played(replace(SETTINGS, skin=False))
    assert slid > 5e-3 and "skin" not in stages


def test_without_pictures_there_is_no_skin():
    tracker = SurfaceTracker(replace(SETTINGS, photometric=False), RASTERIZER)
    for degrees in (0.0, 1.0):
        surface = tracker.update(observed(egg(degrees)))
    assert surface.kind == "warm" and "skin" not in surface.seconds


def test_what_is_compared_is_of_the_subject_alone(scene):
    """Whatever stands behind: the same levels inside the masks, and none outside."""
    levels = []
    for wall in (0, 255):
        views = [
            replace(view, image=np.where(view.image == 40, wall, view.image).astype(np.uint8))
            for view in observed(egg(0))
        ]
        observation = observe(views, True)
        levels.append(begun(observation).maps()[..., 0])
        assert np.isnan(levels[-1][:, 0]).all()
    inside = ~np.isnan(levels[0])
    assert np.array_equal(inside, ~np.isnan(levels[1])) and 0.2 < inside.mean() < 0.8
    apart = np.abs(levels[0] - levels[1])[inside]
    assert np.percentile(apart, 60) < 1e-3  # blur carries the wall some pixels in, and squares around those


def test_a_vertex_behind_another_surface_is_not_shown():
    """A small ball in front of a larger one: what the camera sees of the larger is what sticks out around it."""
    ball = icosphere(4)
    small = Mesh(0.04 * ball.vertices + [0, 0, 0.3], ball.faces)
    both = Mesh(
        np.concatenate([0.1 * ball.vertices, small.vertices]),
        np.concatenate([ball.faces, ball.faces + len(ball.vertices)]).astype(np.int32),
    )
    camera = camera_at("front", np.array([0.0, 0.0, 1.0]), 256, 700.0)
    topology = Topology.of(both.faces, len(both.vertices))
    view = views_of(both, np.full(len(both.vertices), 130.0), (camera,))
    shown = _facing(look(both.vertices, topology, observe(view, True), RASTERIZER))[0][: len(ball.vertices)]
    x, y, z = 0.1 * ball.vertices.T
    away = np.hypot(x, y) / (1 - z)  # from the axis, as the camera sees it
    edge = 0.04 / 0.7  # the small ball's, nearly
    assert not shown[(z > 0) & (away < 0.9 * edge)].any()
    assert (shown[(z > 0.07) & (away > 1.1 * edge)] > 0).all()
    assert not shown[z < 0].any()


def test_pictures_may_show_more_than_the_maps_and_the_background_change(scene):
    """Pictures that go on to the right and down, before a wall that is another in each frame: only the skin counts."""
    mesh, topology, _, _ = scene
    target = egg(2.0)
    draw = np.random.default_rng(1)

    def wider(view):
        camera, mask = view.image_camera, view.image != 40
        side = len(mask) + 250
        wall = draw.integers(0, 255, (side, side)).astype(np.uint8)
        wall[: len(mask), : len(mask)][mask] = view.image[mask]
        return replace(view, image=wall, image_camera=replace(camera, width=side, height=side))

    first, then = (observe([wider(view) for view in observed(each)], True) for each in (mesh, target))
    seen = look(mesh.vertices, topology, first, RASTERIZER)
    moved = follow_skin(mesh.vertices, Skin.of(seen, first, topology), seen, then, topology)
    assert np.median(off(moved, target)) < 0.4e-3
    assert np.percentile(off(moved, target), 95) < 1.0e-3
