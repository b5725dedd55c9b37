"""The CUDA rasteriser: every view in one launch, without a licence to ask for.

It draws what ``geometry.rasterize.cpu`` draws, by the same rules in the same arithmetic: faces differ only where two
meet at a pixel's centre or are less than 4e-9 of their 1/z apart (``rasterize.cu``), and there either is right.
Contract tests run the kernels' bodies in an emulation on the CPU; **they have not been executed on a GPU yet**.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from geometry.cameras import projection_matrix
from geometry.device import Library, compute_device
from geometry.rasterize.base import NEAR, Raster, one_size
from protocol.calibration import Camera
from protocol.errors import HeadstreamError

_MOST_FACES = 1 << 24
_MOST_JOBS = 1 << 31  # faces of all views: their numbers are int32


class DeviceRaster(Raster):
    """A raster that stays on its device until somebody asks for an array of it. tensors: face, bary, depth there."""

    def __init__(self, library: Library, face: torch.Tensor, bary: torch.Tensor, depth: torch.Tensor):
        self.__dict__.update(_library=library, tensors=(face, bary, depth))  # the base is frozen

    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    _library: Library

    @cached_property
    def face(self) -> np.ndarray:  # type: ignore[override]
        """See ``Raster``."""
        return self._out(0)

    @cached_property
    def bary(self) -> np.ndarray:  # type: ignore[override]
        """See ``Raster``."""
        return self._out(1)

    @cached_property
    def depth(self) -> np.ndarray:  # type: ignore[override]
        """See ``Raster``."""
        return self._out(2)

    def _out(self, which: int) -> np.ndarray:
        with self._library.stream():
            return self.tensors[which].cpu().numpy()

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """See ``Raster``.  # V,H,W,C float32"""
        lib, (face, bary, _) = self._library, self.tensors
        with lib.stream():
            out = lib.empty((*face.shape, values.shape[1]), torch.float32)
            corners, attributes = lib.up(faces, np.int32), lib.up(values, np.float32)
            lib("interpolate", corners, face, bary, attributes, face.numel(), values.shape[1], out)
            return out.cpu().numpy()


class CudaRasterizer:
    """Rasterises on a CUDA device; compiled once and cached on disk."""

    def __init__(self, device: str = "cuda"):
        """device: "cuda", "cuda:1", or "cpu" for the emulation. Raises HeadstreamError where it is not to be had."""
        self._device = device
        self._library = Library(Path(__file__).with_name("rasterize.cu"), compute_device(device))
        self.name = "cuda emulated on the CPU" if self._library.emulated else "cuda"

    @property
    def library(self) -> Library:
        """Its kernels, and the device they are on."""
        return self._library

    def __reduce__(self) -> tuple[type[CudaRasterizer], tuple[str]]:
        return CudaRasterizer, (self._device,)  # a copy loads its own

    def rasterize(self, vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera]) -> DeviceRaster:
        """See ``base.Rasterizer``. Raises ValueError when the cameras differ in size or the faces are too many."""
        height, width = one_size(cameras)
        views, count = len(cameras), len(faces)
        if count > _MOST_FACES or views * count >= _MOST_JOBS:
            raise HeadstreamError(f"{count} faces in {views} views are too many: {_MOST_FACES} faces, 2^31 in all")
        with self._library.stream():
            return self._drawn(vertices, faces, cameras, height, width)

    def _drawn(
        self, vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera], height: int, width: int
    ) -> DeviceRaster:
        lib, views, count = self._library, len(cameras), len(faces)
        screen = lib.empty((views, len(vertices), 3), torch.float64)
        words = lib.empty((views, height, width), torch.int64)
        large, large_count = lib.empty((views * count,), torch.int32), lib.empty((1,), torch.int32)
        face = lib.empty((views, height, width), torch.int32)
        bary = lib.empty((views, height, width, 2), torch.float32)
        depth = lib.empty((views, height, width), torch.float32)
        lib(
            "rasterize", lib.up(vertices, np.float64), lib.up(faces, np.int32),
            lib.up(np.stack([projection_matrix(camera) for camera in cameras]), np.float64), views, len(vertices),
            count, height, width, NEAR, screen, words, large, large_count, face, bary, depth,
        )  # fmt: skip
        return DeviceRaster(lib, face, bary, depth)
