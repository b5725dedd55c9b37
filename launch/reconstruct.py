"""``headstream reconstruct``: a capture folder, frame by frame, to meshes on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion_server.decode import Decoder
from fusion_server.reconstruct import Observation, Reconstructor, make_reconstructor
from fusion_server.surface import SurfaceFrame
from geometry.mesh import Mesh, write_ply
from protocol.calibration import Calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig


@dataclass(frozen=True)
class Job:
    """What to reconstruct and where to put it."""

    capture: CaptureFolder
    calibration: Calibration  # the cameras that were selected
    out: Path
    frames: tuple[str, ...]
    save_normals: bool
    normals: NormalsConfig
    surface: SurfaceConfig


def reconstruct(job: Job, progress: Callable[[int, int, str], None]) -> dict:
    """Run a job; returns the report that it also writes to ``report.json``.

    ``progress(done, total, line)`` is called after each frame. A frame without a subject is reported and passed over.
    Raises HeadstreamError when no frame at all could be reconstructed.
    """
    reconstructor = make_reconstructor(job.calibration, job.normals, job.surface)
    decoder = Decoder(threads=2)
    job.out.mkdir(parents=True, exist_ok=True)
    entries: list[dict] = []
    for done, frame in enumerate(job.frames, start=1):
        entry, line = _frame(job, frame, reconstructor, decoder)
        entries.append(entry)
        progress(done, len(job.frames), line)
    report = {
        "capture": str(job.capture.root),
        "cameras": list(job.calibration.names),
        "normals": {"engine": job.normals.engine, "size": job.normals.size, "precision": job.normals.precision},
        "frames": entries,
    }
    scratch = job.out / "report.json.part"
    scratch.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    scratch.replace(job.out / "report.json")
    failed = [entry for entry in entries if "fault" in entry]
    if len(failed) == len(entries):
        raise HeadstreamError(f"{job.capture.root}: no frame could be reconstructed; the first: {failed[0]['fault']}")
    return report


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
    write_ply(job.out / "mesh" / f"{frame}.ply", Mesh(surface.vertices, surface.faces, surface.uv))
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
