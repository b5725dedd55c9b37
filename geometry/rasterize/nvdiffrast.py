"""nvdiffrast behind our interface: for studies against the paper's own rasteriser, on CUDA.

Its licence allows research and evaluation only, so it is no dependency: whoever may use it installs it from its
repository. **This adapter has not been executed against nvdiffrast**: what it hands over and takes back is tested
without it, by what its documentation says of clip space, pixel centres, and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from geometry.cameras import projection_matrix
from geometry.device import compute_device
from geometry.rasterize.base import NEAR, Raster, one_size
from protocol.calibration import Camera
from protocol.errors import HeadstreamError

_MARGIN = 1.01  # of the farthest vertex: where the far plane stands


class NvdiffrastRasterizer:
    """Rasterises with nvdiffrast's CUDA rasteriser."""

    name = "nvdiffrast"

    def __init__(self, device: str = "cuda"):
        """Raises HeadstreamError where there is no nvdiffrast or no GPU for it."""
        try:
            import nvdiffrast.torch as library
        except ImportError as error:
            raise HeadstreamError(
                f"it cannot be imported ({error}); see its repository, and its licence (research and evaluation only)"
            ) from None
        self._device_name = device
        self._device = compute_device(device)
        if self._device.type != "cuda":
            raise HeadstreamError("it runs on CUDA only")
        self._library: Any = library
        self._context: Any = library.RasterizeCudaContext(self._device)

    def __reduce__(self) -> tuple[type[NvdiffrastRasterizer], tuple[str]]:
        return NvdiffrastRasterizer, (self._device_name,)

    def rasterize(self, vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera]) -> Raster:
        """See ``base.Rasterizer``. Raises ValueError when the cameras differ in size."""
        height, width = one_size(cameras)
        shape = (len(cameras), height, width)
        face = np.full(shape, -1, np.int32)
        bary = np.zeros((*shape, 2), np.float32)
        depth = np.zeros(shape, np.float32)
        for n, camera in enumerate(cameras):
            clip, away = clip_space(vertices, camera)
            drawn = np.flatnonzero((away[faces] >= NEAR).all(1))
            if not len(drawn):
                continue
            seen, _ = self._library.rasterize(
                self._context,
                torch.from_numpy(clip.astype(np.float32)[None]).to(self._device),
                torch.from_numpy(np.ascontiguousarray(faces[drawn], np.int32)).to(self._device),
                resolution=[height, width],
                grad_db=False,
            )
            face[n], bary[n], depth[n] = from_seen(seen[0].cpu().numpy(), faces, drawn, away)
        return Raster(face, bary, depth)


def clip_space(vertices: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (P, 3) as nvdiffrast takes them (P, 4), and their depth (P,) metres.

    Its pixel (column, row) has its centre at ((2 column + 1) / width - 1, (2 row + 1) / height - 1), rows from y = -1
    on, and smaller z / w is nearer, from -1 to 1. Our rows are handed over as they are: nobody looks at which is up.
    """
    homogeneous = np.hstack([vertices, np.ones((len(vertices), 1))]) @ projection_matrix(camera).T  # P,3
    x, y, away = homogeneous.T
    far = max(float(away.max()), NEAR) * _MARGIN
    near = max(float(away[away >= NEAR].min(initial=far)) / _MARGIN, NEAR / _MARGIN)
    z = ((far + near) * away - 2 * far * near) / (far - near)
    return np.stack([(2 * x + away) / camera.width - away, (2 * y + away) / camera.height - away, z, away], 1), away


def from_seen(
    seen: np.ndarray, faces: np.ndarray, drawn: np.ndarray, away: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What nvdiffrast gives (H, W, 4: u, v, z / w, number of a drawn face plus one) as a raster's face, bary and depth.

    drawn: which of faces (F, 3) it was given; away (P,): depths of vertices, metres.
    """
    number = seen[..., 3].astype(np.int64) - 1
    hit = number >= 0
    face = np.where(hit, drawn[np.maximum(number, 0)], -1).astype(np.int32)
    bary = np.where(hit[..., None], seen[..., :2], 0).astype(np.float32)
    u, v = bary[..., 0], bary[..., 1]
    corners = away[faces[np.maximum(face, 0)]]  # H,W,3
    depth = u * corners[..., 0] + v * corners[..., 1] + (1 - u - v) * corners[..., 2]
    return face, bary, np.where(hit, depth, 0).astype(np.float32)
