"""A random scene: who or what stands there, how it is lit. Deterministic for one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.synthetic.heads import draw_head, turn
from models.synthetic.lighting import Lamp, Lighting, ambient_visibility, sky_from, sphere_directions, with_shadows
from models.synthetic.materials import finish, paint
from models.synthetic.noise import fbm
from models.synthetic.render import Surface
from models.synthetic.shapes import hat, plinth, random_solid, sharpened
from models.synthetic.surfaces import join
from models.synthetic.surroundings import surroundings
from models.synthetic.topology import smooth_normals


@dataclass(frozen=True, eq=False)
class Scene:
    """What ``render`` needs. flash: whether the only light worth speaking of sits on the camera."""

    surface: Surface
    lighting: Lighting
    kind: str
    flash: bool


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random subject under random light: 62 % people, the rest statues, skulls and solids."""
    kind = str(rng.choice(["person", "statue", "skull", "solid"], p=[0.62, 0.16, 0.08, 0.14]))
    if kind == "solid":
        pieces = [_solid(rng)]
    else:
        bare = kind != "person"
        hatted = rng.uniform(0.03, 0.085) if rng.random() < (0.35 if bare else 0.1) else None
        pieces = [draw_head(rng, kind, hatted)]
        if hatted is not None:
            pieces.append(_hat(rng, pieces[0], hatted))
        if bare and rng.random() < 0.35:
            pieces.append(_plinth(rng, pieces[0]))
    surface = join(pieces)
    lighting, flash = draw_light(rng)
    surface = replace(surface, beside=surroundings(rng, surface), fine=surface.fine and rng.random() < 0.2)
    lighting = with_shadows(lighting, surface.vertices, surface.faces)
    if len(lighting.shadow_maps) and rng.random() < 0.06:
        _screen(rng, lighting.shadow_maps[0])
    return Scene(surface, lighting, kind, flash)


def _screen(rng, shadow_map: np.ndarray) -> None:
    """Blinds, a grid or leaves before a lamp: its light falls in a pattern that is no relief. Changes the map."""
    size = shadow_map.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    kind, period = rng.integers(3), rng.uniform(0.04, 0.2)
    turn = rng.uniform(0, np.pi)
    along = (x * np.cos(turn) + y * np.sin(turn)) / period
    if kind == 0:
        blocked = along % 1 < rng.uniform(0.25, 0.6)
    elif kind == 1:
        across = (y * np.cos(turn) - x * np.sin(turn)) / period
        blocked = (along % 1 < 0.25) | (across % 1 < 0.25)
    else:
        places = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
        blocked = fbm(places, 0.7 / period, 3, int(rng.integers(1 << 30))).reshape(size, size) > rng.uniform(-0.1, 0.3)
    shadow_map[blocked] = -1e9


