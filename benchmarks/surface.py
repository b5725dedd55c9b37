"""A whole take against its truth: millimetres of error, drift, jitter and milliseconds a stage.

    python -m benchmarks surface CAPTURE [--frames N] [--stride N] [--vertices N] [--size N] [--every N] [--case NAME]
                                         [--fault NAME] [--no-skin]

Normals and masks are the capture's own truth, once as they are and once with errors like those of a small network
(7 degrees smooth and 3 degrees of noise, outlines off by a pixel), so that what is measured is the surface alone, where
two cameras see it. Normals that a capture lacks are rendered from its mesh. Frames without truth are left out. A take
that is no loop is played to and fro; one of one frame again and again, and its warm frames then show whether a still
surface stays where it is. "Slid" is how far vertices are from the points of the true skin at which the keyframe had
them: distances to a surface do not notice what goes along it.

Every frame is measured, and the worst one has a line of its own, so that no bad frame hides behind a median; what
measuring a frame takes is printed, and --every N measures each so manieth (and the first two). Drift is the error of
the last 30 measured warm frames over that of the first 30.

Jitter is what a mesh of a still head does because its pictures have noise. The first frame is exposed 65 times: a
sensor's noise and JPEG's are drawn anew for each picture, and so are the errors of normals and outlines where the case
has such. From the sixth frame on, each vertex's root mean square about its own mean, along its normal; of all vertices
the median and 95 %. It is that of what is handed out, filtered in time. True normals without pictures have no noise at
all, and no jitter to measure.

With --stride N only every so manieth frame is played: everything moves N times as fast.
Faults begin after a third of the frames and last a third, a second of the three that are played: "lost" takes two
cameras away, "frozen" repeats one camera's last picture, "turned" has one camera turned by a degree from what its
calibration says. "turned-from-start" has it turned from the keyframe on and right in the last third; what it is
compared with is then the first third without a fault. "all" is each of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks._machine import machine
from benchmarks._phases import Phase, around, whole
from benchmarks._tables import accuracy_table, add_rows, quality_table, remark, timing_table
from benchmarks._takes import CASES, FAULTS, Case, Fault, Played, StillHead, order, play, spoiled, trembling, with_truth
from fusion_server.memory import keep_freed_memory
from fusion_server.surface import SurfaceSettings, SurfaceTracker
from geometry.align import rigid_motion
from geometry.measure import DistanceSummary
from geometry.mesh import read_ply
from geometry.rasterize.cpu import CpuRasterizer
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

SETTLE, STILL = 5, 60  # frames of a still head: before it is measured, and measured
FRAMES, FAULT_FRAMES = 300, 90

Run = Callable[..., Iterator[Played]]  # of a case and the names of frames: ``play``
Shake = Callable[[Case], DistanceSummary]  # ``jitter``


def fastest(capture: CaptureFolder, names: Sequence[str]) -> tuple[float, float]:
    """The largest turn of the whole (degrees) and the largest way of a point (metres) from one frame to the next."""
    turn = way = 0.0
    before = None
    for name in names:
        vertices = read_ply(capture.mesh(name)).vertices
        if before is not None:
            R = rigid_motion(before, vertices).turn
            turn = max(turn, float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1)))))
            way = max(way, float(np.linalg.norm(vertices - before, axis=1).max()))
        before = vertices
    return turn, way


def jitter(
    still: StillHead, case: Case, settings: SurfaceSettings, frames: int = STILL, settle: int = SETTLE
) -> DistanceSummary:
    """How a still head's vertices tremble because pictures have noise."""
    tracker = SurfaceTracker(replace(settings, photometric=case.photometric), CpuRasterizer())
    draw = np.random.default_rng(2)
    surfaces = []
    for _ in range(settle + frames):
        views = still.exposed(draw)
        surfaces.append(tracker.update([spoiled(view, draw) for view in views] if case.noisy else views))
    return trembling(np.stack([surface.vertices for surface in surfaces[settle:]]), surfaces[-1].normals)


