from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_doubles import ball, ring, tiny_network

from models.engines import ENGINES, EngineUnavailable, make_engine, usual_size, why_not
from models.engines.parity import parity
from models.engines.torch import TorchEngine
from models.evaluation import normal_errors
from models.held_out import make_held_out
from models.weights import SHIPPED, load_network, save_weights, weights_digest, weights_path
from protocol.errors import HeadstreamError

VIEWS, SIZE = 4, 64
FIXED = "torch-on-fixed-buffers"  # as it runs on CUDA, but for the graph


def made(name, weights, views, size, precision):
    """An engine of this name; skips, with the reason, where the machine cannot run it."""
    if name == FIXED:
        return TorchEngine(weights, views, size, precision, threads=1, static=True, graph=False)
    if why_not(name):
        pytest.skip(why_not(name))
    return make_engine(name, weights=weights, views=views, size=size, precision=precision, threads=1)


def exact(views, size, weights=None):
    """What the others are measured by: torch in float32 on the CPU, also where there is a GPU."""
    return make_engine("torch", weights=weights, views=views, size=size, precision="f32", threads=1, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Graphs go into a cache of the test's own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(tiny_network(), path, {"step": 3})
    return path


@pytest.fixture(scope="module", params=(*ENGINES, FIXED))
def engine(request, weights):
    return made(request.param, weights, VIEWS, SIZE, "f32")


@pytest.fixture(scope="module")
def reference(weights):
    return exact(VIEWS, SIZE, weights)


@pytest.fixture(scope="module")
def scene():
    cameras = ring(VIEWS, SIZE)
    return ball(cameras, 0.2, np.random.default_rng(0))[0], cameras


def close(a, b, degrees: float) -> None:
    assert normal_errors(a.normal, b.normal).mean < degrees
    assert np.abs(a.mask - b.mask).mean() < 0.02
    assert np.abs(np.log(a.confidence / b.confidence)).mean() < 0.05


def test_prediction_has_the_promised_shapes(engine, scene):
    got = engine.predict(*scene)
    assert got.normal.shape == (VIEWS, SIZE, SIZE, 3)
    assert got.confidence.shape == got.mask.shape == (VIEWS, SIZE, SIZE)
    assert {a.dtype for a in (got.normal, got.confidence, got.mask)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.linalg.norm(got.normal, axis=-1), 1, atol=1e-3)
    assert got.confidence.min() > 0 and got.mask.min() >= 0 and got.mask.max() <= 1
    assert got.mask.std() > 1e-3  # it looked


def test_engines_agree_in_f32(engine, reference, scene):
    close(engine.predict(*scene), reference.predict(*scene), 0.1)


@pytest.mark.parametrize("name", (*ENGINES, FIXED))
def test_f32_with_the_shipped_weights_is_pytorch_to_a_fifth_of_a_degree(name):
    engine = made(name, None, 3, 128, "f32")
    found = parity(engine)
    assert found.mean_deg < 0.2 and found.mask < 0.005
    cameras = ring(3, 128)
    ours = engine.predict(ball(cameras, 0.2, np.random.default_rng(1))[0], cameras)
    assert parity_of(ours, cameras) < 0.2  # on another scene and other cameras than parity's own


def parity_of(ours, cameras) -> float:
    """Degrees from the torch engine in f32, over the ball."""
    images, _, mask = ball(cameras, 0.2, np.random.default_rng(1))
    return normal_errors(ours.normal, exact(len(cameras), 128).predict(images, cameras).normal, mask).mean


def test_parity_notices_other_weights(weights):
    engine = exact(2, 64, weights)
    assert parity(engine, weights).mean_deg == 0
    assert parity(engine).mean_deg > 5


def test_engines_are_measured_by_the_cpu_s_float32_also_where_torch_sees_a_gpu(weights, monkeypatch):
    """Else an engine on a GPU is compared with itself."""
    engine = exact(2, 64, weights)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parity(engine, weights).mean_deg == 0


@pytest.fixture(scope="module")
def people():
    """Scenes of a kind that the network knows. On a ball of noise it knows nothing (kappa 4), and other weights
    make rounding cost 0.2 degrees there or 1.9."""
    scenes = [make_held_out(0, index, views=3, size=128) for index in (1, 3, 5)]
    assert {scene.kind for scene in scenes} == {"person"}
    return scenes


@pytest.mark.parametrize("name", (*ENGINES, FIXED))
def test_bf16_stays_near_f32_with_the_shipped_weights(name, people):
    reference = exact(3, 128)
    engine = made(name, None, 3, 128, "bf16")
    assert "bf16" in engine.describe()
    for scene in people:
        ours, theirs = (each.predict(scene.image, scene.cameras) for each in (engine, reference))
        assert normal_errors(ours.normal, theirs.normal, scene.mask).mean < 0.4
        assert np.abs(ours.mask - theirs.mask).mean() < 0.02


def test_order_of_the_views_does_not_matter(engine, scene):
    images, cameras = scene
    order = [3, 1, 0, 2]
    plain = engine.predict(images, cameras)
    shuffled = engine.predict(images[order], [cameras[i] for i in order])
    assert normal_errors(plain.normal[order], shuffled.normal).mean < 0.05


def test_fewer_views_than_the_engine_was_made_for(engine, weights, scene):
    images, cameras = scene
    got = engine.predict(images[:2], cameras[:2])
    assert got.normal.shape == (2, SIZE, SIZE, 3)
    half = exact(2, SIZE, weights)
    close(got, half.predict(images[:2], cameras[:2]), 0.1)  # two copies of everything change no average


def test_the_result_is_the_callers_to_keep(engine, scene):
    images, cameras = scene
    first = engine.predict(images, cameras)
    kept = first.normal.copy()
    engine.predict(255 - images, cameras)
    np.testing.assert_array_equal(first.normal, kept)


def test_cameras_that_move_are_noticed(engine, scene):
    images, cameras = scene
    before = engine.predict(images, cameras)
    engine.predict(images, ring(VIEWS, SIZE, distance=1.5))
    moved = engine.predict(images, ring(VIEWS, SIZE)[::-1])
    assert np.abs(before.normal - moved.normal).max() > 1e-3
    np.testing.assert_array_equal(engine.predict(images, cameras).normal, before.normal)
    turned = [replace(camera, R=other.R) for camera, other in zip(cameras, cameras[1:] + cameras[:1], strict=True)]
    assert np.abs(before.normal - engine.predict(images, turned).normal).max() > 1e-3


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (np.zeros((VIEWS, SIZE, SIZE, 3), np.float32), VIEWS),
        (np.zeros((VIEWS, SIZE, SIZE // 2, 3), np.uint8), VIEWS),
        (np.zeros((VIEWS, SIZE, SIZE, 3), np.uint8), VIEWS - 1),
        (np.zeros((VIEWS + 1, SIZE, SIZE, 3), np.uint8), VIEWS + 1),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), 0),
    ],
)
def test_pictures_that_do_not_fit_are_refused(engine, images, count):
    with pytest.raises(ValueError, match=r"must be uint8|takes 1 to"):
        engine.predict(images, ring(max(count, 1), SIZE)[:count])


