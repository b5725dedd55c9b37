"""Scores of normals and masks over scenes: what ``headstream evaluate --synthetic`` prints.

Angles count over the true mask. How many views help is asked of the same pictures each time: the errors with 3, 6, 8 or
10 views are those of the first three pictures, which the others stand beside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.engines.base import NormalPrediction
from models.evaluation import THRESHOLDS, NormalErrors, angular_error, gradient_errors, mask_iou, view_disagreement
from models.held_out import PLAIN, REGIONS, KnownScene, silhouette_band
from protocol.calibration import Camera

BAND = 4  # pixels of the silhouette band
SUREST = (0.75, 0.5, 0.25)  # shares of the pixels, by confidence

Predict = Callable[[np.ndarray, Sequence[Camera]], NormalPrediction]


@dataclass(frozen=True, eq=False)
class Measures:
    """What one prediction says, pixel by pixel; angles in degrees."""

    angles: np.ndarray  # N errors over the true mask
    confidence: np.ndarray  # N
    gradient: np.ndarray  # M
    apart: np.ndarray  # L between views
    sampling: np.ndarray  # L between views, of the truth itself
    overlap: float  # IoU of the masks

    @classmethod
    def of(cls, scene: KnownScene, prediction: NormalPrediction, views: int | None = None) -> Measures:
        """Measure a prediction against what is known of its first ``views`` pictures."""
        part = slice(views)
        truth, ours = np.asarray(scene.normal[part], np.float32), prediction.normal[part]
        mask = scene.mask[part] & (np.abs(truth).sum(-1) > 0)
        cameras = (scene.K[part], scene.R[part], scene.t[part])
        sampling, apart = view_disagreement((truth, ours), scene.depth[part], *cameras, step=3)
        return cls(
            angular_error(ours[mask], truth[mask]).astype(np.float32),
            prediction.confidence[part][mask],
            gradient_errors(ours, truth, mask),
            apart.astype(np.float32),
            sampling.astype(np.float32),
            mask_iou(prediction.mask[part], scene.mask[part]),
        )


class Tally:
    """Gathers measures under one name and says their statistics."""

    def __init__(self) -> None:
        self._measures: list[Measures] = []
        self._angles: list[np.ndarray] = []

    def add(self, measures: Measures) -> None:
        """All that one prediction says."""
        self._measures.append(measures)
        self._angles.append(measures.angles)

    def pixels(self, angles: np.ndarray) -> None:
        """Angular errors (N,) of some pixels, degrees."""
        self._angles.append(angles)

    def row(self) -> dict[str, float]:
        """Statistics by name; those of what was never gathered are left out."""
        errors = NormalErrors.of(_joined(self._angles))
        out: dict[str, float] = {"mean_deg": errors.mean, "median_deg": errors.median}
        out |= {f"below_{limit:g}_deg": share for limit, share in zip(THRESHOLDS, errors.below, strict=True)}
        for name, attribute in (("gradient", "gradient"), ("disagreement_deg", "apart"), ("sampling_deg", "sampling")):
            values = _joined([getattr(measures, attribute) for measures in self._measures])
            if values.size:
                out[name] = float(values.mean())
        if self._measures:
            out["mask_iou"] = float(np.mean([measures.overlap for measures in self._measures]))
        return out | {"pixels": errors.pixels}

    def surest(self) -> dict[str, float]:
        """Mean error of the pixels of which the network is surest, by share."""
        angles, confidence = _joined(self._angles), _joined([measures.confidence for measures in self._measures])
        order = np.argsort(-confidence)
        return {f"{share:g}": float(angles[order[: max(1, int(share * len(order)))]].mean()) for share in SUREST}


def parts_of(scene: KnownScene) -> dict[str, np.ndarray]:
    """Pixels by where they lie: in the silhouette band or inside of it, and in each region that shows.  # V,S,S bool"""
    band = silhouette_band(scene.mask, BAND)
    parts = {"silhouette band": band, "inside of it": scene.mask & ~band}
    here = {name: scene.region == number for number, name in enumerate(REGIONS) if name}
    return parts | {name: where for name, where in here.items() if where.any()}


