"""The rig that `headstream demo` makes of a capture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from launch.demo import BUFFERS, Demo, _write_rig
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.capture_folder import CaptureFolder


def test_the_demo_s_cameras_have_nodes_of_their_own_and_buffers(tmp_path: Path):
    """Without, each camera lost a picture while eight nodes and a server began on two cores: an alarm to start with."""
    K = np.array([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]])
    cameras = tuple(Camera(name, 16, 16, K, np.zeros(5), np.eye(3), np.array([0, 0, 1.0])) for name in "ab")
    (tmp_path / "frames" / "000").mkdir(parents=True)
    save_calibration(Calibration(cameras), tmp_path / "cameras.json")
    rig = _write_rig(tmp_path / "rig.toml", CaptureFolder.open(tmp_path), Demo())
    assert [camera.id for camera in rig.cameras] == ["a", "b"]
    assert len({camera.node for camera in rig.cameras}) == 2
    assert BUFFERS > 0 and all(camera.options["buffers"] == BUFFERS for camera in rig.cameras)
