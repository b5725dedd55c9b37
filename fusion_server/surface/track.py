"""The tracker: a keyframe when there is none, warm frames from then on, and what to do when the track is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fusion_server.surface.base import Quality, SurfaceError, SurfaceFrame, SurfaceSettings, View
from fusion_server.surface.keyframe import make_keyframe, unwrap
from fusion_server.surface.quality import check
from fusion_server.surface.refine import Clock, Observation, Step, observe, refine
from fusion_server.surface.rigid import follow_rigid
from fusion_server.surface.solve import Shape, System, Topology
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from geometry.rasterize.base import Rasterizer

_WARM = Step(gate=4.0, scale=2e-3, relax=0.1, reach=1.5e-3)
_WIDE = Step(gate=20.0, scale=10e-3, relax=0.2, reach=2e-3)
_FITTED = 3e-3  # metres: an old topology whose 95th percentile is nearer than this to a new keyframe has been recovered


@dataclass(frozen=True, eq=False)
class _Track:
    topology: Topology
    uv: np.ndarray | None
    vertices: np.ndarray  # of the last good frame
    middle: np.ndarray  # of that frame's observation
    reference: Quality  # of the keyframe


class SurfaceTracker:
    """Makes each frame's surface from the last one's. One thread at a time; no clock but for its own timing."""

    def __init__(self, settings: SurfaceSettings, rasterizer: Rasterizer):
        self._settings = settings
        self._rasterizer = rasterizer
        self._track: _Track | None = None

    def reset(self) -> None:
        """Forget the surface; the next frame is a keyframe with a topology of its own."""
        self._track = None

    def update(self, views: Sequence[View]) -> SurfaceFrame:
        """The surface of one frame.

        Warm where the track holds. When it does not, the old topology is sought again, first from its last good pose
        and then on a new keyframe; only when both fail does the new keyframe's topology take over, flagged. Raises
        SurfaceError when there is nothing to make a surface of; the track is kept for the next frame.
        """
        clock = Clock()
        observation = observe(views, self._settings.photometric)
        names = tuple(view.camera.name for view in views)
        clock.lap("observe")
        if self._track is None:
            return self._keyframe(observation, names, clock)
        vertices, quality = self._warm(self._track, observation, names, clock)
        if "lost" not in quality.flags:
            return self._accept(self._track, observation, vertices, quality, "warm", self._settings.iterations, clock)
        return self._recover(self._track, observation, names, clock)

    def _warm(self, track: _Track, observation: Observation, names, clock: Clock) -> tuple[np.ndarray, Quality]:
        coarse = observation.coarser()
        vertices = follow_rigid(track.vertices, track.topology, coarse, self._rasterizer, self._settings)
        clock.lap("rigid")
        for _ in range(self._settings.iterations):
            vertices = refine(vertices, track.topology, observation, self._rasterizer, _WARM, self._settings, clock)
        quality = check(vertices, track.topology, coarse, self._rasterizer, names, track.reference)
        clock.lap("check")
        return vertices, quality

    def _recover(self, track: _Track, observation: Observation, names, clock: Clock) -> SurfaceFrame:
        coarse = observation.coarser()
        vertices = track.vertices + (observation.middle - track.middle)
        vertices = follow_rigid(vertices, track.topology, coarse, self._rasterizer, self._settings, 10, gate=30.0)
        steps = [_WIDE] * 3 + [_WARM] * 3
        for step in steps:
            vertices = refine(vertices, track.topology, observation, self._rasterizer, step, self._settings, clock)
        quality = check(vertices, track.topology, coarse, self._rasterizer, names, track.reference)
        clock.lap("recover")
        if "lost" not in quality.flags:
            quality = replace(quality, flags=("recovered", *quality.flags))
            return self._accept(track, observation, vertices, quality, "warm", len(steps), clock)
        mesh, iterations = make_keyframe(observation, self._rasterizer, self._settings, clock)
        vertices = fitted(vertices, track.topology, mesh)
        for _ in range(4):
            vertices = refine(vertices, track.topology, observation, self._rasterizer, _WARM, self._settings, clock)
        quality = check(vertices, track.topology, coarse, self._rasterizer, names, track.reference)
        apart = np.percentile(SurfaceIndex(mesh).distances(vertices), 95)
        clock.lap("recover")
        if "lost" not in quality.flags and "inverted" not in quality.flags and apart < _FITTED:
            quality = replace(quality, flags=("recovered", *quality.flags))
            return self._accept(track, observation, vertices, quality, "keyframe", iterations + 4, clock)
        return self._keyframe(observation, names, clock, (mesh, iterations))

    def _keyframe(self, observation: Observation, names, clock: Clock, made=None) -> SurfaceFrame:
        mesh, iterations = made or make_keyframe(observation, self._rasterizer, self._settings, clock)
        topology = Topology.of(mesh.faces, len(mesh.vertices))
        quality = check(mesh.vertices, topology, observation.coarser(), self._rasterizer, names, None)
        clock.lap("check")
        if "lost" in quality.flags:
            if self._track is None:
                raise SurfaceError(
                    f"no surface fits this frame: the best overlaps the masks by {quality.silhouette_iou:.0%}, its "
                    f"normals are off by {quality.normal_residual_deg:.0f} degrees; check calibration and masks"
                )
            kept = self._track  # the next frame may be better; the old topology stays in force for it
            normals = Shape.of(kept.vertices, kept.topology).normals
            return SurfaceFrame(
                kept.vertices, kept.topology.faces, kept.uv, normals, "warm", quality, clock.seconds, iterations
            )
        if made:
            quality = replace(quality, flags=("new topology", *quality.flags))
        uv = unwrap(mesh) if self._settings.uv else None
        clock.lap("unwrap")
        track = _Track(topology, uv, mesh.vertices, observation.middle, quality)
        return self._accept(track, observation, mesh.vertices, quality, "keyframe", iterations, clock)

    def _accept(self, track, observation, vertices, quality, kind, iterations, clock) -> SurfaceFrame:
        self._track = replace(track, vertices=vertices, middle=observation.middle)
        normals = Shape.of(vertices, track.topology).normals
        return SurfaceFrame(
            vertices, track.topology.faces, track.uv, normals, kind, quality, clock.seconds, iterations
        )


def fitted(vertices: np.ndarray, topology: Topology, mesh: Mesh, rounds: int = 12) -> np.ndarray:
    """Vertices (P, 3) of one topology laid onto another mesh: first rigidly, then smoothly.  # P,3"""
    index = SurfaceIndex(mesh)
    for n in range(rounds):
        near = index.closest(vertices)[0]
        off = near - vertices
        keep = np.linalg.norm(off, axis=1) <= np.percentile(np.linalg.norm(off, axis=1), 90)
        a, b = vertices[keep].mean(0), near[keep].mean(0)
        u, _, vt = np.linalg.svd((vertices[keep] - a).T @ (near[keep] - b))
        flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
        vertices = (vertices - a) @ (u @ flip @ vt) + b
    for n in range(rounds):
        shape = Shape.of(vertices, topology)
        off = index.closest(shape.vertices)[0] - shape.vertices
        system = System(topology)
        system.add_points((off * shape.normals).sum(1), np.full(len(off), 1.0))
        system.add_membrane(10.0 / (1 + n), 1e-3)
        vertices = shape.vertices + system.solve()[:, None] * shape.normals
    return vertices
