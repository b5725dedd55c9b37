"""Options written to the features of a camera that does as it is told: order, names of old cameras, limits."""

import math

import pytest

from capture_nodes.drivers.base import DriverError
from capture_nodes.drivers.features import Features, IndustrialOptions, Number, apply, write


class Camera(Features):
    """Features as a table: name to value, (value, low, high, step) or (value, choices)."""

    def __init__(self, **table):
        self.table, self.log = table, []

    def kind(self, name):
        value = self.table.get(name)
        if isinstance(value, tuple):
            return "choice" if isinstance(value[0], str) else "number"
        return {bool: "flag", str: "text", type(None): ""}.get(type(value), "command")

    def number(self, name):
        return Number(*self.table[name])

    def choices(self, name):
        return self.table[name][1]

    def get(self, name):
        return self.table[name][0]

    def set(self, name, value):
        self.log.append((name, value))

    def execute(self, name):
        self.log.append((name, "execute"))


def wrong(key, text):
    return DriverError(f"{key}: {text}")


def written(camera, fps=30.0, **options):
    apply(camera, IndustrialOptions(**options), fps, wrong)
    return camera.log


RATE = {"AcquisitionFrameRate": (10.0, 1.0, 60.0, None)}
TRIGGER = {
    "TriggerSelector": ("FrameStart", ["FrameStart", "FrameBurstStart"]),
    "TriggerMode": ("On", ["Off", "On"]),
    "TriggerSource": ("Line1", ["Line1", "Software", "Action1"]),
    "TriggerActivation": ("RisingEdge", ["RisingEdge", "FallingEdge"]),
}


def test_nothing_given_leaves_all_but_rate_and_trigger():
    assert written(Camera(**RATE, ExposureTime=(1.0, 1.0, 9.0))) == [("AcquisitionFrameRate", 30.0)]


def test_triggers_that_somebody_left_on_are_switched_off():
    """A camera that waits for a line that is not wired sends nothing, and nobody knows why."""
    log = written(Camera(**RATE, **TRIGGER))
    off = [("TriggerSelector", "FrameStart"), ("TriggerMode", "Off"), ("TriggerSelector", "FrameBurstStart")]
    assert log == [*off, ("TriggerMode", "Off"), ("AcquisitionFrameRate", 30.0)]


def test_a_camera_that_was_left_running_is_stopped_first():
    log = written(Camera(**RATE, AcquisitionStop=object(), UserSetSelector=("A", ["A", "B"])), user_set="B")
    assert log[:3] == [("AcquisitionStop", "execute"), ("UserSetSelector", "B"), ("UserSetLoad", "execute")]


def test_automatic_exposure_and_gain_are_switched_off_before_values_are_written():
    auto = ("Continuous", ["Off", "Continuous"])
    camera = Camera(**RATE, ExposureAuto=auto, ExposureTimeAbs=(1.0, 10.0, 1e6), GainAuto=auto, Gain=(0.0, 0.0, 24.0))
    log = written(camera, exposure_us=500.0, gain_db=0.0)
    assert log[:2] == [("ExposureAuto", "Off"), ("ExposureTimeAbs", 500.0)]
    assert log[2:4] == [("GainAuto", "Off"), ("Gain", 0.0)]


def test_a_region_is_moved_to_the_corner_before_it_grows():
    sides = {
        "Width": (64, 16, 640, 16),
        "Height": (48, 2, 480, 2),
        "OffsetX": (32, 0, 576, 8),
        "OffsetY": (0, 0, 432, 2),
    }
    log = written(Camera(**RATE, **sides), width=640, height=480)
    assert log[:4] == [("OffsetX", 0), ("OffsetY", 0), ("Width", 640), ("Height", 480)]
    with pytest.raises(
        DriverError, match="width: 100; Width of this camera goes in steps of 16: 96 and 112 are nearest"
    ):
        written(Camera(**RATE, **sides), width=100)


def test_a_hardware_trigger():
    camera = Camera(**RATE, **TRIGGER, AcquisitionFrameRateEnable=True)
    log = written(camera, trigger="hardware", trigger_edge="falling")
    assert ("AcquisitionFrameRate", 30.0) not in log  # the line says when
    assert log[-4:] == [
        ("TriggerSelector", "FrameStart"),
        ("TriggerSource", "Line1"),
        ("TriggerActivation", "FallingEdge"),
        ("TriggerMode", "On"),
    ]


def test_a_rate_limit_does_not_hold_triggers_up():
    for trigger in ("hardware", "software"):
        assert ("AcquisitionFrameRateEnable", False) in written(
            Camera(**RATE, **TRIGGER, AcquisitionFrameRateEnable=True), trigger=trigger
        )


def test_action_commands():
    keys = {key: (0, 0, 0xFFFFFFFF, 1) for key in ("ActionDeviceKey", "ActionGroupKey", "ActionGroupMask")}
    camera = Camera(**RATE, **TRIGGER, **keys, ActionSelector=(0, 0, 1, 1))
    log = written(camera, trigger="action", action_device_key=7, action_group_mask=6)
    assert log[-6:] == [
        ("ActionSelector", 1),
        ("ActionDeviceKey", 7),
        ("ActionGroupKey", 1),
        ("ActionGroupMask", 6),
        ("TriggerSource", "Action1"),
        ("TriggerMode", "On"),
    ]


def test_ptp_under_its_old_and_new_name():
    assert ("PtpEnable", True) in written(Camera(**RATE, PtpEnable=False), ptp=True)
    assert ("GevIEEE1588", True) in written(Camera(**RATE, GevIEEE1588=False), ptp=True)


def test_other_features_are_written_last_and_in_order():
    camera = Camera(**RATE, Gamma=(1.0, 0.0, 4.0), LineSelector=("Line1", ["Line1", "Line2"]), UserName="x")
    log = written(camera, features={"LineSelector": "Line2", "Gamma": 2, "UserName": 5})
    assert log[-3:] == [("LineSelector", "Line2"), ("Gamma", 2.0), ("UserName", "5")]


def test_options_that_are_not_given_are_not_numbers():
    assert math.isnan(IndustrialOptions().exposure_us) and math.isnan(IndustrialOptions().gain_db)


@pytest.mark.parametrize("value", [True, "3", None])
def test_a_number_is_a_number(value):
    with pytest.raises(DriverError, match="Gamma of this camera is a number"):
        write(Camera(Gamma=(1.0, 0.0, 4.0)), "gamma", ("Gamma",), value, wrong)


def test_a_trigger_that_cannot_be_switched_off_must_be_off():
    class Fixed(Camera):
        def set(self, name, value):
            if (name, value) == ("TriggerMode", "Off"):
                raise DriverError("TriggerMode is refused by the camera")
            super().set(name, value)

    off = {**TRIGGER, "TriggerMode": ("Off", ["Off", "On"])}
    assert ("TriggerMode", "Off") not in written(Fixed(**RATE, **off))
    with pytest.raises(DriverError, match="TriggerMode is refused"):
        written(Fixed(**RATE, **TRIGGER))
