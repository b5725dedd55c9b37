"""Maps and pictures of a frame set that stay where the network made them.

They are what their base classes are: whoever asks for an array gets one, copied once. Who works on a device asks
``ResidentView.handed`` for the tensors instead, and copies nothing (``surface/kernels.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fusion_server.surface import View
from geometry.device import Handover, Lane, Laps
from models.engines import NormalPrediction
from protocol.calibration import Camera

_ODD = 0x9E3779B1  # a large odd number: whatever changes in four bytes changes their product with it


class ResidentPrediction(NormalPrediction):
    """See ``NormalPrediction``."""

    def __init__(self, handed: Handover) -> None:
        self.__dict__["_handed"] = handed  # the base is frozen

    @cached_property
    def normal(self) -> np.ndarray:  # type: ignore[override]
        """See ``NormalPrediction``."""
        return self.__dict__["_handed"].host("normal")

    @cached_property
    def confidence(self) -> np.ndarray:  # type: ignore[override]
        """See ``NormalPrediction``."""
        return self.__dict__["_handed"].host("confidence")

    @cached_property
    def mask(self) -> np.ndarray:  # type: ignore[override]
        """See ``NormalPrediction``."""
        return self.__dict__["_handed"].host("mask")


class ResidentView(View):
    """See ``View``. handed: of the whole set; index: which of its views this is."""

    def __init__(
        self, camera: Camera, image_camera: Camera, valid: np.ndarray | None, handed: Handover, index: int
    ) -> None:
        self.__dict__.update(camera=camera, image_camera=image_camera, valid=valid, handed=handed, index=index)

    handed: Handover
    index: int

    @cached_property
    def normal(self) -> np.ndarray:  # type: ignore[override]
        """See ``View``."""
        return self.handed.host("normal")[self.index]

    @cached_property
    def confidence(self) -> np.ndarray:  # type: ignore[override]
        """See ``View``."""
        return self.handed.host("confidence")[self.index]

    @cached_property
    def mask(self) -> np.ndarray:  # type: ignore[override]
        """See ``View``."""
        return self.handed.host("mask")[self.index]

    @cached_property
    def image(self) -> np.ndarray:  # type: ignore[override]
        """See ``View``."""
        return self.handed.host("fine")[self.index]

    @property
    def shape(self) -> tuple[int, int]:
        """See ``View``."""
        return self.camera.height, self.camera.width

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """See ``View``."""
        return self.image_camera.height, self.image_camera.width, 3

    @property
    def checksum(self) -> int:
        """See ``View``."""
        return int(self.handed.host("checksum")[self.index])


class ResidentSeen:
    """See ``sight.Seen``. handed: normal, confidence, mask, images, fine and checksum of all views."""

    def __init__(self, cameras: tuple[Camera, ...], handed: Handover, laps: Laps) -> None:
        self.cameras = cameras
        self.handed = handed
        self.prediction = ResidentPrediction(handed)
        self._laps = laps

    @property
    def images(self) -> np.ndarray:
        """See ``Seen``."""
        return self.handed.host("images")

    def views(self, image_cameras: Sequence[Camera], valid: Sequence[np.ndarray | None]) -> tuple[ResidentView, ...]:
        """See ``Seen``."""
        return tuple(
            ResidentView(camera, image_cameras[i], valid[i], self.handed, i) for i, camera in enumerate(self.cameras)
        )

    def seconds(self) -> dict[str, float]:
        """See ``Seen``."""
        return self._laps.seconds()


def checksums(pictures: Tensor) -> Tensor:
    """A number a picture (V, F, F, 3) uint8 that is another when a pixel is: for cameras that are stuck.  # V int64"""
    bytes_ = pictures.reshape(len(pictures), -1)
    words = functional.pad(bytes_, (0, -bytes_.shape[1] % 4)).view(
        torch.int32
    )  # of an odd side they do not come out even
    place = torch.arange(words.shape[1], dtype=torch.int32, device=pictures.device)
    return (words * (place * 2 * _signed(_ODD) + 1)).sum(1, dtype=torch.int64)


def _signed(number: int) -> int:
    """The int32 of the same bits."""
    return number - 2**32 if number >= 2**31 else number


def resident(views: Sequence[View], lane: Lane) -> list[ResidentView]:
    """The same views, maps and pictures (in colour) handed over by a lane; both must be of one size in all views."""
    stacked = {name: np.stack([getattr(view, name) for view in views]) for name in ("normal", "confidence", "mask")}
    stacked["fine"] = np.stack([view.image for view in views])
    stacked["checksum"] = np.array([view.checksum for view in views])
    handed = Handover(lane, **{name: torch.from_numpy(maps).to(lane.device) for name, maps in stacked.items()})
    return [ResidentView(view.camera, view.image_camera, view.valid, handed, n) for n, view in enumerate(views)]
