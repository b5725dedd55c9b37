"""Triangle meshes: what one asks of them, Loop subdivision, PLY files.

A mesh is two arrays, ``vertices`` (P, 3) in metres and ``faces`` (F, 3) int32, counter-clockwise seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from protocol.errors import HeadstreamError


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices and faces, with texture coordinates where they are known: of vertices, or of the corners of faces, where
    an atlas has seams and vertices are not doubled."""

    vertices: np.ndarray  # P,3
    faces: np.ndarray  # F,3 int32
    uv: np.ndarray | None = None  # P,2
    corner_uv: np.ndarray | None = None  # F,3,2


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) and areas (F,) in square metres; a degenerate face has a zero normal."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-20)[:, None], length / 2


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals at vertices, area-weighted.  # P,3"""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)  # length is twice the area
    total = np.empty_like(vertices)
    corners = faces.ravel()
    for axis in range(3):
        total[:, axis] = np.bincount(corners, np.repeat(cross[:, axis], 3), minlength=len(vertices))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


def edges(faces: np.ndarray) -> np.ndarray:
    """Every edge once, smaller index first.  # E,2"""
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return np.unique(pairs, axis=0)


def in_order(mesh: Mesh) -> Mesh:
    """The same surface, vertices and faces numbered so that neighbours stand near each other in memory: whoever goes
    through them, or looks at pictures face by face, finds most of what it needs in the cache (Cuthill and McKee, ACM
    National Conference 1969). Texture coordinates are dropped."""
    i, j = edges(mesh.faces).T
    count = len(mesh.vertices)
    links = sparse.coo_matrix((np.ones(2 * len(i), np.bool_), (np.r_[i, j], np.r_[j, i])), (count, count))
    order = reverse_cuthill_mckee(links.tocsr(), symmetric_mode=True)
    number = np.empty(count, np.int32)
    number[order] = np.arange(count, dtype=np.int32)
    faces = number[mesh.faces]
    return Mesh(mesh.vertices[order], faces[np.lexsort(np.sort(faces, 1).T[::-1])])


def loop_subdivide(mesh: Mesh, times: int = 1) -> Mesh:
    """Loop subdivision (Loop 1987, with Warren's vertex weights); texture coordinates follow linearly.

    Boundary edges keep their own cubic rule, so an open neck stays open and smooth.
    """
    for _ in range(times):
        mesh = _loop_once(mesh)
    return mesh


def _loop_once(mesh: Mesh) -> Mesh:
    weights, faces = loop_matrix(mesh.faces, len(mesh.vertices))
    uv = None
    if mesh.uv is not None:
        count = len(mesh.vertices)
        edge = edges(mesh.faces)
        rows = np.arange(len(edge))
        ends = (np.tile(rows, 2), edge.T.ravel())
        middle = sparse.csr_matrix((np.full(2 * len(edge), 0.5), ends), (len(edge), count))
        uv = np.vstack([mesh.uv, middle @ mesh.uv])
    return Mesh(weights @ mesh.vertices, faces, uv)


def loop_matrix(faces: np.ndarray, count: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One step of Loop subdivision as a sparse matrix (P', P) and the new faces (4F, 3).

    The matrix is the same for every pose of a mesh, so an animation subdivides by one product a frame.
    """
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])  # 3F,2
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])  # 3F
    pairs, inverse, sides = np.unique(np.sort(directed, axis=1), axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    border = sides == 1
    # New vertices on edges: 3/8 of the ends and 1/8 of the opposite corners; half and half on a border.
    end = np.where(border, 0.5, 0.375)
    rows = [np.repeat(np.arange(len(pairs)), 2) + count, (inverse + count)[~border[inverse]]]
    cols = [pairs.ravel(), opposite[~border[inverse]]]
    data = [np.repeat(end, 2), np.full(int((~border[inverse]).sum()), 0.125)]
    # Old vertices: (1 - n beta) of themselves and beta of each neighbour; 3/4 and 1/8 along a border.
    valence = np.bincount(pairs.ravel(), minlength=count)
    beta = np.where(valence > 3, 3 / (8 * np.maximum(valence, 1)), 3 / 16)
    on_border = np.zeros(count, bool)
    on_border[pairs[border].ravel()] = True
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both_border = np.concatenate([border, border])
    inner = ~on_border[both[:, 0]]
    rows += [both[inner, 0], both[both_border, 0], np.arange(count)]
    cols += [both[inner, 1], both[both_border, 1], np.arange(count)]
    kept = np.where(on_border, 0.75, 1 - valence * beta)
    data += [beta[both[inner, 0]], np.full(int(both_border.sum()), 0.125), kept]
    shape = (count + len(pairs), count)
    matrix = sparse.csr_matrix((np.concatenate(data), (np.concatenate(rows), np.concatenate(cols))), shape)
    ab, bc, ca = (inverse[k * len(faces) : (k + 1) * len(faces)] + count for k in range(3))
    a, b, c = faces.T
    new = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return matrix, new.astype(np.int32)


def read_ply(path: str | Path) -> Mesh:
    """Read a triangle mesh, with the texture coordinates of corners that ``write_ply`` wrote. Raises HeadstreamError
    with the path when it is not one."""
    try:
        # As it stands in the file: left to itself, trimesh gives each chart of a texture vertices of its own.
        loaded = trimesh.load(str(path), file_type="ply", process=False, fix_texture=False)
        vertices, faces = loaded.vertices, np.asarray(loaded.faces, np.int32)
        written = loaded.metadata["_ply_raw"]["face"].get("data")
        corner_uv = None
        if isinstance(written, np.ndarray) and "texcoord" in (written.dtype.names or ()):
            listed = written["texcoord"]["f1"]
            corner_uv = listed.reshape(-1, 3, 2).astype(np.float32) if listed.shape == (len(faces), 6) else None
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise HeadstreamError(f"{path}: not a readable PLY mesh ({error})") from None
    return Mesh(np.asarray(vertices, np.float64), faces, corner_uv=corner_uv)


def write_ply(path: str | Path, mesh: Mesh, colours: np.ndarray | None = None) -> None:
    """Write binary PLY, world metres, float32; a reader never sees half a file. colours: (P, 3) uint8 sRGB.

    Texture coordinates of corners are each face's list ``texcoord`` (u, v, u, v, u, v), as MeshLab has it; trimesh
    splits vertices at seams for them, and drops colours, unless it is told ``fix_texture=False``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [("x", "float"), ("y", "float"), ("z", "float")]
    vertices = np.asarray(mesh.vertices, "<f4")
    if colours is not None:
        fields += [("red", "uchar"), ("green", "uchar"), ("blue", "uchar")]
        coloured = np.empty(len(vertices), dtype=[("at", "<f4", 3), ("colour", "u1", 3)])
        coloured["at"], coloured["colour"] = vertices, colours
        vertices = coloured
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
        + "".join(f"property {kind} {name}\n" for name, kind in fields)
        + f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\n"
        + ("" if mesh.corner_uv is None else "property list uchar float texcoord\n")
        + "end_header\n"
    )
    layout = [("n", "u1"), ("v", "<i4", 3), *([] if mesh.corner_uv is None else [("m", "u1"), ("uv", "<f4", 6)])]
    packed = np.empty(len(mesh.faces), dtype=layout)
    packed["n"] = 3
    packed["v"] = mesh.faces
    if mesh.corner_uv is not None:
        packed["m"] = 6
        packed["uv"] = mesh.corner_uv.reshape(-1, 6)
    scratch = path.with_suffix(".ply.part")
    scratch.write_bytes(header.encode() + vertices.tobytes() + packed.tobytes())
    scratch.replace(path)
