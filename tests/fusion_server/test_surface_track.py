"""The tracker on a subject that moves: one topology, small errors, honest flags."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from surface_scene import blob, hollowed, ring, skin, turned, views_of

from fusion_server.surface import SurfaceError, SurfaceSettings, SurfaceTracker
from fusion_server.surface.keyframe import aligned, draped
from fusion_server.surface.solve import Shape, Topology
from fusion_server.surface.steady import steadied
from fusion_server.surface.stuck import Repeats
from fusion_server.surface.warm import warm
from geometry.align import rigid_motion
from geometry.measure import Attached, SurfaceIndex, surface_distance
from geometry.mesh import Mesh, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from geometry.remesh import is_closed_manifold

CAMERAS = ring(8, 128)
SETTINGS = SurfaceSettings(vertices=2500, keyframe_iterations=9, hull_cells=64)


class Counting(CpuRasterizer):
    """Counts how often it is asked; a tracker that does nothing would be fast and wrong."""

    calls = 0

    def rasterize(self, vertices, faces, cameras):
        self.calls += 1
        return super().rasterize(vertices, faces, cameras)


def subject(n: int) -> Mesh:
    """Frame n of a head that turns, shifts and puffs a cheek."""
    return turned(blob(5, swell=0.4e-3 * n), 4.0 * n, (3e-3 * n, -1e-3 * n, 0))


def observed(mesh: Mesh):
    return views_of(mesh, skin(5), CAMERAS, fine=3)


def refuse():
    raise SurfaceError("no surface")


def error(frame, mesh: Mesh) -> np.ndarray:
    return np.percentile(SurfaceIndex(mesh).distances(frame.vertices), (50, 95))


@pytest.fixture(scope="module")
def take():
    """Six frames and what the tracker made of them."""
    rasterizer = Counting()
    tracker = SurfaceTracker(SETTINGS, rasterizer)
    meshes = [subject(n) for n in range(6)]
    calls, frames = [], []
    for mesh in meshes:
        frames.append(tracker.update(observed(mesh)))
        calls.append(rasterizer.calls)
    return meshes, frames, np.diff(calls)


def test_a_keyframe_is_even_closed_and_near_the_truth(take):
    meshes, frames, _ = take
    key = frames[0]
    assert key.kind == "keyframe"
    assert key.quality.flags == ()
    assert is_closed_manifold(key.faces)
    assert len(key.vertices) == pytest.approx(2500, rel=0.15)
    median, p95 = error(key, meshes[0])
    assert median < 0.3e-3
    assert p95 < 1.5e-3
    assert surface_distance(meshes[0], Mesh(key.vertices, key.faces), 5000).forward.p95 < 2e-3
    np.testing.assert_allclose(key.normals, vertex_normals(key.vertices, key.faces), atol=1e-9)


def test_warm_frames_keep_the_topology_and_the_accuracy(take):
    meshes, frames, calls = take
    for n in range(1, 6):
        assert frames[n].kind == "warm"
        assert frames[n].faces is frames[0].faces
        assert frames[n].uv is frames[0].uv
        assert frames[n].quality.flags == ()
        assert frames[n].quality.inverted == 0
        median, p95 = error(frames[n], meshes[n])
        assert median < 0.3e-3
        assert p95 < 1.6e-3
    assert calls.max() <= 10


def test_vertices_travel_with_the_head(take):
    _, frames, _ = take
    back = turned(Mesh(frames[5].vertices - (15e-3, -5e-3, 0), frames[5].faces), -20.0)
    assert np.median(np.linalg.norm(back.vertices - frames[0].vertices, axis=1)) < 2.5e-3


def test_a_keyframe_has_no_crease_that_would_fold_over_in_the_next_frame():
    """Normals so noisy that two faces stand on edge, were they not smoothed at the end."""
    draw = np.random.default_rng(0)
    views = []
    for view in views_of(blob(5), skin(5), ring(6, 96)):
        normal = view.normal + 0.6 * draw.normal(size=view.normal.shape).astype(np.float32)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        views.append(replace(view, normal=normal.astype(np.float32)))
    settings = SurfaceSettings(vertices=2500, hull_cells=48, keyframe_iterations=8, uv=False, steady=False)
    frame = SurfaceTracker(settings, CpuRasterizer()).update(views)
    topology = Topology.of(frame.faces, len(frame.vertices))
    assert not Shape.of(frame.vertices, topology).folded(topology, 0.4).any()


def test_a_keyframe_spends_its_vertices_where_cameras_see_it():
    front = tuple(camera for camera in CAMERAS if camera.center[2] > 0.3)
    key = SurfaceTracker(SETTINGS, CpuRasterizer()).update(views_of(subject(0), skin(5), front, fine=3))
    sides = key.vertices[key.faces] - key.vertices[np.roll(key.faces, 1, axis=1)]
    long, depth = np.linalg.norm(sides, axis=2).mean(1), key.vertices[key.faces].mean(1)[:, 2]
    behind, before = depth < np.percentile(depth, 10), depth > np.percentile(depth, 60)
    assert np.median(long[behind]) > 1.5 * np.median(long[before])
    assert len(key.vertices) == pytest.approx(2500, rel=0.15)


def test_a_warm_frame_has_no_fold_that_an_iteration_left(monkeypatch):
    tracker = SurfaceTracker(SETTINGS, CpuRasterizer())
    tracker.update(observed(subject(0)))
    topology = tracker._track.topology

    def folding(*given):
        found = warm(*given)
        vertices = found.vertices.copy()
        near = np.linalg.norm(vertices - vertices[100], axis=1) < 25e-3
        vertices[near] += 8e-3 * np.random.default_rng(0).normal(size=(near.sum(), 3))
        count = int(Shape.of(vertices, topology).folded(topology).sum())
        assert count > 0
        return replace(found, vertices=vertices, fit=replace(found.fit, inverted=count))

    monkeypatch.setattr("fusion_server.surface.track.warm", folding)
    shown = tracker.update(observed(subject(1)))
    assert shown.quality.inverted == 0
    assert not Shape.of(tracker._track.vertices, topology).folded(topology).any()


def test_a_head_that_is_flung_about_is_not_filtered():
    tracker = SurfaceTracker(replace(SETTINGS, steady=True), CpuRasterizer())
    for mesh in (subject(0), subject(0), turned(subject(0), 8.0, (0.0, 0.0, 0.0))):
        shown = tracker.update(observed(mesh))
    assert shown.iterations > SETTINGS.iterations
    np.testing.assert_array_equal(shown.vertices, tracker._track.vertices)


def test_what_is_handed_out_has_no_fold_that_the_filter_made(monkeypatch):
    def folding(before, vertices, jumped):
        memory = steadied(before, vertices, jumped)
        near = np.linalg.norm(vertices - vertices[100], axis=1) < 25e-3
        shaken = memory.vertices.copy()
        shaken[near] += 8e-3 * np.random.default_rng(0).normal(size=(near.sum(), 3))
        made.append(Shape.of(shaken, tracker._track.topology).folded(tracker._track.topology).sum())
        return replace(memory, vertices=shaken)

    made: list[int] = []
    tracker = SurfaceTracker(SETTINGS, CpuRasterizer())
    tracker.update(observed(subject(0)))
    monkeypatch.setattr("fusion_server.surface.track.steadied", folding)
    shown = tracker.update(observed(subject(1)))
    assert made[0] > 0
    assert not Shape.of(shown.vertices, tracker._track.topology).folded(tracker._track.topology).any()


def test_texture_coordinates_belong_to_corners_and_do_not_overlap(take):
    _, frames, _ = take
    uv = frames[0].uv
    assert uv.shape == (*frames[0].faces.shape, 2)
    assert uv.min() >= 0
    assert uv.max() <= 1
    a, b, c = uv[:, 0], uv[:, 1], uv[:, 2]
    doubled = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    points = np.random.default_rng(0).random((500, 1, 2))
    cross = lambda p, q: p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]  # noqa: E731
    sides = np.stack([cross(q - p, points - p) * np.sign(doubled) for p, q in ((a, b), (b, c), (c, a))])
    assert (sides > 0).all(0).sum(1).max() == 1
    assert 0.3 < np.abs(doubled).sum() / 2 < 1


def disagreeing(mesh: Mesh):
    """Views that nothing fits: normals tilted alike in all, every other mask a pixel and a half too wide."""
    c, s = np.cos(np.radians(6.0)), np.sin(np.radians(6.0))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    views = []
    for n, view in enumerate(observed(mesh)):
        normal = (view.normal @ (view.camera.R @ turn @ view.camera.R.T).T).astype(np.float32)
        mask = view.mask if n % 2 else np.clip(cv2.GaussianBlur(view.mask, (0, 0), 1.2) * 8, 0, 1)
        views.append(replace(view, normal=normal, mask=mask))
    return views


def test_a_still_subject_stays_still():
    """The same pictures again and again; they disagree, and nothing may creep."""
    views = disagreeing(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    first = tracker.update(views)
    frames = [tracker.update(views) for _ in range(60)]
    np.testing.assert_allclose(frames[59].vertices, first.vertices, rtol=0, atol=1e-6)
    assert error(frames[59], subject(0))[0] < 0.4e-3


@pytest.fixture(scope="module")
def still_and_shifted():
    """Looks that a tracker takes at a still head's third frame, where cameras stay and where one is moved meanwhile;
    and the surfaces, of a tracker that keeps no look too."""
    views = observed(subject(0))
    camera = replace(views[3].camera, t=views[3].camera.t + (1e-3, 0, 0))
    moved = [*views[:3], replace(views[3], camera=camera), *views[4:]]
    out = {}
    for name, third in (("still", views), ("moved", moved)):
        rasterizers = Counting(), Counting()
        trackers = [SurfaceTracker(replace(SETTINGS, uv=False), rasterizer) for rasterizer in rasterizers]
        for tracker in trackers:
            tracker.update(views)
            tracker.update(views)
        trackers[1]._track = replace(trackers[1]._track, seen=None)
        before = [rasterizer.calls for rasterizer in rasterizers]
        frames = [tracker.update(third) for tracker in trackers]
        out[name] = [r.calls - b for r, b in zip(rasterizers, before, strict=True)], frames
    return out


def test_a_state_to_keep_has_no_look():
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    tracker.update(observed(subject(0)))
    tracker.update(observed(subject(0)))
    assert tracker._track.seen is not None and tracker.state()[0].seen is None


def test_a_look_at_what_was_just_seen_is_not_taken_again(still_and_shifted):
    (kept, anew), (ours, theirs) = still_and_shifted["still"]
    assert kept == anew - 1
    np.testing.assert_array_equal(ours.vertices, theirs.vertices)


def test_a_camera_that_moved_is_looked_through_anew(still_and_shifted):
    (kept, anew), (ours, theirs) = still_and_shifted["moved"]
    assert kept == anew
    np.testing.assert_array_equal(ours.vertices, theirs.vertices)


def test_a_slow_turn_is_followed_and_not_slid_over():
    """0.05 degrees a frame are 4 hundredths of a millimetre: less than the search calls a step."""
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    first = tracker.update(observed(subject(0)))
    for n in range(1, 31):
        last = tracker.update(observed(turned(subject(0), 0.05 * n)))
    turn = rigid_motion(first.vertices, last.vertices).turn
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(1.5, rel=0.2)


def test_a_subject_that_moves_is_followed_although_its_views_disagree():
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    errors = [error(tracker.update(disagreeing(subject(n))), subject(n)) for n in range(8)]
    assert errors[7][0] < 1.3 * errors[0][0]
    assert errors[7][1] < 1.5 * errors[0][1]


def test_quality_tells_a_good_frame_from_a_bad_one():
    views = observed(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    good = tracker.update(views)
    assert good.quality.silhouette_iou > 0.97
    assert good.quality.normal_residual_deg < 6
    grown = [
        replace(view, mask=np.where(np.arange(128)[:, None] > 100, 1, view.mask).astype(np.float32)) if n == 3 else view
        for n, view in enumerate(views)
    ]
    one_wrong = tracker.update(grown)
    assert "disagrees:cam3" in one_wrong.quality.flags
    assert one_wrong.quality.confidence < good.quality.confidence
    blind = tracker.update([replace(views[0], mask=np.zeros_like(views[0].mask)), *views[1:]])
    assert "blind:cam0" in blind.quality.flags
    assert error(blind, subject(0))[0] < 0.4e-3


def test_a_jump_is_recovered_on_the_old_topology():
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    key = tracker.update(observed(subject(0)))
    jumped = turned(blob(5), 35.0, (0.05, 0.02, -0.03))
    frame = tracker.update(observed(jumped))
    assert frame.faces is key.faces
    assert "lost" not in frame.quality.flags
    assert error(frame, jumped)[0] < 0.6e-3


def test_another_subject_gets_a_topology_of_its_own_and_a_flag():
    tracker = SurfaceTracker(SETTINGS, CpuRasterizer())
    key = tracker.update(observed(subject(0)))
    mesh = blob(5)
    other = Mesh(np.stack([1.3 * mesh.vertices[:, 2], 0.45 * mesh.vertices[:, 1], mesh.vertices[:, 0]], 1), mesh.faces)
    other = Mesh(other.vertices, other.faces[:, ::-1].copy())
    frame = tracker.update(observed(other))
    assert frame.kind == "keyframe"
    assert ("new topology" in frame.quality.flags) == (frame.faces is not key.faces)
    assert "lost" not in frame.quality.flags
    assert error(frame, other)[0] < 1e-3
    if frame.faces is not key.faces:
        assert frame.uv is not key.uv


def test_an_old_topology_is_laid_onto_a_mesh_of_another():
    old = blob(3)
    topology = Topology.of(old.faces, len(old.vertices))
    there = SurfaceIndex(turned(blob(4, 2e-3), 8.0, (0.05, 0.02, -0.03)))
    near = aligned(old.vertices, there)
    shape = np.linalg.norm(near - near.mean(0), axis=1) - np.linalg.norm(old.vertices - old.vertices.mean(0), axis=1)
    assert np.abs(shape).max() < 1e-9 and np.percentile(there.distances(near), 95) < 4e-3
    assert np.percentile(there.distances(draped(near, topology, there)), 95) < 0.5e-3


@pytest.mark.parametrize("degrees", [60.0, 180.0])
def test_a_head_that_comes_back_turned_is_found_on_its_own_points(degrees):
    """Its outline and most normals fit a surface that merely took on its shape, with every vertex on another point."""
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    first = tracker.update(observed(blob(5)))
    nails = Attached.of(first.vertices, blob(5))
    there = turned(blob(5), degrees, (0.01, 0.0, 0.01))
    frame = tracker.update(observed(there))
    assert frame.kind == "warm" and frame.quality.flags == ("recovered",)
    assert np.percentile(nails.away(frame.vertices, there.vertices), 95) < 0.5e-3


def test_what_is_not_found_from_its_last_pose_is_registered_on_a_new_keyframe():
    """The take's topology goes on, on its own points, and the frame says so."""
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    key = tracker.update(observed(subject(0)))
    nails = Attached.of(key.vertices, subject(0))
    track, *others = tracker.state()
    tracker.restore((replace(track, vertices=track.vertices + (1.5, 0.0, 0.0)), *others))  # no search goes as far
    there = turned(blob(5), 100.0, (0.01, 0.0, 0.0))
    frame = tracker.update(observed(there))
    assert frame.kind == "keyframe" and frame.quality.flags == ("recovered",)
    assert frame.faces is key.faces
    assert np.percentile(nails.away(frame.vertices, there.vertices), 95) < 0.5e-3


