"""Masks to distances, and masks to a hull that one bad mask does not spoil."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from surface_scene import blob, ring, skin, turned, views_of

from fusion_server.surface import SurfaceError
from fusion_server.surface.base import Rig
from fusion_server.surface.each import each
from fusion_server.surface.hull import closed_surface, tunnels, visual_hull
from fusion_server.surface.silhouette import clean_mask, reach, signed_distance, silhouettes
from geometry.cameras import crop_image, cropped
from geometry.measure import SurfaceIndex, surface_distance
from geometry.mesh import Mesh
from geometry.remesh import is_closed_manifold

CAMERAS = ring(8, 128)


@pytest.fixture(scope="module")
def scene():
    mesh = blob(4)
    return mesh, views_of(mesh, skin(4), CAMERAS)


def disc(radius: float, center=(64.3, 61.7), size=128) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.clip(radius + 0.5 - np.hypot(x - center[0], y - center[1]), 0, 1).astype(np.float32)


def test_distance_to_a_disc_is_finer_than_a_pixel():
    distance = signed_distance(disc(30))
    y, x = np.mgrid[:128, :128]
    truth = 30 - np.hypot(x - 64.3, y - 61.7)
    near = np.abs(truth) < 1.5
    assert np.abs(distance - truth)[near].max() < 0.15
    far = np.abs(truth) < 25
    assert np.abs(distance - truth)[far].max() < 1.0
    assert ((distance > 0) == (truth > 0))[np.abs(truth) > 0.1].all()


def test_beyond_the_border_a_mask_goes_on_as_it_ends():
    mask = np.zeros((64, 64), np.float32)
    mask[20:, 16:48] = 1
    distance = signed_distance(mask)
    assert distance[63, 32] == pytest.approx(16, abs=0.6)  # to the sides, not to the bottom
    assert distance[63, 8] == pytest.approx(-7.5, abs=0.6)


@pytest.mark.parametrize("center", [(64, 64), (8, 64), (120, 64), (64, 5), (64, 121), (3, 3), (125, 120)])
def test_a_wider_picture_of_the_same_changes_no_distance(center):
    """Whichever sides the mask touches, and though it glows faintly where it does not."""
    soft = np.maximum(disc(30, center), 0.3 * disc(55, center))
    wider = signed_distance(np.pad(soft, 40, mode="edge"))[40:-40, 40:-40]
    np.testing.assert_allclose(signed_distance(soft), wider, rtol=0, atol=1e-4)


def test_islands_and_pin_holes_go_and_a_second_large_piece_stays():
    mask = disc(30)
    mask[60:63, 60:63] = 0  # a pin-hole
    mask[2:6, 2:6] = 1  # an island
    clean = clean_mask(mask)
    assert clean[61, 61] == 1
    assert clean[:10, :10].max() == 0
    half = np.where(np.abs(np.arange(128) - 64) < 2, 0, disc(30))  # cut in two
    assert (clean_mask(half)[:, [50, 80]] > 0.5).any(0).all()


def test_a_hole_that_is_no_pin_hole_stays():
    mask = disc(40) - disc(15)
    assert clean_mask(mask)[62, 64] < 0.5


def test_only_what_is_small_beside_the_subject_and_enclosed_is_a_pin_hole():
    mask = disc(30)
    mask[60:70, 60:70] = 0  # 3.5 % of the subject, 0.6 % of the picture
    assert clean_mask(mask)[64, 64] == 0
    cut = np.ones((128, 128), np.float32)
    cut[40:44, :3] = 0  # background that the border cuts off
    np.testing.assert_array_equal(clean_mask(cut), cut)


@pytest.mark.parametrize("mask", [np.zeros((64, 64)), np.full((64, 64), 0.4), np.eye(64) * 0])
def test_an_empty_mask_is_blind(mask):
    assert clean_mask(mask.astype(np.float32)) is None


def test_the_hull_of_true_masks_holds_the_subject_and_little_more(scene):
    mesh, views = scene
    hull = visual_hull(CAMERAS, silhouettes(views), 64).surface()
    assert is_closed_manifold(hull.faces)
    distance = surface_distance(mesh, hull, 3000)
    assert distance.forward.median < 2.5e-3
    assert distance.forward.p95 < 8e-3
    middle = hull.vertices[hull.faces].mean(1)
    a, b, c = (hull.vertices[hull.faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a) * (middle - mesh.vertices.mean(0))).sum(1).mean() > 0  # faces look outwards


def test_the_subject_is_found_wherever_it_is(scene):
    shift = (0.04, -0.03, 0.05)
    mesh = turned(scene[0], 30, shift)
    hull = visual_hull(CAMERAS, silhouettes(views_of(mesh, skin(4), CAMERAS)), 48).surface()
    np.testing.assert_allclose((hull.vertices.min(0) + hull.vertices.max(0)) / 2, shift, atol=0.012)


def test_one_mask_that_lacks_the_top_does_not_cut_it_off(scene):
    mesh, views = scene
    rows = np.flatnonzero(views[2].mask.any(1))
    broken = views[2].mask.copy()
    broken[: rows[0] + 25] = 0
    spoiled = [*views[:2], replace(views[2], mask=broken), *views[3:]]
    hull = visual_hull(CAMERAS, silhouettes(spoiled), 64).surface()
    top = mesh.vertices[mesh.vertices[:, 1] > mesh.vertices[:, 1].max() - 0.02]
    assert np.median(SurfaceIndex(hull).distances(top)) < 6e-3
    two = [*spoiled[:4], replace(views[4], mask=np.where(np.arange(128)[:, None] < rows[0] + 25, 0, views[4].mask))]
    cut = visual_hull(CAMERAS, silhouettes([*two, *views[5:]]), 64).surface()
    assert np.median(SurfaceIndex(cut).distances(top)) > 6e-3  # two that agree are believed


def test_one_mask_with_too_much_changes_nothing_much(scene):
    mesh, views = scene
    grown = replace(views[5], mask=cv2.dilate(views[5].mask, np.ones((15, 15))))
    hull = visual_hull(CAMERAS, silhouettes([*views[:5], grown, *views[6:]]), 64).surface()
    assert surface_distance(mesh, hull, 3000).forward.median < 3e-3


def test_a_blind_view_is_left_out(scene):
    mesh, views = scene
    outlines = silhouettes([replace(views[0], mask=np.zeros((128, 128), np.float32)), *views[1:]])
    assert outlines.blind.tolist() == [True] + [False] * 7
    assert surface_distance(mesh, visual_hull(CAMERAS, outlines, 48).surface(), 3000).forward.median < 4e-3


def test_a_subject_cut_by_the_pictures_is_closed_there_and_not_carved(scene):
    mesh, views = scene
    cut = []
    for view in views:  # the upper part only: the lower third lies beyond the border
        side, x0, y0 = 84.0, 22.0, 10.0
        mask = crop_image(view.mask, x0, y0, side, 128)
        cut.append(replace(view, camera=cropped(view.camera, x0, y0, side, 128), mask=mask))
    outlines = silhouettes(cut)
    hull = visual_hull([view.camera for view in cut], outlines, 64).surface()
    assert is_closed_manifold(hull.faces)
    upper = mesh.vertices[mesh.vertices[:, 1] > -0.03]
    distance = SurfaceIndex(hull).distances(upper)
    assert np.median(distance) < 3e-3
    assert hull.vertices[:, 1].min() > -0.10  # the subject itself goes down to -0.115
    within = reach(hull.vertices, Rig.of([view.camera for view in cut]), outlines) > 4e-3
    assert within[hull.vertices[:, 1] > 0].all()
    cap = hull.vertices[:, 1] < hull.vertices[:, 1].min() + 0.002
    assert cap.sum() > 500
    assert not within[cap].any()


def test_what_the_picture_does_not_show_is_not_background(scene):
    _, views = scene
    valid = np.zeros((128, 128), bool)
    valid[:, 20:108] = True
    narrow = [replace(view, mask=np.where(valid, view.mask, 0), valid=valid) for view in views]
    outlines = silhouettes(narrow)
    assert outlines.known.tolist() == [[20, 0, 107, 127]] * 8
    full = visual_hull(CAMERAS, silhouettes(views), 48).surface()
    np.testing.assert_allclose(
        np.ptp(visual_hull(CAMERAS, outlines, 48).surface().vertices, axis=0), np.ptp(full.vertices, axis=0), atol=0.01
    )


def test_masks_that_do_not_meet_are_refused(scene):
    _, views = scene
    corner = np.zeros((128, 128), np.float32)
    corner[:20, :20] = 1
    with pytest.raises(SurfaceError, match="do not meet"):
        visual_hull(CAMERAS, silhouettes([replace(view, mask=corner) for view in views]), 48).surface()


def test_one_view_makes_no_hull(scene):
    _, views = scene
    blind = [replace(view, mask=np.zeros((128, 128), np.float32)) for view in views[1:]]
    with pytest.raises(SurfaceError, match="visible in 1 of 8"):
        visual_hull(CAMERAS, silhouettes([views[0], *blind]), 48).surface()


def test_where_one_picture_ends_the_others_say_how_wide_the_shoulders_are():
    """Beside a neck, at the picture's lower edge, is background; below it, out of the picture, are shoulders."""
    body = blob(4)
    wide = 1 + 1.2 * np.clip(-body.vertices[:, 1:2] / 0.1, 0, 1)
    body = Mesh(body.vertices * np.hstack([wide, np.ones_like(wide), wide]), body.faces)
    cameras = ring(8, 128, distance=1.2, field=0.5)
    views = views_of(body, skin(4), cameras)
    rows = np.arange(128)[:, None] < 66  # one camera sees little more than the head
    cut = replace(views[2], mask=views[2].mask * rows, valid=np.broadcast_to(rows, (128, 128)))
    kept = [*views[:2], cut, *views[3:]]
    less = [*views[:2], *views[3:]]
    with_it = visual_hull(cameras, silhouettes(kept), 96).surface()
    without = visual_hull([view.camera for view in less], silhouettes(less), 96).surface()
    there = SurfaceIndex(with_it).distances(without.vertices)
    assert np.percentile(there, 99) < 6e-3
    assert np.percentile(SurfaceIndex(with_it).distances(body.vertices), 99) < 12e-3


