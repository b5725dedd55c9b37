"""How a head looks: skin, lips, brows, eyes, hair, beard, clothes, and the relief that each adds to the surface.

Everything is painted on the average adult's shape (``Topology.canonical``), where the features' places are known, so
that it follows identity and expression. Skin colour follows two pigments: melanin and haemoglobin absorb exponentially.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.synthetic.basis import PARTS
from models.synthetic.materials import paint, random_color
from models.synthetic.noise import fbm
from models.synthetic.subject import Subject
from models.synthetic.topology import Sites

HAIR_COLORS = np.array(
    [[0.012, 0.01, 0.009], [0.03, 0.02, 0.014], [0.07, 0.04, 0.022], [0.16, 0.09, 0.045], [0.35, 0.23, 0.11],
     [0.5, 0.4, 0.24], [0.28, 0.08, 0.03], [0.3, 0.3, 0.3], [0.6, 0.6, 0.58]], np.float32
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Appearance:
    """The material of one head's vertices. albedo (P, 3) linear; material and grain (P, 4) as in ``Surface``; bump (P,)
    its fifth column; relief (P,) metres along the normal, shift (P, 3) metres on top; hidden (P,) bool: vertices whose
    faces are not drawn; hairy and bearded (P,): 1 where hair and beard grow."""

    albedo: np.ndarray
    material: np.ndarray
    relief: np.ndarray
    shift: np.ndarray
    grain: np.ndarray
    hidden: np.ndarray
    bump: np.ndarray
    hairy: np.ndarray
    bearded: np.ndarray


@dataclass(frozen=True)
class Look:
    """What a person chooses or is born with; ``draw`` makes one at random."""

    seed: int
    melanin: float  # 0 palest to 1 darkest
    redness: float
    blotches: float
    freckles: float
    wrinkles: float
    gloss: float
    brow: float  # 0 none to 1 dense
    hair: str  # "none", "stubble", "short", "medium", "long", "cap", "locks"
    hair_color: tuple[float, ...]
    hair_length: float  # metres
    hair_curl: float
    hair_fade: float  # 0 one length to 1 shaved at the neck
    receding: float
    beard: float  # 0 none, below 0.3 stubble, 1 full
    lips: float  # 0 natural to 1 painted
    lip_color: tuple[float, ...]
    iris: tuple[float, ...]
    cloth: float  # height of the collar on the average adult, metres (negative); -1 for none
    cloth_color: tuple[float, float, float] | None = None  # None: any pattern

    @classmethod
    def draw(cls, rng: np.random.Generator, subject: Subject) -> Look:
        """A random look that fits the person's age and sex now and then."""
        old = subject.age > 0.75
        hair_color = HAIR_COLORS[rng.integers(5 if old else 0, 9) if rng.random() < 0.6 else rng.integers(9)]
        hair_color = np.clip(hair_color * rng.uniform(0.7, 1.4, 3) ** 0.5, 0.005, 0.8)
        if rng.random() < 0.05:
            hair_color = random_color(rng)
        male = rng.random() < subject.gender
        return cls(
            seed=int(rng.integers(1 << 30)),
            melanin=float(rng.beta(0.8, 1.1)),
            redness=float(rng.uniform(0.2, 1.0)),
            blotches=float(rng.uniform(0.02, 0.3)),
            freckles=float(max(0, rng.normal(0, 0.35))),
            wrinkles=float(rng.uniform(0.1, 0.5) + 0.7 * old * rng.random()),
            gloss=float(rng.uniform(0.05, 0.6)),
            brow=float(np.clip(rng.normal(0.7, 0.3), 0, 1)),
            hair=str(
                rng.choice(["none", "stubble", "short", "medium", "long", "cap"], p=[0.14, 0.13, 0.27, 0.2, 0.16, 0.1])
            ),
            hair_color=tuple(float(x) for x in hair_color),
            hair_length=float(rng.uniform(0.003, 0.035)),
            hair_curl=float(rng.random()),
            hair_fade=float(rng.uniform(0, 0.95)),
            receding=float(max(0, rng.normal(0, 0.02))),
            beard=float(rng.choice([0.0, rng.uniform(0.05, 0.3), rng.uniform(0.3, 1.0)], p=[0.4, 0.35, 0.25]))
            if male
            else 0.0,
            lips=0.0 if male else float(rng.choice([0, rng.random()])),
            lip_color=tuple(float(x) for x in random_color(rng) * [1.0, 0.35, 0.4]),
            iris=tuple(
                float(x)
                for x in np.array([[0.05, 0.025, 0.01], [0.12, 0.2, 0.35], [0.1, 0.18, 0.08], [0.2, 0.1, 0.03]])[
                    rng.integers(4)
                ]
            ),
            cloth=float(rng.choice([-1.0, rng.uniform(-0.21, -0.13)], p=[0.3, 0.7])),
        )


