"""Doubles for the node's tests: a capture, a driver and a server that do as they are told."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from capture_nodes.drivers.base import Captured, Driver
from capture_nodes.node import Node
from protocol.messages import (
    Bye,
    ClockReply,
    ClockRequest,
    Fetched,
    Frame,
    Grant,
    Hello,
    Holdings,
    MessageError,
    Report,
    Spooled,
    Welcome,
    pack_control,
    unpack_control,
    unpack_frame,
)
from protocol.rig import Rig, parse_rig
from protocol.wire import WireError, bound_port, control_router, data_router

sys.path.insert(0, str(Path(__file__).parent))  # for ``camera_doubles``
os.environ.setdefault("PYLON_CAMEMU", "2")  # two emulated Basler cameras; pypylon looks when it is imported

DEADLINE_S = 10.0


def _jpeg(width: int, height: int, fill: bytes = b"") -> bytes:
    size = height.to_bytes(2) + width.to_bytes(2)
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08" + size + b"\x01\x01\x11\x00" + fill


@pytest.fixture
def jpeg_of() -> Callable[..., bytes]:
    """(width, height, fill) to the beginning of a JPEG, which is all that a node looks at."""
    return _jpeg


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Four frames of two cameras; each picture differs."""
    K, R = [[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    cameras = [{"name": f"cam0{i}", "width": 6, "height": 4, "K": K, "R": R, "t": [0, 0, 1]} for i in range(2)]
    root = tmp_path / "capture"
    for frame in range(4):
        (root / "frames" / f"{frame:03d}").mkdir(parents=True)
        for i in range(2):
            (root / "frames" / f"{frame:03d}" / f"cam0{i}.jpg").write_bytes(_jpeg(6, 4, b"%d of %d" % (frame, i)))
    (root / "cameras.json").write_text(json.dumps({"version": 1, "cameras": cameras}), encoding="utf-8")
    return root


@pytest.fixture
def make_rig(tmp_path: Path) -> Callable[..., Rig]:
    """A rig of replay cameras cam00, cam01 ... of the fixture ``capture``, all of node pc1 unless told otherwise."""

    def make(cameras: int = 1, options: dict | None = None, **changes) -> Rig:
        entries = [
            {"id": f"cam0{i}", "node": "pc1", "driver": "replay", "options": {"capture": "capture", **(options or {})}}
            for i in range(cameras)
        ]
        data = {"name": "test", "calibration": "capture/cameras.json", "camera": entries, **changes}
        return parse_rig(data, root=tmp_path)

    return make


class StepDriver(Driver):
    """Gives a picture whenever the test puts one, and otherwise waits."""

    def __init__(self):
        self.pictures: list[Captured | Exception] = []
        self.opened = self.closed = 0
        self.open_errors: list[Exception] = []
        self._last = False
        self._ready = threading.Condition()

    def put(self, picture: Captured | Exception | bytes, trigger: int | None = None) -> None:
        if isinstance(picture, bytes):
            now = time.time_ns()
            picture = Captured(picture, None, trigger, now, now, 6, 4)
        with self._ready:
            self.pictures.append(picture)
            self._ready.notify()

    def finish(self) -> None:
        """After the pictures that were put."""
        with self._ready:
            self._last = True
            self._ready.notify()

    def open(self) -> None:
        if self.open_errors:
            raise self.open_errors.pop(0)
        self.opened += 1

    def next_frame(self, timeout_s: float) -> Captured | None:
        with self._ready:
            self._ready.wait_for(lambda: self.pictures or self._last, timeout_s)
            if not self.pictures:
                self.finished = self._last
                return None
            picture = self.pictures.pop(0)
        if isinstance(picture, Exception):
            raise picture
        return picture

    def close(self) -> None:
        self.closed += 1

    def __str__(self) -> str:
        return "a double"


@pytest.fixture
def step_driver() -> StepDriver:
    """A driver that the test steps."""
    return StepDriver()


class Server:
    """The server's end, pumped by the test: nothing happens but in ``until``. Answers Hello and clock as it should."""

    def __init__(self, rig: Rig, started: int = 1):
        self.context = zmq.Context()
        self.data, self.control = data_router(self.context, rig), control_router(self.context, rig)
        ports = {"data_port": bound_port(self.data), "control_port": bound_port(self.control)}
        self.rig = replace(rig, server=replace(rig.server, **ports))  # as its nodes need it
        self.started = started
        self.credit = rig.wire.credit  # granted after a Hello
        self.return_credit = True  # one for each frame
        self.answer = True  # at all
        self.clock_ahead_ns = 0
        self.frames: list[Frame] = []
        self.hellos: list[tuple[str, Hello]] = []
        self.reports: list[Report] = []
        self.spooled: list[tuple[Spooled, Frame]] = []
        self.answers: list[Holdings | Fetched] = []
        self.byes: list[str] = []
        self.clock_requests = 0

    def close(self) -> None:
        self.context.destroy(linger=0)

    def until(self, happened: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            self.pump(5)

    def for_a_while(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.pump(5)

    def pump(self, timeout_ms: int) -> None:
        poller = zmq.Poller()
        poller.register(self.data, zmq.POLLIN)
        poller.register(self.control, zmq.POLLIN)
        for socket, _ in poller.poll(timeout_ms):
            identity, *parts = socket.recv_multipart()
            if len(parts) == 3:
                self.spooled.append((unpack_control(parts[2]), unpack_frame(parts[:2])))
            elif len(parts) == 2:
                frame = unpack_frame(parts)
                self.frames.append(frame)
                if self.return_credit:
                    self.say(socket, identity, Grant(frame.header.camera, 1))
            else:
                self.hear(socket, identity, unpack_control(parts[0]))

    def hear(self, socket: zmq.Socket, identity: bytes, message) -> None:
        if isinstance(message, Hello):
            self.hellos.append(("data" if socket is self.data else "control", message))
            if self.answer:
                self.say(socket, identity, Welcome(message.number, self.started))
                if socket is self.data:
                    for camera in message.cameras:
                        self.say(socket, identity, Grant(camera, self.credit))
        elif isinstance(message, ClockRequest):
            self.clock_requests += 1
            if self.answer:
                now = time.time_ns() + self.clock_ahead_ns
                self.say(socket, identity, ClockReply(message.t0, now, now, self.started))
        elif isinstance(message, Report):
            self.reports.append(message)
        elif isinstance(message, (Holdings, Fetched)):
            assert (socket is self.data) == isinstance(message, Fetched)
            self.answers.append(message)
        elif isinstance(message, Bye):
            self.byes.append(message.node)
        else:
            raise MessageError("unexpected", str(message))

    def say(self, socket: zmq.Socket, identity: bytes, message) -> None:
        try:
            socket.send_multipart([identity, pack_control(message)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:  # the node may have ended
                raise

    @property
    def sequences(self) -> list[int]:
        return [frame.header.sequence for frame in self.frames]


@pytest.fixture
def make_server():
    """Servers on free ports, or in the place of one before (whose ports libzmq frees a moment after it was closed)."""
    servers: list[Server] = []

    def make(rig: Rig, *, again: bool = False, started: int = 1) -> Server:
        if not again:
            rig = replace(rig, server=replace(rig.server, data_port=0, control_port=0))
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                servers.append(Server(rig, started))
                return servers[-1]
            except WireError:
                assert time.monotonic() < deadline, "the ports do not come free"
                time.sleep(0.01)

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def running():
    """``with running(node) as stop``: the node in a thread; afterwards it must end within a second."""

    @contextmanager
    def run(node: Node):
        stop = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(node.run, stop)
            try:
                yield ended
            finally:
                stop.set()
                began = time.monotonic()
                ended.result(DEADLINE_S)
                assert time.monotonic() - began < 1.0

    return run
