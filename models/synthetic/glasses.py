"""Glasses and earrings, fitted to a posed head by where its eyes, its nose and its ears are."""

from __future__ import annotations

import numpy as np

from models.synthetic.materials import random_color
from models.synthetic.render import Surface
from models.synthetic.shapes import Shape, tube
from models.synthetic.surfaces import join
from models.synthetic.topology import Sites, smooth_normals


def glasses(rng: np.random.Generator, vertices: np.ndarray, sites: Sites) -> Surface:
    """A frame with temples, and in one of four dark lenses.

    vertices (P, 3) of the posed head, all of them, and the ``sites`` of the same vertices.
    """
    middle, axes = _face_frame(vertices, sites)
    local = (vertices - middle) @ axes
    skin = local[sites.skin & (np.abs(local[:, 0]) < 0.09) & (np.abs(local[:, 1]) < 0.07)]
    face = skin[skin[:, 2] > -0.03]
    half = np.linalg.norm(vertices[sites.part == 3].mean(0) - vertices[sites.part == 4].mean(0)) / 2
    a, b, power = rng.uniform(0.021, 0.029), rng.uniform(0.014, 0.025), rng.uniform(2, 5)
    cx, cy = max(half + rng.normal(0.001, 0.001), a + 0.006), rng.uniform(-0.006, 0.002)
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    reach = (np.abs(np.cos(turn)) ** power + np.abs(np.sin(turn)) ** power) ** (-1 / power)
    rim = np.stack([cx + a * reach * np.cos(turn), cy + b * reach * np.sin(turn)], 1)
    wrap = rng.uniform(0.5, 2.5)
    bend = lambda x: -wrap * x * x  # noqa: E731
    # The frame rests where skin comes nearest: on the nose or the brows.
    under = face[(np.abs(face[:, 0]) < cx + a) & (np.abs(face[:, 1] - cy) < 0.4 * b) & (np.abs(face[:, 0]) > 0.006)]
    z = float(np.max(under[:, 2] - bend(under[:, 0]), initial=0.0)) + rng.uniform(0.0, 0.004)
    radius = rng.choice([rng.uniform(0.0006, 0.0011), rng.uniform(0.0012, 0.0026)])
    shapes: list[Shape] = []
    lenses: list[Shape] = []
    dark = rng.random() < 0.25
    for side in (-1, 1):
        loop = np.stack([side * rim[:, 0], rim[:, 1], z + bend(rim[:, 0])], 1)
        shapes.append(tube(loop, radius, 8, closed=True))
        if dark:
            lenses.append(_lens(loop, side))
        corner = np.array([side * (cx + a), cy + 0.35 * b, z + bend(cx + a)])
        shapes.append(tube(_temple(corner, side, local, sites), radius * rng.uniform(0.9, 1.4), 8))
    inner = cx - a
    x = np.linspace(-inner, inner, 9)
    arch = np.stack([x, cy + 0.3 * b + 0.003 * (1 - (x / inner) ** 2), z + 0.002 * (1 - (x / inner) ** 2)], 1)
    shapes.append(tube(arch, radius, 8))
    color = random_color(rng, (0.01, 0.5))
    gloss = np.float32([rng.uniform(0.2, 1.2), rng.uniform(0.15, 0.5), 0, 0.9])
    pieces = [_solid(shape, color, gloss) for shape in shapes]
    pieces += [_solid(shape, (0.015, 0.015, 0.018), np.float32([0.8, 0.12, 0, 1])) for shape in lenses]
    frame = join(pieces)
    placed = (frame.vertices @ axes.T + middle).astype(np.float32)
    normals = (frame.normals @ axes.T).astype(np.float32)
    return Surface(placed, frame.faces, normals, frame.albedo, frame.material, frame.grain, fine=True)


