"""Skulls: braincase, sockets, nose, cheek arches, jaw and teeth, melted together as distance fields.

The bones are ellipsoids and capsules joined by a smooth minimum (Quilez) and hollowed by a smooth maximum, on half a
grid, because a skull is nearly symmetric; a slow warp makes it a little uneven. Teeth are meshes of their own.
"""

from __future__ import annotations

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from models.synthetic.lighting import ambient_visibility
from models.synthetic.materials import earthy_color, finish, random_color
from models.synthetic.noise import fbm
from models.synthetic.render import Surface
from models.synthetic.surfaces import join
from models.synthetic.topology import smooth_normals

_STEP = 0.0024
_LOW, _HIGH = np.array([0.0, -0.135, -0.125]), np.array([0.088, 0.128, 0.112])


def draw_skull(rng: np.random.Generator) -> Surface:
    """A random skull at the origin, facing +Z, with or without its lower jaw and some of its teeth."""
    shape = rng.normal(1, 0.05, 3).astype(np.float32)
    jaw = rng.random() < 0.75
    drop = rng.choice([0.0, rng.uniform(0.002, 0.02)])
    vertices, faces = _bones(rng, jaw, drop)
    normals = smooth_normals(vertices, faces)
    seed = int(rng.integers(1 << 30))
    relief = rng.uniform(0.0, 0.0008) * fbm(vertices, rng.uniform(60, 160), 3, seed) - _sutures(rng, vertices)
    relief += rng.uniform(0, 0.002) * fbm(vertices, 22.0, 2, seed + 7)
    vertices = vertices + relief[:, None].astype(np.float32) * normals
    normals = smooth_normals(vertices, faces)
    bone = earthy_color(rng) if rng.random() < 0.75 else random_color(rng)
    stain = fbm(vertices, rng.uniform(12, 40), 4, seed + 1, 0.6)
    dark = np.float32([0.45, 0.34, 0.22]) ** rng.uniform(0, 1)
    albedo = bone * (1 + (dark - 1) * np.clip(0.5 + rng.uniform(0.2, 0.8) * stain, 0, 1)[:, None])
    material = finish(len(vertices), rng)
    material[:, 3] *= ambient_visibility(vertices, normals, faces, 16)
    cells = rng.uniform(200, 900)
    fine = np.tile(
        np.float32([rng.uniform(0, 0.2), rng.choice([0.0, rng.uniform(0.05, 0.2)]) / cells]), (len(vertices), 1)
    )
    grain = np.hstack([vertices * np.float32(cells), fine]).astype(np.float32)
    head = Surface(vertices, faces, normals, np.clip(albedo, 0.01, 0.95).astype(np.float32), material, grain)
    teeth = _teeth(rng, jaw, drop, np.clip(bone * rng.uniform(0.9, 1.3), 0.02, 0.95), material[0])
    whole = join([head, *teeth])
    warp = 0.003 * np.stack([fbm(whole.vertices, 9.0, 1, seed + k) for k in (2, 3, 4)], 1)
    moved = (whole.vertices * shape + warp).astype(np.float32)
    return Surface(moved, whole.faces, smooth_normals(moved, whole.faces), whole.albedo, whole.material, whole.grain)


