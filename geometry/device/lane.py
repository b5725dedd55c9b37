"""Work on a device in order, without the host waiting: lanes, marks in them, and what one lane hands to another.

A lane is a CUDA stream that one thread fills; a mark is a CUDA event. On the CPU work is done when it is asked for, so
a lane has nothing to say and a mark is the time. Nothing here waits for a whole device.
**What stands behind ``on_gpu`` has never been executed** (docs/gpu-log.md); the rest of each path runs on the CPU.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ALIGN = 256  # bytes; what a kernel reads at a time never straddles two parts of one buffer


class Mark:
    """A point in a lane: reached once everything that was put there before is done."""

    def __init__(self, lane: Lane) -> None:
        self._at = time.perf_counter()
        self._event: Any = None
        if lane.on_gpu:
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(lane.stream)

    def wait(self) -> None:
        """The calling thread waits until it is reached. The GPU, and every other thread, works on."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: Mark) -> float:
        """Seconds between two marks of one device that are both reached, by the device's clock."""
        if self._event is None:
            return self._at - earlier._at
        return 1e-3 * earlier._event.elapsed_time(self._event)

    def hold(self, stream: Any) -> None:
        """What is put into a CUDA stream from now on waits for this mark, on the device."""
        if self._event is not None:
            stream.wait_event(self._event)


class Lane:
    """An order of work on a device. ``stream``: one that is there already; else the lane has its own."""

    def __init__(self, device: torch.device, stream: Any = None) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.stream = (stream or torch.cuda.Stream(device)) if self.on_gpu else None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within it, torch and kernels of this device work in this lane."""
        if not self.on_gpu:
            yield
            return
        with torch.cuda.stream(self.stream):  # which also makes its device the current one
            yield

    def mark(self) -> Mark:
        """A mark behind what is in the lane now."""
        return Mark(self)

    def follow(self, mark: Mark) -> None:
        """What comes next in this lane waits for a mark of any lane, on the device."""
        mark.hold(self.stream)


class Laps:
    """Where the time of a lane goes, by stage. Kept as marks, and read when the work is over."""

    def __init__(self) -> None:
        self._spans: list[tuple[str, Mark, Mark]] = []

    def add(self, stage: str, begin: Mark, end: Mark) -> None:
        """What lies between two marks belongs to ``stage``; several spans of one stage are summed."""
        self._spans.append((stage, begin, end))

    def seconds(self) -> dict[str, float]:
        """Seconds a stage. Waits for the last mark, which whoever read a result has waited for already."""
        found: dict[str, float] = {}
        for stage, begin, end in self._spans:
            end.wait()
            found[stage] = found.get(stage, 0.0) + end.since(begin)
        return found


@lru_cache
def _between(device: torch.device) -> Lane:
    """The lane of a device's copies to other places: a set's copy must not wait behind the next set's network."""
    return Lane(device)


class Handover:
    """Named tensors that a lane made, in one buffer of their own: the maker's next result may overwrite what they were.

    ``on`` gives them to a lane: where they are if it is of the same device, else by one asynchronous copy of the buffer
    for all who ask. ``host`` gives one as an array, copied once, when somebody asks. For any thread.
    """

    def __init__(self, lane: Lane, **parts: Tensor) -> None:
        offsets, size = {}, 0
        for name, part in parts.items():
            offsets[name] = size
            size += -(-part.nbytes // _ALIGN) * _ALIGN
        self._layout = {name: (offsets[name], part.shape, part.dtype) for name, part in parts.items()}
        with lane.entered():
            self._buffer = torch.empty(size, dtype=torch.uint8, device=lane.device)
            for name, there in self._views(self._buffer).items():
                there.copy_(parts[name], non_blocking=True)
        self.ready = lane.mark()
        self._elsewhere: dict[torch.device, tuple[Tensor, Mark]] = {lane.device: (self._buffer, self.ready)}
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        """Where they were made."""
        return self._buffer.device

    def on(self, lane: Lane) -> dict[str, Tensor]:
        """The tensors on a lane's device; what is put into the lane from now on sees them. Waits for nothing."""
        with self._lock:
            if lane.device not in self._elsewhere:
                self._elsewhere[lane.device] = self._copied(lane.device)
            buffer, ready = self._elsewhere[lane.device]
        lane.follow(ready)
        if lane.on_gpu:
            buffer.record_stream(lane.stream)  # let go of, it is not used again before this lane has read it
        return self._views(buffer)

    def host(self, name: str) -> np.ndarray:
        """One of them as an array that nobody writes to. The first call copies it and waits for that copy alone."""
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = self._fetched(self._views(self._buffer)[name])
            return self._arrays[name]

    def _views(self, buffer: Tensor) -> dict[str, Tensor]:
        return {
            name: buffer[at : at + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for name, (at, shape, dtype) in self._layout.items()
        }

    def _copied(self, device: torch.device) -> tuple[Tensor, Mark]:
        """Torch orders a copy between GPUs by the current streams of both, so both are lanes for nothing but copies."""
        source, target = _between(self.device), _between(device)
        source.follow(self.ready)
        with target.entered(), source.entered():
            copy = self._buffer.to(device, non_blocking=True)
        if source.on_gpu:
            self._buffer.record_stream(source.stream)
        return copy, target.mark()

    def _fetched(self, there: Tensor) -> np.ndarray:
        lane = _between(self.device)
        if not lane.on_gpu:
            return there.cpu().numpy()
        lane.follow(self.ready)
        with lane.entered():
            array = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
            array.copy_(there, non_blocking=True)
            self._buffer.record_stream(lane.stream)
        lane.mark().wait()
        return array.numpy()
