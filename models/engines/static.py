"""Networks on buffers that never move: what a CUDA graph needs, and what can be tried on a CPU without one.

Pictures and cameras go from pinned host memory to fixed device buffers on a stream of the engine's own; the network
reads those and writes fixed outputs; capturing that once and replaying it costs one launch instead of hundreds. On the
CPU the same buffers and the same order are used without streams or a graph, which is how the tests run it.
Whatever is behind ``on_gpu`` has never been executed (docs/gpu-log.md).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geometry.device import compute_device
from models.engines.base import EngineUnavailable, NormalEngine, NormalPrediction
from models.rays import PinholeInputs
from protocol.calibration import Camera
from protocol.errors import HeadstreamError

_WARM_UPS = 3  # libraries choose algorithms and allocate in the first runs, which a capture must not see
_STAGES = ("upload", "network", "download")

Step = Callable[..., Sequence[Tensor]]


class StaticNetwork:
    """``step``, a function of the device inputs that returns the three maps, on buffers of its own.

    inputs: device tensors with a batch axis of one, in the order of ``models.export.INPUTS``; the network owns them
    from here on. graph: capture ``step`` as a CUDA graph; without a GPU there is none. One call at a time.
    """

    def __init__(self, step: Step, inputs: Sequence[Tensor], graph: bool = True) -> None:
        self._inputs = tuple(inputs)
        self._device = self._inputs[0].device
        self._stream: Any = self._new_stream() if self.on_gpu else None
        images, self._direction, *of_tokens = self._inputs
        self._inverse = torch.empty((1, images.shape[1], 3, 3), device=self._device)
        self._uploaded = (images, self._inverse, *of_tokens)
        self._staging = tuple(self._pinned(tensor) for tensor in self._uploaded)
        self._cameras: PinholeInputs | None = None  # those that are on the device
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)] if self.on_gpu else []
        self._fetched = False
        self._outputs: tuple[Tensor, ...] = ()
        if self.on_gpu:
            self._prepare(graph)

    @property
    def device(self) -> torch.device:
        """Where the buffers are."""
        return self._device

    @property
    def on_gpu(self) -> bool:
        """Whether there are streams and a graph."""
        return self._device.type == "cuda"

    @property
    def images(self) -> np.ndarray:
        """The host buffer of the pictures (V, S, S, 3) uint8, pinned on a machine with a GPU.

        Whoever makes the pictures can write here (``cv2.resize(..., dst=images[i])``, TurboJPEG's ``decode(...,
        dst=images[i])`` where a picture needs neither undistorting nor cutting) and hand this very array to ``run``,
        which then copies nothing on the host. Not before the last call's result was read: the copy may be under way.
        """
        return self._staging[0].numpy()[0]

    @property
    def captured(self) -> bool:
        """Whether a graph is replayed."""
        return self._graph is not None

    def run(self, images: np.ndarray | Tensor, cameras: PinholeInputs) -> tuple[Tensor, ...]:
        """Enqueue one set: normal (V,S,S,3), confidence and mask (V,S,S) on the device, float32; the next overwrites.

        images: on the host, or on the device, made by what the caller put on its current stream. Work that the caller
        puts there afterwards sees the result, and the next set waits for it; the host waits for nothing but the last
        set's upload, and only where there is something to upload.
        """
        if not self.on_gpu:
            self._fill(images, cameras)
            self._outputs = tuple(self._step(*self._inputs))
            return tuple(output[0] for output in self._outputs)
        if not isinstance(images, Tensor) or cameras is not self._cameras:
            self._events[1].synchronize()  # the staging buffers are free again
        caller = torch.cuda.current_stream(self._device)
        with self._entered(), torch.cuda.stream(self._stream):
            self._stream.wait_stream(caller)  # its reads of the last result, and its pictures
            self._events[0].record(self._stream)
            self._fill(images, cameras)
            self._events[1].record(self._stream)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._outputs = tuple(self._step(*self._inputs))
            self._events[2].record(self._stream)
        caller.wait_stream(self._stream)
        return tuple(output[0] for output in self._outputs)

    def fetch(self) -> list[np.ndarray]:
        """The last result as host arrays that are the caller's; waits until they are there."""
        if not self.on_gpu:
            return [output[0].numpy().copy() for output in self._outputs]
        with self._entered(), torch.cuda.stream(self._stream):
            maps = [self._fresh(output[0]) for output in self._outputs]
            for there, output in zip(maps, self._outputs, strict=True):
                there.copy_(output[0], non_blocking=True)
            self._events[3].record(self._stream)
        self._events[3].synchronize()
        self._fetched = True
        return [there.numpy() for there in maps]

    def milliseconds(self) -> dict[str, float]:
        """Of the last set that was fetched, by CUDA's own clock: upload, network, download. Empty without a GPU."""
        if not self._fetched:
            return {}
        pairs = zip(_STAGES, self._events, self._events[1:], strict=False)
        return {stage: before.elapsed_time(after) for stage, before, after in pairs}

    def _fill(self, images: np.ndarray | Tensor, cameras: PinholeInputs) -> None:
        """Into the device's buffers. Cameras only where they are others than the last; the device writes their rays."""
        if isinstance(images, Tensor):
            self._inputs[0].copy_(images[None], non_blocking=True)
        else:
            if images.__array_interface__["data"][0] != self.images.__array_interface__["data"][0]:
                np.copyto(self.images, images)
            self._upload(self._uploaded[0], self._staging[0])
        if cameras is self._cameras:
            return
        for array, host, device in zip(cameras, self._staging[1:], self._uploaded[1:], strict=True):
            np.copyto(host.numpy()[0], array)
            self._upload(device, host)
        write_directions(self._inverse, self._direction)
        self._cameras = cameras

    def _prepare(self, graph: bool) -> None:
        """Warm up, and capture. ``thread_local``: other threads may use the GPU meanwhile."""
        with self._entered(), torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                self._outputs = tuple(self._step(*self._inputs))
            self._stream.synchronize()
            if graph:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    self._outputs = tuple(self._step(*self._inputs))
            self._events[1].record(self._stream)
            self._stream.synchronize()

    def _new_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def _pinned(self, tensor: Tensor) -> Tensor:
        """A host tensor like it, in memory that the GPU copies from by itself."""
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.on_gpu)

    def _fresh(self, tensor: Tensor) -> Tensor:
        """Pinned memory that the caller may keep. Torch reuses what was let go, so no second copy on the host."""
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def _upload(self, device: Tensor, host: Tensor) -> None:
        device.copy_(host, non_blocking=True)

    def _entered(self) -> contextlib.AbstractContextManager:
        """What must be current in the calling thread while the GPU is used; torch sees to itself."""
        return contextlib.nullcontext()