def _bones(rng, jaw: bool, drop: float) -> tuple[np.ndarray, np.ndarray]:
    axes = [np.arange(low, high, _STEP, dtype=np.float32) for low, high in zip(_LOW, _HIGH, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    j = lambda *place: np.array(place) * rng.normal(1, 0.03, 3)  # noqa: E731

    def ball(center, radii):
        u, v, w = (x - center[0]) / radii[0], (y - center[1]) / radii[1], (z - center[2]) / radii[2]
        return (np.sqrt(u * u + v * v + w * w) - 1) * np.float32(min(radii))

    def bar(a, b, radius):
        ax = b - a
        t = np.clip(((x - a[0]) * ax[0] + (y - a[1]) * ax[1] + (z - a[2]) * ax[2]) / np.float32(ax @ ax), 0, 1)
        return np.sqrt(
            (x - a[0] - t * ax[0]) ** 2 + (y - a[1] - t * ax[1]) ** 2 + (z - a[2] - t * ax[2]) ** 2
        ) - np.float32(radius)

    field = ball(j(0, 0.043, -0.018), j(0.07, 0.07, 0.092))
    field = _join(field, ball(j(0, 0.05, 0.03), j(0.055, 0.05, 0.05)), 0.03)
    field = _join(field, ball(j(0, -0.005, -0.055), j(0.05, 0.045, 0.05)), 0.03)
    field = _join(field, ball(j(0, -0.024, 0.045), j(0.036, 0.034, 0.036)), 0.02)
    brow = rng.uniform(0.005, 0.01)
    field = _join(field, bar(j(0.008, 0.021, 0.074), j(0.05, 0.017, 0.052), brow), 0.012)
    field = _join(field, bar(j(0.05, 0.017, 0.052), j(0.05, -0.01, 0.05), 0.006), 0.01)
    cheek = j(0.05, -0.022, 0.05)
    field = _join(field, bar(j(0.03, -0.03, 0.062), cheek, rng.uniform(0.008, 0.011)), 0.012)
    field = _join(field, bar(cheek, j(0.066, -0.012, 0.0), rng.uniform(0.004, 0.006)), 0.008)
    field = _join(field, ball(j(0.056, -0.026, -0.018), (0.012, 0.02, 0.014)), 0.015)  # behind the ear
    field = _cut(field, ball(j(0.078, 0.01, 0.03), (0.02, 0.032, 0.03)), 0.02)  # temple
    eye = j(0.0305, 0.0015, 0.078)
    field = _cut(field, ball(eye, j(0.018, 0.0165, 0.034)), 0.006)
    field = _cut(field, ball(eye - [0.008, 0, 0.012], (0.012, 0.012, 0.024)), 0.006)
    field = _cut(field, ball(j(0.042, -0.052, 0.055), (0.016, 0.018, 0.03)), 0.012)
    field = _join(field, bar(np.array([0, 0.017, 0.075]), j(0, -0.004, 0.087), 0.0062), 0.008)
    field = _cut(field, ball(j(0.006, -0.026, 0.08), (0.0075, 0.012, 0.028)), 0.004)
    field = _cut(field, ball(np.array([0, -0.014, 0.082]), (0.0055, 0.012, 0.026)), 0.004)
    field = _join(field, bar(np.array([0, -0.042, 0.081]), np.array([0.02, -0.046, 0.067]), 0.008), 0.008)
    field = _cut(field, bar(j(0.066, -0.014, -0.012), j(0.05, -0.014, -0.012), 0.004), 0.003)
    field = _cut(field, ball(np.array([0, -0.075, -0.005]), (0.04, 0.04, 0.05)), 0.01)  # open below
    if jaw:
        chin, corner = j(0.012, -0.098 - drop, 0.072 - drop * 0.4), j(0.045, -0.079 - drop * 0.6, 0.012)
        jaws = _join(bar(np.array([0, chin[1], chin[2] + 0.002]), chin, 0.0105), bar(chin, corner, 0.0085), 0.012)
        jaws = _join(jaws, bar(corner, j(0.052, -0.02, 0.002), 0.007), 0.01)
        jaws = _join(
            jaws,
            bar(np.array([0, -0.084 - drop, 0.075 - drop * 0.4]), np.array([0.022, -0.08 - drop, 0.06]), 0.007),
            0.012,
        )
        field = np.minimum(field, jaws)
    whole = np.concatenate([field[:0:-1], field])
    whole[[0, -1]], whole[:, [0, -1]], whole[:, :, [0, -1]] = 0.02, 0.02, 0.02
    vertices, faces, _, _ = marching_cubes(whole, 0.0, spacing=(_STEP,) * 3)
    vertices = (vertices + [-(len(axes[0]) - 1) * _STEP, _LOW[1], _LOW[2]]).astype(np.float32)
    faces = np.ascontiguousarray(faces, np.int32)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    if np.einsum("ij,ij->", a, np.cross(b, c)) < 0:
        faces = np.ascontiguousarray(faces[:, ::-1])
    return vertices, faces


def _join(a, b, blend: float):
    share = np.maximum(np.float32(blend) - np.abs(a - b), 0) / np.float32(blend)
    return np.minimum(a, b) - share * share * np.float32(blend * 0.25)


def _cut(a, b, blend: float):
    return -_join(-a, b, blend)


def _sutures(rng, points) -> np.ndarray:
    """Depth of the seams of the braincase, metres: coronal, sagittal and lambdoid, zigzag.  # P"""
    deep = rng.choice([0.0, rng.uniform(0.0002, 0.0009)], p=[0.3, 0.7])
    zigzag = 0.004 * fbm(points, 160.0, 2, int(rng.integers(1 << 30)))
    x, y, z = points.T
    top = y > 0.015
    out = np.zeros(len(points))
    for away, where in (
        (z - 0.02 + 0.25 * np.abs(x), top),
        (x, top & (z < 0.02) & (z > -0.09)),
        (y - 0.04 + 0.5 * np.abs(x) + 0.5 * (z + 0.1), z < -0.06),
    ):
        out = np.maximum(out, np.exp(-(((away + zigzag) / 0.0016) ** 2)) * where)
    return deep * out


def _teeth(rng, jaw: bool, drop: float, color, gloss) -> list[Surface]:
    """Two rows of teeth, each a rounded peg; some are missing."""
    lost = rng.choice([0.0, rng.uniform(0.1, 0.8)], p=[0.5, 0.5])
    peg = trimesh.creation.icosphere(2)
    out = []
    rows = [(-0.056, 0.088, 1.0)] + ([(-0.0705 - drop, 0.086 - 0.4 * drop, 0.85)] if jaw else [])
    for height, front, size in rows:
        at = 0.0
        for number in range(7):
            wide = size * (0.0042, 0.0034, 0.0037, 0.0035, 0.0035, 0.0048, 0.0048)[number]
            at += wide
            angle = at / 0.027
            x, z = 0.027 * np.sin(angle * 0.95), front - 0.03 * (1 - np.cos(angle))
            at += wide
            for side in (-1, 1):
                if rng.random() < lost:
                    continue
                local = peg.vertices * [wide, 0.0065 * rng.uniform(0.9, 1.1), 0.0035 if number < 4 else 0.005]
                local = np.sign(local) * np.abs(local) ** 0.9 * np.array([wide, 0.0065, 0.004]) ** 0.1
                turn = side * angle
                spun = local @ np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
                vertices = (spun + [side * x, height + rng.normal(0, 0.0005), z]).astype(np.float32)
                faces = np.asarray(peg.faces, np.int32)
                blank = np.tile(np.float32(color), (len(vertices), 1))
                material = np.tile(np.float32([gloss[0] + 0.1, min(gloss[1], 0.5), gloss[2], 0.8]), (len(vertices), 1))
                out.append(Surface(vertices, faces, smooth_normals(vertices, faces), blank, material))
    return out
