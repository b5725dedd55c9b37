"""Options of industrial cameras, and the GenICam features (SFNC) that they are written to.

Each camera library says what its camera has through ``Features``; here stands which feature an option means, under the
names that cameras of different age give it, and what to say when a camera lacks it or has other limits. Everything is
written each time the camera is opened, so a camera that was unplugged comes back as the rig file wants it.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from capture_nodes.drivers.base import DriverError
from capture_nodes.drivers.bayer import RawConverter, is_colour, known
from protocol.table import chosen, limited, nearest, shown

UNSET = math.nan
_EXPOSURE = ("ExposureTime", "ExposureTimeAbs")
_EDGES = {"rising": "RisingEdge", "falling": "FallingEdge"}
_PTP = ("PtpEnable", "GevIEEE1588")


@dataclass(frozen=True)
class IndustrialOptions:
    """Options of the drivers ``gige`` and ``pylon``. A key that is not given leaves the camera as it is."""

    user_set: str = ""  # loaded before anything else is written: "Default", "UserSet1"
    pixel_format: str = ""  # as the camera names it: "BayerRG8", "Mono12p"
    width: int = limited(0, 0, 65_535)  # region of interest, pixels; 0: as it is
    height: int = limited(0, 0, 65_535)
    offset_x: int = limited(0, 0, 65_535)
    offset_y: int = limited(0, 0, 65_535)
    exposure_us: float = limited(UNSET, 1, 1e7)  # switches the automatic one off
    gain_db: float = limited(UNSET, -20, 60)  # switches the automatic one off
    balance_red: float = limited(1.0, 0.1, 16)  # white balance, a factor; at the node, in front of the demosaic
    balance_green: float = limited(1.0, 0.1, 16)
    balance_blue: float = limited(1.0, 0.1, 16)
    gamma: float = limited(1.0, 0.2, 5)  # at the node: out = in ** (1 / gamma), from all bits that the camera gives
    fps: float = limited(0.0, 0, 1000)  # 0: the rig's
    trigger: str = chosen("off", "off", "software", "hardware", "action")
    trigger_line: str = "Line1"
    trigger_edge: str = chosen("rising", "rising", "falling")
    action_send: bool = False  # this camera's node sends the actions, on the clock; one in a rig
    action_address: str = "255.255.255.255"
    action_device_key: int = limited(1, 0, 0xFFFFFFFF)
    action_group_key: int = limited(1, 0, 0xFFFFFFFF)
    action_group_mask: int = limited(1, 1, 0xFFFFFFFF)
    ptp: bool = False  # switch the camera's PTP on
    clock: str = chosen("auto", "auto", "free")  # free: do not take a clock near the wall clock for PTP
    delay_ms: float = limited(0.0, 0, 1000)  # known least time from the moment that the camera stamps to the arrival
    packet_size: int = limited(0, 0, 16_000)  # bytes, GigE only; 0: the largest that the path takes
    packet_delay_us: float = limited(UNSET, 0, 10_000)  # GigE only
    features: dict[str, Any] = field(default_factory=dict)  # any other feature by its name, written last

    @property
    def gains(self) -> tuple[float, float, float]:
        """White balance of red, green, blue."""
        return self.balance_red, self.balance_green, self.balance_blue


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric feature: its value and limits now."""

    value: float
    low: float
    high: float
    step: float | None = None  # whole numbers only: in steps from ``low``


class Features(ABC):
    """A camera's features by name. Setters raise DriverError with the library's reason."""

    @abstractmethod
    def kind(self, name: str) -> str:
        """``number``, ``choice``, ``flag``, ``text``, ``command``; empty: the camera has none of that name now."""

    @abstractmethod
    def number(self, name: str) -> Number:
        """Value and limits of a number."""

    @abstractmethod
    def choices(self, name: str) -> Sequence[str]:
        """What a choice can be now."""

    @abstractmethod
    def get(self, name: str) -> Any:
        """The value: float, int, str or bool."""

    @abstractmethod
    def set(self, name: str, value: Any) -> None:
        """Write a value that ``write`` has checked."""

    @abstractmethod
    def execute(self, name: str) -> None:
        """Run a command and wait for its end."""


Wrong = Callable[[str, str], DriverError]  # (option, what is wrong with it) to the error with the option's path


def apply(features: Features, options: IndustrialOptions, fps: float, wrong: Wrong) -> None:
    """Write every option to the camera. Raises DriverError with the option's path and what the camera offers."""
    if features.kind(
        "AcquisitionStop"
    ):  # a program that was killed left the camera running, and so it takes no settings
        with contextlib.suppress(DriverError):
            features.execute("AcquisitionStop")
    if options.user_set:
        write(features, "user_set", ("UserSetSelector",), options.user_set, wrong)
        features.execute("UserSetLoad")
    _triggers_off(features)
    if options.pixel_format:
        write(features, "pixel_format", ("PixelFormat",), options.pixel_format, wrong)
    _region(features, options, wrong)
    if not math.isnan(options.exposure_us):
        _manual(features, "ExposureAuto")
        write(features, "exposure_us", _EXPOSURE, options.exposure_us, wrong)
    if not math.isnan(options.gain_db):
        _manual(features, "GainAuto")
        write(features, "gain_db", ("Gain",), options.gain_db, wrong)
    if options.gains != (1.0, 1.0, 1.0):
        _manual(features, "BalanceWhiteAuto")
    _rate(features, options, fps, wrong)
    if options.trigger != "off":
        _trigger(features, options, wrong)
    if options.ptp:
        write(features, "ptp", _PTP, True, wrong)
    for name, value in options.features.items():
        write(features, f"features.{name}", (name,), value, wrong)


