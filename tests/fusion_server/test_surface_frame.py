"""The warm frame that stays on a device against the CPU's: piece by piece, as a whole, and as a graph would hold it."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from surface_scene import blob, numpy, ring, skin, turned, views_of
from torch.utils._python_dispatch import TorchDispatchMode

from fusion_server.sight.resident import resident
from fusion_server.surface import SurfaceError, SurfaceSettings, SurfaceTracker
from fusion_server.surface.bias import _tilt
from fusion_server.surface.cuda.frame import WarmFrame
from fusion_server.surface.cuda.indices import levelled
from fusion_server.surface.kernels import CPU
from fusion_server.surface.observation import look, observe
from fusion_server.surface.photometric import search_of
from fusion_server.surface.refine import Clock
from fusion_server.surface.rest import _SWEEPS, _spread
from fusion_server.surface.rigid import rigid_step
from fusion_server.surface.silhouette import silhouettes
from fusion_server.surface.solve import Shape, Topology, even_layout, less_folded, relaxed
from fusion_server.surface.warm import Frame, warm
from geometry.align import rigid_motion
from geometry.device import Lane, Library
from geometry.mesh import Mesh
from geometry.rasterize.cpu import CpuRasterizer

CAMERAS = ring(6, 96)
SETTINGS = SurfaceSettings(vertices=800, iterations=2, hull_cells=32, keyframe_iterations=8, uv=False, steady=False)
pytestmark = pytest.mark.usefixtures("on_their_stream")


def observed(degrees=0.0, swell=0.0, shift=(0.0, 0.0, 0.0)):
    """Pictures that end above the subject's lower end."""
    views = views_of(turned(blob(4, swell), degrees, shift), skin(4), CAMERAS, fine=3)
    return [replace(view, valid=np.arange(96)[:, None].repeat(96, 1) < 66) for view in views]


@pytest.fixture(scope="module")
def tracker():
    """A track that a keyframe began, on the CPU, with a region that nobody sees."""
    made = SurfaceTracker(SETTINGS, CpuRasterizer())
    made.update(observed())
    assert made._track.pose.unseen.any() and not made._track.pose.unseen.all()
    return made


@pytest.fixture(scope="module")
def track(tracker):
    return tracker._track


def frame_of(views, kernels=CPU, settings=SETTINGS):
    return Frame(views, (), settings.photometric, kernels, Clock())


def made(kernels, rasterizer, track, views, settings=SETTINGS):
    """A frame on the device, its inputs filled in."""
    frame = kernels.warm_frame(track, views, rasterizer, settings)
    frame.fill(views, track)
    return frame


def up(kernels, array, kind=None):
    return kernels._library["fuse"].up(array, kind)


def spotted():
    """Views whose masks have islands, holes, soft edges, a large second piece, a border, and nothing at all."""
    views = [replace(view, mask=view.mask.copy(), valid=None) for view in observed()]
    views[0].mask[2:5, 2:5] = 0.9  # an island, with a soft edge
    views[0].mask[5, 2:5] = 0.3
    views[0].mask[40:42, 50] = 0.1  # a pin-hole
    views[1].mask[5:30, 2:25] = 1  # a second piece
    views[1].mask[30:60, 44:52] = 0.2  # a hole that is none
    views[2] = replace(views[2], mask=np.zeros_like(views[2].mask))
    views[3].mask[:, :8] = 1  # what is cut off by the border
    views[3].mask[40:44, 0:3] = 0
    valid = np.ones(views[4].mask.shape, bool)
    valid[:12], valid[:, 80:] = False, False
    views[4] = replace(views[4], valid=valid)
    views[5].mask[:] = 1  # nothing but subject
    return views


