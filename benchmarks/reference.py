"""Our solver against gradient descent through a differentiable rasteriser: error against steps and time, warm and cold.

    python -m benchmarks reference CAPTURE [--start both|cold|warm] [--apart 10] [--seconds 30] [--vertices N]
                                   [--size N] [--rate METRES] [--rasterizer cpu|cuda|nvdiffrast] [--plot FILE]

The reference is the paper's way: normals and silhouettes rendered (``geometry.rasterize.differentiable``), compared
with the observed ones, and descended with the preconditioner of Nicolet et al. 2021 ("Large steps in inverse rendering
of geometry"): the unknown is u = (I + lambda L) x, stepped by Adam with one second moment for all. Ours is an iteration
of the surface's own, without pictures (the same observations) and with them. Topology is frozen for all; normals and
masks are the capture's truth, so that what is measured is the optimisation.

A cold start is the visual hull of the frame that is to be reached, a warm one the tracker's mesh of the frame
``--apart`` before it. From the warm start goes one way more, the warm frame of ``headstream`` itself: rigid motion,
skin, and 1 to 8 iterations with what the keyframe taught (one more where the head went far). What making the start
took counts for nobody; making masks and pictures ready counts for the warm frame alone, which is timed as a whole.

Who has which advantage: only ours with pictures, and the warm frame, see pictures; the descent's rival is "normals and
masks". Ours looks for outlines and pictures coarsely first and then finely; the descent sees full maps from its first
step on. It is made for a GPU, which draws faster than it reads these lines: its seconds here are those of numba and
torch, its steps are what they are anywhere. Of the rates that were tried it has the best.

Seconds are of processor time, all threads together: what else runs on the machine does not count. ``--rasterizer``
names who draws for the descent (nvdiffrast: the paper's; its licence allows research and evaluation only); with one on
a GPU, whose time is none of the processor's, read errors by steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.sparse.linalg import splu

from benchmarks._machine import machine
from benchmarks._plot import Colour, Line, Panel, plot
from benchmarks._takes import SAMPLES, SEEN_BY, truth_views, with_truth
from fusion_server.surface import SurfaceSettings, SurfaceTracker, View
from fusion_server.surface.hull import visual_hull
from fusion_server.surface.observation import Observation, look, observe
from fusion_server.surface.refine import Clock, Step, refine
from fusion_server.surface.solve import Topology
from fusion_server.surface.steady import Steady
from fusion_server.surface.stuck import Repeats
from fusion_server.surface.warm import Track
from geometry.cameras import projection_matrix
from geometry.measure import SurfaceIndex, sample_surface
from geometry.mesh import Mesh, edges, read_ply
from geometry.rasterize import NAMES, Rasterizer, make_rasterizer
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.differentiable import antialias, interpolate, outlines, to_pixels
from geometry.remesh import edge_length_for, remesh
from geometry.visibility import seen_part
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

State = tuple[Track | None, Steady | None, Repeats]  # of a tracker

LAMBDA = 19.0  # of the preconditioner, as the paper's code sets it
# Metres a step of u: from a hull the one of 3e-4 to 1e-2 that is nearest after 20 steps; from the mesh of ten frames
# before the one of 1e-3, 3e-3 and 1e-2 that is nearest after 10 and after 40 (after 20 the second is as near).
RATE = 1e-2
BETAS = (0.9, 0.999)
SILHOUETTE = 1.0  # weight of a pixel's mask against a pixel's normal
_COLD = (
    [Step(20.0, 10e-3, 0.3, 3e-3, halvings=2)] * 3
    + [Step(20.0, 10e-3, 0.3, 3e-3, halvings=1)] * 4
    + [Step(10.0, 4e-3, 0.3, 3e-3)] * 40
)
_WARM = [Step(20.0, 10e-3, 0.1, 3e-3, halvings=1)] * 2 + [Step(10.0, 4e-3, 0.1, 3e-3)] * 20


SHIPPED = (1, 2, 3, 4, 6, 8)  # iterations of a warm frame that are tried
STEPS = (1, 2, 3, 5, 8, 10, 20, 50, 100, 200, 500)  # at which errors are told
SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
COLOURS: tuple[Colour, ...] = ((180, 90, 20), (30, 140, 30), (40, 40, 200), (160, 30, 160))


@dataclass
class Curve:
    """Error, millimetres, after so many steps and processor seconds of optimising."""

    name: str
    steps: list[int]
    seconds: list[float]
    median: list[float]
    tail: list[float]

    def add(self, steps: int, seconds: float, error: tuple[float, float]) -> None:
        """One more place where it was measured; error: median and 95 %."""
        self.steps.append(steps)
        self.seconds.append(seconds)
        self.median.append(error[0])
        self.tail.append(error[1])

    def at(self, places: Sequence[float], mark: float) -> str:
        """What was measured last when ``places`` (``steps`` or ``seconds``) had come to a mark, or nothing where the
        curve had not begun or was over."""
        n = int(np.searchsorted(places, mark, side="right")) - 1
        return self.told(n) if n > 0 and places[-1] >= mark else ""

    def told(self, n: int) -> str:
        """The n-th measurement for people."""
        return f"{self.median[n]:.3f} / {self.tail[n]:.2f}"


class Descent:
    """Gradient descent on vertices with a Laplacian preconditioner."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, views: list[View], rate: float, rasterizer: Rasterizer):
        count = len(vertices)
        pairs = edges(faces)
        adjacency = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), (count, count))
        adjacency = adjacency + adjacency.T
        laplacian = sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency
        self._matrix = sparse.csc_matrix(sparse.identity(count) + LAMBDA * laplacian)
        self._factor = splu(self._matrix)
        self._u = self._matrix @ vertices
        self._faces, self._corners, self._rate = faces, torch.from_numpy(faces.astype(np.int64)), rate
        self._cameras = [view.camera for view in views]
        self._matrices = torch.tensor(np.stack([projection_matrix(camera) for camera in self._cameras]))
        rotations = torch.tensor(np.stack([camera.R for camera in self._cameras]))
        normals = torch.tensor(np.stack([view.normal for view in views]).astype(np.float64))
        self._normals = torch.einsum("vij,vhwi->vhwj", rotations, normals)  # world
        self._masks = torch.tensor(np.stack([view.mask for view in views]).astype(np.float64))[..., None]
        self._first, self._second, self._steps = np.zeros_like(vertices), 0.0, 0
        self._rasterizer = rasterizer
        self.vertices = vertices

    def loss(self, vertices: torch.Tensor) -> torch.Tensor:
        """Squared difference of normals where both show the subject, and of masks, a pixel of the subject."""
        raster = self._rasterizer.rasterize(vertices.detach().numpy(), self._faces, self._cameras)
        pixels = to_pixels(vertices, self._matrices)
        shown = interpolate(_normals(vertices, self._corners), pixels, self._faces, raster)
        seen = torch.from_numpy(raster.face >= 0)[..., None]
        mask = antialias(seen.double(), pixels, outlines(pixels, self._faces, raster))
        both = seen[..., 0] & (self._masks[..., 0] > 0.99)
        unit = torch.nn.functional.normalize(shown[both], dim=-1)
        normal = ((unit - self._normals[both]) ** 2).sum()
        return (normal + SILHOUETTE * ((mask - self._masks) ** 2).sum()) / self._masks.sum()

    def step(self) -> None:
        """One step of AdamUniform in the preconditioned unknown."""
        vertices = torch.tensor(self.vertices, requires_grad=True)
        self.loss(vertices).backward()
        assert vertices.grad is not None
        gradient = self._factor.solve(vertices.grad.numpy())
        self._steps += 1
        self._first = BETAS[0] * self._first + (1 - BETAS[0]) * gradient
        self._second = BETAS[1] * self._second + (1 - BETAS[1]) * float((gradient**2).sum(1).max())
        mean = self._first / (1 - BETAS[0] ** self._steps)
        spread = np.sqrt(self._second / (1 - BETAS[1] ** self._steps))
        self._u -= self._rate * mean / max(spread, 1e-30)
        self.vertices = self._factor.solve(self._u)


