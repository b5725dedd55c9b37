"""``headstream evaluate CAPTURE``: what the normal engine alone is worth on pictures whose normals are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusion_server.decode import TurboDecoder
from fusion_server.reconstruct import Observation, Reconstructor
from fusion_server.sight import HostSight
from fusion_server.surface import SurfaceSettings, SurfaceTracker
from geometry.mesh import read_ply
from geometry.rasterize import make_rasterizer
from launch.evaluate_synthetic import EngineChoice, Step
from models.held_out import KnownScene
from models.rays import stack_cameras
from models.scores import Measures, Tally, rows_table
from protocol.calibration import Calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError


def evaluate_capture(
    choice: EngineChoice, capture: CaptureFolder, calibration: Calibration, frames: int | None, step: Step
) -> dict[str, Any]:
    """Score an engine on a capture that knows its normals and masks, on the windows that the live system would cut.

    The whole picture first, then a square around the subject, as on a cold start; every frame on its own. Raises
    HeadstreamError when the capture knows no normals.
    """
    chosen = [
        frame for frame in capture.frames if all(capture.normal(frame, name).exists() for name in calibration.names)
    ]
    if not chosen:
        raise HeadstreamError(f"{capture.root}: no frame has true normals (<camera>_normal.npz) of all these cameras")
    if frames is not None and frames < len(chosen):
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, frames).astype(int)]
    engine = choice.make(len(calibration.cameras))
    decoder, tally = TurboDecoder(threads=2), Tally()
    tracker = SurfaceTracker(SurfaceSettings(uv=False), make_rasterizer("cpu"))
    for done, frame in enumerate(chosen):
        step("evaluate", done, len(chosen))
        jpegs = {name: capture.jpeg(frame, name).read_bytes() for name in calibration.names}
        images, faults = decoder.decode(jpegs, calibration)
        if faults:
            raise HeadstreamError(f"{capture.root}: frame {frame}: {'; '.join(faults.values())}")
        observation = Reconstructor(calibration, HostSight(calibration, engine), tracker).observe(images)
        tally.add(Measures.of(_known(capture, frame, observation), observation.prediction))
    step("evaluate", len(chosen), len(chosen))
    return {"engine": engine.describe(), "capture": str(capture.root), "frames": len(chosen)} | tally.row()


def capture_table(scores: dict[str, Any]) -> str:
    """The scores of a capture for people, ready for a document."""
    title = f"{scores['engine']}; {scores['frames']} frames"
    return f"{title}\n\n{rows_table('capture', {Path(scores['capture']).name: scores})}"


def _known(capture: CaptureFolder, frame: str, observation: Observation) -> KnownScene:
    """The capture's truth as the windows of an observation see it; depth is that of the true mesh."""
    size = observation.images.shape[1]
    normals, masks = [], []
    for name in observation.names:
        window = observation.windows[name]
        with np.load(capture.normal(frame, name)) as data:
            normal = window.picture(data["normal"].astype(np.float32), size)
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        full = cv2.imread(str(capture.mask(frame, name)), cv2.IMREAD_GRAYSCALE)
        mask = length[..., 0] > 0.5 if full is None else window.picture(full, size) > 127
        normals.append(np.where(length > 0.5, normal / np.maximum(length, 1e-6), 0))
        masks.append(mask)
    shape = (len(masks), size, size)
    depth = np.zeros(shape, np.float32)
    if capture.mesh(frame).exists():
        mesh = read_ply(capture.mesh(frame))
        depth = make_rasterizer("cpu").rasterize(mesh.vertices, mesh.faces, observation.cameras).depth
    K, R, t = stack_cameras(observation.cameras)
    known = (np.stack(normals).astype(np.float32), np.stack(masks), depth, np.zeros(shape, np.uint8))
    return KnownScene(observation.images, *known, K, R, t, kind="capture", backdrop="")
