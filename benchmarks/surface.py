"""Keyframe and warm frames on a capture whose truth is known: milliseconds per stage and millimetres of error.

    python -m benchmarks surface CAPTURE [--frames N] [--vertices N] [--size N]

Normals and masks are the capture's own truth, once as they are and once with errors like those of a small network
(7 degrees smooth and 3 degrees of noise, outlines off by a pixel), so that what is measured is the surface alone, where
two cameras see it. Frames without truth are left out. A capture of one frame is played again and again; its warm
frames then show whether a still surface stays where it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._machine import machine
from fusion_server.surface import SurfaceFrame, SurfaceSettings, SurfaceTracker, View
from geometry.cameras import crop_image, cropped, undistort, without_distortion
from geometry.measure import DistanceSummary, SurfaceIndex, sample_surface
from geometry.mesh import Mesh, read_ply
from geometry.rasterize.cpu import CpuRasterizer
from geometry.visibility import views_of
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

SMOOTH, WHITE, OUTLINE = 7.0, 3.0, 1.0  # degrees, degrees, pixels
SAMPLES = 20_000
SEEN_BY = 2  # cameras: what fewer see is closed by guess


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    noisy: bool
    photometric: bool


CASES = (
    Case("true normals", False, False),
    Case("true normals, photometric", False, True),
    Case("noisy normals", True, False),
    Case("noisy normals, photometric", True, True),
)


def truth_views(capture: CaptureFolder, frame: str, size: int) -> list[View]:
    """The capture's own maps of one frame, cut to squares of ``size``, pictures twice as fine."""
    views = []
    for raw in capture.calibration.cameras:
        camera = without_distortion(raw)
        paths = capture.jpeg(frame, camera.name), capture.mask(frame, camera.name), capture.normal(frame, camera.name)
        picture = undistort(raw, cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE))
        mask = undistort(raw, cv2.imread(str(paths[1]), cv2.IMREAD_GRAYSCALE)).astype(np.float32) / 255
        normal = undistort(raw, np.load(paths[2])["normal"].astype(np.float32)) * mask[..., None]
        side = max(camera.width, camera.height)
        window = ((camera.width - side) / 2, (camera.height - side) / 2, side)
        inside = crop_image(np.ones_like(mask), *window, size) > 0.99
        views.append(
            View(
                camera=cropped(camera, *window, size),
                normal=unit(crop_image(normal, *window, size)),
                confidence=np.ones((size, size), np.float32),
                mask=crop_image(mask, *window, size),
                image=crop_image(picture, *window, 2 * size),
                image_camera=cropped(camera, *window, 2 * size),
                valid=None if inside.all() else inside,
            )
        )
    return views


def has_truth(capture: CaptureFolder, frame: str) -> bool:
    """Whether a frame has a mesh, and masks and normals of every camera."""
    names = capture.calibration.names
    paths = [capture.mesh(frame), *(capture.mask(frame, name) for name in names)]
    return all(path.exists() for path in (*paths, *(capture.normal(frame, name) for name in names)))


def spoiled(view: View, draw: np.random.Generator) -> View:
    """A view as a small network would see it."""
    size = view.mask.shape[0]

    def field(blur: float) -> np.ndarray:
        noise = draw.normal(size=(size, size, 2)).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise
        return noise / noise.std() / np.sqrt(2)

    tilt = np.radians(SMOOTH) * field(size / 17) + np.radians(WHITE) * field(0)
    first = unit(np.cross(view.normal, [1.0, 0.0, 0.0]))
    second = np.cross(view.normal, first)
    normal = unit(view.normal + first * tilt[..., :1] + second * tilt[..., 1:])
    places = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + OUTLINE * field(size / 21)
    mask = cv2.remap(view.mask, places.astype(np.float32), None, cv2.INTER_LINEAR)
    return replace(view, normal=normal.astype(np.float32), mask=mask)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def play(capture: CaptureFolder, case: Case, frames: int, settings: SurfaceSettings, size: int) -> Iterator[tuple]:
    """(surface, truth, views) of one frame after the other."""
    tracker = SurfaceTracker(replace(settings, photometric=case.photometric), CpuRasterizer())
    draw = np.random.default_rng(1)
    usable = [frame for frame in capture.frames if has_truth(capture, frame)]
    if not usable:
        raise HeadstreamError(f"{capture.root}: no frame has its mesh, masks and normals beside it to compare with")
    for n in range(frames):
        frame = usable[n % len(usable)]
        views = truth_views(capture, frame, size)
        if case.noisy:
            views = [spoiled(view, draw) for view in views]
        yield tracker.update(views), read_ply(capture.mesh(frame)), views


