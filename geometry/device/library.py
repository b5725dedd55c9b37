"""Calls compiled kernels on torch tensors.

All libraries of a device share one stream of their own, so that what one leaves there the next may use, and so that a
network may run beside them: torch's default stream would make each wait for the other. ``Library.stream`` is to be
entered around whatever is done on the device, torch's own operations too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from geometry.device.build import build
from protocol.errors import HeadstreamError


def compute_device(name: str) -> torch.device:
    """A CUDA device by name ("cuda", "cuda:1"), or "cpu" for the emulation. Raises HeadstreamError where it is not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise HeadstreamError(f"device {name!r}: must be 'cuda', 'cuda:<number>' or 'cpu'") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise HeadstreamError(f"device {name!r}: must be 'cuda', 'cuda:<number>' or 'cpu'")
    if not torch.cuda.is_available():
        raise HeadstreamError(f"device {name!r}: torch {torch.__version__} sees no CUDA GPU here")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise HeadstreamError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA GPUs, from cuda:0")
    return torch.device("cuda", index)


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class Library:
    """The kernels of one source on one device: a GPU, or ("cpu") their emulation."""

    def __init__(self, source: Path, device: torch.device):
        """Compile what is not in the cache. Raises HeadstreamError."""
        self.device = device
        self.emulated = device.type == "cpu"
        architecture = ""
        if not self.emulated:
            architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
        path = build(source, architecture)
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise HeadstreamError(f"{path} cannot be loaded ({error}); delete it to have it compiled again") from None
        self._library.what_failed.restype = ctypes.c_char_p

    def __call__(self, function: str, *arguments: torch.Tensor | int | float, when: torch.Tensor | None = None) -> None:
        """Call an exported function on the current stream. Tensors must be contiguous and on this device.

        when: an int32 there; where it is 0 once the call's turn comes, its launches do nothing. Raises HeadstreamError
        when a launch fails (errors of a kernel itself show in a later call, as always with CUDA). While torch captures
        a CUDA graph on its current stream, launches go into that graph: nothing here waits, allocates or copies.
        """
        stream = ctypes.c_void_p(None)
        if not self.emulated:
            self._checked("use_device", self._library.use_device(ctypes.c_int64(self.device.index)))
            stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        passed = [self._passed(function, argument) for argument in arguments]
        self._library.gated(None if when is None else self._passed(function, when))
        self._checked(function, getattr(self._library, function)(*passed, stream))

    def stream(self) -> AbstractContextManager:
        """Within it, torch and kernels work on this device's stream."""
        return nullcontext() if self.emulated else torch.cuda.stream(_stream(self.device))

    @property
    def own_stream(self) -> torch.cuda.Stream | None:
        """That stream; the emulation has none."""
        return None if self.emulated else _stream(self.device)

    @property
    def launched(self) -> tuple[int, int]:
        """Launches so far; and, of the emulation, how many of them no flag kept from working (0 on a GPU)."""
        counts = (ctypes.c_int64 * 2)()
        self._library.launches_so_far(counts)
        return counts[0], counts[1]

    def emulate_order(self, order: int) -> None:
        """Of the emulation: 0 one after the other, 1 from the last one, 2 four at once. No result may depend on it."""
        assert self.emulated
        self._library.emulate_order(ctypes.c_int64(order))

    def up(self, array: np.ndarray, kind: Any = None) -> torch.Tensor:
        """An array on the device, contiguous, of a numpy dtype; the emulation shares memory where it can."""
        return torch.from_numpy(np.ascontiguousarray(array, dtype=kind)).to(self.device)

    def empty(self, shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        """A tensor on the device."""
        return torch.empty(shape, dtype=kind, device=self.device)

    def zeros(self, shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        """A tensor of zeros on the device."""
        return torch.zeros(shape, dtype=kind, device=self.device)

    def _passed(self, function: str, argument: torch.Tensor | int | float) -> Any:
        if isinstance(argument, torch.Tensor):
            assert argument.device == self.device, (function, argument.device, self.device)
            assert argument.is_contiguous(), function
            return ctypes.c_void_p(argument.data_ptr())
        return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(int(argument))

    def _checked(self, function: str, code: int) -> None:
        if code:
            said = self._library.what_failed(ctypes.c_int64(code)).decode()
            raise HeadstreamError(f"{self.device}: {function} failed: {said}")


class Resident:
    """Device tensors that belong to an object, kept as long as the object lives."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def of(self, owner: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` made for this owner the first time."""
        held = self._held.get(owner)
        if held is None:
            held = self._held[owner] = make()
        return held
