"""``headstream backfill`` as an operator meets it: a real node with a spool, a take that lacks most of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

import capture_nodes.link
from capture_nodes.node import Node
from capture_nodes.spool_file import SpoolWriter, file_name
from fusion_server.preview.panel import take_lines
from fusion_server.takes import TakeReader, TakeWriter
from launch.backfill import backfill, report_lines
from protocol.calibration import Calibration, Camera, load_calibration, save_calibration
from protocol.errors import HeadstreamError
from protocol.messages import Frame, FrameHeader
from protocol.rig import CameraConfig, Rig, ServerConfig, load_rig, save_rig

PERIOD, COUNT = 10**8, 40  # 10 fps
FIRST = 17_000_000_000


@pytest.fixture
def rig(tmp_path) -> Rig:
    """One camera at one node, on free ports."""
    (tmp_path / "capture" / "frames" / "000").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "capture" / "frames" / "000" / "cam0.jpg"), np.zeros((48, 64, 3), np.uint8))
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    cameras = (Camera("cam0", 64, 48, K, np.zeros(5), np.eye(3), np.zeros(3)),)
    save_calibration(Calibration(cameras), tmp_path / "capture" / "cameras.json")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    made = Rig(
        name="test",
        root=tmp_path,
        calibration=tmp_path / "capture" / "cameras.json",
        fps=10.0,
        cameras=(CameraConfig("cam0", "pc0", "replay", options={"capture": "capture"}),),
        server=ServerConfig(data_port=ports[0], control_port=ports[1], takes=tmp_path / "takes"),
    )
    save_rig(made, tmp_path / "rig.toml")
    return load_rig(tmp_path / "rig.toml")


def picture(i: int) -> Frame:
    at = (FIRST + i) * PERIOD
    return Frame(FrameHeader("cam0", "pc0", i, FIRST + i, at, at, 0, 5, 64, 48, 7), b"\xff\xd8" + bytes([1 + i]) * 500)


@pytest.fixture
def take(rig):
    """A take that has every fourth picture; the node's spool has all but 20 to 24."""
    writer = TakeWriter(rig.server.takes, "scene", rig, load_calibration(rig.calibration))
    writer._info["started_ns"] = FIRST * PERIOD - 1
    for i in range(0, COUNT, 4):
        writer.frame(picture(i))
    writer.close((FIRST + COUNT - 1) * PERIOD + 1)
    spool = SpoolWriter(rig.spool.folder / writer.path.name / file_name("cam0", 7))
    for i in range(COUNT):
        if not 20 <= i < 25:
            spool.frame(picture(i))
    spool.lost(20, 24, "the node's disk was full at 12:03:11")
    spool.close()
    return writer.path


@pytest.fixture
def node(rig, monkeypatch):
    monkeypatch.setattr(capture_nodes.link, "_REPORT_S", 0.1)
    stop = threading.Event()
    thread = threading.Thread(target=Node(rig, "pc0").run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def headstream(*arguments):
    command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_completes_what_it_can_and_lists_the_rest(rig, take, node):
    done = headstream("backfill", rig.root / "rig.toml", "--json")
    assert done.returncode == 1, done.stderr
    (report,) = json.loads(done.stdout)
    assert (report["take"], report["complete"], report["settled"]) == ("scene_001", False, True)
    (gap,) = report["missing"]
    assert (gap["frames"], gap["sequences"], gap["reason"]) == (3, [21, 23], "the node's disk was full at 12:03:11")
    assert [f.header.sequence for f in TakeReader(take).frames()] == [*range(21), *range(24, COUNT)]
    again = headstream("backfill", rig.root / "rig.toml")
    assert again.returncode == 0 and again.stdout.strip() == "no take wants pictures"


def test_progress_is_told_and_without_nodes_it_gives_up(rig, take):
    began = time.monotonic()
    told: list = []
    (report,) = backfill(rig, take, threading.Event(), lambda *step: told.append(step), 0.5)
    assert time.monotonic() - began < 20
    assert not report["settled"]
    stop = threading.Event()
    stop.set()
    backfill(rig, None, stop, lambda *step: None, 60.0)  # Ctrl-C ends it at once


def test_what_cannot_be_done_is_refused_in_one_line(rig, take):
    with pytest.raises(HeadstreamError, match=r"nothing: no take; a take is a folder with take\.mcap"):
        backfill(rig, rig.root / "nothing", threading.Event(), lambda *step: None, 0.1)
    with pytest.raises(HeadstreamError, match="is a take of rig 'test'; this one is 'other'"):
        backfill(replace(rig, name="other"), take, threading.Event(), lambda *step: None, 0.1)
    with socket.create_server(("127.0.0.1", rig.server.data_port)):
        done = headstream("backfill", rig.root / "rig.toml")
    assert done.returncode == 2 and "the port is in use" in done.stderr and "Traceback" not in done.stderr


def gap(frames=1, at=0, reason="gone", camera="cam0", triggers=None):
    return {
        "camera": camera,
        "frames": frames,
        "from_ns": at * 10**9,
        "to_ns": (at + 1) * 10**9,
        "reason": reason,
        "triggers": triggers,
    }


def test_a_report_says_how_much_whose_when_and_why():
    assert report_lines([]) == ["no take wants pictures"]
    whole = {"take": "a_001", "complete": True}
    unasked = {"take": "a_002", "complete": False, "missing": None}
    gaps = [gap(2, 0, "disk full", triggers=(7, 8)), gap(1, 5), gap(1, 9), gap(3, 9, camera="cam1")]
    torn = {"take": "a_003", "complete": False, "settled": True, "missing_frames": 7, "missing": gaps}
    lines = report_lines([whole, unasked, torn])
    assert lines[:3] == ["a_001: complete", "a_002: no node was there to be asked", "a_003: 7 frames are gone"]
    assert lines[3].startswith("  cam0: 2 from ") and lines[3].endswith(", triggers 7 to 8: disk full")
    assert lines[4].startswith("  cam0: 2 in 2 gaps from ") and lines[4].endswith(": gone")
    assert lines[5].startswith("  cam1: 3 from ")


def test_the_status_shows_backfill():
    """Disks of nodes raise alarms (``test_recorder``) and are not said a second time."""
    assert take_lines({}) == []
    idle = {"take": None, "done": 0, "total": 0, "queued": 0, "fault": ""}
    assert take_lines({"backfill": idle, "spool": {"pc1": {"fault": "disk full"}}}) == []
    busy = {**idle, "take": "slate_003", "done": 812, "total": 1020, "queued": 2}
    assert take_lines({"backfill": busy}) == ["backfilling slate_003: 812 of 1,020 frames"]
    assert take_lines({"backfill": {**idle, "queued": 1}}) == ["1 take waits for pictures of nodes"]
    assert take_lines({"backfill": {**idle, "fault": "x"}}) == ["backfill: x"]
