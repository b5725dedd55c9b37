"""Isotropic remeshing: triangles of one size, or of sizes that are asked for, as equilateral as the shape lets them be.

Botsch and Kobbelt, "A Remeshing Approach to Multiresolution Modeling" (SGP 2004): split long edges, collapse short
ones, flip towards valence six, relax along the surface, project back onto it; a few rounds. Closed manifold meshes
only, and they stay closed and manifold: an edge collapses only where its ends share exactly two neighbours, and is
flipped only where the new edge does not exist yet.
"""

from __future__ import annotations

import numpy as np

from geometry.compiled import kernel
from geometry.mesh import Mesh, edges, face_normals, in_order, vertex_normals

_LONG, _SHORT = 4 / 3, 4 / 5  # of the wanted length: a split's halves are not short, a collapse makes no long edge
_WIDEST = 24  # faces at one vertex; nothing that would make more is done
_SHARPEST = 0.3  # cosine between a face's normal before and after an operation; less is refused as a fold


def edge_length_for(mesh: Mesh, vertices: int, relative: float | np.ndarray = 1.0) -> float | np.ndarray:
    """The edge length, metres, at which a closed surface has about this many vertices.

    relative: how long edges are to be at each vertex (P,), to one another; then so is what comes back.
    """
    _, area = face_normals(mesh.vertices, mesh.faces)
    at_faces = np.broadcast_to(relative, len(mesh.vertices))[mesh.faces].mean(1)
    return relative * float(np.sqrt(2 / np.sqrt(3) * (area / at_faces**2).sum() / vertices))


def vertices_for(mesh: Mesh, length: float) -> int:
    """The number of vertices, about, that a closed surface has at this edge length, metres."""
    _, area = face_normals(mesh.vertices, mesh.faces)
    return round(2 / np.sqrt(3) * float(area.sum()) / length**2)


def is_closed_manifold(faces: np.ndarray) -> bool:
    """Whether every edge has one face on either side and every vertex one fan of faces around it."""
    if len(faces) == 0:
        return False
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    count = int(faces.max()) + 1
    forward = np.sort(directed[:, 0] * count + directed[:, 1])
    backward = np.sort(directed[:, 1] * count + directed[:, 0])
    if (np.diff(forward) == 0).any() or not np.array_equal(forward, backward):
        return False
    used = np.bincount(faces.ravel(), minlength=count)
    start, around = _fans(np.ascontiguousarray(faces, dtype=np.int32), count)
    return bool(_single_fans(np.ascontiguousarray(faces, dtype=np.int32), start, around, used))


def remesh(mesh: Mesh, edge_length: float | np.ndarray, rounds: int = 5, surface=None) -> Mesh:
    """An even mesh of the same surface, edges about ``edge_length`` metres, ``in_order``; texture coordinates are
    dropped.

    edge_length: one for all, or that at each vertex of the mesh (P,); it should vary slowly. surface: a
    ``geometry.measure.SurfaceIndex`` to project onto; by default the mesh itself.
    Raises ValueError for a mesh that is not closed and manifold, or has a vertex of very many faces.
    """
    from geometry.measure import SurfaceIndex

    if not is_closed_manifold(mesh.faces):
        raise ValueError("remeshing needs a closed manifold mesh: every edge with one face on either side")
    if np.bincount(mesh.faces.ravel()).max() > _WIDEST:
        raise ValueError(f"remeshing takes at most {_WIDEST} faces at a vertex")
    own = SurfaceIndex(mesh)
    surface = surface or own
    wanted = np.broadcast_to(np.asarray(edge_length, np.float64), len(mesh.vertices))
    vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float64)
    faces = np.ascontiguousarray(mesh.faces, dtype=np.int32)
    length = wanted
    for _ in range(rounds):
        vertices, faces, length = _round(vertices, faces, length)
        for _ in range(2):
            vertices = _relaxed(vertices, faces, length)
        vertices, _, nearest = surface.closest(vertices)
        if np.ndim(edge_length):
            nearest = nearest if surface is own else own.closest(vertices)[2]
            length = wanted[mesh.faces[nearest]].mean(1)
    return in_order(_without_spikes(Mesh(vertices, faces)))


