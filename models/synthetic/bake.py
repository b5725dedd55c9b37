"""Bakes the simulated rig: a talking head in calibrated cameras, written once as a capture folder with its truth.

Resumable: a frame is a folder that appears when it is whole, and the capture appears when every frame is there. The
truth mesh is exactly the surface that was rendered, and its relief is as fine as that mesh can carry, so that its
normals are the surface's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from geometry.mesh import Mesh, write_ply
from models.synthetic.lighting import Lamp, Lighting, ambient_visibility, sky_from, sphere_directions, with_shadows
from models.synthetic.performance import PERFORMANCES
from models.synthetic.photography import Sensor, develop, look_at
from models.synthetic.render import Rendering, Surface, render
from models.synthetic.scenes import turn
from models.synthetic.skin import Appearance, Look, dress
from models.synthetic.subject import Subject
from models.synthetic.topology import band_limited, capture_mesh, smooth_normals
from models.workers import spread
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.errors import HeadstreamError

VERSION = 2  # 1: hair had relief finer than the mesh
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BakeSettings:
    """What a baked capture depends on; it stands in its ``capture.json``."""

    seconds: float = 10.0
    fps: float = 30.0
    cameras: int = 8
    size: int = 512
    seed: int = 11
    quality: int = 92
    maps_every: int = 10  # truth normals and depth for every so manieth frame: they are large
    version: int = VERSION
    performance: str = "talk"  # one of ``PERFORMANCES``

    @property
    def frames(self) -> int:
        """Frames in one loop."""
        return max(1, round(self.seconds * self.fps))


def bake_capture(
    out: Path,
    *,
    seconds: float = 10.0,
    fps: float = 30.0,
    cameras: int = 8,
    size: int = 512,
    seed: int = 11,
    quality: int = 92,
    maps_every: int = 10,
    performance: str = "talk",
    workers: int = 2,
    progress: Progress | None = None,
) -> Path:
    """Render the loop into the capture folder ``out`` unless it is there; an interrupted bake goes on.

    A bake of another version of this module is replaced. progress(done, total) is told of frames. Raises
    HeadstreamError when ``out`` is something else, or when a value cannot be used.
    """
    if performance not in PERFORMANCES:
        raise HeadstreamError(f"bake: performance {performance!r}; must be one of {', '.join(PERFORMANCES)}")
    settings = BakeSettings(
        float(seconds), float(fps), cameras, size, seed, quality, maps_every, performance=performance
    )
    if seconds <= 0 or fps <= 0 or cameras < 1 or size < 32:
        raise HeadstreamError(
            f"bake: {seconds} s at {fps} fps, {cameras} cameras of {size} px; needs positive times, a camera and 32 px"
        )
    out = Path(out)
    made = _bake_key(out)
    if made is not None and made.get("version") != VERSION:
        shutil.rmtree(out)  # an older headstream's
    if out.exists():
        _check_finished(out, settings)
        if progress:
            progress(settings.frames, settings.frames)
        return out
    part = out.with_name(out.name + ".part")
    if part.exists() and _bake_key(part) != asdict(settings):
        shutil.rmtree(part)
    (part / "frames").mkdir(parents=True, exist_ok=True)
    save_calibration(Calibration(tuple(ring(settings)), _groups(settings)), part / "cameras.json")
    info = {"fps": settings.fps, "loop": True, "bake": asdict(settings)}
    (part / "capture.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    todo = [index for index in range(settings.frames) if not (part / "frames" / f"{index:06d}").exists()]
    done = settings.frames - len(todo)
    if todo:  # the first one here: kernels are compiled once and not by every worker
        for _ in _bake_frames(part, settings, todo, workers):
            done += 1
            if progress:
                progress(done, settings.frames)
    try:
        part.rename(out)
    except OSError:
        _check_finished(out, settings)  # another process was faster
        shutil.rmtree(part, ignore_errors=True)
    return out


def ring(settings: BakeSettings) -> list[Camera]:
    """Calibrated cameras around the head: denser in front of the face, elevations that vary."""
    elevations = np.radians([4.0, 15.0, -7.0, 2.0, 18.0, 8.0, -5.0, 12.0])
    out = []
    for k in range(settings.cameras):
        even = 2 * np.pi * (k / settings.cameras)
        azimuth = even - 0.33 * np.sin(even)
        elevation = elevations[k % len(elevations)]
        distance = 0.95
        place = distance * np.array(
            [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
        )
        focal = settings.size * distance / 0.37  # a field 37 cm high at the head
        target = (0.0, -0.015, 0.0)
        out.append(look_at(f"cam{k}", place + target, target, focal, (settings.size, settings.size)))
    return out


def _groups(settings: BakeSettings) -> dict[str, tuple[str, ...]]:
    cameras = ring(settings)
    front = tuple(camera.name for camera in cameras if camera.R[2, 2] < -0.2)
    return {"ring": tuple(camera.name for camera in cameras), **({"front": front} if front else {})}


def _bake_key(folder: Path) -> dict | None:
    """What a folder's bake depended on. One that names no performance is from when there was only one."""
    try:
        made = json.loads((folder / "capture.json").read_text(encoding="utf-8")).get("bake")
    except (OSError, ValueError, AttributeError):
        return None
    return {"performance": BakeSettings.performance, **made} if isinstance(made, dict) else None


