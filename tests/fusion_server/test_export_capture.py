"""A take's pictures as a capture folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion_server.takes import TakeReader, TakeWriter
from fusion_server.takes.export.capture import export_capture
from fusion_server.takes.layout import TakeError
from protocol.calibration import Calibration, Camera
from protocol.capture_folder import CaptureFolder
from protocol.messages import Frame, FrameHeader
from protocol.rig import parse_rig

CAMERAS = ("cam0", "cam1", "cam2")
START = 10**18


def picture(camera: str, moment: int) -> bytes:
    return f"{camera} at {moment}".encode()


def record(root: Path, frames, mode: str) -> TakeReader:
    """frames: (camera, moment) in the order of their arrival."""
    cameras = [{"id": name, "node": "pc1", "driver": "replay"} for name in CAMERAS]
    sync = {"mode": mode, "tolerance_ms": 4.0}
    rig = parse_rig({"name": "test", "calibration": "c.json", "fps": 25.0, "camera": cameras, "sync": sync})
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    calibration = Calibration(tuple(Camera(n, 64, 48, K, np.zeros(5), np.eye(3), np.zeros(3)) for n in CAMERAS))
    take = TakeWriter(root, "scene", rig, calibration)
    for camera, moment in frames:
        number, late = CAMERAS.index(camera), CAMERAS.index(camera) * 700_000
        header = FrameHeader(
            camera, "pc1", moment, 500 * number + moment if mode == "time" else moment, moment,
            START + moment * 40_000_000 + late, 0, 1000, 64, 48,
        )  # fmt: skip
        take.frame(Frame(header, picture(camera, moment)))
    take.close()
    return TakeReader(take.path)


@pytest.mark.parametrize("mode", ["trigger", "time"])
def test_pictures_of_one_moment_lie_together(tmp_path, mode):
    frames = [(camera, moment) for moment in range(6) for camera in CAMERAS if (camera, moment) != ("cam1", 3)]
    late = frames.pop(frames.index(("cam2", 1)))
    take = record(tmp_path, [*frames[:9], late, *frames[9:]], mode)
    steps = []
    assert export_capture(take, tmp_path / "out", lambda done, total: steps.append((done, total))) == 6
    assert steps[-1] == (17, 17)
    folder = CaptureFolder.open(tmp_path / "out")
    assert folder.fps == 25.0 and folder.calibration.names == CAMERAS
    assert len(folder.frames) == 6
    for moment, index in enumerate(folder.frames):
        found = {path.stem: path.read_bytes() for path in (tmp_path / "out" / "frames" / index).iterdir()}
        assert found == {name: picture(name, moment) for name in CAMERAS if (name, moment) != ("cam1", 3)}
    assert folder.info["capture_ns"] == sorted(folder.info["capture_ns"])


def test_what_lies_there_is_not_overwritten_and_an_empty_take_is_refused(tmp_path):
    take = record(tmp_path, [(camera, 0) for camera in CAMERAS], "trigger")
    export_capture(take, tmp_path / "out")
    with pytest.raises(TakeError, match="has frames already"):
        export_capture(take, tmp_path / "out")
    alone = record(tmp_path, [("cam0", 0), ("cam0", 1)], "trigger")
    with pytest.raises(TakeError, match="no frames of 2 cameras"):
        export_capture(alone, tmp_path / "other")
