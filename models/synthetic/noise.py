"""Smooth 3-D noise at points: the source of blotches, freckles, pores, marble and lumps."""

from __future__ import annotations

import numpy as np

from geometry.compiled import kernel


@kernel(fastmath=True, inline="always")
def _hash(x, y, z, seed):
    h = np.uint32(x) * np.uint32(374761393) + np.uint32(y) * np.uint32(668265263)
    h += np.uint32(z) * np.uint32(2147483647) + np.uint32(seed) * np.uint32(974634777)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(2246822519)
    return np.float32((h ^ (h >> np.uint32(15))) & np.uint32(0xFFFFFF)) * np.float32(2.0 / 0xFFFFFF) - np.float32(1.0)


@kernel(fastmath=True, inline="always")
def _fade(x):
    """From 0 to 1 with two continuous derivatives (Perlin, SIGGRAPH 2002)."""
    return x * x * x * (x * (x * np.float32(6) - np.float32(15)) + np.float32(10))


@kernel(fastmath=True)
def value_noise(x: float, y: float, z: float, seed: int) -> float:
    """One octave of value noise at one point, -1..1, features one unit wide."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    ix, iy, iz = np.int32(fx), np.int32(fy), np.int32(fz)
    x, y, z = np.float32(x - fx), np.float32(y - fy), np.float32(z - fz)
    sx, sy, sz = _fade(x), _fade(y), _fade(z)
    a = _hash(ix, iy, iz, seed) * (1 - sx) + _hash(ix + 1, iy, iz, seed) * sx
    b = _hash(ix, iy + 1, iz, seed) * (1 - sx) + _hash(ix + 1, iy + 1, iz, seed) * sx
    c = _hash(ix, iy, iz + 1, seed) * (1 - sx) + _hash(ix + 1, iy, iz + 1, seed) * sx
    d = _hash(ix, iy + 1, iz + 1, seed) * (1 - sx) + _hash(ix + 1, iy + 1, iz + 1, seed) * sx
    return (a * (1 - sy) + b * sy) * (1 - sz) + (c * (1 - sy) + d * sy) * sz


@kernel(fastmath=True)
def noise_gradient(x: float, y: float, z: float, seed: int) -> tuple[float, float, float]:
    """The derivative of ``value_noise`` along x, y and z at one point."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    ix, iy, iz = np.int32(fx), np.int32(fy), np.int32(fz)
    x, y, z = np.float32(x - fx), np.float32(y - fy), np.float32(z - fz)
    sx, sy, sz = _fade(x), _fade(y), _fade(z)
    dx, dy, dz = 30 * (x * (1 - x)) ** 2, 30 * (y * (1 - y)) ** 2, 30 * (z * (1 - z)) ** 2
    a, b = _hash(ix, iy, iz, seed), _hash(ix + 1, iy, iz, seed)
    c, d = _hash(ix, iy + 1, iz, seed), _hash(ix + 1, iy + 1, iz, seed)
    e, f = _hash(ix, iy, iz + 1, seed), _hash(ix + 1, iy, iz + 1, seed)
    g, h = _hash(ix, iy + 1, iz + 1, seed), _hash(ix + 1, iy + 1, iz + 1, seed)
    ab, cd, ef, gh = a + sx * (b - a), c + sx * (d - c), e + sx * (f - e), g + sx * (h - g)
    low, high = ab + sy * (cd - ab), ef + sy * (gh - ef)
    along = ((b - a) * (1 - sy) + (d - c) * sy) * (1 - sz) + ((f - e) * (1 - sy) + (h - g) * sy) * sz
    return dx * along, dy * ((cd - ab) * (1 - sz) + (gh - ef) * sz), dz * (high - low)


@kernel(fastmath=True)
def _fbm(points, frequency, octaves, gain, seed, out):
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] * frequency[0], points[i, 1] * frequency[1], points[i, 2] * frequency[2]
        total = np.float32(0)
        amplitude = np.float32(1)
        for octave in range(octaves):
            total += amplitude * value_noise(x, y, z, seed + octave * 17)
            amplitude *= gain
            x, y, z = x * 2.03 + 11.7, y * 2.03 + 5.3, z * 2.03 + 3.1
        out[i] = total


def fbm(points: np.ndarray, frequency, octaves: int, seed: int, gain: float = 0.5) -> np.ndarray:
    """Fractal noise at points (P, 3), zero mean, about -1..1 after division by its spread.

    frequency is in cycles per unit of ``points``: one number or three.  # P float32
    """
    out = np.empty(len(points), np.float32)
    wide = np.broadcast_to(np.asarray(frequency, np.float32), 3).copy()
    points = np.ascontiguousarray(points, np.float32)
    _fbm(points, wide, octaves, np.float32(gain), np.int64(seed & 0x7FFFFFFF), out)
    return out / np.float32(np.sqrt(sum(gain ** (2 * k) for k in range(octaves))))
