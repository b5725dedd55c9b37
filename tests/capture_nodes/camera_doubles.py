"""Cameras without hardware for the drivers' tests: each one real on the other side of its protocol.

A source makes drivers of one camera that shows ``PICTURE``-like pictures, can take the camera away, and bring it back.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from capture_nodes.drivers import make_driver
from capture_nodes.drivers.base import CameraLost, Captured, Driver, DriverError
from protocol.rig import Rig, parse_rig

HERE = Path(__file__).parent
WIDTH, HEIGHT = 320, 240
COLOUR = (200, 60, 30)  # of picture 0; blue grows by BLUE_STEP from picture to picture
BLUE_STEP, COUNT = 20, 8
DEADLINE_S = 20.0
EMULATED_SERIAL = "0815-0000"


def pictures() -> np.ndarray:
    """(COUNT, HEIGHT, WIDTH, 3) uint8 RGB: one colour each, and a white square at the top left."""
    out = np.empty((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(COUNT):
        out[index] = (*COLOUR[:2], COLOUR[2] + BLUE_STEP * index)
    out[:, 16:48, 16:48] = 255
    return out


def rgb_of(captured: Captured) -> np.ndarray:
    """What a frame shows, (H, W, 3) uint8."""
    if captured.pixels is not None:
        return captured.pixels
    return cv2.imdecode(np.frombuffer(captured.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def shows_ours(captured: Captured, tolerance: int = 6) -> bool:
    """Whether a frame is one of ``pictures``, right way up and with red where red was."""
    rgb = rgb_of(captured).astype(int)
    middle, square = rgb[HEIGHT // 2, WIDTH // 2], rgb[32, 32]
    blues = COLOUR[2] + BLUE_STEP * np.arange(COUNT)
    return bool(
        np.abs(middle[:2] - COLOUR[:2]).max() <= tolerance
        and np.abs(blues - middle[2]).min() <= tolerance
        and square.min() > 250 - tolerance
    )


def take(driver: Driver, count: int) -> list[Captured]:
    """So many pictures; those that the driver refuses are passed over."""
    out: list[Captured] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(out) < count:
        assert time.monotonic() < deadline, f"{len(out)} of {count} pictures came"
        try:
            captured = driver.next_frame(0.2)
        except CameraLost:
            raise
        except DriverError:
            continue
        if captured is not None:
            out.append(captured)
    return out


def until_lost(driver: Driver) -> str:
    """Read on until the driver says that the camera is gone; what it says."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < deadline, "the driver does not notice"
        try:
            driver.next_frame(0.2)
        except CameraLost as error:
            return str(error)
        except DriverError:
            continue


def open_again(driver: Driver) -> None:
    """As the node does: until it opens."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return driver.open()
        except DriverError:
            driver.close()
            assert time.monotonic() < deadline, "the camera does not come back"
            time.sleep(0.2)


class Source:
    """One camera of a kind."""

    driver = ""
    serial = ""
    triggers = True  # whether its pictures have a trigger
    ours = True  # whether it shows ``pictures``
    tolerance = 6
    lost: Callable[[], None] | None = None  # take the camera away
    back: Callable[[], None] | None = None
    options: dict[str, Any]

    def __init__(self, **options: Any):
        self.options = options
        self.root = Path(".")

    def rig(self, serial: str | None = None, **options: Any) -> Rig:
        serial = self.serial if serial is None else serial
        camera = {"id": "cam00", "node": "pc1", "driver": self.driver, "options": self.options | options}
        if serial:
            camera["serial"] = serial
        mode = "trigger" if self.triggers else "time"
        data = {"name": "test", "calibration": "c.json", "sync": {"mode": mode}, "camera": [camera]}
        return parse_rig(data, root=self.root)

    def make(self, serial: str | None = None, **options: Any) -> Driver:
        rig = self.rig(serial, **options)
        return make_driver(rig.cameras[0], rig)


@contextmanager
def gvcp_port() -> Iterator[None]:
    """GigE Vision cameras listen on one fixed port of 127.0.0.1: one test of this machine at a time."""
    with (Path(tempfile.gettempdir()) / "headstream-tests-gvcp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def viva_camera(**settings: Any) -> Iterator[tuple[Source, Any]]:
    """viva-genicam's own GigE Vision camera, in this process; it shows a test pattern."""
    from viva_genicam.testing import FakeGigeCamera

    with gvcp_port(), FakeGigeCamera(64, 48, 30, **settings) as camera:
        source = Source(fps=30.0)
        source.driver, source.serial, source.ours = "gige", FakeGigeCamera.MAC, False
        source.lost, source.back = camera.stop, camera.start
        yield source, camera


