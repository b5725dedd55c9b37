"""One iteration: rasterise, fuse, gather rows, solve, move. The same for keyframes and warm frames."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numba
import numpy as np

from fusion_server.surface.base import Rig, SurfaceError, SurfaceSettings, View
from fusion_server.surface.contour import ContourRows, add_contours, contour_rows
from fusion_server.surface.fuse import Fused, fuse_normals
from fusion_server.surface.photometric import Pictures, Positions, photometric_positions, pictures
from fusion_server.surface.rest import Rest
from fusion_server.surface.silhouette import Silhouettes, reach, silhouettes
from fusion_server.surface.solve import Shape, System, Topology, even_layout, relaxed, unfolded
from geometry.rasterize.base import Raster, Rasterizer
from protocol.calibration import Camera

_DISAGREEMENT = 1.5  # a fused normal's error over the spread of its votes: errors that views share do not show in it
_MISFIT = 1.5  # a contour's standard deviation over its median distance to the outline
_WORST_MISFIT = 2.0  # times the best case: a surface that biased normals drag off must not let go of its masks
_OVERLAP = 1.5  # neighbours' patches overlap, so each position knows less than its variance says
_PULL = 2.5  # normals lose trust where pictures pull by more than 1 / this of a standard deviation, in the median
_WORST_DOUBT = 4.0  # times what their spread says
_MEMBRANE = 2.0  # neighbours may differ by half an edge length before the membrane counts as much as a row of weight 1
_DAMPING = 3e-3  # metres
BORDER = 4e-3  # metres from where the pictures end: nearer, a vertex counts as leaving them
_GATE, _SCALE = 10.0, 4e-3  # pixels, metres: see Step; of outlines that say whether a vertex is seen
_BEHIND = 3e-3  # metres behind what a pixel shows, a vertex is hidden
_LONGEST = 6e-3  # metres a vertex may move in one iteration


@dataclass(frozen=True, eq=False)
class Observation:
    """All views of one frame, stacked for the kernels."""

    cameras: tuple[Camera, ...]
    rig: Rig
    intrinsics: np.ndarray  # V,4 fx fy cx cy
    normal: np.ndarray  # V,H,W,3 float32
    trust: np.ndarray  # V,H,W float32, mean 1 over the masks
    outlines: Silhouettes
    pictures: Pictures | None
    middle: np.ndarray  # 3, roughly where the subject is
    scale: float = 1.0  # of the maps' sides, to those of the views

    def coarser(self) -> Observation:
        """Every second pixel of the maps, for decisions and rigid motion; without pictures."""
        o = self.outlines
        outlines = Silhouettes(
            np.ascontiguousarray(o.inside[:, ::2, ::2]), o.distance[:, ::2, ::2] / 2, o.known // 2, o.blind
        )
        cameras = tuple(_halved(camera) for camera in self.cameras)
        return Observation(
            cameras,
            Rig.of(cameras),
            self.intrinsics / 2,
            np.ascontiguousarray(self.normal[:, ::2, ::2]),
            np.ascontiguousarray(self.trust[:, ::2, ::2]),
            outlines,
            None,
            self.middle,
            self.scale / 2,
        )


@dataclass(frozen=True, eq=False)
class Look:
    """A surface as the cameras of an observation would see it."""

    shape: Shape
    raster: Raster
    observation: Observation

    @cached_property
    def fused(self) -> Fused:
        """The observed normals on the faces that are seen."""
        o = self.observation
        return fuse_normals(self.shape, self.raster.face, o.rig, o.intrinsics, o.normal, o.trust, o.outlines.distance)


@dataclass(frozen=True)
class Step:
    """What one iteration does. gate: pixels. scale: metres, of the contours' robust weight. reach and step: metres,
    heights that photometry looks at on pictures of the method's footprint, halved ``halvings`` times; no reach, no
    photometry. relax: share of the tangential step."""

    gate: float
    scale: float
    relax: float
    reach: float = 0.0
    step: float = 0.75e-3
    halvings: int = 0
    solver_steps: int = 30


@dataclass(eq=False)
class Clock:
    """Seconds spent per stage, added up."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def observe(views: Sequence[View], photometric: bool) -> Observation:
    """Stack the views and clean their masks.

    Raises SurfaceError when there are no views, their maps differ in size, or every mask is empty.
    """
    if not views:
        raise SurfaceError("no views: a surface needs at least two")
    shapes = {view.mask.shape for view in views} | {view.normal.shape[:2] for view in views}
    if len(shapes) != 1:
        raise SurfaceError(f"the views' maps differ in size ({', '.join(f'{h}x{w}' for h, w in sorted(shapes))})")
    outlines = silhouettes(views)
    if outlines.blind.all():
        raise SurfaceError("no subject in any view: every mask is empty")
    cameras = tuple(view.camera for view in views)
    rig = Rig.of(cameras)
    middle = _middle(cameras, outlines)
    K = np.stack([camera.K for camera in cameras])
    trust = np.stack([view.confidence for view in views]).astype(np.float32)
    mean = float(trust[outlines.inside].mean()) if outlines.inside.any() else 0.0
    trust = np.clip(trust / mean, 0, 4) if mean > 0 else np.ones_like(trust)
    return Observation(
        cameras,
        rig,
        np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1),
        np.stack([view.normal for view in views]).astype(np.float32, copy=False),
        trust,
        outlines,
        pictures(views, middle) if photometric else None,
        middle,
    )


