"""Heads of stone, clay, plaster, bronze and paint: carved hair, eyes and jewellery, and what time breaks off.

Like ``skin``, everything is painted on the average adult's shape.
"""

from __future__ import annotations

import numpy as np

from models.synthetic.basis import PARTS
from models.synthetic.materials import earthy_color, finish, paint, random_color
from models.synthetic.noise import fbm
from models.synthetic.skin import Appearance, beard_field, brow_field, hair_field, strands_along
from models.synthetic.topology import Sites


def carve(rng: np.random.Generator, sites: Sites, skull: bool) -> Appearance:
    """A head that is no person: a statue, or with ``skull`` a head with hollow eyes and nose."""
    points, skin = sites.points, sites.skin
    seed = int(rng.integers(1 << 30))
    albedo = np.tile(earthy_color(rng), (len(points), 1)) if rng.random() < 0.4 else paint(points, rng)
    if rng.random() < 0.35:  # painted face: features in their own colours, sharp borders
        for region in (sites.lips > 0.5, brow_field(sites) > 0.4, ~skin, points[:, 1] < rng.uniform(-0.2, -0.12)):
            if rng.random() < 0.8:
                albedo[region] = random_color(rng)
    material = finish(len(points), rng)
    relief = np.float32(rng.choice([0, rng.uniform(0, 8e-4)])) * fbm(points, rng.uniform(30, 150), 4, seed, 0.6)
    grain = np.concatenate([points * rng.uniform(150, 700), np.full((len(points), 1), rng.uniform(0, 0.2))], 1)
    hidden = np.zeros(len(points), bool)
    shift = np.zeros((len(points), 3), np.float32)
    hairy = np.zeros(len(points), np.float32)
    if rng.random() < 0.55:
        hairy, _ = hair_field(sites, 0.0, bool(rng.integers(2)))
        relief += hairy * _carved_hair(rng, points, seed)
        if rng.random() < 0.5:
            albedo[hairy > 0.5] = random_color(rng)
    if rng.random() < 0.25:
        _band(rng, points, albedo, relief)
    if rng.random() < 0.25:
        _necklace(rng, points, albedo, relief)
    if skull:
        dark = _hollow(rng, sites, shift, relief)
        albedo = albedo * (1 - dark * rng.uniform(0, 0.8))
        hidden = np.isin(sites.part, [PARTS.index(name) for name in PARTS[3:]])
    if rng.random() < 0.45:
        _break(rng, sites, albedo, relief, shift)
    relief[~skin] = 0
    if not skull:
        _eyes(rng, sites, relief)
    colour = np.clip(albedo, 0.004, 0.95).astype(np.float32)
    bump = skin * np.float32(rng.choice([0.0, rng.uniform(0.02, 0.2)]) / max(np.ptp(grain[:, 0]) / 0.4, 1.0))
    return Appearance(
        colour,
        material,
        relief.astype(np.float32),
        shift,
        grain.astype(np.float32),
        hidden,
        bump,
        hairy,
        beard_field(sites),
    )


def _carved_hair(rng, points, seed: int) -> np.ndarray:
    """Height in metres of hair as sculptors cut it: strands, snail curls in rows, waves, plaits.  # P"""
    length = rng.uniform(0.004, 0.03)
    crown = points - np.float32([0, 0.09, -0.03])
    around, fall = np.arctan2(crown[:, 0], crown[:, 2]), np.linalg.norm(crown, axis=1)
    style = rng.integers(4)
    if style == 0:
        return length + 0.3 * length * strands_along(points, rng.random(), seed)
    if style == 1:
        rows, columns = fall * rng.uniform(35, 80), around * rng.integers(9, 20) / 2
        curls = np.abs(np.sin(np.pi * rows)) * np.abs(np.sin(np.pi * (columns + 0.5 * (np.floor(rows) % 2))))
        return length * 0.6 + rng.uniform(0.002, 0.006) * np.sqrt(curls)
    bend = rng.uniform(0, 1.5) * fbm(points, 25.0, 2, seed)
    if style == 2:
        ridges = 1 - np.abs(np.sin(fall * rng.uniform(100, 300) + bend + 0.4 * np.sin(around * rng.integers(3, 9))))
        return length * 0.6 + rng.uniform(0.001, 0.004) * ridges
    count = rng.integers(14, 40)
    plait = np.abs(np.sin(around * count / 2)) ** 0.5
    knots = np.abs(np.sin(fall * rng.uniform(150, 400) + np.pi * np.sign(np.sin(around * count))))
    return length * 0.4 + rng.uniform(0.002, 0.005) * plait * (0.7 + 0.3 * knots)


def _band(rng, points, albedo, relief) -> None:
    """A diadem, plain, beaded or notched."""
    height = points[:, 1] - rng.uniform(0.035, 0.075) - rng.uniform(-0.3, 0.5) * points[:, 2]
    half = rng.uniform(0.003, 0.013)
    inside = np.clip((half - np.abs(height)) / 0.0012, 0, 1) * (points[:, 1] > 0)
    around = np.arctan2(points[:, 0], points[:, 2])
    beads = 1 + rng.choice([0.0, rng.uniform(0.2, 0.6)]) * np.sin(around * rng.integers(20, 90))
    relief += inside * rng.uniform(0.001, 0.005) * beads
    if rng.random() < 0.6:
        albedo[inside > 0.5] = random_color(rng)