def dress(look: Look, sites: Sites) -> Appearance:
    """Paint a person: skin, eyes, hair, clothes."""
    rng = np.random.default_rng(look.seed)
    points, skin = sites.points, sites.skin
    albedo = _skin_color(look, points, rng)
    material = np.empty((len(points), 4), np.float32)
    sweat = 1 + 0.5 * fbm(points, 40.0, 2, look.seed + 1)
    material[:, 0] = look.gloss * np.clip(sweat, 0.1, 2)
    material[:, 1] = rng.uniform(0.38, 0.6)
    material[:, 2] = rng.uniform(0.3, 1.0)
    material[:, 3] = 1
    grain = np.empty((len(points), 4), np.float32)
    grain[:, :3] = points * np.float32(550)
    grain[:, 3] = skin * np.float32(rng.uniform(0.02, 0.14))
    relief = np.zeros(len(points), np.float32)
    relief += skin * look.wrinkles * np.float32(4e-4) * fbm(points * [1, 1.6, 1], 90.0, 3, look.seed + 2, 0.6)
    relief += skin * np.float32(rng.uniform(0, 1.2e-4)) * fbm(points, 420.0, 1, look.seed + 3)

    lips = sites.lips * skin
    natural = albedo * np.float32([0.92, 0.62, 0.62])
    lip = natural + look.lips * (np.asarray(look.lip_color, np.float32) - natural)
    albedo += lips[:, None] * (lip - albedo)
    material[:, 0] += lips * 0.2
    own = np.random.default_rng([look.seed, 1])
    bump = skin * np.float32(own.choice([0.0, own.uniform(2e-5, 1.2e-4)]))
    _brows(look, sites, albedo, relief, grain, bump)
    bearded = _beard(look, sites, albedo, material, relief)
    bump += np.float32(1e-4) * bearded * (look.beard > 0)
    hairy = _scalp(look, sites, albedo, material, relief, grain, rng)
    bump[hairy > 0.3] = own.uniform(1e-4, 5e-4)
    if look.cloth > -1:
        covered = _clothes(look, points, albedo, material, relief, rng)
        bump[covered > 0.5] = own.choice([0.0, own.uniform(1e-4, 4e-4)])
        hairy, bearded = hairy * (covered < 0.5), bearded * (covered < 0.5)
    _inside(look, sites, albedo, material)
    relief[~skin] = 0
    colour = np.clip(albedo, 0.004, 0.95)
    bump[~skin] = 0
    shown = np.zeros(len(points), bool)
    return Appearance(colour, material, relief, np.zeros_like(points), grain, shown, bump, hairy, bearded)


