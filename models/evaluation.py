"""How far predicted normals and masks are from the truth, and how well views agree: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from geometry.measure import normal_error_degrees

THRESHOLDS = (5.0, 10.0, 30.0)  # degrees


@dataclass(frozen=True)
class NormalErrors:
    """Angular error over the valid pixels, degrees, and the share of pixels below ``THRESHOLDS``."""

    mean: float
    median: float
    below: tuple[float, ...]
    pixels: int

    @classmethod
    def of(cls, angles: np.ndarray) -> NormalErrors:
        """Statistics of finite angles (N,), degrees; without any, everything is NaN and ``pixels`` is 0."""
        if not angles.size:
            return cls(float("nan"), float("nan"), (float("nan"),) * len(THRESHOLDS), 0)
        below = tuple(float((angles < threshold).mean()) for threshold in THRESHOLDS)
        return cls(float(angles.mean(dtype=np.float64)), float(np.median(angles)), below, int(angles.size))

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * s:.0f} % < {t:g}" for s, t in zip(self.below, THRESHOLDS, strict=True))
        return f"mean {self.mean:.2f} deg, median {self.median:.2f} deg, {shares}"


def angular_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Angle between normals (..., 3), which need not be unit; NaN where either is zero. Degrees.  # ..."""
    predicted, truth = np.broadcast_arrays(predicted, truth)
    angle = normal_error_degrees(predicted, truth, np.ones(predicted.shape[:-1], bool)).reshape(predicted.shape[:-1])
    zero = (np.abs(predicted).sum(-1) == 0) | (np.abs(truth).sum(-1) == 0)
    return np.where(zero, np.nan, angle)


def normal_errors(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> NormalErrors:
    """Statistics over pixels where ``valid`` (any shape (...)) and both normals (..., 3) are not zero.

    Without a single such pixel everything is NaN and ``pixels`` is 0.
    """
    error = angular_error(predicted, truth)
    keep = np.isfinite(error) if valid is None else np.isfinite(error) & np.asarray(valid, bool)
    return NormalErrors.of(error[keep])


def gradient_errors(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """How much finer detail differs: one value for each pair of neighbouring pixels of which both are valid.  # N

    The L1 norm of the difference between both maps' steps from a pixel to its right or lower neighbour. predicted and
    truth: unit normals (..., H, W, 3); valid: (..., H, W) bool. The mean of it is "the normal-gradient error"; it
    depends on the pixels' size, so only maps of one resolution compare.
    """
    difference = np.asarray(predicted, np.float32) - np.asarray(truth, np.float32)
    out = []
    for axis in (-3, -2):
        size = difference.shape[axis]
        later, sooner = (np.take(difference, range(k, size - 1 + k), axis) for k in (1, 0))
        both = np.take(valid, range(1, size), axis + 1) & np.take(valid, range(size - 1), axis + 1)
        out.append(np.abs(later - sooner).sum(-1)[both])
    return np.concatenate(out)


def mask_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks (bool, or probabilities cut at one half); 1 when both are empty."""
    a, b = (m if m.dtype == bool else m > 0.5 for m in (np.asarray(predicted), np.asarray(truth)))
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def view_disagreement(
    normals: Sequence[np.ndarray],
    depth: np.ndarray,
    K: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    step: int = 2,
) -> tuple[np.ndarray, ...]:
    """Angles between what two views say of the same surface point, degrees; one array (N,) for each map in ``normals``.

    normals: maps (V, H, W, 3) in camera frames, all sampled at the same points. The first is the surface's own: a point
    counts where it faces both views (a thin sheet seen from both sides is two surfaces), and its own disagreement is
    what sampling alone causes. depth: (V, H, W) metres along z, 0 where nothing is; K, R (V, 3, 3), t (V, 3): pinholes.
    Every ``step``-th pixel of a view is carried into each later view, where the four pixels around its place must have
    depth and lie, interpolated, within one pixel's footprint of the point: nothing hides it.
    """
    depth = np.asarray(depth, np.float64)
    world = [_to_world(np.asarray(maps, np.float32), R) for maps in normals]
    eyes = -np.einsum("vji,vj->vi", R, t)
    found: list[list[np.ndarray]] = [[] for _ in world]
    height, width = depth.shape[1:]
    rows, columns = (index * step for index in np.indices(((height - 1) // step + 1, (width - 1) // step + 1)))
    for a, b in combinations(range(len(depth)), 2):
        z = depth[a, rows, columns]
        hit = z > 0
        y, x, z = rows[hit], columns[hit], z[hit]
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K[a]).T
        points = (rays * z[:, None] - t[a]) @ R[a]  # N,3 world
        facing = (world[0][a][y, x] * (eyes[b] - points)).sum(-1) > 0
        there = points @ R[b].T + t[b]
        ahead = np.maximum(there[:, 2], 1e-9)
        at = (there / ahead[:, None]) @ K[b].T
        left, top = np.floor(at[:, 0]), np.floor(at[:, 1])
        inside = facing & (there[:, 2] > 0) & (left >= 0) & (top >= 0) & (left < width - 1) & (top < height - 1)
        x, y, ahead = x[inside], y[inside], ahead[inside]
        left, top = left[inside].astype(int), top[inside].astype(int)
        right, down = at[inside, 0] - left, at[inside, 1] - top
        corners = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
        weights = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        depths = [depth[b][corner] for corner in corners]
        far = sum(weight * value for weight, value in zip(weights, depths, strict=True))
        shown = (np.min(depths, axis=0) > 0) & (np.abs(far - ahead) < ahead / K[b, 0, 0])
        for maps, angles in zip(world, found, strict=True):
            here = maps[a][y, x]
            other = sum(weight[:, None] * maps[b][c] for weight, c in zip(weights, corners, strict=True))
            angles.append(angular_error(here, other)[shown])
    merged = [np.concatenate(angles) if angles else np.zeros(0) for angles in found]
    known = np.all([np.isfinite(angles) for angles in merged], axis=0)
    return tuple(angles[known] for angles in merged)


def _to_world(normals: np.ndarray, R: np.ndarray) -> np.ndarray:
    return np.einsum("vji,vhwj->vhwi", np.asarray(R, np.float32), normals)