def test_masks_are_cleaned_and_measured_as_on_the_cpu(kernels, rasterizer, track):
    views = spotted()
    frame = made(kernels, rasterizer, track, views)
    frame.launches.observe()
    ours, theirs = frame.launches.levels[0], silhouettes(views)
    np.testing.assert_array_equal(numpy(frame.outbox["blind"]) != 0, theirs.blind)
    np.testing.assert_array_equal(numpy(ours.inside) != 0, theirs.inside)
    assert theirs.inside[1, 10, 10] and not theirs.inside[0, 3, 3] and theirs.inside[0, 40, 50]
    np.testing.assert_array_equal(numpy(ours.known), theirs.known)
    # Pixels; a blurred value that rounds into the next of 1024 steps may differ by that step.
    off = np.abs(numpy(ours.distance) - theirs.distance) / np.maximum(np.abs(theirs.distance), 1)
    assert np.percentile(off, 99.9) < 2e-5 and off.max() < 0.02


def test_pieces_of_any_shape_are_the_cpu_s_whichever_thread_comes_first(kernels, rasterizer, track):
    """Snakes and spirals, whose pixels are a long way from their first one, combs, and noise of many pieces."""
    rows, columns = np.mgrid[:96, :96]
    snake = (rows % 4 < 2) | ((rows % 8 < 4) & (columns > 93)) | ((rows % 8 >= 4) & (columns < 2))
    ring = np.minimum.reduce([rows, columns, 95 - rows, 95 - columns])
    spiral = (ring % 4 < 2) ^ ((columns == rows + 1) & (rows < 48))
    comb = (columns % 3 < 2) & (rows > 8) | (rows > 90)
    noise = [np.random.default_rng(n).random((96, 96)) < share for n, share in enumerate((0.55, 0.62))]
    shapes = (snake, spiral, comb, comb[::-1, ::-1], *noise)
    views = [
        replace(view, mask=mask.astype(np.float32), valid=None) for view, mask in zip(observed(), shapes, strict=True)
    ]
    theirs = silhouettes(views)
    assert not theirs.blind.all() and theirs.inside.any((1, 2)).sum() > 3
    library = kernels._library["masks"]
    for order in (0, 1, 2) if library.emulated else (0,):
        if library.emulated:
            library.emulate_order(order)
        frame = made(kernels, rasterizer, track, views)
        frame.launches.observe()
        if library.emulated:
            library.emulate_order(0)
        np.testing.assert_array_equal(numpy(frame.launches.levels[0].inside) != 0, theirs.inside)
        np.testing.assert_array_equal(numpy(frame.outbox["blind"]) != 0, theirs.blind)


def test_maps_pictures_and_the_middle_are_the_cpu_s(kernels, rasterizer, track):
    views = observed(3.0)
    views[2] = replace(views[2], mask=np.zeros_like(views[2].mask))
    draw = np.random.default_rng(0)
    for view in views:
        view.confidence[...] = draw.uniform(0.1, 9, view.confidence.shape)
    frame = made(kernels, rasterizer, track, views)
    frame.launches.observe()
    fine, half, quarter = frame.launches.levels
    frame.launches.halve(half, quarter)
    theirs, b = observe(views, True), frame.launches.buffer
    np.testing.assert_allclose(numpy(frame.outbox["middle"]), theirs.middle, atol=1e-12)  # metres
    for ours, other in ((fine, theirs), (half, theirs.coarser()), (quarter, theirs.coarser().coarser())):
        np.testing.assert_allclose(numpy(ours.trust), other.trust, rtol=1e-5)
        np.testing.assert_array_equal(numpy(ours.normal), other.normal)
        np.testing.assert_array_equal(numpy(ours.inside) != 0, other.outlines.inside)
        np.testing.assert_array_equal(numpy(ours.known), other.outlines.known)
        np.testing.assert_allclose(numpy(ours.matrix).reshape(-1, 3, 4), other.rig.matrix, rtol=1e-14, atol=1e-12)
        np.testing.assert_allclose(numpy(ours.focal), other.rig.focal, rtol=1e-15)
        np.testing.assert_allclose(numpy(ours.intrinsics), other.intrinsics, rtol=1e-15)
    grey = theirs.pictures.grey
    np.testing.assert_allclose(numpy(b["grey0"]), grey, atol=2e-4)  # grey levels
    assert numpy(b["fine_pixel"]).mean() == pytest.approx(theirs.pictures.footprint, rel=1e-12)
    np.testing.assert_allclose(numpy(b["grey1"]), theirs.pictures.coarser.grey, atol=2e-4)
    np.testing.assert_allclose(numpy(b["matrix1"]).reshape(-1, 3, 4), theirs.pictures.coarser.rig.matrix, atol=1e-12)


