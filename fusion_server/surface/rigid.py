"""How the whole head moved since the last frame: six parameters from the same rows as the vertices."""

from __future__ import annotations

import numpy as np

from fusion_server.surface.base import SurfaceSettings
from fusion_server.surface.refine import Look, Observation, contours, look, sigma_normal
from fusion_server.surface.solve import Topology
from geometry.rasterize.base import Rasterizer

_STILL = 0.2e-3  # metres: a smaller step ends the search
_FARTHEST = 0.3  # metres: a larger step is no head and ends it too
_LARGEST = 0.5  # radians a step
_SCALE = 10e-3  # metres: contour residuals beyond it lose weight


def rigid_step(
    seen: Look, topology: Topology, observation: Observation, gate: float, settings: SurfaceSettings
) -> np.ndarray:
    """The small motion that fits normals and outlines best: rotation vector and translation about the mean vertex.

    Gauss-Newton: normals turn by omega x f for a small rotation omega, so f x n is what is missing
    (surface-method.md, 9); contour points move by omega x (p - c) + t. gate: pixels of the observation's maps.  # 6
    """
    shape, fused = seen.shape, seen.fused
    center = shape.vertices.mean(0)
    rows = contours(seen, topology, observation, gate, _SCALE, settings)
    system, right = np.zeros((6, 6)), np.zeros(6)
    weight = fused.weight / sigma_normal(fused, settings) ** 2
    f = shape.face_normals
    system[:3, :3] = weight.sum() * np.eye(3) - (weight[:, None] * f).T @ f
    right[:3] = weight @ np.cross(f, fused.normal)
    if len(rows.edge):
        i, j = topology.edges[rows.edge].T
        share = rows.share[:, None]
        points = (1 - share) * shape.vertices[i] + share * shape.vertices[j]
        row = np.hstack([np.cross(points - center, rows.gradient), rows.gradient])  # n,6
        system += (rows.weight[:, None] * row).T @ row
        right += (rows.weight * rows.want) @ row
    system[np.diag_indices(6)] += 1e-9 * np.trace(system) + 1e-9
    return np.linalg.solve(system, right)


def follow_rigid(
    vertices: np.ndarray,
    topology: Topology,
    observation: Observation,
    rasterizer: Rasterizer,
    settings: SurfaceSettings,
    rest: np.ndarray,
    rounds: int = 4,
    gate: float = 20.0,
) -> np.ndarray:
    """Vertices (P, 3) moved rigidly to fit an observation.  # P,3

    rest: the step (6,) that the last frame's own surface still wanted in the last frame. Normals and masks never fit
    perfectly, and what they want of a surface at rest is error and no motion: it is subtracted, or the surface would
    creep away from where the pictures hold it.
    """
    for _ in range(rounds):
        seen = look(vertices, topology, observation, rasterizer)
        step = rigid_step(seen, topology, observation, gate, settings) - rest
        step[:3] *= min(1.0, _LARGEST / max(float(np.linalg.norm(step[:3])), 1e-12))
        center = vertices.mean(0)
        moved = (vertices - center) @ _rotation(step[:3]).T + center + step[3:]
        largest = float(np.sqrt(((moved - vertices) ** 2).sum(1).max()))
        if largest > _FARTHEST:
            break
        vertices = moved
        if largest < _STILL:
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
