"""Clothes as geometry: shirts with collars, scarves about the neck, scarves over the head.

Cloth is a grid about the neck's axis (or the head's middle) that lies on the widest place of the body at each height,
hangs down from there, and is folded by noise drawn out along the way it hangs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from models.synthetic.hair import Body
from models.synthetic.materials import paint
from models.synthetic.noise import fbm
from models.synthetic.render import Surface
from models.synthetic.shapes import tube
from models.synthetic.surfaces import join
from models.synthetic.topology import smooth_normals

_AXIS = -0.035  # the neck's axis, z in metres
_TURNS = 80


def shirt(rng: np.random.Generator, vertices: np.ndarray) -> Surface:
    """A garment on the shoulders of a bust (vertices (P, 3)), down to its chest, with a random neckline."""
    style = str(
        rng.choice(["crew", "turtle", "collar", "vee", "scarf", "boat"], p=[0.25, 0.12, 0.25, 0.15, 0.15, 0.08])
    )
    top = {"turtle": rng.uniform(-0.115, -0.095), "boat": rng.uniform(-0.165, -0.15)}.get(
        style, rng.uniform(-0.145, -0.125)
    )
    heights = np.linspace(-0.09, -0.3, 36)
    reach = _reach(vertices, heights)
    angle = np.linspace(-np.pi, np.pi, _TURNS, endpoint=False)
    front = np.exp(-((angle / rng.uniform(0.3, 0.7)) ** 2))
    rim = top - (rng.uniform(0.02, 0.09) if style == "vee" else rng.uniform(0, 0.012)) * front + 0.006 * np.cos(angle)
    rows = 34
    share = np.linspace(0, 1, rows)[:, None] ** 1.1
    y = rim[None] + (heights[-1] - rim[None]) * share  # rows,turns
    position = (heights[0] - y) / (heights[0] - heights[-1]) * (len(heights) - 1)
    low = np.clip(position.astype(int), 0, len(heights) - 2)
    column = np.arange(_TURNS)[None]
    r = reach[low, column] + (reach[low + 1, column] - reach[low, column]) * (position - low)
    hang = np.clip(share * 4, 0, 1)
    points = np.stack([r * np.sin(angle), y, _AXIS + r * np.cos(angle)], -1).reshape(-1, 3)
    seed = int(rng.integers(1 << 30))
    folds = fbm(points * np.float32([1, 0.45, 1]), rng.uniform(12, 35), 3, seed)
    if rng.random() < 0.5:
        folds = 0.6 - 1.6 * np.abs(folds)  # sharp creases
    r = r + rng.uniform(0.005, 0.009) + hang * rng.uniform(0.001, 0.007) * folds.reshape(r.shape)
    if style == "crew":
        r[:2] += rng.uniform(0.001, 0.004)
    pieces = [_sheet(rng, r, y, angle)]
    if style == "collar":
        pieces.append(_collar(rng, r[2], rim, angle, pieces[0]))
    elif style == "scarf":
        pieces += _coils(rng, reach[8], float(rim.mean()))
    return join(pieces)


def headscarf(rng: np.random.Generator, vertices: np.ndarray, rotation: np.ndarray) -> Surface:
    """Cloth over the head that leaves the face free. vertices (P, 3) of the bust; rotation (3, 3) of the head."""
    turned = vertices @ rotation
    radius = Body.of(turned.astype(np.float32)).radius
    radius[radius == 0] = 0.075
    radius = maximum_filter(radius, 3, mode=("nearest", "wrap"))
    radius = gaussian_filter(radius, rng.uniform(1.0, 2.5), mode=("nearest", "wrap"))
    polar = np.linspace(0.02, np.radians(rng.uniform(128, 146)), 56)
    azimuth = np.linspace(-np.pi, np.pi, 112, endpoint=False)
    row = np.clip(polar / np.pi * 40 - 0.5, 0, 39)
    column = (azimuth / (2 * np.pi) % 1) * 80 - 0.5
    r = _bilinear(radius, row, column) + rng.uniform(0.004, 0.012)
    p, a = np.meshgrid(polar, azimuth, indexing="ij")
    unit = np.stack([np.sin(p) * np.sin(a), np.cos(p), np.sin(p) * np.cos(a)], -1)
    seed = int(rng.integers(1 << 30))
    folds = fbm(unit.reshape(-1, 3).astype(np.float32) @ _leaning(rng), rng.uniform(2.5, 6), 3, seed).reshape(r.shape)
    r = r + rng.uniform(0.001, 0.006) * (0.6 - 1.6 * np.abs(folds) if rng.random() < 0.6 else folds)
    r += rng.uniform(0, 0.03) * np.exp(-((p - 1.2) ** 2) / 0.3 - (1 + np.cos(a)) ** 2 / 0.5)  # hair bound behind
    points = (unit * r[..., None] + np.float32([0, 0, -0.01])).reshape(-1, 3)
    faces = _grid_faces(len(polar), len(azimuth))
    upper, wide = rng.uniform(0.95, 1.15), rng.uniform(0.85, 1.15)
    middle = (upper + 2.45) / 2
    free = ((p - middle) / (middle - upper)) ** 2 + (a / wide) ** 2 < 1
    faces = faces[~free.ravel()[faces].all(1)]
    return _cloth(rng, (points @ rotation.T).astype(np.float32), faces, folds.ravel())


def _leaning(rng) -> np.ndarray:
    """Stretches noise along a random direction.  # 3,3 float32"""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    return (np.eye(3) - 0.75 * np.outer(axis, axis)).astype(np.float32)


