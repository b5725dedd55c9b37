"""Takes whose truth is known, played to the surface's tracker and measured: what ``surface`` and ``fast`` share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from benchmarks._machine import resident
from fusion_server.surface import Quality, SurfaceFrame, SurfaceSettings, SurfaceTracker, View
from geometry.cameras import crop_image, cropped, undistort, without_distortion
from geometry.measure import DistanceSummary, Slides, SurfaceIndex, sample_surface
from geometry.mesh import Mesh, read_ply, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from geometry.visibility import seen_part
from models.synthetic.bake import BakeSettings
from models.synthetic.photography import through_jpeg
from protocol.calibration import Camera
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

SMOOTH, WHITE, OUTLINE = 7.0, 3.0, 1.0  # degrees, degrees, pixels
GRAIN = 1.1  # of 255: a sensor's noise at middle grey, that of the baked captures
OFF_GRID = 4  # pixels: JPEG knows its own blocks again, and would round a second time to what the first left
SAMPLES = 20_000
SEEN_BY = 2  # cameras: what fewer see is closed by guess
FAULTS = ("lost", "frozen", "turned", "turned-from-start")


@dataclass(frozen=True)
class Case:
    """What the tracker is given: whether with a network's errors, and whether it looks at pictures."""

    name: str
    noisy: bool
    photometric: bool


CASES = (
    Case("true normals", False, False),
    Case("true normals, photometric", False, True),
    Case("noisy normals", True, False),
    Case("noisy normals, photometric", True, True),
)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong (one of FAULTS), and at which of the played frames."""

    name: str
    frames: range

    @classmethod
    def within(cls, name: str, count: int) -> Fault:
        """A fault for the second third of so many frames; "from-start" for the first, too."""
        return cls(name, range(0 if name.endswith("from-start") else count // 3, 2 * count // 3))


@dataclass(frozen=True)
class Played:
    """One frame of a take: what is known of what came out, how far it is from the truth (None where it was not
    measured), how far vertices have slid, the memory in use (MB), and the seconds that measuring took."""

    frame: int
    kind: str
    quality: Quality
    seconds: dict[str, float]
    memory: float
    there: DistanceSummary | None
    back: DistanceSummary | None
    slid: DistanceSummary | None
    measuring: float = 0.0


def with_truth(capture: CaptureFolder) -> list[str]:
    """The frames that have a mesh, and masks of every camera. Raises HeadstreamError when there is none."""
    names = capture.calibration.names
    usable = [
        frame
        for frame in capture.frames
        if all(path.exists() for path in (capture.mesh(frame), *(capture.mask(frame, name) for name in names)))
    ]
    if not usable:
        raise HeadstreamError(f"{capture.root}: no frame has its mesh and masks beside it to compare with")
    return usable


def order(there: int, count: int, stride: int, loop: bool) -> list[int]:
    """Which of ``there`` frames to play, ``count`` of them, each so manieth: a loop goes on at its start, anything else
    goes back the way it came, so that no step is larger than the stride."""
    if loop:
        return [n * stride % there for n in range(count)]
    last = there - 1
    return [last - abs(last - n * stride % (2 * last)) if last else 0 for n in range(count)]


def truth_views(capture: CaptureFolder, frame: str, size: int) -> list[View]:
    """The capture's own maps of one frame, cut to squares of ``size``, pictures twice as fine. Where the truth knows no
    normal, nothing is claimed: confidence 0."""
    views = []
    rendered = None
    for n, raw in enumerate(capture.calibration.cameras):
        camera = without_distortion(raw)
        mask_path, normal_path = capture.mask(frame, camera.name), capture.normal(frame, camera.name)
        picture = cv2.imread(str(capture.jpeg(frame, camera.name)), cv2.IMREAD_GRAYSCALE)
        mask = undistort(raw, cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)).astype(np.float32) / 255
        if normal_path.exists():
            normal = undistort(raw, np.load(normal_path)["normal"].astype(np.float32)) * mask[..., None]
        else:
            rendered = rendered_normals(capture, frame) if rendered is None else rendered
            normal = rendered[n] * mask[..., None]
        window = _window(camera)
        inside = crop_image(np.ones_like(mask), *window, size) > 0.99
        unknown = ((mask > 0.5) & ~normal.any(-1)).astype(np.float32)
        views.append(
            View(
                camera=cropped(camera, *window, size),
                normal=unit(crop_image(normal, *window, size)),
                confidence=1 - crop_image(unknown, *window, size),
                mask=crop_image(mask, *window, size),
                image=_cut(raw, picture, size),
                image_camera=cropped(camera, *window, 2 * size),
                valid=None if inside.all() else inside,
            )
        )
    return views


def _window(camera: Camera) -> tuple[float, float, int]:
    """Left, top and side of the square that the whole picture fits into."""
    side = max(camera.width, camera.height)
    return (camera.width - side) / 2, (camera.height - side) / 2, side


def _cut(raw: Camera, picture: np.ndarray, size: int) -> np.ndarray:
    """A camera's picture (H, W) as a view has it.  # 2 size, 2 size uint8"""
    return crop_image(undistort(raw, picture), *_window(raw), 2 * size)


