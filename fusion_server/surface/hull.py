"""The visual hull: the largest shape that fits every mask, forgiving of one mask that lacks a piece.

A point's value is the least signed distance to an outline over the views that see it, in metres; zero is the surface. A
view whose map continues past its border inside the subject does not know what is out there and has no vote; where it
ends on background, it guesses that background goes on, but for shoulders that may widen out there. A point that about
half of the views know nothing about is outside, by how far it lies inside and outside of their pictures on average
(each bounded): that closes a neck in one smooth piece, where counting views would leave their borders' zigzag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from skimage.measure import euler_number, marching_cubes

from fusion_server.surface.base import Rig, SurfaceError
from fusion_server.surface.silhouette import SOFT, Silhouettes, guessed, inward
from geometry.compiled import kernel
from geometry.mesh import Mesh, edges
from geometry.remesh import is_closed_manifold
from protocol.calibration import Camera

_ENOUGH = 0.75  # of the views; where as many see a point, what others guess of it beyond their pictures is not asked
_BLUNT = 10e-3  # metres over which the edge is rounded where the pictures cut the subject
_COARSE = 48  # cells across, to find where the subject is
_VOTERS = 6  # with this many views or more, one may be overruled
_STRIDE = 4  # pixels of the maps in which coverage is counted
_WELL_INSIDE = 6.0  # pixels
_BRIDGES = (1.5, 3.0, 5.0)  # cells: radii of what tunnels must let pass to stay, tried one after the other
_STRUT = 1.0  # cells: radius of what a solid may be thinner than to be cut where a tunnel is left


@dataclass(frozen=True, eq=False)
class Field:
    """Signed distances, metres, positive inside, on a grid: values (X, Y, Z) float32; low (3,): where its first cell
    lies; step: metres between cells."""

    values: np.ndarray
    low: np.ndarray
    step: float

    def surface(self) -> Mesh:
        """Its zero level; see ``closed_surface``."""
        return closed_surface(self.values, self.low, self.step)


def visual_hull(cameras: Sequence[Camera], outlines: Silhouettes, cells: int = 128) -> Field:
    """The hull of all masks, ``cells`` cells along its longest side; its ``surface`` is a closed mesh.

    Raises SurfaceError when fewer than two views saw anything or their masks do not meet in space.
    """
    usable = np.flatnonzero(~outlines.blind)
    if len(usable) < 2:
        raise SurfaceError(f"a subject is visible in {len(usable)} of {len(cameras)} views; at least two are needed")
    rig = Rig.of([cameras[n] for n in usable])
    distance = outlines.distance[usable]
    known = outlines.known[usable]
    low, high = _bounds(rig, [cameras[n] for n in usable], outlines.inside[usable], distance, known)
    step = float((high - low).max()) / cells
    return Field(_field(rig, distance, known, low, high, step), low, step)


def _bounds(rig, cameras, inside, distance, known) -> tuple[np.ndarray, np.ndarray]:
    """A box around the subject: where the rays through the masks' middles meet, then tightened on a coarse grid."""
    directions, radii = [], []
    for camera, mask in zip(cameras, inside, strict=True):
        y, x = np.nonzero(mask)
        middle = np.array([(x.min() + x.max()) / 2, (y.min() + y.max()) / 2, 1.0])
        ray = camera.R.T @ np.linalg.solve(camera.K, middle)
        directions.append(ray / np.linalg.norm(ray))
        radii.append(0.5 * np.hypot(np.ptp(x) + 1, np.ptp(y) + 1) / camera.K[0, 0])
    center = _meeting(np.array(directions), rig.center)
    half = 1.6 * float(np.median(np.linalg.norm(rig.center - center, axis=1) * np.array(radii)))
    for _ in range(4):
        step = 2 * half / _COARSE
        low = center - half
        field = _field(rig, distance, known, low, center + half, step)
        filled = np.argwhere(field > -0.5 * step)
        if not len(filled):
            raise SurfaceError("the masks do not meet in space: is this calibration the one of these cameras?")
        first, last = filled.min(0), filled.max(0)
        if first.min() > 1 and last.max() < _COARSE - 1:
            break
        half *= 1.5
    return low + (first - 1.5) * step, low + (last + 1.5) * step


