"""Ordinary cameras and their recordings through FFmpeg (PyAV, ``pip install 'headstream[video]'``).

A UVC camera by its serial number, a stream by its address (RTSP and whatever else FFmpeg reads), or a video file. A
picture that comes as a JPEG is passed on as it is.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from capture_nodes.drivers import v4l2
from capture_nodes.drivers.base import Attached, CameraLost, Captured, Driver, DriverError, options_error, parse_options
from capture_nodes.drivers.device_clock import DeviceClock
from capture_nodes.drivers.jpeg_packets import whole_jpeg
from capture_nodes.drivers.schedule import Schedule
from capture_nodes.drivers.video_file import VideoFile
from capture_nodes.encode import EncodeError, jpeg_size
from protocol.rig import CameraConfig, Rig
from protocol.table import chosen, limited

log = logging.getLogger(__name__)

UNSET = math.nan
_OPEN_S, _READ_S = 5.0, 3.0  # a stream that takes longer is given up, and tried again
_FIRST_LOOK_S = 0.5  # what is wrong at once is said by ``open``
_HELD = 2  # pictures between the thread that reads and the node
_FORMATS = {"mjpeg": "mjpeg", "yuyv": "yuyv422"}


@dataclass(frozen=True)
class OpencvOptions:
    """``options`` of a camera with driver "opencv". One of ``url``, ``file`` and the camera's serial must be given."""

    url: str = ""  # "rtsp://user:password@10.0.0.7/stream"
    transport: str = chosen("tcp", "tcp", "udp")  # of RTSP
    file: Path = Path()  # relative to the rig file
    fps: float = limited(0.0, 0, 1000)  # 0: the file's own, of a UVC camera the rig's
    loop: bool = True  # of a file
    start: float = limited(0.0, 0, 1e11)  # of a file: Unix seconds at which the first picture shows
    width: int = limited(0, 0, 65_535)  # of a UVC camera, pixels; 0: its own choice
    height: int = limited(0, 0, 65_535)
    format: str = chosen("mjpeg", "mjpeg", "yuyv")  # of a UVC camera
    exposure_us: float = limited(UNSET, 1, 1e7)  # of a UVC camera; switches the automatic one off
    gain: int = limited(-1, 0, 65_535)  # of a UVC camera, in its own units
    white_balance_k: int = limited(-1, 1000, 20_000)  # of a UVC camera, kelvin
    delay_ms: float = limited(0.0, 0, 10_000)  # known least time from exposure to arrival


def OpencvDriver(camera: CameraConfig, rig: Rig) -> Driver:
    """The driver for a UVC camera, a stream or a file, as the options say. Raises DriverError."""
    options = parse_options(OpencvOptions, camera, rig)
    given = {"serial": bool(camera.serial), "options.url": bool(options.url), "options.file": options.file != Path()}
    if sum(given.values()) != 1:
        both = " and ".join(key for key, there in given.items() if there) or "none"
        at = f"rig {rig.name!r}: camera[{rig.camera_ids.index(camera.id)}]"
        raise DriverError(f"{at}: {both} given; must be one of {', '.join(given)}")
    if options.file != Path():
        return FileDriver(camera, rig, options)
    if rig.sync.mode == "trigger":
        text = "a camera without trigger counter; sync.mode in the rig file must be 'time'"
        raise options_error(camera, rig, "url" if options.url else "format", text)
    return StreamDriver(camera, rig, options)


