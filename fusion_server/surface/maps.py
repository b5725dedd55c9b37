"""The views' maps as the kernels want them: stacked, and confidence as trust."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_server.surface.base import View

MOST = 4.0  # times the mean: no pixel is trusted more


def stacked(views: Sequence[View], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals, and confidence as trust: of mean 1 over the masks, inside (V, H, W).  # V,H,W,3; V,H,W float32"""
    trust = np.stack([view.confidence for view in views]).astype(np.float32)
    mean = float(trust[inside].mean()) if inside.any() else 0.0
    trust = np.clip(trust / mean, 0, MOST) if mean > 0 else np.ones_like(trust)
    return np.stack([view.normal for view in views]).astype(np.float32, copy=False), trust


def every_second(maps: np.ndarray) -> np.ndarray:
    """Maps (V, H, W[, C]) with half the pixels each way."""
    return np.ascontiguousarray(maps[:, ::2, ::2])
