"""The views' maps as the kernels want them: stacked, and confidence as trust."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from fusion_server.surface.base import View
from geometry.compiled import kernel

MOST = 4.0  # times the mean: no pixel is trusted more


def stacked(views: Sequence[View], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals, and confidence as trust: of mean 1 over the masks, inside (V, H, W).  # V,H,W,3; V,H,W float32"""
    trust = np.stack([view.confidence for view in views], dtype=np.float32, casting="unsafe")
    _scale(trust, inside)
    return np.stack([view.normal for view in views], dtype=np.float32, casting="unsafe"), trust


def every_second(maps: np.ndarray) -> np.ndarray:
    """Maps (V, H, W[, C]) with half the pixels each way."""
    views, height, width = maps.shape[:3]
    out = np.empty((views, -(-height // 2), -(-width // 2), *maps.shape[3:]), maps.dtype)
    _every_second(maps.reshape(views, height, width, -1), out.reshape(*out.shape[:3], -1))
    return out


@kernel(parallel=True)
def _scale(trust, inside):
    """Confidence to trust, in place; where none is trusted, all are alike."""
    totals, counts = np.zeros(trust.shape[0]), np.zeros(trust.shape[0])
    for v in numba.prange(trust.shape[0]):
        total, count = 0.0, 0
        for y in range(trust.shape[1]):
            for x in range(trust.shape[2]):
                if inside[v, y, x]:
                    total += trust[v, y, x]
                    count += 1
        totals[v], counts[v] = total, count
    over = np.float32(counts.sum() / totals.sum()) if totals.sum() > 0.0 else np.float32(0.0)
    for v in numba.prange(trust.shape[0]):
        for y in range(trust.shape[1]):
            for x in range(trust.shape[2]):
                scaled = min(max(trust[v, y, x] * over, np.float32(0.0)), np.float32(MOST))
                trust[v, y, x] = scaled if over > 0.0 else np.float32(1.0)


@kernel(parallel=True)
def _every_second(maps, out):
    for v in numba.prange(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                for k in range(out.shape[3]):
                    out[v, y, x, k] = maps[v, 2 * y, 2 * x, k]
