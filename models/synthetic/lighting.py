"""Lights: a sky as spherical harmonics, lamps far, near and on the camera, their shadow maps, ambient occlusion."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geometry.compiled import kernel

SHADOW_SIZE = 256


@dataclass(frozen=True)
class Lamp:
    """One lamp. kind: "far" (``place`` is the direction toward it), "near" (``place`` is where it stands, metres) or
    "camera" (``place`` is its offset from the camera in the camera's frame: a flash).

    color: linear RGB irradiance at the subject; soft: 0 (a point) to 1 (a wall of light); shadow: whether it casts one;
    reach: the distance in metres at which ``color`` holds for near lamps and flashes.
    """

    kind: str
    place: tuple[float, float, float]
    color: tuple[float, float, float]
    soft: float = 0.1
    shadow: bool = True
    reach: float = 1.0


@dataclass(frozen=True, eq=False)
class Lighting:
    """Everything that lights a scene. sky (9, 3): irradiance polynomial of the normal (see ``sky_from``)."""

    sky: np.ndarray
    lamps: tuple[Lamp, ...]
    shadow_maps: np.ndarray = field(default_factory=lambda: np.zeros((0, SHADOW_SIZE, SHADOW_SIZE), np.float32))
    shadow_matrices: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 4), np.float32))

    def lamps_for(self, center: np.ndarray, R: np.ndarray) -> np.ndarray:
        """Lamps as the kernel reads them, for one camera.  # n,11 float32"""
        rows = np.zeros((len(self.lamps), 11), np.float32)
        shadow = 0
        for row, lamp in zip(rows, self.lamps, strict=True):
            place = np.asarray(lamp.place, np.float64)
            if lamp.kind == "camera":
                place = center + R.T @ place
            row[0] = lamp.kind != "far"
            row[1:4] = place if lamp.kind != "far" else place / np.linalg.norm(place)
            row[4:7] = lamp.color
            row[7] = lamp.soft
            row[8] = lamp.reach
            row[9] = -1
            if lamp.shadow and lamp.kind != "camera" and shadow < len(self.shadow_maps):
                row[9] = shadow
                row[10] = (0.6 + 3.0 * lamp.soft) * self.shadow_maps.shape[1] / SHADOW_SIZE
                shadow += 1
        return rows


def sky_from(directions: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Irradiance polynomial of blobs of light: directions (N, 3) unit, colors (N, 3) linear.  # 9,3 float32

    Second-order spherical harmonics convolved with the cosine (Ramamoorthi and Hanrahan 2001, equations 7 and 13),
    scaled so that light of colour c from everywhere gives irradiance c.
    """
    x, y, z = np.asarray(directions, np.float64).T
    one = np.ones_like(x)
    basis = np.stack([one, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y])  # 9,N
    # Y_lm normalisation squared times the cosine kernel over pi, per polynomial term.
    scale = np.array([1, 2, 2, 2, 3.75, 3.75, 0.3125, 3.75, 0.9375]) / len(x)
    return (scale[:, None] * (basis @ np.asarray(colors, np.float64))).astype(np.float32)


def sphere_directions(count: int) -> np.ndarray:
    """Evenly spread unit vectors (golden spiral).  # N,3"""
    i = np.arange(count) + 0.5
    y = 1 - 2 * i / count
    angle = np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], 1)


def with_shadows(lighting: Lighting, vertices: np.ndarray, faces: np.ndarray, size: int = SHADOW_SIZE) -> Lighting:
    """The same lights with shadow maps, ``size`` texels wide, of a mesh (a coarse level of the subject is enough)."""
    casters = [lamp for lamp in lighting.lamps if lamp.shadow and lamp.kind != "camera"]
    if not casters:
        return lighting
    middle = vertices.mean(0)
    maps, matrices = [], []
    for lamp in casters:
        place = np.asarray(lamp.place, np.float64)
        toward = place if lamp.kind == "far" else place - middle
        matrix, depth = _parallel_depth(vertices, faces, toward, size)
        maps.append(depth)
        matrices.append(matrix)
    return Lighting(lighting.sky, lighting.lamps, np.stack(maps), np.stack(matrices).astype(np.float32))


