"""What every camera driver is to the node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from protocol.errors import HeadstreamError
from protocol.rig import CameraConfig, Rig
from protocol.table import parse_table

T = TypeVar("T")


class DriverError(HeadstreamError):
    """A camera that cannot be used as the rig file says, or a picture that could not be had."""


class CameraLost(DriverError):
    """The camera is gone; the node closes the driver and opens it again after a while."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One picture: a JPEG, or pixels (H, W, 3) uint8 RGB that the node encodes. Times are nanoseconds."""

    jpeg: bytes | None
    pixels: np.ndarray | None
    trigger: int | None  # trigger or block counter, where there is one
    device_ns: int  # the camera's own clock at exposure
    node_ns: int  # time.time_ns at exposure, as well as can be told
    width: int
    height: int
    node_sigma_ns: int = 0  # one standard deviation of node_ns; 0: as good as the node's own clock


@dataclass(frozen=True, slots=True)
class Attached:
    """A camera that a driver sees on this machine. Texts are empty where nothing is known."""

    driver: str
    serial: str  # what the rig file calls ``serial``
    vendor: str = ""
    model: str = ""
    address: str = ""  # IP address, device file, or the SDK's name
    firmware: str = ""
    busy: bool | None = None  # some program has it open; None: cannot be told


class Driver(ABC):
    """One camera. Made in the main thread, then opened, read and closed in one thread of its own.

    A subclass takes (camera, rig) and checks ``camera.options`` when it is made: what the rig file has wrong is a
    DriverError before anything runs. Nothing may block for much longer than half a second, so that a node can end.
    """

    missed: int = 0  # pictures that the camera took and that came too late to be read, since the driver was made
    finished: bool = False  # no picture will come any more

    @abstractmethod
    def open(self) -> None:
        """Start the camera. Raises DriverError; the node tries again later."""

    @abstractmethod
    def next_frame(self, timeout_s: float) -> Captured | None:
        """The next picture, or None when there is none within the time or the driver is finished.

        Raises CameraLost when the driver must be opened anew, HeadstreamError when only this picture is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the camera go. May be called twice, and after a failed ``open``."""

    @abstractmethod
    def __str__(self) -> str:
        """What this reads, for the log."""


def parse_options(cls: type[T], camera: CameraConfig, rig: Rig) -> T:
    """The camera's options as a dataclass of the driver's (``protocol.table``). Raises DriverError naming the key."""
    return parse_table(cls, camera.options, f"rig {rig.name!r}", options_path(camera, rig), DriverError)


def options_path(camera: CameraConfig, rig: Rig) -> str:
    """Where the camera's options stand in the rig file: ``camera[3].options``."""
    return f"camera[{rig.camera_ids.index(camera.id)}].options"


def options_error(camera: CameraConfig, rig: Rig, key: str, text: str) -> DriverError:
    """The error for an option that is right by itself and wrong in its surroundings."""
    return DriverError(f"rig {rig.name!r}: {options_path(camera, rig)}.{key}: {text}")
