"""GigE Vision cameras, through viva-genicam (``pip install 'headstream[gige]'``)."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import viva_genicam as viva

from capture_nodes.drivers import gvcp
from capture_nodes.drivers.base import Attached, CameraLost, DriverError, options_error, parse_options
from capture_nodes.drivers.features import Features, IndustrialOptions, Number
from capture_nodes.drivers.industrial import IndustrialDriver, Raw, not_attached
from protocol.rig import CameraConfig, Rig

_DISCOVERY_MS = 300
_RELEASE_S = 0.5
_NS = 10**9
_KINDS = {
    "Integer": "number",
    "IntConverter": "number",
    "Float": "number",
    "Converter": "number",
    "SwissKnife": "number",
    "Enumeration": "choice",
    "Boolean": "flag",
    "String": "text",
    "StringReg": "text",
    "Command": "command",
}
_Found = list[tuple[viva.GigeDeviceInfo, gvcp.Identity]]


@dataclass(frozen=True)
class GigeOptions(IndustrialOptions):
    """``options`` of a camera with driver "gige"."""

    ip: str = ""  # instead of a serial number
    interface: str = ""  # name or address of the network card that the pictures come to; empty: the camera's side
    resend: bool = True  # ask again for packets that were lost


class GigeDriver(IndustrialDriver):
    """One GigE Vision camera. Raises DriverError when made with wrong options."""

    options: GigeOptions

    def __init__(self, camera: CameraConfig, rig: Rig):
        options = parse_options(GigeOptions, camera, rig)
        if not camera.serial and not options.ip:
            text = "missing, and so is the camera's serial; one must be given (`headstream cameras` lists them)"
            raise options_error(camera, rig, "ip", text)
        if options.ip:
            try:
                ipaddress.IPv4Address(options.ip)
            except ValueError:
                raise options_error(camera, rig, "ip", f"{options.ip!r}; must be an IPv4 address") from None
        super().__init__(camera, rig, options)
        self._device: viva.Camera | None = None
        self._stream: viva.FrameStream | None = None
        self._address = ""
        self._ns_per_tick = 1.0
        self._identity = gvcp.Identity("", "", "", "", "")

    def connect(self) -> Features:
        """Find the camera, look whether it is free, take it."""
        device, self._identity = self._find()
        self._address = device.ip
        if gvcp.read_register(device.ip, gvcp.CONTROL_PRIVILEGE):  # else taking it would block for seconds
            raise DriverError(f"{self._named()} is in use by another program, or was until a moment ago")
        try:
            self._device = viva.connect_gige(device, iface=self.options.interface or None)
            ticks = int.from_bytes(self._device.read_register(gvcp.TICK_FREQUENCY, 8))
        except viva.GenicamError as error:
            raise DriverError(f"{self._named()} cannot be opened ({error})") from None
        self._ns_per_tick = _NS / ticks if ticks else 1.0
        return VivaFeatures(self._device)

    def start(self) -> None:
        """Open the stream with the packet size and delay of the options, and start the camera."""
        assert self._device is not None
        options = self.options
        delay = options.packet_delay_us
        try:
            self._stream = self._device.stream(
                iface=options.interface or None,
                packet_size=options.packet_size or None,
                auto_packet_size=not options.packet_size,
                packet_delay_ns=None if delay != delay else round(delay * 1000),
                resend=options.resend,
                deliver_incomplete=True,
            )
            self._stream.__enter__()
        except viva.GenicamError as error:
            raise DriverError(f"{self._named()} does not start to send ({error})") from None

    def grab(self, timeout_s: float) -> Raw | None:
        """The next block, whole or not."""
        if self._stream is None:
            raise CameraLost(f"{self._named()} is not open")
        began = time.monotonic()
        try:
            frame = self._stream.next_frame(max(1, round(timeout_s * 1000)))
        except viva.TransportError as error:
            if time.monotonic() - began < 0.9 * timeout_s:  # the library has no error of its own for "nothing came"
                raise CameraLost(f"{self._named()}: {error}") from None
            return None
        except viva.GenicamError as error:
            raise CameraLost(f"{self._named()}: {error}") from None
        if frame is None:
            raise CameraLost(f"{self._named()}: its stream ended")
        device_ns = round((frame.ts_dev or 0) * self._ns_per_tick)
        size = frame.width, frame.height, frame.padding_x
        return Raw(frame.payload(), *size, frame.pixel_format, frame.block_id, device_ns, _damage(frame))

    def fire(self) -> None:
        """Raises DriverError."""
        assert self._device is not None
        try:
            self._device.execute("TriggerSoftware", wait=False)
        except viva.GenicamError as error:
            raise DriverError(f"software trigger: {error}") from None

    def check_alive(self, silent: bool) -> None:
        """A silent camera must answer, and say that somebody, which can only be this program, has it."""
        try:
            held = not silent or gvcp.read_register(self._address, gvcp.CONTROL_PRIVILEGE)
        except DriverError as error:
            raise CameraLost(f"{self._named()}: {error}") from None
        if not held or (self._device is not None and self._device.control_state == viva.ControlState.LOST):
            raise CameraLost(f"{self._named()} has started again, or no longer obeys this program")

    def release(self) -> None:
        """Whatever the camera still answers. To one that is gone the library talks on for ten seconds: without us."""
        if self._device is None:
            return
        letting_go = threading.Thread(target=_let_go, args=(self._device, self._stream), daemon=True)
        self._device, self._stream = None, None
        letting_go.start()
        letting_go.join(_RELEASE_S)

    def describe(self, features: Features) -> str:
        """Vendor, model, serial number, address."""
        who = self._identity
        return f"gige {who.vendor} {who.model} {who.serial} at {self._address}"

    def _find(self) -> tuple[viva.GigeDeviceInfo, gvcp.Identity]:
        there = _neighbourhood.look()
        for device, who in there:
            if device.ip == self.options.ip or (not self.options.ip and who.serial == self.serial):
                if self.serial and who.serial != self.serial:
                    raise DriverError(f"the camera at {device.ip} is {who.serial}, not {self.serial}")
                return device, who
        raise not_attached(self._named(), [f"{who.serial} ({who.model} at {device.ip})" for device, who in there])

    def _named(self) -> str:
        return f"gige camera {self.serial or self.options.ip}"


class VivaFeatures(Features):
    """A camera's features through viva-genicam."""

    def __init__(self, device: viva.Camera):
        self._device = device

    def kind(self, name: str) -> str:
        """See ``Features``."""
        info = self._device.node_info(name)
        if info is None or info.kind not in _KINDS:
            return ""
        state = self._state(name)
        return _KINDS[info.kind] if state.is_implemented and state.is_available else ""

    def number(self, name: str) -> Number:
        """See ``Features``."""
        state = self._state(name)
        low, high = (state.range.min, state.range.max) if state.range else (float("-inf"), float("inf"))
        whole = state.kind in ("Integer", "IntConverter")
        step = (state.range.inc or 1.0) if whole and state.range else None
        return Number(float(state.value) if state.value is not None else low, low, high, step)

    def choices(self, name: str) -> Sequence[str]:
        """See ``Features``."""
        return self._state(name).enum_entries or []

    def get(self, name: str) -> Any:
        """See ``Features``."""
        return self._state(name).value

    def set(self, name: str, value: Any) -> None:
        """See ``Features``."""
        try:
            if isinstance(value, bool):
                self._device.set_bool(name, value)
            elif isinstance(value, str):
                self._device.set(name, value)
            elif self._state(name).kind in ("Integer", "IntConverter"):
                self._device.set_integer(name, int(value))
            else:
                self._device.set_float(name, float(value))
        except viva.GenicamError as error:
            raise DriverError(f"{name} = {value!r} is refused by the camera ({error})") from None

    def execute(self, name: str) -> None:
        """See ``Features``."""
        try:
            done = self._device.execute(name, timeout=5.0)
        except viva.GenicamError as error:
            raise DriverError(f"{name} is refused by the camera ({error})") from None
        if not done:
            raise DriverError(f"{name} does not end")

    def _state(self, name: str) -> viva.FeatureState:
        try:
            return self._device.feature_state(name)
        except viva.GenicamError as error:
            raise DriverError(f"{name} cannot be read ({error})") from None


