"""What every rasteriser takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protocol.calibration import Camera


@dataclass(frozen=True, eq=False)
class Raster:
    """What each pixel of each view sees, at pixel centres.

    face: int32 (V, H, W), -1 where nothing is. bary: float32 (V, H, W, 2), perspective-correct weights of the face's
    vertices 0 and 1 (vertex 2 has the rest). depth: float32 (V, H, W), metres along z, 0 where nothing is.
    """

    face: np.ndarray
    bary: np.ndarray
    depth: np.ndarray

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Per-vertex values (P, C) at each pixel; zeros where nothing is.  # V,H,W,C float32"""
        hit = self.face >= 0
        corners = faces[self.face[hit]]  # n,3
        u, v = self.bary[hit].T
        out = np.zeros((*self.face.shape, values.shape[1]), np.float32)
        w = np.stack([u, v, 1 - u - v], 1)[:, :, None]
        out[hit] = (values[corners] * w).sum(1)
        return out


class Rasterizer(Protocol):
    """An engine. Cameras are pinholes of one common width and height; faces in front of the camera are drawn, both
    sides of them, the nearest wins; a face with a vertex nearer than ``NEAR`` is not drawn (cameras are never inside
    the subject)."""

    name: str

    def rasterize(self, vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera]) -> Raster:
        """vertices (P, 3) world metres, faces (F, 3) -> what each camera sees."""
        ...


NEAR = 0.01  # metres


def one_size(cameras: Sequence[Camera]) -> tuple[int, int]:
    """The height and width of all cameras. Raises ValueError when they differ."""
    sizes = {(camera.height, camera.width) for camera in cameras}
    if len(sizes) != 1:
        raise ValueError(f"cameras of one size are needed, got {sorted(sizes)}")
    (size,) = sizes
    return size