def _skin_color(look: Look, points, rng) -> np.ndarray:
    blotch = look.blotches * fbm(points, 28.0, 4, look.seed + 4, 0.6)
    melanin = look.melanin * (1 + 0.35 * blotch)
    blood = look.redness * (1 + 1.2 * look.blotches * fbm(points, 35.0, 3, look.seed + 5))
    warm = np.exp(-(((np.abs(points[:, 0]) - 0.045) / 0.025) ** 2) - ((points[:, 1] + 0.03) / 0.025) ** 2)  # cheeks
    warm += np.exp(-((points[:, 0] / 0.016) ** 2) - ((points[:, 1] + 0.025) / 0.016) ** 2)  # nose
    blood = blood * (1 + 0.6 * warm * (points[:, 2] > 0.02))
    if look.freckles > 0.05:
        spots = np.clip(fbm(points, 330.0, 1, look.seed + 6) - 0.35, 0, 1) * np.clip(
            1 + fbm(points, 20.0, 2, look.seed + 7), 0, 2
        )
        melanin = melanin + look.freckles * spots
    absorb = melanin[:, None] * np.float32([1.35, 2.15, 2.9]) + blood[:, None] * np.float32([0.08, 0.5, 0.42]) * 0.8
    return (np.float32([0.80, 0.69, 0.60]) * np.exp(-np.clip(absorb, 0, 6))).astype(np.float32)


def brow_field(sites: Sites) -> np.ndarray:
    """1 on the brows, 0 away from them."""
    points = sites.points
    along = np.array([0.010, 0.02, 0.034, 0.047, 0.054])
    height = np.array([0.0175, 0.0215, 0.0245, 0.022, 0.017]) + sites.eyes[0, 1]
    x = np.abs(points[:, 0])
    middle = np.interp(x, along, height)
    half = np.interp(x, along, [0.0048, 0.0052, 0.0042, 0.003, 0.0015])
    inside = 1 - np.clip((np.abs(points[:, 1] - middle) - half) / 0.0025, 0, 1)
    ends = np.clip((x - 0.007) / 0.01, 0, 1) * np.clip((0.056 - x) / 0.006, 0, 1)
    return (inside * ends * (points[:, 2] > 0.03)).astype(np.float32)


def _brows(look: Look, sites: Sites, albedo, relief, grain, bump) -> None:
    points = sites.points
    field = brow_field(sites) * look.brow
    albedo += 0.85 * field[:, None] * (np.asarray(look.hair_color, np.float32) * 0.8 - albedo)
    relief += field * np.float32(4e-4)
    hairs = np.stack([points[:, 0] * 900, points[:, 1] * 260, points[:, 2] * 400, np.full(len(points), 0.5)], 1)
    grain[field > 0.25] = hairs[field > 0.25]
    bump[field > 0.25] = 2.5e-4


def beard_field(sites: Sites) -> np.ndarray:
    """1 where a beard grows, 0 away from there.  # P float32"""
    points = sites.points
    turn = np.degrees(np.abs(np.arctan2(points[:, 0], points[:, 2])))
    upper = np.interp(turn, [0, 12, 25, 60, 78], [-0.046, -0.047, -0.062, -0.035, 0.0])
    field = np.clip((upper - points[:, 1]) / 0.01 + 0.5, 0, 1) * np.clip((80 - turn) / 12, 0, 1)
    field *= np.clip((points[:, 1] + 0.145) / 0.02, 0, 1) * (1 - np.clip(2 * sites.lips, 0, 1)) * (1 - sites.ear)
    return field.astype(np.float32)


def _beard(look: Look, sites: Sites, albedo, material, relief) -> np.ndarray:
    """Colours the beard and raises it; returns where it grows.  # P"""
    points, field = sites.points, beard_field(sites)
    if look.beard <= 0:
        return field
    patchy = np.clip(0.7 + 0.6 * fbm(points, 500.0, 2, look.seed + 9), 0, 1)
    cover = min(1.0, 0.25 + 0.75 * look.beard / 0.45)
    albedo += (field * patchy * cover)[:, None] * (np.asarray(look.hair_color, np.float32) - albedo)
    material[:, 0] *= 1 - 0.7 * field * cover
    if look.beard > 0.3:
        strands = 1 + 0.45 * fbm(points * np.float32([1, 0.3, 1]), 260.0, 3, look.seed + 10)
        relief += field * np.float32(0.018 * (look.beard - 0.25)) * strands
    return field


