"""What the drivers of industrial cameras share: counters, clocks, triggers, colours. The camera is a library's."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from capture_nodes.drivers.base import CameraLost, Captured, Driver, DriverError, options_error
from capture_nodes.drivers.bayer import RawConverter
from capture_nodes.drivers.counters import BlockCounter
from capture_nodes.drivers.device_clock import DeviceClock
from capture_nodes.drivers.features import Features, IndustrialOptions, apply, converter
from capture_nodes.drivers.gvcp import ActionSender
from capture_nodes.drivers.metronome import Metronome, SoftwareTrigger
from protocol.rig import CameraConfig, Rig

log = logging.getLogger(__name__)

_ASK_EVERY_S = 1.0  # is the camera still there?
_SILENT_S = 3.0  # so long without a picture is too long for a camera that runs by itself
_SILENT_PERIODS = 10


@dataclass(frozen=True, slots=True)
class Raw:
    """One picture as the camera sent it."""

    data: Any  # bytes or a buffer of them
    width: int
    height: int
    padding: int  # bytes after each line
    pixel_format: str
    block: int | None  # the camera's number
    device_ns: int  # 0: the camera stamps nothing
    damage: str = ""  # why it must not be used


class IndustrialDriver(Driver):
    """A camera behind ``Features``. A subclass connects, streams and lets go; the rest is here."""

    options_class: type[IndustrialOptions] = IndustrialOptions

    def __init__(self, camera: CameraConfig, rig: Rig, options: IndustrialOptions):
        self.id, self.serial, self.options = camera.id, camera.serial, options
        self.fps = options.fps or rig.fps
        self._camera, self._rig = camera, rig
        if options.action_send and options.trigger != "action":
            raise self._wrong("action_send", "true; needs trigger = 'action'")
        self._blocks = BlockCounter()
        self._clock = self._new_clock()
        self._converter: RawConverter | None = None
        self._metronome: Metronome | None = None
        self._actions: ActionSender | None = None
        self._software: SoftwareTrigger | None = None
        self._heard = self._asked = 0.0
        self._what = ""

    @abstractmethod
    def connect(self) -> Features:
        """Find the camera by its serial number and open it. Raises DriverError."""

    @abstractmethod
    def start(self) -> None:
        """Let pictures come. Raises DriverError."""

    @abstractmethod
    def grab(self, timeout_s: float) -> Raw | None:
        """The next picture, or None. Raises CameraLost."""

    @abstractmethod
    def fire(self) -> None:
        """The software trigger. Raises DriverError."""

    @abstractmethod
    def check_alive(self, silent: bool) -> None:
        """Raises CameraLost when the camera is not there or no longer ours. Takes at most a quarter of a second.

        silent: no picture has come for a while, so it may be gone; else it is there for sure.
        """

    @abstractmethod
    def release(self) -> None:
        """Let the camera go, whatever state it is in."""

    @abstractmethod
    def describe(self, features: Features) -> str:
        """Model, serial number and address, for the log."""

    def open(self) -> None:
        """Connect, write all settings, start. Raises DriverError."""
        self.close()
        features = self.connect()
        apply(features, self.options, self.fps, self._wrong)
        pixel_format = features.get("PixelFormat")
        self._converter = converter(pixel_format, self.options, self._wrong)
        size = f"{features.get('Width'):g} x {features.get('Height'):g}"
        self._what = f"{self.describe(features)}, {size} {pixel_format}, trigger {self.options.trigger}"
        self._blocks.restart()
        self._clock = self._new_clock()
        self.start()
        self._heard = self._asked = time.monotonic()
        if self.options.trigger == "software":
            self._software = SoftwareTrigger(self.fire)
            self._beat_with(self._software.beat)
        elif self.options.action_send:
            keys = self.options.action_device_key, self.options.action_group_key, self.options.action_group_mask
            self._actions = ActionSender(self.options.action_address, *keys)
            self._beat_with(self._actions.send)

    def next_frame(self, timeout_s: float) -> Captured | None:
        """The next whole picture. Raises DriverError for one with holes, CameraLost for a camera that is gone."""
        raw = self.grab(timeout_s)
        arrived_ns = time.time_ns()
        if self._metronome is not None and self._metronome.error is not None:
            raise CameraLost(f"{self._what}: {self._metronome.error}")
        self._check(raw is None)
        if raw is None:
            return None
        trigger, skipped = self._blocks.add(raw.block) if raw.block is not None else (None, 0)
        exposure = self._clock.add(raw.device_ns, arrived_ns)
        if note := self._clock.take_note():
            log.warning("camera %s: %s", self.id, note)
        node_ns, sigma_ns = exposure.node_ns, exposure.sigma_ns
        if self._software is not None:
            fired, skipped = self._software.answered()
            self.missed += skipped
            if fired is None:
                self.missed += 1
                return None
            trigger, node_ns, sigma_ns = fired.trigger, fired.node_ns, fired.sigma_ns
        else:
            self.missed += skipped
        if raw.damage:
            raise DriverError(f"picture {trigger}: {raw.damage}; it is not used")
        pixels = self._rgb(raw)
        return Captured(None, pixels, trigger, raw.device_ns or node_ns, node_ns, raw.width, raw.height, sigma_ns)

    def close(self) -> None:
        """Stop triggers first, so that nothing talks to a camera that is closed."""
        if self._metronome is not None:
            self._metronome.stop()
            self._metronome = self._software = None
        if self._actions is not None:
            self._actions.close()
            self._actions = None
        self.release()

    def __str__(self) -> str:
        return self._what or f"{self._camera.driver} camera {self.serial}"

    def _rgb(self, raw: Raw) -> np.ndarray:
        if self._converter is None or self._converter.pixel_format != raw.pixel_format:
            self._converter = converter(raw.pixel_format, self.options, self._wrong)
        return self._converter.rgb(raw.data, raw.width, raw.height, raw.padding)

    def _beat_with(self, beat: Callable[[int], None]) -> None:
        self._metronome = Metronome(self.fps, beat, f"{self.id}-trigger")
        self._metronome.start()

    def _check(self, silent: bool) -> None:
        """Once a second: is the camera there, and ours? One that runs by itself must not be silent for long."""
        now = time.monotonic()
        if not silent:
            self._heard = now
        if now - self._asked >= _ASK_EVERY_S:
            self._asked = now
            self.check_alive(now - self._heard >= _ASK_EVERY_S)
        most = max(_SILENT_S, _SILENT_PERIODS / self.fps)
        if self.options.trigger in ("off", "software") and now - self._heard > most:
            raise CameraLost(f"{self._what}: answers but has sent no picture for {most:.3g} s")

    def _new_clock(self) -> DeviceClock:
        return DeviceClock(round(self.options.delay_ms * 1e6), recognise_ptp=self.options.clock == "auto")

    def _wrong(self, key: str, text: str) -> DriverError:
        return options_error(self._camera, self._rig, key, text)


def not_attached(what: str, there: list[str]) -> DriverError:
    """The error for a camera that is not found; ``there``: what is."""
    return DriverError(f"{what} is not attached; attached: {', '.join(there) or 'none'}")
