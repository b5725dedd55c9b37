"""Normals as colours, as people are used to see them."""

from __future__ import annotations

import numpy as np


def normal_colours(normal: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Camera-frame normals (..., 3) of unit length as RGB: right is red, up is green, toward the camera is blue.

    Black outside ``mask`` (...) bool.  # ...,3 uint8
    """
    shown = np.clip(np.asarray(normal, np.float32) * (0.5, -0.5, -0.5) + 0.5, 0, 1) * 255
    return np.where(np.asarray(mask, bool)[..., None], shown, 0).astype(np.uint8)
