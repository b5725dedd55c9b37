"""A texture for a mesh whose faces have texture coordinates, from the pictures of one moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion_server.colour import Photo, Sampler, blend, encoded, filled, solve_gains
from geometry.compiled import kernel
from geometry.mesh import vertex_normals
from geometry.rasterize.base import Rasterizer

SIZE = 2048
_DEPTH_SIZE = 1024  # pixels at most, of the depth maps that decide what a texel's pictures show
_AT_ONCE = 1 << 18  # texels: what their samples cost in memory is 16 bytes a view
_PADDING = 16  # texels that colours run over the edge of a chart, for viewers that filter and shrink textures


def bake_texture(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    photos: Sequence[Photo],
    rasterizer: Rasterizer,
    size: int = SIZE,
) -> np.ndarray:
    """A square texture, first row on top, where v is 1.  # size,size,3 uint8 sRGB

    vertices: (P, 3) world metres; faces: (F, 3); uv: (F, 3, 2), 0 to 1, of the faces' corners. Each texel is blended
    from the pictures that see its point; where none does it has the colour that spreads there from around it.
    """
    vertices = np.ascontiguousarray(vertices, np.float64)
    normals = vertex_normals(vertices, faces)
    sampler = Sampler(vertices, faces, photos, rasterizer, _DEPTH_SIZE)
    at_vertices = sampler.at(vertices, normals)
    gains = solve_gains(at_vertices)
    rough, total = blend(at_vertices, gains)
    rough = filled(rough, total > 0, faces)
    face = np.full((size, size), -1, np.int32)
    bary = np.zeros((size, size, 2), np.float32)
    _texels(np.ascontiguousarray(uv, np.float64), face, bary)
    rows, columns = np.nonzero(face >= 0)
    texture = np.zeros((size, size, 3), np.float32)
    for start in range(0, len(rows), _AT_ONCE):
        row, column = rows[start : start + _AT_ONCE], columns[start : start + _AT_ONCE]
        corners = faces[face[row, column]]  # n,3
        u, v = bary[row, column].T
        weights = np.stack([u, v, 1 - u - v], 1)[..., None]
        points, facing, guess = ((values[corners] * weights).sum(1) for values in (vertices, normals, rough))
        facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
        colour, total = blend(sampler.at(points, facing), gains)
        texture[row, column] = np.where((total > 0)[:, None], colour, guess)
    known = face >= 0
    for _ in range(_PADDING):
        known = _spread(texture, known)
    texture[~known] = rough.mean(0)
    return encoded(texture)


@kernel
def _texels(uv, face, bary):
    """Which face each texel's centre lies in, and its weights of corners 0 and 1."""
    size = face.shape[0]
    for f in range(uv.shape[0]):
        ax, ay = uv[f, 0, 0] * size - 0.5, (1 - uv[f, 0, 1]) * size - 0.5
        bx, by = uv[f, 1, 0] * size - 0.5, (1 - uv[f, 1, 1]) * size - 0.5
        cx, cy = uv[f, 2, 0] * size - 0.5, (1 - uv[f, 2, 1]) * size - 0.5
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-12:
            continue
        for y in range(max(0, int(np.ceil(min(ay, by, cy)))), min(size - 1, int(np.floor(max(ay, by, cy)))) + 1):
            for x in range(max(0, int(np.ceil(min(ax, bx, cx)))), min(size - 1, int(np.floor(max(ax, bx, cx)))) + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                if u >= 0 and v >= 0 and u + v <= 1:
                    face[y, x] = f
                    bary[y, x, 0], bary[y, x, 1] = u, v


@kernel
def _spread(texture, known):
    """Texels beside known ones take their mean; returns what is known then."""
    grown = known.copy()
    height, width = known.shape
    for y in range(height):
        for x in range(width):
            if known[y, x]:
                continue
            r, g, b, count = 0.0, 0.0, 0.0, 0
            for j in range(max(y - 1, 0), min(y + 2, height)):
                for i in range(max(x - 1, 0), min(x + 2, width)):
                    if known[j, i]:
                        r += texture[j, i, 0]
                        g += texture[j, i, 1]
                        b += texture[j, i, 2]
                        count += 1
            if count:
                texture[y, x, 0], texture[y, x, 1], texture[y, x, 2] = r / count, g / count, b / count
                grown[y, x] = True
    return grown
