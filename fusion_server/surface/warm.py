"""A warm frame: the last frame's surface moved as one piece, then with its skin, refined, and compared with what was
observed.

``warm`` asks the kernels for all of it at once and goes step by step where they cannot; a track learns of the frame
only when the tracker takes what came out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fusion_server.surface.base import Quality, SurfaceSettings, View
from fusion_server.surface.bias import Bias
from fusion_server.surface.comparable import Comparable
from fusion_server.surface.kernels import SurfaceKernels
from fusion_server.surface.observation import Look, Observation, look, observe
from fusion_server.surface.quality import Fit, fit_of
from fusion_server.surface.refine import Clock, Step, refine
from fusion_server.surface.rest import Rest
from fusion_server.surface.rigid import STILL, follow_rigid, rigid_step
from fusion_server.surface.skin import Skin, begun, follow_skin, unlikeness
from fusion_server.surface.solve import Shape, Topology
from geometry.rasterize.base import Rasterizer

WARM = Step(gate=10.0, scale=4e-3, relax=0.1, reach=2.25e-3)
MOVED = Step(gate=20.0, scale=10e-3, relax=0.1, reach=3e-3, halvings=1)
FAST = 3e-3  # metres from one frame to the next
LED = 1.5e-3  # metres: what is left of a motion as one piece when the skin leads from there


@dataclass(frozen=True, eq=False)
class Track:
    """What one frame hands to the next."""

    topology: Topology
    uv: np.ndarray | None
    vertices: np.ndarray  # P,3 of the last good frame
    middle: np.ndarray  # 3, of that frame's observation
    rest: np.ndarray  # 6, the rigid step that a surface at rest wants; see follow_rigid
    reference: Quality  # of the keyframe
    pose: Rest  # of the keyframe
    bias: Bias  # of the keyframe
    skin: Skin | None  # of the keyframe, where vertices follow it
    seen: Look | None = None  # of these vertices on the last frame's coarse maps, where the kernels tell
    missed: int = 0  # frames in which it was sought and not found, since that one


@dataclass(frozen=True, eq=False)
class Frame:
    """The views of a frame and, for those that ask, what is to be made of them on the CPU: masks cleaned, pictures
    made ready, maps stacked. stuck: cameras that show no new pictures."""

    views: Sequence[View]
    stuck: tuple[str, ...]
    photometric: bool
    kernels: SurfaceKernels
    clock: Clock

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the cameras."""
        return tuple(view.camera.name for view in self.views)

    @cached_property
    def observation(self) -> Observation:
        """See ``observe``."""
        made = observe(self.views, self.photometric, self.kernels)
        self.clock.lap("observe")
        return made

    @cached_property
    def comparable(self) -> Comparable:
        """Its pictures, to look for the skin on: made ready from when they are first asked for, and in the meantime
        others may find the rigid motion."""
        return begun(self.observation)

    @cached_property
    def coarse(self) -> Observation:
        """Half the pixels each way, to find the rigid motion on and to judge by."""
        return self.observation.coarser()


@dataclass(frozen=True, eq=False)
class Warm:
    """What came of a frame.

    vertices (P, 3); middle (3,) of the subject, see ``Observation``; share: of ``Bias``, with this frame seen; fit: to
    the coarse maps; wanted (6,): the rigid step that these want of the surface; iterations: how many it took; seen: the
    look that fit and wanted come from, where the kernels tell.
    """

    vertices: np.ndarray
    middle: np.ndarray
    share: float
    fit: Fit
    wanted: np.ndarray
    iterations: int
    seen: Look | None = None


def warm(frame: Frame, track: Track, rasterizer: Rasterizer, settings: SurfaceSettings) -> Warm:
    """This frame's surface from the last one's. Raises SurfaceError when there is nothing to be observed."""
    found = frame.kernels.warm(frame, track, rasterizer, settings)
    if found is not None:
        return found
    if track.skin is not None:
        _ = frame.comparable  # begins now: what follows leaves cores idle
    vertices, seen = follow_rigid(
        track.vertices, track.topology, frame.coarse, rasterizer, settings, track.rest, before=track.seen,
        still=STILL if track.skin is None else LED,
    )  # fmt: skip
    frame.clock.lap("rigid")
    steps = (WARM,) * settings.iterations
    way = vertices - track.vertices
    vertices = on_skin(frame, track, vertices, seen)
    if np.vecdot(way, way).max() > FAST**2:
        steps = (MOVED, *steps)  # a head that moves this much does not move as one piece
    return refined(frame, track, vertices, steps, rasterizer, settings)


def on_skin(frame: Frame, track: Track, vertices: np.ndarray, seen: Look) -> np.ndarray:
    """Vertices (P, 3) where their skin is, or as they are when the track has none; see ``follow_skin``.  # P,3"""
    if track.skin is None:
        return vertices
    there = follow_skin(vertices, track.skin, seen, frame.observation, track.topology, frame.comparable)
    frame.clock.lap("skin")
    return there


def refined(
    frame: Frame,
    track: Track,
    vertices: np.ndarray,
    steps: Sequence[Step],
    rasterizer: Rasterizer,
    settings: SurfaceSettings,
) -> Warm:
    """Refine from a start (P, 3), step by step, and compare what came out with the coarse maps."""
    held, last, bias = None, None, track.bias
    for n, step in enumerate(steps):
        seen = look(vertices, track.topology, frame.observation, rasterizer)
        frame.clock.lap("rasterize")
        if n == 0:
            bias = bias.seen_again(seen.fused, seen.shape, track.topology)
        # Pictures are compared anew when the step is another kind, and every second time.
        held = held if step is last else None
        last = step if held is None else None
        vertices, held = refine(seen, track.topology, step, settings, frame.clock, held, track.pose, bias)
    seen = look(vertices, track.topology, frame.coarse, rasterizer)
    unlike = float("nan") if track.skin is None else unlikeness(track.skin, seen, frame.comparable)
    fit = fit_of(seen, track.topology, unlike)
    wanted = rigid_step(seen, track.topology, settings)
    frame.clock.lap("check")
    return Warm(vertices, frame.observation.middle, bias.share, fit, wanted, len(steps), seen)


def without_folds(found: Warm, track: Track) -> Warm:
    """The same with what is folded led back to the keyframe's shape; see ``Rest.unfolded``."""
    if not found.fit.inverted:
        return found
    vertices = track.pose.unfolded(found.vertices, track.topology)
    left = int(Shape.of(vertices, track.topology).folded(track.topology).sum())
    return replace(found, vertices=vertices, fit=replace(found.fit, inverted=left))


def followed(track: Track, found: Warm, remember: float) -> Track:
    """The track after a frame was taken; remember: of what its surface still wants as a whole, what is new."""
    return replace(
        track,
        vertices=found.vertices,
        middle=found.middle,
        rest=track.rest + remember * (found.wanted - track.rest),
        bias=replace(track.bias, share=found.share),
        seen=found.seen,
        missed=0,
    )
