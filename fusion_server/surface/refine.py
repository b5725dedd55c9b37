"""One iteration on a surface as it was seen: gather rows, solve, move. The same for keyframes and warm frames."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from fusion_server.surface.base import SurfaceSettings
from fusion_server.surface.bias import Bias
from fusion_server.surface.contour import ContourRows, add_contours
from fusion_server.surface.fuse import Fused
from fusion_server.surface.observation import Look
from fusion_server.surface.photometric import Positions, agreed
from fusion_server.surface.rest import Rest
from fusion_server.surface.silhouette import reach
from fusion_server.surface.solve import Shape, System, Topology, even_layout, less_folded, relaxed, unfolded
from geometry.compiled import kernel

_DISAGREEMENT = 1.0  # a fused normal's error over the spread of its votes: errors that views share do not show in it
_MISFIT = 1.5  # a contour's standard deviation over its median distance to the outline
_WORST_MISFIT = 2.0  # times the best case: a surface that biased normals drag off must not let go of its masks
_OVERLAP = 1.5  # neighbours' patches overlap, so each position knows less than its variance says
_PULL = 3.5  # normals lose trust where pictures pull by more than 1 / this of a standard deviation, in the median
_WORST_DOUBT = 6.0  # times what their spread says
_MEMBRANE = 2.0  # neighbours may differ by half an edge length before the membrane counts as much as a row of weight 1
_DAMPING = 3e-3  # metres
# Metres from where the pictures end: nearer, a vertex counts as leaving them. At 4 and 8 the demo's rims were ragged.
BORDER = 12e-3
_GATE, _SCALE = 10.0, 4e-3  # pixels, metres: see Step; of outlines that say whether a vertex is seen
_BEHIND = 3e-3  # metres behind what a pixel shows, a vertex is hidden
_UNFOLDED = 3  # rounds in an iteration of a track
_LONGEST = 6e-3  # metres a vertex may move in one iteration


@dataclass(frozen=True)
class Step:
    """What one iteration does. gate: pixels. scale: metres, of the contours' robust weight. reach and step: metres,
    heights that photometry looks at on pictures of the method's footprint, of the usual size or halved ``halvings``
    times (below zero: finer, where there are finer ones); no reach, no photometry. relax: share of the tangential
    step."""

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


def refine(
    seen: Look,
    topology: Topology,
    step: Step,
    settings: SurfaceSettings,
    clock: Clock,
    held: Positions | None = None,
    rest: Rest | None = None,
    bias: Bias | None = None,
) -> tuple[np.ndarray, Positions | None]:
    """One iteration of displacement along normals and tangential relaxation: the new vertices (P, 3) of a surface.

    rest: the pose that a track goes back to where nothing is measured; without it, a mesh strives to be even. bias:
    what observations of this subject want of it even where it belongs.
    Comparing pictures is the dearest part of an iteration. Where it found vertices to belong is handed back, and may
    be handed in to a second iteration from nearly the same place instead of looking again.
    """
    shape, fused, observation = seen.shape, seen.fused, seen.observation
    trusted = sigma_normal(fused, settings)
    fused = fused if bias is None else bias.off_normals(fused, shape, topology)
    clock.lap("fuse")
    within = reach(shape.vertices, observation.rig, observation.outlines) > BORDER if rest is None else ~rest.unseen
    system = System(topology)
    rows = contours(seen, topology, step.gate, step.scale, settings)
    rows = rows if bias is None else bias.off_outlines(rows, observation.cameras, topology)
    rows = replace(rows, weight=rows.weight * within[topology.edges[rows.edge]].all(1))
    add_contours(system, shape, topology, rows)
    clock.lap("contour")
    if held is None:
        held = compared(seen, topology, step)
        if held is not None:
            clock.lap("photometric")
    if held is not None:
        want = heights(held, shape) - (0.0 if bias is None else bias.height)
        best, variance = settings.sigma_photometric**2, agreed(want, held, topology)
        system.add_points(want, within / (best + _OVERLAP * variance))
        trusted *= _doubt(want[within], best + variance[within])
    weight = fused.weight * within[topology.faces].all(1)
    observation.kernels.add_normals(system, shape, fused.normal, weight / trusted**2)
    clock.lap("assemble")
    membrane = (_MEMBRANE / shape.edge) ** 2
    system.add_membrane(membrane, 1 / _DAMPING**2)
    if rest is not None:
        system.add_bending(shape, rest.height, membrane)
    move = np.clip(observation.kernels.solve(system, step.solver_steps), -_LONGEST, _LONGEST)
    moved = Shape.of(shape.vertices + move[:, None] * shape.normals, topology)
    vertices = relaxed(moved, topology, even_layout(topology) if rest is None else rest.layout, step.relax)
    if rest is None:
        vertices = unfolded(vertices, topology)
    else:  # the tracker leads back what is left
        vertices = rest.carried(less_folded(vertices, topology, _UNFOLDED), topology)
    clock.lap("solve")
    return vertices, held


def measured_bias(seen: Look, topology: Topology, step: Step, settings: SurfaceSettings) -> Bias:
    """What an observation wants of a surface that is where it belongs, in steps of this kind."""
    held = compared(seen, topology, step)
    height = np.full(len(seen.shape.vertices), np.nan)
    if held is not None:
        height = np.where(np.isfinite(held.variance), heights(held, seen.shape), np.nan)
    rows = contours(seen, topology, step.gate, step.scale, settings)
    return Bias.of(seen, topology, rows, height)


def compared(seen: Look, topology: Topology, step: Step) -> Positions | None:
    """Where pictures say that vertices belong; None where they are not to be asked."""
    sharp = seen.observation.pictures
    if sharp is None or step.reach <= 0:
        return None
    for _ in range(step.halvings + seen.observation.spare_halvings):
        sharp = sharp.coarser
    o = seen.observation
    return o.kernels.photometric_positions(seen.shape, topology, seen.raster, o, sharp, step.reach, step.step)


def heights(held: Positions, shape: Shape) -> np.ndarray:
    """How far along their normals vertices are from where pictures say that they belong, metres.  # P"""
    return np.vecdot(held.points - shape.vertices, shape.normals)


def hidden(seen: Look, topology: Topology, settings: SurfaceSettings) -> np.ndarray:
    """Vertices that no view shows and no outline touches, or where the subject leaves the pictures.  # P bool"""
    o = seen.observation
    shown = np.zeros(len(seen.shape.vertices), np.bool_)
    _shown(seen.shape.vertices, seen.shape.normals, o.rig.matrix, o.rig.center, seen.raster.depth, shown)
    rows = contours(seen, topology, _GATE * o.scale, _SCALE, settings)
    shown[topology.edges[rows.edge]] = True
    return ~shown | (reach(seen.shape.vertices, o.rig, o.outlines) < BORDER)


@kernel
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
    observation = seen.observation
    rows = observation.kernels.contour_rows(seen.shape, topology, seen.raster, observation, gate, scale)
    misfit = _MISFIT * float(np.median(np.abs(rows.want))) if len(rows.want) else 0.0
    best = settings.sigma_silhouette * observation.rig.footprint(observation.middle)
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
