"""How far predicted normals and masks are from the truth, and how well views agree: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from geometry.measure import normal_error_degrees
from models.matches import surface_matches

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

    normals: maps (V, H, W, 3) in camera frames, all sampled at the same points. The first is the surface's own: its
    disagreement is what sampling alone causes. The rest, and which points count: ``matches.surface_matches``.
    """
    matches = surface_matches(depth, np.asarray(normals[0], np.float32), K, R, t, step)
    world = [_to_world(np.asarray(maps, np.float32), R) for maps in normals]
    angles = [angular_error(matches.sample_first(maps), matches.sample_second(maps)) for maps in world]
    known = np.all([np.isfinite(angle) for angle in angles], axis=0)
    return tuple(angle[known] for angle in angles)


def _to_world(normals: np.ndarray, R: np.ndarray) -> np.ndarray:
    return np.einsum("vji,vhwj->vhwi", np.asarray(R, np.float32), normals)