def earrings(rng: np.random.Generator, vertices: np.ndarray, sites: Sites) -> Surface:
    """A stud or a ring below each ear lobe; arguments as for ``glasses``."""
    size, ring = rng.uniform(0.0025, 0.006), rng.random() < 0.6
    color, gloss = random_color(rng, (0.1, 0.8)), np.float32([rng.uniform(0.5, 2), rng.uniform(0.2, 0.4), 0, 1])
    pieces = []
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    hoop = rng.uniform(0.005, 0.02)
    for side in (-1, 1):
        ear = vertices[(sites.ear > 0.6) & (sites.points[:, 0] * side > 0)]
        lobe = ear[ear[:, 1].argmin()] + [0.002 * side, 0, 0]
        if ring:
            path = lobe + np.stack([0 * turn, hoop * (np.cos(turn) - 1), hoop * np.sin(turn)], 1)
            pieces.append(_solid(tube(path, size * 0.4, 8, closed=True), color, gloss))
        else:
            span = np.linspace(-1, 1, 9) * size
            path = lobe + np.stack([0 * span, span - size, 0 * span], 1)
            width = np.sqrt(np.clip(size**2 - span**2, (0.1 * size) ** 2, None))
            pieces.append(_solid(tube(path, width, 12), color, gloss))
    return join(pieces)


def _face_frame(vertices, sites: Sites) -> tuple[np.ndarray, np.ndarray]:
    """The middle between the eyes and the axes left, up, forward as columns, of a posed head."""
    left, right = (vertices[sites.part == part].mean(0) for part in (3, 4))
    x = (left - right) / np.linalg.norm(left - right)
    ears = vertices[(sites.ear > 0.6)].mean(0)
    middle = (left + right) / 2
    forward = middle - ears
    forward -= (forward @ x) * x
    forward /= np.linalg.norm(forward)
    up = np.cross(forward, x)
    # Eyes lie some 2 cm above and 8 cm before the middle of the ears: take that lean out.
    lean = np.arctan2(0.021, 0.08)
    z = np.cos(lean) * forward - np.sin(lean) * up
    return middle, np.stack([x, np.cross(z, x), z], 1)


def _temple(corner, side: int, local, sites: Sites) -> np.ndarray:
    """From the frame's corner back over the ear and down behind it.  # N,3 in the face's frame"""
    ear = local[(sites.ear > 0.5) & (local[:, 0] * side > 0)]
    top = ear[ear[:, 1].argmax()]
    way = np.linspace(0, 1, 10)[:, None]
    back = np.array([top[0], top[1] + 0.001, top[2] - 0.004])
    path = corner + way * (back - corner)
    beside = local[
        sites.skin & (sites.ear < 0.1) & (local[:, 0] * side > 0) & (np.abs(local[:, 1] - corner[1]) < 0.012)
    ]
    for k, point in enumerate(path):
        near = beside[np.abs(beside[:, 2] - point[2]) < 0.008]
        if len(near):
            path[k, 0] = side * max(abs(point[0]), np.abs(near[:, 0]).max() + 0.002)
    hook = path[-1] + np.array([[0, -0.008, -0.008], [-side * 0.002, -0.026, -0.014]])
    return np.vstack([path, hook])


def _lens(loop, side: int) -> Shape:
    """A slightly domed disc within the rim, seen from the front."""
    middle = loop.mean(0)
    rings = [middle + (loop - middle) * share + [0, 0, 0.002 * (1 - share**2)] for share in (0.98, 0.6, 0.25)]
    vertices = np.vstack([*rings, middle + [0, 0, 0.002]])
    n = len(loop)
    i, j = np.arange(n), (np.arange(n) + 1) % n
    faces = [np.stack([i + k * n, j + k * n, i + (k + 1) * n], 1) for k in range(2)]
    faces += [np.stack([j + k * n, j + (k + 1) * n, i + (k + 1) * n], 1) for k in range(2)]
    faces.append(np.stack([i + 2 * n, j + 2 * n, np.full(n, 3 * n)], 1))
    turned = np.concatenate(faces).astype(np.int32)
    return vertices.astype(np.float32), turned if side > 0 else turned[:, ::-1].copy()


def _solid(shape: Shape, color, gloss) -> Surface:
    vertices, faces = shape
    count = len(vertices)
    return Surface(
        vertices,
        faces,
        smooth_normals(vertices, faces),
        np.tile(np.float32(color), (count, 1)),
        np.tile(gloss, (count, 1)),
    )