@pytest.mark.parametrize("heads", [(2, 4, 6), (1, 2, 3), (3, 4, 5)])
def test_shoulders_are_not_taken_away_by_guesses_of_pictures_that_end_above_them(heads):
    """Three of eight cameras see the head alone: too many for what they guess to be left out, and they guess that what
    is beside a neck goes on below it."""
    body = blob(4)
    wide = 1 + 1.2 * np.clip(-body.vertices[:, 1:2] / 0.1, 0, 1)
    body = Mesh(body.vertices * np.hstack([wide, np.ones_like(wide), wide]), body.faces)
    cameras = ring(8, 128, distance=1.2, field=0.5)
    rows = np.arange(128)[:, None] < 66
    views = [
        replace(view, mask=view.mask * rows, valid=np.broadcast_to(rows, (128, 128))) if n in heads else view
        for n, view in enumerate(views_of(body, skin(4), cameras))
    ]
    distance = SurfaceIndex(visual_hull(cameras, silhouettes(views), 96).surface()).distances(body.vertices)
    assert np.percentile(distance, 95) < 12e-3 and np.percentile(distance, 99) < 18e-3


def slab(radius: float, cleft: int = 0) -> np.ndarray:
    """A field of a slab with a round hole through it, cells; and a cleft of this width that goes halfway through."""
    x, y, z = np.mgrid[:40, :40, :20].astype(np.float32)
    slab = np.minimum(np.minimum(17 - np.abs(x - 19.5), 17 - np.abs(y - 19.5)), 5 - np.abs(z - 9.5))
    field = np.minimum(slab, np.hypot(x - 19.3, y - 16.2) - radius) if radius else slab
    return np.minimum(field, np.maximum(np.abs(y - 28) - cleft / 2, 9.5 - z)) if cleft else field


