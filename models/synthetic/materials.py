"""Materials of things that are no skin: stone, plaster, metal, cloth, paint; functions of points in space."""

from __future__ import annotations

import numpy as np

from models.synthetic.noise import fbm


def random_color(rng: np.random.Generator, brightness: tuple[float, float] = (0.03, 0.9)) -> np.ndarray:
    """A linear RGB albedo: any hue, mostly unsaturated, any brightness.  # 3 float32"""
    value = rng.uniform(*np.sqrt(brightness)) ** 2
    saturation = rng.beta(1.0, 2.2)
    hue = rng.uniform(0, 3)
    color = np.clip(1 - np.abs((np.arange(3) - hue + 1.5) % 3 - 1.5), 0, 1)
    return np.clip(value * ((1 - saturation) + saturation * color * 1.8), 0.01, 0.95).astype(np.float32)


def earthy_color(rng: np.random.Generator) -> np.ndarray:
    """Stone, bone, plaster, clay, bronze, wood: linear RGB.  # 3 float32"""
    bases = np.array(
        [
            [0.75, 0.72, 0.66],
            [0.85, 0.84, 0.82],
            [0.62, 0.52, 0.38],
            [0.45, 0.28, 0.18],
            [0.25, 0.24, 0.23],
            [0.20, 0.13, 0.07],
            [0.55, 0.44, 0.30],
            [0.35, 0.36, 0.33],
            [0.09, 0.11, 0.09],
            [0.58, 0.40, 0.22],
        ],
        np.float32,
    )
    return np.clip(
        bases[rng.integers(len(bases))] * rng.uniform(0.7, 1.2) * rng.uniform(0.93, 1.07, 3), 0.01, 0.92
    ).astype(np.float32)


def paint(points: np.ndarray, rng: np.random.Generator, size: float = 0.2) -> np.ndarray:
    """Albedo of a random coat over points (P, 3) of a thing about ``size`` metres wide.  # P,3 float32"""
    count = len(points)
    seed = int(rng.integers(1 << 30))
    pick = random_color if rng.random() < 0.6 else earthy_color
    first, second = pick(rng), pick(rng)
    unit = np.asarray(points, np.float32) / np.float32(size)
    style = rng.choice(
        ["plain", "stain", "marble", "patches", "bands", "speckle", "check"], p=[0.3, 0.2, 0.1, 0.18, 0.1, 0.06, 0.06]
    )
    if style == "plain":
        albedo = np.tile(first, (count, 1))
    elif style == "stain":
        share = 1 / (1 + np.exp(-4 * fbm(unit, rng.uniform(2, 8), 4, seed, 0.6)))
        albedo = first + (second - first) * (share * rng.uniform(0.3, 1))[:, None]
    elif style == "marble":
        bend = fbm(unit, rng.uniform(2, 4), 4, seed) * rng.uniform(2, 6)
        share = np.abs(np.sin(unit @ rng.normal(size=3).astype(np.float32) * rng.uniform(4, 12) + bend)) ** rng.uniform(
            0.3, 3
        )
        albedo = first + (second - first) * share[:, None]
    elif style == "patches":
        palette = np.stack([first, second, *(random_color(rng) for _ in range(rng.integers(1, 4)))])
        field = fbm(unit, rng.uniform(1.5, 8), int(rng.integers(1, 4)), seed) * rng.uniform(1, 2.5)
        albedo = palette[np.floor(field * 1.5 + 50).astype(int) % len(palette)]
    elif style == "bands":
        axis = rng.normal(size=3).astype(np.float32) * [0.3, 1, 0.3]
        wave = unit @ (axis / np.linalg.norm(axis)).astype(np.float32) * rng.uniform(2, 14)
        wave = wave + fbm(unit, 3.0, 2, seed) * rng.choice([0.0, 0.1, 0.5])
        albedo = np.where((np.floor(wave).astype(int) % 2 == 0)[:, None], first, second)
    elif style == "speckle":
        spots = fbm(unit, rng.uniform(15, 40), 1, seed) > rng.uniform(0.3, 0.6)
        albedo = np.where(spots[:, None], second, first)
    else:
        cells = np.floor(unit * rng.uniform(4, 12) + 100).astype(int).sum(1)
        albedo = np.where((cells % 2 == 0)[:, None], first, second)
    if rng.random() < 0.6:  # wear, dirt, uneven pigment
        albedo = albedo * (1 + rng.uniform(0.03, 0.35) * fbm(unit, rng.uniform(4, 25), 4, seed + 5, 0.65))[:, None]
    return np.clip(albedo, 0.008, 0.95).astype(np.float32)


def finish(count: int, rng: np.random.Generator) -> np.ndarray:
    """Gloss of a random thing: the columns of ``Surface.material``, open to the sky.  # P,4 float32"""
    kind = rng.choice(["matt", "satin", "gloss", "metal"], p=[0.5, 0.25, 0.15, 0.1])
    strength, roughness = {
        "matt": (rng.uniform(0, 0.08), 0.8),
        "satin": (rng.uniform(0.1, 0.35), rng.uniform(0.4, 0.65)),
        "gloss": (rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.4)),
        "metal": (rng.uniform(0.8, 2.0), rng.uniform(0.3, 0.6)),
    }[str(kind)]
    translucency = rng.choice([0.0, rng.uniform(0, 0.4)])
    return np.tile(np.float32([strength, roughness, translucency, 1]), (count, 1))
