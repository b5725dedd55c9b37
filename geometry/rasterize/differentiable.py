"""Gradients through a rasteriser, for gradient descent on a mesh: nvdiffrast's semantics on the CPU.

Any rasteriser of ``geometry.rasterize`` decides which face a pixel sees. From there on, with the faces held fixed,
everything is a smooth function of the vertices: ``interpolate`` gives per-vertex values at pixels, with gradients to
the values and, through the barycentrics, to the vertices; ``antialias`` blends pixels across the mesh's outlines by how
much of them the nearer face covers, which gives outlines a gradient. (Laine et al. 2020, "Modular primitives for
high-performance differentiable rendering", sections 3.3 to 3.5.)

Positions are homogeneous pixels (x z, y z, z), one set a view: what a pinhole's projection matrix makes of the world. A
weight of corner k at pixel p is proportional to p . (h_i x h_j), the other corners' homogeneous pixels (Olano and Greer
1997); gradients flow to all three parts. Shapes: V views, P vertices, F faces, H x W pixels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch

from geometry.compiled import kernel
from geometry.rasterize.base import Raster

_ON_IT = 2e-3  # of the distance: what is this little behind an outline still belongs to it


@dataclass(frozen=True, eq=False)
class Outline:
    """Pixel pairs across outlines: made anew for each raster by ``outlines``.

    near, far: (n,) flat pixel numbers of the pair, near being the one that the outlined surface covers. edge: (n, 2)
    the outline's ends. view: (n,). pixel: (n,) coordinate of near along the pair, other: (n,) the one that both
    share; sign: (n,) +1 where far lies at larger coordinates; across: (n,) 0 for pairs in a row, 1 in a column.
    """

    near: torch.Tensor
    far: torch.Tensor
    edge: torch.Tensor
    view: torch.Tensor
    pixel: torch.Tensor
    other: torch.Tensor
    sign: torch.Tensor
    across: torch.Tensor


def to_pixels(vertices: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """World points (P, 3) in metres through projection matrices (V, 3, 4).  # V,P,3 homogeneous pixels"""
    return torch.einsum("vij,pj->vpi", matrices[:, :, :3], vertices) + matrices[:, None, :, 3]


def interpolate(values: torch.Tensor, pixels: torch.Tensor, faces: np.ndarray, raster: Raster) -> torch.Tensor:
    """Per-vertex values (P, C) where a raster's pixels see the mesh, zeros elsewhere.  # V,H,W,C

    pixels: (V, P, 3) of ``to_pixels``; all in float64. Differentiable in values and pixels, the faces held fixed.
    """
    return _Interpolate.apply(values, pixels, np.ascontiguousarray(faces, np.int32), raster.face)


def antialias(image: torch.Tensor, pixels: torch.Tensor, outline: Outline) -> torch.Tensor:
    """An image (V, H, W, C) blended across outlines.  # V,H,W,C

    The outline crosses the line between two pixel centres at a share s of the way. Beyond one half the nearer face
    covers part of the farther pixel, which takes s - 1/2 of its colour; below, the nearer pixel takes 1/2 - s of what
    lies behind. Differentiable in image and pixels.
    """
    ends = pixels[outline.view[:, None], outline.edge]  # n,2,3
    along = torch.where(outline.across[:, None] == 0, ends[..., 0], ends[..., 1]) / ends[..., 2]  # n,2
    beside = torch.where(outline.across[:, None] == 0, ends[..., 1], ends[..., 0]) / ends[..., 2]
    share = (outline.other - beside[:, 0]) / (beside[:, 1] - beside[:, 0])
    crossing = along[:, 0] + share * (along[:, 1] - along[:, 0])
    s = ((crossing - outline.pixel) * outline.sign).clamp(0, 1)[:, None]
    flat = image.reshape(-1, image.shape[-1])
    near, far = flat[outline.near], flat[outline.far]
    covered = (s - 0.5).clamp(min=0) * (near - far)
    bared = (0.5 - s).clamp(min=0) * (far - near)
    return flat.index_add(0, outline.far, covered).index_add(0, outline.near, bared).reshape(image.shape)


