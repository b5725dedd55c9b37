"""The tracker: a keyframe when there is none, warm frames from then on, and what to do when the track is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fusion_server.surface.base import Quality, SurfaceError, SurfaceFrame, SurfaceSettings, View
from fusion_server.surface.kernels import CPU, SurfaceKernels
from fusion_server.surface.keyframe import aligned, draped, make_keyframe, unwrap
from fusion_server.surface.observation import Look, look
from fusion_server.surface.quality import (
    fit_of,
    is_found,
    is_found_again,
    is_registered,
    judged,
    wants_search,
)
from fusion_server.surface.refine import Clock, Step, hidden, measured_bias
from fusion_server.surface.rest import Rest
from fusion_server.surface.rigid import follow_rigid, rigid_step, rotation
from fusion_server.surface.skin import Skin, unlikeness
from fusion_server.surface.solve import Shape, Topology, widened
from fusion_server.surface.steady import Steady, steadied
from fusion_server.surface.stuck import Repeats
from fusion_server.surface.warm import WARM, Frame, Track, Warm, followed, on_skin, refined, warm, without_folds
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from geometry.rasterize.base import Rasterizer

_WIDE = Step(gate=20.0, scale=10e-3, relax=0.2, reach=2e-3)
_SEARCH = (_WIDE,) * 3 + (WARM,) * 3
_REMEMBER = 0.2  # of what a frame's surface still wants as a whole is new; the rest is what earlier ones did
_FEWEST = 3  # views that are left when cameras that are stuck are left out; below, they are better than nothing
_TURNS = np.radians([30, -30, 60, -60, 90, -90, 120, -120, 150, -150, 180])  # from one to the next normals find the way
_SMALL = 4  # of them, tried first
_NUDGES = np.radians([0, 4, -4, 8, -8, 12, -12])  # from one to the next the skin finds the way


class SurfaceTracker:
    """Makes each frame's surface from the last one's. For one thread at a time."""

    def __init__(self, settings: SurfaceSettings, rasterizer: Rasterizer, kernels: SurfaceKernels = CPU):
        self._settings = settings
        self._rasterizer = rasterizer
        self._kernels = kernels
        self._follows_skin = settings.skin and settings.photometric
        self.keeps_topology = False  # whether a track that is lost stays so until it is found: a take has one topology
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

        Warm where the track holds. When it does not, the old topology is sought again: from its last good pose, from
        that pose turned, where the skin tells which turn is right, and on a new keyframe; only when all fail does the
        new keyframe's topology take over, flagged "new topology". When not even that fits the frame, or keyframes were
        in vain just before, or where ``keeps_topology`` says so, the last good surface comes back flagged "lost", and
        the track is kept for the next frame.
        A shape that fits although its skin is strange is taken, flagged, when nothing better is found: a studio's light
        may have changed. Raises SurfaceError when there is nothing to make a first surface of.
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
        if is_found(candidate.quality):
            return self._accept(frame, candidate, "warm", found.iterations)
        lost, missed = "lost" in candidate.quality.flags, self._track.missed
        searches = wants_search(missed, lost)
        if (lost or searches) and (again := self._sought(frame, self._track, searches)):
            return self._accept(frame, again, "warm", len(_SEARCH), "recovered")
        if not lost:
            candidate = replace(candidate, track=replace(candidate.track, missed=missed + 1))
            return self._accept(frame, candidate, "warm", found.iterations)
        if searches:
            return self._registered(frame, self._track, candidate.quality)
        return self._lost(frame, self._track, candidate.quality)

    def _candidate(self, frame: Frame, track: Track, found: Warm) -> _Candidate:
        """Judge what came out of a frame."""
        found = without_folds(found, track)
        frame.clock.lap("unfold")
        quality = judged(found.fit, len(track.topology.faces), frame.names, track.reference)
        return _Candidate(followed(track, found, _REMEMBER), quality)

    def _refined(self, frame: Frame, track: Track, start: np.ndarray, steps: Sequence[Step]) -> _Candidate:
        found = refined(frame, track, start, steps, self._rasterizer, self._settings)
        return self._candidate(frame, track, found)

    def _sought(self, frame: Frame, track: Track, turned: bool) -> _Candidate | None:
        """The old topology from its last pose, shifted to where the masks are now, if it is the same subject; turned:
        whether to try turns of that pose as well."""
        shifted = track.vertices + (frame.observation.middle - track.middle)
        found = self._sought_from(frame, track, self._as_one_piece(frame, track, shifted))
        if track.skin is None or not turned:
            return found
        for turns in (_TURNS[:_SMALL], _TURNS[_SMALL:]):  # each turn costs up to a dozen looks
            if found is not None:
                break
            starts = [self._as_one_piece(frame, track, start) for start in _turned(shifted, frame, turns)]
            found = self._sought_from(frame, track, self._most_alike(frame, track, starts))
        return found

    def _most_alike(self, frame: Frame, track: Track, starts: Sequence[np.ndarray]) -> np.ndarray:
        """Of several poses, the one at which pictures show most of what the keyframe saw."""
        assert track.skin is not None
        unlike = [unlikeness(track.skin, self._look(frame, track, start), frame.comparable) for start in starts]
        frame.clock.lap("turns")
        return starts[int(np.argmin(np.nan_to_num(unlike, nan=np.inf)))]

    def _as_one_piece(self, frame: Frame, track: Track, start: np.ndarray) -> np.ndarray:
        there, _ = follow_rigid(
            start, track.topology, frame.coarse, self._rasterizer, self._settings, track.rest, rounds=6
        )
        frame.clock.lap("rigid")
        return there

    def _sought_from(self, frame: Frame, track: Track, start: np.ndarray) -> _Candidate | None:
        if track.skin is not None:  # which way a round head looks, its normals hardly know
            start = self._most_alike(frame, track, _turned(start, frame, _NUDGES))
        start = on_skin(frame, track, start, self._look(frame, track, start))
        found = self._refined(frame, track, start, _SEARCH)
        apart = track.pose.apart(found.track.vertices)
        return found if is_found_again(found.quality, apart) else None

    def _look(self, frame: Frame, track: Track, vertices: np.ndarray) -> Look:
        return look(vertices, track.topology, frame.coarse, self._rasterizer)

    def _registered(self, frame: Frame, track: Track, tried: Quality) -> SurfaceFrame:
        """The old topology on a new keyframe, or that keyframe's own; tried: what the old one was worth here."""
        try:
            mesh, iterations = make_keyframe(frame.observation, self._rasterizer, self._settings, frame.clock)
        except SurfaceError:
            return self._lost(frame, track, tried)
        index = SurfaceIndex(mesh)
        there = track.vertices + (mesh.vertices.mean(0) - track.vertices.mean(0))
        if track.skin is None:
            start = aligned(there, index)
        else:
            turns = (there, *_turned(there, frame, _TURNS))
            start = self._most_alike(frame, track, [self._as_one_piece(frame, track, turn) for turn in turns])
        start = draped(start, track.topology, index)
        frame.clock.lap("fit")
        start = on_skin(frame, track, start, self._look(frame, track, start))
        candidate = self._refined(frame, track, start, (WARM,) * 4)
        distance = float(np.percentile(index.distances(candidate.track.vertices), 95))
        if is_registered(candidate.quality, distance):
            return self._accept(frame, candidate, "keyframe", iterations + 4, "recovered")
        if self.keeps_topology:
            return self._lost(frame, track, candidate.quality)
        return self._keyframe(frame, (mesh, iterations))

    def _keyframe(self, frame: Frame, made: tuple[Mesh, int] | None = None) -> SurfaceFrame:
        """A surface on a topology of its own; ``made`` after a loss."""
        mesh, iterations = made or make_keyframe(frame.observation, self._rasterizer, self._settings, frame.clock)
        topology = Topology.of(mesh.faces, len(mesh.vertices))
        seen = look(mesh.vertices, topology, frame.coarse, self._rasterizer)
        quality = judged(fit_of(seen, topology), len(topology.faces), frame.names)
        rest = rigid_step(seen, topology, self._settings)
        frame.clock.lap("check")
        if "lost" in quality.flags:
            if self._track is not None:
                return self._lost(frame, self._track, quality)
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
        quality = quality if skin is None else replace(quality, photometric_residual=skin.unlike)
        track = Track(topology, uv, mesh.vertices, frame.observation.middle, rest, quality, pose, bias, skin)
        return self._accept(frame, _Candidate(track, quality), "keyframe", iterations, "new topology" if made else "")

    def _accept(self, frame: Frame, candidate: _Candidate, kind: str, iterations: int, flag: str = "") -> SurfaceFrame:
        self._track = candidate.track
        quality = candidate.quality
        if flag:
            quality = replace(quality, flags=(flag, *quality.flags))
        # Nobody sees jitter on a head that is flung about, and a surface that is still settling must not be held back.
        jumped = bool(flag) or iterations > self._settings.iterations or not self._settings.steady
        shown = steadied(self._shown, candidate.track.vertices, jumped)
        self._shown = replace(shown, vertices=candidate.track.pose.unfolded(shown.vertices, candidate.track.topology))
        frame.clock.lap("steady")
        return _surface(candidate.track, self._shown.vertices, kind, quality, frame, iterations)

    def _lost(self, frame: Frame, track: Track, quality: Quality) -> SurfaceFrame:
        """The last good surface; quality: of what was tried in vain."""
        self._track = replace(track, missed=track.missed + 1)
        flags = ("lost", *(flag for flag in quality.flags if flag != "lost"))
        quality = replace(quality, confidence=0.0, flags=flags)
        shown = self._shown.vertices if self._shown is not None else track.vertices
        return _surface(track, shown, "warm", quality, frame, 0)


@dataclass(frozen=True, eq=False)
class _Candidate:
    track: Track
    quality: Quality


def _turned(vertices: np.ndarray, frame: Frame, turns: np.ndarray) -> list[np.ndarray]:
    """Vertices (P, 3) turned about the cameras' vertical by each of the turns (radians)."""
    down = np.mean([view.camera.R[1] for view in frame.views], axis=0)
    middle = vertices.mean(0)
    return [(vertices - middle) @ rotation(turn * down / np.linalg.norm(down)).T + middle for turn in turns]


def _surface(
    track: Track, vertices: np.ndarray, kind: str, quality: Quality, frame: Frame, iterations: int
) -> SurfaceFrame:
    normals = Shape.of(vertices, track.topology).normals
    quality = replace(quality, flags=(*quality.flags, *(f"stuck:{name}" for name in frame.stuck)))
    return SurfaceFrame(
        vertices, track.topology.faces, track.uv, normals, kind, quality, frame.clock.seconds, iterations
    )
