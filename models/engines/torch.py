"""The reference engine: the network as PyTorch runs it, on a GPU where there is one, else on the CPU.

On a GPU the network's own types are those of the precision, its layout is channels-last, and one CUDA graph a shape is
replayed (``static``). On the CPU it is mixed precision by autocast, set by set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.engines.base import NormalPrediction, check_precision
from models.engines.static import StaticEngine, StaticNetwork, engine_device
from models.export import TYPES, Inference, example_inputs
from models.weights import load_network, weights_digest, weights_path


class TorchEngine(StaticEngine):
    """PyTorch on CUDA or the CPU; ``bf16`` and ``f16`` are mixed precision, ``f32`` is exact.

    device: "cuda", "cuda:1" or "cpu"; empty: CUDA where torch sees a GPU. static: run on fixed buffers, as CUDA always
    does. graph: replay a CUDA graph there. Raises EngineUnavailable for a GPU that is not here.
    """

    name = "torch"

    def __init__(
        self,
        weights: str | Path | None,
        views: int,
        size: int,
        precision: str = "bf16",
        threads: int = 0,
        *,
        device: str = "",
        static: bool = False,
        graph: bool = True,
    ) -> None:
        super().__init__(views, size)
        path = weights_path(weights)
        self.precision = check_precision(precision, tuple(TYPES))
        self._device = engine_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if threads > 0:
            torch.set_num_threads(threads)
        self._network = load_network(path)
        if static or self._device.type == "cuda":
            self._inference = Inference(self._network, self.precision).eval()
            self._inference.to(self._device, memory_format=torch.channels_last)
            with torch.inference_mode():
                inputs = [tensor.to(self._device) for tensor in example_inputs(views, size)]
                self._static = StaticNetwork(self._step, inputs, graph)
        else:
            self._network.to(memory_format=torch.channels_last)
        self._weights = f"{path.name} {weights_digest(path)[:8]}"

    def describe(self) -> str:
        """One line for the log."""
        where = (
            f"{torch.cuda.get_device_name(self._device)} ({self._device})"
            if self._device.type == "cuda"
            else f"{torch.get_num_threads()} CPU threads"
        )
        graph = ", CUDA graph" if self._static is not None and self._static.captured else ""
        how = f"{self.precision}{graph}, {self.views} x {self.size} px"
        return f"torch {torch.__version__} on {where}, {how}, {self._weights}"

    def _step(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Algorithms are chosen by trying them, once, as shapes never change; without TF32 f32 is what it says.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
            return self._inference(*inputs)

    @torch.inference_mode()
    def _run(self, images: np.ndarray, cameras: Any) -> NormalPrediction:
        if self._static is not None:
            return super()._run(images, cameras)
        inputs = [torch.from_numpy(np.ascontiguousarray(a))[None] for a in (images, *cameras)]
        with torch.autocast("cpu", TYPES[self.precision], enabled=self.precision != "f32"):
            output = self._network.infer(*inputs)
        return NormalPrediction(*(value[0].float().numpy() for value in output[:3]))