def test_coloured_pictures_are_grey_as_on_the_cpu(kernels, rasterizer, track):
    draw = np.random.default_rng(1)
    views = [replace(view, image=draw.integers(0, 256, (*view.image.shape, 3)).astype(np.uint8)) for view in observed()]
    frame = made(kernels, rasterizer, track, views)
    frame.launches.observe()
    theirs = observe(views, True).pictures.grey
    np.testing.assert_allclose(numpy(frame.launches.buffer["grey0"]), theirs, atol=2e-4)  # grey levels


@pytest.mark.parametrize(("edge", "pixel", "times"), [(3e-3, 0.8e-3, 1.0), (9e-3, 0.5e-3, 2.0), (1e-3, 9e-3, 1.0)])
def test_a_search_is_the_cpu_s(kernels, track, edge, pixel, times):
    shape = replace(Shape.of(track.vertices, track.topology), edge=edge)
    theirs = search_of(shape, replace(observe(observed(), True).pictures, footprint=times * pixel), 3e-3, 0.75e-3)
    search, places = up(kernels, np.zeros(6)), up(kernels, np.zeros((9, 2)))
    kernels._library["observe"](
        "search_of", up(kernels, np.array([edge])), up(kernels, np.full(2, pixel)), times, 0.8e-3, 3e-3, 0.75e-3,
        1.2e-3, 2.2, search, places,
    )  # fmt: skip
    wanted = theirs.scale, theirs.step, theirs.heights[-1], theirs.slack, theirs.apart, len(theirs.places)
    np.testing.assert_allclose(numpy(search), wanted, rtol=1e-14)
    np.testing.assert_allclose(numpy(places)[: len(theirs.places)], theirs.places, rtol=1e-14)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_the_two_middle_numbers_are_the_median_s(kernels, count):
    draw = np.random.default_rng(count)
    values = np.abs(draw.normal(size=count)) * 10.0 ** draw.integers(-30, 30, count)
    values = np.concatenate([values, values[: count // 3], -np.ones(5)])  # some twice, and some that do not count
    draw.shuffle(values)
    out, lib = up(kernels, np.zeros(2)), kernels._library["reduce"]
    lib("middle_two", up(kernels, values), len(values), 0, out)
    left = values[values >= 0]
    assert np.isnan(numpy(out)).all() if not len(left) else numpy(out).mean() == np.median(left)
    weights = draw.integers(0, 2**40, len(values)) * (values >= 0)
    lib("weighted_middle", up(kernels, values), up(kernels, weights), len(values), out)
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    if count:
        assert numpy(out)[0] == values[order[np.searchsorted(total, total[-1] / 2)]]


def test_a_pose_is_relaxed_and_unfolded_as_on_the_cpu(kernels, rasterizer, track):
    frame = made(kernels, rasterizer, track, observed())
    launches, lib, topology = frame.launches, kernels._library["shape"], track.topology
    rough = track.vertices + 8e-3 * np.random.default_rng(2).normal(size=track.vertices.shape)
    x, out, mesh, b = up(kernels, rough), up(kernels, np.zeros_like(rough)), launches.mesh, launches.buffer
    launches.shape(x)
    shape = Shape.of(rough, topology)
    for name, theirs in (("normals", shape.normals), ("face_normals", shape.face_normals), ("areas", shape.areas)):
        np.testing.assert_array_equal(numpy(b[name]), theirs)
    assert numpy(b["edge"])[0] == pytest.approx(shape.edge, rel=1e-13)
    layout, count = even_layout(topology), len(rough)
    lib("relaxed", x, b["normals"], mesh.start, mesh.neighbour, up(kernels, layout), 0.3, count, out)
    np.testing.assert_array_equal(numpy(out), relaxed(shape, topology, layout, 0.3))
    folded = shape.folded(topology)
    launches.folds()
    np.testing.assert_array_equal(numpy(b["folded"]) != 0, folded)
    assert numpy(frame.outbox["inverted"])[0] == folded.sum() > 10
    lib("unfold", x, b["folded"], mesh.start, mesh.neighbour, *mesh.around[:2], count, b["marked"], out)
    np.testing.assert_allclose(numpy(out), less_folded(rough, topology, rounds=1), atol=1e-15)


def test_levels_keep_the_order_of_a_sweep(kernels):
    """Sweeping level by level gives to the bit what sweeping by numbers gives."""
    mesh = blob(4)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    marked = mesh.vertices[:, 1] < -0.03
    order, starts = levelled(marked, topology.start, topology.neighbour)
    assert sorted(order) == list(np.flatnonzero(marked)) and starts[-1] == marked.sum() and len(starts) < 60
    by_level, by_number = mesh.vertices.copy(), mesh.vertices.copy()
    draw = np.random.default_rng(3)
    shuffled = np.concatenate([draw.permutation(order[a:b]) for a, b in pairwise(starts)])
    _spread(by_level, topology.start, topology.neighbour, shuffled.astype(np.int32), _SWEEPS)
    _spread(by_number, topology.start, topology.neighbour, np.flatnonzero(marked).astype(np.int32), _SWEEPS)
    np.testing.assert_array_equal(by_level, by_number)


def test_what_nobody_sees_is_carried_as_on_the_cpu(kernels, rasterizer, track):
    frame = made(kernels, rasterizer, track, observed())
    away = turned(Mesh(track.vertices, track.topology.faces), 40.0, (0.1, -0.05, 0.02)).vertices
    away += 1e-3 * np.random.default_rng(4).normal(size=away.shape)
    frame.outbox["vertices"].copy_(up(kernels, away))
    frame.launches.carry()
    theirs = track.pose.carried(away, track.topology)
    assert np.linalg.norm(theirs - away, axis=1).max() > 1e-3
    np.testing.assert_allclose(numpy(frame.outbox["vertices"]), theirs, atol=1e-12)  # metres
    seen = ~track.pose.unseen
    motion = numpy(frame.launches.buffer["motion"])[:9].reshape(3, 3)
    np.testing.assert_allclose(motion.T, rigid_motion(track.pose.vertices[seen], away[seen]).turn, atol=1e-13)


def test_the_tilt_is_seen_again_and_taken_off_as_on_the_cpu(kernels, rasterizer, track):
    views = observed(2.0)
    frame = made(kernels, rasterizer, track, views)
    launches, topology = frame.launches, track.topology
    launches.observe()
    frame.outbox["vertices"].copy_(up(kernels, track.vertices))
    launches.look(launches.levels[0])
    seen = look(track.vertices, topology, observe(views, True), CpuRasterizer())
    assert np.abs(_tilt(seen.fused, seen.shape, topology)).mean() > 1e-3
    launches.seen_again()
    bias = track.bias.seen_again(seen.fused, seen.shape, topology)
    assert bias.share != track.bias.share
    assert numpy(frame.outbox["share"])[0] == pytest.approx(bias.share, abs=1e-6)
    b, kept = launches.buffer, launches.kept
    b["trusted"].fill_(0.5)
    kernels._library["pose"](
        "wanted_normals", frame.outbox["vertices"], launches.mesh.faces, b["face_normals"], b["fused"],
        b["fused_weight"], kept["tilt"], frame.outbox["share"], kept["unseen"], b["trusted"], len(topology.faces),
        b["wanted"], b["wanted_weight"],
    )  # fmt: skip
    off = bias.off_normals(seen.fused, seen.shape, topology)
    np.testing.assert_allclose(numpy(b["wanted"]), off.normal, atol=5e-6)
    within = (~track.pose.unseen)[topology.faces].all(1)
    np.testing.assert_allclose(numpy(b["wanted_weight"]), off.weight * within / 0.25, atol=5e-5)


CASES = {
    "still": dict(),
    "slow": dict(degrees=1.0, swell=0.5e-3),
    "fast": dict(degrees=6.0, swell=2e-3),  # an iteration on coarser pictures
    "far": dict(degrees=3.0, shift=(12e-3, 0.0, 5e-3)),  # steps on coarser maps
    "gone": dict(shift=(0.0, -0.16, 0.0)),  # nothing where it was
}


def compared(kernels, rasterizer, track, views, settings=SETTINGS):
    """A frame of ours and of the CPU's, and how far their vertices are apart, millimetres."""
    ours = kernels.warm(frame_of(views, kernels, settings), track, rasterizer, settings)
    theirs = warm(frame_of(views, settings=settings), track, CpuRasterizer(), settings)
    assert ours is not None
    return ours, theirs, 1e3 * np.linalg.norm(ours.vertices - theirs.vertices, axis=1)


def trembling(track):
    """The track, and as it would be but for a nanometre. From the last digits of a start depends on the CPU, too, what
    becomes of a peak at a threshold, and with it of a vertex and its neighbours, by 0.03 mm."""
    draw = np.random.default_rng(0)
    yield track
    for _ in range(3):
        yield replace(track, vertices=track.vertices + 1e-9 * draw.normal(size=track.vertices.shape))


@pytest.mark.parametrize("case", CASES)
def test_a_frame_is_the_cpu_s(kernels, rasterizer, track, case):
    views = observed(**CASES[case])
    ours, theirs, apart = compared(kernels, rasterizer, track, views)
    assert ours.iterations == theirs.iterations == SETTINGS.iterations + (case not in ("still", "slow"))
    if case == "gone":  # both find it
        there = track.vertices + CASES[case]["shift"]
        assert np.percentile(np.linalg.norm(theirs.vertices - there, axis=1), 99) < 0.8e-3  # metres
        bare = [compared(kernels, rasterizer, start, views)[2] for start in trembling(replace(track, skin=None))]
        assert any(np.median(one) < 1e-4 and np.percentile(one, 99) < 2e-3 for one in bare)
    # Millimetres; a peak or a vote at a threshold is taken by one and not by the other.
    assert np.median(apart) < 1e-4 and np.percentile(apart, 99) < 2e-3
    np.testing.assert_allclose(ours.middle, theirs.middle, atol=1e-9)
    assert ours.share == pytest.approx(theirs.share, abs=1e-5)
    # Of our own vertices: where theirs are elsewhere by a threshold, they want something else.
    seen = look(ours.vertices, track.topology, frame_of(views).coarse, CpuRasterizer())
    np.testing.assert_allclose(ours.wanted, rigid_step(seen, track.topology, SETTINGS), atol=2e-9)
    for name in ("both", "either"):
        a, b = getattr(ours.fit, name), getattr(theirs.fit, name)
        assert np.abs(a - b).max() <= 2  # pixels at whose centre an edge passes
    assert ours.fit.residual == pytest.approx(theirs.fit.residual, abs=2e-3)  # degrees
    assert 0 < ours.fit.unlike < 0.5 and ours.fit.unlike == pytest.approx(theirs.fit.unlike, abs=1e-4)
    assert ours.fit.inverted == theirs.fit.inverted


@pytest.mark.parametrize("case", ["no pictures", "one blind", "cut", "one iteration", "five", "another camera"])
def test_a_frame_of_another_kind_is_the_cpu_s(kernels, rasterizer, track, case):
    views, settings = observed(1.0, 0.5e-3), SETTINGS
    if case == "no pictures":
        settings, track = replace(SETTINGS, photometric=False), replace(track, skin=None)
    elif case == "one blind":
        views[1] = replace(views[1], mask=np.zeros_like(views[1].mask))
    elif case == "cut":
        views = [replace(view, valid=view.valid & (np.arange(96) < 70)) for view in views]
    elif case == "one iteration":
        settings = replace(SETTINGS, iterations=1)
    elif case == "five":
        views = views[:5]
    else:
        views[0] = replace(views[0], camera=replace(views[0].camera, name="new"))
    ours, theirs, apart = compared(kernels, rasterizer, track, views, settings)
    assert np.median(apart) < 1e-4 and np.percentile(apart, 99) < 2e-3  # millimetres
    np.testing.assert_array_equal(ours.fit.blind, theirs.fit.blind)
    assert ours.fit.residual == pytest.approx(theirs.fit.residual, abs=2e-3)
    assert ours.fit.unlike == pytest.approx(theirs.fit.unlike, abs=1e-4, nan_ok=True)
    assert np.isnan(ours.fit.unlike) == (case == "no pictures")


class _Operations(TorchDispatchMode):
    """Writes down everything that torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_what_a_graph_would_hold_is_launches_alone_and_the_same_each_time(kernels, rasterizer, track, monkeypatch):
    """No allocation, copy or synchronisation happens there, whatever the frame shows: torch is not asked for anything,
    and no new memory is handed to a kernel."""
    calls = []
    true_call = Library.__call__

    def called(self, function, *arguments, when=None):
        calls.append((function, *(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in (*arguments, when))))
        true_call(self, function, *arguments, when=when)

    monkeypatch.setattr(Library, "__call__", called)
    frame, seen = made(kernels, rasterizer, track, observed()), []
    for case in ("still", "fast", "far"):
        frame.fill(observed(**CASES[case]), track)
        with _Operations() as operations:
            frame.launches()
        assert operations.names == []
        seen.append(calls.copy())
        calls.clear()
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) > 100
    with _Operations() as operations:
        frame(observed(), track)
    copies = [name for name in operations.names if "copy" in name]
    assert len(copies) == 2, operations.names  # one in, one out


def test_a_frame_leaves_nothing_behind_for_the_next(kernels, rasterizer, track, device):
    """On a GPU the first frame is launched one by one and the others are a graph's."""
    frame = made(kernels, rasterizer, track, observed())
    views = observed(1.0)
    first = frame(views, track)
    frame(observed(**CASES["far"]), track)
    again = frame(views, track)
    assert frame.captured == (device == "cuda") == bool(frame.milliseconds())
    np.testing.assert_array_equal(first.vertices, again.vertices)
    assert (first.share, first.fit.residual, first.iterations) == (again.share, again.fit.residual, again.iterations)


def test_a_frame_is_the_same_whichever_thread_comes_first(kernels, rasterizer, track):
    libraries = [each for each in (*kernels._library.values(), rasterizer.library) if each.emulated]
    results = []
    for order in (0, 1, 2):
        for library in libraries:
            library.emulate_order(order)
        for case in ("slow", "far"):
            results.append(kernels.warm(frame_of(observed(**CASES[case]), kernels), track, rasterizer, SETTINGS))
    for library in libraries:
        library.emulate_order(0)
    for n, result in enumerate(results[2:]):
        for name in ("vertices", "middle", "wanted", "share"):
            np.testing.assert_array_equal(getattr(result, name), getattr(results[n % 2], name))


def test_maps_that_are_on_the_device_are_taken_from_there(kernels, rasterizer, track, device):
    views = [replace(view, image=np.repeat(view.image[..., None], 3, 2)) for view in observed(1.0)]
    host = kernels.warm(frame_of(views, kernels), track, rasterizer, SETTINGS)
    there = resident(views, Lane(torch.device(device)))
    for given in (there, [*there[:3], *views[3:]]):
        ours = kernels.warm(frame_of(given, kernels), track, rasterizer, SETTINGS)
        np.testing.assert_array_equal(ours.vertices, host.vertices)
    fallen_back = warm(frame_of(there), track, CpuRasterizer(), SETTINGS)  # a tracker that needs them on the host
    np.testing.assert_array_equal(
        fallen_back.vertices, warm(frame_of(views), track, CpuRasterizer(), SETTINGS).vertices
    )


def test_a_frame_tells_the_device_s_own_times(kernels, rasterizer, track, monkeypatch):
    """Beside the host's, in what live reports and takes say of it."""
    monkeypatch.setattr(WarmFrame, "milliseconds", lambda self: {"upload": 2.0, "frame": 5.0, "download": 0.5})
    frame = frame_of(observed(1.0), kernels)
    assert kernels.warm(frame, track, rasterizer, SETTINGS) is not None
    seconds = dict(frame.clock.seconds)
    assert seconds.pop("warm") > 0
    assert seconds == pytest.approx({"device_upload": 2e-3, "device_frame": 5e-3, "device_download": 5e-4})


def test_views_that_are_not_alike_go_step_by_step(kernels, rasterizer, track):
    views = observed(1.0)
    views[0] = replace(views[0], image=views[0].image[:-1])
    assert kernels.warm(frame_of(views, kernels), track, rasterizer, SETTINGS) is None
    assert kernels.warm(frame_of(observed(), kernels), track, CpuRasterizer(), SETTINGS) is None
    ours = warm(frame_of(views, kernels), track, rasterizer, SETTINGS)
    theirs = warm(frame_of(views), track, CpuRasterizer(), SETTINGS)
    assert np.median(np.linalg.norm(ours.vertices - theirs.vertices, axis=1)) < 1e-7  # metres


def test_a_frame_without_any_subject_is_refused_as_on_the_cpu(kernels, rasterizer, track):
    views = [replace(view, mask=np.zeros_like(view.mask)) for view in observed()]
    with pytest.raises(SurfaceError, match="every mask is empty"):
        warm(frame_of(views, kernels), track, rasterizer, SETTINGS)


def test_room_is_kept_for_few_kinds_of_frames_and_goes_with_the_track(kernels, rasterizer, track):
    other = replace(track, topology=copy.copy(track.topology))
    before = len(kernels._frames._held)
    for count in (6, 5, 6, 4, 3):
        assert kernels.warm(frame_of(observed()[:count], kernels), other, rasterizer, SETTINGS) is not None
    assert len(kernels._frames.of(other.topology, dict)) == 3 and len(kernels._frames._held) == before + 1
    del other
    gc.collect()
    assert len(kernels._frames._held) == before


def test_a_long_track_stays_with_the_cpu_s(tracker, kernels, rasterizer):
    """Twenty frames; each starts where its own last one ended."""
    ours, theirs = copy.deepcopy(tracker), copy.deepcopy(tracker)
    ours._rasterizer, ours._kernels = rasterizer, kernels
    apart = []
    for n in range(1, 21):
        views = observed(0.5 * n, 1e-3 * np.sin(n / 3))
        a, b = ours.update(views), theirs.update(views)
        assert a.kind == b.kind == "warm" and a.iterations == b.iterations
        assert a.seconds.keys() == {"warm", "unfold", "steady"} | ({"observe"} & a.seconds.keys())
        apart.append(1e3 * np.linalg.norm(a.vertices - b.vertices, axis=1))
    assert np.median(apart[0]) < 5e-5 and np.median(apart[-1]) < 5e-3  # millimetres
    assert np.percentile(apart[-1], 99) < 0.05