def refine(
    vertices: np.ndarray,
    topology: Topology,
    observation: Observation,
    rasterizer: Rasterizer,
    step: Step,
    settings: SurfaceSettings,
    clock: Clock,
    held: Positions | None = None,
    rest: Rest | None = None,
) -> tuple[np.ndarray, Positions | None]:
    """One iteration of displacement along normals and tangential relaxation: the new vertices (P, 3).

    rest: the pose that a track goes back to where nothing is measured; without it, a mesh strives to be even.
    Comparing pictures is the dearest part of an iteration. Where it found vertices to belong is handed back, and may
    be handed in to a second iteration from nearly the same place instead of looking again.
    """
    seen = look(vertices, topology, observation, rasterizer)
    clock.lap("rasterize")
    shape, fused = seen.shape, seen.fused
    clock.lap("fuse")
    within = reach(shape.vertices, observation.rig, observation.outlines) > BORDER if rest is None else ~rest.unseen
    system = System(topology)
    rows = contours(seen, topology, step.gate, step.scale, settings)
    rows = replace(rows, weight=rows.weight * within[topology.edges[rows.edge]].all(1))
    add_contours(system, shape, topology, rows)
    clock.lap("contour")
    if held is None and step.reach > 0 and observation.pictures is not None:
        compared = observation.pictures
        for _ in range(step.halvings):
            compared = compared.coarser
        held = photometric_positions(
            shape, topology, compared, observation.rig, seen.raster.depth, step.reach, step.step
        )
        clock.lap("photometric")
    trusted = sigma_normal(fused, settings)
    if held is not None:
        want = ((held.points - shape.vertices) * shape.normals).sum(1)
        best = settings.sigma_photometric**2
        system.add_points(want, within / (best + _OVERLAP * held.variance))
        trusted *= _doubt(want[within], best + held.variance[within])
    weight = fused.weight * within[topology.faces].all(1)
    system.add_normals(shape, fused.normal, weight / trusted**2)
    clock.lap("assemble")
    membrane = (_MEMBRANE / shape.edge) ** 2
    system.add_membrane(membrane, 1 / _DAMPING**2)
    if rest is not None:
        system.add_bending(shape, rest.height, membrane)
    move = np.clip(system.solve(step.solver_steps), -_LONGEST, _LONGEST)
    moved = Shape.of(shape.vertices + move[:, None] * shape.normals, topology)
    vertices = relaxed(moved, topology, even_layout(topology) if rest is None else rest.layout, step.relax)
    vertices = unfolded(vertices, topology)
    if rest is not None:
        vertices = rest.carried(vertices, topology)
    clock.lap("solve")
    return vertices, held


def look(vertices: np.ndarray, topology: Topology, observation: Observation, rasterizer: Rasterizer) -> Look:
    """Rasterise a surface (P, 3) into the views of an observation."""
    shape = Shape.of(vertices, topology)
    return Look(shape, rasterizer.rasterize(shape.vertices, topology.faces, observation.cameras), observation)


