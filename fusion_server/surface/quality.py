"""How well a surface explains its frame, and whether the track is lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion_server.surface.base import Quality
from fusion_server.surface.observation import Look
from fusion_server.surface.solve import Topology

_LOST_OVERLAP = 0.12  # below the keyframe's overlap: the surface is elsewhere
_LOST_ANGLE = 20.0  # degrees above the keyframe's residual
_WORST_KEYFRAME = 0.6  # overlap below which not even a keyframe is trusted
_FOLDED = 0.02  # of the faces; more is no skin
_UNCERTAIN = 0.5  # confidence below which a frame is marked
_DISAGREES = 0.1  # of overlap that one view lacks to the others
# Of the way from what a keyframe's cameras see alike to nothing in common. On the demo's take the residual stays below
# 0.27 (`benchmarks surface` prints it), a tenth of the way; of heads on other points of their skin it is 0.94 and more.
_STRANGE = 0.5
_LEGIBLE = 0.25  # what a keyframe's cameras see alike at least, or nothing can be told by the skin
_OTHER = 10e-3  # metres: three quarters of a head do not deform this far; what does is another subject
_REGISTERED = 3e-3  # metres: an old topology whose 95th percentile is nearer than this to a new keyframe is back on it
_SELDOM = 32  # frames from one keyframe to the next while a track stays lost


@dataclass(frozen=True, eq=False)
class Fit:
    """A surface against an observation, in numbers.

    both, either: (V,) pixels that rendered and observed masks share, and that either has. blind: (V,) bool. residual:
    median angle between the faces and their fused normals, degrees. inverted: folded faces. unlike: see
    ``Quality.photometric_residual``.
    """

    both: np.ndarray
    either: np.ndarray
    blind: np.ndarray
    residual: float
    inverted: int
    unlike: float = float("nan")


def fit_of(seen: Look, topology: Topology, unlike: float = float("nan")) -> Fit:
    """Measure how a surface fits the observation that it was looked at in (a coarser one will do); unlike: as ``Fit``
    has it."""
    observation = seen.observation
    both, either = observation.kernels.overlap(seen.raster, observation)
    inverted = int(seen.shape.folded(topology).sum())
    return Fit(both, either, observation.outlines.blind, _residual(seen), inverted, unlike)


def judged(fit: Fit, faces: int, names: tuple[str, ...], reference: Quality | None = None) -> Quality:
    """What a fit is worth; faces: how many the surface has; names: of the cameras.

    reference: the keyframe's quality. Its overlap and residuals are what this subject, these masks and these normals
    allow (a neck that the pictures cut never overlaps fully); None when this is the keyframe.
    """
    overlap = float(fit.both.sum() / max(fit.either.sum(), 1))
    per_view = fit.both / np.maximum(fit.either, 1)
    residual, inverted = fit.residual, fit.inverted
    best_overlap = reference.silhouette_iou if reference else max(overlap, 0.95)
    best_residual = reference.normal_residual_deg if reference else 0.0
    confidence = (
        (reference.confidence if reference else 1.0)
        * _ramp(overlap, best_overlap - 1.5 * _LOST_OVERLAP, best_overlap - 0.02)
        * _ramp(-residual, -(best_residual + 1.2 * _LOST_ANGLE), -(best_residual + 4.0))
        * _ramp(-inverted, -2 * _FOLDED * faces, -0.1 * _FOLDED * faces)
    )
    strange = reference is not None and _strangeness(fit.unlike, reference.photometric_residual) > _STRANGE
    confidence *= _UNCERTAIN if strange else 1.0
    lost = overlap < max(best_overlap - _LOST_OVERLAP, _WORST_KEYFRAME) if reference else overlap < _WORST_KEYFRAME
    lost = lost or residual > best_residual + _LOST_ANGLE + (20.0 if reference is None else 0.0)
    flags = []
    if lost:
        flags.append("lost")
    elif confidence < _UNCERTAIN:
        flags.append("uncertain")
    if strange:
        flags.append("strange skin")
    if inverted > _FOLDED * faces:
        flags.append("inverted")
    for name, blind, value in zip(names, fit.blind, per_view, strict=True):
        if blind:
            flags.append(f"blind:{name}")
        elif not lost and value < overlap - _DISAGREES:
            flags.append(f"disagrees:{name}")
    return Quality(overlap, residual, inverted, float(confidence), tuple(flags), float(fit.unlike))


def is_found(quality: Quality) -> bool:
    """Whether a warm frame may be taken as it is: where it is lost or its skin is strange, the subject is sought."""
    return not {"lost", "strange skin"} & set(quality.flags)


def is_found_again(quality: Quality, apart: float) -> bool:
    """Whether what was sought from an old pose is the same subject; apart: metres that three quarters of it deformed
    by, see ``Rest.apart``."""
    return apart < _OTHER and is_found(quality) and "uncertain" not in quality.flags


def is_registered(quality: Quality, distance: float) -> bool:
    """Whether an old topology lies on a new keyframe; distance: metres, the 95th percentile of its vertices."""
    return distance < _REGISTERED and not {"lost", "inverted"} & set(quality.flags)


def wants_search(missed: int, lost: bool) -> bool:
    """Whether a track that was not found in so many frames before this one is worth a search that takes seconds: at
    once, then more and more seldom; where it is lost, for ever, so that a subject that comes back is not kept waiting.
    """
    return missed & (missed - 1) == 0 or (lost and missed % _SELDOM == 0)


def _strangeness(unlike: float, usual: float) -> float:
    """How far from what a keyframe's cameras see alike to nothing in common; 0 where nobody can tell."""
    if not (np.isfinite(unlike) and np.isfinite(usual)):
        return 0.0
    return (unlike - usual) / max(1.0 - usual, _LEGIBLE)


def _residual(seen: Look) -> float:
    """Median angle between the faces and their fused normals, by area, degrees; 180 when nothing was seen."""
    shape, fused = seen.shape, seen.fused
    if not fused.weight.any():
        return 180.0
    cosine = np.clip(np.vecdot(fused.normal, shape.face_normals), -1, 1)
    order = np.argsort(cosine)[::-1]
    total = np.cumsum(np.where(fused.weight > 0, shape.areas, 0)[order])
    return float(np.degrees(np.arccos(cosine[order[np.searchsorted(total, total[-1] / 2)]])))


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))
