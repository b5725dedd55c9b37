import threading
import time

import pytest
from camera_doubles import open_again, take, viva_camera

from capture_nodes.drivers.base import CameraLost, DriverError
from capture_nodes.drivers.metronome import Fired, Metronome, SoftwareTrigger


class Clock:
    def __init__(self):
        self.ns = 10**18

    def __call__(self):
        return self.ns


def test_each_picture_has_the_trigger_that_made_it():
    clock, fired = Clock(), []

    def fire():
        fired.append(clock.ns)
        clock.ns += 2000  # the camera answers after two microseconds

    trigger = SoftwareTrigger(fire, clock)
    trigger.beat(7)
    assert trigger.answered() == (Fired(7, 10**18 + 1000, 1000), 0)
    assert trigger.answered() == (None, 0)  # a picture that nobody asked for


def test_a_camera_that_is_too_slow_is_not_asked_twice():
    clock, fired = Clock(), []
    trigger = SoftwareTrigger(lambda: fired.append(1), clock)
    for number in (1, 2, 3):
        trigger.beat(number)
        clock.ns += 33_000_000
    assert len(fired) == 1
    found, passed = trigger.answered()
    assert (found.trigger, passed) == (1, 2)
    trigger.beat(4)
    assert trigger.answered()[0].trigger == 4 and len(fired) == 2


def test_a_trigger_without_a_picture_is_given_up():
    clock, fired = Clock(), []
    trigger = SoftwareTrigger(lambda: fired.append(1), clock)
    trigger.beat(1)
    clock.ns += 10**9
    trigger.beat(31)
    assert len(fired) == 2 and trigger.answered()[0].trigger == 31


def test_a_metronome_beats_on_the_wall_clock_until_it_is_stopped():
    beats, enough = [], threading.Event()

    def beat(trigger):
        beats.append((trigger, time.time()))
        if len(beats) == 5:
            enough.set()

    metronome = Metronome(50.0, beat, "test")
    metronome.start()
    assert enough.wait(10)
    metronome.stop()
    metronome.stop()
    count = len(beats)
    numbers = [trigger for trigger, _ in beats]
    assert numbers == sorted(set(numbers)) and all(at >= trigger / 50.0 for trigger, at in beats)
    time.sleep(0.06)
    assert len(beats) == count and metronome.error is None


def test_what_goes_wrong_in_a_beat_ends_it_and_is_kept():
    def beat(trigger):
        raise DriverError("no answer")

    metronome = Metronome(100.0, beat, "test")
    metronome.start()
    deadline = time.monotonic() + 10
    while metronome.error is None and time.monotonic() < deadline:
        time.sleep(0.005)
    metronome.stop()
    assert str(metronome.error) == "no answer"


def test_one_camera_of_a_rig_sends_the_actions(monkeypatch):
    """The fake camera counts action commands but cannot be set to wait for them, so its settings are left out here."""
    monkeypatch.setattr("capture_nodes.drivers.industrial.apply", lambda *_: None)
    with viva_camera() as (source, camera):
        keys = {"action_device_key": camera.DEVICE_KEY, "action_group_key": camera.GROUP_KEY}
        driver = source.make(trigger="action", action_send=True, action_address="127.0.0.1", fps=50.0, **keys)
        open_again(driver)
        take(driver, 4)
        sent = camera.actions()
        driver.close()
        assert sent >= 2


def test_a_software_trigger_that_the_camera_refuses_is_a_lost_camera(monkeypatch):
    with viva_camera() as (source, _):
        driver = source.make(trigger="software")

        def refuse():
            raise DriverError("software trigger: refused")

        monkeypatch.setattr(driver, "fire", refuse)
        open_again(driver)
        deadline = time.monotonic() + 10
        with pytest.raises(CameraLost, match="software trigger: refused"):
            while time.monotonic() < deadline:
                driver.next_frame(0.05)
        driver.close()