def test_without_pictures_the_shape_alone_says_where_an_old_topology_lies():
    views = observed(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False, photometric=False), CpuRasterizer())
    key = tracker.update(views)
    assert np.isnan(key.quality.photometric_residual)
    track, *others = tracker.state()
    tracker.restore((replace(track, vertices=track.vertices + (1.5, 0.0, 0.0)), *others))
    frame = tracker.update(observed(subject(1)))
    assert frame.kind == "keyframe" and frame.quality.flags == ("recovered",) and frame.faces is key.faces
    assert error(frame, subject(1))[1] < 3e-3


def test_a_track_that_stays_lost_makes_keyframes_at_first_and_then_more_seldom(monkeypatch):
    views = observed(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    tracker.update(views)
    corner = np.zeros_like(views[0].mask)
    corner[:30, :30] = 1
    made = []
    monkeypatch.setattr("fusion_server.surface.track.make_keyframe", lambda *_: made.append(1) or refuse())
    frames = [tracker.update([replace(view, mask=corner) for view in views]) for _ in range(7)]
    assert all(frame.quality.flags[0] == "lost" for frame in frames)
    assert len(made) == 4  # at once, and after one, two and four frames
    assert all(frame.quality.silhouette_iou < 0.6 for frame in frames)  # of this frame, not of the keyframe
    assert tracker.update(views).quality.flags == ()


def test_a_take_has_one_topology_whoever_walks_in(monkeypatch):
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    key = tracker.update(observed(subject(0)))
    monkeypatch.setattr("fusion_server.surface.track.is_registered", lambda quality, distance: False)
    mesh = blob(5)
    wide = Mesh(mesh.vertices * (1.5, 0.4, 0.8), mesh.faces)
    tracker.keeps_topology = True
    frame = tracker.update(observed(wide))
    assert frame.quality.flags[0] == "lost" and frame.faces is key.faces
    np.testing.assert_array_equal(frame.vertices, key.vertices)
    back = tracker.update(observed(subject(1)))
    assert "lost" not in back.quality.flags and back.faces is key.faces
    assert error(back, subject(1))[0] < 0.4e-3
    tracker.keeps_topology = False
    other = tracker.update(observed(wide))
    assert "new topology" in other.quality.flags and other.faces is not key.faces
    assert error(other, wide)[0] < 1e-3


def test_nothing_to_see_keeps_the_track():
    views = observed(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    key = tracker.update(views)
    empty = [replace(view, mask=np.zeros_like(view.mask)) for view in views]
    with pytest.raises(SurfaceError, match="no subject in any view"):
        tracker.update(empty)
    frame = tracker.update(views)
    assert frame.kind == "warm"
    assert frame.faces is key.faces


def test_masks_that_make_no_sense_are_flagged_and_the_surface_kept():
    views = observed(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    key = tracker.update(views)
    corner = np.zeros_like(views[0].mask)
    corner[:30, :30] = 1
    frame = tracker.update([replace(view, mask=corner) for view in views])
    assert frame.quality.flags[0] == "lost"
    assert frame.quality.confidence == 0
    np.testing.assert_array_equal(frame.vertices, key.vertices)
    assert tracker.update(views).quality.flags == ()


def test_after_a_reset_the_next_frame_is_a_keyframe():
    views = observed(subject(0))
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    tracker.update(views)
    tracker.reset()
    assert tracker.update(views).kind == "keyframe"


def test_fewer_views_and_colour_pictures_will_do():
    views = [replace(view, image=np.repeat(view.image[..., None], 3, -1)) for view in observed(subject(0))]
    tracker = SurfaceTracker(replace(SETTINGS, uv=False), CpuRasterizer())
    tracker.update(views)
    frame = tracker.update([view for n, view in enumerate(views) if n not in (1, 6)])
    assert frame.kind == "warm"
    assert error(frame, subject(0))[0] < 0.4e-3


def test_without_photometry_pictures_do_not_matter():
    views = observed(subject(0))
    settings = replace(SETTINGS, uv=False, photometric=False)
    plain = SurfaceTracker(settings, CpuRasterizer()).update(views)
    black = SurfaceTracker(settings, CpuRasterizer()).update([replace(v, image=np.zeros_like(v.image)) for v in views])
    np.testing.assert_array_equal(plain.vertices, black.vertices)
    assert "photometric" not in plain.seconds


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda views: [], "no views"),
        (lambda views: [replace(views[0], mask=views[0].mask[:64, :64]), *views[1:]], "differ in size"),
        (lambda views: views[:1], "at least two"),
    ],
)
def test_what_is_no_surface_is_refused_in_a_line(spoil, message):
    views = observed(blob(5))
    with pytest.raises(SurfaceError, match=message):
        SurfaceTracker(SETTINGS, CpuRasterizer()).update(spoil(views))


