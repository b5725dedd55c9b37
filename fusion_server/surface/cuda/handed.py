"""Maps and pictures that are on a device already, made ready there: the twins of ``maps`` and ``photometric.pictures``.

A view that has ``handed`` (``geometry.device.Handover``) lets its tensors be had without a copy, or, from another GPU,
with one. All of this is torch, so tests run it on the CPU; **it has not been executed on a GPU** (docs/gpu-log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fusion_server.surface.base import View
from fusion_server.surface.maps import MOST
from fusion_server.surface.photometric import _BLUR, Pictures, pictures_rig
from geometry.device import Lane

_GREY = (9798, 19235, 3735)  # of red, green, blue, in 1/32768: OpenCV's
_GREY_SHIFT = 15
_HALVING = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # before every second pixel is dropped, as cv2.pyrDown does


def handed_on(views: Sequence[View], lane: Lane) -> dict[str, Tensor] | None:
    """Tensors of these views on a lane's device by name (normal, confidence, mask, fine ...), views first; None where
    a view has none, or they were not handed over together."""
    handed = getattr(views[0], "handed", None)
    if handed is None or any(getattr(view, "handed", None) is not handed for view in views):
        return None
    chosen = tuple(view.index for view in views)  # type: ignore[attr-defined]
    tensors = handed.on(lane)
    if chosen == tuple(range(len(tensors["normal"]))):
        return tensors
    with lane.entered():
        places = _places(chosen, lane.device)
        return {name: tensor[places] for name, tensor in tensors.items()}


@cache
def _places(chosen: tuple[int, ...], device: torch.device) -> Tensor:
    """An index there. Made once: each copy of one is waited for by the host, behind all that its stream has to do."""
    return torch.tensor(chosen, device=device)


def trusted(confidence: Tensor, inside: Tensor) -> Tensor:
    """See ``maps.stacked``.  # V,H,W"""
    count = inside.sum()
    mean = (confidence * inside).sum(dtype=torch.float64) / count.clamp(min=1)
    trust = (confidence / mean.clamp(min=1e-30)).clamp(0, MOST).float()
    return torch.where(mean > 0, trust, torch.ones_like(trust))


def every_second(maps: Tensor) -> Tensor:
    """See ``maps.every_second``."""
    return maps[:, ::2, ::2].contiguous()


class ResidentPictures(Pictures):
    """See ``Pictures``; ``grey`` is a tensor, made and made coarser in ``lane``."""

    def __init__(self, grey: Tensor, views: Sequence[View] | Pictures, middle: np.ndarray | None, lane: Lane) -> None:
        if isinstance(views, Pictures):
            rig, footprint = views.halved_rig(), 2 * views.footprint
        else:
            assert middle is not None
            rig, footprint = pictures_rig(views, middle)
        self.__dict__.update(grey=grey, rig=rig, footprint=footprint, lane=lane)  # the base is frozen

    lane: Lane

    @cached_property
    def coarser(self) -> ResidentPictures:
        """See ``Pictures``."""
        with self.lane.entered():
            grey = _filtered(self.grey, _HALVING)[:, ::2, ::2].contiguous()  # type: ignore[arg-type]
        return ResidentPictures(grey, self, None, self.lane)


def resident_pictures(fine: Tensor, views: Sequence[View], middle: np.ndarray, lane: Lane) -> ResidentPictures:
    """See ``photometric.pictures``; fine: (V, F, F, 3) uint8 on the lane's device."""
    red, green, blue = fine.to(torch.int32).unbind(-1)
    grey = (red * _GREY[0] + green * _GREY[1] + blue * _GREY[2] + (1 << (_GREY_SHIFT - 1))) >> _GREY_SHIFT
    size = round(8 * _BLUR + 1) | 1  # as OpenCV chooses it for float pictures
    weights = cv2.getGaussianKernel(size, _BLUR, cv2.CV_32F)[:, 0].tolist()
    return ResidentPictures(_filtered(grey.float(), weights), views, middle, lane)


def _filtered(pictures: Tensor, weights: Sequence[float]) -> Tensor:
    """Rows, then columns, weighted alike; beyond the border pictures are mirrored, the border itself not repeated. Sums
    of shifted pictures: a convolution would be rounded to TF32 by cuDNN."""
    half = len(weights) // 2
    height, width = pictures.shape[1:]
    padded = functional.pad(pictures[:, None], (half, half, half, half), mode="reflect")[:, 0]
    across = padded[:, :, :width] * weights[0]
    for k in range(1, len(weights)):
        across.add_(padded[:, :, k : k + width], alpha=weights[k])
    down = across[:, :height] * weights[0]
    for k in range(1, len(weights)):
        down.add_(across[:, k : k + height], alpha=weights[k])
    return down
