"""The capture node: the cameras of one machine, their pictures on the way to the server.

Each camera has a thread of its own (``camera``), which sends its pictures itself (``lane``); one more thread, that
which calls ``Node.run``, says and hears everything else (``link``). What cannot be sent at once waits in the outbox,
bounded in frames and in bytes, which drops the oldest. While a take is recorded every picture goes to the node's own
disk, too (``spool``), from where the server gets what it missed (``shelf``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from capture_nodes.camera import CameraWorker
from capture_nodes.drivers import make_driver
from capture_nodes.drivers.base import Driver
from capture_nodes.link import Link, Wake
from capture_nodes.outbox import Counts, Outbox
from capture_nodes.shelf import Shelf
from capture_nodes.spool import Spool
from protocol.clock import ClockState
from protocol.rig import CameraConfig, Rig


class Node:
    """One node of a rig. Making it checks its cameras' options; nothing runs before ``run``."""

    def __init__(
        self,
        rig: Rig,
        name: str,
        make: Callable[[CameraConfig, Rig], Driver] = make_driver,
        now_ns: Callable[[], int] = time.time_ns,
    ):
        """``now_ns``: this machine's clock, which the drivers must use too.

        Raises RigError when the rig has no such node, and what the drivers raise for options they cannot use.
        """
        self.rig, self.name = rig, name
        self._now_ns = now_ns
        self._link: Link | None = None
        self._drivers = {camera.id: make(camera, rig) for camera in rig.cameras_of(name)}
        self._outbox = Outbox(self._drivers, frames=rig.wire.credit, max_bytes=rig.wire.queue_bytes)

    def run(self, stop: threading.Event) -> None:
        """Stream until ``stop`` is set, or until every driver is finished and the last frame sent. Once.

        Raises WireError when the rig's addresses cannot be used, EncodeError when JPEG cannot be made here.
        """
        ended = threading.Event()  # ends the cameras, whatever ended this
        incarnation = self._now_ns()
        config = self.rig.spool
        with contextlib.ExitStack() as stack:
            wake = stack.enter_context(contextlib.closing(Wake()))
            spool = Spool(config, self.name, self._drivers, incarnation) if config.enabled else None
            shelf = Shelf(self.name, self._drivers, config.folder, spool, wake)
            link = stack.enter_context(
                contextlib.closing(
                    Link(self.rig, self.name, self._outbox, wake, spool, shelf, incarnation, self._now_ns)
                )
            )
            self._link = link
            for part in (spool, shelf):
                if part is not None:
                    part.start()
                    stack.callback(part.close)
            threads = stack.enter_context(
                ThreadPoolExecutor(len(self._drivers), thread_name_prefix=f"{self.name}-camera")
            )
            try:
                over: list[Future[None]] = []
                for camera, driver in self._drivers.items():
                    worker = CameraWorker(self.rig, camera, driver, self._outbox, link.send, spool)
                    thread = threads.submit(worker.run, ended)
                    thread.add_done_callback(over.append)
                    thread.add_done_callback(lambda _: wake())
                link.run(stop, lambda: _all_over(over, len(self._drivers)))
            finally:
                ended.set()

    def counts(self) -> dict[str, Counts]:
        """Pictures captured, sent, dropped and failed of each camera since the node was made."""
        return self._outbox.counts()

    def clock(self) -> ClockState | None:
        """What is known of this machine's clock against the server's; None before ``run``."""
        return self._link.clock() if self._link else None

    @property
    def waiting_bytes(self) -> int:
        """Bytes of pictures that wait to be sent."""
        return self._outbox.waiting_bytes


def _all_over(over: list[Future[None]], cameras: int) -> bool:
    """Whether no camera thread is left; raises what ended one that should not have ended."""
    for thread in over:
        thread.result()
    return len(over) == cameras
