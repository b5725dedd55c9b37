"""The surface's CUDA kernels against the CPU's: milliseconds a step, memory's floor, and how far results differ.

    python -m benchmarks kernels [--device cuda] [--vertices 10000,40000] [--views 10] [--size 512] [--frames 20]
                                 [--cpu-repeats 5] [--json FILE]

The subject is a bumpy ball the size of a head, painted with blotches, seen by a ring of cameras; its surface is off by
up to a millimetre. Each step is called as a frame calls it, arrays in and arrays out: "call" is the wall's time of
that (median), "device" what CUDA events measured of it, copies included, "floor" the bytes that it must at least read
and write on the device over the bandwidth that a copy of 256 MB reached there. Where nvdiffrast is installed, it draws
the same. Then the warm frame that stays on the device, group by group and whole, launched one by one and as one CUDA
graph; and a whole track, warm frames only, and how far its vertices are from the CPU's. ``--device cpu`` runs the
emulation: its times say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from rich.console import Console
from rich.table import Table

from benchmarks._machine import keep, machine
from benchmarks._warm_frame import measured
from fusion_server.surface import SurfaceSettings, SurfaceTracker, View
from fusion_server.surface.cuda import CudaKernels
from fusion_server.surface.kernels import CPU, SurfaceKernels
from fusion_server.surface.observation import look, observe
from fusion_server.surface.solve import System, Topology
from geometry.mesh import Mesh, vertex_normals
from geometry.rasterize.base import Rasterizer
from geometry.rasterize.cpu import CpuRasterizer
from geometry.rasterize.cuda import CudaRasterizer
from geometry.rasterize.nvdiffrast import NvdiffrastRasterizer
from protocol.calibration import Camera
from protocol.errors import HeadstreamError

FIELD, AWAY = 0.34, 0.9  # metres that a camera sees across, and its distance
REACH, STEP, GATE, SCALE = 3e-3, 0.75e-3, 10.0, 4e-3  # as a warm frame has them
TURN = np.radians(0.5)  # from frame to frame


def ball(vertices: int) -> Mesh:
    """A bumpy ball of about so many vertices (10 * 4**n + 2)."""
    times = max(int(np.rint(np.log(vertices / 10) / np.log(4))), 1)
    sphere = trimesh.creation.icosphere(subdivisions=times)
    x, y, z = np.asarray(sphere.vertices).T
    radius = 1 + 0.05 * np.sin(5 * x + 1) * np.cos(4 * y) + 0.04 * np.sin(7 * z + 2 * y)
    points = np.asarray(sphere.vertices) * radius[:, None] * (0.08, 0.11, 0.09)
    return Mesh(points, np.asarray(sphere.faces, np.int32))


def ring(count: int, size: int) -> list[Camera]:
    """Cameras around the origin, by turns a little above and below."""
    cameras = []
    for n, angle in enumerate(np.arange(count) * 2 * np.pi / count):
        eye = AWAY * np.array([np.sin(angle), 0.35 * (-1) ** n, np.cos(angle)])
        forward = -eye / np.linalg.norm(eye)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        focal, middle = size * AWAY * 1.06 / FIELD, (size - 1) / 2
        K = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
        cameras.append(Camera(f"cam{n}", size, size, K, np.zeros(5), R, -R @ eye))
    return cameras


def views_of(mesh: Mesh, paint: np.ndarray, count: int, size: int) -> list[View]:
    """True normals and masks of a mesh with grey values (P,), pictures twice as fine."""
    views = []
    for camera, fine in zip(ring(count, size), ring(count, 2 * size), strict=True):
        normals = vertex_normals(mesh.vertices, mesh.faces)
        raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [camera])
        normal = raster.interpolate(mesh.faces, normals)[0] @ camera.R.T.astype(np.float32)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        picture = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [fine]).interpolate(mesh.faces, paint[:, None])
        mask = (raster.face[0] >= 0).astype(np.float32)
        views.append(
            View(camera, normal.astype(np.float32), np.ones_like(mask), mask, picture[0, ..., 0].astype(np.uint8), fine)
        )
    return views


def turned(mesh: Mesh, angle: float) -> Mesh:
    """The mesh turned about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return Mesh(mesh.vertices @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T, mesh.faces)


