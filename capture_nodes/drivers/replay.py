"""Plays a capture folder as if it were a camera.

The trigger counter is the wall clock in frames, ``time * fps``, so that processes that know nothing of each other agree
which picture belongs to which trigger, whenever each was started. JPEGs pass through as they lie on disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from capture_nodes.drivers.base import Captured, Driver, DriverError, options_error, parse_options
from capture_nodes.encode import EncodeError, jpeg_size
from protocol.capture_folder import CaptureFolder
from protocol.rig import CameraConfig, Rig
from protocol.table import limited

_STEPPED_BACK_S = 1.0  # a clock set back by more than this is a new schedule, not a long wait


@dataclass(frozen=True)
class ReplayOptions:
    """``options`` of a camera with driver "replay"."""

    capture: Path  # the capture folder, relative to the rig file
    camera: str = ""  # its name in the capture; empty: the camera's id
    fps: float = limited(0.0, 0, 1000)  # 0: the rig's
    loop: bool = True
    start: float = limited(0.0, 0, 1e11)  # Unix seconds at which the first picture shows
    cache_mb: float = limited(64.0, 0, 65_536)


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
        self._loop = options.loop
        self._fps = options.fps or rig.fps
        self._first = round(options.start * self._fps)  # trigger of the first picture
        self._next: int | None = None  # trigger to be played next
        self._pictures: dict[str, tuple[bytes, int, int]] = {}
        self._room = int(options.cache_mb * 2**20)
        self._now_ns, self._sleep = now_ns, sleep

    def open(self) -> None:
        """Nothing to do: the folder was opened when this was made, and the schedule is the clock's."""

    def next_frame(self, timeout_s: float) -> Captured | None:
        """The picture whose time it is; pictures whose time passed are skipped and counted in ``missed``.

        Raises DriverError when the picture cannot be read.
        """
        trigger = self._wait(timeout_s)
        if trigger is None:
            return None
        self._next = trigger + 1
        frames = self._folder.frames
        jpeg, width, height = self._read(frames[(trigger - self._first) % len(frames)])
        exposed = self._time_of(trigger)
        return Captured(jpeg, None, trigger, exposed, exposed, width, height)

    def close(self) -> None:
        """Nothing to do: no file is held open."""

    def __str__(self) -> str:
        return f"replay of {self._folder.root} {self._camera}, {len(self._folder.frames)} pictures at {self._fps:g} fps"

    def _wait(self, timeout_s: float) -> int | None:
        """Until the next trigger is due: that trigger, or None when the time is over or the play is."""
        now = self._now_ns()
        current = math.floor(now * self._fps / 1e9)  # the last trigger whose time has come
        upcoming = max(self._first, current + 1)
        if self._next is None:
            self._next = upcoming if self._loop else self._first
        elif self._next - upcoming > 1 + _STEPPED_BACK_S * self._fps:
            self._next = upcoming
        if current > self._next:
            last = current if self._loop else min(current, self._last + 1)
            self.missed += last - self._next
            self._next = last
        if not self._loop and self._next > self._last:
            self.finished = True
            return None
        wait = (self._time_of(self._next) - now) / 1e9
        if wait > timeout_s:
            self._sleep(timeout_s)
            return None
        if wait > 0:
            self._sleep(wait)
        return self._next

    @property
    def _last(self) -> int:
        return self._first + len(self._folder.frames) - 1

    def _time_of(self, trigger: int) -> int:
        """Scheduled exposure, Unix nanoseconds."""
        return round(trigger * 1e9 / self._fps)

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
