"""UVC cameras on Linux: found by serial number under /dev/v4l/by-id, set through V4L2's controls."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from capture_nodes.drivers.base import DriverError

BY_ID = Path("/dev/v4l/by-id")
_PREFIX, _SUFFIX = "usb-", "-video-index0"  # index 1 of a camera carries its metadata
_SET, _QUERY = 0xC008561C, 0xC0445624  # VIDIOC_S_CTRL, VIDIOC_QUERYCTRL
_QUERY_FORMAT = "<II32siiiiIII"  # struct v4l2_queryctrl
_DISABLED = 1
AUTO_WHITE_BALANCE, WHITE_BALANCE_K = 0x0098090C, 0x0098091A
AUTO_GAIN, GAIN = 0x00980912, 0x00980913
AUTO_EXPOSURE, EXPOSURE, EXPOSURE_SLOWS = 0x009A0901, 0x009A0902, 0x009A0903  # V4L2_CID_EXPOSURE_AUTO_PRIORITY
_MANUAL_EXPOSURE = 1
EXPOSURE_UNIT_US = 100


@dataclass(frozen=True, slots=True)
class UvcCamera:
    """A camera as udev names it: vendor, model and serial number in one word."""

    name: str
    path: Path

    @property
    def serial(self) -> str:
        """The last part of the name: the serial number where the camera has one."""
        return self.name.rpartition("_")[2]


def cameras(folder: Path = BY_ID) -> list[UvcCamera]:
    """Every UVC camera of this machine."""
    paths = sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
    return [UvcCamera(path.name[len(_PREFIX) : -len(_SUFFIX)], path) for path in paths]


def find(serial: str, folder: Path = BY_ID) -> UvcCamera:
    """The camera with this serial number, or with this whole name where it has none. Raises DriverError."""
    there = cameras(folder)
    found = [camera for camera in there if serial in (camera.serial, camera.name)]
    if len(found) > 1:
        names = ", ".join(camera.name for camera in found)
        raise DriverError(f"{len(found)} cameras have serial {serial!r}; give the whole name instead: {names}")
    if not found:
        names = ", ".join(f"{camera.serial} ({camera.name})" for camera in there) or "none"
        raise DriverError(f"UVC camera {serial} is not attached; attached: {names}")
    return found[0]


class Controls:
    """The controls of an open device."""

    def __init__(self, file: int):
        self._file = file

    def limits(self, control: int) -> tuple[int, int] | None:
        """Least and most; None when the camera has no such control."""
        query = struct.pack(_QUERY_FORMAT, control, 0, b"", 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = fcntl.ioctl(self._file, _QUERY, query)
        except OSError:
            return None
        _, _, _, low, high, _, _, flags, _, _ = struct.unpack(_QUERY_FORMAT, answer)
        return None if flags & _DISABLED else (low, high)

    def write(self, control: int, value: int) -> None:
        """Raises DriverError with the kernel's reason."""
        try:
            fcntl.ioctl(self._file, _SET, struct.pack("<Ii", control, value))
        except OSError as error:
            raise DriverError(f"the camera refuses it ({error.strerror})") from None


@contextmanager
def opened(path: Path) -> Iterator[Controls]:
    """A device's controls. Raises DriverError when it cannot be opened."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        hint = "; add the user to group video" if isinstance(error, PermissionError) else ""
        raise DriverError(f"{path}: cannot be opened ({error.strerror}){hint}") from None
    try:
        yield Controls(file)
    finally:
        os.close(file)


def set_exposure(controls: Controls, microseconds: float) -> str:
    """A fixed exposure that does not slow the camera down. What is wrong with it, empty when nothing is."""
    if not (limits := controls.limits(EXPOSURE)):
        return "the camera's exposure cannot be set"
    low, high = limits
    value = round(microseconds / EXPOSURE_UNIT_US)
    if not low <= value <= high:
        return f"this camera goes from {low * EXPOSURE_UNIT_US} to {high * EXPOSURE_UNIT_US} us"
    if controls.limits(AUTO_EXPOSURE):
        controls.write(AUTO_EXPOSURE, _MANUAL_EXPOSURE)
    if controls.limits(EXPOSURE_SLOWS):
        controls.write(EXPOSURE_SLOWS, 0)
    controls.write(EXPOSURE, value)
    return ""


def set_fixed(controls: Controls, control: int, automatic: int, value: int) -> str:
    """A control to a value and its automatic off. What is wrong with it, empty when nothing is."""
    if not (limits := controls.limits(control)):
        return "this camera has no such control"
    if not limits[0] <= value <= limits[1]:
        return f"this camera goes from {limits[0]} to {limits[1]}"
    if controls.limits(automatic):
        controls.write(automatic, 0)
    controls.write(control, value)
    return ""
