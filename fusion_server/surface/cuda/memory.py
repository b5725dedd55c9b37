"""Named arrays side by side in one piece of memory, on a device and on the host, so that one copy moves them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_ALIGNED = 256  # bytes, of each array's place

Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class Packed:
    """Arrays of fixed shape and type, in the order they are named in. ``packed["name"]`` is the tensor on the device,
    ``packed.host["name"]`` the array on the host, in memory that a GPU copies from and to by itself."""

    def __init__(self, spec: Spec, device: torch.device):
        starts, size = {}, 0
        for name, (shape, kind) in spec.items():
            starts[name] = size
            size += -(-int(np.prod(shape)) * kind.itemsize // _ALIGNED) * _ALIGNED
        self._starts, self._size = starts, size
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._there = dict(self._views(spec, self._device))
        self.host: dict[str, np.ndarray] = {name: view.numpy() for name, view in self._views(spec, self._host)}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._there[name]

    def up(self, before: str | None = None) -> None:
        """Copy to the device: all of it, or what lies before an array."""
        size = self._size if before is None else self._starts[before]
        self._device[:size].copy_(self._host[:size], non_blocking=True)

    def down(self) -> None:
        """Copy all of it from the device; it is there once the stream was waited for."""
        self._host.copy_(self._device, non_blocking=True)

    def _views(self, spec: Spec, memory: torch.Tensor) -> Iterator[tuple[str, Any]]:
        for name, (shape, kind) in spec.items():
            size = int(np.prod(shape)) * kind.itemsize
            yield name, memory[self._starts[name] : self._starts[name] + size].view(kind).view(shape)