def _bilinear(table, row, column) -> np.ndarray:
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    u, v = (row - i)[:, None], (column - j)[None]
    at = lambda di, dj: table[np.clip(i + di, 0, len(table) - 1)[:, None], ((j + dj) % table.shape[1])[None]]  # noqa: E731
    return (at(0, 0) * (1 - v) + at(0, 1) * v) * (1 - u) + (at(1, 0) * (1 - v) + at(1, 1) * v) * u


def _reach(vertices, heights) -> np.ndarray:
    """How far the body reaches from the neck's axis, nowhere less than above.  # heights,turns metres"""
    body = vertices[(vertices[:, 1] < -0.08) & (vertices[:, 1] > heights[-1])]
    x, z = body[:, 0], body[:, 2] - _AXIS
    far = np.minimum(np.hypot(x, z), np.where(body[:, 1] > -0.15, 0.078, 0.2))
    row = np.clip(np.rint((heights[0] - body[:, 1]) / (heights[0] - heights[1])).astype(int), 0, len(heights) - 1)
    column = ((np.arctan2(x, z) + np.pi) / (2 * np.pi) * _TURNS).astype(int) % _TURNS
    out = np.zeros((len(heights), _TURNS))
    np.maximum.at(out, (row, column), far)
    out = maximum_filter(out, (3, 5), mode=("nearest", "wrap"))
    out = np.maximum.accumulate(np.maximum(out, 0.055), axis=0)
    return gaussian_filter(out, (0.8, 1.2), mode=("nearest", "wrap"))


def _sheet(rng, r, y, angle) -> Surface:
    """The cloth itself: a grid (rows, turns) of radii and heights, with a hem turned inward at its upper edge."""
    r = np.vstack([r[:1] - 0.006, r[:1] - 0.004, r])
    y = np.vstack([y[:1] - 0.02, y[:1] - 0.001, y])
    points = np.stack([r * np.sin(angle), y, _AXIS + r * np.cos(angle)], -1).reshape(-1, 3)
    return _cloth(rng, points.astype(np.float32), _grid_faces(*r.shape), np.zeros(r.size))


