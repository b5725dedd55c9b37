"""Plans for TensorRT: the network's ONNX in, a file for one kind of GPU out, with every layer's precision beside it.

One code path for TensorRT and TensorRT-RTX, whichever is installed. The second builds without a GPU, for any target
that it knows; the first only for the GPU at hand, which has never been executed, as no machine of ours had it. The
graph is strongly typed: its precisions are those that ``models.export.Inference`` wrote into it, and no builder changes
them. int8 is not offered: it wants calibration, and nobody has shown that the normals bear it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from models.engines.base import EngineUnavailable, NormalEngine, check_precision
from models.engines.cache import kept_path
from models.weights import weights_path
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)

PRECISIONS = ("f16", "bf16", "f32")
LIBRARIES = ("tensorrt", "tensorrt_rtx")
CODE = ("network.py", "rays.py", "export.py", "engines/tensorrt_build.py")
_KINDS = {"HALF": "f16", "BF16": "bf16", "FLOAT": "f32"}
_SHAPES = ("INT32", "INT64")  # types of the arithmetic on shapes, which a builder with static shapes folds


@dataclass(frozen=True)
class Layer:
    """A layer as the parser made it, before the builder fuses."""

    name: str
    kind: str
    precision: str


@dataclass(frozen=True)
class Plan:
    """A plan on disk, and beside it (``.json``) all of this."""

    path: Path
    library: str
    target: str
    precision: str
    views: int
    size: int
    bytes: int
    seconds: float  # of the build, without the export to ONNX
    layers: tuple[Layer, ...]

    def precisions(self) -> dict[str, int]:
        """Number of layers by precision."""
        return dict(Counter(layer.precision for layer in self.layers).most_common())

    def kinds(self, precision: str) -> dict[str, int]:
        """Number of layers by kind, of those in one precision."""
        return dict(Counter(layer.kind for layer in self.layers if layer.precision == precision).most_common())


def library(cross: bool = False) -> ModuleType:
    """TensorRT or else TensorRT-RTX; with ``cross`` the latter, which alone builds for GPUs that are not here.

    Raises EngineUnavailable when neither is installed.
    """
    for name in LIBRARIES[1:] if cross else LIBRARIES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):  # absent, or its native parts are
            continue
    wanted = "TensorRT-RTX is" if cross else "neither TensorRT nor TensorRT-RTX is"
    raise EngineUnavailable(f"normals: {wanted} installed; pip install tensorrt-rtx (RTX GPUs), or another engine")


def targets(trt: ModuleType) -> tuple[str, ...]:
    """The GPUs that a library builds for without having them, as ``sm89``; none for full TensorRT."""
    kinds = getattr(trt, "ComputeCapability", None)
    return () if kinds is None else tuple(name.lower() for name in kinds.__members__ if name.startswith("SM"))


def plan_path(trt: ModuleType, weights: Path, views: int, size: int, precision: str, target: str) -> Path:
    """Where the plan lies, or will lie."""
    name = trt.__name__.replace("_", "-")
    stem = kept_path(name, trt.__version__, weights, CODE, f"{views}x{size}", precision, target)
    return stem.with_name(stem.name + ".plan")


def make_plans(
    trt: ModuleType,
    weights: str | Path | None,
    views: int,
    size: int,
    precision: str,
    wanted: Sequence[str],
    cross: bool = True,
) -> tuple[list[Plan], Path]:
    """Build a plan for each target and keep it; also the ONNX file they were built from, for who wants to run it.

    cross: name the target to the library; else it builds for the GPU at hand and the target only names the file.
    Raises HeadstreamError when the library does not know a target, or cannot express the network.
    """
    NormalEngine.check_shape(views, size)
    check_precision(precision, PRECISIONS)
    unknown = [target for target in wanted if cross and target not in targets(trt)]
    if unknown:
        raise HeadstreamError(f"engine: target {unknown[0]!r}; {trt.__name__} builds for {', '.join(targets(trt))}")
    from models.export import export_onnx

    path = weights_path(weights)
    paths = [plan_path(trt, path, views, size, precision, target) for target in wanted]
    folder = paths[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / (paths[0].name.rpartition("-")[0] + ".onnx")
    log.info("normals: writing the network's graph for %s; takes up to a minute", trt.__name__)
    export_onnx(model, views, size, path, precision)
    plans = []
    for target, place in zip(wanted, paths, strict=True):
        start = time.perf_counter()
        timings = folder / f"{trt.__name__}-{trt.__version__}-{target}.timings"  # true of every plan for that GPU
        data, layers = build(trt, model.read_bytes(), target if cross else None, timings)
        seconds = round(time.perf_counter() - start, 2)
        name = f"{trt.__name__.replace('_', '-')} {trt.__version__}"
        plan = Plan(place, name, target, precision, views, size, len(data), seconds, layers)
        _store(place.with_suffix(".json"), json.dumps(_as_json(plan), indent=1).encode())
        _store(place, data)  # last: who sees the plan sees the rest
        log.info("normals: built %s, %.1f MB in %.1f s", place.name, len(data) / 1e6, seconds)
        plans.append(plan)
    return plans, model


def build(trt: ModuleType, model: bytes, target: str | None, timings: Path | None) -> tuple[bytes, tuple[Layer, ...]]:
    """A plan of an ONNX model and its layers. target: None is the GPU at hand. timings: where TensorRT keeps what it
    timed, so that a second build is quicker (TensorRT-RTX times nothing).

    Raises HeadstreamError with the operations that the library does not know.
    """
    logger = message_log(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise HeadstreamError(_refused(trt, [parser.get_error(i) for i in range(parser.num_errors)]))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # f32 is what it says
    if target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
    timed = timings if trt.__name__ == "tensorrt" else None
    if timed is not None:  # never executed
        config.set_timing_cache(config.create_timing_cache(timed.read_bytes() if timed.exists() else b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        last = logger.errors[-1] if logger.errors else "no reason given"
        raise HeadstreamError(f"engine: {trt.__name__} cannot build the network ({last})")
    if timed is not None:
        _store(timed, bytes(config.get_timing_cache().serialize()))
    return bytes(plan), layers_of(network)


def layers_of(network: Any) -> tuple[Layer, ...]:
    """What a parsed network computes, in order, without constants and the arithmetic on shapes."""
    found = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind, made = layer.type.name, layer.get_output(0).dtype.name
        if kind != "CONSTANT" and made not in _SHAPES:
            found.append(Layer(layer.name, kind.lower(), _KINDS.get(made, made.lower())))
    return tuple(found)


def _refused(trt: ModuleType, errors: Sequence[Any]) -> str:
    """One line of a parser's errors: each operation, and why."""
    told = []
    for error in errors[:3]:
        where = f"{error.node_name()} ({error.node_operator()})" if error.node_operator() else error.code().name
        told.append(f"{where}: {' '.join(error.desc().split())[:160]}")
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return f"engine: {trt.__name__} {trt.__version__} cannot express the network: {'; '.join(told)}{more}"


def message_log(trt: Any) -> Any:
    """The library's messages in our log, below everybody's sight: without a GPU it complains of that every time."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(re.sub(r"\s+", " ", message)[:300])
            if severity <= trt.ILogger.INFO:
                log.debug("%s: %s", trt.__name__, message)

    return Logger()


def _as_json(plan: Plan) -> dict[str, Any]:
    return asdict(plan) | {"path": str(plan.path), "precisions": plan.precisions()}


def _store(path: Path, data: bytes) -> None:
    """Write a file so that another process sees all of it or nothing."""
    scratch = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
