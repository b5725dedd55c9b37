"""Every table of docs/model.md for some weights: synthetic scenes, ablations, captures, speed; about five minutes.

    python -m benchmarks model [--weights FILE] [--captures DIR ...] [--sets 32] [--out FILE] [--into docs/model.md]

What it prints are Markdown tables with the command that prints each alone. Scenes are rendered once and kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._machine import machine
from benchmarks.ablations import ablate, shown
from benchmarks.normals import milliseconds
from launch.evaluate_synthetic import USUAL_VIEWS, EngineChoice, evaluate_synthetic, synthetic_table
from models.engines.parity import lit_ball, parity, ring
from models.held_out import held_out_sets
from models.scores import rows_table
from models.weights import weights_digest, weights_path
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def sections(options: argparse.Namespace, numbers: dict) -> Iterator[str]:
    """The document, piece by piece as each is measured; the same numbers go into ``numbers``."""
    path = weights_path(options.weights)
    yield f"`{path.name}` {weights_digest(path)[:8]}, {path.stat().st_size / 1e6:.1f} MB. {machine()}."
    choice = EngineChoice(options.engine, options.weights, options.size, options.precision)
    scenes = held_out_sets(options.sets, 0, max(USUAL_VIEWS), options.size, options.cache, workers=os.cpu_count() or 1)
    numbers["synthetic"] = evaluate_synthetic(choice, options.sets, 0, USUAL_VIEWS, options.cache, lambda *_: None)
    yield f"### Scenes never trained on\n\n`headstream evaluate --synthetic --sets {options.sets}`"
    yield synthetic_table(numbers["synthetic"])
    rows = {}
    for root in options.captures:
        from launch.evaluate_capture import capture_parts, evaluate_capture  # late: it needs the server's libraries

        capture = CaptureFolder.open(root)
        found = evaluate_capture(choice, capture, capture.calibration, options.frames, lambda *_: None)
        rows[f"{root.name}, {len(capture.calibration.cameras)} views, {found['frames']} frame(s)"] = found
    if rows:
        numbers["captures"] = rows
        yield f"### Captures with truth\n\n`headstream evaluate CAPTURE`\n\n{rows_table('capture', rows)}"
        for name, found in rows.items():
            yield "\n\n".join([f"{name.partition(',')[0]}:", *capture_parts(found)])
    few = scenes[: options.ablation_sets]
    numbers["ablations"] = ablate(
        options.weights, few, 6, {"alone": options.trained_alone, "blind": options.trained_blind}
    )
    yield f"### The same weights, given less\n\n`python -m benchmarks ablations --sets {len(few)}`"
    yield shown(numbers["ablations"], 6)
    engine = choice.make(8)
    cameras = ring(8, options.size)
    times = milliseconds(engine, lit_ball(cameras)[0], cameras, 20)
    numbers["speed"] = {"median_ms": float(np.median(times)), "fastest_ms": float(times.min())}
    apart = parity(engine, options.weights).mean_deg
    yield f"### Speed\n\n`python -m benchmarks normals --shapes 8x{options.size}`"
    fast = f"{np.median(times):.0f} ms median, {times.min():.0f} fastest"
    yield f"{engine.describe()}: {fast}; {apart:.2f} degrees from PyTorch in float32."


def replaced(document: Path, tables: str) -> str:
    """The document with the tables between its two marks. Raises HeadstreamError where it has no such marks."""
    try:
        before, rest = document.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError):
        raise HeadstreamError(
            f"{document}: needs one line {BEGIN!r} and one {END!r}, between which tables go"
        ) from None
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    """Print the document as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="default: the shipped ones")
    parser.add_argument("--captures", type=Path, nargs="*", default=[], help="capture folders that know their normals")
    parser.add_argument("--frames", type=int, default=3, help="at most so many frames of a capture")
    parser.add_argument("--sets", type=int, default=32)
    parser.add_argument("--ablation-sets", type=int, default=12)
    parser.add_argument("--trained-alone", type=Path, help="as `python -m benchmarks ablations` takes it")
    parser.add_argument("--trained-blind", type=Path)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cache", type=Path, help="where scenes are kept; default: the user's cache")
    parser.add_argument("--into", type=Path, help="replace what stands between the marks of this document")
    parser.add_argument("--out", type=Path, help="write the tables to this file, and the numbers beside it as .json")
    options = parser.parse_args()
    start = time.monotonic()
    numbers: dict = {}
    parts: list[str] = []
    try:
        if options.into:
            replaced(options.into, "")  # refused now and not after five minutes
        for part in sections(options, numbers):
            print(part + "\n", flush=True)
            parts.append(part)
    except HeadstreamError as error:
        raise SystemExit(f"model: {error}") from None
    print(f"({time.monotonic() - start:.0f} s)")
    if options.into:
        options.into.write_text(replaced(options.into, "\n\n".join(parts)), encoding="utf-8")
    if options.out:
        options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        options.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