class FileDriver(Driver):
    """A video file on the wall clock's schedule, in step with every other process that plays one, in a loop or once."""

    def __init__(
        self,
        camera: CameraConfig,
        rig: Rig,
        options: OpencvOptions,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], object] = time.sleep,
    ):
        if not options.loop and not options.start:
            text = "missing; with loop = false it must say when the first picture shows, in Unix seconds"
            raise options_error(camera, rig, "start", text)
        path = rig.root / options.file
        if not path.is_file():
            raise options_error(camera, rig, "file", f"{path}: there is no such file")
        self._file = VideoFile(path)
        fps = options.fps or self._file.rate or rig.fps
        count = None if options.loop else len(self._file)
        self._schedule = Schedule(fps, round(options.start * fps), count, now_ns=now_ns, sleep=sleep)

    def open(self) -> None:
        """Nothing to do: the file is opened at the first picture."""

    def next_frame(self, timeout_s: float) -> Captured | None:
        """The picture whose time it is; pictures whose time passed are skipped and counted in ``missed``."""
        trigger = self._schedule.wait(timeout_s)
        self.missed, self.finished = self._schedule.missed, self._schedule.finished
        if trigger is None:
            return None
        picture = self._file.read((trigger - self._schedule.first) % len(self._file), timeout_s)
        if picture is None:  # on the way there from the last key frame
            self._schedule.missed += 1
            return None
        exposed = self._schedule.time_of(trigger)
        return _captured(picture, trigger, exposed, exposed)

    def close(self) -> None:
        """The file."""
        self._file.close()

    def __str__(self) -> str:
        kind = f"{len(self._file)} pictures of {self._file.codec} at {self._schedule.fps:g} fps"
        return f"video {self._file.path}, {kind}"


