"""Where the network looks, and with how many threads; its engine is a double that finds what is bright."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from surface_scene import ring

import fusion_server.reconstruct as module
from fusion_server.reconstruct import Reconstructor, make_reconstructor
from fusion_server.server import shared
from fusion_server.sight import HostSight
from models.engines.base import NormalEngine, NormalPrediction
from protocol.calibration import Calibration
from protocol.rig import NormalsConfig, SurfaceConfig

SIZE, WIDTH = 64, 640


class BrightEngine(NormalEngine):
    """Takes what is bright for the subject; of one that fills little of the picture it misses the lowest part."""

    def __init__(self, views: int):
        super().__init__(views, SIZE)
        self.looks = 0

    def describe(self) -> str:
        return "a double"

    def _run(self, images, cameras) -> NormalPrediction:
        self.looks += 1
        masks = (images[..., 0] > 128).astype(np.float32)
        for mask in masks:
            rows = np.flatnonzero(mask.any(1))
            if 0 < len(rows) < 0.6 * SIZE:
                mask[rows[int(0.85 * len(rows))] :] = 0
        normal = np.broadcast_to(np.float32([0, 0, -1]), (*masks.shape, 3))
        return NormalPrediction(normal.copy(), np.ones_like(masks), masks)


@pytest.fixture
def rig():
    cameras = ring(2, WIDTH)
    engine = BrightEngine(len(cameras))
    calibration = Calibration(cameras, {}, {})
    return Reconstructor(calibration, HostSight(calibration, engine), tracker=None), engine, cameras


def bright_box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    image = np.zeros((WIDTH, WIDTH, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image


def test_a_cold_start_looks_until_the_window_holds_the_whole_subject(rig):
    reconstructor, engine, cameras = rig
    left, top, right, bottom = 200, 120, 360, 420  # the first look does not see what is below 370
    observation = reconstructor.observe({camera.name: bright_box(left, top, right, bottom) for camera in cameras})
    assert engine.looks == 3
    for window in observation.windows.values():
        assert window.x0 < left and window.y0 < top
        assert window.x0 + window.side > right and window.y0 + window.side > bottom
        assert window.side < 0.7 * WIDTH  # and little more than it with its margin


def test_a_subject_that_fills_the_picture_needs_no_second_look(rig):
    reconstructor, engine, cameras = rig
    reconstructor.observe({camera.name: bright_box(0, 0, WIDTH, WIDTH) for camera in cameras})
    assert engine.looks == 1


def test_beside_a_surface_the_network_has_half_of_the_cores():
    cores = len(os.sched_getaffinity(0))
    assert shared(NormalsConfig()).threads == max(1, cores // 2)
    assert shared(NormalsConfig(threads=7)).threads == 7


def test_threads_that_wait_for_a_loop_leave_the_cores_to_others():
    """OpenMP reads the policy once, at its first loop; whoever imports the room first must have set it."""
    code = "import os, fusion_server; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "PASSIVE"


def test_a_final_mesh_sees_finer_pictures_and_is_polished(monkeypatch):
    """And a live one is not; neither looks at pictures finer than 2048 pixels."""
    made = {}
    monkeypatch.setattr(module, "make_engine", lambda *_, **asked: BrightEngine(asked["views"]))
    monkeypatch.setattr(module, "rehearse", lambda settings, *_: made.update(settings=settings))
    for width, final, side in ((900, False, 512), (900, True, 900), (300, True, 512), (4000, True, 2048)):
        calibration = Calibration(ring(2, width), {}, {})
        reconstructor = make_reconstructor(calibration, NormalsConfig(size=SIZE), SurfaceConfig(), final)
        assert reconstructor.sight.fine == side
        assert (made["settings"].polish > 0) == final
