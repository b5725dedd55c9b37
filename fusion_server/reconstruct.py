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
from typing import Any

import numpy as np

from fusion_server.framing import Window, around_mask, around_points, follow, whole
from fusion_server.memory import keep_freed_memory
from fusion_server.sight import HostSight, Seen, Sight
from fusion_server.surface import SurfaceFrame, SurfaceSettings, SurfaceTracker, View
from fusion_server.surface.kernels import make_kernels
from fusion_server.surface.photometric import fine_size
from fusion_server.surface.rehearse import rehearse
from geometry.cameras import without_distortion
from geometry.rasterize import make_rasterizer
from models.engines import NormalEngine, NormalPrediction, make_engine
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

log = logging.getLogger(__name__)

_LOOKS = 2  # at the head on a cold start, at most
_FINEST = 2048  # pixels a side of a final mesh's pictures: 16 of them are 270 MB of grey levels
_POLISH = 8  # iterations; more do not bring a final mesh nearer to the truth
_SWEEPS = 3  # of stereo for a final keyframe; two more find hardly more depths behind a hull


@dataclass(frozen=True, eq=False)
class Observation:
    """What the network made of one frame set, in the order of ``names``. searched: whether whole pictures were looked
    at for the head, and not only the windows where it was."""

    names: tuple[str, ...]
    windows: dict[str, Window]
    seen: Seen
    views: tuple[View, ...]
    searched: bool
    seconds: dict[str, float] = field(default_factory=dict)  # by stage; those of the sight once ``refine`` is done

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """Of the windows, at the network's size."""
        return self.seen.cameras

    @property
    def images(self) -> np.ndarray:
        """What the network saw.  # V,S,S,3 uint8"""
        return self.seen.images

    @property
    def prediction(self) -> NormalPrediction:
        """What it said."""
        return self.seen.prediction


class Reconstructor:
    """Keeps what one frame hands to the next: the windows and the tracked surface."""

    def __init__(self, calibration: Calibration, sight: Sight, tracker: SurfaceTracker):
        self._pinhole = {camera.name: without_distortion(camera) for camera in calibration.cameras}
        self._sight = sight
        self._tracker = tracker
        self._windows: dict[str, Window] = {}
        self._vertices: np.ndarray | None = None  # of the last mesh; None before the first and after a loss

    def reconstruct(self, images: Mapping[str, np.ndarray]) -> tuple[Observation, SurfaceFrame]:
        """Pictures by camera name, (H, W, 3) uint8 RGB of the calibrated size -> normals and mesh.

        Raises HeadstreamError when nothing of a subject can be found in them.
        """
        observation = self.observe(images)
        return observation, self.refine(observation)

    def observe(self, images: Mapping[str, Any]) -> Observation:
        """Undistort, window and predict. On a cold start the network looks at all first, then at the head, and once
        more where that look found the head to be larger than it seemed.

        images: as ``reconstruct`` takes them, or as a decoder left them on the sight's device.
        """
        names = tuple(name for name in self._pinhole if name in images)
        if not names:
            raise HeadstreamError("none of the calibrated cameras has a picture in this frame set")
        taken = self._sight.take({name: images[name] for name in names})
        vertices = self._vertices
        if vertices is None:
            windows = {name: whole(self._pinhole[name]) for name in names}
        else:
            windows = {}
            for name in names:
                camera, held = self._pinhole[name], self._windows.get(name)
                windows[name] = follow(held, vertices, camera) if held else around_points(vertices, camera)
        seen = self._sight.look(taken, windows)
        for _ in range(_LOOKS if vertices is None else 0):
            better = {
                name: around_mask(mask, windows[name], self._pinhole[name])
                for name, mask in zip(names, seen.prediction.mask, strict=True)
            }
            if better == windows:
                break
            windows = better
            seen = self._sight.look(taken, windows)
        self._windows = {**self._windows, **windows}
        pinholes = [(window, self._pinhole[name]) for name, window in windows.items()]
        views = seen.views(
            [window.camera(camera, self._sight.fine) for window, camera in pinholes],
            [window.inside(camera, self._sight.size) for window, camera in pinholes],
        )
        return Observation(names, windows, seen, views, searched=vertices is None)

    def refine(self, observation: Observation) -> SurfaceFrame:
        """Move the surface to what was observed; a lost track lets the next ``observe`` look at the whole again."""
        try:
            surface = self._tracker.update(observation.views)
        except HeadstreamError:
            self._vertices = None
            raise
        finally:
            observation.seconds.update(observation.seen.seconds())
        self._vertices = None if "lost" in surface.quality.flags else surface.vertices
        return surface

    def begin_anew(self) -> None:
        """Forget the surface: what ``refine`` gets next becomes a first mesh, and the next look is at whole
        pictures."""
        self._tracker.reset()
        self._vertices = None

    def keep_topology(self, keeps: bool) -> None:
        """Whether a subject that is lost is waited for, or whoever is there gets a topology of its own; a take's meshes
        share theirs."""
        self._tracker.keeps_topology = keeps

    @property
    def sight(self) -> Sight:
        """What decoded pictures are shown to."""
        return self._sight

    def state(self) -> tuple[dict[str, Window], np.ndarray | None, Any]:
        """Everything that the next frame set starts from, to be kept and handed to ``restore``, unchanged."""
        return self._windows, self._vertices, self._tracker.state()

    def restore(self, state: tuple[dict[str, Window], np.ndarray | None, Any]) -> None:
        """Go on where another reconstructor of the same cameras and settings was."""
        self._windows, self._vertices, tracked = state
        self._tracker.restore(tracked)


