"""Hair and beards as geometry: locks that grow from the scalp, follow a style, rest on the head and hang free.

A lock is a tapering, flattened tube along a spine. All spines of a head grow together, step by step: each step bends
toward the style's flow and toward the ground, and is pushed out of the body where it would enter it. The body is known
as the head's radius over direction and the shoulders' height. Single hairs are fine relief along a lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from models.synthetic.noise import fbm
from models.synthetic.render import Surface
from models.synthetic.surfaces import join
from models.synthetic.topology import smooth_normals

STYLES = ("crop", "swept", "parted", "fringe", "bob", "long", "curls", "afro", "dreads", "tail", "bun", "spikes")
_SHARES = (0.14, 0.13, 0.11, 0.08, 0.1, 0.13, 0.09, 0.06, 0.04, 0.05, 0.04, 0.03)
_CENTER = np.float32([0, 0, -0.01])
_NECK = -0.10  # metres: what is lower is no part of the map of the head
_ROWS, _COLUMNS = 40, 80
_FLOOR, _TILE = 48, 0.012  # shoulders: tiles each way and their width in metres


@dataclass(frozen=True)
class Cut:
    """How hair is worn; metres. The numbers of a style scatter about the style's own, see ``Cut.draw``."""

    style: str
    count: int
    length: float
    width: float
    flat: float  # thickness over width
    curl: float  # amplitude of the waves or coils
    turns: float  # waves a metre
    stiff: float  # 0 follows at once, 1 never bends
    gravity: float
    lift: float  # how far it stands off
    volume: float  # thickness of the layer of locks
    ragged: float  # spread of the lengths
    part: float  # where the parting lies, metres to the side
    messy: float

    @classmethod
    def draw(cls, rng: np.random.Generator, style: str | None = None) -> Cut:
        """A random cut, of the named style where one is given."""
        style = style or str(rng.choice(STYLES, p=_SHARES))
        u = rng.uniform
        fine = u()
        base = cls(style, int(280 - 90 * fine), u(0.03, 0.06), 0.008 + 0.009 * fine, u(0.18, 0.45), 0.0, 30.0,
                   u(0.3, 0.7), 0.15, 0.05, u(0.002, 0.012), u(0.1, 0.4), u(0.0, 0.045) * rng.choice([-1, 1]),
                   u(0.03, 0.3))  # fmt: skip
        wave = u(0.001, 0.007) if rng.random() < 0.6 else 0.0
        changes = {
            "crop": dict(length=u(0.015, 0.035), lift=u(0.1, 0.5), gravity=0.05, count=520, width=u(0.008, 0.013)),
            "swept": dict(length=u(0.05, 0.12), gravity=u(0.05, 0.2), lift=u(0.05, 0.25), curl=0.3 * wave),
            "parted": dict(length=u(0.06, 0.13), gravity=u(0.3, 0.6), lift=u(0.0, 0.2), curl=0.5 * wave),
            "fringe": dict(length=u(0.06, 0.1), gravity=u(0.3, 0.6), curl=0.3 * wave),
            "bob": dict(length=u(0.14, 0.24), gravity=u(0.6, 1.0), curl=wave, turns=u(15, 50), ragged=u(0.02, 0.2)),
            "long": dict(length=u(0.25, 0.5), gravity=u(0.7, 1.1), curl=1.5 * wave, turns=u(10, 40)),
            "curls": dict(length=u(0.05, 0.2), gravity=u(0.2, 0.7), curl=u(0.005, 0.014), turns=u(30, 90), flat=0.8,
                          lift=u(0.2, 0.7), volume=u(0.008, 0.025)),
            "afro": dict(length=u(0.03, 0.09), gravity=0.02, curl=u(0.003, 0.007), turns=u(60, 150), flat=1.0, lift=1.6,
                         count=420, width=u(0.007, 0.013), ragged=0.15),
            "dreads": dict(length=u(0.1, 0.35), gravity=u(0.7, 1.0), flat=1.0, count=110, width=u(0.008, 0.014),
                           curl=u(0, 0.004), volume=u(0.004, 0.012)),
            "tail": dict(length=0.15, gravity=0.0, volume=u(0.001, 0.004), messy=u(0, 0.1)),
            "bun": dict(length=0.15, gravity=0.0, volume=u(0.001, 0.004), messy=u(0, 0.1)),
            "spikes": dict(length=u(0.03, 0.07), gravity=0.0, lift=1.2, stiff=0.8, flat=0.8, count=150,
                           width=u(0.008, 0.016)),
        }[style]  # fmt: skip
        return replace(base, **changes)