def test_second_start_reads_the_cached_graph(weights, scene, monkeypatch):
    first = make_engine("openvino", weights=weights, views=VIEWS, size=SIZE, precision="f32", threads=1)
    monkeypatch.setattr("models.engines.openvino._convert", lambda *_: pytest.fail("converted again"))
    second = make_engine("openvino", weights=weights, views=VIEWS, size=SIZE, precision="f32", threads=1)
    np.testing.assert_array_equal(first.predict(*scene).normal, second.predict(*scene).normal)


def test_an_engine_says_where_it_is_kept(weights):
    kept = make_engine("openvino", weights=weights, views=VIEWS, size=SIZE, precision="f32", threads=1)
    assert kept.location is not None and (kept.location / "model.xml").exists()
    assert f"{VIEWS}x{SIZE}" in kept.location.name
    assert make_engine("torch", weights=weights, views=VIEWS, size=SIZE, threads=1).location is None


def test_a_cpu_without_bf16_computes_in_f32_and_says_so(weights, scene, monkeypatch, caplog):
    openvino = pytest.importorskip("openvino")

    class OldCpu(openvino.Core):
        def get_property(self, device, name, *rest):
            return (
                ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else super().get_property(device, name, *rest)
            )

    exact = make_engine("openvino", weights=weights, views=VIEWS, size=SIZE, precision="f32", threads=1)
    assert not caplog.records
    monkeypatch.setattr("models.engines.openvino.ov.Core", OldCpu)
    old = make_engine("openvino", weights=weights, views=VIEWS, size=SIZE, precision="bf16", threads=1)
    assert "float32 is used" in caplog.text
    assert "f32 (this CPU has no bf16)" in old.describe()
    np.testing.assert_array_equal(old.predict(*scene).normal, exact.predict(*scene).normal)


