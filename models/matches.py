"""Which pixels of two views show the same point of a surface, out of depth maps. Pure numpy.

Evaluation asks it to say how far views disagree, training to make them agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, eq=False)
class Matches:
    """N surface points, each at a whole pixel of its first view and between four pixels of its second."""

    views: np.ndarray  # N,2 first and second view
    pixel: np.ndarray  # N,2 row, column in the first
    corner: np.ndarray  # N,2 row, column of the upper left of the four pixels in the second
    beyond: np.ndarray  # N,2 how far beyond it, 0 to 1 of a pixel, down and right

    def sample_first(self, maps: np.ndarray) -> np.ndarray:
        """What the first views say: maps (V, H, W, C) -> (N, C)."""
        return maps[self.views[:, 0], self.pixel[:, 0], self.pixel[:, 1]]

    def sample_second(self, maps: np.ndarray) -> np.ndarray:
        """What the second views say, between their four pixels: maps (V, H, W, C) -> (N, C)."""
        down, right = self.beyond[:, :1], self.beyond[:, 1:]
        row, column = self.corner.T
        out = 0
        for y, x, weight in _corners(down, right):
            out = out + weight * maps[self.views[:, 1], row + y, column + x]
        return np.asarray(out)

    def nearest_pixels(self, height: int, width: int) -> np.ndarray:
        """Places in flat maps (V, H, W) of the first view's pixel and of the nearest in the second.  # N,2"""
        second = self.corner + np.rint(self.beyond).astype(int)
        places = np.stack([self.pixel, second], 1)  # N,2,2
        return (self.views * height + places[..., 0]) * width + places[..., 1]


def surface_matches(
    depth: np.ndarray, normal: np.ndarray, K: np.ndarray, R: np.ndarray, t: np.ndarray, step: int = 2
) -> Matches:
    """Every ``step``-th pixel of a view carried into each later view that sees the same point.

    depth: (V, H, W) metres along z, 0 where nothing is; normal: (V, H, W, 3) the surface's own, in camera frames; K, R
    (V, 3, 3), t (V, 3): pinholes. A point counts where it faces both views (a thin sheet seen from both sides is two
    surfaces) and nothing hides it: the four pixels around its place must have depth and lie, interpolated, within one
    pixel's footprint of it.
    """
    depth = np.asarray(depth, np.float64)
    eyes = -np.einsum("vji,vj->vi", R, t)
    height, width = depth.shape[1:]
    rows, columns = (index * step for index in np.indices(((height - 1) // step + 1, (width - 1) // step + 1)))
    found: list[tuple[np.ndarray, ...]] = []
    for a, b in combinations(range(len(depth)), 2):
        z = depth[a, rows, columns]
        hit = z > 0
        y, x, z = rows[hit], columns[hit], z[hit]
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K[a]).T
        points = (rays * z[:, None] - t[a]) @ R[a]  # N,3 world
        facing = ((normal[a][y, x] @ R[a]) * (eyes[b] - points)).sum(-1) > 0
        there = points @ R[b].T + t[b]
        ahead = np.maximum(there[:, 2], 1e-9)
        at = (there / ahead[:, None]) @ K[b].T
        left, top = np.floor(at[:, 0]), np.floor(at[:, 1])
        inside = facing & (there[:, 2] > 0) & (left >= 0) & (top >= 0) & (left < width - 1) & (top < height - 1)
        y, x, ahead = y[inside], x[inside], ahead[inside]
        corner = np.stack([top[inside], left[inside]], -1).astype(int)
        beyond = at[inside, 1::-1] - corner
        depths, far = [], 0
        for down, right, weight in _corners(beyond[:, 0], beyond[:, 1]):
            depths.append(depth[b][corner[:, 0] + down, corner[:, 1] + right])
            far = far + weight * depths[-1]
        shown = (np.min(depths, axis=0) > 0) & (np.abs(far - ahead) < ahead / K[b, 0, 0])
        pair = np.broadcast_to([a, b], (np.count_nonzero(shown), 2))
        found.append((pair, np.stack([y, x], -1)[shown], corner[shown], beyond[shown]))
    if not found:
        nothing = np.zeros((0, 2), int)
        return Matches(nothing, nothing, nothing, nothing.astype(float))
    return Matches(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _corners(down: np.ndarray, right: np.ndarray) -> tuple[tuple[int, int, np.ndarray], ...]:
    """Row and column steps to the four pixels around a place, and their bilinear weights."""
    return (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    )