def grow(rng: np.random.Generator, cut: Cut, head: Surface, field: np.ndarray, color, gloss: float) -> Surface | None:
    """The locks of a cut on a posed head; None where no hair grows.

    head: every vertex of it; field (P,): 1 where hair grows, of the same vertices; color: linear RGB; gloss 0..1.
    """
    roots = _roots(rng, head, field, cut.count)
    if roots is None:
        return None
    steps = 9 if cut.length < 0.08 else 15
    if cut.curl > 0.002:
        steps = int(np.clip(5 * cut.length * cut.turns, steps, 26))
    body = Body.of(head.vertices)
    gathered = cut.style in ("tail", "bun")
    tie = _CENTER + np.float32([0, rng.uniform(-0.04, 0.1), -rng.uniform(0.085, 0.1)])
    spines, normals = _grow(rng, cut, roots, body, steps, tie if gathered else None)
    parts = [_tubes(rng, cut, spines, normals, color, gloss)]
    if cut.style == "tail":
        parts.append(_tail(rng, cut, tie, body, color, gloss))
    elif cut.style == "bun":
        parts.append(_bun(rng, tie, color, gloss))
    return join(parts)


def grow_beard(rng: np.random.Generator, head: Surface, field: np.ndarray, color, full: float) -> Surface | None:
    """Beard and moustache as locks that point down; ``full`` 0..1 is their length. Arguments as in ``grow``."""
    length = 0.012 + 0.1 * full * full * rng.uniform(0.5, 1.3)
    curl = rng.uniform(0.0, 0.004) if rng.random() < 0.5 else 0.0
    cut = replace(
        Cut.draw(rng, "crop"), style="beard", count=240, length=length, width=rng.uniform(0.006, 0.01), curl=curl,
        turns=rng.uniform(40, 120), gravity=rng.uniform(0.5, 1.2), lift=rng.uniform(0.2, 0.8), volume=0.002, ragged=0.4,
    )  # fmt: skip
    # Thinner toward its border, so that a beard does not begin at a line.
    roots = _roots(rng, head, field * (1 - 0.5 * rng.random(len(field))), cut.count)
    if roots is None:
        return None
    spines, normals = _grow(rng, cut, roots, Body.of(head.vertices), 8, None)
    return _tubes(rng, cut, spines, normals, color, 0.2)


