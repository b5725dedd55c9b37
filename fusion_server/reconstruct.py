"""From the pictures of one frame set to a mesh: window, predict normals, refine. No sockets, no threads.

``observe`` and ``refine`` are the pipeline's two long stages; each is called by one thread only, so that the normals of
the next frame set can be predicted while the surface of this one is solved. ``reconstruct`` does one after the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from fusion_server.framing import Window, around_mask, around_points, follow, whole
from fusion_server.surface import SurfaceFrame, SurfaceSettings, SurfaceTracker, View
from fusion_server.surface.kernels import make_kernels
from fusion_server.surface.rehearse import rehearse
from geometry.cameras import undistort, without_distortion
from geometry.rasterize import make_rasterizer
from models.engines import NormalEngine, NormalPrediction, make_engine
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

log = logging.getLogger(__name__)

FINE = 2  # pictures for photometry are this many times finer than the normal maps,
_LOOKS = 2  # at the head on a cold start, at most
FINEST = 512  # but no coarser than this many pixels a side


@dataclass(frozen=True, eq=False)
class Observation:
    """What the network made of one frame set, in the order of ``names``."""

    names: tuple[str, ...]
    windows: dict[str, Window]
    cameras: tuple[Camera, ...]  # of the windows, at the network's size
    images: np.ndarray  # V,S,S,3 uint8
    prediction: NormalPrediction
    views: tuple[View, ...]
    seconds: dict[str, float] = field(default_factory=dict)


class Reconstructor:
    """Keeps what one frame hands to the next: the windows and the tracked surface."""

    def __init__(self, calibration: Calibration, engine: NormalEngine, tracker: SurfaceTracker):
        self._raw = {camera.name: camera for camera in calibration.cameras}
        self._pinhole = {camera.name: without_distortion(camera) for camera in calibration.cameras}
        self._engine = engine
        self._fine = max(FINE * engine.size, FINEST)  # pixels
        self._tracker = tracker
        self._windows: dict[str, Window] = {}
        self._vertices: np.ndarray | None = None  # of the last mesh; None before the first and after a loss

    def reconstruct(self, images: Mapping[str, np.ndarray]) -> tuple[Observation, SurfaceFrame]:
        """Pictures by camera name, (H, W, 3) uint8 RGB of the calibrated size -> normals and mesh.

        Raises HeadstreamError when nothing of a subject can be found in them.
        """
        observation = self.observe(images)
        return observation, self.refine(observation)

    def observe(self, images: Mapping[str, np.ndarray]) -> Observation:
        """Undistort, window and predict. On a cold start the network looks at all first, then at the head, and once
        more where that look found the head to be larger than it seemed."""
        start = time.perf_counter()
        names = tuple(name for name in self._pinhole if name in images)
        if not names:
            raise HeadstreamError("none of the calibrated cameras has a picture in this frame set")
        flat = {name: undistort(self._raw[name], images[name]) for name in names}
        undistorted = time.perf_counter()
        vertices = self._vertices
        if vertices is None:
            windows = {name: whole(self._pinhole[name]) for name in names}
        else:
            windows = {}
            for name in names:
                camera, held = self._pinhole[name], self._windows.get(name)
                windows[name] = follow(held, vertices, camera) if held else around_points(vertices, camera)
        images_, fine, prediction, cameras = self._predict(flat, windows)
        for _ in range(_LOOKS if vertices is None else 0):
            better = {
                name: around_mask(mask, windows[name], self._pinhole[name])
                for name, mask in zip(names, prediction.mask, strict=True)
            }
            if better == windows:
                break
            windows = better
            images_, fine, prediction, cameras = self._predict(flat, windows)
        self._windows = {**self._windows, **windows}
        views = tuple(
            View(
                camera=cameras[i],
                normal=prediction.normal[i],
                confidence=prediction.confidence[i],
                mask=prediction.mask[i],
                image=fine[i],
                image_camera=windows[name].camera(self._pinhole[name], self._fine),
                valid=windows[name].inside(self._pinhole[name], self._engine.size),
            )
            for i, name in enumerate(names)
        )
        seconds = {"undistort": undistorted - start, "normals": time.perf_counter() - undistorted}
        return Observation(names, windows, tuple(cameras), images_, prediction, views, seconds)

    def refine(self, observation: Observation) -> SurfaceFrame:
        """Move the surface to what was observed; a lost track lets the next ``observe`` look at the whole again."""
        try:
            surface = self._tracker.update(observation.views)
        except HeadstreamError:
            self._vertices = None
            raise
        self._vertices = None if "lost" in surface.quality.flags else surface.vertices
        return surface

    def state(self) -> tuple[dict[str, Window], np.ndarray | None, SurfaceTracker]:
        """Everything that the next frame set starts from, to be kept and handed to ``restore``, unchanged."""
        return self._windows, self._vertices, self._tracker

    def restore(self, state: tuple[dict[str, Window], np.ndarray | None, SurfaceTracker]) -> None:
        """Go on where another reconstructor of the same cameras and settings was."""
        self._windows, self._vertices, self._tracker = state

    def _predict(
        self, flat: Mapping[str, np.ndarray], windows: Mapping[str, Window]
    ) -> tuple[np.ndarray, list[np.ndarray], NormalPrediction, list[Camera]]:
        """The network's pictures, the finer ones, what it says of them, and the windows' cameras."""
        size = self._engine.size
        fine = [window.picture(flat[name], self._fine) for name, window in windows.items()]
        images = np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in fine])
        cameras = [window.camera(self._pinhole[name], size) for name, window in windows.items()]
        return images, fine, self._engine.predict(images, cameras), cameras


def make_reconstructor(calibration: Calibration, normals: NormalsConfig, surface: SurfaceConfig) -> Reconstructor:
    """Load the normal engine and an empty track, and compile what the first frame would wait for (a minute or two on a
    new machine). Raises HeadstreamError when an engine cannot be had."""
    engine = make_engine(
        normals.engine,
        weights=Path(normals.weights) if normals.weights else None,
        views=len(calibration.cameras),
        size=normals.size,
        precision=normals.precision,
        threads=normals.threads,
        fallback=normals.fallback,
    )
    log.info("normals: %s", engine.describe())
    settings = SurfaceSettings(
        vertices=surface.vertices,
        iterations=surface.iterations,
        photometric=surface.photometric,
        uv=False,  # unwrapping takes seconds and only a hand-over needs it: exports do it
    )
    rasterizer, kernels = make_rasterizer(surface.rasterizer), make_kernels(surface.kernels)
    log.info(
        "surface: %d vertices, rasteriser %s, kernels %s; a new machine compiles now",
        surface.vertices, rasterizer.name, kernels.name,
    )  # fmt: skip
    start = time.perf_counter()
    rehearse(settings, rasterizer, kernels)
    log.info("surface: ready after %.1f s", time.perf_counter() - start)
    return Reconstructor(calibration, engine, SurfaceTracker(settings, rasterizer, kernels))