def _necklace(rng, points, albedo, relief) -> None:
    """A broad collar in rings about the neck: painted, carved or both, with beads."""
    away = np.hypot(points[:, 0], points[:, 2] + 0.03) - 0.062 + 0.6 * np.clip(-0.14 - points[:, 1], 0, 1)
    covers = (away > 0) & (away < rng.uniform(0.03, 0.12)) & (points[:, 1] < -0.125)
    ring = away * rng.uniform(60, 160)
    around = np.arctan2(points[:, 0], points[:, 2] + 0.03)
    beads = np.sin(around * rng.integers(30, 90) + np.pi * np.floor(ring))
    if rng.random() < 0.6:
        ridges = np.sqrt(np.abs(np.sin(np.pi * ring))) * (1 + 0.3 * beads)
        relief += covers * rng.uniform(0.0005, 0.002) * ridges
    if rng.random() < 0.7:
        palette = np.stack([random_color(rng) for _ in range(5)])
        index = (np.floor(ring) + (beads > rng.choice([0.0, 2.0]))).astype(int) % 5
        albedo[covers] = palette[index[covers]]


def _eyes(rng, sites: Sites, relief) -> None:
    """Blank, ringed or drilled eyes."""
    style = rng.integers(3)
    if style == 0:
        return
    for part, center in zip((PARTS.index("eye_left"), PARTS.index("eye_right")), sites.eyes, strict=True):
        here = np.flatnonzero(sites.part == part)
        away = sites.points[here] - center
        angle = np.degrees(np.arccos(np.clip(away[:, 2] / np.linalg.norm(away, axis=1), -1, 1)))
        ring = 0.0006 * np.exp(-(((angle - 27) / 4) ** 2))
        drill = rng.uniform(0.001, 0.003) * np.clip((14 - angle) / 4, 0, 1) if style == 2 else 0.0
        relief[here] -= ring + drill


def _hollow(rng, sites: Sites, shift, relief) -> np.ndarray:
    """Sink eyes, nose and cheeks, and hint at teeth; returns how deep in shade each vertex lies.  # P,1"""
    points = sites.points
    for eye in sites.eyes:
        distance = np.linalg.norm((points - eye) * [0.85, 1.0, 0.5], axis=1)
        shift[:, 2] -= rng.uniform(0.022, 0.035) * np.exp(-((distance / 0.02) ** 6))
    nose = np.abs(points[:, 0]) / 0.013 + np.abs(points[:, 1] + 0.03) / 0.02
    shift[:, 2] -= rng.uniform(0.015, 0.035) * np.exp(-(nose**4)) * (points[:, 2] > 0.06)
    for side in (-1, 1):
        cheek = np.linalg.norm((points - [side * 0.055, -0.055, 0.05]) * [1, 1, 0.7], axis=1)
        shift[:, 0] -= side * rng.uniform(0.004, 0.016) * np.exp(-((cheek / 0.022) ** 2))
    mouth = np.exp(-(((points[:, 1] + 0.065) / 0.014) ** 2)) * (points[:, 2] > 0.04)
    relief += mouth * np.float32(0.0025) * np.abs(np.sin(np.arctan2(points[:, 0], points[:, 2] - 0.03) * 9))
    relief -= sites.ear * np.float32(0.004)
    return np.clip(-shift[:, 2:] / 0.015, 0, 1)


def _break(rng, sites: Sites, albedo, relief, shift) -> None:
    """Broken noses, chips, cracks, joints and pits, sometimes in the colour of the fresh stone."""
    points = sites.points
    seed = int(rng.integers(1 << 30))
    broken = np.zeros(len(points))
    if rng.random() < 0.45:
        plane = 0.094 + rng.uniform(0, 0.01) + rng.normal(0, 0.3) * (points[:, 1] + 0.03)
        plane = plane + rng.normal(0, 0.2) * points[:, 0] + 0.0008 * fbm(points, 150.0, 3, seed)
        near = (np.abs(points[:, 0]) < 0.022) & (points[:, 1] > -0.045) & (points[:, 1] < 0.004)
        over = np.clip(points[:, 2] - plane, 0, None) * near
        shift[:, 2] -= over
        broken = np.maximum(broken, over > 0.0003)
    proud = np.flatnonzero((sites.ear > 0.5) | (points[:, 2] > 0.095))
    for _ in range(rng.integers(0, 10)):
        center = points[rng.choice(proud) if rng.random() < 0.6 else rng.integers(len(points))]
        radius = np.exp(rng.uniform(np.log(0.004), np.log(0.028)))
        inside = radius - np.linalg.norm(points - center, axis=1)
        rough = 1 + 0.3 * fbm(points, 2.5 / radius, 3, seed + 1)
        deep = np.minimum(np.clip(inside, 0, None) * rng.uniform(0.5, 1.2), radius * rng.uniform(0.15, 0.4)) * rough
        relief -= deep
        broken = np.maximum(broken, deep > 0.0004)
    if rng.random() < 0.5:
        field = fbm(points, rng.uniform(5, 12), 4, seed + 2)
        where = fbm(points, 7.0, 1, seed + 3) > rng.uniform(-0.3, 0.5)
        relief -= rng.uniform(0.0004, 0.0016) * np.exp(-((field / 0.025) ** 2)) * where
    if rng.random() < 0.2:  # where pieces were put together
        normal = rng.normal(size=3)
        away = points @ (normal / np.linalg.norm(normal)) - rng.normal(0, 0.05) + 0.003 * fbm(points, 60.0, 3, seed + 4)
        relief -= rng.uniform(0.0004, 0.0015) * np.exp(-((away / 0.0011) ** 2))
        relief += rng.choice([0.0, rng.uniform(0, 0.001)]) * (away > 0)
    if rng.random() < 0.35:
        relief -= rng.uniform(0.0005, 0.003) * np.clip(fbm(points, rng.uniform(60, 200), 2, seed + 5) - 0.4, 0, 1)
    if rng.random() < 0.5:
        albedo[broken > 0.5] = earthy_color(rng)
