"""``headstream record`` with a real node: a take without meshes that is whole, and what it says where nobody sends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fusion_server.takes import TakeReader
from fusion_server.takes.export.capture import export_capture
from protocol.capture_folder import CaptureFolder

CAMERAS = ("cam0", "cam1")


@pytest.fixture
def rig(tmp_path):
    K, R = [[32, 0, 16], [0, 32, 16], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    cameras = [{"name": name, "width": 32, "height": 32, "K": K, "R": R, "t": [0, 0, 1]} for name in CAMERAS]
    (tmp_path / "cameras.json").write_text(json.dumps({"version": 1, "cameras": cameras}))
    noise = np.random.default_rng(0)
    for frame in range(5):
        folder = tmp_path / "frames" / f"{frame:03d}"
        folder.mkdir(parents=True)
        for name in CAMERAS:
            cv2.imwrite(str(folder / f"{name}.jpg"), noise.integers(0, 255, (32, 32, 3), np.uint8))
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    data, control = (each.getsockname()[1] for each in held)
    for each in held:
        each.close()
    text = f'name = "t"\ncalibration = "cameras.json"\n[server]\ndata_port = {data}\ncontrol_port = {control}\n'
    for name in CAMERAS:
        text += f'[[camera]]\nid = "{name}"\nnode = "pc1"\ndriver = "replay"\noptions = {{capture = "."}}\n'
    (tmp_path / "rig.toml").write_text(text)
    return tmp_path / "rig.toml"


def headstream(*arguments):
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


def record(rig, *options):
    return subprocess.run(headstream("record", rig, "scene", *options), capture_output=True, text=True, timeout=90)


def test_a_take_waits_for_its_cameras_has_every_picture_and_becomes_a_capture(rig, tmp_path):
    command = headstream("record", rig, "scene", "--seconds", "1", "--gather", "60", "--json")
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    first = recorder.stdout.readline()  # it stands there and waits: a take that begins now lacks its first pictures
    node = subprocess.Popen(headstream("node", rig, "--name", "pc1"), stderr=subprocess.DEVNULL)
    try:
        lines = [json.loads(line) for line in (first, *recorder.stdout)]
        assert recorder.wait(60) == 0
    finally:
        node.terminate()
        node.wait(20)
        recorder.kill()
    assert lines[0]["take"] is None
    assert lines[-1]["ended"] and lines[-1]["complete"] and lines[-1]["slate"] == "scene"
    assert any(line.get("take") for line in lines[:-1]) and "meshes" not in lines[0]
    take = TakeReader(lines[-1]["path"])
    triggers = {name: [frame.header.trigger for frame in take.frames(name)] for name in CAMERAS}
    for name in CAMERAS:
        assert triggers[name] == list(range(triggers[name][0], triggers[name][-1] + 1))
        assert 28 <= len(triggers[name]) <= 40
    assert export_capture(take, tmp_path / "capture") >= 28
    assert CaptureFolder.open(tmp_path / "capture").calibration.names == CAMERAS


def test_where_nobody_sends_the_take_says_so(rig):
    done = record(rig, "--seconds", "0.2", "--gather", "0.2", "--patience", "0.5")
    assert done.returncode == 1
    assert "no pictures from cam0, cam1; the take begins without" in done.stderr
    assert "scene_001" in done.stdout
