"""UVC cameras: names under /dev/v4l/by-id and the ioctls of their controls. No camera and no kernel driver here: the
ioctls are answered by a double that knows the kernel's structures (linux/videodev2.h)."""

import struct

import pytest

from capture_nodes.drivers import v4l2
from capture_nodes.drivers.base import DriverError


@pytest.fixture
def by_id(tmp_path):
    for name in (
        "usb-046d_HD_Pro_Webcam_C920_ABC123-video-index0",
        "usb-046d_HD_Pro_Webcam_C920_ABC123-video-index1",
        "usb-046d_HD_Pro_Webcam_C920_DEF456-video-index0",
        "usb-Maker_Camera_0001-video-index0",
        "usb-Other_Camera_0001-video-index0",
    ):
        (tmp_path / name).touch()
    return tmp_path


def test_cameras_are_found_by_serial_number(by_id):
    assert [camera.serial for camera in v4l2.cameras(by_id)] == ["ABC123", "DEF456", "0001", "0001"]
    assert v4l2.find("DEF456", by_id).path == by_id / "usb-046d_HD_Pro_Webcam_C920_DEF456-video-index0"
    assert v4l2.find("Maker_Camera_0001", by_id).name == "Maker_Camera_0001"


def test_what_is_not_found_or_not_one_says_what_is_there(by_id, tmp_path):
    with pytest.raises(DriverError, match=r"UVC camera XYZ is not attached; attached: ABC123 \(046d_HD_Pro"):
        v4l2.find("XYZ", by_id)
    with pytest.raises(
        DriverError, match="2 cameras have serial '0001'; give the whole name instead: Maker_Camera_0001"
    ):
        v4l2.find("0001", by_id)
    with pytest.raises(DriverError, match="attached: none"):
        v4l2.find("XYZ", tmp_path / "absent")


@pytest.fixture
def kernel(monkeypatch):
    """A camera's controls: id to (low, high); what was written."""
    controls = {
        v4l2.EXPOSURE: (3, 2047),
        v4l2.AUTO_EXPOSURE: (0, 3),
        v4l2.EXPOSURE_SLOWS: (0, 1),
        v4l2.GAIN: (0, 255),
        v4l2.AUTO_WHITE_BALANCE: (0, 1),
        v4l2.WHITE_BALANCE_K: (2000, 6500),
    }
    written = []

    def ioctl(file, request, argument):
        size = request >> 16 & 0x3FFF  # of the structure, as the request itself states it
        assert len(argument) == size and request >> 30 == 3 and request >> 8 & 0xFF == ord("V")
        control = struct.unpack_from("<I", argument)[0]
        if control not in controls:
            raise OSError(22, "Invalid argument")
        if request & 0xFF == 36:  # VIDIOC_QUERYCTRL
            low, high = controls[control]
            return struct.pack("<II32siiiiI8x", control, 1, b"name", low, high, 1, low, 0)
        assert request & 0xFF == 28  # VIDIOC_S_CTRL
        written.append(struct.unpack("<Ii", argument))
        return argument

    monkeypatch.setattr(v4l2.fcntl, "ioctl", ioctl)
    return written


def test_a_fixed_exposure_that_does_not_slow_the_camera_down(kernel):
    assert v4l2.set_exposure(v4l2.Controls(0), 5000) == ""
    assert kernel == [(v4l2.AUTO_EXPOSURE, 1), (v4l2.EXPOSURE_SLOWS, 0), (v4l2.EXPOSURE, 50)]
    assert v4l2.set_exposure(v4l2.Controls(0), 100) == "this camera goes from 300 to 204700 us"
    assert len(kernel) == 3


def test_controls_with_an_automatic_and_without(kernel):
    assert v4l2.set_fixed(v4l2.Controls(0), v4l2.WHITE_BALANCE_K, v4l2.AUTO_WHITE_BALANCE, 5600) == ""
    assert v4l2.set_fixed(v4l2.Controls(0), v4l2.GAIN, v4l2.AUTO_GAIN, 20) == ""
    assert kernel == [(v4l2.AUTO_WHITE_BALANCE, 0), (v4l2.WHITE_BALANCE_K, 5600), (v4l2.GAIN, 20)]
    assert v4l2.set_fixed(v4l2.Controls(0), v4l2.GAIN, v4l2.AUTO_GAIN, 300) == "this camera goes from 0 to 255"
    assert v4l2.set_fixed(v4l2.Controls(0), 12345, v4l2.AUTO_GAIN, 1) == "this camera has no such control"


def test_a_device_that_cannot_be_opened(tmp_path):
    with pytest.raises(DriverError, match="absent: cannot be opened"), v4l2.opened(tmp_path / "absent"):
        pass