def make_reconstructor(
    calibration: Calibration, normals: NormalsConfig, surface: SurfaceConfig, final: bool = False, uv: bool = False
) -> Reconstructor:
    """Load the normal engine and an empty track, and compile what the first frame would wait for (a minute or two on a
    new machine).

    final: compare pictures as fine as the cameras take them, carve hulls by stereo, polish keyframes and lay them onto
    depths. uv: unwrap each new topology.
    Raises HeadstreamError when an engine cannot be had.
    """
    keep_freed_memory()
    resident = normals.windows == "cuda"
    engine = make_engine(
        normals.engine,
        weights=Path(normals.weights) if normals.weights else None,
        views=len(calibration.cameras),
        size=normals.size,
        precision=normals.precision,
        threads=normals.threads,
        fallback=normals.fallback,
        device=normals.device or ("cuda" if resident else ""),
        resident=resident,
    )
    finest = max(max(camera.width, camera.height) for camera in calibration.cameras)
    sight = make_sight(calibration, engine, normals.windows, min(finest, _FINEST) if final else 0)
    log.info("normals: %s; windows by %s", engine.describe(), sight.name)
    settings = SurfaceSettings(
        vertices=surface.vertices,
        iterations=surface.iterations,
        photometric=surface.photometric,
        polish=_POLISH if final else 0,
        stereo=_SWEEPS if final else 0,
        uv=uv,
    )
    rasterizer = make_rasterizer(surface.rasterizer, surface.device)
    kernels = make_kernels(surface.kernels, surface.device)
    log.info(
        "surface: vertices: %s, rasteriser %s, kernels %s; a new machine compiles now",
        surface.vertices or "as many as pictures tell apart", rasterizer.name, kernels.name,
    )  # fmt: skip
    start = time.perf_counter()
    rehearse(settings, rasterizer, kernels)
    log.info("surface: ready after %.1f s", time.perf_counter() - start)
    return Reconstructor(calibration, sight, SurfaceTracker(settings, rasterizer, kernels))


def make_sight(calibration: Calibration, engine: NormalEngine, windows: str, finest: int = 0) -> Sight:
    """What cuts the windows: ``normals.windows`` of a rig. finest: the side of a camera's picture, if pictures for
    photometry are to be finer than usual where cameras are. Raises HeadstreamError when it cannot run here."""
    fine = max(finest, fine_size(engine.size))
    if windows == "cpu":
        return HostSight(calibration, engine, fine)
    from fusion_server.sight.device import DeviceSight
    from models.engines.static import StaticEngine

    assert isinstance(engine, StaticEngine)
    try:
        return DeviceSight(calibration, engine, fine)
    except HeadstreamError as error:
        raise HeadstreamError(f"normals.windows: 'cuda' cannot run here: {error}; 'cpu' can") from error
