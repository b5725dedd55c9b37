"""A whole take against its truth: millimetres of error, drift, jitter and milliseconds a stage.

    python -m benchmarks surface CAPTURE [--frames N] [--stride N] [--vertices N] [--size N] [--every N] [--case NAME]
                                         [--fault NAME] [--no-skin]

Normals and masks are the capture's own truth, once as they are and once with errors like those of a small network
(7 degrees smooth and 3 degrees of noise, outlines off by a pixel), so that what is measured is the surface alone, where
two cameras see it. Normals that a capture lacks are rendered from its mesh. Frames without truth are left out. A
capture of one frame is played again and again; its warm frames then show whether a still surface stays where it is.
"Slid" is how far vertices are from the points of the true skin at which the keyframe had them: distances to a surface
do not notice what goes along it. Jitter is that of the first frame played again and again, errors drawn anew each time:
root mean square along normals.

With --stride N only every so manieth frame is played: everything moves N times as fast.
Faults begin after a third of the frames and last a third: "lost" takes two cameras away, "frozen" repeats one camera's
last picture, "turned" has one camera turned by a degree from what its calibration says.
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

from benchmarks._machine import machine, resident
from fusion_server.memory import keep_freed_memory
from fusion_server.surface import Quality, SurfaceFrame, SurfaceSettings, SurfaceTracker, View
from geometry.align import rigid_motion
from geometry.cameras import crop_image, cropped, undistort, without_distortion
from geometry.measure import DistanceSummary, Slides, SurfaceIndex, sample_surface
from geometry.mesh import Mesh, read_ply, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from geometry.visibility import seen_part
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

SMOOTH, WHITE, OUTLINE = 7.0, 3.0, 1.0  # degrees, degrees, pixels
SAMPLES = 20_000
SETTLE, STILL = 5, 12  # frames of a still head: before it is measured, and measured
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
    rendered = None
    for n, raw in enumerate(capture.calibration.cameras):
        camera = without_distortion(raw)
        paths = capture.jpeg(frame, camera.name), capture.mask(frame, camera.name), capture.normal(frame, camera.name)
        picture = undistort(raw, cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE))
        mask = undistort(raw, cv2.imread(str(paths[1]), cv2.IMREAD_GRAYSCALE)).astype(np.float32) / 255
        if paths[2].exists():
            normal = undistort(raw, np.load(paths[2])["normal"].astype(np.float32)) * mask[..., None]
        else:
            rendered = rendered_normals(capture, frame) if rendered is None else rendered
            normal = rendered[n] * mask[..., None]
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


def rendered_normals(capture: CaptureFolder, frame: str) -> list[np.ndarray]:
    """Normals of the true mesh as each camera sees them, camera frames.  # H,W,3 each"""
    mesh = read_ply(capture.mesh(frame))
    normals = vertex_normals(mesh.vertices, mesh.faces)
    maps = []
    for raw in capture.calibration.cameras:
        camera = without_distortion(raw)
        world = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [camera]).interpolate(mesh.faces, normals)[0]
        maps.append(unit(world @ camera.R.T.astype(np.float32)))
    return maps


def has_truth(capture: CaptureFolder, frame: str) -> bool:
    """Whether a frame has a mesh, and masks of every camera."""
    return all(
        path.exists()
        for path in (capture.mesh(frame), *(capture.mask(frame, name) for name in capture.calibration.names))
    )


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


@dataclass(frozen=True)
class Played:
    """One frame of a take: what is known of what came out, how far it is from the truth (None where it was not
    measured), how far vertices have slid, and the memory in use, MB."""

    kind: str
    quality: Quality
    seconds: dict[str, float]
    memory: float
    there: DistanceSummary | None
    back: DistanceSummary | None
    slid: DistanceSummary | None