@dataclass(frozen=True, eq=False)
class Body:
    """What hair rests on. radius (40, 80): the head's reach over polar angle from +Y and azimuth, 0 where it ends;
    floor (48, 48): the shoulders' height over x and z, 12 mm a tile."""

    radius: np.ndarray
    floor: np.ndarray

    @classmethod
    def of(cls, vertices: np.ndarray) -> Body:
        """From the vertices (P, 3) of a bust."""
        away = vertices[vertices[:, 1] > _NECK] - _CENTER
        far = np.linalg.norm(away, axis=1)
        radius = np.zeros((_ROWS, _COLUMNS), np.float32)
        np.maximum.at(radius, _cell(away / np.maximum(far, 1e-9)[:, None]), far)
        for _ in range(2):
            grown = cv2.dilate(np.hstack([radius[:, -1:], radius, radius[:, :1]]), np.ones((3, 3), np.uint8))[:, 1:-1]
            radius = np.where(radius == 0, grown, radius)
        # Shoulders and the slope behind the neck, but never the jaw.
        low = vertices[(vertices[:, 1] < -0.145) | ((vertices[:, 1] < -0.09) & (vertices[:, 2] < -0.005))]
        floor = np.full((_FLOOR, _FLOOR), -1.0, np.float32)
        np.maximum.at(floor, _tile(low), low[:, 1])
        for _ in range(2):
            floor = np.where(floor < -0.9, cv2.dilate(floor, np.ones((3, 3), np.uint8)), floor)
        return cls(radius, floor)

    def outside(self, points: np.ndarray, layer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 3) moved to at least ``layer`` (N, 1) metres outside, and their outward directions."""
        away = points - _CENTER
        far = np.linalg.norm(away, axis=1, keepdims=True)
        out = away / np.maximum(far, 1e-9)
        least = self.radius[_cell(out)][:, None]
        points = np.where((far < least + layer) & (least > 0), _CENTER + out * (least + layer), points)
        under = self.floor[_tile(points)] + layer[:, 0]
        lying = under > points[:, 1]
        # On the shoulders: up by a part, so that a lock that comes from the neck's side does not jump onto them.
        points[:, 1] = np.where(lying, points[:, 1] + np.minimum(under - points[:, 1], 0.02), points[:, 1])
        out = np.where((points[:, 1:2] < _NECK), out * np.float32([1, 0.3, 1]), out)
        out = np.where(lying[:, None], out + np.float32([0, 1, 0]), out)
        return points, out / np.linalg.norm(out, axis=1, keepdims=True)


def _tile(points):
    index = np.clip((points[:, [0, 2]] / _TILE + _FLOOR / 2).astype(int), 0, _FLOOR - 1)
    return index[:, 0], index[:, 1]


def _cell(direction):
    row = np.clip((np.arccos(np.clip(direction[..., 1], -1, 1)) / np.pi * _ROWS).astype(int), 0, _ROWS - 1)
    column = ((np.arctan2(direction[..., 0], direction[..., 2]) / (2 * np.pi) % 1) * _COLUMNS).astype(int) % _COLUMNS
    return row, column


def _roots(rng, head: Surface, field, count: int):
    """Places (N, 3) and normals (N, 3) where locks start, even over the area; None when hardly anything grows."""
    grows = np.flatnonzero(field > 0.45)
    if len(grows) < 30:
        return None
    # Even over the area: one vertex for every cell of a fine grid, then as many as are wanted.
    cells = np.floor(head.vertices[grows] / 0.006).astype(np.int64) @ np.array([1, 4096, 4096 * 4096])
    grows = grows[np.unique(cells, return_index=True)[1]]
    pick = rng.permutation(grows)[:count]
    return head.vertices[pick], head.normals[pick]


def _flow(cut: Cut, points, out, tie):
    """Where the style combs hair at ``points`` whose outward directions are ``out``: not of unit length.  # N,3"""
    if tie is not None:
        return tie - points
    if cut.style in ("swept", "tail", "bun"):
        way = np.float32([0.15 * np.sign(cut.part), 0.1, -1])
    elif cut.style in ("fringe", "crop"):
        way = points - np.float32([0, 0.1, -0.045])  # from the whorl on
    elif cut.style == "beard":
        way = np.float32([0, -1, 0.1])
    else:
        side = np.sign(points[:, :1] - cut.part)
        way = np.hstack([side, np.full_like(side, -0.1), -0.25 * np.ones_like(side)])
    return way - (way * out).sum(1, keepdims=True) * out


