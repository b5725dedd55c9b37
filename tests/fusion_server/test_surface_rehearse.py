"""After the rehearsal no kernel is left to be compiled while a subject waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys

from numba.core.dispatcher import Dispatcher

from fusion_server.surface import SurfaceSettings, SurfaceTracker
from fusion_server.surface.rehearse import rehearse
from geometry.rasterize.cpu import CpuRasterizer
from surface_scene import blob, ring, skin, turned, views_of


def compiled():
    rooms = [module for name, module in sys.modules.items() if name.startswith(("fusion_server.", "geometry."))]
    kernels = {kernel for room in rooms for kernel in vars(room).values() if isinstance(kernel, Dispatcher)}
    return {kernel.__qualname__ + str(signature) for kernel in kernels for signature in kernel.signatures}


settings = SurfaceSettings(vertices=1500, hull_cells=48, uv=False)
rehearse(settings, CpuRasterizer())
before = compiled()
tracker, cameras = SurfaceTracker(settings, CpuRasterizer()), ring(6)
poses = (blob(4), turned(blob(4), 1), turned(blob(4), 12), turned(blob(4), 12, (0.06, 0, 0)))
kinds = [tracker.update(views_of(mesh, skin(4), cameras)).kind for mesh in poses]
assert kinds[:3] == ["keyframe", "warm", "warm"], kinds
assert len(before) > 20, before
late = compiled() - before
assert not late, late
"""


def test_nothing_is_left_to_compile():
    """In a process of its own: other tests have compiled everything in this one."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
