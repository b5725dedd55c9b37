"""The CPU rasteriser: a z-buffer in numba, one thread a view."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from geometry.cameras import projection_matrix
from geometry.compiled import kernel
from geometry.rasterize.base import NEAR, Raster, one_size
from protocol.calibration import Camera

_ON_EDGE = 1e-9  # share of a face by which a pixel may lie outside: what rounding makes of one on the edge of two faces


class CpuRasterizer:
    """Rasterises with numba; compiled once and cached on disk."""

    name = "cpu"

    def rasterize(self, vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera]) -> Raster:
        """See ``base.Rasterizer``. Raises ValueError when the cameras differ in size."""
        shape = (len(cameras), *one_size(cameras))
        matrices = np.stack([projection_matrix(camera) for camera in cameras])
        face = np.empty(shape, np.int32)
        bary = np.empty((*shape, 2), np.float32)
        depth = np.empty(shape, np.float32)
        vertices = np.ascontiguousarray(vertices, dtype=np.float64)
        corners = np.ascontiguousarray(faces, dtype=np.int32).view(np.uint32)  # see ``geometry.compiled``
        _rasterize(vertices, corners, matrices, face, bary, depth)
        return Raster(face, bary, depth)


@kernel(parallel=True)
def _rasterize(vertices, faces, matrices, face, bary, depth):
    for view in numba.prange(matrices.shape[0]):
        _rasterize_view(vertices, faces, matrices[view], face[view], bary[view], depth[view])


@kernel
def _rasterize_view(vertices, faces, matrix, face, bary, depth):
    height, width = face.shape
    face[:], bary[:], depth[:] = -1, 0.0, 0.0
    screen = np.empty((vertices.shape[0], 3))  # x, y in pixels, 1 / z
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i]
        w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if w < NEAR:
            screen[i, 2] = -1.0
            continue
        screen[i, 0] = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / w
        screen[i, 1] = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / w
        screen[i, 2] = 1.0 / w
    nearest = np.zeros((height, width))  # largest 1 / z so far
    # Of a closed surface, half of the faces look away and lie behind the others. Kept for the second round, most of
    # them are left out at a glance; what is seen is the same.
    away = np.empty(faces.shape[0], np.uint32)
    kept = 0
    for second in range(2):
        for n in range(kept if second else faces.shape[0]):
            f = away[n] if second else np.uint32(n)
            a, b, c = faces[f]
            ax, ay, aw = screen[a]
            bx, by, bw = screen[b]
            cx, cy, cw = screen[c]
            if (aw < 0) | (bw < 0) | (cw < 0):
                continue
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            if (area > 0.0) & (second == 0):
                away[kept] = f
                kept += 1
                continue
            x0 = max(0, int(np.ceil(min(ax, bx, cx))))
            x1 = min(width, int(np.floor(max(ax, bx, cx))) + 1)
            y0 = max(0, int(np.ceil(min(ay, by, cy))))
            y1 = min(height, int(np.floor(max(ay, by, cy))) + 1)
            if (x0 >= x1) | (y0 >= y1) | (abs(area) < 1e-12):
                continue
            columns, rows = (np.uint64(x0), np.uint64(x1)), (np.uint64(y0), np.uint64(y1))
            if second:
                hidden, top = True, max(aw, bw, cw)
                for py in range(rows[0], rows[1]):
                    for px in range(columns[0], columns[1]):
                        hidden &= nearest[py, px] >= top
                if hidden:
                    continue
            # Weights u and v are linear on the screen: their values at (x0, y0), and what each pixel adds.
            inverse = 1.0 / area
            u_right, u_below = (by - cy) * inverse, (cx - bx) * inverse
            v_right, v_below = (cy - ay) * inverse, (ax - cx) * inverse
            u_row = ((bx - x0) * (cy - y0) - (by - y0) * (cx - x0)) * inverse
            v_row = ((cx - x0) * (ay - y0) - (cy - y0) * (ax - x0)) * inverse
            for py in range(rows[0], rows[1]):
                u, v = u_row, v_row
                for px in range(columns[0], columns[1]):
                    near = u * (aw - cw) + v * (bw - cw) + cw
                    inside = (u >= -_ON_EDGE) & (v >= -_ON_EDGE) & (u + v <= 1.0 + _ON_EDGE)
                    if inside & (near > nearest[py, px]):
                        nearest[py, px] = near
                        face[py, px] = f
                        bary[py, px, 0] = u
                        bary[py, px, 1] = v
                    u += u_right
                    v += v_right
                u_row += u_below
                v_row += v_below
    for py in range(height):
        for px in range(width):
            if face[py, px] >= 0:
                a, b, _ = faces[np.uint32(face[py, px])]
                near = nearest[py, px]
                depth[py, px] = 1.0 / near
                bary[py, px, 0] = min(max(bary[py, px, 0], 0.0), 1.0) * screen[a, 2] / near
                bary[py, px, 1] = min(max(bary[py, px, 1], 0.0), 1.0) * screen[b, 2] / near
