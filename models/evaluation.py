"""How far predicted normals and masks are from the truth: pure functions on arrays."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

THRESHOLDS = (5.0, 11.25, 30.0)  # degrees


@dataclass(frozen=True)
class NormalErrors:
    """Angular error over the valid pixels, degrees, and the share of pixels below ``THRESHOLDS``."""

    mean: float
    median: float
    below: tuple[float, ...]
    pixels: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * s:.0f} % < {t:g}" for s, t in zip(self.below, THRESHOLDS, strict=True))
        return f"mean {self.mean:.2f} deg, median {self.median:.2f} deg, {shares}"


def angular_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Angle between normals (..., 3), which need not be unit; NaN where either is zero. Degrees.  # ..."""
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    cross = np.linalg.norm(np.cross(predicted, truth), axis=-1)
    dot = (predicted * truth).sum(-1)
    angle = np.degrees(np.arctan2(cross, dot))  # accurate at small angles, where arccos is not
    zero = (np.abs(predicted).sum(-1) == 0) | (np.abs(truth).sum(-1) == 0)
    return np.where(zero, np.nan, angle)


def normal_errors(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> NormalErrors:
    """Statistics over pixels where ``valid`` (any shape (...)) and both normals (..., 3) are not zero.

    Without a single such pixel everything is NaN and ``pixels`` is 0.
    """
    error = angular_error(predicted, truth)
    keep = np.isfinite(error) if valid is None else np.isfinite(error) & np.asarray(valid, bool)
    error = error[keep]
    if not error.size:
        return NormalErrors(float("nan"), float("nan"), (float("nan"),) * 3, 0)
    below = tuple(float((error < threshold).mean()) for threshold in THRESHOLDS)
    return NormalErrors(float(error.mean()), float(np.median(error)), below, int(error.size))


def mask_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks (bool, or probabilities cut at one half); 1 when both are empty."""
    a, b = (m if m.dtype == bool else m > 0.5 for m in (np.asarray(predicted), np.asarray(truth)))
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union