def engine_device(name: str) -> torch.device:
    """The device that ``normals.device`` names. Raises EngineUnavailable where this machine has none such."""
    try:
        return compute_device(name)
    except HeadstreamError as error:
        raise EngineUnavailable(f"normals.device: {error}") from None


def write_directions(inverse: Tensor, out: Tensor) -> None:
    """Unit viewing directions (1, V, H, W, 3) of pinhole cameras, given by inverse K (1, V, 3, 3), into ``out``."""
    height, width = out.shape[2:4]
    x = torch.arange(width, dtype=out.dtype, device=out.device)[:, None]
    y = torch.arange(height, dtype=out.dtype, device=out.device)[:, None, None]
    a, b, c = (inverse[:, :, None, None, :, k] for k in range(3))
    rays = a * x + (b * y + c)
    torch.mul(rays, torch.rsqrt(rays.square().sum(-1, keepdim=True)), out=out)


class StaticEngine(NormalEngine):
    """An engine on a ``StaticNetwork``; ``_static`` is None where the machine has no GPU and another way is taken."""

    _static: StaticNetwork | None = None

    def __init__(self, views: int, size: int) -> None:
        super().__init__(views, size)
        self._busy = threading.Lock()
        self._on_device: dict[int, Tensor] = {}  # which view stands in each place, by their number

    def predict_on_device(self, images: np.ndarray | Tensor, cameras: Sequence[Camera]) -> tuple[Tensor, ...]:
        """As ``predict``, but maps stay on the device, and pictures may be there already: see ``StaticNetwork.run``.
        Nothing is fetched."""
        if self._static is None:
            raise RuntimeError(f"{self.describe()}: keeps nothing on a device")
        count = self._check(images, cameras)
        inputs = self._camera_inputs(cameras)
        if count < self.views:
            images = images[self._places(count) if isinstance(images, Tensor) else self._filled(count)]
        with self._busy, torch.inference_mode():
            return tuple(output[:count] for output in self._static.run(images, inputs))

    @property
    def device(self) -> torch.device | None:
        """Where maps and pictures may stay; None where the engine keeps nothing on a device."""
        return None if self._static is None else self._static.device

    @property
    def image_buffer(self) -> np.ndarray | None:
        """Where pictures may be made for the next ``predict``; see ``StaticNetwork.images``. None without a device."""
        return None if self._static is None else self._static.images

    def _prepare_cameras(self, K: np.ndarray, R: np.ndarray, t: np.ndarray) -> Any:
        if self._static is None:
            return super()._prepare_cameras(K, R, t)
        return self._rays.pinhole_inputs(K, R, t)

    def _places(self, count: int) -> Tensor:
        """As ``_filled``, where the maps are: an index from the host is waited for."""
        if count not in self._on_device:
            self._on_device[count] = torch.arange(self.views, device=self.device) % count
        return self._on_device[count]

    def milliseconds(self) -> dict[str, float]:
        """Where the last ``predict`` spent its time on the GPU; empty without one."""
        return {} if self._static is None else self._static.milliseconds()

    def _run(self, images: np.ndarray, cameras: PinholeInputs) -> NormalPrediction:
        assert self._static is not None
        with self._busy, torch.inference_mode():
            self._static.run(images, cameras)
            return NormalPrediction(*self._static.fetch())