def _without_spikes(mesh: Mesh) -> Mesh:
    """The mesh without vertices of three faces: a face takes their place.

    They are left where no edge can be collapsed or flipped any more, often one within the other, and nothing that is
    done to a surface later can keep so many small faces from folding over.
    """
    faces = mesh.faces
    while True:
        count = np.bincount(faces.ravel(), minlength=len(mesh.vertices))
        touched = np.zeros(len(mesh.vertices), np.bool_)
        gone, made = np.zeros(len(faces), np.bool_), []
        for v in np.flatnonzero(count == 3):
            fan = np.flatnonzero((faces == v).any(1))
            following = {}
            for face in faces[fan]:
                at = int(np.flatnonzero(face == v)[0])
                following[face[(at + 1) % 3]] = face[(at + 2) % 3]
            a = faces[fan[0]][faces[fan[0]] != v][0]
            triangle = [a, following[a], following[following[a]]]
            if touched[triangle].any() or touched[v] or (count[triangle] == 3).all():
                continue
            touched[[v, *triangle]] = True
            gone[fan] = True
            made.append(triangle)
        if not made:
            break
        faces = np.concatenate([faces[~gone], np.array(made, np.int32)])
    used, compact = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], compact.reshape(-1, 3).astype(np.int32))


def _relaxed(vertices: np.ndarray, faces: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Each vertex moved in its tangent plane towards the middle of its faces, weighted by how large they are for the
    edge length (P,) that is wanted there.  # P,3"""
    _, area = face_normals(vertices, faces)
    weight = np.repeat(area / length[faces].mean(1) ** 2, 3)
    corners = faces.ravel()
    middle = vertices[faces].mean(1)
    total = np.maximum(np.bincount(corners, weight, minlength=len(vertices)), 1e-20)
    pull = weight[:, None] * np.repeat(middle, 3, axis=0)
    goal = np.stack([np.bincount(corners, pull[:, k], minlength=len(vertices)) for k in range(3)], 1) / total[:, None]
    move = goal - vertices
    normal = vertex_normals(vertices, faces)
    return vertices + 0.7 * (move - (move * normal).sum(1, keepdims=True) * normal)


def _round(vertices: np.ndarray, faces: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One round of splits, collapses and flips, on arrays with room to grow: vertices, faces and lengths (P,)."""
    room = len(vertices)
    pairs = edges(faces)
    long = np.linalg.norm(vertices[pairs[:, 0]] - vertices[pairs[:, 1]], axis=1) / (_LONG * length[pairs].mean(1))
    room += int(np.ceil(2 * np.maximum(long - 1, 0) ** 2 + 4 * (long > 1)).sum()) + 1000
    points = np.zeros((room, 3))
    points[: len(vertices)] = vertices
    triangles = np.full((2 * room, 3), -1, np.int32)
    triangles[: len(faces)] = faces
    ring = np.full((room, _WIDEST), -1, np.int32)
    size = np.zeros(room, np.int32)
    lengths = np.zeros(room)
    lengths[: len(vertices)] = length
    alive = _work(points, triangles, ring, size, len(vertices), len(faces), lengths)
    triangles = triangles[: alive[1]]
    triangles = triangles[triangles[:, 0] >= 0]
    used, compact = np.unique(triangles, return_inverse=True)
    return points[used], compact.reshape(-1, 3).astype(np.int32), lengths[used]


@kernel
def _work(points, faces, ring, size, vertex_count, face_count, length):
    for f in range(face_count):
        for k in range(3):
            v = faces[f, k]
            if size[v] < _WIDEST:
                ring[v, size[v]] = f
                size[v] += 1
    f = 0
    while f < face_count:  # faces made on the way are visited too, so one sweep splits everything that is long
        longest, at = 0.0, -1
        for k in range(3):
            i, j = faces[f, k], faces[f, (k + 1) % 3]
            d = _square(points, i, j) / _wanted(length, i, j)
            if d > longest:
                longest, at = d, k
        split = False
        if longest > _LONG**2 and vertex_count < points.shape[0] and face_count + 2 <= faces.shape[0]:
            i, j = faces[f, at], faces[f, (at + 1) % 3]
            split = _split(points, faces, ring, size, i, j, vertex_count, face_count)
            if split:
                length[vertex_count] = 0.5 * (length[i] + length[j])
                vertex_count += 1
                face_count += 2
        if not split:
            f += 1
    for f in range(face_count):
        for k in range(3):
            if faces[f, 0] < 0:
                break
            i, j = faces[f, k], faces[f, (k + 1) % 3]
            if _square(points, i, j) < _SHORT**2 * _wanted(length, i, j):
                _collapse(points, faces, ring, size, i, j, length)
    for f in range(face_count):
        for k in range(3):
            if faces[f, 0] >= 0:
                _flip(points, faces, ring, size, faces[f, k], faces[f, (k + 1) % 3])
    return vertex_count, face_count


@kernel(inline="always")
def _square(points, i, j):
    x, y, z = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
    return x * x + y * y + z * z


@kernel(inline="always")
def _wanted(length, i, j):
    """The square of an edge's wanted length."""
    return (0.5 * (length[i] + length[j])) ** 2


@kernel
def _wing(faces, ring, size, i, j):
    """The face in which j follows i, and its third corner; -1 where there is none."""
    for n in range(size[i]):
        f = ring[i, n]
        for k in range(3):
            if faces[f, k] == i and faces[f, (k + 1) % 3] == j:
                return f, faces[f, (k + 2) % 3]
    return -1, -1


@kernel
def _forget(ring, size, v, f):
    for n in range(size[v]):
        if ring[v, n] == f:
            size[v] -= 1
            ring[v, n] = ring[v, size[v]]
            return


@kernel
def _learn(ring, size, v, f):
    ring[v, size[v]] = f
    size[v] += 1


@kernel
def _replace(faces, f, old, new):
    for k in range(3):
        if faces[f, k] == old:
            faces[f, k] = new


@kernel
def _normal(points, a, b, c, out):
    ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
    wx, wy, wz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
    out[0], out[1], out[2] = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
    return np.sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2])


