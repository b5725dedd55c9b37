"""What all synthetic heads share: one mesh at several levels, and where its features are on the average adult."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from geometry.compiled import kernel
from geometry.mesh import edges, loop_matrix
from models.synthetic.basis import GENDERS, MUSCLES, PARTS, RACES, WEIGHTS, Basis, load_basis

_EYES = (PARTS.index("eye_left"), PARTS.index("eye_right"))


@dataclass(frozen=True, eq=False)
class Sites:
    """Where vertices of some level lie on the average adult; appearance is painted on these.

    points (P, 3) metres; part (P,) index into basis.PARTS; ear and lips (P,) 1 there, falling off around; eyes (2, 3)
    the eyes' centres, left (x > 0) first.
    """

    points: np.ndarray
    part: np.ndarray
    ear: np.ndarray
    lips: np.ndarray
    eyes: np.ndarray

    @property
    def skin(self) -> np.ndarray:
        """Outer skin, without eyes, teeth and linings.  # P bool"""
        return self.part == 0

    def carried(self, matrix) -> Sites:
        """The sites of a finer level: ``matrix`` (P', P) is sparse and its rows add up to 1."""
        one_hot = matrix @ np.eye(len(PARTS), dtype=np.float32)[self.part]
        part = one_hot.argmax(1).astype(np.uint8)
        return Sites(matrix @ self.points, part, matrix @ self.ear, matrix @ self.lips, self.eyes)


@dataclass(frozen=True, eq=False)
class Topology:
    """The bust's mesh. faces[k] (F_k, 3) and sites[k] at Loop level k = 0, 1, 2; up[k] is the sparse matrix from level
    k to k + 1; follow (P_0,) is 0 where a vertex stays with the chest and 1 where it turns with the head."""

    basis: Basis
    faces: tuple[np.ndarray, ...]
    up: tuple[sparse.csr_matrix, ...]
    sites: tuple[Sites, ...]
    follow: np.ndarray


@dataclass(frozen=True, eq=False)
class CaptureMesh:
    """The mesh of a baked capture: one surface, sampled twice.

    The surface's own vertices are ``shape @ level-0 vertices`` (A, 3), moved along their normals by the relief, with
    ``faces`` (F, 3): level 1, with the long edges of the scalp and the eyes split once more. ``paint`` (B, A) puts
    vertices on the middles of the head's edges, so ``fine_faces`` are the same surface exactly and only carry finer
    colour. ``sites`` belong to the B vertices, whose first A are the surface's own.
    """

    shape: sparse.csr_matrix
    faces: np.ndarray
    paint: sparse.csr_matrix
    fine_faces: np.ndarray
    sites: Sites


@cache
def topology() -> Topology:
    """The bust's topology; made once a process (half a second)."""
    basis = load_basis()
    count = len(basis.template)
    faces = [_cap(basis.faces, count)]
    average = macro_weights(basis, 0.5, 0.66, 0.5, 0.5, (1 / 3, 1 / 3, 1 / 3))
    base = with_cap(basis.template + (average @ flat(basis.macro)).reshape(-1, 3))
    base = (base - head_middle(base, basis)).astype(np.float32)
    part = np.append(basis.part, 0).astype(np.uint8)

    def reach(words: tuple[str, ...], least: float, full: float) -> np.ndarray:
        """Where targets with one of ``words`` in their label move the mesh: 0 below ``least`` m, 1 above ``full``."""
        rows = [i for i, label in enumerate(basis.local_labels) if any(word in label for word in words)]
        moved = np.append(np.linalg.norm(basis.local[rows], axis=2).max(0), 0)
        return _smoothstep(least, full, moved).astype(np.float32)

    sites = [
        Sites(
            base,
            part,
            reach(("ear-wing-incr", "ear-lobe-incr", "ear-flap-incr"), 0.0005, 0.0015),
            reach(("upperlip-volume", "lowerlip-volume"), 0.0004, 0.0013),
            np.stack([base[part == PARTS.index(name)].mean(0) for name in ("eye_left", "eye_right")]),
        )
    ]
    up = []
    for _ in range(2):
        matrix, finer = loop_matrix(faces[-1], len(sites[-1].points))
        up.append(matrix.astype(np.float32).tocsr())
        faces.append(finer)
        sites.append(sites[-1].carried(up[-1]))
    follow = _smoothstep(-0.20, -0.13, base[:, 1] + 0.35 * np.maximum(base[:, 2], 0))
    return Topology(basis, tuple(faces), tuple(up), tuple(sites), follow.astype(np.float32))