def _meeting(directions: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """The point nearest to most of the rays (least squares, reweighted so that a stray one counts little).  # 3"""
    away = np.eye(3) - directions[:, :, None] * directions[:, None, :]  # V,3,3
    weight = np.ones(len(origins))
    for _ in range(6):
        system = (weight[:, None, None] * away).sum(0)
        if np.linalg.cond(system) > 1e6:
            raise SurfaceError("the cameras all look the same way; at least two must look from different sides")
        point = np.linalg.solve(system, (weight[:, None] * np.einsum("nij,nj->ni", away, origins)).sum(0))
        off = np.linalg.norm(np.einsum("nij,nj->ni", away, point - origins), axis=1)
        weight = 1 / (off + 0.1 * np.median(off) + 1e-6)
    return point


def _field(rig: Rig, distance, known, low, high, step) -> np.ndarray:
    """Values at grid points, metres, positive inside."""
    shape = tuple(np.maximum(np.ceil((high - low) / step).astype(int) + 1, 2))
    least = np.empty(shape, np.float32)
    second = np.empty(shape, np.float32)
    by = np.empty(shape, np.int8)
    _vote(rig.matrix, rig.focal, distance, known, low, step, least, second, by)
    if len(rig.focal) >= _VOTERS:
        _overrule(rig, distance, known, low, step, least, second, by)
    return least


def _overrule(rig: Rig, distance, known, low, step, least, second, by) -> None:
    """Give back what one view alone took away and another misses.

    When all masks are right the hull covers each of them. Rays of one mask that meet no hull therefore say that another
    mask lacks a piece: cells on such rays, refused by one view only, are taken in on the others' word. Bare rays count
    where a patch of them reaches well inside their mask, so that ragged outlines do not.
    """
    height, width = distance.shape[1:]
    covered = np.zeros((len(rig.focal), -(-height // _STRIDE), -(-width // _STRIDE)), np.bool_)
    _cover(rig.matrix, low, step, least, covered)
    inward = distance[:, ::_STRIDE, ::_STRIDE]
    around = np.ones((1, 3, 3))
    certain = (inward > _WELL_INSIDE) & ~ndimage.binary_dilation(covered, around)
    if certain.any():
        bare = ndimage.binary_propagation(certain, around, (inward > 0) & ~covered)
        _give_back(rig.matrix, low, step, bare, least, second, by)


def closed_surface(field: np.ndarray, low: np.ndarray, step: float) -> Mesh:
    """The zero level of a field (X, Y, Z), positive inside, as one closed mesh: the largest piece, without cavities and
    without narrow tunnels. low (3,): where its first cell lies; step: metres between cells.

    Raises SurfaceError when nothing is inside, or the field is noise.
    """
    solid = field > 0
    label, count = ndimage.label(solid)
    if count == 0:
        raise SurfaceError("the masks do not meet in space: nothing is left after carving")
    if count > 1:
        largest = 1 + int(np.argmax(np.bincount(label.ravel())[1:]))
        field = np.where(solid & (label != largest), -0.25 * step, field)
        solid = label == largest
    field = np.where(ndimage.binary_fill_holes(solid) & ~solid, 0.25 * step, field)
    # Values far from the surface say nothing of its place, and would make the smoothing pull thin parts away.
    field = np.pad(np.clip(field, -2 * step, 2 * step), 2, constant_values=-2 * step)
    mesh, solid = _zero_level(field, step)
    for radius in _BRIDGES:
        if tunnels(mesh) == 0:
            break
        field = np.where(_plugs(solid, radius), 2 * step, field)
        mesh, solid = _zero_level(field, step)
    if tunnels(mesh):
        field = np.where(_struts(solid, _STRUT), -2 * step, field)
        mesh, solid = _zero_level(field, step)
    return Mesh(mesh.vertices + low - 2 * step, mesh.faces)


def _zero_level(field: np.ndarray, step: float) -> tuple[Mesh, np.ndarray]:
    """The largest closed piece of a field's zero level, faces counter-clockwise from outside, as finely as it goes; and
    the cells that are solid as smoothly as that."""
    for blur in (0.6, 1.0, 1.5):
        smooth = ndimage.gaussian_filter(field, blur)
        vertices, faces, _, _ = marching_cubes(smooth, 0.0, spacing=(step,) * 3)
        mesh = _largest_piece(Mesh(vertices, faces.astype(np.int32)))
        if is_closed_manifold(mesh.faces):
            break
    else:
        raise SurfaceError("the visual hull is too ragged to be a surface; are the masks noise?")
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    if np.einsum("ni,ni->", a, np.cross(b, c)) < 0:
        mesh = Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))
    return mesh, smooth > 0


def tunnels(mesh: Mesh) -> int:
    """How many tunnels go through a closed mesh of one piece: its genus."""
    return 1 - (len(mesh.vertices) - len(edges(mesh.faces)) + len(mesh.faces)) // 2


def _plugs(solid: np.ndarray, radius: float) -> np.ndarray:
    """Cells (X, Y, Z) to fill so that tunnels are closed that a ball of this radius (cells) does not pass.

    solid: (X, Y, Z) bool, as the mesh has it: smoothing drills tunnels through thin walls, and ragged masks of hair and
    collars drill others. A mesh cannot lie in a tunnel that is narrower than its edges: its faces fold there, whatever
    is done to them. Clefts that are no tunnels stay open.
    """
    grown = ndimage.distance_transform_edt(~solid) <= radius
    return _that_end_tunnels((ndimage.distance_transform_edt(grown) > radius) & ~solid, solid)


def _struts(solid: np.ndarray, radius: float) -> np.ndarray:
    """Cells (X, Y, Z) to take away so that tunnels are opened where all that is beyond them is thinner than a ball of
    this radius (cells), such as the lip of a torn rim: too thin for a mesh to lie around."""
    thinned = ndimage.distance_transform_edt(solid) > radius
    return _that_end_tunnels(solid & (ndimage.distance_transform_edt(~thinned) > radius), solid)


def _that_end_tunnels(cells: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Those of the connected pieces of cells (X, Y, Z) bool that, filled or emptied, leave a solid fewer tunnels."""
    label, _ = ndimage.label(cells, np.ones((3, 3, 3)))
    chosen = np.zeros_like(solid)
    for number, box in enumerate(ndimage.find_objects(label), 1):
        around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        piece, before = label[around] == number, solid[around]
        # Cells that meet at an edge alone may or may not be joined by the mesh: a tunnel counts either way.
        if any(euler_number(before ^ piece, n) > euler_number(before, n) for n in (1, 3)):
            chosen[around] |= piece
    return chosen


def _largest_piece(mesh: Mesh) -> Mesh:
    pairs = edges(mesh.faces)
    graph = sparse.coo_matrix((np.ones(len(pairs), bool), pairs.T), (len(mesh.vertices),) * 2)
    count, label = connected_components(graph, directed=False)
    if count == 1:
        return mesh
    kept = np.argmax(np.bincount(label))
    faces = mesh.faces[label[mesh.faces[:, 0]] == kept]
    used, compact = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], compact.reshape(-1, 3).astype(np.int32))


@kernel
def _sample(image, x, y):
    """Bilinear value; x and y must lie inside."""
    height, width = image.shape
    x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
    fx, fy = x - x0, y - y0
    upper = image[y0, x0] + fx * (image[y0, x0 + 1] - image[y0, x0])
    lower = image[y0 + 1, x0] + fx * (image[y0 + 1, x0 + 1] - image[y0 + 1, x0])
    return upper + fy * (lower - upper)


@kernel(parallel=True)
def _vote(matrix, focal, distance, known, low, step, least, second, by):
    nx, ny, nz = least.shape
    for ix in numba.prange(nx):
        x = low[0] + ix * step
        for iy in range(ny):
            y = low[1] + iy * step
            for iz in range(nz):
                z = low[2] + iz * step
                first, next_, view = np.inf, np.inf, -1
                guess, inside = np.inf, 0
                known_to = 0.0
                for v in range(matrix.shape[0]):
                    m = matrix[v]
                    w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
                    if w < 0.01:
                        known_to -= SOFT
                        continue
                    px = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
                    py = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
                    qx = min(max(px, known[v, 0]), known[v, 2])
                    qy = min(max(py, known[v, 1]), known[v, 3])
                    value = _sample(distance[v], qx, qy)
                    known_to += inward(px, py, known[v], value, w / focal[v])
                    beyond = max(abs(px - qx), abs(py - qy))
                    if beyond > 0.0:  # background is guessed to go on beyond the picture; of a subject nothing is known
                        if value + beyond < 0.0:
                            guess = min(guess, guessed(value, beyond) * w / focal[v])
                        continue
                    inside += 1
                    value *= w / focal[v]
                    if value < first:
                        next_ = first
                        first, view = value, v
                    elif value < next_:
                        next_ = value
                if inside < _ENOUGH * matrix.shape[0]:  # too few see it to do without guesses
                    next_ = min(next_, guess)
                    if guess < first:
                        first, view = guess, -1
                known_to /= matrix.shape[0]
                blunt = max(_BLUNT - abs(known_to - first), 0.0) ** 2 / (4 * _BLUNT)
                if known_to < first:
                    first, next_, view = known_to, known_to, -1
                first -= blunt
                least[ix, iy, iz] = first
                second[ix, iy, iz] = min(next_, known_to)
                by[ix, iy, iz] = view


@kernel
def _cover(matrix, low, step, least, covered):
    nx, ny, nz = least.shape
    for ix in range(nx):
        for iy in range(ny):
            for iz in range(nz):
                if least[ix, iy, iz] < 0.0:
                    continue
                for v in range(matrix.shape[0]):
                    row, col = _pixel(matrix[v], low, step, ix, iy, iz)
                    if 0 <= row < covered.shape[1] and 0 <= col < covered.shape[2]:
                        covered[v, row, col] = True


@kernel
def _pixel(m, low, step, ix, iy, iz):
    x, y, z = low[0] + ix * step, low[1] + iy * step, low[2] + iz * step
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if w < 0.01:
        return -1, -1
    px = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
    py = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
    return int(np.floor(py / _STRIDE + 0.5)), int(np.floor(px / _STRIDE + 0.5))


@kernel
def _give_back(matrix, low, step, bare, least, second, by):
    nx, ny, nz = least.shape
    for ix in range(nx):
        for iy in range(ny):
            for iz in range(nz):
                if by[ix, iy, iz] < 0 or least[ix, iy, iz] >= 0.0 or second[ix, iy, iz] < 0.0:
                    continue
                for v in range(matrix.shape[0]):
                    if v == by[ix, iy, iz]:
                        continue
                    row, col = _pixel(matrix[v], low, step, ix, iy, iz)
                    if 0 <= row < bare.shape[1] and 0 <= col < bare.shape[2] and bare[v, row, col]:
                        least[ix, iy, iz] = second[ix, iy, iz]
                        break