@kernel
def _split(points, faces, ring, size, i, j, m, face_count):
    f, k = _wing(faces, ring, size, i, j)
    g, o = _wing(faces, ring, size, j, i)
    if f < 0 or g < 0 or size[k] >= _WIDEST or size[o] >= _WIDEST:
        return False
    for axis in range(3):
        points[m, axis] = 0.5 * (points[i, axis] + points[j, axis])
    new_f, new_g = face_count, face_count + 1
    _replace(faces, f, j, m)  # i m k
    _replace(faces, g, j, m)  # m i o
    faces[new_f, 0], faces[new_f, 1], faces[new_f, 2] = m, j, k
    faces[new_g, 0], faces[new_g, 1], faces[new_g, 2] = j, m, o
    _forget(ring, size, j, f)
    _forget(ring, size, j, g)
    _learn(ring, size, j, new_f)
    _learn(ring, size, j, new_g)
    _learn(ring, size, k, new_f)
    _learn(ring, size, o, new_g)
    for face in (f, g, new_f, new_g):
        _learn(ring, size, m, face)
    return True


@kernel
def _folds(points, faces, ring, size, v, skip, target, before, after):
    """Whether moving v to ``target`` would turn one of its faces over (faces that also hold ``skip`` vanish)."""
    x, y, z = points[v]
    for n in range(size[v]):
        f = ring[v, n]
        a, b, c = faces[f]
        if skip in (a, b, c):
            continue
        old = _normal(points, a, b, c, before)
        points[v] = target
        new = _normal(points, a, b, c, after)
        points[v, 0], points[v, 1], points[v, 2] = x, y, z
        if before[0] * after[0] + before[1] * after[1] + before[2] * after[2] < _SHARPEST * old * new:
            return True
    return False


