"""The normal engine: milliseconds a frame set, parity with torch in full precision, for views and sizes.

    python -m benchmarks normals [--engine openvino|torch|tensorrt] [--precision bf16] [--shapes 8x256,10x256]
    python -m benchmarks normals [--count] --config models/training/full.toml

A lit ball in a ring of cameras: speed does not depend on what is in a picture, and parity is measured on the ball. The
time is that of `predict`: pictures in host memory to maps in host memory. On a GPU it is also told apart, by CUDA's
events, into upload, network and download; `--no-graph` enqueues kernel by kernel instead of replaying a CUDA graph.
`--config` times a network that nobody has trained yet: its weights are random, which changes no time, and rows say so
in the file's name.

`--count` runs nothing: it says how many operations a set takes and how many bytes go to a GPU and back, and what that
takes at least at `--teraflops` and `--gigabytes` a second: a floor to read measured times against.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._machine import keep, machine
from models.engines import ENGINES, NormalEngine, make_engine, usual_precision
from models.engines.parity import lit_ball, parity, ring
from models.engines.static import StaticEngine
from models.export import Inference, example_inputs
from models.network import NetworkConfig, NormalNetwork
from models.training.config import load_config
from models.weights import load_network, save_weights, weights_path
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


def work(config: NetworkConfig, views: int, size: int) -> dict[str, float]:
    """What one set takes: 1e9 operations (a multiplication and an addition are two); MB up, with cameras that moved,
    and MB down."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = Inference(NormalNetwork(config).eval().requires_grad_(False), "f16")
    inputs = [tensor.to("meta") for tensor in example_inputs(views, size)]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        maps = network(*inputs)
    up = inputs[0].nbytes + sum(tensor.nbytes for tensor in inputs[2:])  # the device writes the rays out itself
    return {
        "gflop": counter.get_total_flops() / 1e9,
        "up_mb": up / 1e6,
        "down_mb": sum(tensor.nbytes for tensor in maps) / 1e6,
    }


def untrained(path: Path, folder: Path) -> Path:
    """Random weights of a training config's network, written to a folder."""
    torch.manual_seed(0)
    network = NormalNetwork(load_config(path).network)
    return save_weights(network, folder / f"{path.stem}-untrained.safetensors", {"step": 0})


def print_work(options: argparse.Namespace, shapes: list[tuple[int, int]]) -> None:
    """The table of ``--count``."""
    weights = weights_path(options.weights)
    config = load_config(options.config).network if options.config else load_network(weights).config
    print(f"| {options.config or weights.name} | operations, 1e9 | up, down, MB | floor, ms |")
    print("| --- | --- | --- | --- |")
    for views, size in shapes:
        row = work(config, views, size)
        network = row["gflop"] / options.teraflops
        copies = (row["up_mb"] / options.gigabytes, row["down_mb"] / options.gigabytes)
        print(f"| {views} x {size} px | {row['gflop']:.0f} | {row['up_mb']:.1f}, {row['down_mb']:.1f} | "
              f"network {network:.2f}, upload {copies[0]:.2f}, download {copies[1]:.2f} |")  # fmt: skip


def made(options: argparse.Namespace, views: int, size: int) -> NormalEngine:
    """The engine that the options name."""
    if options.graph or options.engine not in ("torch", "tensorrt"):
        return make_engine(options.engine, weights=options.weights, views=views, size=size, precision=options.precision)
    precision = options.precision or usual_precision(options.engine)
    if options.engine == "torch":
        from models.engines.torch import TorchEngine

        return TorchEngine(options.weights, views, size, precision, graph=False)
    from models.engines.tensorrt import TensorRtEngine

    return TensorRtEngine(options.weights, views, size, precision, graph=False)


def main() -> None:
    """Print a line a shape; ``--json FILE`` writes them as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, default="openvino")
    parser.add_argument("--precision", default="", help="default: the engine's usual one")
    parser.add_argument("--no-graph", dest="graph", action="store_false", help="on a GPU: without a CUDA graph")
    parser.add_argument("--count", action="store_true", help="only count operations and bytes")
    parser.add_argument("--config", type=Path, help="a training config whose network is meant, untrained")
    parser.add_argument("--teraflops", type=float, default=500.0, help="with --count: what the GPU computes")
    parser.add_argument("--gigabytes", type=float, default=25.0, help="with --count: what the bus carries a second")
    parser.add_argument("--weights", type=Path, help="default: the shipped ones")
    parser.add_argument("--shapes", default="8x256")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shapes = [(int(views), int(size)) for views, size in (shape.split("x") for shape in options.shapes.split(","))]
    if options.count:
        print_work(options, shapes)
        return
    if options.config:
        with tempfile.TemporaryDirectory() as folder:
            options.weights = untrained(options.config, Path(folder))
            measure(options, shapes)
    else:
        measure(options, shapes)


def measure(options: argparse.Namespace, shapes: list[tuple[int, int]]) -> None:
    """Time every shape, and say how far the engine is from torch in full precision."""
    print(machine())
    rows = []
    for views, size in shapes:
        engine = made(options, views, size)
        cameras = ring(views, size)
        images, _ = lit_ball(cameras)
        times = milliseconds(engine, images, cameras, options.repeats)
        row: dict[str, Any] = {
            "engine": engine.describe(),
            "views": views,
            "size": size,
            "median_ms": float(np.median(times)),
            "fastest_ms": float(times.min()),
            "gpu_ms": engine.milliseconds() if isinstance(engine, StaticEngine) else {},
            "parity_mean_deg": parity(engine, options.weights).mean_deg,
        }
        rows.append(row)
        keep(options.json, rows)
        apart = "".join(f", {stage} {value:.2f}" for stage, value in row["gpu_ms"].items())
        print(f"{f'{views}x{size}':>8}  {row['median_ms']:7.1f} ms median, {row['fastest_ms']:7.1f} fastest{apart}, "
              f"parity {row['parity_mean_deg']:.2f} deg  ({row['engine']})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
