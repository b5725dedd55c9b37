"""The sight on a device: pictures go there as they were decoded, and nothing comes back until somebody asks.

    decoder's threads      JPEG -> pinned memory of this set's turn
    upload lane            pinned memory -> device, while the last set's network runs
    normals lane           undistort + cut + resize in one kernel, network, hand-over in a buffer of its own

The host waits in one place: before a set's kernels are put behind the last one's, until that set was handed over. So
one set computes while one is uploaded, and nothing queues. On the CPU ("cpu") the same code runs, with the kernels
emulated, for tests; **it has not been executed on a GPU** (docs/gpu-log.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_server.framing import Window
from fusion_server.sight.resident import ResidentSeen, checksums
from fusion_server.surface.photometric import fine_size
from geometry.cameras import without_distortion
from geometry.device import Handover, Lane, Laps, Library, Mark
from geometry.resample import Taps, area_taps, lens_table, window_taps
from models.engines.static import StaticEngine
from protocol.calibration import Calibration, Camera

_TURNS = 2  # of the buffers: one set is uploaded or computed on while the next is decoded


@dataclass
class _Turn:
    """Buffers of one set: where pictures are decoded, pinned, and where they are copied to."""

    host: dict[str, Tensor]  # H,W,3 uint8 by camera
    device: dict[str, Tensor]
    free: Mark | None = None  # once this is reached, nobody reads them


class Staging:
    """Pinned pictures that a decoder writes and a device reads, in turns."""

    def __init__(self, cameras: Mapping[str, Camera], device: torch.device) -> None:
        pin = device.type == "cuda"
        shapes = {name: (camera.height, camera.width, 3) for name, camera in cameras.items()}
        self._turns = [
            _Turn(
                {name: torch.empty(shape, dtype=torch.uint8, pin_memory=pin) for name, shape in shapes.items()},
                {name: torch.empty(shape, dtype=torch.uint8, device=device) for name, shape in shapes.items()},
            )
            for _ in range(_TURNS)
        ]

    @property
    def turn(self) -> _Turn:
        """The buffers of the set in hand."""
        return self._turns[0]

    def room(self) -> dict[str, np.ndarray]:
        """Begin a set: arrays (H, W, 3) by camera to decode into. Waits until nobody reads what is in them."""
        self._turns.append(self._turns.pop(0))
        if self.turn.free is not None:
            self.turn.free.wait()
        return {name: buffer.numpy() for name, buffer in self.turn.host.items()}


class Weights:
    """Which pixels windows average, as the kernel reads it; of a window that moves it is made anew."""

    def __init__(self, cameras: Mapping[str, Camera], fine: int) -> None:
        """cameras: without distortion, by name; fine: the side of a window's picture, F."""
        self._cameras, self._fine = cameras, fine
        self._axes: dict[str, tuple[Window, tuple[Taps, Taps]]] = {}  # of each camera's last window

    def of(self, windows: Mapping[str, Window]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sizes (V, 2) and starts (V * 2, F) int32 and weights (V * 2, F, T) float32, columns before rows."""
        axes: list[Taps] = []
        for name, window in windows.items():
            held = self._axes.get(name)
            if held is None or held[0] != window:
                width, height = self._cameras[name].width, self._cameras[name].height
                held = window, window_taps(window.x0, window.y0, window.side, self._fine, width, height)
                self._axes[name] = held
            axes += held[1]
        weights = np.zeros((len(axes), self._fine, max(axis.weight.shape[1] for axis in axes)), np.float32)
        for n, axis in enumerate(axes):
            weights[n, :, : axis.weight.shape[1]] = axis.weight
        sizes = np.array([(self._cameras[name].width, self._cameras[name].height) for name in windows], np.int32)
        return sizes, np.stack([axis.start for axis in axes]), weights


@dataclass
class _Taken:
    pictures: dict[str, Tensor]  # H,W,3 uint8 on the device
    there: Mark
    laps: Laps
    turn: _Turn | None  # whose buffers they are


class DeviceSight:
    """See ``sight.Sight``: for an engine that keeps fixed buffers on its device."""

    def __init__(self, calibration: Calibration, engine: StaticEngine, fine: int = 0) -> None:
        """fine: as for ``HostSight``. Raises HeadstreamError when the kernels cannot be compiled."""
        assert engine.device is not None
        device = engine.device
        cameras = {camera.name: camera for camera in calibration.cameras}
        self._pinhole = {name: without_distortion(camera) for name, camera in cameras.items()}
        self._engine = engine
        self.size, self.fine = engine.size, fine or fine_size(engine.size)
        self._kernels = Library(Path(__file__).with_name("cut.cu"), device)
        self.name = "kernels emulated on the CPU" if self._kernels.emulated else f"kernels on {device}"
        self._raw = cameras
        self._lane = Lane(device)
        self.upload = Lane(device)  # what pictures come by
        self._lenses = {name: self._lens(camera) for name, camera in cameras.items()}
        self._shrink = self._resident(area_taps(self.fine, self.size))
        self._weights = Weights(self._pinhole, self.fine)
        self._windows: tuple[Any, ...] = ()  # whose weights are on the device
        self._on_device: tuple[Tensor, ...] = ()
        self._handed: Mark | None = None  # the last set

    @property
    def device(self) -> torch.device:
        """Where everything stays."""
        return self._kernels.device

    @cached_property
    def staging(self) -> Staging:
        """Where pictures that come from the host wait; a decoder on the device needs none."""
        return Staging(self._raw, self.device)

    def room(self) -> dict[str, np.ndarray]:
        """See ``Staging.room``."""
        return self.staging.room()

    def take(self, images: Mapping[str, np.ndarray | Tensor]) -> _Taken:
        """Start the copies of a set's pictures. Those that were decoded into ``staging`` are not copied on the host;
        those that are on the device already not at all."""
        laps, turn = Laps(), None
        begin = self.upload.mark()
        pictures: dict[str, Tensor] = {}
        with self.upload.entered():
            for name, image in images.items():
                if isinstance(image, Tensor):
                    pictures[name] = image
                    continue
                turn = self.staging.turn
                host = turn.host[name]
                if image.__array_interface__["data"][0] != host.data_ptr():
                    if turn.free is not None:
                        turn.free.wait()
                    np.copyto(host.numpy(), image)
                pictures[name] = turn.device[name]
                pictures[name].copy_(host, non_blocking=True)
        there = self.upload.mark()
        laps.add("upload", begin, there)
        return _Taken(pictures, there, laps, turn)

    @torch.inference_mode()
    def look(self, taken: _Taken, windows: Mapping[str, Window]) -> ResidentSeen:
        """See ``Sight``."""
        if self._handed is not None:
            self._handed.wait()
        lane = self._lane
        lane.follow(taken.there)
        cameras = tuple(window.camera(self._pinhole[name], self.size) for name, window in windows.items())
        begin = lane.mark()
        with lane.entered():
            fine, images = self._cut(taken.pictures, windows)
            cut = lane.mark()
            normal, confidence, mask = self._engine.predict_on_device(images, cameras)
            predicted = lane.mark()
            parts = {"normal": normal, "confidence": confidence, "mask": mask, "images": images, "fine": fine}
            handed = Handover(lane, **parts, checksum=checksums(fine))
        self._handed = handed.ready
        if taken.turn is not None:
            taken.turn.free = handed.ready
        if lane.on_gpu:
            for picture in taken.pictures.values():  # memory of another lane, which must not have it back before this
                picture.record_stream(lane.stream)
        for stage, a, b in (("cut", begin, cut), ("normals", cut, predicted), ("hand_over", predicted, handed.ready)):
            taken.laps.add(stage, a, b)
        return ResidentSeen(cameras, handed, taken.laps)

    def _cut(self, pictures: Mapping[str, Tensor], windows: Mapping[str, Window]) -> tuple[Tensor, Tensor]:
        """Windows at the size of photometry and at the network's.  # V,F,F,3; V,S,S,3"""
        lib, count = self._kernels, len(windows)
        sizes, starts, weights = self._taps(windows)
        addresses = []
        for name in windows:
            lens = self._lenses[name]
            addresses.append([pictures[name].data_ptr(), *((t.data_ptr() for t in lens) if lens else (0, 0))])
        fine = lib.empty((count, self.fine, self.fine, 3), torch.uint8)
        lib(
            "cut_windows", self._small(np.array(addresses, np.int64)), sizes, starts, weights, count, self.fine,
            weights.shape[-1], fine,
        )  # fmt: skip
        images = lib.empty((count, self.size, self.size, 3), torch.uint8)
        start, weight = self._shrink
        lib("shrink_windows", fine, start, weight, count, self.fine, self.size, weight.shape[-1], images)
        return fine, images

    def _taps(self, windows: Mapping[str, Window]) -> tuple[Tensor, ...]:
        """``Weights`` of these windows on the device; copied there when one of them moves."""
        key = tuple(windows.items())
        if key != self._windows:
            self._on_device = tuple(self._small(array) for array in self._weights.of(windows))
            self._windows = key
        return self._on_device

    def _small(self, array: np.ndarray) -> Tensor:
        """Some kilobytes on the device, in this lane. Pinned first: else the host would wait for all before it."""
        host = torch.from_numpy(np.ascontiguousarray(array))
        return host.to(self.device) if not self._lane.on_gpu else host.pin_memory().to(self.device, non_blocking=True)

    def _resident(self, taps: Taps) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(taps.start).to(self.device), torch.from_numpy(taps.weight).to(self.device)

    def _lens(self, camera: Camera) -> tuple[Tensor, Tensor] | None:
        """The lens table on the device; six bytes a pixel, copied once."""
        table = lens_table(camera)
        return None if table is None else tuple(torch.from_numpy(part).to(self.device) for part in table)
