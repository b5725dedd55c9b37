"""A synthetic person's shape: random identity, ARKit-named expressions, head motion, subdivided mesh.

World: metres, Y up, the face toward +Z, the middle of the head at the origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.synthetic.basis import Basis
from models.synthetic.topology import flat, head_middle, macro_weights, topology, with_cap

_SUFFIXES = (
    *("incr", "decr", "up", "down", "in", "out", "forward", "backward", "concave", "convex", "compress", "uncompress"),
    *("square", "round", "triangle", "pointed", "oval", "rectangular", "diamond", "triangular", "invertedtriangular"),
)
_WILD = {  # targets that leave the human range at full weight
    "forehead-nubian": 0.25,
    "ear-shape": 0.3,
    "ear-trans": 0.15,
    "head-angle": 0.35,
    "head-trans": 0.0,
    "neck-trans": 0.1,
    "mouth-trans": 0.3,
    "nose-trans": 0.4,
    "chin-triangle": 0.5,
    "head-scale": 0.6,
    "neck-scale": 0.4,
    "measure-neck": 0.4,
}
_NECK_PIVOT = np.array([0.0, -0.105, -0.035])  # from the middle of the head


@dataclass(frozen=True, eq=False)
class Subject:
    """One person's neutral shape at level 0, centred.  neutral (P_0, 3) metres."""

    neutral: np.ndarray
    age: float
    gender: float  # 0 female, 1 male
    weight: float

    @classmethod
    def draw(cls, rng: np.random.Generator, spread: float = 1.0, adult: bool = False) -> Subject:
        """A random person; ``spread`` scales how far the features leave the average. adult: between 25 and 45."""
        top = topology()
        basis = top.basis
        gender = float(np.clip(rng.normal(rng.integers(2), 0.2), 0, 1))
        ages = ((0.3, 0.42), (0.42, 0.75), (0.75, 1.0))  # children, adults, old people
        low, high = (0.64, 0.76) if adult else ages[rng.choice(3, p=[0.1, 0.5, 0.4])]
        age = float(rng.uniform(low, high))
        weight, muscle = (float(np.clip(rng.normal(0.5, 0.28 * spread), 0, 1)) for _ in range(2))
        race = rng.dirichlet([0.6, 0.6, 0.6])
        weights = macro_weights(basis, gender, age, muscle, weight, race)
        local = local_weights(basis, rng, spread)
        offset = weights @ flat(basis.macro) + local @ flat(basis.local)
        shape = with_cap(basis.template + offset.reshape(-1, 3))
        shape = shape - head_middle(shape, basis)
        return cls(shape.astype(np.float32), age, gender, weight)

    def pose(
        self,
        actions: Mapping[str, float] | np.ndarray | None = None,
        rotation: np.ndarray | None = None,
        shift=(0, 0, 0),
    ) -> np.ndarray:
        """Level-0 vertices of an expression and a head pose.  # P_0,3 float32

        actions: ARKit names to 0..1, or 52 weights in the basis' order. rotation (3, 3) turns the head about the neck;
        the chest stays. shift moves everything, metres.
        """
        top = topology()
        vertices = self.neutral
        if actions is not None:
            if isinstance(actions, Mapping):
                row = np.zeros(len(top.basis.action_labels), np.float32)
                for name, value in actions.items():
                    row[top.basis.action_labels.index(name)] = value
            else:
                row = np.asarray(actions, np.float32)
            offset = (row @ flat(top.basis.action)).reshape(-1, 3)
            vertices = vertices + np.vstack([offset, np.zeros((1, 3), np.float32)])
        if rotation is not None:
            turned = (vertices - _NECK_PIVOT) @ np.asarray(rotation).T + _NECK_PIVOT
            vertices = vertices + top.follow[:, None] * (turned - vertices)
        return (vertices + np.asarray(shift)).astype(np.float32)


def local_weights(basis: Basis, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """Random weights of the local targets: left and right tied up to a small asymmetry.  # L float32"""
    groups: dict[str, dict[str, list[int]]] = {}
    for row, label in enumerate(basis.local_labels):
        folder, name = label.split("/")
        name = name[2:] if name[:2] in ("l-", "r-") else name.removesuffix("-l").removesuffix("-r")
        stem, _, last = name.rpartition("-")
        stem, variant = (stem, last) if last in _SUFFIXES or last.isdigit() else (name, "")
        groups.setdefault(f"{folder}/{stem}", {}).setdefault(variant, []).append(row)
    out = np.zeros(len(basis.local_labels), np.float32)
    for key, variants in groups.items():
        if rng.random() < 0.35:
            continue
        limit = next((scale for word, scale in _WILD.items() if word in key), 0.7)
        size = abs(rng.normal(0, 0.5)) * limit * spread
        rows = list(variants.values())[rng.integers(len(variants))]
        if key.startswith("asym/"):
            out[rows[rng.integers(len(rows))]] = min(size * 0.7, 1.0)
        else:
            for row in rows:
                out[row] = min(max(size * (1 + rng.normal(0, 0.08)), 0), 1.1)
    return out