class StreamDriver(Driver):
    """A UVC camera or a network stream. A thread reads it, so that neither opening nor ending waits for a network."""

    def __init__(self, camera: CameraConfig, rig: Rig, options: OpencvOptions):
        self.id, self.serial, self.options = camera.id, camera.serial, options
        self._camera, self._rig = camera, rig
        self._clock = DeviceClock(round(options.delay_ms * 1e6))
        self._reader: _Reader | None = None
        self._name = options.url.rpartition("@")[2] or camera.serial  # a password is not for the log

    def open(self) -> None:
        """Connect. Raises DriverError for what is wrong at once; a network that does not answer shows later."""
        self.close()
        options = self.options
        self._clock = DeviceClock(round(options.delay_ms * 1e6))
        if options.url:
            more = {"rtsp_transport": options.transport, "fflags": "nobuffer"} if "rtsp" in options.url else {}
            self._reader = _Reader(options.url, self._name, None, more)
        else:
            found = v4l2.find(self.serial)
            with v4l2.opened(found.path) as controls:
                self._set(controls)
            more = {"input_format": _FORMATS[options.format], "framerate": f"{options.fps or self._rig.fps:g}"}
            if options.width and options.height:
                more["video_size"] = f"{options.width}x{options.height}"
            self._reader = _Reader(str(found.path.resolve()), found.name, "v4l2", more)
        self._reader.start()

    def next_frame(self, timeout_s: float) -> Captured | None:
        """The next picture; those that came faster than they were read are counted in ``missed``."""
        if self._reader is None:
            raise CameraLost(f"{self._name} is not open")
        taken, dropped = self._reader.take(timeout_s)
        self.missed += dropped
        if taken is None:
            return None
        device_ns, arrived_ns, picture = taken
        exposure = self._clock.add(device_ns, arrived_ns)
        if note := self._clock.take_note():
            log.warning("camera %s: %s", self.id, note)
        if isinstance(picture, av.VideoFrame):
            picture = picture.to_ndarray(format="rgb24")
        return _captured(picture, None, device_ns or exposure.node_ns, exposure.node_ns, exposure.sigma_ns)

    def close(self) -> None:
        """The connection; a thread that hangs in it ends when the network's time is over."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None

    def __str__(self) -> str:
        what = self._reader.what if self._reader is not None else ""
        return f"{'stream' if self.options.url else 'UVC camera'} {self._name}{what}"

    def _set(self, controls: v4l2.Controls) -> None:
        options = self.options
        wrong = {}
        if not math.isnan(options.exposure_us):
            wrong["exposure_us"] = v4l2.set_exposure(controls, options.exposure_us)
        if options.gain >= 0:
            wrong["gain"] = v4l2.set_fixed(controls, v4l2.GAIN, v4l2.AUTO_GAIN, options.gain)
        if options.white_balance_k >= 0:
            setting = v4l2.WHITE_BALANCE_K, v4l2.AUTO_WHITE_BALANCE, options.white_balance_k
            wrong["white_balance_k"] = v4l2.set_fixed(controls, *setting)
        for key, text in wrong.items():
            if text:
                raise options_error(self._camera, self._rig, key, f"{getattr(options, key):g}; {text}")


_Item = tuple[int, int, "bytes | av.VideoFrame"]  # device time, arrival, picture


class _Reader:
    """The thread that reads a stream, and the newest few pictures of it."""

    def __init__(self, url: str, name: str, kind: str | None, options: dict[str, str]):
        self.what = ""
        self._url, self._name, self._kind, self._options = url, name, kind, options
        self._pictures: deque[_Item] = deque()
        self._dropped = 0
        self._error: DriverError | None = None
        self._open = False
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"read {name}", daemon=True)

    def start(self) -> None:
        """Raises DriverError for what is wrong within the first half second."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._error, _FIRST_LOOK_S)
            if self._error is not None:
                raise self._error

    def take(self, timeout_s: float) -> tuple[_Item | None, int]:
        """The oldest picture that is held, and how many were dropped before it. Raises CameraLost."""
        with self._changed:
            self._changed.wait_for(lambda: self._pictures or self._error, timeout_s)
            dropped, self._dropped = self._dropped, 0
            if self._pictures:
                return self._pictures.popleft(), dropped
            if self._error is not None:
                raise CameraLost(str(self._error)) from None
            return None, dropped

    def stop(self) -> None:
        """Ask the thread to end, and wait for it a little."""
        self._ended.set()
        self._thread.join(_FIRST_LOOK_S)

    def _run(self) -> None:
        try:
            with av.open(self._url, format=self._kind, options=self._options, timeout=(_OPEN_S, _READ_S)) as container:
                self._read(container)
            error = DriverError(f"{self._name}: the stream ended")
        except (OSError, av.FFmpegError, DriverError) as caught:
            error = DriverError(f"{self._name}: {getattr(caught, 'strerror', None) or caught}")
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _read(self, container: av.container.InputContainer) -> None:
        if not container.streams.video:
            raise DriverError("has no video, only sound or text")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # frames decoded side by side come later by as many frames
        context = stream.codec_context
        with self._changed:
            self.what = f", {context.width} x {context.height} {context.name}"
            self._open = True
            self._changed.notify_all()
        begun = after_loss = False  # pictures that build on one that was not seen, or not whole, are guesses
        for packet in container.demux(stream):
            if self._ended.is_set():
                return
            # FFmpeg marks the packet in which a loss was noticed; the damaged one may be the next.
            begun = (begun or (packet.is_keyframe and not after_loss)) and not packet.is_corrupt
            after_loss = packet.is_corrupt
            if context.name == "mjpeg":
                if packet.is_corrupt:
                    self._drop()
                elif packet.size:
                    self._put(packet.pts, packet.time_base, whole_jpeg(bytes(packet)))
                continue
            for frame in self._decoded(packet):
                if frame is not None and begun and not frame.is_corrupt:
                    self._put(frame.pts, frame.time_base, frame)
                else:
                    begun = False
                    self._drop()

    def _drop(self) -> None:
        with self._changed:
            self._dropped += 1

    def _decoded(self, packet: av.Packet) -> list[av.VideoFrame | None]:
        """The packet's pictures; None for one that is damaged."""
        try:
            return list(packet.decode())
        except av.InvalidDataError:
            return [None]

    def _put(self, pts: int | None, time_base, picture: bytes | av.VideoFrame) -> None:
        arrived_ns = time.time_ns()
        device_ns = 0 if pts is None else 1 + max(0, int(pts * 10**9 * time_base))  # 0 would be: no time
        with self._changed:
            self._pictures.append((device_ns, arrived_ns, picture))
            if len(self._pictures) > _HELD:
                self._pictures.popleft()
                self._dropped += 1
            self._changed.notify_all()


def _captured(
    picture: bytes | np.ndarray, trigger: int | None, device_ns: int, node_ns: int, sigma: int = 0
) -> Captured:
    if isinstance(picture, bytes):
        try:
            width, height = jpeg_size(picture)
        except EncodeError as error:
            raise DriverError(str(error)) from None
        return Captured(picture, None, trigger, device_ns, node_ns, width, height, sigma)
    return Captured(None, picture, trigger, device_ns, node_ns, picture.shape[1], picture.shape[0], sigma)


def attached() -> list[Attached]:
    """Every UVC camera of this machine. Streams and files are not looked for."""
    return [Attached("opencv", camera.serial, "", camera.name, str(camera.path)) for camera in v4l2.cameras()]
