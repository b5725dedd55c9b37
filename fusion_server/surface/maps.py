"""The views' maps as the kernels want them: stacked, and confidence as trust."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_server.surface.base import View

MOST = 4.0  # times the mean: no pixel is trusted more


def stacked(views: Sequence[View], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals, and confidence as trust: of mean 1 over the masks, inside (V, H, W).  # V,H,W,3; V,H,W float32"""
    trust = np.stack([view.confidence for view in views], dtype=np.float32, casting="unsafe")
    mean = float(trust[inside].mean()) if inside.any() else 0.0
    if mean > 0:
        np.clip(np.divide(trust, mean, out=trust), 0, MOST, out=trust)
    else:
        trust[:] = 1
    return np.stack([view.normal for view in views], dtype=np.float32, casting="unsafe"), trust


def every_second(maps: np.ndarray) -> np.ndarray:
    """Maps (V, H, W[, C]) with half the pixels each way."""
    return np.ascontiguousarray(maps[:, ::2, ::2])
