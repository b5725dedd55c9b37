"""Basler cameras, through pypylon (``pip install 'headstream[pylon]'``). ``PYLON_CAMEMU=4`` gives four emulated."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

from pypylon import genicam
from pypylon import pylon as sdk

from capture_nodes.drivers.base import Attached, CameraLost, DriverError, parse_options
from capture_nodes.drivers.features import Features, IndustrialOptions, Number, write
from capture_nodes.drivers.industrial import IndustrialDriver, Raw, not_attached
from protocol.rig import CameraConfig, Rig

_NO_BLOCK = (1 << 64) - 1
_NS = 10**9
_COMMAND_S = 5.0
_KINDS = {
    genicam.intfIInteger: "number",
    genicam.intfIFloat: "number",
    genicam.intfIEnumeration: "choice",
    genicam.intfIBoolean: "flag",
    genicam.intfIString: "text",
    genicam.intfICommand: "command",
}


class PylonDriver(IndustrialDriver):
    """One Basler camera. Raises DriverError when made with wrong options."""

    def __init__(self, camera: CameraConfig, rig: Rig):
        options = parse_options(IndustrialOptions, camera, rig)
        if not camera.serial:
            at = f"rig {rig.name!r}: camera[{rig.camera_ids.index(camera.id)}].serial"
            raise DriverError(f"{at}: missing; must be the camera's serial number (`headstream cameras` lists them)")
        super().__init__(camera, rig, options)
        self._device: sdk.InstantCamera | None = None
        self._features: PylonFeatures | None = None
        self._pixel_format = ""
        self._ns_per_tick = 1.0
        self._model = self._address = ""

    def connect(self) -> Features:
        """Find the camera, look whether it is free, take it."""
        factory = sdk.TlFactory.GetInstance()
        there = factory.EnumerateDevices()
        info = next((info for info in there if info.GetSerialNumber() == self.serial), None)
        if info is None:
            names = [f"{info.GetSerialNumber()} ({info.GetModelName()})" for info in there]
            raise not_attached(self._named(), names)
        if not factory.IsDeviceAccessible(info):
            raise DriverError(f"{self._named()} is in use by another program, or was until a moment ago")
        self._model, self._address = info.GetModelName(), _address(info)
        try:
            self._device = sdk.InstantCamera(factory.CreateDevice(info))
            self._device.Open()
        except genicam.GenericException as error:
            raise DriverError(f"{self._named()} cannot be opened ({_reason(error)})") from None
        self._features = PylonFeatures(self._device.GetNodeMap())
        return self._features

    def start(self) -> None:
        """Packets as the options say, then let pictures come."""
        assert self._device is not None and self._features is not None
        features, options = self._features, self.options
        ticks = features.get("GevTimestampTickFrequency") if features.kind("GevTimestampTickFrequency") else 0
        self._ns_per_tick = _NS / ticks if ticks else 1.0
        self._pixel_format = features.get("PixelFormat")
        if options.packet_size:
            write(features, "packet_size", ("GevSCPSPacketSize",), options.packet_size, self._wrong)
        if not math.isnan(options.packet_delay_us):
            delay = round(options.packet_delay_us * 1000 / self._ns_per_tick)
            write(features, "packet_delay_us", ("GevSCPD",), delay, self._wrong)
        try:
            self._device.StartGrabbing(sdk.GrabStrategy_OneByOne)
        except genicam.GenericException as error:
            raise DriverError(f"{self._named()} does not start to send ({_reason(error)})") from None

    def grab(self, timeout_s: float) -> Raw | None:
        """The next buffer, whole or not."""
        if self._device is None:
            raise CameraLost(f"{self._named()} is not open")
        try:
            result = self._device.RetrieveResult(max(1, round(timeout_s * 1000)), sdk.TimeoutHandling_Return)
            if result is None or not result.IsValid():
                return None
            try:
                whole = result.GrabSucceeded()
                block = result.GetBlockID()
                return Raw(
                    bytes(result.GetBuffer()) if whole else b"",
                    result.GetWidth(),
                    result.GetHeight(),
                    result.GetPaddingX(),
                    self._pixel_format,
                    None if block == _NO_BLOCK else block,
                    round(result.GetTimeStamp() * self._ns_per_tick),
                    "" if whole else result.GetErrorDescription().rstrip(".") or f"error {result.GetErrorCode():#x}",
                )
            finally:
                result.Release()
        except genicam.GenericException as error:
            raise CameraLost(f"{self._named()}: {_reason(error)}") from None

    def fire(self) -> None:
        """Raises DriverError."""
        assert self._features is not None
        self._features.send("TriggerSoftware")

    def check_alive(self, silent: bool) -> None:
        """The SDK notices by itself when a camera is gone."""
        if self._device is None or self._device.IsCameraDeviceRemoved():
            raise CameraLost(f"{self._named()} was unplugged or lost its power")

    def release(self) -> None:
        """Whatever the camera still answers."""
        device, self._device, self._features = self._device, None, None
        if device is not None:
            for end in (device.StopGrabbing, device.Close, device.DestroyDevice):
                with contextlib.suppress(genicam.GenericException):
                    end()

    def describe(self, features: Features) -> str:
        """Model, serial number, address."""
        return f"pylon {self._model} {self.serial}" + (f" at {self._address}" if self._address else "")

    def _named(self) -> str:
        return f"pylon camera {self.serial}"


class PylonFeatures(Features):
    """A camera's features through pypylon."""

    def __init__(self, nodes: genicam.INodeMap):
        self._nodes = nodes

    def kind(self, name: str) -> str:
        """See ``Features``."""
        node = self._nodes.GetNode(name)
        if node is None or not genicam.IsAvailable(node):
            return ""
        return _KINDS.get(node.GetNode().GetPrincipalInterfaceType(), "")

    def number(self, name: str) -> Number:
        """See ``Features``."""
        node = self._nodes.GetNode(name)
        whole = node.GetNode().GetPrincipalInterfaceType() == genicam.intfIInteger
        return Number(node.GetValue(), node.GetMin(), node.GetMax(), node.GetInc() if whole else None)

    def choices(self, name: str) -> Sequence[str]:
        """See ``Features``."""
        return list(self._nodes.GetNode(name).GetSymbolics())

    def get(self, name: str) -> Any:
        """See ``Features``."""
        node = self._nodes.GetNode(name)
        return node.ToString() if self.kind(name) == "choice" else node.GetValue()

    def set(self, name: str, value: Any) -> None:
        """See ``Features``."""
        try:
            node = self._nodes.GetNode(name)
            if isinstance(value, str):
                node.FromString(value)
            else:
                node.SetValue(value)
        except genicam.GenericException as error:
            raise DriverError(f"{name} = {value!r} is refused by the camera ({_reason(error)})") from None

    def execute(self, name: str) -> None:
        """See ``Features``. The SDK's own call waits for nothing but the answer, so the end is asked for."""
        self.send(name)
        node = self._nodes.GetNode(name)
        deadline = time.monotonic() + _COMMAND_S
        try:
            while genicam.IsReadable(node) and not node.IsDone():
                if time.monotonic() > deadline:
                    raise DriverError(f"{name} does not end")
                time.sleep(0.01)
        except genicam.GenericException as error:
            raise DriverError(f"{name}: {_reason(error)}") from None

    def send(self, name: str) -> None:
        """Run a command without waiting for its end. Raises DriverError."""
        try:
            self._nodes.GetNode(name).Execute()
        except genicam.GenericException as error:
            raise DriverError(f"{name} is refused by the camera ({_reason(error)})") from None


def attached() -> list[Attached]:
    """Every camera that pylon sees on this machine."""
    factory = sdk.TlFactory.GetInstance()
    found = []
    for info in factory.EnumerateDevices():
        who = info.GetSerialNumber(), info.GetVendorName(), info.GetModelName()
        version = info.GetDeviceVersion() if info.IsDeviceVersionAvailable() else ""
        found.append(Attached("pylon", *who, _address(info), version, not factory.IsDeviceAccessible(info)))
    return found


def _address(info: sdk.DeviceInfo) -> str:
    return info.GetIpAddress() if info.IsIpAddressAvailable() else info.GetDeviceClass()


def _reason(error: Exception) -> str:
    """The first of what the SDK says; the rest names its own source files."""
    return " ".join(str(error).split(" : ")[0].split())
