"""Do two engines say the same? Measured on a lit ball seen by a ring of cameras: any machine can draw it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geometry.cameras import pixel_rays
from models.engines import NormalEngine, make_engine
from models.evaluation import normal_errors
from protocol.calibration import Camera


@dataclass(frozen=True)
class Parity:
    """How far an engine is from PyTorch on the CPU, in float32 and with the same weights."""

    mean_deg: float  # over the ball
    mask: float  # mean difference of the probability


def ring(views: int, size: int) -> list[Camera]:
    """Cameras around the origin, 1 m away."""
    cameras: list[Camera] = []
    for angle in np.linspace(0, 2 * np.pi, views, endpoint=False):
        forward = -np.array([np.sin(angle), 0.0, np.cos(angle)])
        right = np.cross(forward, [0.0, 1.0, 0.0])
        R = np.stack([right, np.cross(forward, right), forward])
        K = np.array([[2.0 * size, 0, (size - 1) / 2], [0, 2.0 * size, (size - 1) / 2], [0, 0, 1.0]])
        cameras.append(Camera(f"cam{len(cameras)}", size, size, K, np.zeros(5), R, np.array([0, 0, 1.0])))
    return cameras


def lit_ball(cameras: list[Camera], radius: float = 0.18) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (V, S, S, 3) uint8 of a ball at the origin under one lamp, before noise, and its masks (V, S, S)."""
    rng = np.random.default_rng(0)
    lamp = np.array([0.4, 0.7, 0.6])
    images, masks = [], []
    for camera in cameras:
        rays = pixel_rays(camera).astype(np.float64) @ camera.R  # H,W,3 world
        along = rays @ camera.center
        inside = along**2 - (camera.center @ camera.center - radius**2)
        hit = camera.center + (-along - np.sqrt(np.maximum(inside, 0)))[..., None] * rays
        shade = 30 + 190 * np.maximum(hit @ lamp / radius, 0)
        tint = np.array([1.0, 0.8, 0.7])
        noise = rng.integers(0, 60, (*inside.shape, 3))
        images.append(np.where((inside > 0)[..., None], np.minimum(shade[..., None] * tint, 255), noise))
        masks.append(inside > 0)
    return np.stack(images).astype(np.uint8), np.stack(masks)


def parity(engine: NormalEngine, weights: str | Path | None = None) -> Parity:
    """Compare an engine with the ``torch`` engine on the CPU, in float32 and with the same weights."""
    cameras = ring(engine.views, engine.size)
    images, mask = lit_ball(cameras)
    exact = make_engine("torch", weights=weights, views=engine.views, size=engine.size, precision="f32", device="cpu")
    ours, reference = engine.predict(images, cameras), exact.predict(images, cameras)
    error = normal_errors(ours.normal, reference.normal, mask)
    return Parity(error.mean, float(np.abs(ours.mask - reference.mask).mean()))
