"""One camera's thread at a node: wait for the driver, encode where need be, pictures into outbox and spool."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from capture_nodes.drivers.base import CameraLost, Captured, Driver
from capture_nodes.encode import Encoder
from capture_nodes.outbox import Outbox
from capture_nodes.spool import Spool
from protocol.errors import HeadstreamError
from protocol.rig import Rig

log = logging.getLogger(__name__)

_FRAME_WAIT_S = 0.2  # how long a driver is asked to wait; bounds the time that ending takes
_REOPEN_S = (1.0, 10.0)  # first and longest pause before a camera is opened again
_AFTER_ERROR_S = 0.01  # a driver that fails at once must not spin
_SAY_EVERY_S = 1.0


class CameraWorker:
    """Runs one driver until it is told to stop or the driver is finished; survives what the camera does."""

    def __init__(
        self,
        rig: Rig,
        camera: str,
        driver: Driver,
        outbox: Outbox,
        send: Callable[[], None],
        spool: Spool | None = None,
    ):
        self._rig, self._camera, self._driver, self._outbox, self._send = rig, camera, driver, outbox, send
        self._spool = spool
        self._most = rig.wire.max_frame_bytes
        self._encoder: Encoder | None = None
        self._missed = driver.missed
        self._said_at = -_SAY_EVERY_S

    def run(self, stop: threading.Event) -> None:
        """The thread's whole life. Raises EncodeError when the camera gives pixels and JPEG cannot be made here."""
        pause, told = _REOPEN_S[0], ""
        while not stop.is_set() and not self._driver.finished:
            try:
                self._driver.open()
            except HeadstreamError as error:
                self._outbox.failed(self._camera)
                if str(error) != told:
                    log.error("camera %s: %s; will be tried again", self._camera, error)
                told = str(error)
            else:
                log.info("camera %s: %s", self._camera, self._driver)
                pause, told = _REOPEN_S[0], ""
                self._read(stop)
            finally:
                self._driver.close()
            if not self._driver.finished:
                stop.wait(pause)
            pause = min(2 * pause, _REOPEN_S[1])

    def _read(self, stop: threading.Event) -> None:
        """Pictures into the outbox until there will be no more of them from this opening."""
        while not stop.is_set() and not self._driver.finished:
            try:
                captured = self._driver.next_frame(_FRAME_WAIT_S)
            except CameraLost as error:
                self._outbox.failed(self._camera)
                log.error("camera %s: %s; will be opened again", self._camera, error)
                return
            except HeadstreamError as error:
                self._outbox.failed(self._camera)
                self._say(str(error))
                captured = None
                stop.wait(_AFTER_ERROR_S)
            if self._driver.missed != self._missed:
                first, last = self._outbox.missed(self._camera, self._driver.missed - self._missed)
                self._missed = self._driver.missed
                if self._spool:
                    self._spool.missed(self._camera, first, last)
            if captured is not None:
                self._take(captured)

    def _take(self, captured: Captured) -> None:
        jpeg = captured.jpeg
        if jpeg is None:
            if captured.pixels is None:
                raise ValueError(f"driver of camera {self._camera} gave neither a JPEG nor pixels")
            self._encoder = self._encoder or Encoder(self._rig.wire.jpeg_quality)
            jpeg = self._encoder.encode(captured.pixels)
        if len(jpeg) > self._most:
            self._outbox.failed(self._camera)
            text = f"a picture of {len(jpeg)} bytes is not sent; wire.max_frame_mb in the rig file allows {self._most}"
            self._say(text)
            return
        waiting = self._outbox.put(self._camera, captured, jpeg)
        if self._spool:
            self._spool.put(waiting)
        self._send()

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            log.error("camera %s: %s", self._camera, text)
