"""What the network is shown: a device's sight gives what the host's gives, and keeps it until somebody asks.

The device is the CPU, with the kernels emulated, on every machine; a GPU as well where there is one.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from surface_scene import camera_at, ring

from fusion_server.decode import TurboDecoder, make_decoder
from fusion_server.framing import Window, whole
from fusion_server.reconstruct import Reconstructor, make_reconstructor, make_sight
from fusion_server.sight import HostSight
from fusion_server.sight.device import DeviceSight
from fusion_server.sight.resident import ResidentView, checksums
from fusion_server.surface import SurfaceSettings, SurfaceTracker
from fusion_server.surface.cuda import CudaKernels
from fusion_server.surface.cuda.handed import handed_on
from fusion_server.surface.kernels import CPU
from fusion_server.surface.observation import observe
from geometry.device import Lane
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.cuda import CudaRasterizer
from launch.checkpoint import _ROOMS
from launch.freeze import freeze, thaw
from models.engines.static import StaticEngine, StaticNetwork
from models.engines.torch import TorchEngine
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

SIZE, WIDTH, HEIGHT = 64, 320, 240
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
like_opencv = pytest.mark.skipif(
    not cv2.__version__.startswith("4."),
    reason=f"OpenCV {cv2.__version__} resamples otherwise than 4 does",
)
LENSES = {
    "straight": [0, 0, 0, 0, 0],
    "barrel": [-0.25, 0.08, 1e-3, -2e-3, 0.01],
    "pincushion": [0.1, 0, 0, 0, 0],
}
WINDOWS = {
    "inside, enlarged": Window(100, 60, 150),
    "enlarged, between pixels": Window(140.5, 105.25, 48.5),
    "the whole and beyond": Window(-40, -80, 400),
    "much beyond, shrunk": Window(-300.3, -280.7, 900.5),
    "over one corner": Window(250, 180, 130),
    "all outside": Window(400, 20, 100),
    "one to one": Window(0, -40, 320),
}


def camera(name: str, dist, width: int = WIDTH, height: int = HEIGHT) -> Camera:
    base = camera_at(name, np.array([0.1, 0.05, 0.9]), width, 1.4 * width)
    K = base.K.copy()
    K[1, 2] = (height - 1) / 2
    return replace(base, K=K, width=width, height=height, dist=np.asarray(dist, float))


class BrightEngine(StaticEngine):
    """Maps from pictures on fixed buffers of a device: what is bright is the subject."""

    name = "bright"

    def __init__(self, views: int, device: str, size: int = SIZE) -> None:
        super().__init__(views, size)
        from models.export import example_inputs

        inputs = [tensor.to(device) for tensor in example_inputs(views, size)]
        self._static = StaticNetwork(self._maps, inputs, graph=False)

    @staticmethod
    def _maps(images, direction, *_):
        grey = images.float().mean(-1) / 255
        return -direction, 0.5 + grey, torch.sigmoid(40 * (grey - 0.4))

    def describe(self) -> str:
        return "bright on fixed buffers"


def noise(cameras, seed: int = 0) -> dict[str, np.ndarray]:
    """The hardest pictures to resample alike: no two pixels have to do with each other."""
    rng = np.random.default_rng(seed)
    return {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in cameras}


def both(cameras, device: str, size: int = SIZE):
    calibration = Calibration(tuple(cameras), {}, {})
    engine = BrightEngine(len(cameras), device, size)
    return HostSight(calibration, engine), DeviceSight(calibration, engine)


@like_opencv
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_are_the_host_s_to_a_grey_level_and_a_lens_to_two(device, lens, window):
    cameras = [camera("a", LENSES[lens]), camera("b", LENSES[lens], HEIGHT, WIDTH)]
    windows = {"a": WINDOWS[window], "b": Window(-10, 35, 260)}
    host, there = both(cameras, device)
    images = noise(cameras)
    ours, theirs = there.look(there.take(images), windows), host.look(host.take(images), windows)
    views = ours.views([c for c in ours.cameras], [None, None])
    for n in range(2):
        off = np.abs(views[n].image.astype(int) - theirs.fine[n])
        # Of white noise; the host rounds after undistorting, after shrinking and after cutting, the device once.
        most = 1 if lens == "straight" else 2
        assert off.max() <= most and off.mean() < 0.25
        off = np.abs(ours.images[n].astype(int) - theirs.images[n])
        assert off.max() <= most and off.mean() < 0.25
    np.testing.assert_array_equal(theirs.fine[0].any((1, 2)), views[0].image.any((1, 2)))  # black where it is black
    assert theirs.fine[0].any() == (window != "all outside")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_on_a_gpu_are_the_emulation_s_to_a_grey_level(lens, window):
    cameras = [camera("a", LENSES[lens]), camera("b", LENSES[lens], HEIGHT, WIDTH)]
    windows = {"a": WINDOWS[window], "b": Window(-10, 35, 260)}
    images, found = noise(cameras), []
    for device in ("cpu", "cuda"):
        _, there = both(cameras, device)
        seen = there.look(there.take(images), windows)
        found.append((seen.images, *(view.image for view in seen.views(list(seen.cameras), [None, None]))))
    for ours, theirs in zip(*found, strict=True):
        off = np.abs(ours.astype(int) - theirs)
        assert off.max() <= 1 and off.mean() < 0.01


def test_windows_are_the_same_whichever_thread_comes_first():
    cameras = [camera("a", LENSES["barrel"])]
    _, there = both(cameras, "cpu")
    found = []
    for order in (0, 1, 2):
        there._kernels.emulate_order(order)
        found.append(there.look(there.take(noise(cameras)), {"a": Window(-20, 10, 250)}).images)
    there._kernels.emulate_order(0)
    assert found[0].any() and all(np.array_equal(found[0], other) for other in found[1:])


@like_opencv
@pytest.mark.parametrize("size", [192, 256, 512])
def test_every_size_of_a_network_shrinks_alike(size):
    """To 192 px by averages of 2.67 pixels, to 256 and 512 by twos."""
    cameras = [camera("a", LENSES["barrel"])]
    host, there = both(cameras, "cpu", size)
    images, windows = noise(cameras), {"a": Window(20, 10, 215)}
    ours, theirs = there.look(there.take(images), windows), host.look(host.take(images), windows)
    assert ours.images.shape == (1, size, size, 3)
    off = np.abs(ours.images.astype(int) - theirs.images)
    assert off.max() <= 2 and off.mean() < 0.25
    assert host.fine == there.fine == max(2 * size, 512)


@pytest.mark.parametrize("device", DEVICES)
def test_maps_are_those_of_the_same_pictures(device):
    cameras = [camera("a", LENSES["straight"]), camera("b", LENSES["straight"])]
    _, there = both(cameras, device)
    images = {c.name: np.full((HEIGHT, WIDTH, 3), level, np.uint8) for c, level in zip(cameras, (60, 200), strict=True)}
    windows = {c.name: Window(40, 20, 200) for c in cameras}
    seen = there.look(there.take(images), windows)
    expected = there._engine.predict(seen.images, seen.cameras)
    for name in ("normal", "confidence", "mask"):
        np.testing.assert_array_equal(getattr(seen.prediction, name), getattr(expected, name))
    assert seen.prediction.mask[0].max() < 0.1 < 0.9 < seen.prediction.mask[1].min()


def test_a_camera_that_is_missing_leaves_the_others(device="cpu"):
    cameras = [camera(name, LENSES["straight"]) for name in "abc"]
    host, there = both(cameras, device)
    images = noise(cameras)
    del images["b"]
    windows = {name: Window(40, 20, 200) for name in images}
    ours, theirs = there.look(there.take(images), windows), host.look(host.take(images), windows)
    assert [c.name for c in ours.cameras] == ["a", "c"] and ours.prediction.mask.shape == (2, SIZE, SIZE)
    assert np.abs(ours.prediction.mask - theirs.prediction.mask).max() < 0.1


def test_a_result_is_not_overwritten_by_the_next_set():
    cameras = [camera("a", LENSES["barrel"])]
    _, there = both(cameras, "cpu")
    windows = {"a": Window(40, 20, 200)}
    first = there.look(there.take(noise(cameras, 1)), windows)
    kept = there.look(there.take(noise(cameras, 1)), windows).prediction.confidence.copy()
    for seed in range(2, 5):
        there.look(there.take(noise(cameras, seed)), windows)
    np.testing.assert_array_equal(first.prediction.confidence, kept)


def test_what_nobody_asks_for_is_not_fetched():
    cameras = [camera("a", LENSES["straight"])]
    _, there = both(cameras, "cpu")
    seen = there.look(there.take(noise(cameras)), {"a": Window(40, 20, 200)})
    (view,) = seen.views([replace(seen.cameras[0], width=there.fine, height=there.fine)], [None])
    assert view.shape == (SIZE, SIZE) and view.picture_shape == (512, 512, 3) and not seen.handed._arrays
    mask = view.mask
    assert set(seen.handed._arrays) == {"mask"}
    assert view.mask is mask and np.shares_memory(mask, seen.prediction.mask)  # once, whoever asks
    assert view.checksum != 0 and set(seen.handed._arrays) == {"mask", "checksum"}


def test_a_checksum_knows_every_pixel():
    cameras = [camera("a", LENSES["straight"])]
    _, there = both(cameras, "cpu")
    windows, images = {"a": whole(cameras[0])}, noise(cameras)

    def checksum(pictures):
        seen = there.look(there.take(pictures), windows)
        return seen.views(seen.cameras, [None])[0].checksum

    first = checksum(images)
    assert checksum(images) == first
    other = {"a": images["a"].copy()}
    other["a"][100, 200, 1] ^= 64
    assert checksum(other) != first
    for side in (5, 6):  # 75 bytes make no whole number of words
        pictures = torch.arange(2 * side * side * 3, dtype=torch.uint8).view(2, side, side, 3)
        before = checksums(pictures)
        pictures[1, -1, -1, -1] += 1
        assert checksums(pictures)[0] == before[0] and checksums(pictures)[1] != before[1]


def test_windows_that_stand_still_are_prepared_once(monkeypatch):
    """And when one moves, it alone is prepared."""
    cameras = [camera(name, LENSES["straight"]) for name in "abc"]
    _, there = both(cameras, "cpu")
    images, made = noise(cameras), []  # windows prepared, set by set
    from fusion_server.sight import device as module

    taps = module.window_taps
    monkeypatch.setattr(module, "window_taps", lambda *a: (made[-1].append(a[:3]), taps(*a))[1])
    for second in ((40, 20, 200), (40, 20, 200), (41, 20, 200), (41, 20, 200), (-200, -240, 720)):
        made.append([])
        windows = {"a": Window(20, 20, 200), "b": Window(*second), "c": Window(60, 20, 180)}
        seen = there.look(there.take(images), windows)
    assert made == [[(20, 20, 200), (40, 20, 200), (60, 20, 180)], [], [(41, 20, 200)], [], [(-200, -240, 720)]]
    _, fresh = both(cameras, "cpu")
    np.testing.assert_array_equal(seen.images, fresh.look(fresh.take(images), windows).images)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def test_pictures_are_decoded_into_the_memory_that_is_uploaded(monkeypatch, caplog):
    cameras = [camera(name, LENSES["straight"]) for name in "ab"]
    calibration = Calibration(tuple(cameras), {}, {})
    host, there = both(cameras, "cpu")
    with caplog.at_level("INFO"):
        decoder = make_decoder("turbojpeg", 2, there)
    assert [record.getMessage() for record in caplog.records] == ["normals: pictures decoded by turbojpeg in 2 threads"]
    plain = TurboDecoder(1)
    windows = {name: Window(40, 20, 200) for name in "ab"}
    copies = []
    copyto = np.copyto
    monkeypatch.setattr(np, "copyto", lambda to, what: (copies.append(what.shape), copyto(to, what)))
    try:
        buffers = []
        for seed in range(3):
            jpegs = {name: jpeg(image) for name, image in noise(cameras, seed).items()}
            images, faults = decoder.decode(jpegs, calibration)
            theirs, _ = plain.decode(jpegs, calibration)
            assert not faults
            buffers.append(images["a"].ctypes.data)
            taken = there.take(images)
            assert images["a"].ctypes.data == there.staging.turn.host["a"].data_ptr()
            seen, expected = there.look(taken, windows), host.look(host.take(theirs), windows)
            assert np.abs(seen.images.astype(int) - expected.images).max() <= 1
            copies = [shape for shape in copies if shape == (HEIGHT, WIDTH, 3)]
            assert not copies
        assert buffers[0] == buffers[2] != buffers[1]  # two sets take turns
    finally:
        decoder.close()
        plain.close()


def test_memory_is_decoded_into_again_only_when_nobody_reads_it():
    cameras = [camera("a", LENSES["straight"])]
    _, there = both(cameras, "cpu")
    waited = []
    for n in range(4):
        there.room()
        there.staging.turn.free = SimpleNamespace(wait=lambda n=n: waited.append(n))
    assert waited == [0, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_the_surface_takes_maps_and_pictures_where_they_lie(device):
    """And makes of them what it makes of arrays."""
    cameras = [camera(f"c{n}", LENSES["barrel"]) for n in range(3)]
    _, there = both(cameras, device)
    images = {
        c.name: cv2.GaussianBlur(image, (0, 0), 9) for c, image in zip(cameras, noise(cameras).values(), strict=True)
    }
    for image in images.values():
        cv2.circle(image, (150, 120), 70, (230, 220, 210), -1)
    windows = {name: Window(40, 20, 210) for name in images}
    seen = there.look(there.take(images), windows)
    finer = [replace(c, width=there.fine, height=there.fine) for c in seen.cameras]
    views = seen.views(finer, [None] * 3)
    kernels = CudaKernels(device)
    ours, theirs = observe(views, True, kernels), observe(views, True, CPU)
    assert {type(view) for view in views} == {ResidentView}
    handed = seen.handed.on(kernels._lane)
    assert ours.normal.data_ptr() == handed["normal"].data_ptr()  # not even copied on the device
    np.testing.assert_array_equal(ours.normal.cpu().numpy(), theirs.normal)
    np.testing.assert_allclose(ours.trust.cpu().numpy(), theirs.trust, rtol=1e-5)
    np.testing.assert_allclose(ours.coarser().trust.cpu().numpy(), theirs.coarser().trust, rtol=1e-5)
    one, other = ours.pictures, theirs.pictures
    for _ in range(3):
        np.testing.assert_allclose(one.grey.cpu().numpy(), other.grey, atol=2e-4)
        assert one.footprint == other.footprint
        np.testing.assert_array_equal(one.rig.matrix, other.rig.matrix)
        one, other = one.coarser, other.coarser
    left_out = observe(views[1:], True, kernels)  # a camera that is stuck
    np.testing.assert_array_equal(left_out.normal.cpu().numpy(), theirs.normal[1:])
    maps = kernels._of(ours)
    assert maps["normal"].data_ptr() == handed["normal"].data_ptr()


@pytest.mark.parametrize("device", DEVICES)
def test_a_camera_that_is_left_out_is_left_out_on_the_device(device, monkeypatch):
    """By an index that is there: the host waits for each one that it sends."""
    cameras = [camera(name, LENSES["straight"]) for name in "abc"]
    _, there = both(cameras, device)
    seen = there.look(there.take(noise(cameras)), {c.name: Window(40, 20, 200) for c in cameras})
    views, lane, sent = seen.views(list(seen.cameras), [None] * 3), Lane(there.device), []
    pick, tensor = torch.Tensor.__getitem__, torch.tensor
    monkeypatch.setattr(
        torch.Tensor, "__getitem__", lambda t, at: (sent.append(at) if isinstance(at, list) else None, pick(t, at))[1]
    )
    monkeypatch.setattr(torch, "tensor", lambda data, **k: (sent.append(data), tensor(data, **k))[1])
    handed_on((views[2], views[0]), lane)
    sent.clear()
    for chosen in ((views[2], views[0]), views):
        for name, part in handed_on(chosen, lane).items():
            expected = seen.handed.host(name)[[view.index for view in chosen]]
            np.testing.assert_array_equal(part.cpu().numpy(), expected)
    assert not sent


@like_opencv
def test_a_track_is_the_same_whichever_way_the_pictures_went():
    """Keyframe and warm frames of a painted ball through both sights, and both surfaces."""
    cameras = ring(6, 128)
    from fusion_server.surface.rehearse import _seen

    sets = []
    for shift in (0.0, 0.003, 0.006):
        balls = {c.name: _seen(c, np.array([shift, 0.0, 0.0])).image for c in cameras}
        sets.append({name: np.repeat(image[..., None], 3, -1) for name, image in balls.items()})
    calibration = Calibration(cameras, {}, {})
    settings = SurfaceSettings(vertices=800, hull_cells=32, keyframe_iterations=8, uv=False)
    runs = []
    for kind in ("host", "device"):
        engine = BallEngine(6)
        if kind == "host":
            sight, tracker = HostSight(calibration, engine), SurfaceTracker(settings, CpuRasterizer())
        else:
            sight = DeviceSight(calibration, engine)
            tracker = SurfaceTracker(settings, CudaRasterizer("cpu"), CudaKernels("cpu"))
        reconstructor = Reconstructor(calibration, sight, tracker)
        surfaces = []
        for images in sets:
            observation, surface = reconstructor.reconstruct(images)
            assert observation.searched == (not surfaces)  # later ones look where the head was
            surfaces.append(surface)
            reconstructor.restore(thaw(freeze(reconstructor.state(), _ROOMS), _ROOMS))  # as a checkpoint does
        assert set(observation.seconds) >= (
            {"undistort", "normals"} if kind == "host" else {"upload", "cut", "normals", "hand_over"}
        )
        if kind == "device":  # a warm frame has no map or picture fetched
            assert set(observation.seen.handed._arrays) == {"checksum"}
        runs.append(surfaces)
        reconstructor.begin_anew()
        again, surface = reconstructor.reconstruct(sets[-1])
        assert again.searched and (surface.kind, surface.quality.flags) == ("keyframe", ())
    for ours, theirs in zip(*runs, strict=True):
        assert ours.kind == theirs.kind and ours.quality.flags == theirs.quality.flags
        assert ours.quality.silhouette_iou == pytest.approx(theirs.quality.silhouette_iou, abs=2e-3)
        assert np.abs(np.ptp(ours.vertices, 0) - np.ptp(theirs.vertices, 0)).max() < 1e-3  # metres


class BallEngine(BrightEngine):
    """True normals of a ball at the origin, where the picture is bright: enough for a surface."""

    def __init__(self, views: int) -> None:
        super().__init__(views, "cpu")

    @staticmethod
    def _maps(images, direction, *_):
        grey = images.float().mean(-1) / 255
        mask = torch.sigmoid(60 * (grey - 0.15))
        y, x = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in images.shape[2:4]], indexing="ij")
        inside = (mask > 0.5).float()
        count = inside.sum((-1, -2), keepdim=True).clamp(min=1)
        radius = (count / torch.pi).sqrt()
        nx = (x - (inside * x).sum((-1, -2), keepdim=True) / count) / radius
        ny = (y - (inside * y).sum((-1, -2), keepdim=True) / count) / radius
        nz = -(1 - nx**2 - ny**2).clamp(min=0.01).sqrt()
        normal = torch.stack([nx, ny, nz], -1)
        return normal / normal.norm(dim=-1, keepdim=True), torch.ones_like(mask), mask


def test_an_engine_without_a_device_is_refused_in_one_line(tmp_path):
    pytest.importorskip("openvino")
    calibration = Calibration((camera("a", LENSES["straight"]), camera("b", LENSES["straight"])), {}, {})
    with pytest.raises(HeadstreamError, match=r'^normals.windows: "cuda": the openvino engine runs on the CPU'):
        make_reconstructor(calibration, NormalsConfig(engine="openvino", windows="cuda"), SurfaceConfig())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("named", ["", "cuda", "cuda:1"])
def test_windows_on_a_gpu_that_is_not_there_are_not_cut_elsewhere_silently(named):
    calibration = Calibration((camera("a", LENSES["straight"]), camera("b", LENSES["straight"])), {}, {})
    normals = NormalsConfig(engine="torch", windows="cuda", device=named)
    with pytest.raises(HeadstreamError, match=r"^normals.device: device 'cuda(:1)?': .* sees no CUDA GPU here$"):
        make_reconstructor(calibration, normals, SurfaceConfig())


def test_a_sight_says_what_it_works_with():
    calibration = Calibration((camera("a", LENSES["straight"]),), {}, {})
    engine = BrightEngine(1, "cpu")
    assert make_sight(calibration, engine, "cpu").name == "OpenCV"
    assert make_sight(calibration, engine, "cuda").name == "kernels emulated on the CPU"


def test_pictures_are_cut_as_fine_as_they_are_asked_for_and_never_coarser_than_usual():
    cameras = [camera("c0", LENSES["straight"])]
    calibration, engine = Calibration(tuple(cameras), {}, {}), BrightEngine(1, "cpu")
    for windows in ("cpu", "cuda"):
        for finest, side in ((0, 512), (300, 512), (700, 700)):
            sight = make_sight(calibration, engine, windows, finest)
            seen = sight.look(sight.take(noise(cameras)), {"c0": Window(40, 20, 210)})
            (view,) = seen.views([replace(cameras[0], width=side, height=side)], [None])
            assert np.asarray(view.image).shape == (side, side, 3)
            assert seen.prediction.normal.shape[1:3] == (engine.size, engine.size)


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_may_be_as_fine_as_a_camera_of_odd_size(device):
    """As a final mesh asks for them: checksums, and what the surface makes of them, to the third coarser size."""
    cameras = [camera(f"c{n}", LENSES["barrel"]) for n in range(2)]
    sight = make_sight(Calibration(tuple(cameras), {}, {}), BrightEngine(2, device), "cuda", 701)
    images, windows = noise(cameras), {c.name: Window(40, 20, 210) for c in cameras}

    def views():
        seen = sight.look(sight.take(images), windows)
        return seen.views([replace(c, width=701, height=701) for c in seen.cameras], [None] * 2)

    first = views()
    assert views()[1].checksum == first[1].checksum
    one, other = (observe(first, True, kernels).pictures for kernels in (CudaKernels(device), CPU))
    for _ in range(4):
        np.testing.assert_allclose(np.asarray(one.grey.cpu()), other.grey, atol=2e-4)
        one, other = one.coarser, other.coarser
    images["c1"] = images["c1"].copy()
    images["c1"][100, 150] ^= 64
    assert views()[1].checksum != first[1].checksum and views()[0].checksum == first[0].checksum


def test_engines_say_on_which_device_their_maps_stay():
    assert TorchEngine(None, 1, 64, "f32", 1, device="cpu", static=True).device == torch.device("cpu")
    assert TorchEngine(None, 1, 64, "f32", 1, device="cpu").device is None
    assert not hasattr(pytest.importorskip("models.engines.openvino").OpenVinoEngine, "predict_on_device")


def test_nvjpeg_without_a_gpu_s_sight_is_refused_in_one_line():
    calibration = Calibration((camera("a", LENSES["straight"]),), {}, {})
    sight = HostSight(calibration, BrightEngine(1, "cpu"))
    with pytest.raises(HeadstreamError, match=r'normals.windows = "cuda", too$'):
        make_decoder("nvjpeg", 2, sight)
