"""Masks made useful: cleaned, and as a signed distance to their outline that is finer than a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import ndtri

from fusion_server.surface.base import Rig, View
from fusion_server.surface.each import each
from geometry.compiled import kernel

_KEEP = 0.2  # of the largest piece: a piece larger than this belongs to the subject
_HOLE = 0.02  # of the subject: a smaller hole is an error of the network
_SMALLEST = 0.002  # of the map: less than this is no subject
_BLUR = 1.0  # pixels
SOFT = 40e-3  # metres: how far inside or outside its picture a view has a point counts up to here
_SURE = (
    3.0  # pixels into what the picture shows that a pixel into guessed background counts for; by eye, the demo's rims
)
_NORMAL_QUANTILE = ndtri((np.arange(1024) + 0.5) / 1024).astype(np.float32) * _BLUR


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """Cleaned masks of all views.

    inside: (V, H, W) bool. distance: (V, H, W) float32 pixels to the outline, positive inside. known: (V, 4) the
    rectangle x0, y0, x1, y1 (pixel centres, inclusive) in which the map is an observation; beyond it the map is
    continued by its edge. blind: (V,) bool, views that saw nothing.
    """

    inside: np.ndarray
    distance: np.ndarray
    known: np.ndarray
    blind: np.ndarray


def silhouettes(views: Sequence[View]) -> Silhouettes:
    """Clean the masks of all views and measure distances to their outlines."""
    shape = (len(views), *views[0].mask.shape)
    inside = np.empty(shape, bool)
    distance = np.empty(shape, np.float32)
    known = np.empty((len(views), 4))
    blind = np.zeros(len(views), bool)

    def measure(n: int) -> None:
        known[n] = _known(views[n])
        soft = clean_mask(_continued(views[n].mask, known[n]))
        if soft is None:
            blind[n], inside[n], distance[n] = True, False, -max(shape[1:])
            return
        inside[n] = soft > 0.5
        signed_distance(soft, distance[n])

    each(measure, range(len(views)))
    return Silhouettes(inside, distance, known, blind)


def clean_mask(mask: np.ndarray) -> np.ndarray | None:
    """A probability mask (H, W) without islands and pin-holes, its edge as soft as before; None where nothing is left.

    The largest piece is kept, and any other piece that is a good part of its size.
    """
    label, areas = _pieces(mask > 0.5)
    if areas.max(initial=0) < _SMALLEST * mask.size:
        return None
    soft = np.asarray(mask, np.float32)
    kept = np.concatenate([[False], areas >= _KEEP * areas.max()])
    if not kept[1:].all():
        near = cv2.dilate(kept[label].astype(np.uint8), np.ones((5, 5), np.uint8))
        soft = np.where((near > 0) & (kept[label] | (label == 0)), soft, 0)
    count, label = _labelled(soft <= 0.5)
    enclosed = np.ones(count, bool)  # what touches the border is no hole
    for side in (label[0], label[-1], label[:, 0], label[:, -1]):
        enclosed[side] = False
    enclosed[0] = False  # the subject
    if enclosed.any():
        areas = np.bincount(label.ravel(), minlength=count)
        filled = enclosed & (areas < _HOLE * areas[0])
        soft = np.where(filled[label], 1, soft)
    return np.ascontiguousarray(soft, dtype=np.float32)


def _pieces(hard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) of 4-connected pieces, 0 outside them, and their areas from label 1 on."""
    count, label = _labelled(hard)
    if count == 2:  # a good mask: one piece and what is around it
        return label, np.array([cv2.countNonZero(label)])
    return label, np.bincount(label.ravel(), minlength=count)[1:]


def _labelled(hard: np.ndarray) -> tuple[int, np.ndarray]:
    """How many labels, and 4-connected pieces' labels (H, W), 0 outside them."""
    return cv2.connectedComponents(hard.view(np.uint8), connectivity=4, ltype=cv2.CV_16U)


