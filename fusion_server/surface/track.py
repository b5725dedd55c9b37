"""The tracker: a keyframe when there is none, warm frames from then on, and what to do when the track is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fusion_server.surface.base import Quality, SurfaceError, SurfaceFrame, SurfaceSettings, View
from fusion_server.surface.kernels import CPU, SurfaceKernels
from fusion_server.surface.keyframe import fitted, make_keyframe, unwrap
from fusion_server.surface.observation import look
from fusion_server.surface.quality import check, judged
from fusion_server.surface.refine import Clock, Step, hidden, measured_bias
from fusion_server.surface.rest import Rest
from fusion_server.surface.rigid import follow_rigid, rigid_step
from fusion_server.surface.skin import Skin
from fusion_server.surface.solve import Shape, Topology, widened
from fusion_server.surface.steady import Steady, steadied
from fusion_server.surface.stuck import Repeats
from fusion_server.surface.warm import WARM, Frame, Track, Warm, followed, on_skin, refined, warm, without_folds
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from geometry.rasterize.base import Rasterizer

_WIDE = Step(gate=20.0, scale=10e-3, relax=0.2, reach=2e-3)
_REMEMBER = 0.2  # of what a frame's surface still wants as a whole is new; the rest is what earlier ones did
_FEWEST = 3  # views that are left when cameras that are stuck are left out; below, they are better than nothing
_OTHER = 10e-3  # metres: three quarters of a head do not deform this far; what does is another subject
_FITTED = 3e-3  # metres: an old topology whose 95th percentile is nearer than this to a new keyframe has been recovered


class SurfaceTracker:
    """Makes each frame's surface from the last one's. For one thread at a time."""

    def __init__(self, settings: SurfaceSettings, rasterizer: Rasterizer, kernels: SurfaceKernels = CPU):
        self._settings = settings
        self._rasterizer = rasterizer
        self._kernels = kernels
        self._follows_skin = settings.skin and settings.photometric
        self.reset()

    def reset(self) -> None:
        """Forget the surface; the next frame is a keyframe with a topology of its own."""
        self._track: Track | None = None
        self._shown: Steady | None = None  # what was handed out last
        self._repeats = Repeats()

    def state(self) -> tuple[Track | None, Steady | None, Repeats]:
        """All that the next frame starts from, arrays and no engine: for ``restore``, here or in another process."""
        track = self._track and replace(self._track, seen=None)  # a look is quickly taken again, and large
        return track, self._shown, self._repeats

    def restore(self, state: tuple[Track | None, Steady | None, Repeats]) -> None:
        """Go on where another tracker with the same settings was."""
        self._track, self._shown, self._repeats = state

    def update(self, views: Sequence[View]) -> SurfaceFrame:
        """The surface of one frame.

        Warm where the track holds. When it does not, the old topology is sought again, first from its last good pose
        and then on a new keyframe; only when both fail does the new keyframe's topology take over, flagged "new
        topology". When not even that fits the frame, the last good surface comes back flagged "lost", and the track is
        kept for the next frame. Raises SurfaceError when there is nothing to make a first surface of.
        """
        clock = Clock()
        self._repeats = self._repeats.after(views)
        stuck = self._repeats.stuck()
        if len(views) - len(stuck) >= _FEWEST:
            views = [view for view in views if view.camera.name not in stuck]
        frame = Frame(views, stuck, self._settings.photometric, self._kernels, clock)
        if self._track is None:
            return self._keyframe(frame)
        found = warm(frame, self._track, self._rasterizer, self._settings)
        candidate = self._candidate(frame, self._track, found)
        if "lost" in candidate.quality.flags:
            return self._recover(frame, self._track)
        return self._accept(frame, candidate, "warm", found.iterations)

    def _candidate(self, frame: Frame, track: Track, found: Warm) -> _Candidate:
        """Judge what came out of a frame."""
        found = without_folds(found, track)
        frame.clock.lap("unfold")
        quality = judged(found.fit, len(track.topology.faces), frame.names, track.reference)
        return _Candidate(followed(track, found, _REMEMBER), quality)

    def _refined(self, frame: Frame, track: Track, start: np.ndarray, steps: Sequence[Step]) -> _Candidate:
        found = refined(frame, track, start, steps, self._rasterizer, self._settings)
        return self._candidate(frame, track, found)

    def _recover(self, frame: Frame, track: Track) -> SurfaceFrame:
        """Look for the old topology from its last pose, shifted to where the masks are now, and then on a keyframe."""
        start = track.vertices + (frame.observation.middle - track.middle)
        start, seen = follow_rigid(
            start, track.topology, frame.coarse, self._rasterizer, self._settings, track.rest, rounds=6
        )
        frame.clock.lap("rigid")
        start = on_skin(frame, track, start, seen)
        steps = (_WIDE,) * 3 + (WARM,) * 3
        candidate = self._refined(frame, track, start, steps)
        same = track.pose.apart(candidate.track.vertices) < _OTHER
        if same and not {"lost", "uncertain"} & set(candidate.quality.flags):
            return self._accept(frame, candidate, "warm", len(steps), "recovered")
        try:
            mesh, iterations = make_keyframe(frame.observation, self._rasterizer, self._settings, frame.clock)
        except SurfaceError:
            return self._lost(frame, track, candidate.quality, len(steps))
        start = fitted(track.vertices, track.topology, mesh)
        frame.clock.lap("fit")
        start = on_skin(frame, track, start, look(start, track.topology, frame.coarse, self._rasterizer))
        candidate = self._refined(frame, track, start, (WARM,) * 4)
        apart = np.percentile(SurfaceIndex(mesh).distances(candidate.track.vertices), 95)
        if not {"lost", "inverted"} & set(candidate.quality.flags) and apart < _FITTED:
            return self._accept(frame, candidate, "keyframe", iterations + 4, "recovered")
        return self._keyframe(frame, (mesh, iterations))

    def _keyframe(self, frame: Frame, made: tuple[Mesh, int] | None = None) -> SurfaceFrame:
        """A surface on a topology of its own; ``made`` after a loss."""
        mesh, iterations = made or make_keyframe(frame.observation, self._rasterizer, self._settings, frame.clock)
        topology = Topology.of(mesh.faces, len(mesh.vertices))
        seen = look(mesh.vertices, topology, frame.coarse, self._rasterizer)
        quality = check(seen, topology, frame.names)
        rest = rigid_step(seen, topology, self._settings)
        frame.clock.lap("check")
        if "lost" in quality.flags:
            if self._track is not None:
                return self._lost(frame, self._track, quality, iterations)
            raise SurfaceError(
                f"no surface fits this frame: the best overlaps the masks by {quality.silhouette_iou:.0%} and its "
                f"normals are off by {quality.normal_residual_deg:.0f} degrees; check calibration and masks"
            )
        uv = unwrap(mesh) if self._settings.uv else None
        frame.clock.lap("unwrap")
        fine = look(mesh.vertices, topology, frame.observation, self._rasterizer)
        pose = Rest.of(fine.shape, topology, widened(hidden(fine, topology, self._settings), topology))
        bias = measured_bias(fine, topology, WARM, self._settings)
        frame.clock.lap("check")
        skin = Skin.of(seen, frame.observation, topology) if self._follows_skin else None
        frame.clock.lap("skin")
        track = Track(topology, uv, mesh.vertices, frame.observation.middle, rest, quality, pose, bias, skin)
        return self._accept(frame, _Candidate(track, quality), "keyframe", iterations, "new topology" if made else "")

    def _accept(self, frame: Frame, candidate: _Candidate, kind: str, iterations: int, flag: str = "") -> SurfaceFrame:
        self._track = candidate.track
        quality = candidate.quality
        if flag:
            quality = replace(quality, flags=(flag, *quality.flags))
        # Nobody sees jitter on a head that is flung about, and a surface that is still settling must not be held back.
        jumped = bool(flag) or iterations > self._settings.iterations or not self._settings.steady
        shown = steadied(None if jumped else self._shown, candidate.track.vertices)
        self._shown = replace(shown, vertices=candidate.track.pose.unfolded(shown.vertices, candidate.track.topology))
        frame.clock.lap("steady")
        return _surface(candidate.track, self._shown.vertices, kind, quality, frame, iterations)

    def _lost(self, frame: Frame, track: Track, quality: Quality, iterations: int) -> SurfaceFrame:
        flags = ("lost", *(flag for flag in quality.flags if flag != "lost"))
        quality = replace(quality, confidence=0.0, flags=flags)
        shown = self._shown.vertices if self._shown is not None else track.vertices
        return _surface(track, shown, "warm", quality, frame, iterations)


@dataclass(frozen=True, eq=False)
class _Candidate:
    track: Track
    quality: Quality


def _surface(
    track: Track, vertices: np.ndarray, kind: str, quality: Quality, frame: Frame, iterations: int
) -> SurfaceFrame:
    normals = Shape.of(vertices, track.topology).normals
    quality = replace(quality, flags=(*quality.flags, *(f"stuck:{name}" for name in frame.stuck)))
    return SurfaceFrame(
        vertices, track.topology.faces, track.uv, normals, kind, quality, frame.clock.seconds, iterations
    )