def hair_field(sites: Sites, receding: float, long: bool) -> tuple[np.ndarray, np.ndarray]:
    """1 where hair grows, falling to 0 over the hairline; and the height above that line in metres."""
    points = sites.points
    turn = np.degrees(np.abs(np.arctan2(points[:, 0], points[:, 2] + 0.01)))
    heights = [0.074, 0.072, 0.05, -0.012, 0.012, -0.008, -0.05, -0.068]
    if long:
        heights = [0.074, 0.07, 0.04, -0.02, -0.09, -0.14, -0.15, -0.155]
    line = np.interp(turn, [0, 35, 55, 72, 85, 115, 145, 180], heights) + receding * np.clip((95 - turn) / 60, 0, 1)
    line = line + 0.002 * fbm(points, 90.0, 2, 77)
    above = (points[:, 1] - line).astype(np.float32)
    field = np.clip(above / 0.012 + 0.3, 0, 1) * (1 - np.clip(1.5 * sites.ear - 0.5, 0, 1))
    return (field * field * (3 - 2 * field) * sites.skin).astype(np.float32), above


def strands_along(points, curl: float, seed: int) -> np.ndarray:
    """Noise drawn out along hair that falls from the crown.  # P float32, about -1..1"""
    crown = points - np.float32([0, 0.09, -0.03])
    around = np.arctan2(crown[:, 0], crown[:, 2])
    fall = np.linalg.norm(crown, axis=1)
    bend = 0.25 * curl * fbm(points, 30.0, 2, seed + 1)
    along = np.stack([np.cos(around + bend) * 2.2, np.sin(around + bend) * 2.2, fall * (4 + 40 * curl)], 1)
    frequency = 4.0 + 12.0 * ((seed * 2654435761) % 1000) / 1000  # some heads have finer strands
    fine = fbm(along, frequency, 3, seed, 0.7)
    return (0.7 * fine + 0.6 * curl * fbm(points, 70.0, 2, seed + 2)).astype(np.float32)


def _scalp(look: Look, sites: Sites, albedo, material, relief, grain, rng) -> np.ndarray:
    """Colours the hair or the cap and raises it; returns where hair grows, 0 under a cap.  # P"""
    points = sites.points
    if look.hair == "none":
        return np.zeros(len(points), np.float32)
    field, above = hair_field(sites, look.receding, look.hair == "long")
    if look.hair == "cap":
        line = rng.uniform(0.03, 0.065) - 0.03 * np.clip(-points[:, 2] / 0.1, -1, 1) * rng.random()
        field = np.clip((points[:, 1] - line) / 0.004 + 0.5, 0, 1).astype(np.float32) * (sites.skin)
        knit = np.sin(np.arctan2(points[:, 0], points[:, 2]) * rng.integers(20, 90)) * rng.choice([0.0, 0.0004, 0.0009])
        thick = rng.uniform(0.002, 0.012) + rng.uniform(0, 0.006) * fbm(points, 18.0, 2, look.seed + 11)
        thick = thick + rng.choice([0.0, rng.uniform(0.005, 0.06)]) * np.clip((points[:, 1] - 0.06) / 0.055, 0, 1) ** 2
        relief += field * (thick + knit).astype(np.float32)
        albedo += field[:, None] * (paint(points, rng) - albedo)
        material[:, :3] += field[:, None] * (np.float32([0.03, 0.8, 0.1]) - material[:, :3])
        return np.zeros(len(points), np.float32)
    length = {"stubble": 0.0, "short": 0.35, "medium": 0.8, "long": 1.0, "locks": 1.0}[look.hair]
    length = max(0.004, length * look.hair_length) if length else 0.0
    strands = strands_along(points, look.hair_curl, look.seed)
    cover = np.clip(0.5 + 0.5 * fbm(points, 600.0, 1, look.seed + 12), 0, 1) if look.hair == "stubble" else 1.0
    tone = np.asarray(look.hair_color, np.float32) * (1 + 0.5 * np.clip(strands, -1, 1))[:, None]
    albedo += (field * cover)[:, None] * (tone - albedo)
    crown = points - np.float32([0, 0.09, -0.03])
    around = np.arctan2(crown[:, 0], crown[:, 2])
    fall = np.linalg.norm(crown, axis=1) * (60 + 300 * look.hair_curl)
    hairy = field > 0.3
    grain[hairy] = np.stack([np.cos(around) * 65, np.sin(around) * 65, fall, np.full_like(fall, 0.35)], 1)[hairy]
    hair_material = np.float32([rng.uniform(0.05, 0.5), rng.uniform(0.4, 0.65), 0.1])
    material[:, :3] += field[:, None] * (hair_material - material[:, :3])
    edge = 0.004 + 0.03 * look.hair_fade  # hair rises from the skin over this height, lower parts are cut shorter
    rise = np.clip(above / edge, 0, 1) * (1 - look.hair_fade * np.clip(0.5 - points[:, 1] / 0.12, 0, 1))
    lumps = 1 + 0.28 * strands + 0.25 * fbm(points, 22.0, 2, look.seed + 13)
    relief += (field * (0.0008 + length * rise) * lumps).astype(np.float32)
    return field