def _normals(vertices: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """Area-weighted unit normals at vertices.  # P,3"""
    a, b, c = (vertices[corners[:, k]] for k in range(3))
    area = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add(0, corners.T.reshape(-1), area.repeat(3, 1))
    return torch.nn.functional.normalize(total, dim=-1)


def ours(start: Mesh, observation: Observation, steps: list[Step]) -> Iterator[np.ndarray]:
    """The surface's own iterations."""
    topology = Topology.of(start.faces, len(start.vertices))
    vertices = start.vertices
    for step in steps:
        seen = look(vertices, topology, observation, CpuRasterizer())
        vertices = refine(seen, topology, step, SurfaceSettings(), Clock())[0]
        yield vertices


def descent(start: Mesh, views: list[View], rate: float, rasterizer: Rasterizer) -> Iterator[np.ndarray]:
    """Gradient steps without end; the factorisation is part of the first."""
    way = Descent(start.vertices, start.faces, views, rate, rasterizer)
    while True:
        way.step()
        yield way.vertices


def shipped(
    start: Mesh, state: State, views: list[View], vertices: int, error: Callable[[Mesh], tuple[float, float]]
) -> tuple[Curve, list[str]]:
    """The tracker's own warm frame from the same track with more and more iterations, as many as it then took; and its
    flags. vertices: as ``state`` was made with."""
    curve = Curve("a warm frame as shipped", [], [], [], [])
    curve.add(0, 0.0, error(start))
    flags: set[str] = set()
    for count in (SHIPPED[0], *SHIPPED):
        settings = SurfaceSettings(vertices=vertices, iterations=count, uv=False, steady=False)
        tracker = SurfaceTracker(settings, CpuRasterizer())
        tracker.restore(state)
        begin = time.process_time()
        surface = tracker.update(views)
        spent = time.process_time() - begin
        flags.update(surface.quality.flags)
        if surface.iterations > curve.steps[-1]:
            curve.add(surface.iterations, spent, error(Mesh(surface.vertices, surface.faces)))
        else:
            curve.seconds[-1] = spent  # the first one came to cold caches
    return curve, sorted(flags)


def trace(
    name: str, start: Mesh, way: Iterator[np.ndarray], error: Callable[[Mesh], tuple[float, float]], seconds: float
) -> Curve:
    """Error after STEPS and as often as it pays, until the time is up; measuring it is not counted."""
    curve = Curve(name, [], [], [], [])
    curve.add(0, 0.0, error(start))
    spent, due, steps = 0.0, 0.0, 0
    vertices: np.ndarray | None = None
    while spent < seconds:
        begin = time.process_time()
        following = next(way, None)
        spent += time.process_time() - begin
        if following is None:
            break
        vertices, steps = following, steps + 1
        if spent >= due or steps in STEPS:
            due = spent * 1.15
            curve.add(steps, spent, error(Mesh(vertices, start.faces)))
    if vertices is not None and curve.steps[-1] != steps:
        curve.add(steps, spent, error(Mesh(vertices, start.faces)))
    return curve


def errors_to(truth: Mesh, views: list[View]) -> Callable[[Mesh], tuple[float, float]]:
    """Median and 95 % distance, millimetres, of what two cameras see to the truth."""
    index, cameras = SurfaceIndex(truth), [view.camera for view in views]

    def error(mesh: Mesh) -> tuple[float, float]:
        seen = seen_part(mesh, cameras, CpuRasterizer(), SEEN_BY)
        distances = 1e3 * index.distances(sample_surface(seen, SAMPLES))
        return float(np.median(distances)), float(np.percentile(distances, 95))

    return error


def drawn(runs: dict[str, list[Curve]], title: str, path: Path) -> None:
    """Median error over steps and over seconds as a PNG; a way has a colour, a cold start is dashed."""
    names = list(dict.fromkeys(curve.name for curves in runs.values() for curve in curves))
    colour = dict(zip(names, COLOURS, strict=False))
    legend: list[tuple[str, Colour | None]] = [*colour.items()]
    if len(runs) > 1:
        legend += [("lines: warm start; dashes: cold start", None)]
    panels = [
        Panel(
            [
                Line(getattr(curve, axis), curve.median, colour[curve.name], kind == "cold")
                for kind, curves in runs.items()
                for curve in curves
            ],
            label,
            "median mm",
            knee,
        )
        for axis, label, knee in (("steps", "steps (iterations)", 1.0), ("seconds", "processor seconds", 0.2))
    ]
    plot(title, legend, panels, path)


def cold_start(views: list[View], vertices: int) -> Mesh:
    """The visual hull, evenly meshed."""
    observation = observe(views, False)
    hull = visual_hull(observation.cameras, observation.outlines, SurfaceSettings().hull_cells).surface()
    return remesh(hull, edge_length_for(hull, vertices), rounds=4)


def warm_start(views: list[View], vertices: int) -> tuple[Mesh, State]:
    """The tracker's mesh of an earlier frame, and what the tracker knows then."""
    tracker = SurfaceTracker(SurfaceSettings(vertices=vertices, uv=False), CpuRasterizer())
    surface = tracker.update(views)
    return Mesh(surface.vertices, surface.faces), tracker.state()


def table(title: str, curves: Sequence[Curve], axis: str, marks: Sequence[float], unit: str) -> Table:
    """Errors of curves at marks on one of their axes, those that a curve comes to."""
    found = Table(title=title)
    marks = [mark for mark in marks if any(curve.at(getattr(curve, axis), mark) for curve in curves)]
    for column in ("", "start", *(f"{mark:g}{unit}" for mark in marks), "at the end"):
        found.add_column(column)
    for curve in curves:
        places = getattr(curve, axis)
        end = f"{curve.told(-1)} ({curve.steps[-1]} steps, {curve.seconds[-1]:.1f} s)"
        found.add_row(curve.name, curve.told(0), *(curve.at(places, mark) for mark in marks), end)
    return found


def raced(
    kind: str, frames: Sequence[str], capture: CaptureFolder, options: argparse.Namespace, rasterizer: Rasterizer
) -> tuple[list[Curve], int, list[str]]:
    """All ways from one kind of start to the last of the frames (a warm one: from the first of them); the number of
    vertices, and the flags of warm frames."""
    views = truth_views(capture, frames[-1], options.size)
    state: State | None = None
    if kind == "cold":
        start, steps = cold_start(views, options.vertices), _COLD
    else:
        (start, state), steps = warm_start(truth_views(capture, frames[0], options.size), options.vertices), _WARM
    error = errors_to(read_ply(capture.mesh(frames[-1])), views)
    plain, pictured = observe(views, False), observe(views, True)
    for warming in (ours(start, pictured, steps[:1]), descent(start, views, options.rate, rasterizer)):
        next(warming)  # compiles every kernel
    curves = [
        trace("ours, normals and masks", start, ours(start, plain, steps), error, options.seconds),
        trace("ours, with pictures", start, ours(start, pictured, steps), error, options.seconds),
        trace("gradient descent", start, descent(start, views, options.rate, rasterizer), error, options.seconds),
    ]
    flags: list[str] = []
    if state is not None:
        curve, flags = shipped(start, state, views, options.vertices, error)
        curves.append(curve)
    return curves, len(start.vertices), flags


def main() -> int:
    """Run all and print error against steps and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--start", choices=("both", "cold", "warm"), default="both")
    parser.add_argument("--apart", type=int, default=10, help="frames from a warm start's mesh to where it is to go")
    parser.add_argument("--seconds", type=float, default=30.0, help="of processor time, for each way")
    parser.add_argument("--vertices", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256, help="of the maps, pixels")
    parser.add_argument("--rate", type=float, default=RATE, help="metres a step of gradient descent")
    parser.add_argument("--rasterizer", choices=NAMES, default="cpu", help="of the descent")
    parser.add_argument("--plot", type=Path, default=Path("reference.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for one another spend processor time on it
    console = Console(width=200)
    console.print(machine())
    runs: dict[str, list[Curve]] = {}
    try:
        if options.apart < 1 or options.seconds <= 0 or options.rate <= 0:
            raise HeadstreamError("--apart must be 1 or more, --seconds and --rate above 0")
        rasterizer = make_rasterizer(options.rasterizer)
        capture = CaptureFolder.open(options.capture)
        usable = with_truth(capture)
        if options.start != "cold" and len(usable) <= options.apart:
            raise HeadstreamError(
                f"{capture.root}: a warm start {options.apart} frames before needs {options.apart + 1} with truth; "
                f"there are {len(usable)}"
            )
        frames = (usable[0], usable[min(options.apart, len(usable) - 1)])
        for kind in ("warm", "cold") if options.start == "both" else (options.start,):
            runs[kind], vertices, flags = raced(kind, frames, capture, options, rasterizer)
            begun = f"from frame {frames[0]}" if kind == "warm" else "from its hull"
            title = f"{options.capture}, frame {frames[1]} {begun}, {vertices} vertices: median / 95 % mm"
            console.print(table(f"{title}, by steps", runs[kind], "steps", STEPS, ""))
            console.print(table(f"{title}, by processor seconds", runs[kind], "seconds", SECONDS, " s"))
            if flags:
                console.print(f"flags of warm frames: {', '.join(flags)}")
    except HeadstreamError as failure:
        print(f"reference: {failure}", file=sys.stderr)
        return 2
    cameras = len(capture.calibration.cameras)
    apart = f"; warm: {options.apart} frames before" if "warm" in runs else ""
    drawn(runs, f"frame {frames[1]}, {cameras} views, about {options.vertices} vertices{apart}", options.plot)
    console.print(f"{options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