@pytest.mark.parametrize(("radius", "left"), [(0, 0), (1.2, 0), (3.5, 0), (9, 1)])
def test_a_tunnel_too_narrow_for_a_mesh_is_closed(radius, left):
    mesh = closed_surface(slab(radius), np.zeros(3), 1.0)
    assert is_closed_manifold(mesh.faces)
    assert tunnels(mesh) == left


def test_a_wall_that_smoothing_would_pierce_is_no_tunnel():
    """Two dents from either side of a slab, and between them one cell that is barely inside."""
    x, y, z = np.mgrid[:40, :40, :20].astype(np.float32)
    slab = np.minimum(np.minimum(17 - np.abs(x - 19.5), 17 - np.abs(y - 19.5)), 5 - np.abs(z - 9.5))
    field = np.minimum(slab, np.maximum(np.hypot(x - 19.3, y - 16.2) - 2.5, 0.3 - np.abs(z - 10)))
    assert field[19, 16, 10] > 0 > field[19, 16, 9]
    mesh = closed_surface(field, np.zeros(3), 1.0)
    assert is_closed_manifold(mesh.faces)
    assert tunnels(mesh) == 0


@pytest.mark.parametrize(("thickness", "left"), [(1.3, 0), (3.0, 1)])
def test_a_strut_too_thin_for_a_mesh_is_cut_where_it_closes_a_wide_tunnel(thickness, left):
    """A handle on a block, with room for a ball of six cells: nothing there is to be plugged."""
    x, y, z = np.mgrid[:60, :30, :50].astype(np.float32)
    block = np.minimum(np.minimum(26 - np.abs(x - 29.5), 10 - np.abs(y - 14.5)), 8 - np.abs(z - 9.5))
    handle = thickness - np.hypot(np.hypot(x - 29.5, z - 17) - 17, y - 14.5)
    mesh = closed_surface(np.maximum(block, handle), np.zeros(3), 1.0)
    assert is_closed_manifold(mesh.faces)
    assert tunnels(mesh) == left
    alone = closed_surface(block, np.zeros(3), 1.0)
    assert np.percentile(SurfaceIndex(mesh).distances(alone.vertices), 95) < 0.5  # and the block is as it was


def test_a_cleft_beside_a_tunnel_stays_open():
    inside = np.array([[19.5, 28.0, 13.0]])
    mesh = closed_surface(slab(2.0, cleft=4), np.zeros(3), 1.0)
    assert tunnels(mesh) == 0
    assert 1.0 < SurfaceIndex(mesh).distances(inside)[0] < 3.0  # its walls are as near as they were
    assert SurfaceIndex(mesh).distances(np.array([[19.5, 28.0, 10.0]]))[0] < 1.5  # and its bottom


def test_views_are_worked_on_in_order_and_what_goes_wrong_is_raised():
    assert each(lambda n: n * n, range(5)) == [0, 1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        each(lambda n: 1 // n, (2, 1, 0))