@contextmanager
def aravis_process(folder: Path, address: str, serial: str) -> Iterator[Callable[[], subprocess.Popen]]:
    """A function that starts Aravis' camera with our pictures; ended at the end. Skips where there is none."""
    if shutil.which("arv-fake-gv-camera-0.8") is None:
        pytest.skip("needs Aravis' fake camera: apt-get install aravis-tools")
    path = folder / "pictures.npy"
    np.save(path, pictures())
    started: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        command = [sys.executable, str(HERE / "aravis_camera.py"), address, serial, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


@contextmanager
def aravis_camera(folder: Path) -> Iterator[Source]:
    """Aravis' GigE Vision camera in a process of its own, showing our pictures."""
    serial = f"HS{os.getpid()}"
    with gvcp_port(), aravis_process(folder, "127.0.0.1", serial) as start:
        running = [start()]
        source = Source(width=WIDTH, height=HEIGHT, pixel_format="BayerRG8", fps=25.0)
        source.driver, source.serial = "gige", serial

        def lost() -> None:
            running[0].kill()
            running[0].wait()

        def back() -> None:
            running[0] = start()

        source.lost, source.back = lost, back
        yield source


@contextmanager
def pylon_camera(folder: Path) -> Iterator[Source]:
    """Basler's emulated camera with our pictures out of a folder."""
    for index, picture in enumerate(pictures()):
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    shown = {"ImageFilename": str(folder), "ImageFileMode": "On", "TestImageSelector": "Off"}
    source = Source(width=WIDTH, height=HEIGHT, pixel_format="BayerRG8", fps=25.0, features=shown)
    source.driver, source.serial = "pylon", EMULATED_SERIAL
    yield source


def write_video(path: Path, codec: str, rate: int = 25, count: int = COUNT) -> Path:
    """A file of our pictures."""
    import av

    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": "4", "crf": "8"} if codec == "libx264" else {"qmin": "1", "qmax": "2"}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.codec_context.thread_count = 1  # one slice a picture: over RTSP, GStreamer marks each slice as a picture
        stream.pix_fmt = "yuv420p" if codec == "libx264" else "yuvj420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(pictures()[index % COUNT], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextmanager
def video_file(folder: Path, codec: str) -> Iterator[Source]:
    """A video file, played in a loop."""
    name = {"libx264": "ours.mp4", "mjpeg": "ours.avi"}[codec]
    write_video(folder / name, codec)
    source = Source(file=name)
    source.driver, source.root = "opencv", folder
    yield source


@contextmanager
def rtsp_stream(folder: Path, codec: str) -> Iterator[Source]:
    """GStreamer's RTSP server with our pictures, as Motion JPEG without end, or as H.264."""
    have = [sys.platform == "linux" and Path("/usr/bin/python3").exists()]
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    have.append(have[0] and subprocess.run(["/usr/bin/python3", "-c", check], capture_output=True).returncode == 0)
    if not all(have):
        needs = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
        pytest.skip(f"needs an RTSP server: apt-get install {needs}")
    if codec == "mjpeg":
        for index, picture in enumerate(pictures()):
            cv2.imwrite(str(folder / f"{index}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        files = f"multifilesrc location={folder}/%d.jpg loop=true caps=image/jpeg,framerate=25/1"
        pipeline = f"( {files} ! jpegdec ! jpegenc quality=98 ! rtpjpegpay name=pay0 )"
    else:
        write_video(folder / "long.mp4", "libx264", count=25 * 30)
        packed = "qtdemux ! h264parse ! video/x-h264,alignment=au ! rtph264pay config-interval=-1 name=pay0"
        pipeline = f"( filesrc location={folder}/long.mp4 ! {packed} )"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running: list[subprocess.Popen] = []

    def start() -> None:
        command = ["/usr/bin/python3", str(HERE / "rtsp_server.py"), str(port), pipeline]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"

    def lost() -> None:
        running[-1].kill()
        running[-1].wait()

    try:
        start()
        source = Source(url=f"rtsp://127.0.0.1:{port}/camera")
        source.driver, source.triggers, source.tolerance = "opencv", False, 10
        source.lost, source.back = lost, start
        yield source
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()


@contextmanager
def replayed_capture(folder: Path) -> Iterator[Source]:
    """A capture folder of our pictures."""
    import json

    eye = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    camera = {"name": "cam00", "width": WIDTH, "height": HEIGHT, "K": eye, "R": eye, "t": [0, 0, 1]}
    (folder / "cameras.json").write_text(json.dumps({"version": 1, "cameras": [camera]}), encoding="utf-8")
    for index, picture in enumerate(pictures()):
        path = folder / "frames" / f"{index:03d}" / "cam00.jpg"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    source = Source(capture=str(folder), fps=25.0)
    source.driver = "replay"
    yield source