def _check_finished(out: Path, settings: BakeSettings) -> None:
    if _bake_key(out) != asdict(settings):
        raise HeadstreamError(f"{out}: holds something other than this bake; choose another folder or delete it")


def _bake_frames(part: Path, settings: BakeSettings, todo: list[int], workers: int):
    jobs = [(part, settings, index) for index in todo]
    yield _bake_one(jobs[0])
    if workers <= 1 or len(jobs) < 4:
        yield from map(_bake_one, jobs[1:])
        return
    yield from spread(_bake_one, jobs[1:], workers, cv2.setNumThreads, 1)


def _bake_one(job: tuple[Path, BakeSettings, int]) -> int:
    part, settings, index = job
    mesh, renderings = render_frame(settings, index)
    name = f"{index:06d}"
    scratch = part / "frames" / f".{name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    sensor = _sensor(settings)
    for k, (camera, rendering) in enumerate(zip(ring(settings), renderings, strict=True)):
        rng = np.random.default_rng([settings.seed, index, k])
        picture = develop(rendering.light, rendering.mask, _studio(settings, k), sensor, rng)
        _write(scratch / f"{camera.name}.jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, settings.quality])
        mask = rendering.mask.astype(np.uint8) * np.uint8(255)
        _write(scratch / f"{camera.name}_mask.png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if index % settings.maps_every == 0:
            np.savez_compressed(scratch / f"{camera.name}_normal.npz", normal=rendering.normal.astype(np.float16))
            np.savez_compressed(scratch / f"{camera.name}_depth.npz", depth=rendering.depth)
    write_ply(part / "mesh" / f"{name}.ply", mesh)
    scratch.rename(part / "frames" / name)
    return index


def _write(path: Path, image: np.ndarray, options: list[int]) -> None:
    ok, data = cv2.imencode(path.suffix, image, options)
    if not ok:
        raise HeadstreamError(f"{path}: the picture could not be encoded")
    path.write_bytes(data.tobytes())


def render_frame(settings: BakeSettings, index: int) -> tuple[Mesh, list[Rendering]]:
    """The truth mesh of one frame of the loop and what every camera of the ring sees of it."""
    subject, appearance = _cast(settings.seed)
    moment = PERFORMANCES[settings.performance](index / settings.frames, settings.seconds)
    level0 = subject.pose(moment.actions, turn(*moment.angles), moment.shift)
    level = capture_mesh()
    count = level.shape.shape[0]
    vertices = level.shape @ level0
    normals = smooth_normals(vertices, level.faces)
    vertices = (vertices + appearance.relief[:, None] * normals).astype(np.float32)
    normals = smooth_normals(vertices, level.faces)
    material = appearance.material.copy()
    material[:, 3] *= level.paint @ ambient_visibility(vertices, normals, level.faces, 20)
    surface = Surface(
        level.paint @ vertices, level.fine_faces, level.paint @ normals, appearance.albedo, material, appearance.grain
    )
    lighting = with_shadows(_studio_light(), vertices, level.faces, 768)
    outer = ~np.isin(level.sites.part[:count], _HIDDEN)
    return Mesh(*_used(vertices, level.faces[outer[level.faces].any(1)])), render(
        surface, ring(settings), lighting, closed=True
    )


_HIDDEN = (
    1,
    2,
    5,
    6,
    7,
)  # linings, teeth, tongue: rendered where the open mouth shows them, left out of the truth mesh


def _used(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    return vertices[used], (np.cumsum(used) - 1).astype(np.int32)[faces]


@cache
def _cast(seed: int) -> tuple[Subject, Appearance]:
    """The demo's person: a random face near the average, looks that read well on camera. Relief is of the surface's own
    vertices, colours of the painted ones."""
    rng = np.random.default_rng(seed)
    subject = Subject.draw(rng, spread=0.55, adult=True)
    look = Look(
        seed=seed,
        melanin=float(rng.uniform(0.12, 0.35)),
        redness=0.75,
        blotches=0.16,
        freckles=0.12,
        wrinkles=0.3,
        gloss=0.16,
        brow=0.7,
        hair="short",
        hair_color=(0.07, 0.042, 0.024),
        hair_length=0.03,
        hair_curl=0.35,
        hair_fade=0.75,
        receding=0.0,
        beard=0.14 if subject.gender > 0.5 else 0.0,
        lips=0.1,
        lip_color=(0.4, 0.12, 0.12),
        iris=(0.06, 0.03, 0.014),
        cloth=-0.15,
        cloth_color=(0.045, 0.06, 0.1),
    )
    level = capture_mesh()
    appearance = dress(look, level.sites)
    count = level.shape.shape[0]
    relief = band_limited(appearance.relief[:count], level.faces) * level.sites.skin[:count]
    return subject, replace(appearance, relief=relief.astype(np.float32))


@cache
def _studio_light() -> Lighting:
    directions = sphere_directions(64)
    up = 0.5 + 0.35 * directions[:, 1]
    colors = up[:, None] * np.array([0.95, 1.0, 1.08]) * 0.42
    lamps = (
        Lamp("near", (0.75, 0.75, 1.1), (0.62, 0.58, 0.53), 0.25, shadow=True, reach=1.5),
        Lamp("near", (-1.1, 0.35, 0.8), (0.24, 0.26, 0.30), 0.5, shadow=True, reach=1.4),
        Lamp("far", (0.3, 0.5, -1.0), (0.34, 0.34, 0.36), 0.3, shadow=False),
        Lamp("far", (-0.5, 0.4, -0.8), (0.16, 0.16, 0.18), 0.3, shadow=False),
    )
    return Lighting(sky_from(directions, colors), lamps)


def _sensor(settings: BakeSettings) -> Sensor:
    return Sensor((1.0, 1.0, 1.0), 1.0, 0.45 * settings.size / 512, 1.1, settings.quality, 0.6)


@cache
def _studio(settings: BakeSettings, camera: int) -> np.ndarray:
    """A grey studio wall, a little different behind each camera.  # S,S,3 float32"""
    size = settings.size
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    glow = np.exp(-3.0 * ((x - 0.15 * np.cos(camera * 2.1)) ** 2 + (y + 0.1) ** 2))
    level = (0.23 + 0.05 * np.cos(camera * 1.7)) + 0.16 * glow - 0.05 * y
    return np.clip(level[..., None] * np.float32([0.96, 1.0, 1.05]), 0, 1)
