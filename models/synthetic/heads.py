"""Heads to render: a random person, statue or skull, posed, dressed, cut into a bust, with hair that grows on it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from models.synthetic.basis import PARTS
from models.synthetic.garments import headscarf, shirt
from models.synthetic.glasses import earrings, glasses
from models.synthetic.hair import Cut, grow, grow_beard
from models.synthetic.lighting import ambient_visibility
from models.synthetic.materials import random_color
from models.synthetic.noise import fbm
from models.synthetic.relief import face_relief
from models.synthetic.render import Surface
from models.synthetic.skin import Appearance, Look, dress
from models.synthetic.skull import draw_skull
from models.synthetic.stone import carve
from models.synthetic.subject import Subject
from models.synthetic.surfaces import compact, join
from models.synthetic.topology import Sites, refine, smooth_normals, topology

EXPRESSIONS = (
    *("jawOpen", "mouthSmile", "mouthFrown", "mouthPucker", "mouthFunnel", "mouthUpperUp", "mouthLowerDown"),
    *("mouthStretch", "eyeBlink", "eyeWide", "eyeSquint", "browDown", "browInnerUp", "cheekPuff", "noseSneer"),
)


def draw_head(rng: np.random.Generator, kind: str, hatted: float | None = None) -> Surface:
    """A random "person", "statue" or "skull", cut off at a random height and width; no locks stand above ``hatted``."""
    if kind == "skull" and rng.random() < 0.7:
        bare_bones = draw_skull(rng)
        rotation = turn(*np.radians(rng.normal(0, [14, 12, 8]))).astype(np.float32)
        return replace(bare_bones, vertices=bare_bones.vertices @ rotation.T, normals=bare_bones.normals @ rotation.T)
    subject = Subject.draw(rng, spread=1.0 if kind == "person" else 1.3)
    expression = draw_expression(rng) if rng.random() < 0.75 else {}
    rotation = turn(*np.radians(rng.normal(0, [14, 9, 6])))
    vertices = subject.pose(expression, rotation)
    sites = topology().sites[2]
    bare = kind != "person" or rng.random() < 0.35
    if kind == "person":
        look = _coiffed(rng, Look.draw(rng, subject))
        look = look if bare else replace(look, cloth=-1.0)  # cloth will be geometry
        appearance = dress(look, sites)
    else:
        look = None
        appearance = carve(rng, sites, kind == "skull")
    if kind != "skull" and rng.random() < 0.85:
        appearance = _lined(rng, appearance, sites, subject.age, expression, kind == "person")
    surface = head_surface(vertices, appearance)
    worn = _worn(rng, surface, sites, rotation, hatted) if look else []
    if hatted is not None:
        appearance = replace(appearance, hairy=appearance.hairy * (surface.vertices[:, 1] < hatted - 0.012))
    growth = _growth(rng, surface, appearance, look) if kind != "skull" else []
    body = _cut_arms(rng, surface) if bare else join([_cut_arms(rng, surface, 0.165), shirt(rng, surface.vertices)])
    return join([_cut_below(rng, body, bare), *growth, *worn])


def _worn(rng, surface: Surface, sites: Sites, rotation, hatted) -> list[Surface]:
    """What a person wears on the head."""
    out = []
    if rng.random() < 0.22:
        out.append(glasses(rng, surface.vertices, sites))
    if rng.random() < 0.12:
        out.append(earrings(rng, surface.vertices, sites))
    if hatted is None and rng.random() < 0.06:
        out.append(headscarf(rng, surface.vertices, rotation))
    return out


def _lined(rng, appearance: Appearance, sites: Sites, age: float, expression, alive: bool) -> Appearance:
    """The appearance with fine relief on the face; grooves are a little darker."""
    amount = np.clip((age - 0.5) * 1.4 + rng.normal(0, 0.2), 0.0, 1.0) if alive else rng.random()
    relief = face_relief(rng, sites, float(amount), expression, 1.0 if alive else rng.uniform(0.5, 2.0))
    shade = 1 - np.clip(-relief / np.float32(0.001), 0, 1) * np.float32(rng.uniform(0, 0.3))
    albedo = appearance.albedo * shade[:, None]
    if alive:
        albedo *= (1 - np.float32(rng.uniform(0.1, 0.9)) * _lash_line())[:, None]
        _make_up(rng, albedo, sites)
    return replace(appearance, relief=appearance.relief + relief, albedo=albedo)


def _make_up(rng, albedo: np.ndarray, sites: Sites) -> None:
    """Eye shadow, paint or pale patches on some faces: colour that is no relief. Changes ``albedo`` (P, 3)."""
    points = sites.points
    if rng.random() < 0.12:
        away = np.min(
            [np.hypot(*(points - eye - [0, 0.006, 0])[:, :2].T * [[0.8], [1.2]]) for eye in sites.eyes], axis=0
        )
        share = rng.uniform(0.3, 0.9) * np.exp(-((away / 0.011) ** 4)) * (points[:, 2] > 0.03) * sites.skin
        albedo += share[:, None].astype(np.float32) * (random_color(rng) - albedo)
    if rng.random() < 0.06:
        field = fbm(points * np.float32([rng.choice([-1, 1]), 1, 1]), rng.uniform(8, 45), 2, int(rng.integers(1 << 30)))
        patch = (field > rng.uniform(0.1, 0.6)) & sites.skin
        albedo[patch] += np.float32(rng.uniform(0.3, 0.95)) * (random_color(rng) - albedo[patch])


@cache
def _lash_line() -> np.ndarray:
    """1 on the rims of the upper lids of the finest sites, falling off over a millimetre and a half.  # P"""
    sites, faces = topology().sites[2], topology().faces[2]
    parts = sites.part[faces]
    rim = np.unique(faces[(parts == PARTS.index("socket")).any(1) & (parts == 0).any(1)])
    out = np.zeros(len(sites.points), np.float32)
    for eye in sites.eyes:
        own = rim[np.linalg.norm(sites.points[rim] - eye, axis=1) < 0.025]
        upper = own[sites.points[own, 1] > eye[1] - 0.001]
        away, _ = cKDTree(sites.points[upper]).query(sites.points, distance_upper_bound=0.004)
        out = np.maximum(out, np.exp(-((away / 0.0013) ** 2)).astype(np.float32))
    return out * sites.skin


