"""A rehearsal: every kernel runs once on a ball, so that no subject waits for a compiler.

Kernels are compiled on their first call, for a minute or two on a new machine, and then kept on disk.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion_server.surface.base import SurfaceSettings, View
from fusion_server.surface.kernels import CPU, SurfaceKernels
from fusion_server.surface.track import SurfaceTracker
from geometry.cameras import pixel_rays
from geometry.rasterize.base import Rasterizer
from protocol.calibration import Camera

_RADIUS = 0.1  # metres, of the ball
_AWAY = 0.8  # metres, of the cameras
_SIZE = 64  # pixels of the maps
_SHIFTS = (0.0, 0.0, 8e-3, -60e-3)  # metres: a keyframe, a still frame, one that moved far, one that is lost and found


def rehearse(settings: SurfaceSettings, rasterizer: Rasterizer, kernels: SurfaceKernels = CPU) -> None:
    """Track a small ball through everything that a tracker of these settings may do."""
    small = replace(settings, vertices=600, hull_cells=24, keyframe_iterations=8, uv=False)
    tracker = SurfaceTracker(small, rasterizer, kernels)
    for shift in _SHIFTS:
        tracker.update([_seen(camera, np.array([shift, 0.0, 0.0])) for camera in _ring()])


def _ring() -> list[Camera]:
    """Six cameras around the origin."""
    cameras = []
    for n, angle in enumerate(np.arange(6) * np.pi / 3):
        c, s = np.cos(angle), np.sin(angle)
        R = np.array([[c, 0.0, -s], [0.0, -1.0, 0.0], [-s, 0.0, -c]])
        focal = _SIZE * _AWAY / (4 * _RADIUS)
        K = np.array([[focal, 0.0, (_SIZE - 1) / 2], [0.0, focal, (_SIZE - 1) / 2], [0.0, 0.0, 1.0]])
        cameras.append(Camera(f"cam{n}", _SIZE, _SIZE, K, np.zeros(5), R, np.array([0.0, 0.0, _AWAY])))
    return cameras


def _seen(camera: Camera, middle: np.ndarray) -> View:
    """The ball as a camera would see it, painted with stripes."""
    rays = pixel_rays(camera)
    center = camera.R @ middle + camera.t
    along = rays @ center
    inside = along**2 - center @ center + _RADIUS**2
    points = rays * (along - np.sqrt(np.maximum(inside, 0)))[..., None]
    normal = (points - center) / _RADIUS
    world = (points - camera.t) @ camera.R - middle
    grey = np.where(inside > 0, 128 + 60 * np.sin(world @ [90.0, 70.0, 110.0]), 0)
    return View(
        camera=camera,
        normal=normal.astype(np.float32),
        confidence=np.ones(inside.shape, np.float32),
        mask=(inside > 0).astype(np.float32),
        image=grey.astype(np.uint8),
        image_camera=camera,
    )