def _grow(rng, cut: Cut, roots, body, steps: int, tie):
    """Spines (N, steps + 1, 3) and their outward directions (N, steps + 1, 3)."""
    points, direction = (np.array(x, np.float32) for x in roots)
    count = len(points)
    length = cut.length * (1 - cut.ragged * rng.random((count, 1)))
    if tie is not None:
        length = np.linalg.norm(tie - points, axis=1, keepdims=True) * 1.25
    layer = (0.0015 + cut.volume * rng.random((count, 1)) ** 1.5).astype(np.float32)
    own = rng.normal(0, cut.messy, (count, 3)).astype(np.float32)
    spines, normals = [points], [direction]
    stride = (length / steps).astype(np.float32)
    stiff = np.clip(cut.stiff, 0.02, 0.95) ** np.maximum(stride / 0.008, 0.3)  # a long step bends as several short ones
    for step in range(steps):
        out = points - _CENTER
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        flow = _flow(cut, points, out, tie)
        flow /= np.linalg.norm(flow, axis=1, keepdims=True) + 1e-6
        # Farther out the ground pulls alone; what is gathered is combed all the way.
        combed = 1.0 if tie is not None else 1 / (1 + (stride * step / 0.055) ** 2)
        want = combed * (flow + cut.lift * out) + 0.5 * own
        want[:, 1] -= cut.gravity * (0.4 + 1.6 * step / steps)
        want /= np.linalg.norm(want, axis=1, keepdims=True) + 1e-6
        direction = stiff * direction + (1 - stiff) * want
        direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6
        points = points + stride * direction
        points, out = body.outside(points, layer * min(1.0, (step + 1) / 3))
        spines.append(points)
        normals.append(out)
    return np.stack(spines, 1).astype(np.float32), np.stack(normals, 1).astype(np.float32)


def _tubes(rng, cut: Cut, spines, outward, color, gloss: float, sides: int = 6) -> Surface:
    """Skin of flattened tubes along spines (N, S, 3)."""
    count, steps = spines.shape[:2]
    s = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
    tangent = np.gradient(spines, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-9
    side = np.cross(tangent, outward)
    side /= np.linalg.norm(side, axis=2, keepdims=True) + 1e-6
    up = np.cross(side, tangent)
    if cut.curl > 0:
        run = np.linalg.norm(np.diff(spines, axis=1, prepend=spines[:, :1]), axis=2).cumsum(1)[..., None]
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1)) + 2 * np.pi * run * cut.turns * rng.uniform(
            0.8, 1.2, (count, 1, 1)
        )
        grown = cut.curl * np.minimum(1, 3 * s)
        spines = spines + grown * (np.sin(phase) * side + (0.6 * np.cos(phase) + 0.6) * up)
    width = cut.width * rng.uniform(0.6, 1.3, (count, 1, 1)) * np.minimum(1, 0.5 + 3 * s)
    width = width * np.clip((1.02 - s) * 2.2, 0.35, 1)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False, dtype=np.float32)
    ring = (
        width[:, :, None]
        * 0.5
        * (
            np.cos(angle)[None, None, :, None] * side[:, :, None]
            + cut.flat * np.sin(angle)[None, None, :, None] * up[:, :, None]
        )
    )
    vertices = (spines[:, :, None] + ring).reshape(-1, 3).astype(np.float32)
    faces = _tube_faces(count, steps, sides)
    normals = smooth_normals(vertices, faces)

    shade = rng.uniform(0.75, 1.25, (count, 1, 1, 1)) * (0.8 + 0.3 * s[..., None])
    albedo = np.broadcast_to(np.asarray(color, np.float32) * shade, (count, steps, sides, 3)).reshape(-1, 3)
    open_sky = 0.55 + 0.45 * (normals * np.repeat(outward.reshape(-1, 3), sides, 0)).sum(1)
    material = np.tile(np.float32([gloss, rng.uniform(0.35, 0.55), 0.15, 1]), (len(vertices), 1))
    material[:, 3] = np.clip(open_sky, 0.12, 1)
    cell = rng.uniform(0.0008, 0.0032)
    along = np.broadcast_to(np.linspace(0, 1, steps)[None, :, None] * cut.length * 40, (count, steps, sides))
    around = np.broadcast_to(angle[None, None, :], along.shape)
    own = np.broadcast_to(rng.uniform(0, 500, (count, 1, 1)), along.shape)
    k = cut.width / 2 / cell
    place = np.stack([np.cos(around) * k + own, np.sin(around) * k * cut.flat, along], -1).reshape(-1, 3)
    finish = np.tile(np.float32([rng.uniform(0.1, 0.45), cell * rng.uniform(0.1, 0.35)]), (len(vertices), 1))
    grain = np.hstack([place, finish]).astype(np.float32)
    tone = np.clip(albedo, 0.004, 0.95).astype(np.float32)
    return Surface(vertices, faces, normals, tone, material, grain, fine=True)


