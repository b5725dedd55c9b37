"""What a normal engine is: pictures and cameras of one moment in, maps out. Every engine passes the same tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.rays import STRIDE, CameraInputs, PinholeInputs, RaysByCamera, stack_cameras
from protocol.calibration import Camera
from protocol.errors import HeadstreamError

PRECISIONS = ("f16", "bf16", "f32")
MOST_VIEWS = 32  # of one moment; the network itself knows no limit (docs/model.md says what more than it was taught do)
_REMEMBERED_RIGS = 8


class EngineUnavailable(HeadstreamError):
    """This machine cannot run that engine, whatever it is given; another may take its place where the rig allows it."""


@dataclass(frozen=True, eq=False)
class NormalPrediction:
    """Maps of V views of S x S pixels, float32. The arrays are the caller's to keep."""

    normal: np.ndarray  # V,S,S,3 unit, camera frame, facing the camera means z < 0
    confidence: np.ndarray  # V,S,S kappa of an angular von Mises-Fisher distribution, above 0
    mask: np.ndarray  # V,S,S probability of the subject


class NormalEngine(ABC):
    """The network on one kind of hardware, ready for up to ``views`` pictures of ``size`` x ``size`` pixels."""

    name: str
    location: Path | None = None  # where what was built for this shape is kept; None where nothing is

    def __init__(self, views: int, size: int) -> None:
        self.check_shape(views, size)
        self.views, self.size = views, size
        self._rigs: OrderedDict[bytes, Any] = OrderedDict()
        self._rays = RaysByCamera(size, size, 2 * views)

    @staticmethod
    def check_shape(views: int, size: int) -> None:
        """Raises HeadstreamError when no engine can be made for so many views or such pictures."""
        if not 1 <= views <= MOST_VIEWS:
            raise HeadstreamError(f"normals: {views} views; an engine takes 1 to {MOST_VIEWS}")
        if size <= 0 or size % STRIDE:
            raise HeadstreamError(f"normals.size: {size}; must be a multiple of {STRIDE}")

    @abstractmethod
    def describe(self) -> str:
        """One line for the log: engine, device, precision really used, shape, weights."""

    @abstractmethod
    def _run(self, images: np.ndarray, cameras: Any) -> NormalPrediction:
        """Predict exactly ``views`` pictures (V, S, S, 3) uint8; cameras: what ``_prepare_cameras`` gives."""

    def predict(self, images: np.ndarray, cameras: Sequence[Camera]) -> NormalPrediction:
        """Normals, confidence and mask of one moment.

        images: (V, S, S, 3) uint8 RGB, 1 to ``views`` of them; cameras: the pinhole camera of each, of S x S pixels.
        Fewer views than the engine was made for are filled up by repeating them, which costs the full time. Raises
        ValueError when shapes do not fit.
        """
        images = np.asarray(images)
        count = self._check(images, cameras)
        inputs = self._camera_inputs(cameras)
        if count == self.views:
            return self._run(images, inputs)
        whole = self._run(images[self._filled(count)], inputs)
        return NormalPrediction(whole.normal[:count], whole.confidence[:count], whole.mask[:count])

    def _check(self, images: Any, cameras: Sequence[Camera]) -> int:
        """How many pictures, of an array or a tensor. Raises ValueError when shapes do not fit."""
        count = len(images)
        kind = str(images.dtype).removeprefix("torch.")
        if kind != "uint8" or tuple(images.shape) != (count, self.size, self.size, 3):
            raise ValueError(f"pictures are {kind} {tuple(images.shape)}; must be uint8 V,{self.size},{self.size},3")
        if not 1 <= count <= self.views or len(cameras) != count:
            raise ValueError(
                f"{count} pictures and {len(cameras)} cameras; this engine takes 1 to {self.views} of both"
            )
        return count

    def _prepare_cameras(self, K: np.ndarray, R: np.ndarray, t: np.ndarray) -> CameraInputs | PinholeInputs:
        """What ``_run`` is given of the cameras; every array has a row a view."""
        return self._rays.camera_inputs(K, R, t)

    def _filled(self, count: int) -> np.ndarray:
        """Which of ``count`` views stands in each place: those that are missing are stood in for."""
        return np.arange(self.views) % count

    def _camera_inputs(self, cameras: Sequence[Camera]) -> Any:
        """The cameras' part of the input for ``views`` views, kept for rigs seen before: cameras rarely move between
        frames."""
        K, R, t = stack_cameras(cameras)
        key = K.tobytes() + R.tobytes() + t.tobytes()
        if key not in self._rigs:
            inputs = self._prepare_cameras(K, R, t)
            if len(cameras) < self.views:
                inputs = type(inputs)(*(array[self._filled(len(cameras))] for array in inputs))
            self._rigs[key] = inputs
            if len(self._rigs) > _REMEMBERED_RIGS:
                self._rigs.popitem(last=False)
        self._rigs.move_to_end(key)
        return self._rigs[key]


def check_precision(precision: str, known: Sequence[str] = PRECISIONS) -> str:
    """The precision itself. Raises HeadstreamError when the engine, which knows those, has no such."""
    if precision not in known:
        raise HeadstreamError(f"normals.precision: {precision!r}; must be one of {', '.join(known)}")
    return precision
