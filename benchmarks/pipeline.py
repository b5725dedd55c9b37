"""From JPEGs to meshes with the pipeline's own threads: rate, latency, time a stage, memory, error against truth.

    python -m benchmarks pipeline CAPTURE [--ways host,device,nvjpeg] [--fps 30,60,0] [--frames 60] [--json FILE]

CAPTURE is a capture folder with true meshes; where there is none such, one is baked there (--views, --pixels,
--seconds). Each way runs at each rate: `host` undistorts and cuts with OpenCV, `device` where the network runs, decoded
by TurboJPEG into pinned memory; `nvjpeg` decodes there, too; `cpu` does everything on the CPU, for the errors. A set's
JPEGs are in memory when it is put into the pipeline, and its latency counts from then; rate 0 puts a set as soon as the
one before was decoded. A way makes its keyframe once, and the first mesh at a rate is not counted. Stages of a device
are CUDA's times, the others the wall's. --device cpu emulates the kernels: its times say nothing about a GPU.

First comes what a window that moves costs the host in a set, with `device` and `nvjpeg`: weights for the kernel that
cuts, and the cameras' rays for the network. It needs no GPU; --frames 0 prints no more than that.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._machine import keep, machine, peak_memory_gb
from fusion_server.decode import Decoder, make_decoder
from fusion_server.framing import Window
from fusion_server.memory import keep_freed_memory
from fusion_server.pipeline import Pipeline, Result
from fusion_server.reconstruct import Reconstructor, make_reconstructor
from fusion_server.sight.device import Weights
from fusion_server.surface.photometric import fine_size
from fusion_server.synchronize import FrameSet
from geometry.cameras import without_distortion
from geometry.measure import SurfaceIndex, sample_surface
from geometry.mesh import Mesh, read_ply
from geometry.rasterize import make_rasterizer
from geometry.visibility import seen_part
from models.rays import RaysByCamera, stack_cameras
from models.synthetic.bake import bake_capture
from protocol.calibration import Calibration, Camera
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.messages import Frame, FrameHeader
from protocol.rig import NormalsConfig, SurfaceConfig

_PATIENCE = 300.0  # seconds for a keyframe, and for the last mesh
_SEEN_BY, _POINTS, _MEASURED = 2, 5000, 10  # cameras that must see what is measured; points of a mesh; meshes


@dataclass(frozen=True)
class Way:
    """One row: settings, and what became of the sets."""

    way: str
    fps: float
    meshes_per_second: float
    latency_ms: float
    latency_95_ms: float
    skipped: int
    stages_ms: dict[str, float]
    median_mm: float
    tail_mm: float  # 95 %
    host_gb: float
    device_mb: dict[str, float]
    median_to_cpu: float | None = None  # of the CPU's run, over the sets that both made meshes of


def settings(way: str, options: argparse.Namespace) -> tuple[NormalsConfig, SurfaceConfig]:
    """What a rig file would say for a way."""
    size, vertices, weights = options.size, options.vertices, str(options.weights or "")
    if way == "cpu":
        engine = NormalsConfig(engine="torch", device="cpu", precision="f32", size=size, weights=weights)
        return engine, SurfaceConfig(vertices=vertices)
    normals = NormalsConfig(
        engine=options.engine,
        device=options.device,
        windows="cpu" if way == "host" else "cuda",
        decode="nvjpeg" if way == "nvjpeg" else "turbojpeg",
        precision=options.precision,
        size=size,
        weights=weights,
    )
    device = options.surface_device or options.device
    return normals, SurfaceConfig(rasterizer="cuda", kernels="cuda", device=device, vertices=vertices)


def run(
    way: str, fps: float, capture: CaptureFolder, sets: list[dict[str, bytes]], made: tuple[Reconstructor, Decoder]
) -> tuple[Way, list[Result]]:
    """Put all sets through a pipeline of its own; the results are those of all sets but the first."""
    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    pipeline = Pipeline(capture.calibration, *made)
    results: list[Result] = []
    faults: list[str] = []
    taken = threading.Semaphore(0)
    pipeline.observe(results.append, faults.append, lambda _: taken.release())
    pipeline.start()
    try:
        pipeline.put(_set(0, sets[0]))
        _until(lambda: len(results) + pipeline.faults > 0, pipeline, faults)  # of a way's first rate a keyframe
        if not results:
            raise HeadstreamError(faults[-1])
        taken.acquire(timeout=_PATIENCE)
        begin = time.perf_counter()
        for n, jpegs in enumerate(sets[1:], start=1):
            if fps:
                time.sleep(max(0.0, begin + (n - 1) / fps - time.perf_counter()))
            pipeline.put(_set(n, jpegs))
            if not fps:
                taken.acquire(timeout=_PATIENCE)
        _until(lambda: len(results) + pipeline.skipped + pipeline.faults >= len(sets), pipeline, faults)
        took = time.perf_counter() - begin
    finally:
        pipeline.stop()
    warm = results[1:]
    latency = [1e3 * result.latency_s for result in warm]
    stages: dict[str, list[float]] = {}
    for result in warm:
        for stage, seconds in {**result.observation.seconds, **result.surface.seconds}.items():
            stages.setdefault(stage, []).append(1e3 * seconds)
    median, tail = errors(warm, capture)
    row = Way(
        way, fps, len(warm) / took, float(np.mean(latency)), float(np.percentile(latency, 95)), pipeline.skipped,
        {stage: float(np.median(values)) for stage, values in stages.items()}, median, tail, peak_memory_gb(),
        {str(device): torch.cuda.max_memory_allocated(device) / 2**20 for device in devices},
    )  # fmt: skip
    return row, warm


def errors(results: list[Result], capture: CaptureFolder) -> tuple[float, float]:
    """Median and 95 % distance to the true surface of what two cameras see, mm, over some of the meshes."""
    cameras = [without_distortion(camera) for camera in capture.calibration.cameras]
    rasterizer, found = make_rasterizer("cpu"), []
    for n in np.unique(np.linspace(0, len(results) - 1, min(_MEASURED, len(results))).astype(int)):
        surface, truth = results[n].surface, read_ply(capture.mesh(_frame(capture, results[n].index)))
        seen = seen_part(Mesh(surface.vertices, surface.faces), cameras, rasterizer, _SEEN_BY)
        distances = 1e3 * SurfaceIndex(truth).distances(sample_surface(seen, _POINTS))
        found.append((np.median(distances), np.percentile(distances, 95)))
    median, tail = np.mean(found, 0)
    return float(median), float(tail)


def compared(results: list[Result], reference: list[Result], capture: CaptureFolder) -> float | None:
    """Median error over that of a reference, both of the sets that both have; None where there are none."""
    both = {result.index for result in results} & {result.index for result in reference}
    if not both:
        return None
    ours, theirs = (errors([r for r in each if r.index in both], capture)[0] for each in (results, reference))
    return ours / theirs


def _frame(capture: CaptureFolder, index: int) -> str:
    return capture.frames[index % len(capture.frames)]


def _set(index: int, jpegs: dict[str, bytes]) -> FrameSet:
    now = time.time_ns()
    frames = {
        name: Frame(FrameHeader(name, "memory", index, index, now, now, 0, 0, 0, 0), jpeg)
        for name, jpeg in jpegs.items()
    }
    return FrameSet(index, now, frames, (), 0)


def _until(done: Callable[[], bool], pipeline: Pipeline, faults: list[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while not done():
        if pipeline.failure is not None:
            raise pipeline.failure
        if time.monotonic() > end:
            raise HeadstreamError(f"no mesh for {_PATIENCE:.0f} s; {faults[-1] if faults else 'and nothing is wrong'}")
        time.sleep(1e-3)


def moved(cameras: Sequence[Camera], size: int) -> dict[str, tuple[float, float]]:
    """Milliseconds on the host, fastest of nine, when one window moves and when all do: weights, rays.

    Windows are of three quarters of the picture's smaller side, and move by a pixel.
    """
    fine, pinholes = fine_size(size), {camera.name: without_distortion(camera) for camera in cameras}
    found = {}
    for name, moving in (("one moves", [cameras[0].name]), ("all move", list(pinholes))):
        weights, rays = Weights(pinholes, fine), RaysByCamera(size, size, 2 * len(cameras))
        times = []
        for turn in range(10):
            windows = {}
            for camera in cameras:
                side, shift = 0.75 * min(camera.width, camera.height), float(turn) if camera.name in moving else 0.0
                windows[camera.name] = Window(0.1 * camera.width + shift, 0.1 * camera.height, side)
            stacked = stack_cameras([window.camera(pinholes[name], size) for name, window in windows.items()])
            begin = time.perf_counter()
            weights.of(windows)
            between = time.perf_counter()
            rays.pinhole_inputs(*stacked)
            times.append((1e3 * (between - begin), 1e3 * (time.perf_counter() - between)))
        found[name] = tuple(np.min(times[1:], axis=0))
    return found


def opened(options: argparse.Namespace) -> CaptureFolder:
    """The capture, baked where it is not there."""
    if not options.capture.exists():
        print(f"baking {options.views} views of {options.pixels} px, {options.seconds:g} s at 30 fps", flush=True)
        bake_capture(
            options.capture, seconds=options.seconds, cameras=options.views, size=options.pixels, maps_every=10_000,
            workers=options.workers,
        )  # fmt: skip
    return CaptureFolder.open(options.capture)


def read(capture: CaptureFolder, calibration: Calibration, count: int) -> list[dict[str, bytes]]:
    """JPEGs of ``count`` sets in memory, the loop's frames again and again."""
    frames = [_frame(capture, n) for n in range(count)]
    held = {
        frame: {name: capture.jpeg(frame, name).read_bytes() for name in calibration.names} for frame in set(frames)
    }
    return [held[frame] for frame in frames]


