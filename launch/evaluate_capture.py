"""``headstream evaluate CAPTURE``: what the normal engine alone is worth on pictures whose normals are known."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusion_server.decode import TurboDecoder
from fusion_server.reconstruct import Observation, Reconstructor
from fusion_server.sight import HostSight
from fusion_server.surface import SurfaceSettings, SurfaceTracker
from geometry.cameras import rig_center
from geometry.mesh import read_ply, vertex_normals
from geometry.rasterize import make_rasterizer
from launch.evaluate_synthetic import USUAL_VIEWS, EngineChoice, Step
from models.held_out import KnownScene, region_maps
from models.rays import stack_cameras
from models.scores import Measures, Tally, parts_of, rows_table
from protocol.calibration import Calibration, Camera
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)


def evaluate_capture(
    choice: EngineChoice,
    capture: CaptureFolder,
    calibration: Calibration,
    frames: int | None,
    step: Step,
    views: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Score an engine on a capture that knows its normals and masks, on the windows that the live system would cut.

    The whole picture first, then a square around the subject, as on a cold start; every frame on its own. By numbers of
    views: the same first pictures on the same windows, with others beside them, in the order of ``far_apart``. By
    region: the silhouette band, and on a baked capture, which shows a person, the regions of a head.

    views: numbers of views to compare; by default the usual ones that the capture has, and all. Raises HeadstreamError
    when the capture knows no normals, or has fewer cameras than ``views`` asks for.
    """
    chosen = [
        frame for frame in capture.frames if all(capture.normal(frame, name).exists() for name in calibration.names)
    ]
    if not chosen:
        raise HeadstreamError(f"{capture.root}: no frame has true normals (<camera>_normal.npz) of all these cameras")
    if frames is not None and frames < len(chosen):
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, frames).astype(int)]
    most = len(calibration.cameras)
    counts = sorted(views or {*(count for count in USUAL_VIEWS if count < most), most})
    if counts[-1] > most:
        raise HeadstreamError(f"--views: {counts[-1]}; of {capture.root} {most} cameras are used, so 1 to {most}")
    order = far_apart(calibration.cameras)
    engines = {}
    for number, count in enumerate(made := sorted({*counts, most})):
        step("engines", number, len(made))
        engines[count] = choice.make(count)
    decoder = TurboDecoder()
    groups: dict[tuple[str, str], Tally] = defaultdict(Tally)
    tracker = SurfaceTracker(SurfaceSettings(uv=False), make_rasterizer("cpu"))
    for done, frame in enumerate(chosen):
        step("evaluate", done, len(chosen))
        jpegs = {name: capture.jpeg(frame, name).read_bytes() for name in calibration.names}
        images, faults = decoder.decode(jpegs, calibration)
        if faults:
            raise HeadstreamError(f"{capture.root}: frame {frame}: {'; '.join(faults.values())}")
        observation = Reconstructor(calibration, HostSight(calibration, engines[most]), tracker).observe(images)
        scene = _known(capture, frame, observation)
        for count in counts:
            part = scene.only(order[:count])
            prediction = engines[count].predict(part.image, part.cameras)
            groups["by_views", str(count)].add(Measures.of(part, prediction, counts[0]))
        measures = Measures.of(scene, observation.prediction)
        groups["all", ""].add(measures)
        known = scene.mask & (np.abs(scene.normal).sum(-1) > 0)  # the pixels of measures.angles
        for name, where in parts_of(scene).items():
            groups["by_region", name].pixels(measures.angles[where[known]])
    step("evaluate", len(chosen), len(chosen))
    out: dict[str, Any] = {"engine": engines[most].describe(), "capture": str(capture.root), "frames": len(chosen)}
    out |= {"views": most, "compared_views": counts[0]} | groups["all", ""].row()
    for section in ("by_region", "by_views"):
        out[section] = {name: tally.row() for (where, name), tally in groups.items() if where == section}
    return out


def far_apart(cameras: Sequence[Camera]) -> list[int]:
    """Indices: the first camera, then always the one whose direction is farthest from all that stand before it.

    So the first few of them look from all sides, as a rig of so few would.
    """
    if len(cameras) < 3:
        return list(range(len(cameras)))
    try:
        middle = rig_center(cameras)
    except ValueError:  # all look the same way: then it is their places that differ
        middle = np.mean([camera.center + camera.R[2] for camera in cameras], 0)
    toward = np.array([camera.center - middle for camera in cameras])
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    order = [0]
    while len(order) < len(cameras):
        nearest = (toward @ toward[order].T).max(1)
        nearest[order] = np.inf
        order.append(int(nearest.argmin()))
    return order


def capture_table(scores: dict[str, Any]) -> str:
    """The scores of a capture for people, ready for a document."""
    parts = [
        f"{scores['engine']}; {scores['frames']} frames",
        rows_table("capture", {Path(scores["capture"]).name: scores}),
        *capture_parts(scores),
    ]
    return "\n\n".join(parts)


def capture_parts(scores: dict[str, Any]) -> list[str]:
    """The tables by region and, where more than one number of views was asked for, by views."""
    parts = [rows_table("region", scores["by_region"])]
    if set(scores["by_views"]) != {str(scores["views"])}:
        fewest = scores["compared_views"]
        parts += [
            f"The same {fewest} pictures of each frame, with other views beside them:",
            rows_table("views", scores["by_views"]),
        ]
    return parts


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
    depth, region = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    if capture.mesh(frame).exists():
        mesh = read_ply(capture.mesh(frame))
        depth = make_rasterizer("cpu").rasterize(mesh.vertices, mesh.faces, observation.cameras).depth
        if "bake" in capture.info:
            try:
                normal = vertex_normals(mesh.vertices, mesh.faces)
                region = region_maps(depth, observation.cameras, mesh.vertices, normal)
            except HeadstreamError as error:
                log.warning("regions of the head are left out: %s", error)
    K, R, t = stack_cameras(observation.cameras)
    known = (np.stack(normals).astype(np.float32), np.stack(masks), depth, region)
    return KnownScene(observation.images, *known, K, R, t, kind="capture", backdrop="")
