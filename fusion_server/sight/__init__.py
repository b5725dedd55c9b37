"""What the network is shown of a frame set, and what it makes of it: undistort, cut to the windows, resize, predict.

Two ways that do the same: ``HostSight`` with OpenCV, for any engine; ``DeviceSight`` (``sight.device``) on the device
of an engine that keeps fixed buffers there, where maps and pictures stay until somebody on the host asks for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from fusion_server.framing import Window
from fusion_server.surface import View
from fusion_server.surface.photometric import fine_size
from geometry.cameras import undistort, without_distortion
from models.engines import NormalEngine, NormalPrediction
from protocol.calibration import Calibration, Camera


class Seen(Protocol):
    """One look at all views. Where things are on a device they are copied to the host when they are asked for."""

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """Of the windows, at the network's size."""
        ...

    @property
    def images(self) -> np.ndarray:
        """What the network saw.  # V,S,S,3 uint8"""
        ...

    @property
    def prediction(self) -> NormalPrediction:
        """What it said."""
        ...

    def views(self, image_cameras: Sequence[Camera], valid: Sequence[np.ndarray | None]) -> tuple[View, ...]:
        """For the surface, with the cameras of the finer pictures and which pixels lie in the picture."""
        ...

    def seconds(self) -> dict[str, float]:
        """Where the time went, by stage, since the pictures were taken in. On a device it is the device's own time,
        and known once the result has been used."""
        ...


class Sight(Protocol):
    """Makes ``Seen`` of decoded pictures. For one thread."""

    name: str
    size: int  # of what the network sees, pixels
    fine: int  # of the pictures for photometry

    @property
    def room(self) -> Callable[[], Mapping[str, np.ndarray]] | None:
        """Begins a set and gives arrays by camera to decode it into; None where any array will do."""
        ...

    def take(self, images: Mapping[str, Any]) -> Any:
        """Take in a set's pictures by camera, (H, W, 3) uint8 RGB as they were decoded; for ``look``."""
        ...

    def look(self, taken: Any, windows: Mapping[str, Window]) -> Seen:
        """Cut these windows and predict."""
        ...


@dataclass(frozen=True, eq=False)
class HostSeen:
    """See ``Seen``: everything is in the host's memory."""

    cameras: tuple[Camera, ...]
    images: np.ndarray  # V,S,S,3 uint8
    fine: list[np.ndarray]  # F,F,3 uint8
    prediction: NormalPrediction
    times: dict[str, float]

    def views(self, image_cameras: Sequence[Camera], valid: Sequence[np.ndarray | None]) -> tuple[View, ...]:
        """See ``Seen``."""
        maps = self.prediction
        return tuple(
            View(camera, maps.normal[i], maps.confidence[i], maps.mask[i], self.fine[i], image_cameras[i], valid[i])
            for i, camera in enumerate(self.cameras)
        )

    def seconds(self) -> dict[str, float]:
        """See ``Seen``."""
        return self.times


@dataclass(frozen=True, eq=False)
class _Flat:
    pictures: dict[str, np.ndarray]  # undistorted
    began: float
    taken: float  # seconds of the performance counter


class HostSight:
    """OpenCV on the host; the engine is handed arrays and hands back arrays."""

    name = "OpenCV"
    room = None

    def __init__(self, calibration: Calibration, engine: NormalEngine, fine: int = 0) -> None:
        """fine: the side of the pictures for photometry; by default what is usual."""
        self._raw = {camera.name: camera for camera in calibration.cameras}
        self._pinhole = {camera.name: without_distortion(camera) for camera in calibration.cameras}
        self._engine = engine
        self.size, self.fine = engine.size, fine or fine_size(engine.size)

    def take(self, images: Mapping[str, np.ndarray]) -> _Flat:
        """Undistort."""
        began = time.perf_counter()
        flat = {name: undistort(self._raw[name], image) for name, image in images.items()}
        return _Flat(flat, began, time.perf_counter())

    def look(self, taken: _Flat, windows: Mapping[str, Window]) -> HostSeen:
        """See ``Sight``."""
        size = self.size
        fine = [window.picture(taken.pictures[name], self.fine) for name, window in windows.items()]
        images = np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in fine])
        cameras = tuple(window.camera(self._pinhole[name], size) for name, window in windows.items())
        prediction = self._engine.predict(images, cameras)
        times = {"undistort": taken.taken - taken.began, "normals": time.perf_counter() - taken.taken}
        return HostSeen(cameras, images, fine, prediction, times)
