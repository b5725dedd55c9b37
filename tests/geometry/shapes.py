"""Meshes small enough to draw, and a camera to draw them with."""

from __future__ import annotations

import numpy as np

from geometry.mesh import Mesh
from protocol.calibration import Camera


def tetrahedron() -> Mesh:
    """Corners at the origin and one metre along each axis."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return Mesh(vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32))


def square() -> Mesh:
    """Two triangles in the plane z = 0, from (0, 0) to (1, 1), seen from +z."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]))


def octahedron_sphere(times: int, radius: float = 1.0) -> Mesh:
    """A sphere of 8 * 4**times faces."""
    vertices = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]], np.int32)
    for _ in range(times):
        sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2), axis=1)
        pairs, middle = np.unique(sides, axis=0, return_inverse=True)
        ab, bc, ca = middle.reshape(-1, 3).T + len(vertices)
        a, b, c = faces.T
        vertices = np.vstack([vertices, vertices[pairs].mean(1)])
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
        faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return Mesh(vertices * radius, faces.astype(np.int32))


def torus(rings: int = 40, sides: int = 20, major: float = 1.0, minor: float = 0.4) -> Mesh:
    """A torus about the z axis."""
    u, v = np.meshgrid(np.arange(rings) * 2 * np.pi / rings, np.arange(sides) * 2 * np.pi / sides, indexing="ij")
    radius = major + minor * np.cos(v)
    vertices = np.stack([radius * np.cos(u), radius * np.sin(u), minor * np.sin(v)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(rings), np.arange(sides), indexing="ij")
    at = lambda a, b: ((a % rings) * sides + b % sides).ravel()  # noqa: E731
    first = np.stack([at(i, j), at(i + 1, j), at(i + 1, j + 1)], 1)
    second = np.stack([at(i, j), at(i + 1, j + 1), at(i, j + 1)], 1)
    return Mesh(vertices, np.concatenate([first, second]).astype(np.int32))


def camera(eye, size=48, focal=60.0, height=None) -> Camera:
    """Looks from an eye (3,) at the origin; its pixels are not square, its middle is not the picture's."""
    eye = np.asarray(eye, float)
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    height = height or size
    K = np.array([[focal, 0, (size - 1) / 2 + 0.3], [0, focal * 1.1, (height - 1) / 2], [0, 0, 1]])
    return Camera("c", size, height, K, np.zeros(5), R, -R @ eye)