def _tube_faces(count: int, steps: int, sides: int) -> np.ndarray:
    i = np.arange(sides)
    j = (i + 1) % sides
    ring = np.concatenate([np.stack([i, i + sides, j], 1), np.stack([j, i + sides, j + sides], 1)])
    tube = (ring[None] + (np.arange(steps - 1) * sides)[:, None, None]).reshape(-1, 3)
    return (tube[None] + (np.arange(count) * steps * sides)[:, None, None]).reshape(-1, 3).astype(np.int32)


def _tail(rng, cut: Cut, tie, body, color, gloss: float) -> Surface:
    """A bundle that leaves the head at ``tie`` and falls."""
    count = 40
    roots = tie + rng.normal(0, 0.007, (count, 3)).astype(np.float32)
    normals = np.tile(np.float32([0, 0.25, -1]), (count, 1)) + rng.normal(0, 0.25, (count, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    tail = replace(cut, style="hang", length=rng.uniform(0.1, 0.4), gravity=rng.uniform(0.6, 1.2), lift=0.3, stiff=0.6,
                   curl=rng.uniform(0, 0.008), turns=rng.uniform(8, 30), width=0.009, part=float(tie[0]))  # fmt: skip
    spines, outward = _grow(rng, tail, (roots, normals), body, 14, None)
    return _tubes(rng, tail, spines, outward, color, gloss)


def _bun(rng, tie, color, gloss: float) -> Surface:
    """A knot of hair: a ring wound about ``tie``'s direction, with its hole nearly closed."""
    major, minor = rng.uniform(0.012, 0.025), rng.uniform(0.014, 0.028)
    u, v = (x.ravel() for x in np.meshgrid(np.arange(56), np.arange(28), indexing="ij"))
    a, b = u * (2 * np.pi / 56), v * (2 * np.pi / 28)
    wind = 1 + 0.1 * np.sin(a * rng.integers(2, 6) + b)
    reach = major + minor * wind * np.cos(b)
    flat = np.stack([reach * np.cos(a), reach * np.sin(a), -0.85 * minor * wind * np.sin(b)], 1)
    out = tie - _CENTER
    out /= np.linalg.norm(out)
    x = np.cross([0, 1, 0.2], out)
    x /= np.linalg.norm(x)
    vertices = (flat @ np.stack([x, np.cross(out, x), -out]) + tie + out * (minor * 0.6)).astype(np.float32)
    vertices += 0.0015 * fbm(vertices, 60.0, 2, int(rng.integers(1 << 30)))[:, None]
    grid = lambda p, q: (p % 56) * 28 + q % 28  # noqa: E731
    faces = np.concatenate(
        [np.stack([grid(u, v), grid(u + 1, v), grid(u, v + 1)], 1),
         np.stack([grid(u, v + 1), grid(u + 1, v), grid(u + 1, v + 1)], 1)]
    ).astype(np.int32)  # fmt: skip
    normals = smooth_normals(vertices, faces)
    if ((vertices - tie) * normals).sum() < 0:
        faces, normals = faces[:, ::-1].copy(), -normals
    albedo = np.tile(np.asarray(color, np.float32), (len(vertices), 1))
    albedo = albedo * (1 + 0.3 * np.sin(6 * b + 2 * a))[:, None]
    material = np.tile(np.float32([gloss, 0.45, 0.15, 0.85]), (len(vertices), 1))
    cells = minor / 0.0015
    place = np.stack([np.cos(b + 0.5 * a) * cells, np.sin(b + 0.5 * a) * cells, a * 2], 1)
    grain = np.hstack([place, np.tile([0.3, 0.0004], (len(vertices), 1))]).astype(np.float32)
    return Surface(vertices, faces, normals, np.clip(albedo, 0.004, 0.95).astype(np.float32), material, grain)
