"""Writes training sets: one .npz a multi-view set, deterministic for a seed and an index, resumable.

    python -m models.synthetic.training_sets --out DIR --count 3000 --seed 1 --workers 1

A set holds image uint8 (V, S, S, 3), normal int8 (V, S, S, 3) = round(127 n) in the camera's OpenCV frame, mask uint8
(V, S, S) 0 or 255, depth float16 (V, S, S) metres along the camera's axis and 0 where nothing is, K, R (V, 3, 3) and t
(V, 3) float32, world metres.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.synthetic.backdrop import Backdrop
from models.synthetic.photography import Sensor, develop, draw_cameras, exposure_for, through_jpeg
from models.synthetic.render import Rendering, render
from models.synthetic.scenes import draw_scene
from models.workers import spread
from protocol.errors import HeadstreamError

EMPTY_SHARE = 0.04  # of the sets: nobody is there, as before a take; a network that never saw that sees heads in walls


def make_set(seed: int, index: int, views: int = 6, size: int = 256) -> dict[str, np.ndarray]:
    """One multi-view set; the same numbers for the same arguments. Keys as the module says."""
    rng = np.random.default_rng([seed, index])
    scene = draw_scene(rng)
    cameras = draw_cameras(rng, scene.surface.vertices, views, size)
    renderings = render(scene.surface, cameras, scene.lighting)
    masks = [rendering.mask for rendering in renderings]
    gain = exposure_for([rendering.light for rendering in renderings], masks)
    if rng.random() < EMPTY_SHARE:
        renderings = [rendering.emptied() for rendering in renderings]
        masks = [rendering.mask for rendering in renderings]
    images, _ = photograph(rng, renderings, masks, gain, scene.flash)
    return {
        "image": images,
        "normal": np.stack([np.rint(rendering.normal * 127).astype(np.int8) for rendering in renderings]),
        "mask": np.stack(masks).astype(np.uint8) * np.uint8(255),
        "depth": np.stack([rendering.depth for rendering in renderings]).astype(np.float16),
        "K": np.stack([camera.K for camera in cameras]).astype(np.float32),
        "R": np.stack([camera.R for camera in cameras]).astype(np.float32),
        "t": np.stack([camera.t for camera in cameras]).astype(np.float32),
    }


def photograph(
    rng: np.random.Generator, renderings: Sequence[Rendering], masks: Sequence[np.ndarray], gain: float, flash: bool
) -> tuple[np.ndarray, str]:
    """What the cameras of one rig make of linear light: pictures (V, S, S, 3) uint8 RGB, and the backdrop's kind.

    The sensors are of one make, each with its own faults, before one backdrop.
    """
    backdrop = Backdrop.draw(rng, flash)
    common = int(rng.integers(1 << 30))
    images = []
    for rendering, mask in zip(renderings, masks, strict=True):
        sensor = Sensor.draw(rng, np.random.default_rng(common))
        behind = backdrop.picture(rng, len(mask))
        picture = develop(rendering.light * np.float32(gain), mask, behind, sensor, rng)
        images.append(through_jpeg(picture, sensor.quality))
    return np.stack(images), backdrop.kind


def write_sets(out: Path, count: int, seed: int, workers: int = 1, views: int = 6, size: int = 256) -> Iterator[int]:
    """Write the sets that are missing in ``out``; yields the index of each as it is done."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(out, seed, index, views, size) for index in range(count) if not (out / f"{index:06d}.npz").exists()]
    if workers <= 1:
        yield from map(_write_one, jobs)
        return
    yield from spread(_write_one, jobs, workers)


def _write_one(job: tuple[Path, int, int, int, int]) -> int:
    out, seed, index, views, size = job
    scratch = out / f"{index:06d}.part"
    with scratch.open("wb") as file:
        np.savez(file, **make_set(seed, index, views, size))
    scratch.replace(out / f"{index:06d}.npz")
    return index


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="render multi-view training sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    start = time.monotonic()
    try:
        for done, _ in enumerate(write_sets(**vars(options)), 1):
            if done % 20 == 0:
                rate = done / (time.monotonic() - start)
                print(f"{done} sets, {rate:.2f} sets/s ({rate * options.views:.0f} images/s)", flush=True)
    except HeadstreamError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
