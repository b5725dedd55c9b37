"""The reference engine: the network as PyTorch runs it, on a GPU where there is one, else on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.engines.base import NormalEngine, NormalPrediction, check_precision
from models.rays import CameraInputs
from models.weights import load_network, weights_digest, weights_path


class TorchEngine(NormalEngine):
    """PyTorch on CUDA or the CPU; ``bf16`` is mixed precision, ``f32`` is exact."""

    name = "torch"

    def __init__(
        self, weights: str | Path | None, views: int, size: int, precision: str = "bf16", threads: int = 0
    ) -> None:
        super().__init__(views, size)
        path = weights_path(weights)
        self.precision = check_precision(precision)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if threads > 0:
            torch.set_num_threads(threads)
        self._network = load_network(path).to(self._device, memory_format=torch.channels_last)
        self._weights = f"{path.name} {weights_digest(path)[:8]}"

    def describe(self) -> str:
        """One line for the log."""
        where = (
            torch.cuda.get_device_name() if self._device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
        )
        return f"torch {torch.__version__} on {where}, {self.precision}, {self.views} x {self.size} px, {self._weights}"

    @torch.inference_mode()
    def _run(self, images: np.ndarray, cameras: CameraInputs) -> NormalPrediction:
        inputs = [torch.from_numpy(np.ascontiguousarray(a))[None].to(self._device) for a in (images, *cameras)]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self._network.infer(*inputs)
        return NormalPrediction(*(value[0].float().cpu().numpy() for value in output[:3]))