def converter(pixel_format: str, options: IndustrialOptions, wrong: Wrong) -> RawConverter:
    """What makes RGB of the camera's pictures. Raises DriverError."""
    if not known(pixel_format):
        try:
            RawConverter(pixel_format)
        except DriverError as error:
            raise wrong("pixel_format", str(error)) from None
    if not is_colour(pixel_format) and options.gains != (1.0, 1.0, 1.0):
        key = next(k for k in ("balance_red", "balance_green", "balance_blue") if getattr(options, k) != 1.0)
        raise wrong(key, f"{getattr(options, key):g}; the camera sends {pixel_format}, which has no colours to balance")
    return RawConverter(pixel_format, options.gains, options.gamma)


def write(features: Features, key: str, names: Sequence[str], value: Any, wrong: Wrong) -> None:
    """Write the first of these features that the camera has. Raises DriverError as ``apply`` does."""
    name = next((name for name in names if features.kind(name)), None)
    if name is None:
        raise wrong(key, f"{shown(value)}; the camera has no {' or '.join(names)}")
    kind = features.kind(name)
    if kind == "number":
        _write_number(features, key, name, value, wrong)
    elif kind == "choice":
        offered = features.choices(name)
        if value not in offered:
            hint = nearest(value, offered) if isinstance(value, str) else ""
            raise wrong(key, f"{shown(value)}; {name} of this camera can be {', '.join(offered)}{hint}")
        features.set(name, value)
    elif kind == "flag":
        if not isinstance(value, bool):
            raise wrong(key, f"{shown(value)}; {name} of this camera is true or false")
        features.set(name, value)
    elif kind == "command":
        features.execute(name)
    else:
        features.set(name, str(value))


def _write_number(features: Features, key: str, name: str, value: Any, wrong: Wrong) -> None:
    number = features.number(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(key, f"{shown(value)}; {name} of this camera is a number")
    if not number.low <= value <= number.high:
        raise wrong(key, f"{value:g}; {name} of this camera goes from {number.low:g} to {number.high:g}")
    if number.step is not None:
        off = (value - number.low) % number.step
        if off:
            close = f"{value - off:g} and {value - off + number.step:g}"
            raise wrong(key, f"{value:g}; {name} of this camera goes in steps of {number.step:g}: {close} are nearest")
        features.set(name, int(value))
    else:
        features.set(name, float(value))


def _triggers_off(features: Features) -> None:
    """Else the camera may refuse what follows, or wait for a line that is not wired."""
    for selector in _offered(features, "TriggerSelector"):
        features.set("TriggerSelector", selector)
        if features.kind("TriggerMode"):
            try:
                features.set("TriggerMode", "Off")
            except DriverError:
                if features.get("TriggerMode") != "Off":  # of some triggers it can only be read
                    raise


def _region(features: Features, options: IndustrialOptions, wrong: Wrong) -> None:
    """Offsets go to 0 first, as the size may not fit where the region lies."""
    given = options.width or options.height or options.offset_x or options.offset_y
    for name in ("OffsetX", "OffsetY") if given else ():
        if features.kind(name):
            features.set(name, int(features.number(name).low))
    for key, name in (("width", "Width"), ("height", "Height"), ("offset_x", "OffsetX"), ("offset_y", "OffsetY")):
        if value := getattr(options, key):
            write(features, key, (name,), value, wrong)


def _rate(features: Features, options: IndustrialOptions, fps: float, wrong: Wrong) -> None:
    """A free-running camera at the rig's rate; a triggered one without a limit of its own."""
    if features.kind("AcquisitionFrameRateEnable"):
        features.set("AcquisitionFrameRateEnable", options.trigger == "off")
    if options.trigger == "off":
        write(features, "fps", ("AcquisitionFrameRate", "AcquisitionFrameRateAbs"), fps, wrong)


def _trigger(features: Features, options: IndustrialOptions, wrong: Wrong) -> None:
    write(features, "trigger", ("TriggerSelector",), "FrameStart", wrong)
    if options.trigger == "hardware":
        write(features, "trigger_line", ("TriggerSource",), options.trigger_line, wrong)
        if options.trigger_edge != "rising" or features.kind("TriggerActivation"):  # without it, it is the rising one
            write(features, "trigger_edge", ("TriggerActivation",), _EDGES[options.trigger_edge], wrong)
    elif options.trigger == "software":
        write(features, "trigger", ("TriggerSource",), "Software", wrong)
    else:
        _actions(features, options, wrong)
    write(features, "trigger", ("TriggerMode",), "On", wrong)


def _actions(features: Features, options: IndustrialOptions, wrong: Wrong) -> None:
    """The camera acts on commands with its keys: action 1, group as the options say."""
    offered = [name for name in _offered(features, "TriggerSource") if name in ("Action1", "Action0")]
    if not offered:
        sources = ", ".join(_offered(features, "TriggerSource"))
        raise wrong("trigger", f"'action'; this camera has no action commands, its trigger sources are {sources}")
    if features.kind("ActionSelector") == "number":
        features.set("ActionSelector", int(offered[0][-1]))
    write(features, "action_device_key", ("ActionDeviceKey",), options.action_device_key, wrong)
    write(features, "action_group_key", ("ActionGroupKey",), options.action_group_key, wrong)
    write(features, "action_group_mask", ("ActionGroupMask",), options.action_group_mask, wrong)
    write(features, "trigger", ("TriggerSource",), offered[0], wrong)


def _manual(features: Features, name: str) -> None:
    if features.kind(name) == "choice":
        features.set(name, "Off")


def _offered(features: Features, name: str) -> Iterator[str]:
    return iter(features.choices(name) if features.kind(name) == "choice" else ())
