"""`headstream reconstruct` on a capture with truth: meshes a second, time a stage, memory, error.

    python -m benchmarks offline CAPTURE [--frames 60] [--cameras GROUP]

The simulated subject that `headstream demo` bakes is such a capture (in the user's cache folder).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._machine import machine, peak_memory_gb
from launch.evaluate import evaluate, table
from launch.reconstruct import Job, reconstruct
from protocol.capture_folder import CaptureFolder
from protocol.rig import NormalsConfig, SurfaceConfig


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--cameras")
    options = parser.parse_args()
    print(machine())
    folder = CaptureFolder.open(options.capture)
    calibration = folder.calibration.select(options.cameras)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            folder, calibration, Path(scratch), folder.frames[: options.frames], False, NormalsConfig(), SurfaceConfig()
        )
        at: list[float] = []
        report = reconstruct(job, lambda *_: at.append(time.perf_counter()))
        print(f"{len(calibration.cameras)} cameras, {len(at)} frames, peak {peak_memory_gb():.2f} GB")
        first = report["frames"][0]
        print(f"first frame ({first['kind']}): {first['seconds_total']:.2f} s")
        if len(at) > 1:
            gaps = np.diff(at)
            print(f"warm: {1 / gaps.mean():.2f} meshes a second; {1e3 * np.median(gaps):.0f} ms median, "
                  f"{1e3 * np.percentile(gaps, 95):.0f} ms at 95 %")  # fmt: skip
            stages: dict[str, list[float]] = {}
            for entry in report["frames"][1:]:
                for stage, seconds in entry.get("seconds", {}).items():
                    stages.setdefault(stage, []).append(1e3 * seconds)
            for stage, values in sorted(stages.items(), key=lambda item: -np.mean(item[1])):
                print(f"  {stage:<24}{np.mean(values):7.1f} ms")
        print(table(evaluate(Path(scratch), options.capture, 30, lambda *_: None)))


if __name__ == "__main__":
    main()