def draw_light(rng: np.random.Generator) -> tuple[Lighting, bool]:
    """Sky, window, studio, hard key or flash on the camera; True for the flash."""
    style = str(rng.choice(["soft", "studio", "hard", "flash", "room"], p=[0.22, 0.26, 0.18, 0.16, 0.18]))
    tint = np.exp(rng.normal(0, 0.12, 3))
    directions = sphere_directions(48)
    ambient = {"soft": rng.uniform(0.3, 0.6), "studio": rng.uniform(0.08, 0.3), "hard": rng.uniform(0.02, 0.15),
               "flash": rng.uniform(0.0, 0.05), "room": rng.uniform(0.1, 0.35)}[style]  # fmt: skip
    # The sky: a floor, a ceiling and a few bright walls or windows.
    level = np.full(48, 0.6) + rng.uniform(-0.3, 0.6) * directions[:, 1]
    colors = level[:, None] * tint
    for _ in range(rng.integers(0, 4)):
        toward = rng.normal(size=3)
        toward /= np.linalg.norm(toward)
        glow = np.exp(rng.uniform(2, 8) * (directions @ toward - 1)) * rng.uniform(0.5, 4)
        colors = colors + glow[:, None] * np.exp(rng.normal(0, 0.2, 3))
    sky = sky_from(directions, np.maximum(colors, 0.02) * ambient)
    lamps = []
    count = {"soft": rng.integers(0, 2), "studio": rng.integers(2, 5), "hard": rng.integers(1, 3), "flash": 0,
             "room": rng.integers(1, 4)}[style]  # fmt: skip
    for k in range(count):
        azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(-10, 75))
        if k == 0 and rng.random() < 0.6:
            azimuth *= 0.5
        toward = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        power = rng.uniform(0.3, 1.1) * (1.0 if k == 0 else 0.6)
        vivid = 0.5 if rng.random() < 0.15 else 0.1
        color = tuple(power * tint * np.exp(rng.normal(0, vivid, 3)))
        soft = {"hard": rng.uniform(0, 0.1), "studio": rng.uniform(0.05, 0.6)}.get(style, rng.uniform(0.1, 0.8))
        if rng.random() < 0.6:
            lamps.append(Lamp("far", tuple(toward), color, soft, shadow=k < 3))
        else:
            reach = rng.uniform(0.6, 2)
            lamps.append(Lamp("near", tuple(toward * reach), color, soft, shadow=k < 3, reach=reach))
    if rng.random() < 0.12:  # from behind, along the outline
        azimuth = np.pi + rng.normal(0, 0.6)
        color = tuple(rng.uniform(0.5, 2.0) * np.exp(rng.normal(0, 0.25, 3)))
        lamps.append(Lamp("far", (np.sin(azimuth), rng.uniform(-0.2, 1), np.cos(azimuth)), color, 0.1, shadow=False))
    if style == "flash" or rng.random() < 0.05:
        offset = rng.normal(0, 0.04, 3) * [1, 1, 0]
        lamps.append(Lamp("camera", tuple(offset), tuple(rng.uniform(0.5, 1.2) * tint), rng.uniform(0, 0.1), reach=1.0))
    return Lighting(sky, tuple(lamps)), style == "flash"


def _solid(rng) -> Surface:
    vertices, faces = random_solid(rng)
    vertices = vertices * np.float32(rng.uniform(0.8, 1.3))
    return _coated(rng, vertices, faces, rng.choice([0.0, rng.uniform(0, 0.0012)]))


def _hat(rng, head: Surface, at: float) -> Surface:
    ring = head.vertices[np.abs(head.vertices[:, 1] - at) < 0.012]
    if len(ring) < 8:
        ring = head.vertices
    low, high = ring.min(0), ring.max(0)
    half = (high - low)[[0, 2]] / 2 * rng.uniform(1.0, 1.12)
    vertices, faces = hat(rng, (float(half[0]), float(half[1])))
    rotation = turn(*(rng.normal(0, [0.3, 0.12, 0.08])))
    middle = (low + high) / 2
    vertices = vertices @ rotation.T.astype(np.float32) + np.float32([middle[0], at, middle[2]])
    return _coated(rng, vertices.astype(np.float32), faces, 0.0, sharp=rng.random() < 0.6)


def _plinth(rng, head: Surface) -> Surface:
    vertices, faces = plinth(rng)
    foot = head.vertices[:, 1].min() + rng.uniform(0.0, 0.05)
    vertices = vertices + np.float32([0, foot, head.vertices[:, 2].mean()])
    return _coated(rng, vertices, faces, 0.0, sharp=True)


def _coated(rng, vertices, faces, rough: float, sharp: bool = False) -> Surface:
    """A random coat of paint, ``rough`` metres of relief; crisp edges where ``sharp``."""
    albedo = paint(vertices, rng)
    if rough > 0:
        normals = smooth_normals(vertices, faces)
        noise = fbm(vertices, rng.uniform(30, 120), 3, int(rng.integers(1 << 30)))
        vertices = (vertices + normals * (np.float32(rough) * noise)[:, None]).astype(np.float32)
    material = finish(len(vertices), rng)
    normals = smooth_normals(vertices, faces)
    material[:, 3] *= ambient_visibility(vertices, normals, faces, 16)
    if not sharp:
        return Surface(vertices, faces, normals, albedo, material)
    split, new_faces, crisp = sharpened(vertices, faces)
    corners = faces.ravel()
    return Surface(split, new_faces, crisp, albedo[corners], material[corners])
