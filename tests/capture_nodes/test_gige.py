"""GigE Vision against cameras that keep a book of what reached them."""

import os
import struct
import subprocess
from contextlib import ExitStack

import numpy as np
import pytest
from camera_doubles import (
    COLOUR,
    aravis_camera,
    aravis_process,
    gvcp_port,
    open_again,
    take,
    until_lost,
    viva_camera,
)

from capture_nodes.drivers import gvcp, make_driver
from capture_nodes.drivers.base import CameraLost, DriverError
from capture_nodes.drivers.gige import attached
from protocol.rig import parse_rig


def exposure_in(camera):
    return struct.unpack(">d", camera.peek(camera.REGISTERS["ExposureTime"], 8))[0]


def test_settings_reach_the_camera_and_reach_it_again_after_a_restart():
    with viva_camera() as (source, camera):
        driver = source.make(exposure_us=1234.0, width=32, height=24, offset_x=16)
        open_again(driver)
        try:
            assert (take(driver, 1)[0].width, exposure_in(camera)) == (32, 1234.0)
            source.lost()
            until_lost(driver)
            driver.close()
            source.back()
            open_again(driver)
            captured = take(driver, 1)[0]
            assert (captured.width, captured.height, exposure_in(camera)) == (32, 24, 1234.0)
            assert int.from_bytes(camera.peek(camera.REGISTERS["OffsetX"], 4)) == 16
        finally:
            driver.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exposure_us": 5.0}, "exposure_us: 5; ExposureTime of this camera goes from 10 to 1e+06"),
        ({"gain_db": 50.0}, "gain_db: 50; Gain of this camera goes from 0 to 48"),
        (
            {"pixel_format": "Mono18"},
            "pixel_format: 'Mono18'; PixelFormat of this camera can be Mono8, Mono16",
        ),
        ({"width": 5000}, "width: 5000; Width of this camera goes from 16 to 4096"),
        ({"trigger": "action"}, "trigger: 'action'; this camera has no action commands, its trigger sources are Line1"),
        (
            {"trigger": "hardware", "trigger_line": "Line7"},
            "trigger_line: 'Line7'; TriggerSource of this camera",
        ),
        (
            {"trigger": "hardware", "trigger_edge": "falling"},
            "trigger_edge: 'FallingEdge'; the camera has no",
        ),
        ({"ptp": True}, "ptp: true; the camera has no PtpEnable or GevIEEE1588"),
        ({"user_set": "Mine"}, "user_set: 'Mine'; UserSetSelector of this camera can be Default, UserSet1, UserSet2"),
        ({"features": {"Gian": 3}}, "features.Gian: 3; the camera has no Gian"),
        ({"balance_red": 2.0}, "balance_red: 2; the camera sends Mono8, which has no colours to balance"),
    ],
)
def test_what_the_camera_cannot_do_is_said_when_it_is_opened(options, says):
    with viva_camera() as (source, _):
        driver = source.make(**options)
        with pytest.raises(DriverError) as caught:
            driver.open()
        driver.close()
        assert str(caught.value).startswith(f"rig 'test': camera[0].options.{says}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("serial", "options", "says"),
    [
        ("", {}, r"options\.ip: missing, and so is the camera's serial"),
        ("", {"ip": "10.0.0"}, r"options\.ip: '10\.0\.0'; must be an IPv4 address"),
        ("A", {"trigger": "hardwired"}, r"options\.trigger: 'hardwired'; must be 'off' or .*; did you mean 'hardware'"),
        ("A", {"action_send": True}, r"options\.action_send: true; needs trigger = 'action'"),
        ("A", {"exposure_us": 0}, r"options\.exposure_us: 0; must be a number from 1 to"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(serial, options, says):
    camera = {"id": "a", "node": "pc1", "driver": "gige", "options": options} | ({"serial": serial} if serial else {})
    rig = parse_rig({"name": "test", "calibration": "c.json", "camera": [camera]})
    with pytest.raises(DriverError, match=says):
        make_driver(rig.cameras[0], rig)


def test_a_picture_with_holes_is_refused_and_the_next_one_comes():
    with viva_camera(drop_packets=[(2, 1), (4, 1)], packet_resend=False) as (source, _):
        driver = source.make()
        open_again(driver)
        try:
            got, refused = [], []
            while not got or got[-1] < 6:
                try:
                    captured = driver.next_frame(0.5)
                except CameraLost:
                    raise
                except DriverError as error:
                    refused.append(str(error))
                else:
                    got += [captured.trigger] if captured else []
            assert not {2, 4} & set(got)
            assert refused == [f"picture {n}: 1 packets were lost; it is not used" for n in (2, 4)]
        finally:
            driver.close()


def test_each_software_trigger_has_its_picture():
    """Numbers are the wall clock in frames, so that cameras of other nodes come to the same ones."""
    with viva_camera() as (source, camera):
        driver = source.make(trigger="software", fps=20.0)
        open_again(driver)
        try:
            taken = take(driver, 6)
        finally:
            driver.close()
        assert camera.software_triggers() >= 6
        for captured in taken:
            late_ns = captured.node_ns - captured.trigger * 10**9 // 20
            assert 0 <= late_ns < 10**9 // 20 and captured.node_sigma_ns > 0
        triggers = [captured.trigger for captured in taken]
        assert triggers == sorted(set(triggers))


def test_a_camera_that_obeys_another_program_is_lost():
    with viva_camera() as (source, camera):
        driver = source.make()
        open_again(driver)
        try:
            take(driver, 1)
            camera.revoke_control()
            assert "no longer obeys this program" in until_lost(driver)
            driver.close()
            open_again(driver)
            take(driver, 1)
        finally:
            driver.close()


def test_a_camera_that_somebody_has_is_not_waited_for():
    with viva_camera() as (source, _):
        first, second = source.make(), source.make()
        open_again(first)
        try:
            assert [found.busy for found in attached() if found.serial == source.serial] == [True]
            with pytest.raises(DriverError, match="is in use by another program"):
                second.open()
            second.close()
            take(first, 2)  # which was not disturbed
        finally:
            first.close()
        open_again(second)
        second.close()
        assert [found.busy for found in attached() if found.serial == source.serial] == [False]


def test_found_by_its_address_and_checked_against_its_serial_number():
    with viva_camera() as (source, _):
        driver = source.make(serial="", ip="127.0.0.1")
        open_again(driver)
        take(driver, 1)
        driver.close()
        with pytest.raises(DriverError, match=f"the camera at 127.0.0.1 is {source.serial}, not OTHER"):
            source.make(serial="OTHER", ip="127.0.0.1").open()


def test_action_commands_reach_cameras_with_their_keys():
    with viva_camera() as (_, camera):
        right = gvcp.ActionSender("127.0.0.1", camera.DEVICE_KEY, camera.GROUP_KEY, camera.GROUP_MASK)
        wrong = gvcp.ActionSender("127.0.0.1", camera.DEVICE_KEY + 1, camera.GROUP_KEY, camera.GROUP_MASK)
        for sender in (right, wrong, right, right):
            sender.send()
        gvcp.read_register("127.0.0.1", gvcp.CONTROL_PRIVILEGE)  # answered after them
        assert camera.actions() == 3
        right.close()
        wrong.close()


def test_nobody_at_an_address():
    says = r"the camera at 127\.0\.0\.1 (cannot be reached|does not answer)"
    with gvcp_port(), pytest.raises(gvcp.GvcpError, match=says):
        gvcp.read_register("127.0.0.1", gvcp.CONTROL_PRIVILEGE, timeout_s=0.05)


def test_an_identity_is_read_as_the_standard_lays_it_out():
    fields = ((b"Maker", 32), (b"Model 5", 32), (b"1.2.3", 32), (b"more", 48), (b"SN-7", 16), (b"left eye", 16))
    data = b"".join(text.ljust(size, b"\0") for text, size in fields)
    assert gvcp.parse_identity(data) == gvcp.Identity("Maker", "Model 5", "1.2.3", "SN-7", "left eye")
    with pytest.raises(gvcp.GvcpError, match="100 bytes"):
        gvcp.parse_identity(data[:100])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixel_format", "colour"),
    [("RGB8", COLOUR), ("BayerGB8", COLOUR), ("BayerBG8", COLOUR), ("Mono8", None), ("Mono16", None)],
)
def test_every_format_of_a_camera_shows_the_same_picture(tmp_path, pixel_format, colour):
    with aravis_camera(tmp_path) as source:
        driver = source.make(pixel_format=pixel_format)
        open_again(driver)
        captured = take(driver, 1)[0]
        driver.close()
        red, green, blue = (int(v) for v in captured.pixels[120, 160])
        if colour:
            assert (red, green) == colour[:2]
        else:
            assert red == green == blue == COLOUR[1]  # of RGB it sends the green


@pytest.mark.slow
def test_four_cameras_at_once_each_by_its_serial_number(tmp_path):
    """Aravis' cameras on loopback addresses of their own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for addresses on the loopback interface")
    addresses = [f"127.0.73.{i}" for i in range(1, 5)]
    for address in addresses:
        subprocess.run(["ip", "address", "add", f"{address}/8", "dev", "lo"], check=False, capture_output=True)
    drivers = []
    try:
        with ExitStack() as stack:
            for i, address in enumerate(addresses):
                stack.enter_context(aravis_process(tmp_path, address, f"FOUR{i}"))()
            cameras = [
                {"id": f"cam0{i}", "node": "pc1", "driver": "gige", "serial": f"FOUR{i}", "options": {"width": 320}}
                for i in range(4)
            ]
            rig = parse_rig({"name": "test", "calibration": "c.json", "fps": 10.0, "camera": cameras})
            drivers = [make_driver(camera, rig) for camera in rig.cameras]
            for driver in drivers:
                open_again(driver)
            for driver, address in zip(drivers, addresses, strict=True):
                captured = take(driver, 3)[-1]
                assert address in str(driver) and np.abs(captured.pixels[120, 160, 0] - 60) <= 1  # Mono8: the green
            found = {camera.serial: camera.address for camera in attached()}
            assert all(found[f"FOUR{i}"] == address for i, address in enumerate(addresses))
    finally:
        for driver in drivers:
            driver.close()
        for address in addresses:
            subprocess.run(["ip", "address", "del", f"{address}/8", "dev", "lo"], check=False, capture_output=True)