def score_scenes(scenes: Sequence[Callable[[], KnownScene]], engines: Mapping[int, Predict], tick=lambda: None) -> dict:
    """Run engines, by number of views, over scenes and gather what ``table`` prints.

    scenes: each gives a scene with as many views as the largest engine takes. ``tick()`` is called after each.
    """
    counts = sorted(engines)
    most, fewest = counts[-1], counts[0]
    groups: dict[tuple[str, str], Tally] = defaultdict(Tally)
    masks: dict[str, list[float]] = defaultdict(list)
    for give in scenes:
        scene = give().first(most)
        for count in counts:
            part = scene.first(count)
            prediction = engines[count](part.image, part.cameras)
            groups["by_views", str(count)].add(Measures.of(part, prediction, fewest))
        measures = Measures.of(scene, prediction)
        for name in ("all", scene.kind):
            groups["by_kind", name].add(measures)
        ground = "plain" if scene.backdrop in PLAIN else "clutter"
        masks[ground] += [mask_iou(ours, true) for ours, true in zip(prediction.mask, scene.mask, strict=True)]
        known = scene.mask & (np.abs(scene.normal).sum(-1) > 0)  # the pixels of measures.angles
        for name, where in parts_of(scene).items():
            groups["by_region", name if name in REGIONS else f"{name}, all kinds"].pixels(measures.angles[where[known]])
        tick()
    out: dict[str, Any] = {"sets": len(scenes), "views": most, "compared_views": fewest}
    for section in ("by_kind", "by_region", "by_views"):
        out[section] = {name: tally.row() for (where, name), tally in groups.items() if where == section}
    out["surest"] = groups["by_kind", "all"].surest()
    out["mask_iou"] = {name: float(np.mean(values)) for name, values in sorted(masks.items())}
    return out


def table(scores: Mapping[str, Any]) -> str:
    """The scores as Markdown tables."""
    most, fewest = scores["views"], scores["compared_views"]
    iou = ", ".join(f"{value:.3f} on {name}" for name, value in scores["mask_iou"].items())
    surest = ", ".join(f"{value:.1f} (surest {100 * float(k):.0f} %)" for k, value in scores["surest"].items())
    parts = [
        f"{scores['sets']} scenes of {most} views; angles in degrees over the true mask.",
        rows_table("subject", scores["by_kind"]),
        f"Mask IoU, mean of the pictures: {iou}.\nMean error where the network is surest: {surest}.",
        rows_table("region", scores["by_region"]),
        f"The same {fewest} pictures of each scene, with other views beside them:",
        rows_table("views", scores["by_views"]),
    ]
    return "\n\n".join(parts)


def rows_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of ``Tally.row``s; columns that no row has are left out."""
    shares = " / ".join(f"{limit:g}" for limit in THRESHOLDS)
    columns: dict[str, Callable[[Mapping[str, float]], str]] = {
        "mean": lambda row: f"{row['mean_deg']:.2f}",
        "median": lambda row: f"{row['median_deg']:.2f}",
        f"below {shares}": lambda row: " / ".join(f"{100 * row[f'below_{t:g}_deg']:.0f}" for t in THRESHOLDS) + " %",
    }
    more: dict[str, tuple[str, str]] = {
        "gradient": ("gradient", ".3f"),
        "views apart": ("disagreement_deg", ".2f"),
        "of it sampling": ("sampling_deg", ".2f"),
        "mask IoU": ("mask_iou", ".3f"),
    }
    for head, (key, form) in more.items():
        if any(key in row for row in rows.values()):
            columns[head] = lambda row, key=key, form=form: format(row[key], form) if key in row else ""  # type: ignore[misc]
    lines = [f"| {title} | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    lines += [f"| {name} | {' | '.join(cell(row) for cell in columns.values())} |" for name, row in rows.items()]
    return "\n".join(lines)


def _joined(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(values) if values else np.zeros(0, np.float32)
