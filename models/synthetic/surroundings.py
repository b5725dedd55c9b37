"""Things around a subject that are not the subject: other heads, stands, tables, poles, cables, cameras, clutter.

They are rendered with the subject and cut its outline where they stand in front; masks leave them out.
"""

from __future__ import annotations

import numpy as np
import trimesh
from scipy.interpolate import CubicSpline

from models.synthetic.materials import finish, paint, random_color
from models.synthetic.render import Bystander, Surface
from models.synthetic.shapes import Shape, hat, lathe, plinth, sharpened, tube
from models.synthetic.skin import Look, dress
from models.synthetic.subject import Subject
from models.synthetic.topology import refine, smooth_normals, topology


def surroundings(rng: np.random.Generator, subject: Surface) -> tuple[Bystander, ...]:
    """What stands around: nothing for two in five subjects."""
    if rng.random() < 0.4:
        return ()
    low = subject.vertices.min(0)
    out: list[Bystander] = []
    foot = subject.vertices[subject.vertices[:, 1] < low[1] + 0.03].mean(0)
    if rng.random() < 0.35:
        out += [Bystander(piece, always=True) for piece in _stand(rng, foot)]
    if rng.random() < 0.15:
        out.append(Bystander(_table(rng, float(low[1]) - rng.choice([0.0, rng.uniform(0, 0.08)])), always=True))
    if rng.random() < 0.3:
        out.append(Bystander(_other_head(rng, _place(rng))))
    for _ in range(rng.choice(5, p=[0.3, 0.3, 0.2, 0.1, 0.1])):
        out.append(Bystander(_object(rng, _place(rng))))
    if rng.random() < 0.25:
        out.append(Bystander(_coat(rng, _cable(rng)), always=rng.random() < 0.3))
    return tuple(out)


def _place(rng) -> np.ndarray:
    """Somewhere around the middle, close enough to touch the outline in pictures.  # 3"""
    angle, far = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.25), np.log(0.9)))
    return np.array([far * np.sin(angle), rng.normal(-0.03, 0.12), far * np.cos(angle)], np.float32)


def _other_head(rng, place) -> Surface:
    person = Subject.draw(rng)
    top = topology()
    vertices, faces = refine(person.neutral, 1), top.faces[1]
    appearance = dress(Look.draw(rng, person), top.sites[1])
    normals = smooth_normals(vertices, faces)
    vertices = vertices + appearance.relief[:, None] * normals
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], np.float32)
    vertices = vertices @ turn.T * np.float32(rng.uniform(0.8, 1.1)) + place
    grain = np.concatenate([appearance.grain, appearance.bump[:, None]], 1).astype(np.float32)
    normals = smooth_normals(vertices.astype(np.float32), faces)
    return Surface(vertices.astype(np.float32), faces, normals, appearance.albedo, appearance.material, grain)


def _object(rng, place) -> Surface:
    kind = rng.integers(6)
    size = np.exp(rng.uniform(np.log(0.03), np.log(0.2)))
    if kind == 0:
        turned = trimesh.transformations.random_rotation_matrix(rng.random(3))
        box = trimesh.creation.box(size * rng.uniform(0.3, 1.6, 3), turned)
        shape = (np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32))
    elif kind == 1:
        ball = trimesh.creation.icosphere(4, radius=size * 0.7)
        shape = (np.float32(ball.vertices * rng.uniform(0.7, 1.4, 3)), np.asarray(ball.faces, np.int32))
    elif kind == 2:
        shape = _pole(rng, np.array([0, -1.2, 0]), np.array([rng.normal(0, 0.2), 0.7, rng.normal(0, 0.2)]))
    elif kind == 3:
        shape = hat(rng, (size, size * rng.uniform(0.8, 1.2)))
    elif kind == 4:
        shape = plinth(rng)
    else:
        return _camera(rng, place)
    return _coat(rng, (shape[0] + place, shape[1]), sharp=kind in (0, 4))