def _clothes(look: Look, points, albedo, material, relief, rng) -> np.ndarray:
    """Colours and raises what cloth covers; returns where that is.  # P"""
    # Distance from the neck's axis, short of the chin: shoulders are covered.
    away = np.hypot(points[:, 0], 0.8 * np.minimum(points[:, 2] + 0.03, 0.06)) - 0.065
    height = points[:, 1] - look.cloth + rng.uniform(-0.4, 0.3) * np.clip(points[:, 2], 0, 1)
    height = height - rng.uniform(0.2, 1.2) * np.clip(away, 0, 1)
    field = np.clip(-height / 0.002 + 0.5, 0, 1).astype(np.float32)
    folds = fbm(points * np.float32([1, 0.6, 1]), rng.uniform(10, 30), 3, look.seed + 14)
    relief += field * (np.float32(rng.uniform(0.002, 0.008)) + np.float32(rng.uniform(0.0005, 0.004)) * folds)
    cloth = paint(points, rng) if look.cloth_color is None else np.float32(look.cloth_color)
    albedo += field[:, None] * (cloth - albedo)
    material[:, :3] += field[:, None] * (np.float32([0.04, 0.75, 0.05]) - material[:, :3])
    return field


def _inside(look: Look, sites: Sites, albedo, material) -> None:
    """Eyes, teeth, tongue, and the lining of mouth and sockets."""
    points, part = sites.points, sites.part
    for name, center in zip(("eye_left", "eye_right"), sites.eyes, strict=True):
        here = part == PARTS.index(name)
        away = points[here] - center
        angle = np.degrees(np.arccos(np.clip(away[:, 2] / np.linalg.norm(away, axis=1), -1, 1)))
        white = np.float32([0.72, 0.68, 0.65])
        iris = np.asarray(look.iris, np.float32) * (0.7 + 0.3 * np.sin(angle / 3))[:, None]
        color = np.where((angle < 25)[:, None], iris, white)
        color = np.where((np.abs(angle - 25) < 2.5)[:, None], 0.35 * iris, color)
        albedo[here] = np.where((angle < 10)[:, None], np.float32(0.008), color)
        material[here] = np.float32([0.4, 0.14, 0.1, 1])
    for name in ("teeth_upper", "teeth_lower"):
        albedo[part == PARTS.index(name)] = np.float32([0.52, 0.47, 0.37])
        material[part == PARTS.index(name)] = np.float32([0.5, 0.3, 0.3, 1])
    for name, color in (("tongue", [0.4, 0.13, 0.12]), ("mouth", [0.3, 0.08, 0.07])):
        here = (part == PARTS.index(name)) & (sites.lips < 0.3)
        albedo[here] = np.float32(color)
        material[here, :2] = np.float32([0.3, 0.35])
