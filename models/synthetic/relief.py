"""Fine relief of a face: wrinkles that follow age and expression, eyelid creases, lips, scars, moles.

Grooves are drawn as lines on a map of the average adult's face (azimuth times the head's radius, and height; 0.6 mm a
pixel), blurred to their width, and read where the vertices lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import cv2
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from models.synthetic.noise import fbm
from models.synthetic.topology import Sites, topology

_PIXEL = 0.0006
_WIDE, _LOW, _HIGH = 0.15, -0.16, 0.11  # the map's reach in metres: sideways, down, up
_AXIS, _RADIUS = 0.0, 0.09
_EYE = (0.0288, 0.0092)


class FaceMap:
    """A height map over the face; metres, 0 where nothing was drawn."""

    def __init__(self) -> None:
        self.height = np.zeros((int((_HIGH - _LOW) / _PIXEL), int(2 * _WIDE / _PIXEL)), np.float32)

    def line(self, path: np.ndarray, depth: float, width: float, swell: float = 0.5) -> None:
        """A groove along ``path`` (N, 2: x and y on the average face), ``depth`` deep and ``width`` wide, tapering.

        swell: how far the skin beside it rises, as a share of the depth. A negative depth is a ridge.
        """
        t = np.linspace(0, len(path) - 1, 14)
        x, y = (np.interp(t, np.arange(len(path)), path[:, k]) for k in range(2))
        pixels = self._pixels(x, y)
        pad = int(6 * width / _PIXEL) + 4
        low, high = pixels.min(0).astype(int) - pad, pixels.max(0).astype(int) + pad
        low, high = np.maximum(low, 0), np.minimum(high, self.height.shape[::-1])
        if (high - low < 3).any():
            return
        patch = np.zeros((high[1] - low[1], high[0] - low[0]), np.float32)
        strength = np.sin(np.pi * np.clip(np.linspace(0.08, 0.92, 13), 0, 1)) ** 0.7
        for a, b, s in zip(pixels[:-1] - low, pixels[1:] - low, strength, strict=True):
            cv2.line(
                patch, tuple(np.rint(a * 8).astype(int)), tuple(np.rint(b * 8).astype(int)), float(s), 1, cv2.LINE_AA, 3
            )
        sigma = max(width / 2.5 / _PIXEL, 0.6)
        groove = cv2.GaussianBlur(patch, (0, 0), sigma)
        peak = float(groove.max())
        if peak <= 0:
            return
        groove = groove / peak - swell * cv2.GaussianBlur(groove / peak, (0, 0), 2.2 * sigma)
        self.height[low[1] : high[1], low[0] : high[0]] -= np.float32(depth) * groove

    def spot(self, x: float, y: float, height: float, radius: float) -> None:
        """A bump, or with a negative height a pit."""
        ((column, row),) = self._pixels(np.array([x]), np.array([y]))
        r = int(3 * radius / _PIXEL) + 2
        ys, xs = np.mgrid[-r : r + 1, -r : r + 1]
        bump = np.float32(height) * np.exp(-((np.hypot(xs, ys) * _PIXEL / radius) ** 2) * 1.5)
        row, column = int(row), int(column)
        part = self.height[max(row - r, 0) : row + r + 1, max(column - r, 0) : column + r + 1]
        part += bump[: part.shape[0], : part.shape[1]]

    def read(self, points: np.ndarray) -> np.ndarray:
        """The height at points (P, 3) of the average adult.  # P float32"""
        u = np.arctan2(points[:, 0], points[:, 2] - _AXIS) * _RADIUS
        at = np.stack([(_HIGH - points[:, 1]) / _PIXEL, (u + _WIDE) / _PIXEL])
        return map_coordinates(self.height, at, order=1, mode="constant")

    @staticmethod
    def _pixels(x, y) -> np.ndarray:
        tree, depth = _front()
        z = depth[tree.query(np.stack([x, y], 1))[1]]
        return np.stack([(np.arctan2(x, z - _AXIS) * _RADIUS + _WIDE) / _PIXEL, (_HIGH - y) / _PIXEL], 1)


@cache
def _front() -> tuple[cKDTree, np.ndarray]:
    sites = topology().sites[1]
    points = sites.points[sites.skin & (sites.points[:, 2] > 0.0)]
    return cKDTree(points[:, :2]), points[:, 2]


