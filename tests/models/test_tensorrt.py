"""TensorRT without a GPU: what goes into the builder, what comes out, what it is called. Running a plan needs a GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_doubles import ball, ring, tiny_network

from models.engines import EngineUnavailable, make_engine
from models.engines.tensorrt import _LoadedPlan, device_target
from models.engines.tensorrt_build import CODE, build, library, make_plans, plan_path
from models.evaluation import normal_errors
from models.export import TYPES, Inference, export_onnx
from models.rays import camera_inputs, stack_cameras
from models.weights import load_network, save_weights
from protocol.errors import HeadstreamError

FULL = SimpleNamespace(__name__="tensorrt", __version__="10.9")


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx, which builds without a GPU, is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path):
    return save_weights(tiny_network(), tmp_path / "tiny.safetensors")


def one_layer(operation: str, kind: str, **attributes) -> bytes:
    """An ONNX model of a single operation on a 1,3,8,8 tensor, with a 3x3 kernel where it is a convolution."""
    onnx = pytest.importorskip("onnx")
    type_ = getattr(onnx.TensorProto, kind)
    kernel = onnx.helper.make_tensor("kernel", type_, (4, 3, 3, 3), [0.1] * 108)
    wants = ["x", "kernel"] if operation == "Conv" else ["x"]
    node = onnx.helper.make_node(operation, wants, ["y"], name="the one", **attributes)
    x, y = (onnx.helper.make_tensor_value_info(name, type_, shape) for name, shape in
            (("x", (1, 3, 8, 8)), ("y", (1, 4, 6, 6) if operation == "Conv" else (1, 3, 8, 8))))  # fmt: skip
    graph = onnx.helper.make_graph([node], "g", [x], [y], [kernel] if operation == "Conv" else [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize("target", ["sm86", "sm89", "sm120"])
def test_a_plan_is_built_without_a_gpu_in_the_graphs_own_precision(rtx, target):
    plan, layers = build(rtx, one_layer("Conv", "FLOAT16"), target, None)
    assert len(plan) > 1000
    assert [(layer.name, layer.kind, layer.precision) for layer in layers] == [("the one", "convolution", "f16")]
    exact = build(rtx, one_layer("Conv", "FLOAT"), target, None)[1]
    assert [layer.precision for layer in exact] == ["f32"]


def test_an_operation_that_tensorrt_does_not_know_is_named_in_one_line(rtx):
    with pytest.raises(HeadstreamError, match=r"cannot express the network: the one \(Bernoulli\)") as caught:
        build(rtx, one_layer("Bernoulli", "FLOAT"), "sm89", None)
    assert "\n" not in str(caught.value)
    with pytest.raises(HeadstreamError, match="cannot express the network") as caught:
        build(rtx, b"no model", "sm89", None)
    assert "\n" not in str(caught.value)


def test_a_file_name_holds_all_that_a_plan_depends_on(rtx, weights, tmp_path, monkeypatch):
    other = save_weights(tiny_network(1), tmp_path / "other.safetensors")
    paths = [
        plan_path(rtx, weights, 8, 256, "f16", "sm89"),
        plan_path(rtx, other, 8, 256, "f16", "sm89"),
        plan_path(rtx, weights, 10, 256, "f16", "sm89"),
        plan_path(rtx, weights, 8, 192, "f16", "sm89"),
        plan_path(rtx, weights, 8, 256, "f32", "sm89"),
        plan_path(rtx, weights, 8, 256, "f16", "sm120"),
        plan_path(FULL, weights, 8, 256, "f16", "sm89"),
    ]
    monkeypatch.setattr("models.engines.tensorrt_build.CODE", CODE[:1])
    paths.append(plan_path(rtx, weights, 8, 256, "f16", "sm89"))
    assert len(set(paths)) == len(paths)
    assert rtx.__version__ in paths[0].name and paths[0].name.endswith("-8x256-f16-sm89.plan")


def test_what_a_gpu_is_called_and_which_have_nothing(rtx):
    assert device_target(rtx, (8, 9), "NVIDIA RTX 4090") == ("sm89", True)
    assert device_target(FULL, (9, 0), "NVIDIA H100 80GB HBM3") == ("sm90_nvidia_h100_80gb_hbm3", False)
    with pytest.raises(EngineUnavailable, match=r"nothing for NVIDIA H200 \(sm90\), only sm75"):
        device_target(rtx, (9, 0), "NVIDIA H200")


def test_a_machine_without_the_library_is_told_what_to_install(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(EngineUnavailable, match="neither TensorRT nor TensorRT-RTX is installed; pip install"):
        library()


def test_a_plan_that_cannot_be_read_is_one_line(rtx, tmp_path):
    path = tmp_path / "x.plan"
    path.write_bytes(b"nonsense" * 100)
    with pytest.raises(HeadstreamError, match=r"cannot be used .*; remove the file$") as caught:
        _LoadedPlan(rtx, path, [])
    assert "\n" not in str(caught.value)


@pytest.fixture
def nowhere(monkeypatch):
    """A machine that cannot run TensorRT, whatever it has."""

    def missing(cross=False):
        raise EngineUnavailable("normals: there is none")

    monkeypatch.setattr("models.engines.tensorrt.library", missing)


def test_another_engine_only_where_the_rig_allows_it_and_never_silently(nowhere, weights, caplog):
    with pytest.raises(EngineUnavailable, match="there is none"):
        make_engine("tensorrt", weights=weights, views=2, size=64)
    engine = make_engine("tensorrt", weights=weights, views=2, size=64, precision="f16", threads=1, fallback="openvino")
    assert engine.name == "openvino"
    assert "there is none; openvino takes its place" in caplog.text
    exact = make_engine("tensorrt", weights=weights, views=2, size=64, precision="f32", threads=1, fallback="torch")
    assert exact.name == "torch" and ", f32, " in exact.describe()


def test_a_fallback_hides_no_mistake(nowhere, weights):
    with pytest.raises(HeadstreamError, match="no such weights file"):
        make_engine("tensorrt", weights="nowhere.safetensors", views=2, size=64, fallback="torch")
    with pytest.raises(HeadstreamError, match=r"normals.fallback: 'abacus' is unknown"):
        make_engine("torch", weights=weights, views=2, size=64, fallback="abacus")
    with pytest.raises(EngineUnavailable):
        make_engine("tensorrt", weights=weights, views=2, size=64, fallback="tensorrt")


def test_an_unknown_target_is_refused_before_anything_is_done(rtx, weights, monkeypatch):
    monkeypatch.setattr("models.export.export_onnx", lambda *_: pytest.fail("exported"))
    with pytest.raises(HeadstreamError, match=r"target 'sm90'; tensorrt_rtx builds for sm75, .*sm120"):
        make_plans(rtx, weights, 2, 64, "f16", ["sm89", "sm90"])


class _Timed:
    """A double of full TensorRT, as far as building goes: what timings it is given, and what it finds itself."""

    __name__, __version__ = "tensorrt", "10.9"
    ILogger, NetworkDefinitionCreationFlag = (
        type("ILogger", (), {"ERROR": 1, "INFO": 3}),
        SimpleNamespace(STRONGLY_TYPED=1),
    )
    ProfilingVerbosity, BuilderFlag = SimpleNamespace(DETAILED=2), SimpleNamespace(TF32=7)

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def Builder(self, logger):
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(num_layers=0),
            create_builder_config=self._config,
            build_serialized_network=lambda network, config: b"plan",
        )

    def OnnxParser(self, network, logger):
        return SimpleNamespace(parse=lambda model: True)

    def _config(self):
        def create(data):
            self.given.append(data)
            return data

        found = SimpleNamespace(serialize=lambda: self.given[-1] + b" and more")
        return SimpleNamespace(
            clear_flag=lambda flag: None,
            create_timing_cache=create,
            set_timing_cache=lambda cache, mismatch: not mismatch,
            get_timing_cache=lambda: found,
        )


def test_what_full_tensorrt_has_timed_on_a_gpu_serves_every_later_plan_for_it(weights, monkeypatch):
    monkeypatch.setattr("models.export.export_onnx", lambda model, *_: model.write_bytes(b"graph"))
    trt = _Timed()
    for views, precision, target in ((2, "f16", "sm90_h100"), (3, "bf16", "sm90_h100"), (2, "f16", "sm80_a100")):
        make_plans(trt, weights, views, 64, precision, [target], cross=False)
    trt.__version__ = "10.10"
    make_plans(trt, weights, 2, 64, "f16", ["sm90_h100"], cross=False)
    assert trt.given == [b"", b" and more", b"", b""]


def test_the_network_builds_and_every_layer_says_its_precision(rtx, weights):
    (plan,), graph = make_plans(rtx, weights, 2, 32, "f16", ["sm89"])
    assert plan.path.stat().st_size == plan.bytes > 10_000 and graph.exists()
    assert set(plan.precisions()) <= {"f16", "f32", "bool"} and len(plan.layers) > 100
    assert not {"convolution", "matrix_multiply", "softmax", "normalization"} & plan.kinds("f32").keys()


@pytest.mark.slow
def test_one_graph_serves_every_target(rtx, weights):
    wanted = ["sm86", "sm89", "sm120"]
    plans, graph = make_plans(rtx, weights, 3, 64, "f16", wanted)
    assert [plan.target for plan in plans] == wanted and graph.exists()
    for plan in plans:
        assert plan.path.stat().st_size == plan.bytes > 10_000
        assert set(plan.precisions()) <= {"f16", "f32", "bool"}
        assert not {"convolution", "matrix_multiply", "softmax", "normalization"} & plan.kinds("f32").keys()
        kept = json.loads(plan.path.with_suffix(".json").read_text())
        assert kept["target"] == plan.target and len(kept["layers"]) == len(plan.layers) > 100
    assert not [path.name for path in graph.parent.iterdir() if path.name.startswith(".part")]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "f32"])
def test_the_network_builds_in_the_other_precisions(rtx, weights, precision):
    (plan,), _ = make_plans(rtx, weights, 2, 64, precision, ["sm89"])
    counts = plan.precisions()
    assert counts[precision] == max(counts.values()) and "f16" not in counts


@pytest.mark.slow
def test_the_graph_that_goes_into_the_builder_says_what_pytorch_says(tmp_path, weights):
    """In its own float16, operation by operation, by ONNX's reference evaluator."""
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    path = export_onnx(tmp_path / "tiny.onnx", 2, 64, weights, "f16")
    cameras = ring(2, 64)
    images, _, mask = ball(cameras, 0.2, np.random.default_rng(0))
    inputs = [array[None] for array in (images, *camera_inputs(*stack_cameras(cameras), 64, 64))]
    evaluator = reference.ReferenceEvaluator(onnx.load(path))
    got = evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True)))
    with torch.no_grad():
        true = load_network(weights).infer(*map(torch.from_numpy, inputs))
    assert [array.dtype for array in got] == [np.float32] * 3
    assert normal_errors(got[0][0], true.normal[0].numpy(), mask).mean < 0.2
    np.testing.assert_allclose(got[2], true.mask.numpy(), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "degrees"), [("f32", 1e-6), ("f16", 0.1), ("bf16", 0.6)])
def test_the_shipped_network_bears_the_precision(precision, degrees):
    """Computed in that type throughout, which is what TensorRT and CUDA graphs run."""
    cameras = ring(2, 128)
    images, _, mask = ball(cameras, 0.2, np.random.default_rng(0))
    inputs = [torch.from_numpy(a)[None] for a in (images, *camera_inputs(*stack_cameras(cameras), 128, 128))]
    from models.weights import SHIPPED

    with torch.inference_mode():
        true = load_network(SHIPPED).infer(*inputs)
        network = Inference(load_network(SHIPPED), precision)
        assert {parameter.dtype for parameter in network.parameters()} == {TYPES[precision]}
        got = network(*inputs)
    assert normal_errors(got[0][0].numpy(), true.normal[0].numpy(), mask).mean < degrees
    assert float((got[2] - true.mask).abs().mean()) < 0.02
