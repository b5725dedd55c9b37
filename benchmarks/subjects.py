"""First meshes of many simulated subjects, live and final, against their truth: what to choose a surface's numbers by.

    python -m benchmarks subjects [--count 8] [--seed 0] [--cameras 8] [--fill 0.87] [--size 512] [--quality live,final]

People, statues and skulls in turn from the generator of training sets, each under light, before a backdrop and through
sensors of its own, and drawn with random numbers that no training draws (``models.held_out``); the cameras stand in a
ring. --fill: how much of a picture's side the subject takes; less of it makes larger pixels.
Distances are those of `headstream evaluate`. Ratios between two runs say more than their numbers.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks._machine import machine
from geometry.mesh import Mesh, write_ply
from launch.evaluate import evaluate
from launch.reconstruct import Job, final, reconstruct
from models.held_out import HELD_OUT
from models.synthetic.photography import exposure_for, look_at
from models.synthetic.render import render
from models.synthetic.scenes import draw_scene
from models.synthetic.training_sets import photograph
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

KINDS = ("person", "statue", "skull")
QUALITIES = ("live", "final")
FRAME = "000000"
HEAD = 0.36  # metres from a person's crown down: what the pictures show


def draw_subject(out: Path, seed: int, index: int, count: int, fill: float, size: int) -> str:
    """Render subject ``index``, from so many cameras, into the capture folder ``out``; its kind comes back."""
    kind = KINDS[index % len(KINDS)]
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, index, HELD_OUT, attempt])
        scene = draw_scene(rng)
        if scene.kind == kind:
            break
    cameras = _ring(rng, scene.surface.vertices, kind, count, fill, size)
    renderings = render(scene.surface, cameras, scene.lighting)
    masks = [rendering.mask for rendering in renderings]
    images, _ = photograph(
        rng, renderings, masks, exposure_for([rendering.light for rendering in renderings], masks), scene.flash
    )
    pictures = out / "frames" / FRAME
    pictures.mkdir(parents=True)
    (out / "mesh").mkdir()
    save_calibration(Calibration(tuple(cameras), {}), out / "cameras.json")
    for camera, image in zip(cameras, images, strict=True):
        cv2.imwrite(str(pictures / f"{camera.name}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_ply(out / "mesh" / f"{FRAME}.ply", Mesh(scene.surface.vertices, scene.surface.faces))
    return kind


def _ring(rng: np.random.Generator, points: np.ndarray, kind: str, count: int, fill: float, size: int) -> list[Camera]:
    low, high = points.min(0), points.max(0)
    middle, side = (low + high) / 2, float((high - low).max())
    if kind == "person":
        middle, side = np.array([0.0, high[1] - 0.4 * HEAD, 0.0]), HEAD
    away, cameras = rng.uniform(0.9, 1.3), []
    for n, azimuth in enumerate(2 * np.pi * np.arange(count) / count):
        c = np.cos(elevation := np.radians(rng.uniform(-5, 20)))
        place = middle + away * np.array([np.sin(azimuth) * c, np.sin(elevation), np.cos(azimuth) * c])
        cameras.append(look_at(f"cam{n}", place, middle, fill * size * away / side, (size, size)))
    return cameras


def main() -> None:
    """Print a line a subject and the means of the logarithms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--fill", type=float, default=0.87)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--quality", default=",".join(QUALITIES))
    options = parser.parse_args()
    qualities = options.quality.split(",")
    if not set(qualities) <= set(QUALITIES):
        raise SystemExit(f"benchmarks subjects: --quality: {options.quality!r}; must be of {', '.join(QUALITIES)}")
    print(f"{machine()}; seed {options.seed}, {options.cameras} cameras, median / 95 % mm, normals")
    scores: dict[str, list[tuple[float, float]]] = {quality: [] for quality in qualities}
    for index in range(options.count):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "subject"
            kind = draw_subject(root, options.seed, index, options.cameras, options.fill, options.size)
            line = f"{index:3} {kind:8}"
            for quality in qualities:
                folder = CaptureFolder.open(root)
                out = Path(scratch) / quality
                job = Job(folder, folder.calibration, out, folder.frames, False, NormalsConfig(), SurfaceConfig())
                try:
                    report = reconstruct(final(job) if quality == "final" else job, lambda *_: None)
                except HeadstreamError as error:
                    line += f"   {quality}: none ({error})"
                    continue
                found = evaluate(out, root, None, lambda *_: None)
                median, tail = found["surface_median_mm"], found["surface_95_mm"]
                scores[quality].append((median, tail))
                line += f"   {quality} {median:.3f} / {tail:5.2f}, {found['mesh_normals_mean_deg']:4.1f} deg"
                line += f", {report['frames'][0]['vertices']} vertices"
            print(line, flush=True)
    for quality, pairs in scores.items():
        if pairs:
            median, tail = np.exp(np.log(pairs).mean(0))
            print(f"{quality}, {len(pairs)} subjects, geometric mean: {median:.3f} / {tail:.2f}")


if __name__ == "__main__":
    main()