def play(
    capture: CaptureFolder,
    case: Case,
    frames: int,
    settings: SurfaceSettings,
    size: int,
    every: int,
    fault: str = "",
    stride: int = 1,
) -> Iterator[Played]:
    """Track frame after frame; of the first and last 30 each third is measured, of the others each ``every``."""
    tracker = SurfaceTracker(replace(settings, photometric=case.photometric), CpuRasterizer())
    draw = np.random.default_rng(1)
    usable = [frame for frame in capture.frames if has_truth(capture, frame)][::stride]
    if not usable:
        raise HeadstreamError(f"{capture.root}: no frame has its mesh and masks beside it to compare with")
    last: list[View] = []
    slides = Slides()
    for n in range(frames):
        frame = usable[n % len(usable)]
        views = truth_views(capture, frame, size)
        if case.noisy:
            views = [spoiled(view, draw) for view in views]
        seen_by = views
        if fault and frames // 3 <= n < 2 * frames // 3:
            views = faulty(views, last, fault)
        last = views
        surface = tracker.update(views)
        measured = n < 2 or n % (3 if n <= 30 or n >= frames - 30 else every) == 0
        there = back = slid = None
        if measured:
            truth = read_ply(capture.mesh(frame))
            there, back = errors(surface, truth, seen_by)
            away = slides.away(Mesh(surface.vertices, surface.faces), truth)
            slid = None if away is None else DistanceSummary.of(away)
        yield Played(surface.kind, surface.quality, surface.seconds, resident(), there, back, slid)


