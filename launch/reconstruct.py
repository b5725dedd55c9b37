"""``headstream reconstruct``: a capture folder, frame by frame, to meshes on disk.

    <out>/mesh/<frame>.ply               world metres; if asked for, texture coordinates of corners, an atlas a topology
    <out>/normals/<frame>/<camera>.npz   if asked for (``_save_normals``)
    <out>/report.json                    the capture, its rate and cameras, and what is known of each frame

Killed at any moment, the same call goes on with the frame that it was at (``launch.checkpoint``) and ends with the same
meshes. A final job takes its time for each mesh, makes all of them and then smooths them in time; until the last of
them is smooth, the folder holds those that are not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fusion_server.decode import Decoder, make_decoder
from fusion_server.reconstruct import Observation, Reconstructor, make_reconstructor
from fusion_server.smooth import REACH, smoothed
from fusion_server.surface import SurfaceFrame
from geometry.mesh import Mesh, read_ply, write_ply
from launch.checkpoint import FOLDER, Checkpoint, fingerprint
from models.engines import USUAL_SIZE
from protocol.calibration import Calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

_SMOOTH, _PLACE = "smooth", "place"  # stages after all meshes are made


@dataclass(frozen=True)
class Job:
    """What to reconstruct and where to put it. final: as good as it gets, and smoothed in time after all frames are
    made."""

    capture: CaptureFolder
    calibration: Calibration  # the cameras that were selected
    out: Path
    frames: tuple[str, ...]
    save_normals: bool
    normals: NormalsConfig
    surface: SurfaceConfig
    final: bool = False
    uv: bool = False  # unwrap each topology: seconds for 10,000 vertices, a minute or more for what final ones have


def final(job: Job, vertices: int | None = None) -> Job:
    """The same job at whatever it costs: normals of full size on any machine, pictures as fine as the cameras',
    polished keyframes, if not told how many vertices as many as pictures can tell apart, smoothed in time."""
    return replace(
        job,
        normals=replace(job.normals, size=job.normals.size or USUAL_SIZE),
        surface=replace(job.surface, vertices=vertices or 0),
        final=True,
    )


def chosen_frames(frames: tuple[str, ...], text: str | None) -> tuple[str, ...]:
    """The frames that ``--frames`` names: ``N`` the first N; ``A:B`` those numbered A up to B, B left out.

    Either number may be missing. Raises HeadstreamError for anything else, and when no frame is left.
    """
    if text is None:
        return frames
    low, colon, high = text.partition(":")
    if not all(part.isascii() and part.isdigit() for part in ([low, high] if colon else [low]) if part) or not text:
        raise HeadstreamError(f"--frames: {text!r}; must be a number of frames, or A:B, such as 100:200 or 100:")
    if not colon:
        found = frames[: int(low)]
    else:
        found = tuple(f for f in frames if int(low or 0) <= int(f) and (not high or int(f) < int(high)))
    if not found:
        raise HeadstreamError(f"--frames: {text!r} names no frame; the capture has {frames[0]} to {frames[-1]}")
    return found


def reconstruct(job: Job, progress: Callable[[int, int, str], None]) -> dict:
    """Run a job; returns the report that it also writes to ``report.json``.

    ``progress(done, total, line)`` is called after each step, once more for what an earlier run of the job had done. A
    frame without a subject is reported and passed over. Raises HeadstreamError when no frame could be reconstructed,
    or nothing can be written.
    """
    try:
        return _run(job, progress)
    except OSError as error:
        raise HeadstreamError(f"{error.filename or job.out}: cannot be written ({error.strerror})") from None


def _run(job: Job, progress: Callable[[int, int, str], None]) -> dict:
    fps = job.capture.fps
    job.out.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(job.out, _identity(job))
    count = len(job.frames)
    total = count * (2 if job.final else 1)
    if checkpoint.done:
        progress(checkpoint.done, total, f"going on after {checkpoint.done} of {count} frames")
    _make(job, checkpoint, lambda line: progress(checkpoint.done, total, line))
    entries = checkpoint.entries
    failed = [entry for entry in entries if "fault" in entry]
    if job.final and len(failed) < count:
        _smooth(job, checkpoint, lambda done, line: progress(count + done, total, line))
    report = {
        "capture": str(job.capture.root.resolve()),
        "fps": fps,
        "cameras": list(job.calibration.names),
        "normals": {"engine": job.normals.engine, "size": job.normals.size, "precision": job.normals.precision},
        "smoothed": job.final,
        "frames": entries,
    }
    scratch = job.out / "report.json.part"
    scratch.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    scratch.replace(job.out / "report.json")
    checkpoint.clear()
    if len(failed) == len(entries):
        raise HeadstreamError(f"{job.capture.root}: no frame could be reconstructed; the first: {failed[0]['fault']}")
    return report


def _identity(job: Job) -> dict:
    """What makes two jobs the same."""
    return {
        "capture": str(job.capture.root.resolve()),
        "calibration": job.calibration.to_dict(),
        "frames": list(job.frames),
        "save_normals": job.save_normals,
        "normals": fingerprint(job.normals),
        "surface": fingerprint(job.surface),
        "final": job.final,
        "uv": job.uv,
    }


def _make(job: Job, checkpoint: Checkpoint, progress: Callable[[str], None]) -> None:
    """The meshes of all frames that are not done."""
    rest = job.frames[checkpoint.done :]
    if not rest:
        return
    reconstructor = make_reconstructor(job.calibration, job.normals, job.surface, job.final, job.uv)
    reconstructor.keep_topology(True)
    if checkpoint.state is not None:
        reconstructor.restore(checkpoint.state)
    decoder = make_decoder(job.normals.decode, job.normals.decode_threads, reconstructor.sight)
    try:
        for frame in rest:
            entry, line = _frame(job, frame, reconstructor, decoder)
            checkpoint.frame(entry, reconstructor.state())
            progress(line)
    finally:
        decoder.close()


def _smooth(job: Job, checkpoint: Checkpoint, progress: Callable[[int, str], None]) -> None:
    """Smooth all meshes into a folder beside them, then put them in their place."""
    beside = job.out / FOLDER / "mesh"
    if checkpoint.stage != _PLACE:
        for done, (frame, mesh) in enumerate(_smooth_meshes(job, checkpoint.entries), start=1):
            write_ply(beside / f"{frame}.ply", mesh)
            progress(done, f"{frame}: smoothed")
        checkpoint.enter(_PLACE)
    for path in sorted(beside.glob("*.ply")):
        path.replace(job.out / "mesh" / path.name)


def _smooth_meshes(job: Job, entries: list[dict]) -> Iterator[tuple[str, Mesh]]:
    """Each frame that has a mesh, with its vertices smoothed over its neighbours of the same topology."""
    frames = [(n, entry) for n, entry in enumerate(entries) if "fault" not in entry]
    window: dict[int, Mesh] = {}  # by place in ``frames``
    for place, (at, entry) in enumerate(frames):
        near = range(max(place - REACH, 0), min(place + REACH + 1, len(frames)))
        window = {
            n: window[n] if n in window else read_ply(job.out / "mesh" / f"{frames[n][1]['frame']}.ply") for n in near
        }
        mesh = window[place]
        # Up to a lost frame or another topology, not beyond: what lies on the other side need not be the same path.
        low, high = place, place
        if "lost" not in entry["flags"]:
            while low - 1 in window and _joined(frames[low - 1], frames[low], window[low - 1], mesh):
                low -= 1
            while high + 1 in window and _joined(frames[high], frames[high + 1], window[high + 1], mesh):
                high += 1
        paths = [window[n].vertices for n in range(low, high + 1)]
        times = [float(frames[n][0] - at) for n in range(low, high + 1)]
        yield entry["frame"], Mesh(smoothed(paths, times, place - low), mesh.faces, corner_uv=mesh.corner_uv)


def _joined(before: tuple[int, dict], after: tuple[int, dict], other: Mesh, mesh: Mesh) -> bool:
    """Whether two frames in a row belong to one path of vertices."""
    lost = "lost" in before[1]["flags"] or "lost" in after[1]["flags"] or "recovered" in after[1]["flags"]
    return not lost and after[0] - before[0] <= REACH and np.array_equal(other.faces, mesh.faces)


def _frame(job: Job, frame: str, reconstructor: Reconstructor, decoder: Decoder) -> tuple[dict, str]:
    start = time.perf_counter()
    jpegs, faults = {}, {}
    for name in job.calibration.names:
        try:
            jpegs[name] = job.capture.jpeg(frame, name).read_bytes()
        except OSError as error:
            faults[name] = f"{error.filename}: {error.strerror}"
    images, unreadable = decoder.decode(jpegs, job.calibration)
    faults |= unreadable
    entry: dict = {"frame": frame}
    if faults:
        entry["camera_faults"] = faults
    try:
        if len(images) < 2:
            raise HeadstreamError(f"frame {frame}: {len(images)} readable pictures; 2 or more are needed")
        observation, surface = reconstructor.reconstruct(images)
    except HeadstreamError as error:
        return entry | {"fault": str(error)}, f"{frame}: {error}"
    mesh = Mesh(surface.vertices, surface.faces, corner_uv=surface.uv)
    write_ply(job.out / "mesh" / f"{frame}.ply", mesh)
    if job.save_normals:
        _save_normals(job.out / "normals" / frame, job, observation)
    entry |= describe(surface) | {"seconds_total": round(time.perf_counter() - start, 4)}
    entry["seconds"] = {k: round(v, 4) for k, v in {**observation.seconds, **surface.seconds}.items()}
    line = f"{frame}: {surface.kind}, {len(surface.vertices)} vertices, confidence {surface.quality.confidence:.2f}"
    notes = [*surface.quality.flags, *(f"{name}: {text}" for name, text in faults.items())]
    return entry, "; ".join([line, *notes])


def describe(surface: SurfaceFrame) -> dict:
    """A surface's quality for a report."""
    quality = surface.quality
    return {
        "kind": surface.kind,
        "iterations": surface.iterations,
        "vertices": len(surface.vertices),
        "confidence": round(float(quality.confidence), 4),
        "silhouette_iou": round(float(quality.silhouette_iou), 4),
        "normal_residual_deg": round(float(quality.normal_residual_deg), 3),
        "photometric_residual": None if np.isnan(off := quality.photometric_residual) else round(float(off), 3),
        "inverted_faces": int(quality.inverted),
        "flags": list(quality.flags),
    }


def _save_normals(folder: Path, job: Job, observation: Observation) -> None:
    """One npz a camera, as large as the (undistorted) picture: `normal` float16 H,W,3 and `mask` bool H,W.

    What lies outside the window that the network saw is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(observation.names):
        camera, window = job.calibration[name], observation.windows[name]
        mask = window.onto_picture(observation.prediction.mask[i], camera) > 0.5
        normal = window.onto_picture(observation.prediction.normal[i], camera)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        normal[~mask] = 0
        np.savez_compressed(folder / f"{name}.npz", normal=normal.astype(np.float16), mask=mask)
