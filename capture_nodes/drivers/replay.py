"""Plays a capture folder as if it were a camera.

The trigger counter is the wall clock in frames, ``time * fps``, so that processes that know nothing of each other agree
which picture belongs to which trigger, whenever each was started. JPEGs pass through as they lie on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from capture_nodes.drivers.base import Captured, Driver, DriverError, options_error, parse_options
from capture_nodes.drivers.schedule import Schedule
from capture_nodes.encode import EncodeError, jpeg_size
from protocol.capture_folder import CaptureFolder
from protocol.rig import CameraConfig, Rig
from protocol.table import limited


@dataclass(frozen=True)
class ReplayOptions:
    """``options`` of a camera with driver "replay"."""

    capture: Path  # the capture folder, relative to the rig file
    camera: str = ""  # its name in the capture; empty: the camera's id
    fps: float = limited(0.0, 0, 1000)  # 0: the rig's
    loop: bool = True
    start: float = limited(0.0, 0, 1e11)  # Unix seconds at which the first picture shows
    cache_mb: float = limited(64.0, 0, 65_536)
    buffers: int = limited(0, 0, 1000)  # pictures that wait for a node that is late, as in a camera's driver


class ReplayDriver(Driver):
    """One camera of a capture folder, in a loop or once.

    Pictures once read are kept until ``cache_mb`` are full; the rest of a longer loop is read each time round (with
    least-recently-used eviction a loop longer than the cache would never find anything in it).
    Raises DriverError, CaptureError or CalibrationError when made with what cannot be played.
    """

    def __init__(
        self,
        camera: CameraConfig,
        rig: Rig,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ):
        options = parse_options(ReplayOptions, camera, rig)
        if not options.loop and not options.start:
            text = "missing; with loop = false it must say when the first picture shows, in Unix seconds"
            raise options_error(camera, rig, "start", text)
        self._folder = CaptureFolder.open(rig.root / options.capture)
        self._camera = options.camera or camera.id
        if self._camera not in self._folder.calibration.names:
            key = "camera" if options.camera else "capture"
            names = ", ".join(self._folder.calibration.names)
            raise options_error(camera, rig, key, f"{self._folder.root} has no camera {self._camera!r}; it has {names}")
        fps = options.fps or rig.fps
        count = None if options.loop else len(self._folder.frames)
        self._schedule = Schedule(
            fps, round(options.start * fps), count, buffers=options.buffers, now_ns=now_ns, sleep=sleep
        )
        self._pictures: dict[str, tuple[bytes, int, int]] = {}
        self._room = int(options.cache_mb * 2**20)

    def open(self) -> None:
        """Nothing to do: the folder was opened when this was made, and the schedule is the clock's."""

    def next_frame(self, timeout_s: float) -> Captured | None:
        """The picture whose time it is, or the oldest that waits; the others before it are counted in ``missed``.

        Raises DriverError when the picture cannot be read.
        """
        trigger = self._schedule.wait(timeout_s)
        self.missed, self.finished = self._schedule.missed, self._schedule.finished
        if trigger is None:
            return None
        frames = self._folder.frames
        jpeg, width, height = self._read(frames[(trigger - self._schedule.first) % len(frames)])
        exposed = self._schedule.time_of(trigger)
        return Captured(jpeg, None, trigger, exposed, exposed, width, height)

    def close(self) -> None:
        """Nothing to do: no file is held open."""

    def __str__(self) -> str:
        pictures = f"{len(self._folder.frames)} pictures at {self._schedule.fps:g} fps"
        return f"replay of {self._folder.root} {self._camera}, {pictures}"

    def _read(self, frame: str) -> tuple[bytes, int, int]:
        picture = self._pictures.get(frame)
        if picture is not None:
            return picture
        path = self._folder.jpeg(frame, self._camera)
        try:
            jpeg = path.read_bytes()
            picture = (jpeg, *jpeg_size(jpeg))
        except FileNotFoundError:
            raise DriverError(f"{path}: missing") from None
        except OSError as error:
            raise DriverError(f"{path}: cannot be read ({error.strerror})") from None
        except EncodeError as error:
            raise DriverError(f"{path}: {error}") from None
        if len(jpeg) <= self._room:
            self._room -= len(jpeg)
            self._pictures[frame] = picture
        return picture