def main() -> int:
    """Play every case, without a fault or with each that is asked for, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    frames = f"of each case, the keyframe among them; {FRAMES}, with a fault {FAULT_FRAMES}"
    parser.add_argument("--frames", type=int, help=frames)
    parser.add_argument("--stride", type=int, default=1, help="play every so manieth frame")
    parser.add_argument("--vertices", type=int, default=SurfaceSettings.vertices)
    parser.add_argument("--size", type=int, default=256, help="of the maps, pixels")
    parser.add_argument("--every", type=int, default=1, help="measure each so manieth frame")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--fault", choices=[*FAULTS, "all"], help="what goes wrong for a third of the take")
    parser.add_argument("--no-skin", action="store_true", help="let vertices slide along the surface")
    options = parser.parse_args()
    settings = SurfaceSettings(vertices=options.vertices, uv=False, skin=not options.no_skin)
    cases = [case for case in CASES if options.case in (None, case.name)]
    count = (FAULT_FRAMES if options.fault else FRAMES) if options.frames is None else options.frames
    console = Console(width=200)
    console.print(machine())
    keep_freed_memory()  # as everything does that makes meshes
    try:
        least = 3 if options.fault else 1
        if count < least or options.stride < 1 or options.every < 1:
            raise HeadstreamError(f"--frames must be {least} or more here, --stride and --every 1 or more")
        capture = CaptureFolder.open(options.capture)
        usable = with_truth(capture)
        chosen = order(len(usable), count, options.stride, capture.info.get("loop") is True)
        names = [usable[n] for n in chosen]
        for _ in play(capture, CASES[1], names[:2], settings, options.size):
            pass  # compiles every kernel
        turn, way = fastest(capture, names)
        console.print(
            f"from frame to frame the subject turns up to {turn:.1f} degrees and a point goes {1e3 * way:.0f} mm"
        )
        run = partial(play, capture, settings=settings, size=options.size, every=options.every)
        title = f"{options.capture}"
        if options.fault is None:
            still = StillHead(capture, usable[0], options.size)
            shake = partial(jitter, still, settings=settings)
            _undisturbed(console, title, cases, names, run, shake)
        for fault in FAULTS if options.fault == "all" else (options.fault,) if options.fault else ():
            _with_fault(console, title, cases, names, run, Fault.within(fault, len(names)))
    except HeadstreamError as error:
        print(f"surface: {error}", file=sys.stderr)
        return 2
    return 0


def _undisturbed(
    console: Console, title: str, cases: Sequence[Case], names: Sequence[str], run: Run, shake: Shake
) -> None:
    table, phases = accuracy_table(title), whole(len(names))
    runs: dict[str, list[Played]] = {}
    parts: dict[tuple[str, str], list[Played]] = {}
    for case in cases:
        played = runs[case.name] = list(run(case, names))
        console.print(remark(case.name, played))
        if case.noisy or case.photometric:
            shaken = shake(case)
            median, p95 = 1e3 * shaken.median, 1e3 * shaken.p95
            console.print(f"{case.name}: jitter of a still head, {STILL} frames: {median:.4f} / {p95:.4f} mm")
        parts |= add_rows(table, case.name, played, phases)
    for each in (table, quality_table(parts), timing_table(runs)):
        console.print(each)


def _with_fault(
    console: Console, title: str, cases: Sequence[Case], names: Sequence[str], run: Run, fault: Fault
) -> None:
    last = fault.frames.stop - 1
    table, phases = (
        accuracy_table(f"{title}, {fault.name}: frames {fault.frames.start} to {last}"),
        around(fault, len(names)),
    )
    runs: dict[str, list[Played]] = {}
    parts: dict[tuple[str, str], list[Played]] = {}
    for case in cases:
        clean = list(run(case, names[: len(names) // 3])) if not fault.frames.start else []
        if clean:
            parts |= add_rows(table, case.name, clean, (Phase("no fault", range(1, len(clean))),))
        played = runs[case.name] = list(run(case, names, fault=fault))
        console.print(remark(f"{fault.name}, {case.name}", played))
        parts |= add_rows(table, case.name, played, phases, clean[1:])
    for each in (table, quality_table(parts), timing_table(runs)):
        console.print(each)


if __name__ == "__main__":
    sys.exit(main())
