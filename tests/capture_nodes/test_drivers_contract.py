"""What every driver owes the node, asked of every driver that this machine can run, with real components behind them.

Those that need a Debian package are slow tests, and skip with the command that installs it. UVC cameras need hardware
or a kernel module, so their part is tested by itself (test_v4l2.py).
"""

import time
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest
from camera_doubles import (
    HEIGHT,
    WIDTH,
    aravis_camera,
    open_again,
    pylon_camera,
    replayed_capture,
    rgb_of,
    rtsp_stream,
    shows_ours,
    take,
    until_lost,
    video_file,
    viva_camera,
)

from capture_nodes.drivers.base import CameraLost, DriverError

KINDS = {
    "replay": lambda folder: replayed_capture(folder),
    "gige-viva": lambda folder: viva_camera(),
    "gige-aravis": lambda folder: aravis_camera(folder),
    "pylon": lambda folder: pylon_camera(folder),
    "video-h264": lambda folder: video_file(folder, "libx264"),
    "video-mjpeg": lambda folder: video_file(folder, "mjpeg"),
    "rtsp-mjpeg": lambda folder: rtsp_stream(folder, "mjpeg"),
    "rtsp-h264": lambda folder: rtsp_stream(folder, "h264"),
}


SLOW = ("gige-aravis", "rtsp-mjpeg", "rtsp-h264")


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS],
)
def source(request, tmp_path_factory):
    """One camera of each kind, for all tests of this file."""
    with ExitStack() as stack:
        made = stack.enter_context(KINDS[request.param](tmp_path_factory.mktemp(request.param)))
        yield made[0] if isinstance(made, tuple) else made


@pytest.fixture
def opened(source):
    driver = source.make()
    open_again(driver)
    yield driver
    driver.close()


def test_pictures_are_what_they_say(source, opened):
    for captured in take(opened, 4):
        assert (captured.pixels is None) != (captured.jpeg is None)
        assert rgb_of(captured).shape == (captured.height, captured.width, 3)
        if source.ours:
            assert (captured.width, captured.height) == (WIDTH, HEIGHT)
            assert shows_ours(captured, source.tolerance)


def test_times_grow_and_lie_near_now(source, opened):
    before = time.time_ns()
    taken = take(opened, 6)
    now = time.time_ns()
    times = [captured.node_ns for captured in taken]
    assert all(late > early for early, late in pairwise(times[1:]))
    assert before - 2 * 10**9 < times[0] and times[-1] <= now
    device = [captured.device_ns for captured in taken]
    assert device == sorted(device) and device[0] > 0
    assert all(captured.node_sigma_ns >= 0 for captured in taken)


def test_triggers_grow(source, opened):
    triggers = [captured.trigger for captured in take(opened, 6)]
    if source.triggers:
        assert all(late > early for early, late in pairwise(triggers))
    else:
        assert set(triggers) == {None}


def test_waiting_is_bounded(opened):
    take(opened, 1)
    began = time.monotonic()
    for _ in range(5):
        with suppress(DriverError):
            opened.next_frame(0.01)
    assert time.monotonic() - began < 10  # not a timed test: what hangs would take for ever


def test_close_twice_and_open_again(source, opened):
    first = take(opened, 2)[-1]
    opened.close()
    opened.close()
    open_again(opened)
    second = take(opened, 2)[-1]
    assert second.node_ns > first.node_ns
    if source.triggers:
        assert second.trigger > first.trigger


def test_closed_before_it_was_opened(source):
    driver = source.make()
    driver.close()
    driver.close()
    assert "\n" not in str(driver) and str(driver)


def test_the_log_says_what_was_opened(source, opened):
    take(opened, 1)
    text = str(opened)
    assert "\n" not in text
    assert source.serial in text
    if source.driver in ("gige", "pylon"):
        assert " x " in text and "trigger off" in text


def test_a_wrong_option_is_refused_by_its_path(source):
    key = next(iter(source.options))
    with pytest.raises(DriverError, match=rf"camera\[0\]\.options\.{key}x: unknown key; did you mean '{key}'\?"):
        source.make(**{f"{key}x": 1})
    with pytest.raises(DriverError, match=r"camera\[0\]\.options\.fps: -1; must be a number"):
        source.make(fps=-1)


def test_an_unknown_serial_number_says_what_is_attached(source):
    if not source.serial:
        pytest.skip("has no serial number")
    driver = source.make(serial="NOBODY")
    for _ in range(2):  # and the failed attempt can be made again
        with pytest.raises(DriverError, match=rf"NOBODY is not attached; attached: .*{source.serial}") as caught:
            driver.open()
        assert "\n" not in str(caught.value)
        driver.close()
        driver.close()


def test_a_camera_that_is_lost_comes_back(source, opened):
    if source.lost is None:
        pytest.skip("cannot be taken away")
    before = take(opened, 3)[-1]
    source.lost()
    try:
        assert "\n" not in until_lost(opened)
        opened.close()
        with pytest.raises(DriverError):
            opened.open()
            take(opened, 1)
        opened.close()
    finally:
        source.back()
    open_again(opened)
    after = take(opened, 3)[0]
    assert after.node_ns > before.node_ns
    if source.triggers:
        assert after.trigger > before.trigger


def test_reading_what_is_not_open_is_a_lost_camera(source):
    if source.driver == "replay" or "file" in source.options:
        pytest.skip("needs no opening")
    with pytest.raises(CameraLost):
        source.make().next_frame(0.01)
