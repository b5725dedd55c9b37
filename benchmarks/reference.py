"""Our solver against gradient descent through a differentiable rasteriser: error against time, from the same start.

    python -m benchmarks reference CAPTURE [--start cold|warm] [--seconds 60] [--vertices N] [--size N]
                                   [--rasterizer cpu|cuda|nvdiffrast] [--plot FILE]

The reference is the paper's way: normals and silhouettes rendered (``geometry.rasterize.differentiable``), compared
with the observed ones, and descended with the preconditioner of Nicolet et al. 2021 ("Large steps in inverse rendering
of geometry"): the unknown is u = (I + lambda L) x, stepped by Adam with one second moment for all. Ours is an iteration
of the surface's own, without pictures (the same observations) and with them. Topology is frozen for all; normals and
masks are the capture's truth, so that what is measured is the optimisation. A cold start is the visual hull, a warm one
the mesh of another moment, some frames before. Seconds are of processor time, all threads together: what else runs on
the machine does not count. ``--rasterizer`` names who draws for the descent (nvdiffrast: the paper's; its licence
allows research and evaluation only); with one on a GPU, whose time is none of the processor's, read errors by steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.sparse.linalg import splu

from benchmarks._machine import machine
from benchmarks._takes import SAMPLES, SEEN_BY, truth_views, with_truth
from fusion_server.surface import SurfaceSettings, SurfaceTracker, View
from fusion_server.surface.hull import visual_hull
from fusion_server.surface.observation import Observation, look, observe
from fusion_server.surface.refine import Clock, Step, refine
from fusion_server.surface.solve import Topology
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

LAMBDA = 19.0  # of the preconditioner, as the paper's code sets it
RATE = 1e-2  # metres a step of u; of 3e-4 to 1e-2 the one that is nearest after 20 steps from a hull
BETAS = (0.9, 0.999)
SILHOUETTE = 1.0  # weight of a pixel's mask against a pixel's normal
_COLD = (
    [Step(20.0, 10e-3, 0.3, 3e-3, halvings=2)] * 3
    + [Step(20.0, 10e-3, 0.3, 3e-3, halvings=1)] * 4
    + [Step(10.0, 4e-3, 0.3, 3e-3)] * 40
)
_WARM = [Step(20.0, 10e-3, 0.1, 3e-3, halvings=1)] * 2 + [Step(10.0, 4e-3, 0.1, 3e-3)] * 20


@dataclass
class Curve:
    """Processor seconds spent optimising, and the error then, millimetres."""

    name: str
    seconds: list[float]
    median: list[float]
    tail: list[float]
    iterations: int = 0


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


def trace(
    name: str, start: Mesh, way: Iterator[np.ndarray], error: Callable[[Mesh], tuple[float, float]], seconds: float
) -> Curve:
    """Error after each iteration, or as often as it pays, until the time is up; measuring it is not counted."""
    median, tail = error(start)
    curve = Curve(name, [0.0], [median], [tail])
    spent, due = 0.0, 0.0
    while spent < seconds:
        begin = time.process_time()
        vertices = next(way, None)
        spent += time.process_time() - begin
        if vertices is None:
            break
        curve.iterations += 1
        if spent >= due:
            due = spent * 1.15
            median, tail = error(Mesh(vertices, start.faces))
            curve.seconds.append(spent)
            curve.median.append(median)
            curve.tail.append(tail)
    return curve


def errors_to(truth: Mesh, views: list[View]) -> Callable[[Mesh], tuple[float, float]]:
    """Median and 95 % distance, millimetres, of what two cameras see to the truth."""
    index, cameras = SurfaceIndex(truth), [view.camera for view in views]

    def error(mesh: Mesh) -> tuple[float, float]:
        seen = seen_part(mesh, cameras, CpuRasterizer(), SEEN_BY)
        distances = 1e3 * index.distances(sample_surface(seen, SAMPLES))
        return float(np.median(distances)), float(np.percentile(distances, 95))

    return error


def plot(curves: list[Curve], path: Path, title: str) -> None:
    """Median error over time, both logarithmic, as a PNG."""
    width, height, left, top, right, bottom = 960, 600, 90, 60, 30, 70
    sheet = np.full((height, width, 3), 255, np.uint8)
    times = [t for curve in curves for t in curve.seconds if t > 0]
    values = [value for curve in curves for value in curve.median]
    x0, x1 = np.log10(min(times)), np.log10(max(times))
    y0, y1 = np.log10(min(values) * 0.85), np.log10(max(values) * 1.15)

    def at(t: float, value: float) -> tuple[int, int]:
        x = left + (np.log10(max(t, min(times))) - x0) / max(x1 - x0, 1e-9) * (width - left - right)
        return round(x), round(height - bottom - (np.log10(value) - y0) / (y1 - y0) * (height - top - bottom))

    def write(text: str, place: tuple[int, int], colour: tuple = (40, 40, 40), size: float = 0.5) -> None:
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    for mark in [m * 10.0**e for e in range(-3, 3) for m in (1, 2, 5)]:
        if x0 <= np.log10(mark) <= x1:
            x, _ = at(mark, max(values))
            cv2.line(sheet, (x, top), (x, height - bottom), (225, 225, 225), 1)
            write(f"{mark:g}", (x - 10, height - bottom + 22))
        if y0 <= np.log10(mark) <= y1:
            _, y = at(max(times), mark)
            cv2.line(sheet, (left, y), (width - right, y), (225, 225, 225), 1)
            write(f"{mark:g}", (left - 45, y + 5))
    write(title, (left, 30), size=0.55)
    write("processor seconds of optimisation", (width // 2 - 130, height - 20))
    write("median mm", (5, top + 14))
    colours = [(180, 90, 20), (30, 140, 30), (40, 40, 200)]
    for n, (curve, colour) in enumerate(zip(curves, colours, strict=False)):
        points = np.array([at(t, m) for t, m in zip(curve.seconds, curve.median, strict=True)], np.int32)
        cv2.polylines(sheet, [points], False, colour, 2, cv2.LINE_AA)
        for point in points:
            cv2.circle(sheet, tuple(int(c) for c in point), 3, colour, -1, cv2.LINE_AA)
        cv2.line(sheet, (left + 300 * n, top - 14), (left + 300 * n + 26, top - 14), colour, 3)
        write(curve.name, (left + 300 * n + 34, top - 9))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def start_of(kind: str, capture: CaptureFolder, usable: list[str], options: argparse.Namespace) -> tuple[Mesh, str]:
    """The mesh to start from, and the frame to reach."""
    if kind == "cold":
        frame = usable[0]
        observation = observe(truth_views(capture, frame, options.size), False)
        hull = visual_hull(observation.cameras, observation.outlines, SurfaceSettings().hull_cells)
        return remesh(hull, edge_length_for(hull, options.vertices), rounds=4), frame
    if len(usable) < 2:
        raise HeadstreamError(f"{capture.root}: a warm start needs two frames with truth")
    tracker = SurfaceTracker(SurfaceSettings(vertices=options.vertices), CpuRasterizer())
    surface = tracker.update(truth_views(capture, usable[0], options.size))
    return Mesh(surface.vertices, surface.faces), usable[1]


def main() -> int:
    """Run all and print error against time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("--start", choices=("cold", "warm"), default="cold")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, for each way")
    parser.add_argument("--vertices", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256, help="of the maps, pixels")
    parser.add_argument("--rate", type=float, default=RATE, help="metres a step of gradient descent")
    parser.add_argument("--rasterizer", choices=NAMES, default="cpu", help="of the descent")
    parser.add_argument("--plot", type=Path, default=Path("reference.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for one another spend processor time on it
    console = Console(width=160)
    console.print(machine())
    try:
        rasterizer = make_rasterizer(options.rasterizer)
        capture = CaptureFolder.open(options.capture)
        usable = with_truth(capture)
        start, frame = start_of(options.start, capture, usable, options)
        views = truth_views(capture, frame, options.size)
        error = errors_to(read_ply(capture.mesh(frame)), views)
        steps = _COLD if options.start == "cold" else _WARM
        plain, pictured = observe(views, False), observe(views, True)
        for warming in (ours(start, pictured, steps[:1]), descent(start, views, options.rate, rasterizer)):
            next(warming)  # compiles every kernel
        curves = [
            trace("ours, normals and masks", start, ours(start, plain, steps), error, options.seconds),
            trace("ours, with pictures", start, ours(start, pictured, steps), error, options.seconds),
            trace("gradient descent", start, descent(start, views, options.rate, rasterizer), error, options.seconds),
        ]
    except HeadstreamError as failure:
        print(f"reference: {failure}", file=sys.stderr)
        return 2
    table = Table(title=f"{options.capture}, {options.start} start, {len(start.vertices)} vertices: median / 95 % mm")
    marks = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0]
    marks = [mark for mark in marks if mark <= options.seconds]
    for column in ("", "start", *(f"{mark:g} s" for mark in marks), "at the end"):
        table.add_column(column)
    for curve in curves:
        cells = [f"{curve.median[0]:.3f} / {curve.tail[0]:.2f}"]
        for mark in marks:
            n = int(np.searchsorted(curve.seconds, mark, side="right")) - 1
            cells.append(f"{curve.median[n]:.3f} / {curve.tail[n]:.2f}" if n else "")
        spent = curve.seconds[-1]
        cells.append(f"{curve.median[-1]:.3f} / {curve.tail[-1]:.2f} ({curve.iterations} steps, {spent:.1f} s)")
        table.add_row(curve.name, *cells)
    console.print(table)
    plot(curves, options.plot, f"{options.start} start, {len(start.vertices)} vertices, {len(views)} views")
    console.print(f"{options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