@cache
def capture_mesh() -> CaptureMesh:
    """The baked capture's mesh; made once a process."""
    top = topology()
    faces, sites = top.faces[1], top.sites[1]
    kept = np.isin(sites.part, [PARTS.index(name) for name in ("mouth", "socket", "teeth_lower", "tongue")])
    edge = edges(faces)
    length = np.linalg.norm(sites.points[edge[:, 0]] - sites.points[edge[:, 1]], axis=1)
    eye = np.isin(sites.part, _EYES)
    head = sites.points[:, 1] > -0.17
    long = (length > 0.0033) & head[edge].all(1) & ~kept[edge].any(1) | eye[edge].all(1)
    split, faces = split_edges(faces, len(sites.points), edge[long], smooth=True)
    sites = sites.carried(split)
    edge = edges(faces)
    painted = (sites.skin & (sites.points[:, 1] > -0.13)) | np.isin(sites.part, _EYES)
    paint, fine = split_edges(faces, len(sites.points), edge[painted[edge].all(1)], smooth=False)
    painted_sites = sites.carried(paint)
    edge = edges(fine)
    iris, fine = split_edges(
        fine, len(painted_sites.points), edge[np.isin(painted_sites.part, _EYES)[edge].all(1)], False
    )
    paint = (iris @ paint).tocsr()
    return CaptureMesh((split @ top.up[0]).tocsr(), faces, paint, fine, sites.carried(paint))


def refine(vertices: np.ndarray, levels: int = 2) -> np.ndarray:
    """Level-0 vertices to Loop level ``levels``.  # P_k,3 float32"""
    for matrix in topology().up[:levels]:
        vertices = matrix @ vertices
    return vertices


def split_edges(
    faces: np.ndarray, count: int, marked: np.ndarray, smooth: bool
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Put a vertex on each of the edges ``marked`` (N, 2, smaller index first): a sparse matrix and the new faces.

    Old vertices stay where they are. smooth: new vertices follow Loop's rule for edges, else they are the middles.
    """
    number = {tuple(pair): count + k for k, pair in enumerate(marked.tolist())}
    opposite: dict[int, list[int]] = {}
    out: list[tuple[int, int, int]] = []
    for a, b, c in faces.tolist():
        middles = [number.get((min(p, q), max(p, q))) for p, q in ((a, b), (b, c), (c, a))]
        for middle, corner in zip(middles, (c, a, b), strict=True):
            if middle is not None:
                opposite.setdefault(middle, []).append(corner)
        out += _split_face((a, b, c), middles)
    rows, columns, weights = list(range(count)), list(range(count)), [1.0] * count
    for pair, middle in number.items():
        sides = opposite[middle]
        inner = smooth and len(sides) == 2
        rows += [middle] * 2
        columns += pair
        weights += [0.375 if inner else 0.5] * 2
        if inner:
            rows += [middle] * 2
            columns += sides
            weights += [0.125] * 2
    matrix = sparse.csr_matrix((np.array(weights, np.float32), (rows, columns)), (count + len(marked), count))
    return matrix, np.array(out, np.int32)


def _split_face(corners, middles) -> list[tuple[int, int, int]]:
    """One triangle with new vertices on none, some or all of its edges ab, bc, ca: one to four triangles."""
    a, b, c = corners
    ab, bc, ca = middles
    while (ab is None and (bc is not None or ca is not None)) or (ab is not None and bc is None and ca is not None):
        a, b, c, ab, bc, ca = b, c, a, bc, ca, ab  # turn until ab, or ab and bc, are the split ones
    if ab is None:
        return [(a, b, c)]
    if bc is None:
        return [(a, ab, c), (ab, b, c)]
    if ca is None:
        return [(ab, b, bc), (a, ab, bc), (a, bc, c)]
    return [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]


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


def head_middle(vertices: np.ndarray, basis: Basis) -> np.ndarray:
    """Middle of the head: between crown and chin, between face and back of the skull.  # 3"""
    skin = vertices[: len(basis.part)][basis.part == 0]
    original = basis.template[basis.part == 0]
    head = skin[original[:, 1] > 0.66]
    low, high = head.min(0), head.max(0)
    return np.array([0.0, high[1] - 0.115, (low[2] + high[2]) / 2 - 0.008])


@kernel(fastmath=True)
def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
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


def band_limited(values: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Values at vertices (P,) without what changes from one vertex to the next: waves of 4 edges keep a tenth, of 12
    nearly all.

    A mesh that is moved by more than it can carry turns its faces away from the normals that shade it. Solves
    (1 + 8 L^2) x = values with the mesh's umbrella operator L.
    """
    count, edge = len(values), edges(faces)
    ends = np.concatenate([edge, edge[:, ::-1]])
    beside = sparse.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (count, count))
    degree = np.maximum(np.asarray(beside.sum(1)).ravel(), 1)
    bend = sparse.identity(count) - sparse.diags(1 / degree) @ beside
    return splu((sparse.identity(count) + 8 * (bend @ bend)).tocsc()).solve(np.asarray(values, np.float64))


def flat(rows: np.ndarray) -> np.ndarray:
    """Offsets (N, P, 3) as rows of 3 P numbers."""
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


def with_cap(vertices: np.ndarray) -> np.ndarray:
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
