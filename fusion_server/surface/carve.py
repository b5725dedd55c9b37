"""A hull carved by depths: what cameras see through is not solid (Curless and Levoy, SIGGRAPH 1996).

The hull says what lies outside of the subject. Where two cameras or more tell depths, the mean of their signed
distances says what lies outside of it there, too; elsewhere the hull stays.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from fusion_server.surface.base import Rig
from fusion_server.surface.hull import Field
from fusion_server.surface.stereo import Depths
from geometry.compiled import kernel

_BAND = 3.0  # cells before and behind a depth within which it says how far; before that, only that nothing is there
_TELLING = 2  # cameras: what one sees through alone may be its mistake
_GRAZING = 0.1  # cosine


def carved(hull: Field, depths: Depths) -> Field:
    """The field without what the depths see through: nowhere larger, and the same where nobody tells a depth."""
    rig = Rig.of(depths.cameras)
    values = hull.values.copy()
    translation = np.stack([camera.t for camera in depths.cameras]).astype(np.float64)
    _carve(depths.depth, depths.normal, depths.lens, rig.rotation, translation, hull.low, hull.step, values)
    return Field(values, hull.low, hull.step)


@kernel(parallel=True)
def _carve(depth, normal, lens, rotation, translation, low, step, values):
    nx, ny, nz = values.shape
    views, rows, columns = depth.shape
    band = _BAND * step
    for ix in numba.prange(nx):
        for iy in range(ny):
            for iz in range(nz):
                if values[ix, iy, iz] < -2.0 * step:
                    continue
                p0, p1, p2 = low[0] + ix * step, low[1] + iy * step, low[2] + iz * step
                total, weight, telling = 0.0, 0.0, 0
                for v in range(views):
                    r, t = rotation[v], translation[v]
                    w = r[2, 0] * p0 + r[2, 1] * p1 + r[2, 2] * p2 + t[2]
                    if w < 0.01:
                        continue
                    rx = (r[0, 0] * p0 + r[0, 1] * p1 + r[0, 2] * p2 + t[0]) / w
                    ry = (r[1, 0] * p0 + r[1, 1] * p1 + r[1, 2] * p2 + t[1]) / w
                    x = int(np.rint(lens[v, 0] * rx + lens[v, 2]))
                    y = int(np.rint(lens[v, 1] * ry + lens[v, 3]))
                    if not (0 <= x < columns and 0 <= y < rows) or depth[v, y, x] == 0.0:
                        continue
                    n, z = normal[v, y, x], depth[v, y, x]
                    slant = n[0] * rx + n[1] * ry + n[2]
                    cosine = -slant / math.sqrt(rx * rx + ry * ry + 1.0)
                    if cosine < _GRAZING:
                        continue
                    behind = w - z
                    if abs(behind) < 4.0 * band:  # a plane tells its distance better than its depth does
                        tx, ty = (x - lens[v, 2]) / lens[v, 0], (y - lens[v, 3]) / lens[v, 1]
                        behind = z * (n[0] * tx + n[1] * ty + n[2]) - w * slant
                    if behind > band:
                        continue
                    total += cosine * max(behind, -band)
                    weight += cosine
                    telling += 1
                if telling >= _TELLING:
                    values[ix, iy, iz] = min(values[ix, iy, iz], total / weight)