def rendered_normals(capture: CaptureFolder, frame: str) -> list[np.ndarray]:
    """Normals of the true mesh as each camera sees them, camera frames; 0 where it sees the mesh from within: a baked
    head has no inside of the mouth.  # H,W,3 each"""
    mesh = read_ply(capture.mesh(frame))
    normals = vertex_normals(mesh.vertices, mesh.faces)
    maps = []
    for raw in capture.calibration.cameras:
        camera = without_distortion(raw)
        world = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [camera]).interpolate(mesh.faces, normals)[0]
        seen = unit(world @ camera.R.T.astype(np.float32))
        maps.append(np.where(seen[..., 2:] < 0, seen, 0))
    return maps


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


def photographed(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3) uint8 as another exposure of the same scene has it: a sensor's noise drawn anew, and JPEG as
    the baked captures have it."""
    light = picture.astype(np.float32) / 255
    noise = draw.standard_normal(picture.shape, np.float32) * (GRAIN / 255)
    noisy = light + noise * np.sqrt(1.6 * light + 0.1)  # shot and read noise: ``models.synthetic.photography``
    levels = (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)
    edge = OFF_GRID
    wide = cv2.copyMakeBorder(levels, edge, edge, edge, edge, cv2.BORDER_REFLECT_101)
    return through_jpeg(wide, BakeSettings.quality)[edge:-edge, edge:-edge]


class StillHead:
    """One frame of a capture, exposed again and again."""

    def __init__(self, capture: CaptureFolder, frame: str, size: int):
        self._cameras, self._size = capture.calibration.cameras, size
        self._views = truth_views(capture, frame, size)
        self._pictures = [
            cv2.imread(str(capture.jpeg(frame, camera.name)))[..., ::-1] for camera in capture.calibration.cameras
        ]

    def exposed(self, draw: np.random.Generator) -> list[View]:
        """The views with the noise of their pictures drawn anew; normals and masks are the truth's."""
        return [
            replace(view, image=_cut(camera, cv2.cvtColor(photographed(picture, draw), cv2.COLOR_RGB2GRAY), self._size))
            for view, camera, picture in zip(self._views, self._cameras, self._pictures, strict=True)
        ]


def trembling(vertices: np.ndarray, normals: np.ndarray) -> DistanceSummary:
    """Of a still head's vertices (N, P, 3) in N frames: each one's root mean square about its own mean, along its
    normal (P, 3), metres."""
    along = ((vertices - vertices.mean(0)) * normals).sum(2)
    return DistanceSummary.of(along.std(0))


def play(
    capture: CaptureFolder,
    case: Case,
    names: Sequence[str],
    settings: SurfaceSettings,
    size: int,
    every: int = 1,
    fault: Fault | None = None,
) -> Iterator[Played]:
    """Track frame after frame; the first two are measured, and then each ``every``."""
    tracker = SurfaceTracker(replace(settings, photometric=case.photometric), CpuRasterizer())
    draw = np.random.default_rng(1)
    last: list[View] = []
    slides = Slides()
    for n, frame in enumerate(names):
        views = truth_views(capture, frame, size)
        if case.noisy:
            views = [spoiled(view, draw) for view in views]
        seen_by = views
        if fault is not None and n in fault.frames:
            views = faulty(views, last, fault.name)
        last = views
        surface = tracker.update(views)
        begin = time.perf_counter()
        there = back = slid = None
        if n < 2 or n % every == 0:
            truth = read_ply(capture.mesh(frame))
            there, back = errors(surface, truth, seen_by)
            away = slides.away(Mesh(surface.vertices, surface.faces), truth)
            slid = None if away is None else DistanceSummary.of(away)
        measuring = time.perf_counter() - begin
        yield Played(n, surface.kind, surface.quality, surface.seconds, resident(), there, back, slid, measuring)


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


def errors(surface: SurfaceFrame, truth: Mesh, views: list[View]) -> tuple[DistanceSummary, DistanceSummary]:
    """From points of the surface to the truth, and back, from what two cameras see of either to all of the other."""
    mesh = Mesh(surface.vertices, surface.faces)
    cameras, rasterizer = [view.camera for view in views], CpuRasterizer()
    ours, theirs = (sample_surface(seen_part(each, cameras, rasterizer, SEEN_BY), SAMPLES) for each in (mesh, truth))
    there, back = SurfaceIndex(truth).distances(ours), SurfaceIndex(mesh).distances(theirs)
    return DistanceSummary.of(there), DistanceSummary.of(back)
