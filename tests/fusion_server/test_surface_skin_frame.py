"""The skin on a device against the CPU's: what is compared, who moves alike, and a frame that follows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from surface_scene import egg, marks, numpy, ring, views_of

from fusion_server.sight.resident import resident
from fusion_server.surface import SurfaceSettings, SurfaceTracker
from fusion_server.surface.comparable import Comparable
from fusion_server.surface.groups import _HELD, _SPREADS, _STEPS
from fusion_server.surface.kernels import CPU
from fusion_server.surface.observation import look, observe
from fusion_server.surface.refine import Clock
from fusion_server.surface.rigid import follow_rigid
from fusion_server.surface.skin import _FOOTPRINTS, _facing, follow_skin
from fusion_server.surface.warm import LED, Frame, on_skin, warm
from geometry.device import Lane
from geometry.rasterize.cpu import CpuRasterizer

CAMERAS = ring(6, 96)
SETTINGS = SurfaceSettings(vertices=1200, hull_cells=32, keyframe_iterations=8, uv=False, steady=False)
MARKS = marks()
SIZES = range(len(_FOOTPRINTS))
pytestmark = pytest.mark.usefixtures("on_their_stream")


def observed(degrees=0.0):
    return views_of(egg(degrees), MARKS, CAMERAS, fine=3)


@pytest.fixture(scope="module")
def track():
    """One that a keyframe began on the CPU."""
    tracker = SurfaceTracker(SETTINGS, CpuRasterizer())
    tracker.update(observed())
    return tracker._track


def made(kernels, rasterizer, track, views):
    """A frame's launches, its inputs filled in and observed."""
    frame = kernels.warm_frame(track, views, rasterizer, SETTINGS)
    frame.fill(views, track)
    frame.launches.observe()
    return frame.launches


def frame_of(views, kernels=CPU):
    return Frame(views, (), True, kernels, Clock())


def up(kernels, array, kind=None):
    return kernels._library["skin"].up(array, kind)


def uneven():
    """Pictures that show more than the maps do, to the right and down; one of them of nothing, one of a subject that
    the border cuts."""
    views = []
    for view in observed(2.0):
        camera = view.image_camera
        picture = np.random.default_rng(0).integers(0, 255, (320, 310)).astype(np.uint8)
        picture[: camera.height, : camera.width] = view.image
        views.append(replace(view, image=picture, image_camera=replace(camera, width=310, height=320)))
    views[1] = replace(views[1], mask=np.zeros_like(views[1].mask))
    views[2].mask[30:60, :50] = 1
    return views


def near(footprint: float):
    """The same, as if a pixel covered so much, metres."""
    return [
        replace(view, image_camera=replace(camera, K=camera.K * [[times], [times], [1]]))
        for view, camera, times in ((v, v.image_camera, 1.18e-3 / footprint) for v in uneven())
    ]


@pytest.mark.parametrize("footprint", [4e-3, 1.18e-3, 0.5e-3])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_made_comparable_as_on_the_cpu(kernels, rasterizer, track, footprint, size):
    """Halved not at all, once, twice; pictures so near that half of them is beside the maps."""
    views = near(footprint)
    launches = made(kernels, rasterizer, track, views)
    observation = observe(views, True)
    launches.skin.make_comparable(size)
    pictures = Comparable.begun(observation, _FOOTPRINTS[size])
    theirs, b = pictures.maps()[..., 0], launches.buffer
    assert numpy(b[f"covers{size}"])[0] == pytest.approx(pictures.footprint, rel=1e-12)
    ours = numpy(b[f"comparable{size}"]).ravel()[: theirs.size].reshape(theirs.shape)
    ours[:, [0, -1]], ours[:, :, [0, -1]] = np.nan, np.nan  # there is no step there
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.isnan(theirs[1]).all() and 0.01 < np.mean(~np.isnan(theirs)) < 0.8
    off = np.abs(ours - theirs)[~np.isnan(theirs)]  # of the contrast; grey levels are blurred as nearly alike
    assert off.max() < 1e-3 and np.median(off) < 1e-5


def test_who_faces_a_view_is_the_cpu_s(kernels, rasterizer, track):
    views = observed(3.0)
    launches = made(kernels, rasterizer, track, views)
    half = launches.levels[1]
    launches.look(half, launches.inbox["start"], fused=False)
    launches.skin.face(half, launches.inbox["start"])
    seen = look(track.vertices, track.topology, observe(views, True).coarser(), CpuRasterizer())
    theirs = _facing(seen)
    assert 0.2 < (theirs > 0).mean() < 0.5
    ours = numpy(launches.buffer["facing"])
    assert (np.abs(ours - theirs) > 1e-6).mean() < 2e-3  # a pixel at whose centre an edge passes