def _camera(rng, place) -> Surface:
    """A camera on a pole that looks at the subject: a body, a lens, a stand."""
    toward = -place / np.linalg.norm(place)
    right = np.cross([0, 1, 0], toward)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(toward, right), toward], 1)
    box = trimesh.creation.box([0.06, 0.06, 0.09])
    lens = trimesh.creation.cylinder(0.025, 0.06, sections=24)
    lens.apply_translation([0, 0, 0.07])
    turned = [np.asarray(mesh.vertices) @ axes.T * 1.2 + place for mesh in (box, lens)]
    pole, pole_faces = _pole(rng, place - [0, 1.0, 0], place)
    vertices = np.vstack([*turned, pole]).astype(np.float32)
    starts = (len(box.vertices), len(box.vertices) + len(lens.vertices))
    faces = np.vstack([box.faces, lens.faces + starts[0], pole_faces + starts[1]]).astype(np.int32)
    dark = np.clip(rng.uniform(0.01, 0.08) * rng.uniform(0.8, 1.2, 3), 0, 1)
    return _coat(rng, (vertices, faces), sharp=True, color=dark)


def _stand(rng, foot) -> list[Surface]:
    """A pole below the subject, sometimes with a plate, a ring or a clamp."""
    top = foot + [rng.normal(0, 0.01), rng.uniform(-0.03, 0.02), rng.normal(0, 0.01)]
    color = random_color(rng, (0.01, 0.6))
    parts = [_coat(rng, _pole(rng, top - [0, 0.6, 0], top, rng.uniform(0.005, 0.03)), color=color)]
    if rng.random() < 0.5:
        radius, thick = rng.uniform(0.03, 0.12), rng.uniform(0.004, 0.025)
        profile = np.array([[radius * 0.98, -thick], [radius, -thick * 0.9], [radius, -0.001], [radius * 0.98, 0]])
        vertices, faces = lathe(profile, 40)
        parts.append(_coat(rng, (vertices + np.float32(top), faces), sharp=True, color=color))
    if rng.random() < 0.4:  # arms that hold it
        for side in (-1, 1):
            elbow = top + [side * rng.uniform(0.03, 0.09), rng.uniform(0.02, 0.1), rng.normal(0, 0.03)]
            parts.append(_coat(rng, _pole(rng, top - [0, 0.05, 0], elbow, 0.004), color=color))
    return parts


def _table(rng, height: float) -> Surface:
    size = np.array([rng.uniform(0.3, 0.9), rng.uniform(0.01, 0.05), rng.uniform(0.3, 0.9)])
    box = trimesh.creation.box(size)
    vertices, faces = np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32)
    for _ in range(4):  # fine enough for a painted pattern and shadows
        fine = trimesh.Trimesh(vertices, faces, process=False).subdivide()
        vertices, faces = np.float32(fine.vertices), np.asarray(fine.faces, np.int32)
    return _coat(rng, (vertices + np.float32([0, height - size[1] / 2, 0]), faces), sharp=True)


def _pole(rng, bottom, top, radius: float | None = None) -> Shape:
    radius = rng.uniform(0.005, 0.03) if radius is None else radius
    mesh = trimesh.creation.cylinder(radius, segment=np.array([bottom, top], float), sections=20)
    return np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)


def _cable(rng) -> Shape:
    """A thin tube along a random curve around the subject."""
    knots = rng.normal(0, 0.25, (5, 3)) * [1.4, 1, 1.4]
    knots[:, 2] += rng.choice([-1, 1]) * 0.3
    at = CubicSpline(np.arange(5), knots)(np.linspace(0, 4, 60))
    return tube(at, rng.uniform(0.002, 0.006))


def _coat(rng, shape: Shape, sharp: bool = False, color=None) -> Surface:
    """Painted and lit as if the sky saw most of it."""
    vertices, faces = np.ascontiguousarray(shape[0], np.float32), shape[1]
    albedo = paint(vertices, rng) if color is None else np.tile(np.float32(color), (len(vertices), 1))
    material = finish(len(vertices), rng)
    material[:, 3] = 0.8
    if not sharp:
        return Surface(vertices, faces, smooth_normals(vertices, faces), albedo, material)
    split, new_faces, crisp = sharpened(vertices, faces)
    corners = faces.ravel()
    return Surface(split, new_faces, crisp, albedo[corners], material[corners])
