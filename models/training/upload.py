"""From the host to the device that trains, without the host waiting for what the device still has to do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pinned(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor that ``device`` copies from by itself, where it is a GPU; else the array's own memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory() if device.type == "cuda" else tensor


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on ``device``; on the CPU the array's own memory. Later work on torch's current stream sees it."""
    return pinned(array, device).to(device, non_blocking=True)