def _collar(rng, r, rim, angle, like: Surface) -> Surface:
    """A shirt's collar: stands up, folds over, ends in two points; cloth and colour of ``like``."""
    high, out = rng.uniform(0.02, 0.04), rng.uniform(0.012, 0.03)
    gap = rng.uniform(0.1, 0.5)
    point = 1 + rng.uniform(0.2, 1.2) * np.exp(-(((np.abs(angle) - gap) / 0.35) ** 2))
    profile_r = np.array([0, 0.001, 0.004, 0.007, 0.55, 1.0])
    profile_r = np.where(np.arange(6) < 4, profile_r, profile_r * out)[:, None]
    profile_y = np.array([-0.01, high * 0.9, high, high * 0.97, high * 0.35, -0.006])[:, None]
    drop = np.where(np.arange(6)[:, None] >= 4, (point - 1)[None] * 0.02, 0)
    base = np.minimum(r, 0.085)
    radius = base[None] + profile_r + 0.3 * drop
    y = rim[None] + profile_y - drop
    z = _AXIS + radius * np.cos(angle)
    points = np.stack([radius * np.sin(angle), y, z], -1).reshape(-1, 3).astype(np.float32)
    faces = _grid_faces(6, _TURNS)
    closed = np.abs(angle) > gap
    faces = faces[np.tile(closed, 6)[faces].all(1)]
    cloth = _cloth(rng, points, faces, np.zeros(len(points)))
    if rng.random() < 0.8:
        albedo = np.broadcast_to(like.albedo[rng.integers(len(like.albedo))], cloth.albedo.shape).copy()
        cloth = replace(cloth, albedo=albedo)
    return cloth


def _coils(rng, r, top: float) -> list[Surface]:
    """A scarf: one to three thick rings about the neck, of one cloth."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    out: list[Surface] = []
    thick = rng.uniform(0.013, 0.026)
    for k in range(rng.integers(1, 4)):
        radius = np.interp((angle + np.pi) % (2 * np.pi), np.linspace(0, 2 * np.pi, _TURNS, endpoint=False), r)
        radius = radius + thick * 0.6 + rng.normal(0, 0.003)
        tilt, turn = rng.normal(0, 0.15), rng.uniform(0, 2 * np.pi)
        y = top - 0.012 + 0.022 * k + 0.06 * tilt * np.cos(angle - turn)
        path = np.stack([radius * np.sin(angle), y, _AXIS + radius * np.cos(angle)], 1)
        vertices, faces = tube(path, thick, 20, closed=True)
        seed = int(rng.integers(1 << 30))
        normals = smooth_normals(vertices, faces)
        folds = fbm(np.stack([vertices[:, 0], 4 * vertices[:, 1], vertices[:, 2]], 1), rng.uniform(10, 30), 3, seed)
        vertices = (vertices + normals * (rng.uniform(0.15, 0.35) * thick * folds)[:, None]).astype(np.float32)
        cloth = _cloth(rng, vertices, faces, folds)
        out.append(replace(cloth, albedo=out[0].albedo) if out else cloth)
    return out


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid that closes around its columns; seen from outside when rows go down.  # F,3 int32"""
    i = np.arange(columns)
    j = (i + 1) % columns
    band = np.concatenate([np.stack([i, i + columns, j], 1), np.stack([j, i + columns, j + columns], 1)])
    return (band[None] + (np.arange(rows - 1) * columns)[:, None, None]).reshape(-1, 3).astype(np.int32)


def _cloth(rng, vertices, faces, folds) -> Surface:
    """A random cloth: its pattern, weave and sheen; hollows between ``folds`` (P,) are darker."""
    normals = smooth_normals(vertices, faces)
    albedo = paint(vertices, rng)
    sheen = rng.choice([0.03, rng.uniform(0.1, 0.4)], p=[0.75, 0.25])
    material = np.tile(np.float32([sheen, rng.uniform(0.4, 0.8), 0.08, 0.9]), (len(vertices), 1))
    material[:, 3] = np.clip(0.85 + 0.2 * folds, 0.45, 1)
    weave = 1 / rng.uniform(0.0007, 0.004)
    stretch = np.float32(rng.choice([[1, 1, 1], [1, 0.1, 1], [0.3, 1, 0.3]])) * weave
    finish = np.tile(
        np.float32([rng.uniform(0, 0.2), rng.choice([0.0, rng.uniform(0.05, 0.35)]) / weave]), (len(vertices), 1)
    )
    grain = np.hstack([vertices * stretch, finish]).astype(np.float32)
    return Surface(vertices, faces, normals, albedo, material, grain)
