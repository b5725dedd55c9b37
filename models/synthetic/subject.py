"""A synthetic person's shape: random identity, ARKit-named expressions, head motion, subdivided mesh.

World: metres, Y up, the face toward +Z, the middle of the head at the origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np

from geometry.mesh import loop_matrix
from models.synthetic.basis import GENDERS, MUSCLES, PARTS, RACES, WEIGHTS, Basis, load_basis

_SUFFIXES = ["incr", "decr", "up", "down", "in", "out", "forward", "backward", "concave", "convex", "compress", "uncompress", "square", "round", "triangle", "pointed", "oval", "rectangular", "diamond", "triangular", "invertedtriangular"]
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
class Topology:
    """What every subject shares: the bust's mesh at three levels, and where things are on the average adult.

    faces[k] (F_k, 3) and canonical[k] (P_k, 3) at Loop level k (0, 1, 2); up[k] is the sparse matrix from level k to
    k + 1; part[k] (P_k,) indexes basis.PARTS; follow (P_0,) is 0 where a vertex stays with the chest and 1 where it
    follows the head; ear and lips (P_2,) are 1 there and fall off around.
    """

    basis: Basis
    faces: tuple[np.ndarray, ...]
    up: tuple
    canonical: tuple[np.ndarray, ...]
    part: tuple[np.ndarray, ...]
    follow: np.ndarray
    ear: np.ndarray
    lips: np.ndarray
    eyes: np.ndarray  # 2,3 canonical eye centres: left (x > 0), right


@cache
def topology() -> Topology:
    """The bust's topology; made once a process (half a second)."""
    basis = load_basis()
    count = len(basis.template)
    faces = [_cap(basis.faces, count)]
    up = []
    size = count + 1
    for _ in range(2):
        matrix, finer = loop_matrix(faces[-1], size)
        up.append(matrix.astype(np.float32).tocsr())
        faces.append(finer)
        size = matrix.shape[0]
    average = macro_weights(basis, 0.5, 0.66, 0.5, 0.5, (1 / 3, 1 / 3, 1 / 3))
    base = _with_cap(basis.template + (average @ _flat(basis.macro)).reshape(-1, 3))
    base = base - head_middle(base, basis)
    canonical = [base.astype(np.float32)]
    part0 = np.append(basis.part, 0)
    one_hot = np.eye(len(PARTS), dtype=np.float32)[part0]
    part = [part0]
    for matrix in up:
        canonical.append(matrix @ canonical[-1])
        one_hot = matrix @ one_hot
        part.append(one_hot.argmax(1).astype(np.uint8))

    def reach(words: tuple[str, ...], least: float, full: float) -> np.ndarray:
        """Where targets whose labels hold one of ``words`` move the mesh: 0 below ``least`` metres, 1 above ``full``."""
        rows = [i for i, label in enumerate(basis.local_labels) if any(word in label for word in words)]
        moved = np.append(np.linalg.norm(basis.local[rows], axis=2).max(0), 0)
        return up[1] @ (up[0] @ _smoothstep(least, full, moved).astype(np.float32))

    eyes = np.stack([canonical[0][part0 == PARTS.index(name)].mean(0) for name in ("eye_left", "eye_right")])
    follow = _smoothstep(-0.20, -0.13, base[:, 1] + 0.35 * np.maximum(base[:, 2], 0))
    return Topology(
        basis,
        tuple(faces),
        tuple(up),
        tuple(canonical),
        tuple(part),
        follow.astype(np.float32),
        reach(("ear-scale-incr", "ear-flap"), 0.0005, 0.003),
        reach(("upperlip-volume", "lowerlip-volume"), 0.0004, 0.0013),
        eyes,
    )


