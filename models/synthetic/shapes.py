"""Things that are no plain head: smooth solids, hats, plinths. They teach the network surfaces instead of one face.

Every function gives vertices (P, 3) metres and faces (F, 3) int32, counter-clockwise from outside, about a head's size.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from models.synthetic.noise import fbm
from models.synthetic.topology import smooth_normals

Shape = tuple[np.ndarray, np.ndarray]


def random_solid(rng: np.random.Generator) -> Shape:
    """A lumpy ball, a superquadric or a melt of balls, capsules and rings, 0.2 to 0.3 m wide, about the origin."""
    kind = rng.choice(["lumps", "quadric", "melt", "melt"])
    if kind == "lumps":
        return _lumps(rng)
    if kind == "quadric":
        return _quadric(rng)
    return _melt(rng)


@cache
def _ball(level: int) -> Shape:
    ball = trimesh.creation.icosphere(level)
    return np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32)


def _lumps(rng) -> Shape:
    direction, faces = _ball(6)
    seed = int(rng.integers(1 << 30))
    radius = 1 + rng.uniform(0.1, 0.5) * fbm(direction, rng.uniform(0.8, 2.5), 3, seed, rng.uniform(0.2, 0.5))
    ridges = rng.choice([0.0, rng.uniform(0.02, 0.12)])
    radius += ridges * (1 - 2 * np.abs(fbm(direction, rng.uniform(2, 6), 2, seed + 3)))
    vertices = direction * np.clip(radius, 0.3, 2)[:, None] * rng.uniform(0.7, 1.3, 3) * 0.11
    return vertices.astype(np.float32), faces


def _quadric(rng) -> Shape:
    direction, faces = _ball(6)
    power = rng.uniform(0.8, 8, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(1, 10))
    size = rng.uniform(0.06, 0.14, 3)
    unit = direction / np.abs(direction).max(1, keepdims=True)
    reach = (np.abs(unit) ** power).sum(1) ** (-1 / power.mean())
    vertices = unit * reach[:, None] * size
    twist = rng.choice([0.0, rng.normal(0, 8)])
    angle = twist * vertices[:, 1]
    taper = 1 + rng.choice([0.0, rng.uniform(-4, 4)]) * vertices[:, 1]
    x, z = vertices[:, 0] * taper, vertices[:, 2] * taper
    turned = np.stack([x * np.cos(angle) - z * np.sin(angle), vertices[:, 1], x * np.sin(angle) + z * np.cos(angle)], 1)
    return turned.astype(np.float32), faces


def _melt(rng) -> Shape:
    """Balls, capsules, boxes and rings joined by a smooth minimum (Quilez), with holes cut by a smooth maximum."""
    size = 56
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    field = np.full((size,) * 3, 2.0, np.float32)
    blend = np.float32(rng.uniform(0.03, 0.25))
    for number in range(rng.integers(3, 9)):
        center = rng.normal(0, 0.3, 3).astype(np.float32).clip(-0.55, 0.55)
        radius = np.float32(rng.uniform(0.12, 0.4))
        kind = rng.integers(4)
        away = grid - center
        if kind == 0:
            distance = np.sqrt((away * away).sum(-1)) - radius
        elif kind == 1:
            along = rng.normal(size=3).astype(np.float32)
            along *= np.float32(0.4) / np.linalg.norm(along)
            share = np.clip((away @ along) / (along @ along), -1, 1)
            rest = away - share[..., None] * along
            distance = np.sqrt((rest * rest).sum(-1)) - radius * np.float32(0.5)
        elif kind == 2:
            half = rng.uniform(0.1, 0.35, 3).astype(np.float32)
            out = np.abs(away @ _rotation(rng)) - half
            distance = np.linalg.norm(np.maximum(out, 0), axis=-1) + np.minimum(out.max(-1), 0) - np.float32(0.03)
        else:
            turned = away @ _rotation(rng)
            ring = np.sqrt(turned[..., 0] ** 2 + turned[..., 2] ** 2) - radius - np.float32(0.1)
            distance = np.sqrt(ring * ring + turned[..., 1] ** 2) - radius * np.float32(0.3)
        if number >= 3 and rng.random() < 0.25:
            field = -_smooth_min(-field, distance, blend)
        else:
            field = _smooth_min(field, distance, blend)
    field[[0, -1]], field[:, [0, -1]], field[:, :, [0, -1]] = 0.1, 0.1, 0.1
    if field.min() > -0.05:
        return _lumps(rng)
    vertices, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="descent")
    vertices = (vertices / (size - 1) * 2 - 1) * 0.16
    return vertices.astype(np.float32), faces.astype(np.int32)


def _smooth_min(a, b, blend):
    share = np.maximum(blend - np.abs(a - b), 0) / blend
    return np.minimum(a, b) - share * share * blend * np.float32(0.25)


def _rotation(rng) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def lathe(profile: np.ndarray, turns: int = 96) -> Shape:
    """A solid of revolution about Y. profile (N, 2): radius and height from bottom to top, closed at both ends."""
    angle = np.linspace(0, 2 * np.pi, turns, endpoint=False)
    ring = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], 1)
    vertices = np.concatenate([ring * radius + [0, height, 0] for radius, height in profile])
    low, high = profile[0], profile[-1]
    vertices = np.vstack([vertices, [0, low[1], 0], [0, high[1], 0]])
    i = np.arange(turns)
    j = (i + 1) % turns
    faces = []
    for k in range(len(profile) - 1):
        a, b = k * turns + i, k * turns + j
        faces += [np.stack([a, a + turns, b], 1), np.stack([b, a + turns, b + turns], 1)]
    bottom, top = len(vertices) - 2, len(vertices) - 1
    last = (len(profile) - 1) * turns
    faces += [np.stack([i, j, np.full(turns, bottom)], 1), np.stack([last + j, last + i, np.full(turns, top)], 1)]
    return vertices.astype(np.float32), np.concatenate(faces).astype(np.int32)


def tube(path: np.ndarray, radius, sides: int = 8, closed: bool = False) -> Shape:
    """A tube about ``path`` (N, 3); radius is one number or N. Ends are open; closed joins the last to the first."""
    path = np.asarray(path, np.float64)
    count = len(path)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    middle = path.mean(0)
    toward = path - middle if closed else np.tile([0.31, 0.9, 0.29], (count, 1))
    side = np.cross(tangent, toward)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-12
    up = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    ring = np.cos(angle) * side[:, None] + np.sin(angle) * up[:, None]
    vertices = path[:, None] + np.broadcast_to(radius, count)[:, None, None] * ring
    i = np.arange(sides)
    j = (i + 1) % sides
    band = np.concatenate([np.stack([i, i + sides, j], 1), np.stack([j, i + sides, j + sides], 1)])
    faces = (band[None] + (np.arange(count if closed else count - 1) * sides)[:, None, None]).reshape(-1, 3)
    return vertices.reshape(-1, 3).astype(np.float32), (faces % (count * sides)).astype(np.int32)


def hat(rng: np.random.Generator, radius: tuple[float, float]) -> Shape:
    """Headgear standing on y = 0 about the Y axis: a crown, cylinder, cone, brimmed hat, turban or helmet.

    radius: half width and half depth in metres of the head where it sits.
    """
    height = rng.uniform(0.04, 0.2)
    top = rng.choice([rng.uniform(0.75, 1.0), rng.uniform(1.0, 1.35), rng.uniform(0.2, 0.7)], p=[0.4, 0.35, 0.25])
    rise = np.linspace(0, 1, 24)
    belly = rng.choice([0.0, rng.normal(0, 0.15)])
    sides = 1 + (top - 1) * rise ** rng.uniform(0.6, 1.8) + belly * np.sin(np.pi * rise)
    dome = rng.choice([0.0, rng.uniform(0.02, 0.08)])
    profile = np.stack([sides, height * rise], 1)
    edge = np.linspace(0.95, 0.02, 10)
    crown = np.stack([sides[-1] * edge, height + dome * np.sqrt(1 - edge**2) + 0.004], 1)
    parts = [profile, crown]
    if rng.random() < 0.35:  # a brim
        wide, droop = rng.uniform(1.2, 1.9), rng.uniform(-0.03, 0.02)
        out = np.linspace(1.0, wide, 8)
        under = np.stack([out, droop * (out - 1) / (wide - 1) - 0.004], 1)
        over = np.stack([out[::-1], droop * (out[::-1] - 1) / (wide - 1) + 0.004], 1)
        parts = [under, over, profile[2:], crown]
    elif rng.random() < 0.4:  # bands and rolls
        rolls = rng.integers(1, 6)
        profile[:, 0] += rng.uniform(0.02, 0.08) * np.abs(np.sin(np.pi * rolls * rise))
    profile = np.concatenate(parts)
    profile = np.concatenate([np.stack([np.linspace(0.05, 0.95, 6), np.full(6, profile[0, 1])], 1), profile])
    vertices, faces = lathe(profile)
    vertices = vertices * np.float32([radius[0], 1, radius[1]])
    points = rng.choice([0.0, rng.uniform(0.1, 0.5)])
    if points and height > 0.06:  # a king's crown: the upper edge in points
        around = np.arctan2(vertices[:, 2], vertices[:, 0])
        vertices[:, 1] *= 1 - points * (0.5 - 0.5 * np.cos(around * rng.integers(4, 10)))
    lean = rng.uniform(-0.9, 0.2)
    vertices[:, 2] += lean * np.clip(vertices[:, 1], 0, 1) * rng.random()
    if rng.random() < 0.5:
        normals = smooth_normals(vertices, faces)
        vertices = (
            vertices
            + normals
            * (rng.uniform(0.0005, 0.005) * fbm(vertices, rng.uniform(15, 60), 3, int(rng.integers(1 << 30))))[:, None]
        )
    return vertices.astype(np.float32), faces


def plinth(rng: np.random.Generator) -> Shape:
    """A base standing below y = 0, to be moved under a bust."""
    height = rng.uniform(0.05, 0.25)
    count = rng.integers(3, 7)
    heights = np.sort(rng.uniform(0, 1, count))
    radii = rng.uniform(0.5, 1.2, count) * rng.uniform(0.06, 0.14)
    at = np.linspace(0, 1, 60)
    stepped = (
        np.interp(at, heights, radii)
        if rng.random() < 0.5
        else radii[np.clip(np.searchsorted(heights, at), 0, count - 1)]
    )
    vertices, faces = lathe(np.stack([stepped, height * (at - 1)], 1))
    if rng.random() < 0.4:  # square
        around = np.arctan2(vertices[:, 2], vertices[:, 0])
        square = 1 / np.maximum(np.abs(np.cos(around)), np.abs(np.sin(around)))
        vertices[:, [0, 2]] *= square[:, None]
    return vertices.astype(np.float32), faces


def sharpened(
    vertices: np.ndarray, faces: np.ndarray, degrees: float = 40.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split vertices where faces meet at more than ``degrees``: vertices, faces, normals with crisp edges.

    Every corner takes the mean of the face normals around its vertex that lie within the angle of its own face's.
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1, keepdims=True)
    unit = cross / np.maximum(area, 1e-20)
    corners = faces.ravel()
    owner = np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(corners, kind="stable")
    starts = np.searchsorted(corners[order], np.arange(len(vertices) + 1))
    most = int(np.diff(starts).max())
    total = np.zeros((len(corners), 3), np.float32)
    limit = np.cos(np.radians(degrees))
    for k in range(min(most, 12)):
        index = starts[corners] + k
        valid = index < starts[corners + 1]
        other = owner[order[np.where(valid, index, 0)]]
        near = valid & ((unit[other] * unit[owner]).sum(1) > limit)
        total += near[:, None] * cross[other]
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)
    return vertices[corners], np.arange(len(corners), dtype=np.int32).reshape(-1, 3), total.astype(np.float32)