def signed_distance(soft: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Pixels to the half level of a mask (H, W), positive inside; beyond the border the mask goes on as it ends.

    Near the outline the blurred mask itself is the ruler (a straight edge blurred by s pixels has the value Phi(d / s)
    at distance d), which is exact to a small part of a pixel; further away a distance transform takes over.  # H,W
    """
    # What lies beyond the border is as the border there, and never nearer than it: nothing has to be added around.
    hard = (soft > 0.5).view(np.uint8)
    inwards = cv2.distanceTransform(hard, cv2.DIST_L2, 5)
    outwards = cv2.distanceTransform(1 - hard, cv2.DIST_L2, 5)
    blurred = cv2.GaussianBlur(soft, (0, 0), _BLUR, borderType=cv2.BORDER_REPLICATE)
    distance = np.empty(soft.shape, np.float32) if out is None else out
    _mixed(blurred, inwards, outwards, _NORMAL_QUANTILE, distance)
    return distance


@kernel
def _mixed(blurred, inwards, outwards, quantile, distance):
    for y in range(distance.shape[0]):
        for x in range(distance.shape[1]):
            far = inwards[y, x] - outwards[y, x]  # never zero: a pixel is on one side
            far -= np.copysign(np.float32(0.5), far)
            share = abs(far) - np.float32(1.0)
            if share < 1.0:
                near = quantile[min(max(int(blurred[y, x] * np.float32(1024.0)), 0), 1023)]
                far = near + max(share, np.float32(0.0)) * (far - near)
            distance[y, x] = far


def overlap(face: np.ndarray, outlines: Silhouettes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each view that a rendered surface, face (V, H, W) >= 0, and the observed mask both cover, and that
    either covers, where the mask is known.  # V, V"""
    views, height, width = face.shape
    x, y = np.arange(width), np.arange(height)
    known = outlines.known[:, :, None]
    within = ((y >= known[:, 1]) & (y <= known[:, 3]))[:, :, None] & ((x >= known[:, 0]) & (x <= known[:, 2]))[:, None]
    within &= ~outlines.blind[:, None, None]
    seen = face >= 0
    both = (seen & outlines.inside & within).reshape(views, -1).sum(1)
    either = ((seen | outlines.inside) & within).reshape(views, -1).sum(1)
    return both, either


def reach(points: np.ndarray, rig: Rig, outlines: Silhouettes) -> np.ndarray:
    """How far points (P, 3) lie within the pictures, metres: the mean over the seeing views, each bounded by ``SOFT``.

    Above zero, about half of the views know the point; below, the subject has left the pictures, and what the few views
    left say there is no measurement.  # P
    """
    out = np.zeros(len(points))
    usable = ~outlines.blind
    _reach(points, rig.matrix[usable], rig.focal[usable], outlines.distance[usable], outlines.known[usable], out)
    return out


@kernel
def _reach(points, matrix, focal, distance, known, out):
    for i in range(points.shape[0]):
        x, y, z = points[i]
        for v in range(matrix.shape[0]):
            m = matrix[v]
            w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            if w < 0.01:
                out[i] -= SOFT
                continue
            px = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
            py = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
            qx = min(max(px, known[v, 0]), known[v, 2])
            qy = min(max(py, known[v, 1]), known[v, 3])
            out[i] += inward(px, py, known[v], distance[v, int(qy + 0.5), int(qx + 0.5)], w / focal[v])
        out[i] /= max(matrix.shape[0], 1)


@kernel
def inward(px, py, known, value, metre) -> float:
    """How far inside (or outside, negative) a view's picture a pixel is, metres within +-SOFT; value: the signed
    distance of the mask there, or at the nearest pixel of the picture. Background at the border is guessed to go on as
    background, and is as well known as if it were inside; but a subject may widen out there, as shoulders do."""
    inside = min(px - known[0], known[2] - px, py - known[1], known[3] - py)
    if value <= 0.0:
        if inside >= 0.0:
            return SOFT
        inside -= _SURE * guessed(value, -inside)
    return min(max(inside * metre, -SOFT), SOFT)


@kernel
def guessed(value, beyond) -> float:
    """Pixels, not positive, to the nearest outline there can be as far beyond a picture whose border is background:
    value (negative) pixels from an outline. Nothing is known, zero, where a subject may be that widens by a pixel a
    pixel."""
    return min(value + beyond, 0.0)


def _known(view: View) -> tuple[float, float, float, float]:
    height, width = view.shape  # of a mask that may be on a device, where it is to stay
    if view.valid is None or view.valid.all():
        return 0.0, 0.0, width - 1.0, height - 1.0
    rows, cols = np.flatnonzero(view.valid.any(1)), np.flatnonzero(view.valid.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(cols[0]), float(rows[0]), float(cols[-1]), float(rows[-1])


def _continued(mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mask with what lies outside the known rectangle continued from its edge."""
    height, width = mask.shape
    x0, y0, x1, y1 = known.astype(int)
    if (x0, y0, x1, y1) == (0, 0, width - 1, height - 1):
        return mask
    cut = np.ascontiguousarray(mask[y0 : y1 + 1, x0 : x1 + 1])
    return cv2.copyMakeBorder(cut, y0, height - 1 - y1, x0, width - 1 - x1, cv2.BORDER_REPLICATE)