def errors(surface: SurfaceFrame, truth: Mesh, views: list[View]) -> tuple[DistanceSummary, DistanceSummary]:
    """From points of the surface to the truth, and back, from what two cameras see of either to all of the other."""
    mesh = Mesh(surface.vertices, surface.faces)
    there = SurfaceIndex(truth).distances(sample_surface(seen(mesh, views), SAMPLES))
    back = SurfaceIndex(mesh).distances(sample_surface(seen(truth, views), SAMPLES))
    return DistanceSummary.of(there), DistanceSummary.of(back)


def seen(mesh: Mesh, views: list[View]) -> Mesh:
    """The faces that two cameras see."""
    count = views_of(mesh.vertices, mesh.faces, [view.camera for view in views], CpuRasterizer())
    return Mesh(mesh.vertices, mesh.faces[(count >= SEEN_BY)[mesh.faces].all(1)])


def main() -> int:
    """Run every case and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("--frames", type=int, default=8, help="of each case, the keyframe among them")
    parser.add_argument("--vertices", type=int, default=SurfaceSettings.vertices)
    parser.add_argument("--size", type=int, default=256, help="of the maps, pixels")
    options = parser.parse_args()
    settings = SurfaceSettings(vertices=options.vertices)
    console = Console(width=200)
    console.print(machine())
    accuracy = Table(title=f"{options.capture}: millimetres, median / 95 %")
    for column in ("normals", "frame", "surface to truth", "truth to surface", "IoU", "inverted", "flags"):
        accuracy.add_column(column)
    timing = Table(title="milliseconds (medians of warm frames)")
    stages: list[str] = []
    rows = []
    try:
        capture = CaptureFolder.open(options.capture)
        for _ in play(capture, CASES[1], 2, settings, options.size):
            pass  # compiles every kernel
        for case in CASES:
            results = list(play(capture, case, options.frames, settings, options.size))
            for kind in ("keyframe", "warm"):
                chosen = [(result[0], *errors(*result)) for result in results if result[0].kind == kind]
                if not chosen:
                    continue
                accuracy.add_row(case.name, f"{len(chosen)} {kind}", *_accuracy(chosen))
                seconds = [surface.seconds for surface, _, _ in chosen]
                names = list(dict.fromkeys(name for each in seconds for name in each))
                stages.extend(name for name in names if name not in stages)
                medians = {name: 1e3 * float(np.median([each.get(name, 0) for each in seconds])) for name in names}
                total = 1e3 * float(np.median([sum(each.values()) for each in seconds]))
                rows.append((case.name, kind, total, medians))
    except HeadstreamError as error:
        print(f"surface: {error}", file=sys.stderr)
        return 2
    for column in ("normals", "frame", "total", *stages):
        timing.add_column(column, justify="right" if column not in ("normals", "frame") else "left")
    for name, kind, total, medians in rows:
        cells = (f"{medians[stage]:.0f}" if stage in medians else "" for stage in stages)
        timing.add_row(name, kind, f"{total:.0f}", *cells)
    console.print(accuracy)
    console.print(timing)
    return 0


def _accuracy(chosen: list) -> tuple[str, ...]:
    def pair(summaries: list[DistanceSummary]) -> str:
        median, p95 = (np.median([getattr(s, name) for s in summaries]) * 1e3 for name in ("median", "p95"))
        return f"{median:.3f} / {p95:.2f}"

    flags = sorted({flag for surface, _, _ in chosen for flag in surface.quality.flags})
    return (
        pair([there for _, there, _ in chosen]),
        pair([back for _, _, back in chosen]),
        f"{np.median([surface.quality.silhouette_iou for surface, _, _ in chosen]):.3f}",
        f"{max(surface.quality.inverted for surface, _, _ in chosen)}",
        ", ".join(flags),
    )


if __name__ == "__main__":
    sys.exit(main())
