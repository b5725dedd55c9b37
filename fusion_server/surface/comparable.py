"""Pictures made comparable, whatever the exposure: what a pixel is beside its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from fusion_server.surface.each import begun
from fusion_server.surface.observation import Observation
from fusion_server.surface.photometric import Pictures
from geometry.compiled import kernel

AROUND = 11  # pixels: side of the square whose mean and contrast are taken out
QUIET = 2.0  # grey levels of contrast that count as none


@dataclass(frozen=True, eq=False)
class Comparable:
    """Pictures of one size on their way to be compared. matrix (V, 3, 4): of their cameras. footprint: metres a pixel.
    maps: to be called for grey levels less the mean around them, over the contrast around them, and their steps to the
    right and down; NaN off the subject.  # V,h,w,3 float32"""

    matrix: np.ndarray
    footprint: float
    maps: Callable[[], np.ndarray]

    @classmethod
    def begun(cls, observation: Observation, footprint: float) -> Comparable:
        """The observation's pictures, halved until a pixel covers about so many metres, from now on made ready on cores
        that are free."""
        pictures = observation.pictures
        assert pictures is not None
        while pictures.footprint < footprint / np.sqrt(2):
            pictures = pictures.coarser
        pictures = observation.kernels.on_host(pictures)
        return cls(pictures.rig.matrix, pictures.footprint, _begun(pictures, observation))


def _begun(pictures: Pictures, observation: Observation) -> Callable[[], np.ndarray]:
    """See ``Comparable.maps``."""
    views, height, width = pictures.grey.shape
    out = np.empty((views, height, width, 3), np.float32)
    # A view's maps and its picture are taken from one place: their pixels differ by scale and shift.
    onto = observation.rig.matrix[:, :, :3] @ np.linalg.inv(pictures.rig.matrix[:, :, :3])

    def prepare(n: int) -> None:
        grey, inside = pictures.grey[n], observation.outlines.inside[n].view(np.uint8)
        nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        mask = cv2.warpAffine(inside, onto[n, :2] / onto[n, 2, 2], (width, height), flags=nearest).astype(np.float32)
        own = grey * mask
        share, mean, square = (cv2.boxFilter(part, -1, (AROUND, AROUND)) for part in (mask, own, own * grey))
        _compared(grey, mask, share, mean, square, out[n])

    on_their_way = begun(prepare, range(views))

    def maps() -> np.ndarray:
        on_their_way()
        return out

    return maps


@kernel(error_model="numpy")  # without checks for zeros, eight pixels at a time
def _compared(grey, mask, share, own, square, out):
    """Level, and central differences of it; NaN off the subject and beside what is off."""
    rows, columns = grey.shape
    level = np.empty_like(grey)
    quiet, half, off = np.float32(QUIET * QUIET), np.float32(0.5), np.float32(np.nan)
    for y in range(rows):
        for x in range(columns):
            mean = own[y, x] / share[y, x]
            contrast = max(square[y, x] / share[y, x] - mean * mean, np.float32(0.0))
            value = (grey[y, x] - mean) / np.sqrt(contrast + quiet)
            level[y, x] = value if mask[y, x] > 0.0 else off
    out[0], out[-1], out[:, 0], out[:, -1] = off, off, off, off
    for y in range(1, rows - 1):
        above, here, below, to = level[y - 1], level[y], level[y + 1], out[y]
        for x in range(1, columns - 1):
            to[x, 0] = here[x]
            to[x, 1] = half * (here[x + 1] - here[x - 1])
            to[x, 2] = half * (below[x] - above[x])
