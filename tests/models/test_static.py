"""Networks on fixed buffers: the same numbers as without, and what is copied when. The graph itself needs a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_doubles import ball, ring, tiny_network
from torch import Tensor

from models.engines.static import StaticNetwork, write_directions
from models.engines.torch import TorchEngine
from models.export import Inference, example_inputs
from models.rays import camera_inputs, pinhole_inputs, stack_cameras
from models.weights import save_weights

VIEWS, SIZE = 2, 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tiny_network(), tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def scene():
    cameras = ring(VIEWS, SIZE)
    return ball(cameras, 0.2, np.random.default_rng(0))[0], cameras


@pytest.fixture
def network():
    step = Inference(tiny_network()).eval()
    return StaticNetwork(step, [tensor.clone() for tensor in example_inputs(VIEWS, SIZE)])


@pytest.fixture
def moment(scene):
    images, cameras = scene
    return images, pinhole_inputs(*stack_cameras(cameras), SIZE, SIZE)


def test_fixed_buffers_change_nothing(weights, scene):
    plain = TorchEngine(weights, VIEWS, SIZE, "f32", 1, device="cpu")
    fixed = TorchEngine(weights, VIEWS, SIZE, "f32", 1, device="cpu", static=True)
    for images in (scene[0], 255 - scene[0], scene[0]):
        for one, other in zip(
            vars(plain.predict(images, scene[1])).values(),
            vars(fixed.predict(images, scene[1])).values(),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_picture_made_in_the_engines_own_buffer_is_not_copied(network, moment, monkeypatch):
    with torch.inference_mode():
        network.run(*moment)
        expected = network.fetch()
        network.images[:] = 0
        network.images[:] = moment[0]
        copied = []
        copy = np.copyto
        monkeypatch.setattr(np, "copyto", lambda to, what: (copied.append(what.shape), copy(to, what)))
        network.run(network.images, moment[1])
        assert not copied
        for one, other in zip(network.fetch(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        network.run(moment[0], moment[1])
        assert copied == [moment[0].shape]


def test_cameras_are_uploaded_when_they_change_and_only_then(network, moment, monkeypatch):
    uploads = []
    upload = network._upload
    monkeypatch.setattr(network, "_upload", lambda to, what: (uploads.append(tuple(what.shape)), upload(to, what)))
    images, cameras = moment
    others = pinhole_inputs(*stack_cameras(ring(VIEWS + 1, SIZE)[1:]), SIZE, SIZE)
    with torch.inference_mode():
        network.run(images, cameras)
        assert len(uploads) == 5
        before = network.fetch()
        network.run(images, cameras)
        assert len(uploads) == 6 and uploads[-1] == (1, VIEWS, SIZE, SIZE, 3)
        network.run(images, others)
        assert len(uploads) == 11
        assert np.abs(network.fetch()[0] - before[0]).max() > 1e-3
        network.run(images, cameras)
        np.testing.assert_array_equal(network.fetch()[0], before[0])


def test_the_device_writes_the_same_rays_as_the_host():
    cameras = stack_cameras(ring(3, 48))
    out = torch.empty((1, 3, 48, 48, 3))
    write_directions(torch.from_numpy(pinhole_inputs(*cameras, 48, 48).inverse)[None], out)
    np.testing.assert_allclose(out[0].numpy(), camera_inputs(*cameras, 48, 48).direction, atol=3e-7)


def test_an_engine_lends_its_buffer_to_who_makes_the_pictures(weights, scene):
    engine = TorchEngine(weights, VIEWS, SIZE, "f32", 1, static=True)
    expected = engine.predict(*scene)
    engine.image_buffer[:] = scene[0]
    np.testing.assert_array_equal(engine.predict(engine.image_buffer, scene[1]).normal, expected.normal)


def test_maps_on_the_device_are_those_that_are_fetched(weights, scene):
    engine = TorchEngine(weights, VIEWS, SIZE, "f32", 1, static=True)
    there = [value.cpu().numpy().copy() for value in engine.predict_on_device(*scene)]
    for one, other in zip(there, vars(engine.predict(*scene)).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert engine.milliseconds() == {} or set(engine.milliseconds()) == {"upload", "network", "download"}
    with pytest.raises(RuntimeError, match="keeps nothing on a device"):
        plain = TorchEngine(weights, VIEWS, SIZE, "f32", 1)
        plain._static = None  # as on a CPU
        plain.predict_on_device(*scene)


def test_a_camera_that_is_missing_costs_no_upload_set_by_set(weights, scene, monkeypatch):
    """Neither of the others' cameras, once they are there, nor of which picture stands in for which: that is waited
    for."""
    engine = TorchEngine(weights, VIEWS, SIZE, "f32", 1, static=True)
    pictures, cameras = torch.from_numpy(scene[0][:1]).to(engine.device), scene[1][:1]
    expected = engine.predict(scene[0][:1], cameras)
    static, uploads, indices = engine._static, [], []
    upload, pick = static._upload, torch.Tensor.__getitem__
    monkeypatch.setattr(static, "_upload", lambda to, what: (uploads.append(tuple(what.shape)), upload(to, what)))
    monkeypatch.setattr(torch.Tensor, "__getitem__", lambda t, at: (indices.append(at), pick(t, at))[1])
    for _ in range(2):
        maps = engine.predict_on_device(pictures, cameras)
    assert not uploads
    for value, other in zip(maps, vars(expected).values(), strict=True):
        np.testing.assert_array_equal(value.cpu().numpy(), other)
    arrays = [at for at in indices if isinstance(at, (np.ndarray, list, Tensor))]
    assert arrays and all(isinstance(at, Tensor) and at.device == engine.device for at in arrays)


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_every_operation_has_a_form_for_devices_that_are_no_cpu(precision):
    """On torch's meta device, of shapes and types only: depthwise convolutions once lacked their groups there."""
    network = Inference(tiny_network(), precision).to("meta")
    normal, confidence, mask = network(*(tensor.to("meta") for tensor in example_inputs(VIEWS, SIZE)))
    assert normal.shape == (1, VIEWS, SIZE, SIZE, 3) and confidence.shape == mask.shape == (1, VIEWS, SIZE, SIZE)
    assert {tensor.dtype for tensor in (normal, confidence, mask)} == {torch.float32}