def test_groups_move_as_on_the_cpu(kernels, track):
    """Some of which nothing is known, and as many steps as there are at most."""
    groups, mesh = track.skin.groups, kernels._topology(track.topology)
    count, draw = len(groups.start) - 1, np.random.default_rng(5)
    rows = draw.normal(size=(count, 4, 3)) * (draw.uniform(size=count) > 0.3)[:, None, None]
    system = 1e4 * np.einsum("gni,gnj->gij", rows, rows)
    right = np.einsum("gij,gj->gi", system, 1e-3 * draw.normal(size=(count, 3)))
    theirs = groups.solve(system.copy(), right, 2e3)
    low = np.triu_indices(3)
    room = {
        name: up(kernels, np.zeros((count, size))) for name, size in (("a", 6), ("b", 6), *((n, 3) for n in "rzpq"))
    }
    motions, ways = up(kernels, np.zeros((count, 3))), up(kernels, np.zeros(count))
    index = [up(kernels, array) for array in (groups.start, groups.neighbour, groups.links)]
    kernels._library["groups"](
        "group_motions", up(kernels, system[:, low[0], low[1]]), up(kernels, right), *index, 2e3, _HELD, count, _STEPS,
        *room.values(), motions, ways,
    )  # fmt: skip
    assert np.linalg.norm(theirs, axis=1).min() > 1e-6
    np.testing.assert_allclose(numpy(motions), theirs, atol=1e-9)  # metres
    np.testing.assert_allclose(numpy(ways), np.linalg.norm(numpy(motions), axis=1), rtol=1e-14)
    start, moves = up(kernels, track.vertices.copy()), up(kernels, np.ones(1, np.int32))
    one, other = (up(kernels, np.zeros(track.vertices.shape)) for _ in range(2))
    arguments = motions, up(kernels, groups.of), mesh.start, mesh.neighbour, len(track.vertices), _SPREADS
    kernels._library["groups"]("go_along", *arguments, moves, one, other, start)
    there = track.vertices + groups.spread(theirs, track.topology)
    np.testing.assert_allclose(numpy(start), there, atol=1e-9)
    kernels._library["groups"]("go_along", *arguments, up(kernels, np.zeros(1, np.int32)), one, other, start)
    np.testing.assert_allclose(numpy(start), there, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 777])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_a_quantile_is_numpy_s(kernels, count, share):
    values = np.random.default_rng(count).exponential(size=count) * 1e-3
    values[: count // 4] = 0.0
    between, out = up(kernels, np.zeros(2)), up(kernels, np.zeros(1))
    kernels._library["reduce"]("quantile", up(kernels, values), count, share, between, out)
    assert numpy(out)[0] == pytest.approx(np.quantile(values, share), rel=1e-12)


@pytest.mark.parametrize(
    ("degrees", "far"), [(0.0, 0.5), (0.5, 0.5), (6.0, 1e9), (6.0, 0.05), (-9.0, 0.05)], ids=lambda value: f"{value:g}"
)
def test_vertices_follow_the_skin_as_on_the_cpu(kernels, rasterizer, track, monkeypatch, degrees, far):
    """far: pixels beyond which coarser pictures lead the way."""
    monkeypatch.setattr("fusion_server.surface.skin._FAR", far)
    views = observed(degrees)
    launches = made(kernels, rasterizer, track, views)
    launches.follow()
    rigid = numpy(launches.outbox["vertices"]).copy()
    launches.skin.follow()
    frame = frame_of(views)
    there, seen = follow_rigid(
        track.vertices, track.topology, frame.coarse, CpuRasterizer(), SETTINGS, track.rest, still=LED
    )
    np.testing.assert_allclose(rigid, there, atol=1e-7)  # metres
    theirs = on_skin(frame, track, there, seen)
    ours = numpy(launches.outbox["vertices"])
    assert bool(numpy(launches.skin._lead)[0]) == (far < 0.1)
    went = np.linalg.norm(theirs - there, axis=1).max()
    assert went > 0.1e-3 if degrees else went < 0.1e-3
    assert np.abs(ours - theirs).max() < 1e-6 + 2e-3 * went


def test_a_track_without_skin_does_not_follow_it(kernels, rasterizer, track):
    """The same frame, and the CPU's without it: the settings of ``--no-skin``."""
    views, bare = observed(4.0), replace(track, skin=None)
    ours = kernels.warm(frame_of(views, kernels), bare, rasterizer, SETTINGS)
    theirs = warm(frame_of(views), bare, CpuRasterizer(), SETTINGS)
    followed = kernels.warm(frame_of(views, kernels), track, rasterizer, SETTINGS)
    away = np.linalg.norm(ours.vertices - theirs.vertices, axis=1)
    assert np.median(away) < 1e-6 and np.median(np.linalg.norm(followed.vertices - ours.vertices, axis=1)) > 1e-3


def test_pictures_that_are_on_the_device_are_read_on_the_host_where_frames_go_step_by_step(kernels, track, device):
    """A recovery, or another rasteriser: the skin is followed by the CPU's, with pictures that it fetches."""
    views = [replace(view, image=np.repeat(view.image[..., None], 3, 2)) for view in observed(2.0)]
    there = resident(views, Lane(torch.device(device)))
    frame = frame_of(there, kernels)
    assert isinstance(frame.observation.pictures.grey, torch.Tensor)
    assert isinstance(kernels.on_host(frame.observation.pictures).grey, np.ndarray)
    seen = look(track.vertices, track.topology, frame.coarse, CpuRasterizer())
    ours = follow_skin(track.vertices, track.skin, seen, frame.observation, track.topology)
    on_cpu = frame_of(views)
    theirs = follow_skin(
        track.vertices, track.skin, look(track.vertices, track.topology, on_cpu.coarse, CpuRasterizer()),
        on_cpu.observation, track.topology,
    )  # fmt: skip
    assert np.median(np.linalg.norm(theirs - track.vertices, axis=1)) > 0.5e-3
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_what_is_known_of_the_skin_goes_by_cameras_names(kernels, rasterizer, track):
    """Cameras in another order, and one that the keyframe had not."""
    views = observed(1.0)[::-1]
    views[0] = replace(views[0], camera=replace(views[0].camera, name="new"))
    launches = made(kernels, rasterizer, track, views)
    names = [view.camera.name for view in views]
    for size in SIZES:
        np.testing.assert_array_equal(numpy(launches.kept[f"expected{size}"]), track.skin.expected(names, size))
