"""How the whole head moved since the last frame: six parameters from the same rows as the vertices."""

from __future__ import annotations

import numpy as np

from fusion_server.surface.base import SurfaceSettings
from fusion_server.surface.refine import Observation, contours, fuse, sigma_normal
from fusion_server.surface.solve import Shape, Topology
from geometry.rasterize.base import Rasterizer

_STILL = 0.2e-3  # metres: a smaller step ends the search
_LARGEST = 0.5  # radians a step


def follow_rigid(
    vertices: np.ndarray,
    topology: Topology,
    observation: Observation,
    rasterizer: Rasterizer,
    settings: SurfaceSettings,
    rounds: int = 4,
    gate: float = 20.0,
) -> np.ndarray:
    """Vertices (P, 3) moved rigidly to fit normals and outlines.  # P,3

    Gauss-Newton: normals turn by omega x f for a small rotation omega, so that f x n sums to what is missing
    (surface-method.md, 9); contour points move by omega x (p - c) + t. gate: pixels of the observation's maps.
    """
    for n in range(rounds):
        shape = Shape.of(vertices, topology)
        raster = rasterizer.rasterize(shape.vertices, topology.faces, observation.cameras)
        fused = fuse(shape, raster, observation)
        rows = contours(shape, topology, raster, observation, gate, 10e-3, settings)
        center = shape.vertices.mean(0)
        system, right = np.zeros((6, 6)), np.zeros(6)
        weight = fused.weight / sigma_normal(fused, settings) ** 2
        f = shape.face_normals
        system[:3, :3] = weight.sum() * np.eye(3) - (weight[:, None] * f).T @ f
        right[:3] = (weight[:, None] * np.cross(f, fused.normal)).sum(0)
        if len(rows.edge):
            i, j = topology.edges[rows.edge].T
            share = rows.share[:, None]
            points = (1 - share) * shape.vertices[i] + share * shape.vertices[j]
            row = np.hstack([np.cross(points - center, rows.gradient), rows.gradient])  # n,6
            system += (rows.weight[:, None] * row).T @ row
            right += (rows.weight * rows.want) @ row
        system[np.diag_indices(6)] += 1e-9 * np.trace(system) + 1e-9
        step = np.linalg.solve(system, right)
        turn = step[:3] * min(1.0, _LARGEST / max(float(np.linalg.norm(step[:3])), 1e-12))
        moved = (shape.vertices - center) @ _rotation(turn).T + center + step[3:]
        largest = float(np.sqrt(((moved - vertices) ** 2).sum(1).max()))
        vertices = moved
        if largest < _STILL or (n > 0 and largest > 1.0):
            break
    return vertices


def _rotation(omega: np.ndarray) -> np.ndarray:
    """The rotation by a vector (Rodrigues).  # 3,3"""
    angle = float(np.linalg.norm(omega))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = omega / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
