"""Basler's emulated camera: pictures from a folder, deep formats, buffers that fail."""

import pytest
from camera_doubles import COLOUR, open_again, pylon_camera, shows_ours, take

from capture_nodes.drivers.base import CameraLost, DriverError
from capture_nodes.drivers.pylon import attached


@pytest.fixture
def source(tmp_path):
    with pylon_camera(tmp_path) as source:
        yield source


@pytest.mark.parametrize("pixel_format", ["BayerRG8", "BayerGB12", "BayerBG10", "RGB8Packed", "BGR8Packed"])
def test_colours_are_right_in_every_format(source, pixel_format):
    driver = source.make(pixel_format=pixel_format)
    open_again(driver)
    captured = take(driver, 1)[0]
    driver.close()
    assert shows_ours(captured, 2)


def test_white_balance_and_gamma(source):
    driver = source.make(balance_red=0.5, balance_blue=2.0, gamma=2.2)
    open_again(driver)
    red, green, _ = (int(v) for v in take(driver, 1)[0].pixels[120, 160])
    driver.close()
    assert abs(red - 255 * (COLOUR[0] / 2 / 255) ** (1 / 2.2)) <= 1
    assert abs(green - 255 * (COLOUR[1] / 255) ** (1 / 2.2)) <= 1


def test_a_failed_buffer_is_refused_and_the_next_one_comes(source):
    failing = {**source.options["features"], "ForceFailedBufferCount": 2, "ForceFailedBuffer": True}
    driver = source.make(features=failing)
    open_again(driver)
    refused, taken = [], None
    try:
        while taken is None:
            try:
                taken = driver.next_frame(0.5)
            except CameraLost:
                raise
            except DriverError as error:
                refused.append(str(error))
    finally:
        driver.close()
    assert refused == [f"picture {n}: The buffer was incompletely grabbed; it is not used" for n in (1, 2)]
    assert taken.trigger == 3


def test_software_triggers(source):
    driver = source.make(trigger="software", fps=20.0)
    open_again(driver)
    taken = take(driver, 4)
    driver.close()
    assert all(0 <= captured.node_ns - captured.trigger * 10**9 // 20 < 10**9 // 20 for captured in taken)


def test_a_hardware_trigger_that_nobody_gives_is_no_lost_camera(source, monkeypatch):
    monkeypatch.setattr("capture_nodes.drivers.industrial._SILENT_S", 0.2)
    monkeypatch.setattr("capture_nodes.drivers.industrial._SILENT_PERIODS", 1)
    driver = source.make(trigger="hardware", trigger_line="Line2")
    open_again(driver)
    try:
        assert [driver.next_frame(0.1) for _ in range(5)] == [None] * 5
    finally:
        driver.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gain_db": 60.0}, "gain_db: 60; Gain of this camera goes from 0 to 48"),
        ({"pixel_format": "BayerRG13"}, "pixel_format: 'BayerRG13'; PixelFormat of this camera can be"),
        ({"trigger": "action"}, "action_device_key: 1; the camera has no ActionDeviceKey"),
        ({"pixel_format": "BGRA8Packed"}, "pixel_format: pixel format 'BGRA8Packed' is not read here; known are Mono"),
        ({"features": {"OffsetX": True}}, "features.OffsetX: true; OffsetX of this camera is a number"),
        ({"features": {"ReverseX": 1}}, "features.ReverseX: 1; ReverseX of this camera is true or false"),
    ],
)
def test_what_the_camera_cannot_do_is_said_when_it_is_opened(source, options, says):
    driver = source.make(**options)
    with pytest.raises(DriverError) as caught:
        driver.open()
    driver.close()
    assert str(caught.value).startswith(f"rig 'test': camera[0].options.{says}")


def test_a_serial_number_must_be_given(source):
    with pytest.raises(DriverError, match=r"camera\[0\]\.serial: missing; must be the camera's serial number"):
        source.make(serial="")


def test_what_is_attached():
    assert [camera.serial for camera in attached()] == ["0815-0000", "0815-0001"]
    assert {(camera.driver, camera.vendor, camera.busy) for camera in attached()} == {("pylon", "Basler", False)}