def outlines(pixels: torch.Tensor, faces: np.ndarray, raster: Raster) -> Outline:
    """Where an outline of a surface runs between two neighbouring pixels, and only one of them sees that surface.

    Unlike nvdiffrast, which looks at the edges of the face that a pixel sees, this goes along the outlines: at a head's
    own outline its faces are thinner than a pixel, and the one that a pixel sees rarely has the edge.
    An edge is an outline in a view when it has one face, or when its two faces lie on the same side of it there. Pairs
    in a row are for edges that are steeper than they are flat, pairs in a column for the others, so that an outline
    that moves sweeps each pixel once.
    """
    faces = np.ascontiguousarray(faces, np.int32)
    opposite = _opposite(faces)
    found = _pairs(pixels.detach().numpy(), faces, opposite, raster.face, raster.depth)
    whole, real = np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])
    integers, floats = torch.from_numpy(whole), torch.from_numpy(real)
    return Outline(
        integers[:, 0], integers[:, 1], integers[:, 2:4], integers[:, 4], floats[:, 0], floats[:, 1], floats[:, 2],
        integers[:, 5],
    )  # fmt: skip


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(context, values, pixels, faces, face):
        context.save_for_backward(values, pixels)
        context.faces, context.face = faces, face
        out = np.zeros((*face.shape, values.shape[1]))
        _forward(values.detach().numpy(), pixels.detach().numpy(), faces, face, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(context, *gradients):
        values, pixels = (tensor.detach().numpy() for tensor in context.saved_tensors)
        to_values = np.zeros((len(pixels), *values.shape))  # a view each: they run side by side
        to_pixels = np.zeros_like(pixels)
        out = np.ascontiguousarray(gradients[0].numpy())
        _backward(values, pixels, context.faces, context.face, out, to_values, to_pixels)
        return torch.from_numpy(to_values.sum(0)), torch.from_numpy(to_pixels), None, None


@kernel(inline="always")
def _weight(h, i, j, x, y):
    """(x, y, 1) . (h_i x h_j)"""
    return (
        x * (h[i, 1] * h[j, 2] - h[i, 2] * h[j, 1])
        + y * (h[i, 2] * h[j, 0] - h[i, 0] * h[j, 2])
        + (h[i, 0] * h[j, 1] - h[i, 1] * h[j, 0])
    )


@kernel(inline="always")
def _weights(h, a, b, c, x, y):
    """What each corner of a face counts at a pixel, and the sum of it."""
    wa, wb, wc = _weight(h, b, c, x, y), _weight(h, c, a, x, y), _weight(h, a, b, x, y)
    return wa, wb, wc, wa + wb + wc


@kernel(parallel=True)
def _forward(values, pixels, faces, face, out):
    for v in numba.prange(face.shape[0]):
        h = pixels[v]
        for y in range(face.shape[1]):
            for x in range(face.shape[2]):
                f = face[v, y, x]
                if f < 0:
                    continue
                a, b, c = faces[f]
                wa, wb, wc, total = _weights(h, a, b, c, x, y)
                for k in range(values.shape[1]):
                    out[v, y, x, k] = (wa * values[a, k] + wb * values[b, k] + wc * values[c, k]) / total


@kernel(inline="always")
def _to_corners(to, h, i, j, x, y, g):
    """Gradient g of ``_weight``: to h_i it is h_j x p, to h_j it is p x h_i."""
    to[i, 0] += g * (h[j, 1] - h[j, 2] * y)
    to[i, 1] += g * (h[j, 2] * x - h[j, 0])
    to[i, 2] += g * (h[j, 0] * y - h[j, 1] * x)
    to[j, 0] += g * (y * h[i, 2] - h[i, 1])
    to[j, 1] += g * (h[i, 0] - x * h[i, 2])
    to[j, 2] += g * (x * h[i, 1] - y * h[i, 0])


@kernel(parallel=True)
def _backward(values, pixels, faces, face, out, to_values, to_pixels):
    for v in numba.prange(face.shape[0]):
        h, to = pixels[v], to_pixels[v]
        for y in range(face.shape[1]):
            for x in range(face.shape[2]):
                f = face[v, y, x]
                if f < 0:
                    continue
                a, b, c = faces[f]
                wa, wb, wc, total = _weights(h, a, b, c, x, y)
                ga = gb = gc = mean = 0.0
                for k in range(values.shape[1]):
                    g = out[v, y, x, k]
                    to_values[v, a, k] += g * wa / total
                    to_values[v, b, k] += g * wb / total
                    to_values[v, c, k] += g * wc / total
                    ga += g * values[a, k]
                    gb += g * values[b, k]
                    gc += g * values[c, k]
                mean = (ga * wa + gb * wb + gc * wc) / total
                _to_corners(to, h, b, c, x, y, (ga - mean) / total)
                _to_corners(to, h, c, a, x, y, (gb - mean) / total)
                _to_corners(to, h, a, b, x, y, (gc - mean) / total)


def _opposite(faces: np.ndarray) -> np.ndarray:
    """For edge k of each face (corners k and k + 1), the other face's third corner; -1 where there is none.  # F,3"""
    count = int(faces.max()) + 1
    begin, end, third = (np.roll(faces, -k, axis=1).astype(np.int64) for k in range(3))
    key, back = (begin * count + end).ravel(), (end * count + begin).ravel()
    order = np.argsort(key)
    place = np.minimum(np.searchsorted(key[order], back), len(key) - 1)
    match = key[order][place] == back
    return np.where(match, third.ravel()[order[place]], -1).reshape(-1, 3).astype(np.int32)


def _pairs(pixels, faces, opposite, face, depth) -> list[tuple[np.ndarray, np.ndarray]]:
    views, height, width = face.shape
    found = []
    for v in range(views):
        whole, real = np.empty((2 * height * width, 6), np.int64), np.empty((2 * height * width, 3))
        count = _pairs_of_view(pixels[v], faces, opposite, face[v], depth[v], v, whole, real)
        found.append((whole[:count].copy(), real[:count].copy()))
    return found


@kernel
def _pairs_of_view(h, faces, opposite, face, depth, view, whole, real):
    height, width = face.shape
    count = 0
    for f in range(faces.shape[0]):
        for k in range(3):
            i, j, third, o = faces[f, k], faces[f, (k + 1) % 3], faces[f, (k + 2) % 3], opposite[f, k]
            if (o >= 0 and i > j) or h[i, 2] <= 0 or h[j, 2] <= 0:
                continue  # an edge of two faces is met twice
            ax, ay, bx, by = h[i, 0] / h[i, 2], h[i, 1] / h[i, 2], h[j, 0] / h[j, 2], h[j, 1] / h[j, 2]
            inner = _side(ax, ay, bx, by, h[third, 0] / h[third, 2], h[third, 1] / h[third, 2])
            if o >= 0 and inner != _side(ax, ay, bx, by, h[o, 0] / h[o, 2], h[o, 1] / h[o, 2]):
                continue
            across = 0 if abs(by - ay) >= abs(bx - ax) else 1
            first, last = (ay, by) if across == 0 else (ax, bx)
            if first == last:
                continue
            rows = height if across == 0 else width
            columns = width if across == 0 else height
            for other in range(
                max(0, int(np.ceil(min(first, last)))), min(rows - 1, int(np.floor(max(first, last)))) + 1
            ):
                share = (other - first) / (last - first)
                at = ax + share * (bx - ax) if across == 0 else ay + share * (by - ay)
                low = int(np.floor(at))
                if low < 0 or low + 1 >= columns:
                    continue
                if across == 0:
                    beyond = _side(ax, ay, bx, by, low + 1.0, float(other))
                else:
                    beyond = _side(ax, ay, bx, by, float(other), low + 1.0)
                near, far = (low + 1, low) if beyond == inner else (low, low + 1)
                ny, nx, fy, fx = (other, near, other, far) if across == 0 else (near, other, far, other)
                away = 1.0 / ((1 - share) / h[i, 2] + share / h[j, 2])
                if face[ny, nx] < 0 or depth[ny, nx] > away * (1 + _ON_IT) or count == whole.shape[0]:
                    continue
                if face[fy, fx] >= 0 and depth[fy, fx] < away * (1 + _ON_IT):
                    continue
                whole[count, 0] = (view * height + ny) * width + nx
                whole[count, 1] = (view * height + fy) * width + fx
                whole[count, 2], whole[count, 3], whole[count, 4], whole[count, 5] = i, j, view, across
                real[count, 0], real[count, 1], real[count, 2] = near, other, far - near
                count += 1
    return count


@kernel(inline="always")
def _side(ax, ay, bx, by, x, y):
    return (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
