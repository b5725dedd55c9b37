"""A take whose bytes were damaged anywhere is read as far as it goes, or refused in a line."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_server.takes import TakeReader, TakeWriter
from fusion_server.takes.layout import INFO_NAME, MCAP_NAME
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.messages import Frame, FrameHeader
from protocol.rig import parse_rig

SIZE = (64, 48)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, bytes]:
    """The two files of a short take."""
    table = [{"id": f"cam{i}", "node": "pc1", "driver": "replay"} for i in range(2)]
    rig = parse_rig({"name": "t", "calibration": "c.json", "camera": table}, root=tmp_path_factory.mktemp("takes"))
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    cameras = tuple(Camera(name, *SIZE, K, np.zeros(5), np.eye(3), np.zeros(3)) for name in rig.camera_ids)
    take = TakeWriter(rig.server.takes, "slate", rig, Calibration(cameras))
    for sequence in range(3):
        for name in rig.camera_ids:
            header = FrameHeader(name, "pc1", sequence, sequence, 0, time.time_ns(), 0, 0, *SIZE)
            take.frame(Frame(header, b"\xff\xd8 picture \xff\xd9" * 5))
    number = take.topology(np.array([[0, 1, 2]], np.int32), np.zeros((1, 3, 2), np.float32))
    for index in range(2):
        quality, timing = {"flags": ["uncertain"]}, {"decode": 0.01}
        about = {"kind": "warm", "quality": quality, "timing": timing, "missing": ("cam1",), "spread_ns": 3}
        take.mesh(index, time.time_ns(), np.zeros((3, 3)), number, **about)
    take.fault("camera cam1 was silent")
    take.statistics({"meshes": 3, "cameras": {"cam0": 1}})
    take.close()
    return (take.path / MCAP_NAME).read_bytes(), (take.path / INFO_NAME).read_bytes()


def read(path) -> None:
    """Everything that a reader offers."""
    take = TakeReader(path)
    calls = [
        lambda: take.info,
        lambda: take.fps,
        lambda: take.calibration,
        lambda: take.frame_counts,
        lambda: [frame.header for frame in take.frames()],
        lambda: take.frames_at(time.time_ns(), 10**18),
        lambda: list(take.meshes()),
        lambda: take.statistics,
    ]
    for call in calls:
        try:
            call()
        except HeadstreamError as error:
            assert "\n" not in str(error)


def damage(data: bytes, edits: list[tuple[float, bytes, int]], cut: float) -> bytes:
    """edits: (where as a share of the file, what, over how many bytes)."""
    changed = bytearray(data)
    for where, what, over in edits:
        at = int(where * len(changed))
        changed[at : at + over] = what
    return bytes(changed[: round(cut * len(changed))])


shares = st.floats(0, 1)
edits = st.lists(st.tuples(shares, st.binary(max_size=12), st.integers(0, 12)), max_size=4)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits, st.just(1.0) | shares, edits, st.just(1.0) | shares)
def test_a_damaged_take_is_read_or_refused_in_a_line(
    whole, tmp_path, caplog, mcap_edits, mcap_cut, info_edits, info_cut
):
    logging.getLogger("fusion_server.takes").setLevel(logging.ERROR)
    (tmp_path / MCAP_NAME).write_bytes(damage(whole[0], mcap_edits, mcap_cut))
    (tmp_path / INFO_NAME).write_bytes(damage(whole[1], info_edits, info_cut))
    try:
        read(tmp_path)
    except HeadstreamError as error:
        assert "\n" not in str(error)