def faulty(views: list[View], last: list[View], fault: str) -> list[View]:
    """The views of a frame with something wrong; last: those of the frame before."""
    if fault == "lost":
        return [view for n, view in enumerate(views) if n not in (1, len(views) // 2)]
    if fault == "frozen":
        return [views[0], last[1], *views[2:]]
    c, s = np.cos(np.radians(1.0)), np.sin(np.radians(1.0))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    wrong = [
        replace(camera, R=turn @ camera.R, t=turn @ camera.t) for camera in (views[1].camera, views[1].image_camera)
    ]
    return [views[0], replace(views[1], camera=wrong[0], image_camera=wrong[1]), *views[2:]]


def fastest(capture: CaptureFolder, frames: int, stride: int) -> tuple[float, float]:
    """The largest turn (degrees) and the largest way of a point (metres) from one played frame to the next."""
    names = [frame for frame in capture.frames if has_truth(capture, frame)][::stride][:frames]
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


def jitter(capture: CaptureFolder, case: Case, settings: SurfaceSettings, size: int) -> float:
    """Root mean square of a still head's vertices about their mean, along their normals, metres: the median vertex."""
    tracker = SurfaceTracker(replace(settings, photometric=case.photometric), CpuRasterizer())
    draw = np.random.default_rng(2)
    views = truth_views(capture, next(frame for frame in capture.frames if has_truth(capture, frame)), size)
    surfaces = [
        tracker.update([spoiled(view, draw) for view in views] if case.noisy else views) for _ in range(SETTLE + STILL)
    ]
    vertices = np.stack([surface.vertices for surface in surfaces[SETTLE:]])
    along = ((vertices - vertices.mean(0)) * surfaces[-1].normals).sum(2)
    return float(np.median(along.std(0)))


def errors(surface: SurfaceFrame, truth: Mesh, views: list[View]) -> tuple[DistanceSummary, DistanceSummary]:
    """From points of the surface to the truth, and back, from what two cameras see of either to all of the other."""
    mesh = Mesh(surface.vertices, surface.faces)
    cameras, rasterizer = [view.camera for view in views], CpuRasterizer()
    ours, theirs = (sample_surface(seen_part(each, cameras, rasterizer, SEEN_BY), SAMPLES) for each in (mesh, truth))
    there, back = SurfaceIndex(truth).distances(ours), SurfaceIndex(mesh).distances(theirs)
    return DistanceSummary.of(there), DistanceSummary.of(back)


def main() -> int:
    """Play every case and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("--frames", type=int, default=300, help="of each case, the keyframe among them")
    parser.add_argument("--stride", type=int, default=1, help="play every so manieth frame")
    parser.add_argument("--vertices", type=int, default=SurfaceSettings.vertices)
    parser.add_argument("--size", type=int, default=256, help="of the maps, pixels")
    parser.add_argument("--every", type=int, default=10, help="measure each so manieth frame between first and last 30")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--fault", choices=["lost", "frozen", "turned"], help="what goes wrong for a third of the take")
    parser.add_argument("--no-skin", action="store_true", help="let vertices slide along the surface")
    options = parser.parse_args()
    settings = SurfaceSettings(vertices=options.vertices, uv=False, skin=not options.no_skin)
    console = Console(width=200)
    console.print(machine())
    keep_freed_memory()  # as everything does that makes meshes
    accuracy = Table(title=f"{options.capture}: millimetres, median / 95 %")
    distances = ("surface to truth", "truth to surface", "slid")
    for column in ("normals", "frames", *distances, "IoU", "inverted", "jitter", "flags"):
        accuracy.add_column(column)
    timing = Table(title="milliseconds (medians)")
    stages: list[str] = []
    rows = []
    try:
        capture = CaptureFolder.open(options.capture)
        for _ in play(capture, CASES[1], 2, settings, options.size, 2):
            pass  # compiles every kernel
        turn, way = fastest(capture, options.frames, options.stride)
        console.print(
            f"from frame to frame the subject turns up to {turn:.1f} degrees and a point goes {1e3 * way:.0f} mm"
        )
        for case in [case for case in CASES if options.case in (None, case.name)]:
            fault, stride = options.fault or "", options.stride
            played = list(play(capture, case, options.frames, settings, options.size, options.every, fault, stride))
            quarter = max(1, len(played) // 4)
            parts = played[quarter : 2 * quarter] or played, played[-quarter:]
            early, late = (max(each.memory for each in part) for part in parts)
            console.print(f"{case.name}: at most {early:.0f} MB in use in the second quarter, {late:.0f} in the last")
            shake = jitter(capture, case, settings, options.size)
            for name, chosen in _spans(played, bool(options.fault)).items():
                if any(each.there for each in chosen):
                    accuracy.add_row(case.name, name, *_accuracy(chosen, shake if name == "warm" else None))
            for kind in ("keyframe", "warm"):
                seconds = [each.seconds for each in played if each.kind == kind]
                names = list(dict.fromkeys(name for each in seconds for name in each))
                stages.extend(name for name in names if name not in stages)
                medians = {name: 1e3 * float(np.median([each.get(name, 0) for each in seconds])) for name in names}
                total = 1e3 * float(np.median([sum(each.values()) for each in seconds])) if seconds else 0.0
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


def _spans(played: list[Played], fault: bool) -> dict[str, list[Played]]:
    """The parts of a take that get a row of their own."""
    count = len(played)
    spans = {"keyframe": played[:1], "warm": played[1:]}
    if fault:
        third, two = count // 3, 2 * count // 3
        return spans | {"before": played[1:third], "during": played[third:two], "after": played[two:]}
    if count > 60:
        spans |= {"first 30 warm": played[1:31], "last 30": played[-30:]}
    return spans


def _accuracy(chosen: list[Played], shake: float | None) -> tuple[str, ...]:
    def pair(summaries: list[DistanceSummary]) -> str:
        if not summaries:
            return ""
        median, p95 = (np.median([getattr(s, name) for s in summaries]) * 1e3 for name in ("median", "p95"))
        return f"{median:.3f} / {p95:.2f}"

    counts: dict[str, int] = {}
    for each in chosen:
        for flag in each.quality.flags:
            counts[flag] = counts.get(flag, 0) + 1
    return (
        pair([each.there for each in chosen if each.there]),
        pair([each.back for each in chosen if each.back]),
        pair([each.slid for each in chosen if each.slid]),
        f"{np.median([each.quality.silhouette_iou for each in chosen]):.3f}",
        f"{max(each.quality.inverted for each in chosen)}",
        "" if shake is None else f"{1e3 * shake:.3f}",
        ", ".join(f"{flag} x{n}" for flag, n in sorted(counts.items())),
    )


if __name__ == "__main__":
    sys.exit(main())
