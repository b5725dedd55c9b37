"""``headstream evaluate --synthetic`` and ``headstream evaluate CAPTURE``: what the normal engine alone is worth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusion_server.decode import Decoder
from fusion_server.reconstruct import Observation, Reconstructor
from fusion_server.surface import SurfaceSettings, SurfaceTracker
from geometry.mesh import read_ply
from geometry.rasterize import make_rasterizer
from models.engines import NormalEngine, make_engine
from models.held_out import KnownScene, held_out_sets, load_held_out
from models.rays import stack_cameras
from models.scores import Measures, Tally, rows_table, score_scenes, table
from protocol.calibration import Calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

Step = Callable[[str, int, int], None]  # what is being done, how many of it are done, of how many


@dataclass(frozen=True)
class EngineChoice:
    """Which normal engine, with which weights, at which size of pictures."""

    name: str = "openvino"
    weights: Path | None = None
    size: int = 256
    precision: str = "bf16"

    def make(self, views: int) -> NormalEngine:
        """The engine for so many views. Raises HeadstreamError."""
        return make_engine(self.name, weights=self.weights, views=views, size=self.size, precision=self.precision)


def parse_views(text: str) -> tuple[int, ...]:
    """Numbers of views such as ``3,6,8,10``, sorted. Raises HeadstreamError."""
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or counts[-1] > 16:
        raise HeadstreamError(f"--views: {text!r}; must be numbers from 1 to 16 separated by commas, such as 3,6,8,10")
    return tuple(counts)


def evaluate_synthetic(
    choice: EngineChoice, sets: int, seed: int, views: Sequence[int], cache: Path | None, step: Step
) -> dict[str, Any]:
    """Score an engine on scenes that training never sees; they are rendered where the cache lacks them."""
    engines = {}
    for number, count in enumerate(views):
        step("engines", number, len(views))
        engines[count] = choice.make(count)
    paths = held_out_sets(sets, seed, max(views), choice.size, cache, partial(step, "render"), os.cpu_count() or 1)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        step("evaluate", done, sets)

    scenes = [partial(load_held_out, path) for path in paths]
    scores = score_scenes(scenes, {count: engine.predict for count, engine in engines.items()}, tick)
    return {"engine": engines[max(views)].describe(), "seed": seed} | scores


def synthetic_table(scores: dict[str, Any]) -> str:
    """The scores for people, ready for a document."""
    return f"{scores['engine']}, seed {scores['seed']}\n{table(scores)}"


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
    decoder, tally = Decoder(threads=2), Tally()
    tracker = SurfaceTracker(SurfaceSettings(uv=False), make_rasterizer("cpu"))
    for done, frame in enumerate(chosen):
        step("evaluate", done, len(chosen))
        jpegs = {name: capture.jpeg(frame, name).read_bytes() for name in calibration.names}
        images, faults = decoder.decode(jpegs, calibration)
        if faults:
            raise HeadstreamError(f"{capture.root}: frame {frame}: {'; '.join(faults.values())}")
        observation = Reconstructor(calibration, engine, tracker).observe(images)
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