def test_a_scanned_bust_from_its_true_normals(shared_data, root, monkeypatch):
    """Real shapes have what a blob has not: ears, a sharp rim, a face. Photographs are path-traced."""
    monkeypatch.syspath_prepend(root)
    from benchmarks._takes import errors, truth_views
    from geometry.mesh import read_ply
    from protocol.capture_folder import CaptureFolder

    capture = CaptureFolder.open(shared_data / "nefertiti_soft")
    tracker = SurfaceTracker(SurfaceSettings(uv=False), CpuRasterizer())
    views = truth_views(capture, "000", 256)
    truth = read_ply(capture.mesh("000"))
    for kind in ("keyframe", "warm"):
        frame = tracker.update(views)
        there, back = errors(frame, truth, views)
        assert frame.kind == kind
        assert there.median < 0.2e-3
        assert there.p95 < 1.6e-3
        assert back.median < 0.2e-3
        assert back.p95 < 1.7e-3


def test_a_camera_that_is_stuck_is_left_out_and_told(take):
    meshes, frames, _ = take
    tracker = SurfaceTracker(SETTINGS, CpuRasterizer())
    frozen = observed(meshes[0])[3]
    flags, errors = [], []
    for n, mesh in enumerate(meshes):
        views = observed(mesh)
        views[3] = frozen if n < 5 else views[3]
        frame = tracker.update(views)
        flags.append([flag for flag in frame.quality.flags if flag.startswith("stuck")])
        errors.append(error(frame, mesh))
    assert flags == [[], [], ["stuck:cam3"], ["stuck:cam3"], ["stuck:cam3"], []]
    assert errors[4][0] < 1.5 * error(frames[4], meshes[4])[0]