def hidden(seen: Look, topology: Topology, settings: SurfaceSettings) -> np.ndarray:
    """Vertices that no view shows and no outline touches, or where the subject leaves the pictures.  # P bool"""
    o = seen.observation
    shown = np.zeros(len(seen.shape.vertices), np.bool_)
    _shown(seen.shape.vertices, seen.shape.normals, o.rig.matrix, o.rig.center, seen.raster.depth, shown)
    rows = contours(seen, topology, _GATE * o.scale, _SCALE, settings)
    shown[topology.edges[rows.edge]] = True
    return ~shown | (reach(seen.shape.vertices, o.rig, o.outlines) < BORDER)


@numba.njit(cache=True, nogil=True)
def _shown(x, normals, matrix, center, depth, shown):
    for v in range(matrix.shape[0]):
        m = matrix[v]
        for i in range(x.shape[0]):
            if shown[i]:
                continue
            p0, p1, p2 = x[i]
            if (
                normals[i, 0] * (center[v, 0] - p0)
                + normals[i, 1] * (center[v, 1] - p1)
                + normals[i, 2] * (center[v, 2] - p2)
            ) < 0.0:
                continue
            w = m[2, 0] * p0 + m[2, 1] * p1 + m[2, 2] * p2 + m[2, 3]
            column = int(np.rint((m[0, 0] * p0 + m[0, 1] * p1 + m[0, 2] * p2 + m[0, 3]) / w))
            row = int(np.rint((m[1, 0] * p0 + m[1, 1] * p1 + m[1, 2] * p2 + m[1, 3]) / w))
            if 0 <= column < depth.shape[2] and 0 <= row < depth.shape[1]:
                shown[i] = w < depth[v, row, column] + _BEHIND or depth[v, row, column] == 0.0


def contours(seen: Look, topology: Topology, gate: float, scale: float, settings: SurfaceSettings) -> ContourRows:
    """Contour rows, their weight lowered to how well this frame's masks can be met at all."""
    observation, rig = seen.observation, seen.observation.rig
    footprint = float(np.median(np.linalg.norm(rig.center - observation.middle, axis=1) / rig.focal))
    rows = contour_rows(seen.shape, topology, seen.raster.depth, rig, observation.outlines, gate, scale)
    misfit = _MISFIT * float(np.median(np.abs(rows.want))) if len(rows.want) else 0.0
    best = settings.sigma_silhouette * footprint
    sigma = min(max(best, misfit), _WORST_MISFIT * best)
    return replace(rows, weight=rows.weight / sigma**2)


def sigma_normal(fused: Fused, settings: SurfaceSettings) -> float:
    """What to trust this frame's fused normals with, radians: the best case, or what the spread of votes suggests."""
    return max(settings.sigma_normal, _DISAGREEMENT * fused.disagreement())


def _doubt(want: np.ndarray, variance: np.ndarray) -> float:
    """By how much normals are to be trusted less, from 1 up: how far pictures want to move a surface, in sigmas.

    Errors that the network makes alike in all views do not show as disagreement between them, but they keep the surface
    from where the pictures say that it is.
    """
    found = np.isfinite(variance)
    if not found.any():
        return 1.0
    pull = float(np.median(np.abs(want[found]) / np.sqrt(variance[found])))
    return float(np.clip(_PULL * pull, 1, _WORST_DOUBT))


def _halved(camera: Camera) -> Camera:
    K = camera.K.copy()
    K[:2] /= 2  # pixel centres are at integers, so every second one is the first one's coordinate halved
    return replace(camera, K=K, width=-(-camera.width // 2), height=-(-camera.height // 2))


def _middle(cameras: Sequence[Camera], outlines: Silhouettes) -> np.ndarray:
    """Roughly where the subject is: the point nearest to the rays through the middles of the masks.  # 3"""
    system, right = np.zeros((3, 3)), np.zeros(3)
    for camera, inside, blind in zip(cameras, outlines.inside, outlines.blind, strict=True):
        if blind:
            continue
        moments = cv2.moments(inside.view(np.uint8), binaryImage=True)
        centroid = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
        ray = camera.R.T @ np.linalg.solve(camera.K, [*centroid, 1.0])
        ray /= np.linalg.norm(ray)
        away = np.eye(3) - np.outer(ray, ray)
        system += away
        right += away @ camera.center
    return np.linalg.lstsq(system, right, rcond=None)[0]
