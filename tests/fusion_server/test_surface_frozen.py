"""A tracker frozen to bytes and thawed goes on as if nothing had happened (``launch.freeze``)."""

from __future__ import annotations

import numpy as np
import pytest
from surface_scene import blob, ring, skin, turned, views_of

from fusion_server.surface import SurfaceSettings, SurfaceTracker
from geometry.rasterize.cpu import CpuRasterizer
from launch.checkpoint import _ROOMS
from launch.freeze import freeze, thaw

SETTINGS = SurfaceSettings(vertices=1500, keyframe_iterations=6, hull_cells=48)


@pytest.mark.slow
def test_a_thawed_tracker_makes_the_same_next_frames():
    cameras = ring(8, 128)
    tracker = SurfaceTracker(SETTINGS, CpuRasterizer())
    moments = [turned(blob(5), 4.0 * n, (3e-3 * n, 0, 0)) for n in range(4)]
    seen = [views_of(mesh, skin(5), cameras, fine=3) for mesh in moments]
    for views in seen[:2]:
        tracker.update(views)
    again = SurfaceTracker(SETTINGS, CpuRasterizer())
    again.restore(thaw(freeze(tracker.state(), _ROOMS), _ROOMS))
    for views in seen[2:]:
        one, other = tracker.update(views), again.update(views)
        assert other.kind == "warm" and np.array_equal(one.vertices, other.vertices)
        assert one.quality == other.quality
