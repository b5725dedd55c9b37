"""The TensorRT engine, full or RTX: a plan run by pycuda in torch's primary context, as a CUDA graph.

Building needs no GPU with TensorRT-RTX (``tensorrt_build``); running does, and **nothing from ``_primary_context`` on
has ever been executed** but for refusals (docs/gpu-log.md). Device buffers are torch tensors whose addresses TensorRT
is given: outputs are tensors without a copy. Host buffers are pycuda's page-locked memory, copies run on its stream
which torch knows as an external one. The order of things (stage, upload, replay, fetch) is ``StaticNetwork``'s, which
the torch engine shares.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.engines.base import EngineUnavailable, check_precision
from models.engines.static import StaticEngine, StaticNetwork, engine_device
from models.engines.tensorrt_build import PRECISIONS, library, make_plans, message_log, plan_path, targets
from models.export import INPUTS, OUTPUTS, example_inputs
from models.weights import weights_digest, weights_path
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)


class TensorRtEngine(StaticEngine):
    """TensorRT on a CUDA device ("cuda:1"; empty: the current one); ``f16`` is the usual precision. A plan that is not
    there is built first."""

    name = "tensorrt"

    def __init__(
        self,
        weights: str | Path | None,
        views: int,
        size: int,
        precision: str = "f16",
        threads: int = 0,
        *,
        device: str = "",
        graph: bool = True,
    ) -> None:
        super().__init__(views, size)
        path = weights_path(weights)
        self.precision = check_precision(precision, PRECISIONS)
        trt = library()
        driver, primary, place = _primary_context(device)
        name = torch.cuda.get_device_name(place)
        target, cross = device_target(trt, torch.cuda.get_device_capability(place), name)
        plan = self.location = plan_path(trt, path, views, size, self.precision, target)
        if not plan.exists():
            make_plans(trt, path, views, size, self.precision, [target], cross)
        self._about = f"{trt.__name__} {trt.__version__} on {name} ({place})"
        self._weights = f"{path.name} {weights_digest(path)[:8]}"
        with torch.inference_mode(), torch.cuda.device(place):
            inputs = [tensor.to(place) for tensor in example_inputs(views, size)]
            self._plan = _LoadedPlan(trt, plan, inputs)
            self._static = _PinnedNetwork(driver, primary, self._plan, inputs, graph)
        self._plan.keep_compiled()

    def describe(self) -> str:
        """One line for the log."""
        graph = ", CUDA graph" if self._static is not None and self._static.captured else ""
        return f"{self._about}, {self.precision}{graph}, {self.views} x {self.size} px, {self._weights}"


def why_not() -> str:
    """Why this machine cannot run the engine, one line; empty where it can."""
    try:
        trt = library()
        _primary_context("")
        device_target(trt, torch.cuda.get_device_capability(), torch.cuda.get_device_name())
    except EngineUnavailable as error:
        return str(error)
    return ""


def device_target(trt: ModuleType, capability: tuple[int, int], device: str) -> tuple[str, bool]:
    """What a plan for a GPU is called, and whether the library wants to be told so.

    TensorRT-RTX: ``sm89``, any GPU of that capability. Full TensorRT tunes for one model: ``sm90_nvidia_h100``. Raises
    EngineUnavailable for a GPU that TensorRT-RTX does not know, such as H100 and H200.
    """
    target = f"sm{capability[0]}{capability[1]}"
    known = targets(trt)
    if not known:
        return f"{target}_{'_'.join(device.lower().split())}", False
    if target not in known:
        raise EngineUnavailable(f"normals: {trt.__name__} has nothing for {device} ({target}), only {', '.join(known)}")
    return target, True


def _primary_context(device: str) -> tuple[ModuleType, Any, torch.device]:
    """pycuda's driver, the context that torch uses on a device, and the device. Raises EngineUnavailable without a GPU
    or without pycuda."""
    if not torch.cuda.is_available():
        raise EngineUnavailable("normals: the tensorrt engine needs a CUDA GPU, and torch sees none")
    place = engine_device(device or "cuda")
    if place.type != "cuda":
        raise EngineUnavailable(f"normals.device: {device!r}; the tensorrt engine runs on a CUDA GPU")
    try:
        import pycuda.driver as driver
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise EngineUnavailable(
            f"normals: the tensorrt engine needs pycuda ({reason}); pip install 'headstream[pycuda]'"
        ) from None
    driver.init()
    return driver, driver.Device(place.index).retain_primary_context(), place


class _LoadedPlan:
    """A plan ready to be enqueued: fixed inputs, fixed outputs."""

    def __init__(self, trt: ModuleType, path: Path, inputs: Sequence[Tensor]) -> None:
        self._logger = message_log(trt)  # must outlive what it is given to
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            last = self._logger.errors[-1] if self._logger.errors else "no reason given"
            raise HeadstreamError(f"{path}: the plan cannot be used ({last}); remove the file")
        self._compiled: Any = None
        self._kept = path.with_suffix(".kernels")
        self._context = self._new_context()
        self.outputs = []
        for name, tensor in zip(INPUTS, inputs, strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())
        for name in OUTPUTS:
            shape = tuple(self._engine.get_tensor_shape(name))
            output = torch.empty(shape, dtype=torch.float32, device=inputs[0].device)
            self._context.set_tensor_address(name, output.data_ptr())
            self.outputs.append(output)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Enqueue on torch's current stream, from and to the addresses that were set."""
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            last = self._logger.errors[-1] if self._logger.errors else "no reason given"
            raise RuntimeError(f"TensorRT could not enqueue the network: {last}")
        return self.outputs

    def keep_compiled(self) -> None:
        """Store the kernels that TensorRT-RTX compiled for this GPU, so that the next start does not."""
        if self._compiled is not None and not self._kept.exists():
            scratch = self._kept.with_suffix(".part")
            scratch.write_bytes(bytes(self._compiled.serialize()))
            scratch.replace(self._kept)

    def _new_context(self) -> Any:
        if not hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        if hasattr(config, "create_runtime_cache"):  # TensorRT-RTX
            self._compiled = config.create_runtime_cache()
            if self._kept.exists():
                self._compiled.deserialize(self._kept.read_bytes())
            config.set_runtime_cache(self._compiled)
        return self._engine.create_execution_context(config)


class _PinnedNetwork(StaticNetwork):
    """A ``StaticNetwork`` whose host memory, stream and uploads are pycuda's."""

    def __init__(self, driver: ModuleType, primary: Any, step: Any, inputs: Sequence[Tensor], graph: bool) -> None:
        self._driver, self._primary = driver, primary
        super().__init__(step, inputs, graph)

    def _new_stream(self) -> torch.cuda.Stream:
        with self._entered():
            self._own_stream = self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
        return torch.cuda.ExternalStream(self._own_stream.handle, device=self._device)

    def _pinned(self, tensor: Tensor) -> Tensor:
        kind = {torch.uint8: "uint8", torch.float32: "float32"}[tensor.dtype]
        with self._entered():
            return torch.from_numpy(self._driver.pagelocked_empty(tuple(tensor.shape), kind))

    def _upload(self, device: Tensor, host: Tensor) -> None:
        self._driver.memcpy_htod_async(device.data_ptr(), host.numpy(), self._own_stream)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        """pycuda looks for its context on a stack of the calling thread."""
        self._primary.push()
        try:
            yield
        finally:
            self._primary.pop()
