import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

import capture_nodes.camera
from capture_nodes.camera import CameraWorker
from capture_nodes.drivers.base import CameraLost, Captured, DriverError
from capture_nodes.encode import EncodeError, jpeg_size
from capture_nodes.outbox import Counts, Outbox


@pytest.fixture
def outbox():
    return Outbox(["cam00"], frames=3, max_bytes=1 << 20)


@pytest.fixture
def working(make_rig, capture, outbox, step_driver, monkeypatch):
    """``with working():`` the worker runs in a thread with the step driver; reopening does not make the test wait."""
    monkeypatch.setattr(capture_nodes.camera, "_REOPEN_S", (0.01, 0.02))

    @contextmanager
    def run(**changes):
        stop = threading.Event()
        worker = CameraWorker(make_rig(**changes), "cam00", step_driver, outbox, lambda: None)
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(worker.run, stop)
            try:
                yield ended
            finally:
                stop.set()
        ended.result()

    return run


def until(happened):
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def test_pictures_go_to_the_outbox_until_the_driver_is_finished(working, outbox, step_driver, jpeg_of):
    with working() as ended:
        for i in range(2):
            step_driver.put(jpeg_of(6, 4), trigger=i)
        until(lambda: outbox.counts()["cam00"].captured == 2)
        assert not ended.done()
        step_driver.finish()
        ended.result(10)
    outbox.grant("cam00", 3, 0)
    assert [outbox.next().captured.trigger for _ in range(2)] == [0, 1]
    assert step_driver.opened == step_driver.closed == 1


def test_pixels_are_encoded(working, outbox, step_driver):
    with working():
        step_driver.put(Captured(None, np.zeros((40, 60, 3), np.uint8), 1, 0, 0, 60, 40))
        until(lambda: outbox.waiting)
    outbox.grant("cam00", 1, 0)
    assert jpeg_size(outbox.next().jpeg) == (60, 40)


def test_a_machine_without_the_encoder_ends_the_worker_with_one_line(working, step_driver, monkeypatch):
    def none(quality):
        raise EncodeError("no library")

    monkeypatch.setattr(capture_nodes.camera, "Encoder", none)
    with pytest.raises(EncodeError, match="no library"), working() as ended:
        step_driver.put(Captured(None, np.zeros((40, 60, 3), np.uint8), 1, 0, 0, 60, 40))
        assert isinstance(ended.exception(10), EncodeError)
    assert step_driver.closed == 1


def test_a_camera_that_does_not_open_is_tried_again_and_said_once(working, step_driver, outbox, jpeg_of, caplog):
    caplog.set_level(logging.INFO)
    step_driver.open_errors = [DriverError("it is unplugged") for _ in range(3)]
    with working():
        step_driver.put(jpeg_of(6, 4))
        until(lambda: outbox.waiting)
    assert outbox.counts()["cam00"] == Counts(captured=1, errors=3)
    assert [r.getMessage() for r in caplog.records] == [
        "camera cam00: it is unplugged; will be tried again",
        "camera cam00: a double",
    ]


def test_a_lost_camera_is_closed_and_opened_again(working, step_driver, outbox, jpeg_of):
    with working():
        step_driver.put(CameraLost("it was pulled out"))
        step_driver.put(jpeg_of(6, 4))
        until(lambda: outbox.waiting)
        assert (step_driver.opened, step_driver.closed) == (2, 1)
    assert outbox.counts()["cam00"] == Counts(captured=1, errors=1)


def test_a_lost_picture_costs_only_itself_and_is_not_said_a_thousand_times(
    working, step_driver, outbox, jpeg_of, caplog
):
    with working():
        for _ in range(5):
            step_driver.put(DriverError("a bad picture"))
        step_driver.put(jpeg_of(6, 4))
        until(lambda: outbox.waiting)
        assert step_driver.opened == 1
    assert outbox.counts()["cam00"] == Counts(captured=1, errors=5)
    assert [record.getMessage() for record in caplog.records] == ["camera cam00: a bad picture"]


def test_a_picture_larger_than_the_rig_allows_is_not_sent(working, step_driver, outbox, jpeg_of, caplog):
    with working(wire={"max_frame_mb": 0.01}):
        step_driver.put(jpeg_of(6, 4, bytes(20_000)))
        step_driver.put(jpeg_of(6, 4))
        until(lambda: outbox.waiting)
    assert outbox.counts()["cam00"] == Counts(captured=1, errors=1)
    assert "20021 bytes is not sent; wire.max_frame_mb in the rig file allows 10485" in caplog.text


def test_what_the_driver_missed_is_counted_before_the_picture_that_came(working, step_driver, outbox, jpeg_of):
    with working():
        step_driver.missed = 3
        step_driver.put(jpeg_of(6, 4))
        until(lambda: outbox.waiting)
    assert outbox.counts()["cam00"] == Counts(captured=4, dropped=3)
    outbox.grant("cam00", 1, 0)
    assert outbox.next().sequence == 3


def test_a_mistake_in_a_driver_is_not_hidden(working, step_driver):
    with pytest.raises(ZeroDivisionError), working() as ended:
        step_driver.put(ZeroDivisionError())
        assert isinstance(ended.exception(10), ZeroDivisionError)
    assert step_driver.closed == 1
