"""A random scene: who or what stands there, how it is lit. Deterministic for one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.synthetic.lighting import Lamp, Lighting, ambient_visibility, sky_from, sphere_directions, with_shadows
from models.synthetic.materials import finish, paint
from models.synthetic.noise import fbm
from models.synthetic.render import Surface
from models.synthetic.shapes import hat, plinth, random_solid, sharpened
from models.synthetic.skin import Look, carve, dress
from models.synthetic.subject import Subject
from models.synthetic.topology import refine, smooth_normals, topology

EXPRESSIONS = (
    *("jawOpen", "mouthSmile", "mouthFrown", "mouthPucker", "mouthFunnel", "mouthUpperUp", "mouthLowerDown"),
    *("mouthStretch", "eyeBlink", "eyeWide", "eyeSquint", "browDown", "browInnerUp", "cheekPuff", "noseSneer"),
)


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
        pieces = [_head(rng, kind)]
        bare = kind != "person"
        if rng.random() < (0.4 if bare else 0.08):
            pieces.append(_hat(rng, pieces[0]))
        if bare and rng.random() < 0.35:
            pieces.append(_plinth(rng, pieces[0]))
    surface = join(pieces)
    lighting, flash = draw_light(rng)
    return Scene(surface, with_shadows(lighting, surface.vertices, surface.faces), kind, flash)


def head_surface(vertices0: np.ndarray, appearance) -> Surface:
    """Level-0 vertices and an appearance to the displaced surface that is rendered, with its ambient occlusion."""
    top = topology()
    faces = top.faces[2]
    vertices = refine(vertices0, 2)
    normals = smooth_normals(vertices, faces)
    vertices = vertices + appearance.relief[:, None] * normals + appearance.shift
    normals = smooth_normals(vertices, faces)
    if appearance.hidden.any():
        faces = faces[~appearance.hidden[faces].any(1)]
    coarse = len(top.sites[1].points)  # Loop keeps the vertices of level 1 in front
    visible = ambient_visibility(vertices[:coarse], normals[:coarse], top.faces[1], 16)
    material = appearance.material.copy()
    material[:, 3] *= np.asarray(top.up[1] @ visible)
    return Surface(vertices, faces, normals, appearance.albedo, material, appearance.grain)


def join(pieces: list[Surface]) -> Surface:
    """Several surfaces as one."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    return Surface(
        np.concatenate([piece.vertices for piece in pieces]),
        np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=True)]).astype(np.int32),
        np.concatenate([piece.normals for piece in pieces]),
        np.concatenate([piece.albedo for piece in pieces]),
        np.concatenate([piece.material for piece in pieces]),
        np.concatenate([np.zeros((len(p.vertices), 4)) if p.grain is None else p.grain for p in pieces]).astype(
            np.float32
        ),
    )


def draw_expression(rng: np.random.Generator, strength: float = 0.6) -> dict[str, float]:
    """A random face: a few actions, both sides nearly alike, and a gaze."""
    names = topology().basis.action_labels
    out: dict[str, float] = {}
    for word in rng.permutation(EXPRESSIONS)[: rng.integers(0, 5)]:
        value = float(np.clip(abs(rng.normal(0, strength)), 0, 1))
        sides = [name for name in names if name in (word, f"{word}Left", f"{word}Right")]
        for name in sides:
            out[name] = float(np.clip(value * rng.uniform(0.8, 1.1), 0, 1))
    if rng.random() < 0.15:
        out["eyeBlinkLeft"] = out["eyeBlinkRight"] = 1.0
    aside, up = rng.normal(0, 0.35, 2)
    out["eyeLookOutLeft"] = out["eyeLookInRight"] = float(np.clip(aside, 0, 1))
    out["eyeLookInLeft"] = out["eyeLookOutRight"] = float(np.clip(-aside, 0, 1))
    for side in ("Left", "Right"):
        out[f"eyeLookUp{side}"], out[f"eyeLookDown{side}"] = float(np.clip(up, 0, 1)), float(np.clip(-up, 0, 1))
    return out


def turn(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation of the head, radians: yaw about Y, then pitch about X, then roll about Z.  # 3,3"""
    cy, sy, cx, sx, cz, sz = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


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
            lamps.append(Lamp("far", tuple(toward), color, soft, shadow=k < 2))
        else:
            reach = rng.uniform(0.6, 2)
            lamps.append(Lamp("near", tuple(toward * reach), color, soft, shadow=k < 2, reach=reach))
    if style == "flash" or rng.random() < 0.05:
        offset = rng.normal(0, 0.04, 3) * [1, 1, 0]
        lamps.append(Lamp("camera", tuple(offset), tuple(rng.uniform(0.5, 1.2) * tint), rng.uniform(0, 0.1), reach=1.0))
    return Lighting(sky, tuple(lamps)), style == "flash"


def _head(rng, kind: str) -> Surface:
    subject = Subject.draw(rng, spread=1.0 if kind == "person" else 1.3)
    expression = draw_expression(rng) if rng.random() < 0.75 else {}
    rotation = turn(*np.radians(rng.normal(0, [14, 9, 6])))
    vertices = subject.pose(expression, rotation)
    sites = topology().sites[2]
    appearance = dress(Look.draw(rng, subject), sites) if kind == "person" else carve(rng, sites, kind == "skull")
    surface = head_surface(vertices, appearance)
    cut = rng.uniform(-0.27, -0.12)
    if rng.random() < 0.75:  # end the bust at a plane
        tilt = rng.normal(0, 0.25)
        height = surface.vertices[:, 1] + tilt * surface.vertices[:, 2] - cut
        kept = (height > 0)[surface.faces].any(1)
        flat = surface.vertices.copy()
        flat[:, 1] -= np.minimum(height, 0)  # faces across the plane end on it
        surface = replace(surface, vertices=flat, faces=surface.faces[kept])
    return _compact(surface)


def _solid(rng) -> Surface:
    vertices, faces = random_solid(rng)
    vertices = vertices * np.float32(rng.uniform(0.8, 1.3))
    return _coated(rng, vertices, faces, rng.choice([0.0, rng.uniform(0, 0.0012)]))


def _hat(rng, head: Surface) -> Surface:
    at = rng.uniform(0.03, 0.085)
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


def _compact(surface: Surface) -> Surface:
    """Drop vertices that no face uses."""
    used = np.zeros(len(surface.vertices), bool)
    used[surface.faces.ravel()] = True
    faces = (np.cumsum(used) - 1).astype(np.int32)[surface.faces]
    pick = (surface.vertices, surface.normals, surface.albedo, surface.material, surface.grain)
    vertices, normals, albedo, material, grain = (
        None if array is None else np.ascontiguousarray(array[used], np.float32) for array in pick
    )
    return Surface(vertices, faces, normals, albedo, material, grain)