def main() -> None:
    """Print a table; ``--json FILE`` writes it as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--ways", default="host,device,nvjpeg")
    parser.add_argument("--fps", default="30,60,0")
    parser.add_argument("--frames", type=int, default=60, help="sets a run, the keyframe's included; 0: none")
    parser.add_argument("--cpu-frames", type=int, default=0, help="of a run on the CPU before the others; 0: none")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--precision", default="")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cuda", help="of the network; cpu: emulated")
    parser.add_argument("--surface-device", default="", help="of the surface; empty: the same")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--vertices", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=0, help="that decode; 0: half of the cores, 2 to 16")
    parser.add_argument("--views", type=int, default=10, help="to bake")
    parser.add_argument("--pixels", type=int, default=512, help="to bake")
    parser.add_argument("--seconds", type=float, default=2.0, help="to bake")
    parser.add_argument("--workers", type=int, default=2, help="to bake")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine())
    capture = opened(options)
    keep_freed_memory()  # as the server does
    host_ms = moved(capture.calibration.cameras, options.size)
    for what, (weights, rays) in host_ms.items():
        print(
            f"of {len(capture.calibration.names)} windows {what}: weights {weights:.1f}, rays {rays:.1f} ms of the host"
        )
    sets = read(capture, capture.calibration, options.frames)
    plan = [("cpu", [0.0])] if options.cpu_frames else []
    if options.frames:
        plan += [(way, [float(fps) for fps in options.fps.split(",")]) for way in options.ways.split(",")]
    report: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "moved_windows_ms": host_ms}
    report["rows"] = []
    reference: list[Result] = []
    for way, rates in plan:
        put = sets[: options.cpu_frames] if way == "cpu" else sets
        try:
            normals, surface = settings(way, options)
            reconstructor = make_reconstructor(capture.calibration, normals, surface)
            decoder = make_decoder(normals.decode, options.threads, reconstructor.sight)
            with closing(decoder):
                for fps in rates:
                    row, results = run(way, fps, capture, put, (reconstructor, decoder))
                    if way == "cpu":
                        reference = results
                    elif reference:
                        row = replace(row, median_to_cpu=compared(results, reference, capture))
                    report["rows"].append(asdict(row))
                    keep(options.json, report)
                    say(row)
        except HeadstreamError as error:
            print(f"{way}: {error}", flush=True)
    keep(options.json, report)


def say(row: Way) -> None:
    """A row for people."""
    way, fps = row.way, row.fps
    print(
        f"{way}, {f'{fps:g} sets a second' if fps else 'as fast as it goes'}: {row.meshes_per_second:.1f} meshes a "
        f"second, {row.latency_ms:.0f} ms (95 %: {row.latency_95_ms:.0f}), {row.skipped} skipped; "
        f"{row.median_mm:.3f} mm median, 95 %: {row.tail_mm:.2f}"
        f"{f' ({row.median_to_cpu:.3f} of the CPU)' if row.median_to_cpu else ''}; {row.host_gb:.1f} GB, "
        f"{', '.join(f'{device} {size:.0f} MB' for device, size in row.device_mb.items()) or 'no GPU'}"
    )
    print("  " + ", ".join(f"{stage} {value:.2f}" for stage, value in row.stages_ms.items()) + " ms", flush=True)


if __name__ == "__main__":
    main()