def test_a_broken_graph_is_one_clear_line(tmp_path, weights, monkeypatch):
    folder = tmp_path / "graph"
    folder.mkdir()
    (folder / "model.xml").write_text("<net")
    monkeypatch.setattr("models.engines.openvino._graph_folder", lambda *_: folder)
    with pytest.raises(HeadstreamError, match=r"remove the folder$"):
        make_engine("openvino", weights=weights, views=VIEWS, size=SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "onnx"}, "known are openvino, torch"),
        ({"precision": "int4"}, "must be one of f16, bf16, f32"),
        ({"size": 100}, "multiple of 16"),
        ({"views": 33}, "1 to 32"),
        ({"weights": "nowhere.safetensors"}, "no such weights file"),
    ],
)
def test_wrong_settings_are_one_clear_line(weights, changes, message):
    settings = {"name": "torch", "weights": weights, "views": 2, "size": 64, **changes}
    with pytest.raises(HeadstreamError, match=message) as caught:
        make_engine(settings.pop("name"), **settings)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_weights_is_one_clear_line(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nonsense" * 10)
    with pytest.raises(HeadstreamError, match="not weights of this network"):
        load_network(path)


def test_a_network_too_large_for_one_file_is_read_back_from_its_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("models.weights.LARGEST_FILE", 100_000)
    network = tiny_network()
    index = save_weights(network, tmp_path / "full.safetensors", {"step": 3})
    shards = sorted(tmp_path.glob("full-*.safetensors"))
    assert index == tmp_path / "full.safetensors.index.json" and len(shards) > 2
    assert weights_path(tmp_path / "full.safetensors") == index == weights_path(index)
    for name in (index, tmp_path / "full.safetensors"):
        read = load_network(name).state_dict()
        assert all(torch.equal(value.half().float(), read[key]) for key, value in network.state_dict().items())
    before = weights_digest(index)
    shards[1].write_bytes(shards[1].read_bytes()[:-1] + b"x")
    assert weights_digest(index) != before
    shards[1].unlink()
    for read in (load_network, weights_digest):
        with pytest.raises(HeadstreamError, match="full") as caught:
            read(index)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {}}'])
def test_an_index_that_is_none_is_one_clear_line(tmp_path, text):
    path = tmp_path / "full.safetensors.index.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(HeadstreamError, match="not an index of weights"):
        load_network(path)


def test_shipped_weights_are_small_and_load():
    assert weights_path() == SHIPPED
    assert SHIPPED.stat().st_size <= 12e6
    assert sum(p.numel() for p in load_network(SHIPPED).parameters()) <= 5_000_000


@pytest.mark.parametrize("name", ENGINES)
def test_without_a_size_an_engine_takes_the_usual_one(name, weights):
    if why_not(name):
        pytest.skip(why_not(name))
    assert make_engine(name, weights=weights, views=1, size=0).size == usual_size(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_refused_or_another_engine_takes_its_place(weights, caplog):
    settings = {"weights": weights, "views": 2, "size": 64, "threads": 1, "device": "cuda:1"}
    with pytest.raises(EngineUnavailable, match=r"^normals.device: device 'cuda:1': .* sees no CUDA GPU here$"):
        make_engine("torch", **settings)
    engine = make_engine("torch", **settings, fallback="openvino")
    assert engine.name == "openvino" and "cuda:1" in caplog.text and "openvino takes its place" in caplog.text


def test_a_device_that_an_engine_has_nothing_on_is_one_clear_line(weights):
    with pytest.raises(HeadstreamError, match=r"^normals.device: 'cuda:0': the openvino engine runs on the CPU"):
        make_engine("openvino", weights=weights, views=2, size=64, device="cuda:0")
    assert make_engine("openvino", weights=weights, views=2, size=64, threads=1, device="cpu").name == "openvino"


def test_an_engine_that_keeps_maps_has_fixed_buffers_on_any_device(weights, scene):
    kept = make_engine("torch", weights=weights, views=VIEWS, size=SIZE, precision="f32", device="cpu", resident=True)
    assert kept.device == torch.device("cpu")
    images, cameras = scene
    expected = kept.predict(images[:3], cameras[:3])
    there = kept.predict_on_device(torch.from_numpy(images[:3]), cameras[:3])  # pictures that are there already
    for one, other in zip(there, vars(expected).values(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other)
    with pytest.raises(ValueError, match=r"pictures are float32 .*; must be uint8"):
        kept.predict_on_device(torch.from_numpy(images).float(), cameras)
