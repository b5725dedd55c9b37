"""Which parts of a surface the cameras see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geometry.cameras import project
from geometry.mesh import Mesh
from geometry.rasterize.base import Rasterizer
from protocol.calibration import Camera

SLACK = 2e-3  # metres: a vertex this little behind what its pixel shows is on it, not behind it


def views_of(vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera], rasterizer: Rasterizer) -> np.ndarray:
    """How many cameras see each vertex (P,): inside the picture, and hidden by nothing.  # P int

    Cameras are pinholes and may differ in size. vertices: (P, 3) world metres; faces: (F, 3).
    """
    count = np.zeros(len(vertices), int)
    for camera in cameras:
        depth = rasterizer.rasterize(vertices, faces, [camera]).depth[0]  # H,W
        pixels, away = project(camera, vertices)
        column, row = np.rint(pixels).astype(int).T
        inside = (away > 0) & (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
        shown = depth[row[inside], column[inside]]
        # An empty pixel at the outline is no wall: the vertex there is the outline.
        count[inside] += (shown == 0) | (away[inside] <= shown + SLACK)
    return count


def seen_part(mesh: Mesh, cameras: Sequence[Camera], rasterizer: Rasterizer, by: int) -> Mesh:
    """The faces that so many cameras see (``seen_faces``), with all vertices of the mesh."""
    return Mesh(mesh.vertices, mesh.faces[seen_faces(mesh, cameras, rasterizer, by)])


def seen_faces(mesh: Mesh, cameras: Sequence[Camera], rasterizer: Rasterizer, by: int) -> np.ndarray:
    """Of which faces all corners are seen by so many cameras (``views_of``).  # F bool"""
    return (views_of(mesh.vertices, mesh.faces, cameras, rasterizer) >= by)[mesh.faces].all(1)
