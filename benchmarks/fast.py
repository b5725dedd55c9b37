"""Fast motion: a nod of 300 degrees a second and a mouth that opens within three frames, tracked against their truth.

    python -m benchmarks fast [--only nod|shout] [--case NAME] [--vertices N] [--size N]

The demo's subject at 30 frames a second before eight cameras of 512 px, baked at the first run (a few minutes,
380 MB) and kept in the user's cache. Both performances are in ``models/synthetic/performance.py``:

nod: the head tilts by 32 degrees and back within ten frames, at most 10 degrees from frame to frame.
shout: the mouth is closed, three frames later as wide as it goes, stays so for nine frames and closes in six.

What is measured is what ``surface`` measures, on every frame, with the truth's normals and with noisy ones. The true
mesh has no inside of the mouth: what the surface makes of teeth and tongue counts as error, as far as it is from the
lips, also while the mouth stays open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import platformdirs
from rich.console import Console

from benchmarks._machine import machine
from benchmarks._phases import Phase
from benchmarks._tables import accuracy_table, add_rows, quality_table, remark, timing_table
from benchmarks._takes import CASES, Played, play, with_truth
from fusion_server.memory import keep_freed_memory
from fusion_server.surface import SurfaceSettings
from launch.progress import progress_bar
from models.synthetic.bake import bake_capture
from models.synthetic.performance import NOD_STAGES, PERFORMANCES, SHOUT_STAGES, Stage
from models.synthetic.scenes import turn
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

FPS = 30.0
CLOSED = 1000  # frames: maps are rendered from the mesh, which shows all but the inside of a mouth


@dataclass(frozen=True)
class Motion:
    """A performance to bake: how many frames of it, its fast parts, and how often maps are kept."""

    name: str
    frames: int
    stages: tuple[Stage, ...]
    maps_every: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / FPS

    def phases(self) -> tuple[Phase, ...]:
        """Before, each stage, and after. A stage has the frames that differ from the one before because of it."""
        stages = tuple(
            Phase(stage.name, range(round(stage.begins * FPS) + 1, round(stage.ends * FPS) + 1), not stage.fast)
            for stage in self.stages
        )
        first, last = stages[0].frames.start, stages[-1].frames.stop
        return (
            Phase("keyframe", range(1)),
            Phase("before", range(1, first)),
            *stages,
            Phase("after", range(last, self.frames), settles=True),
        )

    def largest_turn(self) -> float:
        """How far the head turns from one frame to the next, at most, degrees."""
        poses = [turn(*PERFORMANCES[self.name](n / self.frames, self.seconds).angles) for n in range(self.frames)]
        cosines = [(np.trace(a.T @ b) - 1) / 2 for a, b in pairwise(poses)]
        return float(np.degrees(np.arccos(np.clip(min(cosines), -1, 1))))


MOTIONS = (Motion("nod", 36, NOD_STAGES, CLOSED), Motion("shout", 40, SHOUT_STAGES, 1))


def baked(motion: Motion) -> CaptureFolder:
    """The motion's capture, rendered unless it is there."""
    folder = platformdirs.user_cache_path("headstream") / f"fast-{motion.name}"
    with progress_bar(quiet=False) as progress:
        task = progress.add_task(f"bake the {motion.name}", total=None)
        bake_capture(
            folder,
            seconds=motion.seconds,
            fps=FPS,
            maps_every=motion.maps_every,
            performance=motion.name,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return CaptureFolder.open(folder)


def main() -> int:
    """Bake, play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[motion.name for motion in MOTIONS])
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one; else both with pictures")
    parser.add_argument("--vertices", type=int, default=SurfaceSettings.vertices)
    parser.add_argument("--size", type=int, default=256, help="of the maps, pixels")
    options = parser.parse_args()
    settings = SurfaceSettings(vertices=options.vertices, uv=False)
    cases = [case for case in CASES if options.case == case.name or (options.case is None and case.photometric)]
    console = Console(width=200)
    console.print(machine())
    keep_freed_memory()  # as everything does that makes meshes
    try:
        for motion in MOTIONS:
            if options.only in (None, motion.name):
                capture = baked(motion)
                names = with_truth(capture)
                for _ in play(capture, cases[-1], names[:2], settings, options.size):
                    pass  # compiles every kernel
                _show(
                    console,
                    motion,
                    {case.name: list(play(capture, case, names, settings, options.size)) for case in cases},
                )
    except HeadstreamError as error:
        print(f"fast: {error}", file=sys.stderr)
        return 2
    return 0


def _show(console: Console, motion: Motion, runs: dict[str, Sequence[Played]]) -> None:
    spans = ", ".join(f"{phase.name} {phase.frames.start} to {phase.frames.stop - 1}" for phase in motion.phases()[1:])
    title = f"{motion.name}, at most {motion.largest_turn():.1f} degrees from frame to frame; frames: {spans}"
    table = accuracy_table(title)
    parts: dict[tuple[str, str], list[Played]] = {}
    for name, played in runs.items():
        console.print(remark(f"{motion.name}, {name}", played))
        parts |= add_rows(table, name, played, motion.phases())
    for each in (table, quality_table(parts), timing_table(runs)):
        console.print(each)


if __name__ == "__main__":
    sys.exit(main())
