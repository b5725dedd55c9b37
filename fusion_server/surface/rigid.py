"""How the whole head moved since the last frame: six parameters from normals and outlines.

A normal at a pixel changes in two ways when the surface moves: it turns, and another point of the surface comes to
the pixel. Leaving out the second makes every shift look like a turn. With it, and with the gradient taken from the
rendered surface (which has no noise) rather than from the observation, a few steps find motions of many pixels:
Lucas and Kanade's registration, inverse compositional (Baker and Matthews, IJCV 2004), on maps of normals.
"""

from __future__ import annotations

import numpy as np

from fusion_server.surface.base import SurfaceSettings
from fusion_server.surface.observation import Look, Observation, look
from fusion_server.surface.refine import contours
from fusion_server.surface.solve import Topology
from geometry.rasterize.base import Rasterizer

# Of one pixel's normal. Errors of a network's pixels are so alike that a thousand count as few, and far from the answer
# outlines lead there faster.
_SIGMAS = (2.0, 0.3)  # on maps of half the size, on the given ones
_GATE = 64.0  # of the finest maps' pixels, to either side of an outline
_SCALES = (40e-3, 10e-3)  # metres: contour residuals beyond it lose weight; on maps of half the size, on the given
_FAR = 2e-3  # metres: a larger first step is not to be trusted on fine maps
_NEAR = 1e-3  # metres: a smaller step ends the search on coarse maps
STILL = 0.2e-3  # metres: a smaller step ends the search
_ROUNDING = 1e-6  # metres: a smaller step is none; a larger one is taken, or the mesh would slide over a slow turn
_FARTHEST = 0.3  # metres: a larger step is no head and ends it too


def rigid_step(
    seen: Look,
    topology: Topology,
    settings: SurfaceSettings,
    scale: float = _SCALES[-1],
    sigma: float = _SIGMAS[-1],
) -> np.ndarray:
    """The small motion that fits normals and outlines best: rotation vector and translation about the mean vertex.  # 6

    scale: metres, contour residuals beyond it lose weight. sigma: of one pixel's normal, radians.
    """
    shape, o = seen.shape, seen.observation
    center = shape.vertices.mean(0)
    system, right = o.kernels.rigid_rows(shape, topology, seen.raster, o, center)
    system, right = system / sigma**2, right / sigma**2
    rows = contours(seen, topology, _GATE * o.scale, scale, settings)
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
    rounds: int = 2,
    before: Look | None = None,
    still: float = STILL,
) -> tuple[np.ndarray, Look]:
    """Vertices (P, 3) moved rigidly to fit an observation, ``rounds`` steps, and the last look taken on the way.

    Most frames find a head near where it was; only when it has gone far, maps of half the size are asked first, in as
    many steps.
    rest: (6,) the ``rigid_step`` that the last frame's maps wanted of that frame's own surface. Normals and masks never
    fit perfectly, and what they want of a surface at rest is error and no motion: it is subtracted, or the surface
    would creep away from where the pictures hold it. before: the last frame's look at its own surface, see ``look``.
    still: metres, a smaller step ends the search.
    """

    def moved(vertices: np.ndarray, maps: Observation, coarse: bool) -> tuple[np.ndarray, float, Look]:
        seen = look(vertices, topology, maps, rasterizer, before)
        step = rigid_step(seen, topology, settings, _SCALES[not coarse], _SIGMAS[not coarse])
        step = step if coarse else step - rest
        center = vertices.mean(0)
        there = (vertices - center) @ rotation(step[:3]).T + center + step[3:]
        way = there - vertices
        largest = float(np.sqrt(np.vecdot(way, way).max()))
        return (there, largest, seen) if largest < _FARTHEST else (vertices, 0.0, seen)

    there, largest, seen = moved(vertices, observation, coarse=False)
    if largest < _ROUNDING:
        return vertices, seen
    if largest > _FAR:
        halved = observation.coarser()
        for _ in range(rounds):
            vertices, largest, _ = moved(vertices, halved, coarse=True)
            if largest < _NEAR:
                break
        there, largest, seen = moved(vertices, observation, coarse=False)
    for _ in range(rounds - 1):
        if largest < still:
            break
        there, largest, seen = moved(there, observation, coarse=False)
    return there, seen


def rotation(omega: np.ndarray) -> np.ndarray:
    """The rotation by a vector (Rodrigues).  # 3,3"""
    angle = float(np.linalg.norm(omega))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = omega / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