def _let_go(device: viva.Camera, stream: viva.FrameStream | None) -> None:
    if stream is not None:
        with contextlib.suppress(viva.GenicamError):
            stream.__exit__(None, None, None)
    with contextlib.suppress(viva.GenicamError):
        device.close()


def attached() -> list[Attached]:
    """Every GigE Vision camera that answers on this machine's networks. Raises DriverError."""
    found = []
    for device, who in _neighbourhood.look():
        try:
            busy: bool | None = gvcp.read_register(device.ip, gvcp.CONTROL_PRIVILEGE) != 0
        except DriverError:
            busy = None
        found.append(Attached("gige", who.serial, who.vendor, who.model, device.ip, who.firmware, busy))
    return found


class _Neighbourhood:
    """The cameras that answer. One question at a time goes out; its answer is for all who waited when it was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = -math.inf
        self._found: _Found = []

    def look(self) -> _Found:
        """Raises DriverError."""
        came = time.monotonic()
        with self._lock:
            if self._asked < came:
                asked = time.monotonic()
                self._found = _ask_around()
                self._asked = asked
            return self._found


def _ask_around() -> _Found:
    """Cameras with who they are; one that does not say who it is is left out."""
    try:
        devices = viva.discover(timeout_ms=_DISCOVERY_MS, all=True)
    except viva.GenicamError as error:
        raise DriverError(f"no network can be searched for GigE Vision cameras ({error})") from None
    found = []
    for device in devices:
        with contextlib.suppress(DriverError):
            who = gvcp.identify(device.ip)
            # The standard leaves the serial number to the maker; a camera without one is known by its MAC address.
            names = who.vendor or device.manufacturer or "", who.model or device.model or "", who.serial or device.mac
            found.append((device, replace(who, vendor=names[0], model=names[1], serial=names[2])))
    return found


_neighbourhood = _Neighbourhood()


def _damage(frame: viva.Frame) -> str:
    """What is wrong with a block; empty when nothing is."""
    if frame.is_complete:
        return ""
    if frame.status == viva.FrameStatus.INCOMPLETE:
        return f"{frame.missing_packets} packets were lost"
    if frame.status == viva.FrameStatus.DEVICE_STATUS:
        return f"the camera reports error {frame.device_status:#06x}"
    return "its end was lost"