def test_when_nothing_moves_no_camera_is_stuck():
    views = observed(subject(0))
    repeats = Repeats()
    for _ in range(4):
        repeats = repeats.after(views)
        assert repeats.stuck() == ()
    changed = [replace(view, image=view.image + np.uint8(1)) if n != 3 else view for n, view in enumerate(views)]
    assert repeats.after(changed).stuck() == ("cam3",)
    assert repeats.after(changed[4:]).stuck() == ()


def test_a_first_mesh_reaches_into_a_hollow_that_no_outline_shows_and_no_normal_knows():
    """Two centimetres deep, with steep walls; where the hollow is, nothing is said of normals."""
    mesh, floor = hollowed(0.02, 0.4)
    views, without = (views_of(each, skin(5), CAMERAS, fine=4) for each in (mesh, blob(5)))
    known = [np.abs(a.normal - b.normal).max(-1) < 1e-3 for a, b in zip(views, without, strict=True)]
    views = [replace(view, confidence=where.astype(np.float32)) for view, where in zip(views, known, strict=True)]
    settings = SurfaceSettings(vertices=3000, uv=False, hull_cells=64)
    surface = SurfaceTracker(settings, CpuRasterizer()).update(views)
    off = SurfaceIndex(Mesh(surface.vertices, surface.faces)).distances(mesh.vertices[floor])
    assert np.median(off) < 0.5e-3