def steps_of(
    mesh: Mesh, views: list[View], kernels: SurfaceKernels, rasterizer: Rasterizer
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Each step of a frame as a call, and the bytes that it must move on a device."""
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    x, y, z = mesh.vertices.T
    off = 1e-3 * np.sin(40 * x + 30 * y) * np.cos(35 * z)
    observation = observe(views, True, kernels)
    seen = look(
        mesh.vertices + off[:, None] * vertex_normals(mesh.vertices, mesh.faces), topology, observation, rasterizer
    )
    shape, raster, fused = seen.shape, seen.raster, seen.fused
    system = System(topology)
    system.add_normals(shape, fused.normal, fused.weight / 0.05**2)
    system.add_membrane((2.0 / shape.edge) ** 2, 1 / 3e-3**2)
    pictures = observation.pictures
    assert pictures is not None
    pixels, count, faces = raster.face.size, len(shape.vertices), len(topology.faces)
    ends, heights = len(topology.neighbour), 2 * round(REACH / STEP) + 1
    center, wide = shape.vertices.mean(0), len(topology.around.wide_face)
    rows = observation, GATE, SCALE
    add = lambda: kernels.add_normals(System(topology), shape, fused.normal, fused.weight)  # noqa: E731
    return {
        "rasterise": (
            lambda: rasterizer.rasterize(shape.vertices, topology.faces, observation.cameras),
            pixels * (3 * 8 + 16) + len(views) * (count * 48 + faces * 84),
        ),
        "fuse": (lambda: kernels.fuse_normals(shape, raster, observation), pixels * 24 + faces * 96),
        "contour": (
            lambda: kernels.contour_rows(shape, topology, raster, *rows),
            len(views) * (len(topology.edges) * 8 + count * 48),
        ),
        "photometric": (
            lambda: kernels.photometric_positions(shape, topology, raster, observation, pictures, REACH, STEP),
            pictures.grey.nbytes + faces * (14 * 4 * heights * 2 + 384 * 2) + count * heights * 4 * 8 + wide * 4,
        ),
        "normal rows": (add, faces * 36 + ends * 16 + count * 64),
        "solve": (lambda: kernels.solve(system, 30), 30 * (ends * 16 + count * 9 * 8)),
        "rigid rows": (
            lambda: kernels.rigid_rows(shape, topology, raster, observation, center), pixels * (36 + 24 * 2),
        ),
        "overlap": (lambda: kernels.overlap(raster, observation), pixels * 5),
    }  # fmt: skip


def timed(call: Callable[[], Any], repeats: int, device: torch.device | None) -> tuple[float, float]:
    """Median milliseconds of a call by the wall, and by CUDA events (NaN where there are none)."""
    call()
    walls, events = [], []
    for _ in range(repeats):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device else []
        if device:
            torch.cuda.synchronize(device)
            marks[0].record()
        start = time.perf_counter()
        call()
        if device:
            marks[1].record()
            torch.cuda.synchronize(device)
            events.append(marks[0].elapsed_time(marks[1]))
        walls.append(1e3 * (time.perf_counter() - start))
    return float(np.median(walls)), float(np.median(events)) if events else float("nan")


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a device reads and writes when it copies 256 MB."""
    a = torch.empty(2**28, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    _, ms = timed(lambda: b.copy_(a), 10, device)
    return 2 * 2**28 / (1e-3 * ms)


def follow(tracker: SurfaceTracker, sets: list[list[View]]) -> tuple[np.ndarray, dict[str, float]]:
    """Vertices of every frame, and milliseconds a stage (medians)."""
    vertices, seconds = [], []
    for views in sets:
        start = time.perf_counter()
        surface = tracker.update(views)
        seconds.append({"whole": time.perf_counter() - start, **surface.seconds})
        vertices.append(surface.vertices)
    names = list(dict.fromkeys(name for each in seconds for name in each))
    return np.stack(vertices), {n: 1e3 * float(np.median([each.get(n, 0.0) for each in seconds])) for n in names}


def main() -> int:
    """Time every step of both, then the tracks, and print two tables a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for the emulation")
    parser.add_argument("--vertices", default="10000,40000")
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--size", type=int, default=512, help="of the maps, pixels; pictures are twice as fine")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cpu-repeats", type=int, default=5, help="of the CPU's steps; 0: not timed")
    parser.add_argument("--frames", type=int, default=10, help="of the tracks; 0: none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=140)
    try:
        kernels, rasterizer = CudaKernels(options.device), CudaRasterizer(options.device)
    except HeadstreamError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    device = None if options.device == "cpu" else torch.device(options.device)
    speed = bandwidth(device) if device else float("nan")
    what = f"{torch.cuda.get_device_name(device)}, {speed / 1e9:.0f} GB/s" if device else "EMULATED on the CPU: no GPU"
    console.print(f"{machine()}\n{what}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    report: dict[str, Any] = {"machine": machine(), "device": what, "torch": torch.__version__, "sizes": []}
    for number in options.vertices.split(","):
        mesh = ball(int(number))
        draw = np.random.default_rng(3)
        wave = draw.normal(size=(60, 3)) * 450  # radians a metre
        paint = 130 + 12 * np.sin(mesh.vertices @ wave.T + draw.uniform(0, 2 * np.pi, 60)).sum(1) / np.sqrt(30)
        views = views_of(mesh, paint, options.views, options.size)
        title = f"{len(mesh.vertices)} vertices, {options.views} views of {options.size}"
        table = Table(title=f"{title}: milliseconds (medians of {options.repeats})")
        for column in ("step", "CPU (numba)", "CUDA call", "CUDA device", "floor"):
            table.add_column(column, justify="left" if column == "step" else "right")
        entry: dict[str, Any] = {"vertices": len(mesh.vertices), "views": options.views, "size": options.size}
        entry["steps"] = {}
        report["sizes"].append(entry)
        theirs = steps_of(mesh, views, CPU, CpuRasterizer())
        for name, (call, moved) in steps_of(mesh, views, kernels, rasterizer).items():
            cpu, _ = timed(theirs[name][0], options.cpu_repeats, None) if options.cpu_repeats else (float("nan"), 0.0)
            wall, event = timed(call, options.repeats, device)
            floor = 1e3 * moved / speed
            table.add_row(name, *(f"{value:.3f}" for value in (cpu, wall, event, floor)))
            entry["steps"][name] = {"cpu_ms": cpu, "call_ms": wall, "device_ms": event, "floor_ms": floor}
        entry["nvdiffrast"] = drawn_by_nvdiffrast(mesh, views, rasterizer, options.repeats, device, table)
        console.print(table)
        keep(options.json, report)
        if options.frames:
            tracker = SurfaceTracker(settings_of(len(mesh.vertices)), CpuRasterizer())
            tracker.update(views)
            entry["frame"] = resident(
                tracker, views, kernels, rasterizer, options.repeats, device, speed, console, title
            )
            entry["track"] = compare(tracker, mesh, paint, options, kernels, rasterizer, console, title)
        if device:
            entry["peak_device_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
            console.print(f"most memory on the device: {entry['peak_device_mb']:.0f} MB")
        keep(options.json, report)
    return 0


def settings_of(vertices: int) -> SurfaceSettings:
    """Of the tracks."""
    return SurfaceSettings(vertices=vertices, iterations=2, uv=False, steady=False)


def drawn_by_nvdiffrast(
    mesh: Mesh,
    views: list[View],
    ours: Rasterizer,
    repeats: int,
    device: torch.device | None,
    table: Table,
) -> dict[str, float] | str:
    """Milliseconds of nvdiffrast for what our rasteriser draws, and how many pixels show another face; or why not."""
    cameras = [view.camera for view in views]
    try:
        other = NvdiffrastRasterizer()
    except HeadstreamError as error:
        return str(error)
    wall, event = timed(lambda: other.rasterize(mesh.vertices, mesh.faces, cameras), repeats, device)
    faces = [each.rasterize(mesh.vertices, mesh.faces, cameras).face for each in (ours, other)]
    differ = float((faces[0] != faces[1]).mean())
    table.add_row(f"nvdiffrast ({differ:.1e} of the pixels differ)", "", f"{wall:.3f}", f"{event:.3f}", "")
    return {"call_ms": wall, "device_ms": event, "pixels_that_differ": differ}


def resident(
    tracker: SurfaceTracker,
    views: list[View],
    kernels: CudaKernels,
    rasterizer: CudaRasterizer,
    repeats: int,
    device: torch.device | None,
    speed: float,
    console: Console,
    title: str,
) -> dict[str, Any]:
    """The warm frame that stays on the device: two tables."""
    track = tracker._track
    assert track is not None
    report = measured(
        kernels,
        rasterizer,
        track,
        views,
        settings_of(len(track.vertices)),
        lambda call: timed(call, repeats, device),
        speed,
    )
    table = Table(title=f"{title}: launches of a warm frame, milliseconds (medians of {repeats})")
    for column in ("group", "CUDA device", "floor"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for name, each in report["groups"].items():
        table.add_row(name, f"{each['device_ms' if device else 'call_ms']:.3f}", f"{each['floor_ms']:.3f}")
    console.print(table)
    working = f", {report['at_work']} with something to do" if report["at_work"] else ""
    console.print(f"a warm frame is {report['launches']} launches{working}, in {report['bytes'] / 1e6:.0f} MB")
    for name, each in report["frames"].items():
        parts = ", ".join(f"{key.removesuffix('_ms')} {value:.2f}" for key, value in each.items() if key != "same_bits")
        console.print(f"a warm frame, {name}: {parts} ms; the same vertices to the bit: {each['same_bits']}")
    return report


def compare(
    tracker: SurfaceTracker,
    mesh: Mesh,
    paint: np.ndarray,
    options: argparse.Namespace,
    kernels: SurfaceKernels,
    rasterizer: Rasterizer,
    console: Console,
    title: str,
) -> dict[str, Any]:
    """Two tracks of a turning subject from one keyframe: milliseconds, and how far apart they are."""
    poses = (turned(mesh, TURN * n) for n in range(options.frames + 1))
    first, *sets = (views_of(pose, paint, options.views, options.size) for pose in poses)
    tracker.update(first)  # compiles what a warm frame needs
    other = copy.deepcopy(tracker)
    other._rasterizer, other._kernels = rasterizer, kernels
    copy.deepcopy(other).update(first)
    theirs, slow = follow(tracker, sets)
    ours, fast = follow(other, sets)
    table = Table(title=f"{title}: a warm frame, milliseconds (medians of {options.frames})")
    table.add_column("stage")
    for column in ("CPU (numba)", "CUDA"):
        table.add_column(column, justify="right")
    for name in slow:
        table.add_row(name, *(f"{each.get(name, 0.0):.1f}" for each in (slow, fast)))
    console.print(table)
    apart = 1e3 * np.linalg.norm(ours - theirs, axis=2)
    middle, most = float(np.median(apart)), float(np.percentile(apart, 99))
    console.print(f"vertices of the two tracks are {middle:.5f} mm apart in the median, 99 %: {most:.5f} mm")
    return {"cpu_ms": slow, "cuda_ms": fast, "apart_mm_median": middle, "apart_mm_p99": most}


if __name__ == "__main__":
    sys.exit(main())
