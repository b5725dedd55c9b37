"""The normal engine: milliseconds a frame set, parity with torch in full precision, for views and sizes.

    python -m benchmarks normals [--engine openvino|torch] [--precision bf16] [--shapes 8x256,10x256]

A lit ball in a ring of cameras: speed does not depend on what is in a picture, and parity is measured on the ball. On a
GPU (engine torch) the time is that of `predict`: pictures in host memory to maps in host memory.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks._machine import machine
from models.engines import ENGINES, NormalEngine, make_engine
from models.engines.parity import lit_ball, parity, ring
from protocol.calibration import Camera


def milliseconds(engine: NormalEngine, images: np.ndarray, cameras: list[Camera], repeats: int) -> np.ndarray:
    """Times of ``predict``, after warming up."""
    for _ in range(3):
        engine.predict(images, cameras)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        engine.predict(images, cameras)
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


def main() -> None:
    """Print a line a shape; ``--json FILE`` writes them as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--weights", type=Path, help="default: the shipped ones")
    parser.add_argument("--shapes", default="8x256")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine())
    rows = []
    for shape in options.shapes.split(","):
        views, size = map(int, shape.split("x"))
        engine = make_engine(
            options.engine, weights=options.weights, views=views, size=size, precision=options.precision
        )
        cameras = ring(views, size)
        images, _ = lit_ball(cameras)
        times = milliseconds(engine, images, cameras, options.repeats)
        row = {
            "engine": engine.describe(),
            "views": views,
            "size": size,
            "median_ms": float(np.median(times)),
            "fastest_ms": float(times.min()),
            "parity_mean_deg": parity(engine, options.weights).mean_deg,
        }
        rows.append(row)
        print(f"{shape:>8}  {row['median_ms']:7.1f} ms median, {row['fastest_ms']:7.1f} fastest, "
              f"parity {row['parity_mean_deg']:.2f} deg  ({row['engine']})", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
