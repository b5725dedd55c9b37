"""How far the live mesh and its normals are from a truth, where the subject is a simulated one."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from fusion_server.pipeline import Result, Slot
from geometry.measure import SurfaceIndex, normal_error_degrees, sample_surface
from geometry.mesh import Mesh, read_ply, vertex_normals
from geometry.rasterize import make_rasterizer
from geometry.visibility import seen_part
from protocol.capture_folder import CaptureFolder

PERIOD = 5.0  # seconds between two measurements: each costs over half a second of a core that the mesh could use
SAMPLES = 2000  # points of the live mesh that are measured, as many per area everywhere
SEEN_BY = 2  # cameras: what fewer see (a neck's cut, what lies below the pictures) is closed by guess, not measured


@dataclass(frozen=True)
class TruthSample:
    """One live mesh against its truth."""

    index: int
    surface_mm: float  # median distance to the true surface of what two cameras see
    surface_95_mm: float
    normal_deg: float  # mean angle between predicted and true normals, where both masks are set


class TruthMonitor:
    """Measures some of the results as they come, on a thread of its own; ``offer`` is a pipeline observer."""

    def __init__(self, capture: CaptureFolder) -> None:
        self._capture = capture
        self._rasterizer = make_rasterizer("cpu")
        self._slot: Slot[Result] = Slot()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="truth")
        self.samples: list[TruthSample] = []

    def start(self) -> None:
        """Start measuring."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def offer(self, result: Result) -> None:
        """Never waits: the newest result is the one that is measured next."""
        self._slot.put(result)

    def status(self) -> dict[str, float]:
        """The newest sample's numbers, and the means so far; empty before the first."""
        if not self.samples:
            return {}
        last = self.samples[-1]
        return {
            "truth_surface_mm": last.surface_mm,
            "truth_surface_95_mm": last.surface_95_mm,
            "truth_normal_deg": last.normal_deg,
            "truth_mean_surface_mm": float(np.mean([s.surface_mm for s in self.samples])),
            "truth_mean_normal_deg": float(np.mean([s.normal_deg for s in self.samples])),
            "truth_samples": len(self.samples),
        }

    def _run(self) -> None:
        while not self._stop.is_set():
            result = self._slot.take(timeout=0.1)
            if result is None:
                continue
            started = time.monotonic()
            self.samples.append(self._measure(result))
            self._stop.wait(max(0.0, PERIOD - (time.monotonic() - started)))

    def _measure(self, result: Result) -> TruthSample:
        truth = true_mesh(self._capture, result.index)
        mesh = Mesh(result.surface.vertices, result.surface.faces)
        seen = seen_part(mesh, result.observation.cameras, self._rasterizer, SEEN_BY)
        distances = 1e3 * SurfaceIndex(truth).distances(sample_surface(seen, SAMPLES))
        return TruthSample(
            result.index,
            float(np.median(distances)),
            float(np.percentile(distances, 95)),
            self._normal_error(result, truth),
        )

    def _normal_error(self, result: Result, truth: Mesh) -> float:
        observation = result.observation
        raster = self._rasterizer.rasterize(truth.vertices, truth.faces, observation.cameras)
        world = raster.interpolate(truth.faces, vertex_normals(truth.vertices, truth.faces))  # V,S,S,3
        both = (raster.face >= 0) & (observation.prediction.mask > 0.5)
        rotations = np.stack([camera.R for camera in observation.cameras])
        true = np.einsum("vij,vhwj->vhwi", rotations, world)
        angles = normal_error_degrees(observation.prediction.normal, true, both)
        return float(angles.mean()) if len(angles) else float("nan")


def true_mesh(capture: CaptureFolder, index: int) -> Mesh:
    """The truth of a frame set: the capture plays in a loop, so trigger modulo length is the frame."""
    return read_ply(capture.mesh(capture.frames[index % len(capture.frames)]))