def ambient_visibility(vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, count: int = 20) -> np.ndarray:
    """Share of the hemisphere above each vertex that the mesh itself leaves open, cosine-weighted.  # P float32"""
    total = np.full(len(vertices), 1e-6, np.float32)
    seen = np.zeros(len(vertices), np.float32)
    spread = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    vertices = np.ascontiguousarray(vertices, np.float32)
    normals = np.ascontiguousarray(normals, np.float32)
    for toward in sphere_directions(count):
        matrix, depth = _parallel_depth(vertices, faces, toward, 96)
        _gather_sky(
            vertices,
            normals,
            matrix.astype(np.float32),
            depth,
            toward.astype(np.float32),
            np.float32(spread),
            seen,
            total,
        )
    return seen / total


@kernel(fastmath=True)
def _gather_sky(vertices, normals, matrix, depth, toward, spread, seen, total):
    lift, bias, last = np.float32(0.004) * spread, np.float32(0.012) * spread, depth.shape[0] - 1
    for i in range(vertices.shape[0]):
        cosine = normals[i, 0] * toward[0] + normals[i, 1] * toward[1] + normals[i, 2] * toward[2]
        if cosine <= 0:
            continue
        total[i] += cosine
        x = vertices[i, 0] + lift * normals[i, 0]
        y = vertices[i, 1] + lift * normals[i, 1]
        z = vertices[i, 2] + lift * normals[i, 2]
        column = int(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3] + np.float32(0.5))
        row = int(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3] + np.float32(0.5))
        far = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if depth[min(max(row, 0), last), min(max(column, 0), last)] > far - bias:
            seen[i] += cosine


def _parallel_depth(vertices, faces, toward, size) -> tuple[np.ndarray, np.ndarray]:
    """Depth map (size, size) seen from far along ``toward`` and the matrix (3, 4) from world to column, row, depth."""
    z = -np.asarray(toward, np.float64) / np.linalg.norm(toward)
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z])
    low, high = _bounds(np.ascontiguousarray(vertices, np.float32), axes.astype(np.float32))
    scale = (size - 3) / max(high[0] - low[0], high[1] - low[1], 1e-9)
    matrix = np.hstack([axes * [[scale], [scale], [1]], np.zeros((3, 1))])
    matrix[:2, 3] = 1 - low[:2] * scale
    depth = np.full((size, size), 1e9, np.float32)
    _parallel_raster(np.ascontiguousarray(vertices, np.float32), faces, matrix.astype(np.float32), depth)
    return matrix, depth


@kernel(fastmath=True)
def _bounds(vertices, axes):
    low, high = np.full(3, np.float32(1e9)), np.full(3, np.float32(-1e9))
    for i in range(vertices.shape[0]):
        for k in range(3):
            at = axes[k, 0] * vertices[i, 0] + axes[k, 1] * vertices[i, 1] + axes[k, 2] * vertices[i, 2]
            low[k] = min(low[k], at)
            high[k] = max(high[k], at)
    return low, high


@kernel(fastmath=True)
def _parallel_raster(vertices, faces, matrix, depth):
    size = depth.shape[0]
    screen = np.empty_like(vertices)
    for i in range(vertices.shape[0]):
        for k in range(3):
            screen[i, k] = (
                matrix[k, 0] * vertices[i, 0]
                + matrix[k, 1] * vertices[i, 1]
                + matrix[k, 2] * vertices[i, 2]
                + matrix[k, 3]
            )
    for f in range(faces.shape[0]):
        a, b, c = screen[faces[f, 0]], screen[faces[f, 1]], screen[faces[f, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if abs(area) < 1e-9:
            continue
        inverse = 1 / area
        x0 = max(0, int(np.ceil(min(a[0], b[0], c[0]))))
        x1 = min(size - 1, int(np.floor(max(a[0], b[0], c[0]))))
        y0 = max(0, int(np.ceil(min(a[1], b[1], c[1]))))
        y1 = min(size - 1, int(np.floor(max(a[1], b[1], c[1]))))
        for py in range(y0, y1 + 1):
            for px in range(x0, x1 + 1):
                u = ((b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)) * inverse
                v = ((c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)) * inverse
                w = 1 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                z = u * a[2] + v * b[2] + w * c[2]
                if z < depth[py, px]:
                    depth[py, px] = z