@kernel
def _collapse(points, faces, ring, size, i, j, length):
    f, k = _wing(faces, ring, size, i, j)
    g, o = _wing(faces, ring, size, j, i)
    if f < 0 or g < 0 or k == o or size[i] + size[j] - 4 > _WIDEST or size[k] <= 3 or size[o] <= 3:
        return False
    target, before, after = np.empty(3), np.empty(3), np.empty(3)
    for axis in range(3):
        target[axis] = 0.5 * (points[i, axis] + points[j, axis])
    shared = 0
    for n in range(size[i]):
        face = ring[i, n]
        for corner in range(3):
            if faces[face, corner] != i:
                continue
            v = faces[face, (corner + 1) % 3]  # each neighbour of i once, being closed
            if v != j and _wing(faces, ring, size, j, v)[0] >= 0:
                shared += 1
            x, y, z = points[v, 0] - target[0], points[v, 1] - target[1], points[v, 2] - target[2]
            if v != j and x * x + y * y + z * z > _LONG**2 * _wanted(length, i, v):
                return False
    if shared != 2:
        return False
    for n in range(size[j]):
        face = ring[j, n]
        for corner in range(3):
            v = faces[face, corner]
            x, y, z = points[v, 0] - target[0], points[v, 1] - target[1], points[v, 2] - target[2]
            if x * x + y * y + z * z > _LONG**2 * _wanted(length, j, v):
                return False
    if _folds(points, faces, ring, size, i, j, target, before, after):
        return False
    if _folds(points, faces, ring, size, j, i, target, before, after):
        return False
    points[i] = target
    for dead in (f, g):
        for corner in range(3):
            v = faces[dead, corner]
            if v != j:
                _forget(ring, size, v, dead)
    for n in range(size[j]):
        face = ring[j, n]
        if face not in (f, g):
            _replace(faces, face, j, i)
            _learn(ring, size, i, face)
    size[j] = 0
    faces[f, 0] = faces[g, 0] = -1
    return True


@kernel
def _flip(points, faces, ring, size, i, j):
    f, k = _wing(faces, ring, size, i, j)
    g, o = _wing(faces, ring, size, j, i)
    if f < 0 or g < 0 or k == o or size[i] <= 3 or size[j] <= 3 or size[k] >= _WIDEST or size[o] >= _WIDEST:
        return False
    now = abs(size[i] - 6) + abs(size[j] - 6) + abs(size[k] - 6) + abs(size[o] - 6)
    then = abs(size[i] - 7) + abs(size[j] - 7) + abs(size[k] - 5) + abs(size[o] - 5)
    if then >= now or _wing(faces, ring, size, k, o)[0] >= 0 or _wing(faces, ring, size, o, k)[0] >= 0:
        return False
    # f = i j k and g = j i o become k i o and o j k; neither may fold, nor a crease be bridged.
    a, b, c, d = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    fa, ga = _normal(points, i, j, k, a), _normal(points, j, i, o, b)
    fc, gd = _normal(points, k, i, o, c), _normal(points, o, j, k, d)
    if min(fc, gd) < 0.1 * min(fa, ga):
        return False
    for old, old_length in ((a, fa), (b, ga)):
        for new, new_length in ((c, fc), (d, gd)):
            if old[0] * new[0] + old[1] * new[1] + old[2] * new[2] < 0.7 * old_length * new_length:
                return False
    faces[f, 0], faces[f, 1], faces[f, 2] = k, i, o
    faces[g, 0], faces[g, 1], faces[g, 2] = o, j, k
    _forget(ring, size, j, f)
    _forget(ring, size, i, g)
    _learn(ring, size, o, f)
    _learn(ring, size, k, g)
    return True


@kernel
def _fans(faces, count):
    """Faces at each vertex in compressed rows: starts (count + 1,) and face numbers."""
    start = np.zeros(count + 1, np.int64)
    for f in range(faces.shape[0]):
        for k in range(3):
            start[faces[f, k] + 1] += 1
    for v in range(count):
        start[v + 1] += start[v]
    fill = start[:-1].copy()
    around = np.empty(3 * faces.shape[0], np.int32)
    for f in range(faces.shape[0]):
        for k in range(3):
            v = faces[f, k]
            around[fill[v]] = f
            fill[v] += 1
    return start, around


@kernel
def _single_fans(faces, start, around, used):
    """Whether walking from face to face around each vertex visits all of its faces."""
    for v in range(used.shape[0]):
        if used[v] == 0:
            continue
        first = around[start[v]]
        face, steps = first, 0
        while True:
            steps += 1
            for k in range(3):
                if faces[face, k] == v:
                    out = faces[face, (k + 2) % 3]
            following = -1
            for n in range(start[v], start[v + 1]):
                for k in range(3):
                    if faces[around[n], k] == v and faces[around[n], (k + 1) % 3] == out:
                        following = around[n]
            face = following
            if face < 0 or face == first or steps > used[v]:
                break
        if face != first or steps != used[v]:
            return False
    return True