def face_relief(
    rng: np.random.Generator, sites: Sites, amount: float, actions: Mapping[str, float], depth: float = 1.0
) -> np.ndarray:
    """Relief in metres along the normal for the vertices of ``sites``.  # P float32

    amount: 0 a child to 1 very old. actions: ARKit names to 0..1, which deepen the wrinkles that they fold.
    depth multiplies everything: a carver exaggerates.
    """
    act = lambda *names: max((actions.get(name, 0.0) for name in names), default=0.0)  # noqa: E731
    face = FaceMap()
    mm = 1e-3 * depth
    noise = lambda size: rng.normal(0, size)  # noqa: E731

    def both(path, size: float, width: float, swell: float = 0.5) -> None:
        for side in (-1, 1):
            shaken = np.array(path) + rng.normal(0, 0.0006, (len(path), 2))
            face.line(shaken * [side, 1], size * rng.uniform(0.7, 1.3), width, swell)

    lifted = 0.15 * rng.random() + amount + 1.1 * act("browInnerUp", "browOuterUpLeft")
    for k in range(rng.integers(2, 6)):
        y = 0.043 + 0.0085 * k + noise(0.001)
        x = np.linspace(-1, 1, 7) * rng.uniform(0.02, 0.045)
        wave = 0.003 * np.cos(x / 0.015 + noise(0.6)) + rng.normal(0, 0.0007, 7)
        face.line(np.stack([x, y + wave], 1), 0.55 * mm * lifted * rng.uniform(0.4, 1.2), rng.uniform(0.0018, 0.0035))
    frown = 0.1 + 0.7 * amount + 1.2 * act("browDownLeft", "browDownRight")
    both([[0.006, 0.016], [0.0075, 0.028], [0.006 + noise(0.001), 0.041]], 0.6 * mm * frown, 0.0025)
    squint = 0.8 * amount + act("eyeSquintLeft", "mouthSmileLeft", "cheekSquintLeft")
    for angle in np.radians([24, 4, -16, -34])[: rng.integers(2, 5)]:
        reach = rng.uniform(0.009, 0.02)
        start = np.array([0.0455, _EYE[1] - 0.001]) + 0.003 * np.array([np.cos(angle), np.sin(angle)])
        end = start + reach * np.array([np.cos(angle), np.sin(angle)])
        both([start, (start + end) / 2 + [0, -0.0008], end], 0.45 * mm * squint, 0.0016)
    turn = np.linspace(np.radians(200), np.radians(345), 7)
    for reach, size in ((0.0125, 0.3), (0.0185, 0.5)):  # under the eyes
        path = np.stack([_EYE[0] + 1.25 * reach * np.cos(turn), _EYE[1] + reach * np.sin(turn)], 1)
        both(path, size * mm * (0.2 * rng.random() + amount + 0.5 * squint), rng.uniform(0.0018, 0.0035), 0.9)
    if rng.random() < 0.75:  # the crease of the upper lid
        turn = np.linspace(np.radians(20), np.radians(165), 8)
        height = rng.uniform(0.0085, 0.0115)
        path = np.stack([_EYE[0] + 0.0165 * np.cos(turn), _EYE[1] + 0.0005 + height * np.sin(turn)], 1)
        both(path, mm * rng.uniform(0.4, 1.3), rng.uniform(0.0011, 0.0019), 0.8)
    smile = 0.25 + 0.9 * amount + 0.9 * act("mouthSmileLeft", "mouthSmileRight", "noseSneerLeft", "mouthStretchLeft")
    both(
        [[0.0185, -0.031], [0.026, -0.042], [0.031, -0.056], [0.032, -0.068 + noise(0.004)]],
        1.1 * mm * smile,
        0.004,
        0.9,
    )
    sad = 0.8 * amount + 0.8 * act("mouthFrownLeft")
    both([[0.025, -0.061], [0.0275, -0.072], [0.027, -0.086]], 0.7 * mm * sad, 0.003, 0.8)
    face.line(np.stack([np.linspace(-0.014, 0.014, 5), -0.0805 + 0.003 * np.array([-1, 0.4, 0.8, 0.4, -1])], 1),
              mm * rng.uniform(0, 0.9), 0.004, 0.6)  # fmt: skip
    for y in (-0.118, -0.134):
        x = np.linspace(-0.045, 0.045, 7)
        line = np.stack([x, y + 0.006 * (x / 0.045) ** 2 + noise(0.002)], 1)
        face.line(line, mm * rng.uniform(0, 0.8) * (0.3 + amount), 0.004)
    if rng.random() < 0.15:
        for _ in range(rng.integers(1, 4)):  # scars
            start = rng.uniform([-0.05, -0.09], [0.05, 0.07])
            bend = start + rng.normal(0, 0.012, 2)
            path = np.array([start, bend, bend + rng.normal(0, 0.01, 2)])
            face.line(path, mm * rng.normal(0, 0.6), rng.uniform(0.001, 0.003), 0.3)
    for _ in range(rng.choice([0, rng.integers(1, 5), rng.integers(5, 25)], p=[0.5, 0.35, 0.15])):  # moles, spots, pits
        x, y = rng.uniform([-0.06, -0.12], [0.06, 0.08])
        face.spot(x, y, mm * rng.normal(0.15, 0.4), rng.uniform(0.0012, 0.003))
    points = sites.points
    out = face.read(points) * (points[:, 2] > -0.05)
    lips = sites.lips
    grooves = fbm(points * np.float32([1, 0.12, 0.3]), rng.uniform(350, 600), 2, int(rng.integers(1 << 30)))
    pucker = 1 + 2 * act("mouthPucker", "mouthFunnel") + amount
    out += lips * np.float32(0.12 * mm * pucker * rng.random()) * grooves
    out += 4 * lips * (1 - lips) * np.float32(mm * rng.uniform(0.0, 0.5))  # the rim of the lips
    return (out * sites.skin).astype(np.float32)