@dataclass(frozen=True, eq=False)
class Subject:
    """One person's neutral shape at level 0, centred.  neutral (P_0, 3) metres."""

    neutral: np.ndarray
    age: float
    gender: float  # 0 female, 1 male
    weight: float

    @classmethod
    def draw(cls, rng: np.random.Generator, spread: float = 1.0) -> Subject:
        """A random person; ``spread`` scales how far the features leave the average."""
        top = topology()
        basis = top.basis
        gender = float(np.clip(rng.normal(rng.integers(2), 0.2), 0, 1))
        age = float(
            rng.choice([rng.uniform(0.3, 0.42), rng.uniform(0.42, 0.75), rng.uniform(0.75, 1.0)], p=[0.1, 0.5, 0.4])
        )
        weight, muscle = (float(np.clip(rng.normal(0.5, 0.28), 0, 1)) for _ in range(2))
        race = rng.dirichlet([0.6, 0.6, 0.6])
        weights = macro_weights(basis, gender, age, muscle, weight, race)
        local = local_weights(basis, rng, spread)
        offset = weights @ _flat(basis.macro) + local @ _flat(basis.local)
        shape = _with_cap(basis.template + offset.reshape(-1, 3))
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
            offset = (row @ _flat(top.basis.action)).reshape(-1, 3)
            vertices = vertices + np.vstack([offset, np.zeros((1, 3), np.float32)])
        if rotation is not None:
            turned = (vertices - _NECK_PIVOT) @ np.asarray(rotation).T + _NECK_PIVOT
            vertices = vertices + top.follow[:, None] * (turned - vertices)
        return (vertices + np.asarray(shift)).astype(np.float32)


def refine(vertices: np.ndarray, levels: int = 2) -> np.ndarray:
    """Level-0 vertices to Loop level ``levels``.  # P_k,3 float32"""
    for matrix in topology().up[:levels]:
        vertices = matrix @ vertices
    return vertices


def macro_weights(basis: Basis, gender, age, muscle, weight, race) -> np.ndarray:
    """Weights of the macro targets, products of linear hats as MakeHuman blends them.  # M float32

    gender 0 female to 1 male; age 0 baby, 1/3 child, 2/3 young, 1 old; muscle and weight 0..1; race: three shares of 1.
    """
    hats = {
        **dict(zip(GENDERS, (1 - gender, gender), strict=True)),
        **_hats(("baby", "child", "young", "old"), age),
        **_hats(MUSCLES, muscle),
        **_hats(WEIGHTS, weight),
        **dict(zip(RACES, race, strict=True)),
    }
    out = [np.prod([hats[word] for word in label.split("-") if word != "universal"]) for label in basis.macro_labels]
    return np.array(out, np.float32)


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


def head_middle(vertices: np.ndarray, basis: Basis) -> np.ndarray:
    """Middle of the head: between crown and chin, between face and back of the skull.  # 3"""
    skin = vertices[: len(basis.part)][basis.part == 0]
    original = basis.template[basis.part == 0]
    head = skin[original[:, 1] > 0.66]
    low, high = head.min(0), head.max(0)
    return np.array([0.0, high[1] - 0.115, (low[2] + high[2]) / 2 - 0.008])


@numba.njit(cache=True, nogil=True, fastmath=True)
def smooth_normals(vertices, faces):
    """Unit vertex normals, area-weighted, float32.  # P,3"""
    out = np.zeros_like(vertices)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        wx, wy, wz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for i in (a, b, c):
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + np.float32(1e-20)
        for k in range(3):
            out[i, k] /= length
    return out


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)


def _hats(names, at: float) -> dict[str, float]:
    position = at * (len(names) - 1)
    return {name: max(0.0, 1 - abs(position - k)) for k, name in enumerate(names)}


def _cap(faces: np.ndarray, extra: int) -> np.ndarray:
    """Close the largest open border (chest and arms) by a fan to one more vertex, index ``extra``."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    known = {tuple(pair) for pair in directed.tolist()}
    border = {a: b for a, b in directed.tolist() if (b, a) not in known}
    loops = []
    while border:
        start, at = border.popitem()
        loop = [(start, at)]
        while at in border:
            following = border.pop(at)
            loop.append((at, following))
            at = following
        loops.append(loop)
    longest = max(loops, key=len)
    fan = np.array([(b, a, extra) for a, b in longest], np.int32)
    return np.concatenate([faces, fan])


def _with_cap(vertices: np.ndarray) -> np.ndarray:
    """Append the fan's vertex: the middle of the bust's lower border."""
    vertices = vertices.reshape(-1, 3)
    rim = _border_vertices()
    middle = vertices[rim].mean(0)
    middle[1] = vertices[rim, 1].min()
    return np.vstack([vertices, middle])


@cache
def _border_vertices() -> np.ndarray:
    basis = load_basis()
    count = len(basis.template)
    capped = _cap(basis.faces, count)
    fan = capped[(capped == count).any(1)]
    return np.unique(fan[fan != count])


def _smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    s = np.clip((x - low) / (high - low), 0, 1)
    return s * s * (3 - 2 * s)
