"""JPEG decoders up to pictures on the network's device: milliseconds a set, TurboJPEG's pool against nvJPEG.

    python -m benchmarks decoders [--views 10] [--sizes 512x512,2448x2048] [--threads 4] [--device cuda] [--json FILE]

What a rig's `normals.decode` is to be chosen by: the same JPEGs, quality 90, of a picture with structure down to a few
pixels. "there" is until the pictures are in the device's memory: for TurboJPEG that is decoding into pinned memory and
the copies, for nvJPEG the call. A decoder that is not here is said so. --device cpu shows only that all of it runs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks._machine import keep, machine
from fusion_server.decode import TurboDecoder
from fusion_server.decode_nvjpeg import NvjpegDecoder
from fusion_server.sight.device import Staging
from geometry.device import Lane, compute_device
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError


def cameras(views: int, width: int, height: int) -> Calibration:
    """Cameras of a size; where they stand does not matter here."""
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    return Calibration(
        tuple(Camera(f"cam{n}", width, height, K, np.zeros(5), np.eye(3), np.zeros(3)) for n in range(views)), {}, {}
    )


def jpegs(calibration: Calibration) -> dict[str, bytes]:
    """One a camera: smooth shade and fine grain, about 0.3 bytes a pixel."""
    rng, found = np.random.default_rng(0), {}
    for camera in calibration.cameras:
        coarse = cv2.resize(rng.uniform(40, 210, (12, 12, 3)).astype(np.float32), (camera.width, camera.height))
        grain = cv2.GaussianBlur(rng.normal(0, 24, coarse.shape).astype(np.float32), (0, 0), 1.2)
        picture = np.clip(coarse + grain, 0, 255).astype(np.uint8)
        found[camera.name] = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return found


def turbo(calibration: Calibration, sources: dict[str, bytes], device: torch.device, options: Any) -> dict[str, float]:
    """TurboJPEG's pool into pinned memory, then the copies."""
    staging, lane = Staging({camera.name: camera for camera in calibration.cameras}, device), Lane(device)
    decoder = TurboDecoder(options.threads, staging.room)
    decode, there = [], []
    for _ in range(options.repeats + 2):
        start = time.perf_counter()
        _, faults = decoder.decode(sources, calibration)
        assert not faults
        decode.append(1e3 * (time.perf_counter() - start))
        with lane.entered():
            for name, host in staging.turn.host.items():
                staging.turn.device[name].copy_(host, non_blocking=True)
        lane.mark().wait()
        there.append(1e3 * (time.perf_counter() - start))
    decoder.close()
    return {"decode_ms": float(np.median(decode[2:])), "there_ms": float(np.median(there[2:]))}


def nvjpeg(calibration: Calibration, sources: dict[str, bytes], device: torch.device, options: Any) -> dict[str, float]:
    """One call a set."""
    decoder, times = NvjpegDecoder(Lane(device)), []
    for _ in range(options.repeats + 2):
        start = time.perf_counter()
        _, faults = decoder.decode(sources, calibration)
        assert not faults
        times.append(1e3 * (time.perf_counter() - start))
    return {"there_ms": float(np.median(times[2:]))}


def main() -> None:
    """Print a line a size and decoder; ``--json FILE`` writes them as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--sizes", default="512x512,2448x2048")
    parser.add_argument("--threads", type=int, default=0, help="of TurboJPEG's pool; 0: half of the cores, 2 to 16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine())
    device, rows = compute_device(options.device), []
    for text in options.sizes.split(","):
        width, height = (int(side) for side in text.split("x"))
        calibration = cameras(options.views, width, height)
        sources = jpegs(calibration)
        kilobytes = sum(map(len, sources.values())) / 1e3
        for name, measure in (("turbojpeg", turbo), ("nvjpeg", nvjpeg)):
            row: dict[str, Any] = {"decoder": name, "views": options.views, "size": text, "kilobytes": kilobytes}
            try:
                row |= measure(calibration, sources, device, options)
            except HeadstreamError as error:
                row["fault"] = str(error)
            rows.append(row)
            times = ", ".join(f"{key[:-3]} {row[key]:.2f} ms" for key in ("decode_ms", "there_ms") if key in row)
            print(f"{options.views} x {text} ({kilobytes:.0f} kB), {name}: {times or row['fault']}", flush=True)
            keep(options.json, rows)


if __name__ == "__main__":
    main()