def _coiffed(rng, look: Look) -> Look:
    """Hair that will be locks lies on a thin, even layer in its own colour."""
    if look.hair in ("none", "stubble", "cap") or rng.random() < 0.25:
        return replace(look, hair_length=min(look.hair_length, 0.02))
    return replace(look, hair_length=0.004, hair_fade=0.0, hair="long" if look.hair == "long" else "locks")


def _growth(rng, surface: Surface, appearance: Appearance, look: Look | None) -> list[Surface]:
    """Locks and beard of a person, or the carved ones of a statue in the statue's own material."""
    out = []
    if look is None:
        if appearance.hairy.any() and rng.random() < 0.35:
            out.append(_carved(rng, grow(rng, Cut.draw(rng), surface, appearance.hairy, (0.5, 0.5, 0.5), 0.1), surface))
        if rng.random() < 0.25:
            field = appearance.bearded
            out.append(_carved(rng, grow_beard(rng, surface, field, (0.5, 0.5, 0.5), rng.random()), surface))
        return [piece for piece in out if piece is not None]
    gloss = float(rng.uniform(0.05, 0.6))
    if look.hair in ("locks", "long"):
        style = "long" if look.hair == "long" and rng.random() < 0.6 else None
        out.append(grow(rng, Cut.draw(rng, style), surface, appearance.hairy, look.hair_color, gloss))
    if look.beard > 0.45 or (look.beard > 0.3 and rng.random() < 0.5):
        out.append(grow_beard(rng, surface, appearance.bearded, look.hair_color, look.beard * rng.random()))
    return [piece for piece in out if piece is not None]


def _carved(rng, piece: Surface | None, stone: Surface) -> Surface | None:
    """The piece in the colour and gloss of the stone, or painted."""
    if piece is None:
        return None
    pick = (
        rng.integers(len(stone.vertices), size=len(piece.vertices))
        if rng.random() < 0.2
        else rng.integers(len(stone.vertices))
    )
    material = piece.material.copy()
    material[:, :3] = stone.material[0, :3]
    albedo = np.broadcast_to(stone.albedo[pick], piece.albedo.shape).copy()
    return replace(piece, albedo=albedo, material=material)


def _cut_below(rng, surface: Surface, bare: bool) -> Surface:
    """End the bust below at a plane, before the mesh's own ragged border; a clothed one below its shoulders."""
    flat = surface.vertices.copy()
    tilt, cut = rng.normal(0, 0.25), -0.27 + (0.15 if bare else 0.06) * rng.random() ** 0.7
    height = flat[:, 1] + tilt * flat[:, 2] - cut
    flat[:, 1] -= np.minimum(height, 0)  # faces across the plane end on it
    return compact(replace(surface, vertices=flat, faces=surface.faces[(height > 0)[surface.faces].any(1)]))


def _cut_arms(rng, surface: Surface, wide: float | None = None) -> Surface:
    """End the bust at two planes through the arms, ``wide`` metres out or at random; they lean inward below."""
    wide = rng.uniform(0.13, 0.19) if wide is None else wide
    flat = surface.vertices.copy()
    lean = rng.uniform(0, 0.5)
    limit = wide + lean * np.clip(flat[:, 1] + 0.2, -0.1, 0.1)
    ends = (np.abs(flat[:, 0]) > limit) & (flat[:, 1] < -0.1)
    flat[ends, 0] = np.sign(flat[ends, 0]) * limit[ends]
    normals = surface.normals.copy()
    normals[ends] = np.stack([np.sign(flat[ends, 0]), np.full(ends.sum(), -lean), np.zeros(ends.sum())], 1)
    return replace(surface, vertices=flat, normals=normals)


@cache
def _seen_faces() -> np.ndarray:
    """Faces of the finest level without the depths of the eyes' sockets, a tenth of all that nobody ever sees."""
    sites, faces = topology().sites[2], topology().faces[2]
    away, _ = cKDTree(sites.points[sites.skin]).query(sites.points)
    return faces[~((sites.part == PARTS.index("socket")) & (away > 0.004))[faces].all(1)]


def head_surface(vertices0: np.ndarray, appearance: Appearance) -> Surface:
    """Level-0 vertices and an appearance to the displaced surface that is rendered, with its ambient occlusion."""
    top = topology()
    faces = top.faces[2]
    vertices = refine(vertices0, 2)
    normals = smooth_normals(vertices, faces)
    vertices = vertices + appearance.relief[:, None] * normals + appearance.shift
    normals = smooth_normals(vertices, faces)
    faces = _seen_faces()
    if appearance.hidden.any():
        faces = faces[~appearance.hidden[faces].any(1)]
    coarse = len(top.sites[1].points)  # Loop keeps the vertices of level 1 in front
    visible = ambient_visibility(vertices[:coarse], normals[:coarse], top.faces[1], 16)
    material = appearance.material.copy()
    material[:, 3] *= np.asarray(top.up[1] @ visible)
    grain = np.concatenate([appearance.grain, appearance.bump[:, None]], 1).astype(np.float32)
    return Surface(vertices, faces, normals, appearance.albedo, material, grain)


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
