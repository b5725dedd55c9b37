"""The server's end of the wire: one thread owns both sockets, checks what arrives and hands frames on.

``protocol.messages`` says who says what when. A frame that is handed on or refused gives its camera its credit back, so
that what is on its way to the server is at most ``wire.credit`` frames of ``wire.max_frame_mb`` per camera; nothing is
queued here. Frames out of a node's spool were asked for and go to whoever asked (``answers``). Whatever a stranger or a
broken node sends is refused, counted by reason and logged (``refusals``).
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import msgpack
import zmq

from fusion_server.refusals import Refusals
from protocol.admission import former_name
from protocol.calibration import Calibration
from protocol.errors import HeadstreamError
from protocol.messages import (
    Bye,
    CameraReport,
    ClockReply,
    ClockReport,
    ClockRequest,
    Control,
    Fetch,
    Fetched,
    Frame,
    FrameHeader,
    Grant,
    Hello,
    Holdings,
    Inventory,
    MessageError,
    Record,
    Refused,
    Release,
    Report,
    Spooled,
    SpoolReport,
    Welcome,
    is_name,
    pack_control,
    unpack_control,
    unpack_frame,
)
from protocol.rig import Rig
from protocol.wire import bound_port, control_router, data_router, doorkeeper

log = logging.getLogger(__name__)

_TICK_MS = 10
_CONTROL_S = 0.000_2  # the control socket is looked at so often while pictures pour in
_CHORES_S = 0.005  # and so often is done what no message asks for
_BURST = 32  # messages of one socket between two looks at everything else
_RATE_WINDOW_S = 2.0
_RECORD_REPEAT_S = 0.3
_SILENCE_S = 3.0
_MOST_TOLD = 4096  # questions and releases that wait for the thread


@dataclass
class _Camera:
    node: str
    size: tuple[int, int]
    owed: int = 0  # credit that it has not been given back yet
    received: int = 0
    refused: int = 0
    missed: int = 0
    next_sequence: int | None = None
    header: FrameHeader | None = None
    seen: float | None = None
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    report: CameraReport | None = None


@dataclass
class _Node:
    data: bool = False  # welcomed on the data socket
    control: bool = False
    incarnation: int = 0
    seen: float | None = None
    take: str = ""
    clock: ClockReport | None = None
    spool: SpoolReport = field(default_factory=SpoolReport)


class Answers(Protocol):
    """Who asks nodes about takes. Called in the receiver's thread; must be quick.

    Both return False for an answer to nothing that was asked, which the receiver refuses.
    """

    def spooled(self, node: str, number: int, frame: Frame) -> bool:
        """A frame out of a node's spool, of a camera of that node."""

    def answered(self, node: str, message: Holdings | Fetched) -> bool:
        """Anything else that answers a question."""


class Receiver:
    """Binds both sockets; ``start`` begins to listen, ``stop`` ends it. Raises HeadstreamError when it cannot bind.

    ``on_frame(frame)`` gets every good frame, ``on_tick()`` is called at least every 10 ms or so, both in the
    receiver's thread and never at the same time; both must be quick. ``frame.jpeg`` is a memoryview that keeps the
    received message alive; it may be held as long as one likes. An exception in either ends the thread (``alive``).
    """

    def __init__(
        self,
        rig: Rig,
        calibration: Calibration,
        on_frame: Callable[[Frame], None],
        on_tick: Callable[[], None] | None = None,
    ):
        for camera in rig.cameras:
            if camera.id not in calibration.names:
                known = ", ".join(calibration.names)
                raise HeadstreamError(f"{rig.calibration}: no camera {camera.id!r} as in the rig file; it has {known}")
        self._rig = rig
        self._on_frame, self._on_tick = on_frame, on_tick
        sizes = {camera.name: (camera.width, camera.height) for camera in calibration.cameras}
        self._cameras = {camera.id: _Camera(camera.node, sizes[camera.id]) for camera in rig.cameras}
        self._nodes = {name: _Node() for name in rig.nodes}
        self._names = {name.encode(): name for name in rig.nodes}
        self._grants = (rig.wire.credit + 1) // 2  # given back at once: half as many messages, and half is always there
        self._refusals = Refusals()
        self._lock = threading.Lock()  # over everything above that statistics() reads
        self._started_ns = time.time_ns()
        self._take = ""
        self._take_at = 0  # server clock: when the take began, or the last one ended
        self._ended = ""  # the last take
        self.answers: Answers | None = None  # set before start
        self._to_tell: deque[tuple[str, Inventory | Fetch | Release]] = deque(maxlen=_MOST_TOLD)
        self._record_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receive", daemon=True)
        self._context = zmq.Context()
        self._doorkeeper = None
        try:
            self._doorkeeper = doorkeeper(self._context, rig)  # first: a socket that is bound lets nobody in without
            self._data = data_router(self._context, rig)
            self._control = control_router(self._context, rig)
        except HeadstreamError:
            self._close()
            raise
        self.data_port, self.control_port = bound_port(self._data), bound_port(self._control)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the sockets; may be called twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._close()

    def _close(self) -> None:
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._context.destroy(linger=0)

    @property
    def alive(self) -> bool:
        """Whether the thread runs, and that of the doorkeeper where there is one."""
        return self._thread.is_alive() and (self._doorkeeper is None or self._doorkeeper.alive)

    def record(self, on: bool, take: str = "take", at_ns: int | None = None) -> None:
        """Tell every node that a take of this name begins (on) or ends, until each says that it knows.

        at_ns: when, server clock; now where it is not given.
        """
        with self._lock:
            if self._take and not on:
                self._ended = self._take
            self._take, self._record_at = take if on else "", 0.0
            self._take_at = time.time_ns() if at_ns is None else at_ns

    def tell(self, node: str, message: Inventory | Fetch | Release) -> None:
        """Say this to a node soon; from any thread. It is lost when the node is not there."""
        self._to_tell.append((node, message))

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Each camera at this moment, as plain values; may be called from any thread.

        node: its node. fps: received over the last two seconds. received, refused, missed (gaps in the sequence:
        dropped by the node, lost or refused): since the server started. captured, dropped (unsent for want of credit),
        errors: as the node reports, since it started; captured_fps: in its last second, None before. offset_ns (server
        clock minus node clock), offset_sigma_ns and age_s (since the last frame): None before the first frame.
        drift_ppm: of its node's clock as reported last, None before.
        """
        now = time.monotonic()
        with self._lock:
            return {
                name: _camera_statistics(camera, self._nodes[camera.node].clock, now)
                for name, camera in self._cameras.items()
            }

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Each node at this moment, as plain values; may be called from any thread.

        connected: welcomed on both sockets and heard of within three seconds. age_s: since its last word on the control
        socket, None before the first. take: the take that it says it records, empty when none. clock: its ClockReport,
        None before the first. spool: frames kept and lost, bytes that wait and that are free, and a fault, empty while
        there is none. incarnation: of its process.
        """
        now = time.monotonic()
        with self._lock:
            return {name: _node_statistics(node, now) for name, node in self._nodes.items()}

    def refused(self) -> dict[str, int]:
        """Messages refused since the start, by reason; may be called from any thread."""
        return self._refusals.counts()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._data, zmq.POLLIN)
        poller.register(self._control, zmq.POLLIN)
        due = 0.0
        try:
            while not self._stop.is_set():
                ready = dict(poller.poll(_TICK_MS))
                if self._control in ready:
                    self._drain_control()
                looked = time.monotonic()
                for _ in range(_BURST if self._data in ready else 0):
                    parts = self._data.take(copy=False)
                    if parts is None:
                        break
                    self._take_data(parts)
                    if (now := time.monotonic()) - looked >= _CONTROL_S:  # clocks must not wait behind pictures
                        looked = now
                        self._drain_control()
                if looked < due:
                    continue  # what follows costs more than a small picture
                due = looked + _CHORES_S
                self._remind_of_take()
                while self._to_tell:
                    node, message = self._to_tell.popleft()
                    self._send(self._control, node.encode(), message)
                self._note_strangers()
                self._refusals.summarise()
                if self._on_tick is not None:
                    self._on_tick()
        finally:
            self._data.close()
            self._control.close()

    def _take_data(self, parts: Sequence[zmq.Frame]) -> None:
        identity = parts[0].bytes
        node = self._names.get(identity) or _name_of(identity)
        if len(parts) == 2:
            self._take_control(self._data, identity, parts[1].bytes)
            return
        if len(parts) == 4:
            self._take_spooled(identity, parts)
            return
        head = parts[1].bytes if len(parts) > 1 else b""
        try:
            if node not in self._nodes:
                raise _unknown(identity)
            pictures = [memoryview(part.buffer) for part in parts[2:]]
            frame = unpack_frame([head, *pictures], max_bytes=self._rig.wire.max_frame_bytes)
            self._check_frame(frame.header, node)
        except MessageError as error:
            camera = _camera_of(head)
            self._refuse(error, node, camera)
            if camera in self._cameras and self._cameras[camera].node == node:
                self._give_back(identity, camera)
            return
        with self._lock:
            self._count(frame.header)
        self._on_frame(frame)
        self._give_back(identity, frame.header.camera)

    def _take_spooled(self, identity: bytes, parts: Sequence[zmq.Frame]) -> None:
        """A frame out of a node's spool. It cost no credit, and is of no use to the live chain."""
        node = _name_of(identity)
        try:
            if node not in self._nodes:
                raise _unknown(identity)
            mark = unpack_control(parts[3].bytes)
            if not isinstance(mark, Spooled):
                text = f"node {node}: a frame marked with {type(mark).__name__}; must be Spooled"
                raise MessageError("malformed", text)
            head, picture = parts[1].bytes, memoryview(parts[2].buffer)
            frame = unpack_frame([head, picture], max_bytes=self._rig.wire.max_frame_bytes)
            self._check_frame(frame.header, node)
            if self.answers is None or not self.answers.spooled(node, mark.number, frame):
                raise MessageError("unasked", f"node {node}: sends frames out of its spool that nobody asked for")
        except MessageError as error:
            self._refuse(error, node)

    def _check_frame(self, header: FrameHeader, node: str) -> None:
        camera = self._cameras.get(header.camera)
        if camera is None:
            raise MessageError("unknown_camera", f"node {node}: camera {header.camera!r}, which the rig file has not")
        if camera.node != node or header.node != node:
            text = f"camera {header.camera}: came from node {node}; the rig file gives it to node {camera.node}"
            raise MessageError("wrong_node", text)
        if (header.width, header.height) != camera.size:
            sizes = f"{header.width}x{header.height}; its calibration is for {camera.size[0]}x{camera.size[1]}"
            raise MessageError("size", f"camera {header.camera}: sends pictures of {sizes}")

    def _count(self, header: FrameHeader) -> None:
        camera, now = self._cameras[header.camera], time.monotonic()
        if camera.next_sequence is not None:
            camera.missed += max(0, header.sequence - camera.next_sequence)
        camera.next_sequence = header.sequence + 1
        camera.received += 1
        camera.header, camera.seen = header, now
        camera.arrivals.append(now)

    def _drain_control(self) -> None:
        for _ in range(_BURST):
            parts = self._control.take()
            if parts is None:
                return
            arrived = time.time_ns()
            if len(parts) == 2:
                self._take_control(self._control, parts[0], parts[1], arrived)
            else:
                error = MessageError("malformed", f"a control message has 1 part, this has {len(parts) - 1}")
                self._refuse(error, _name_of(parts[0]))

    def _take_control(self, socket: zmq.Socket, identity: bytes, data: bytes, arrived: int = 0) -> None:
        node = _name_of(identity)
        try:
            message = unpack_control(data)
            if isinstance(message, Hello):
                self._hello(socket, identity, message)
                return
            of_data = isinstance(message, Fetched)
            if of_data != (socket is self._data) or not isinstance(
                message, (ClockRequest, Report, Bye, Holdings, Fetched)
            ):
                plane = "data" if socket is self._data else "control"
                text = f"node {node}: a {type(message).__name__} is not sent to the server's {plane} socket"
                raise MessageError("malformed", text)
            if node not in self._nodes:
                raise _unknown(identity)
            if isinstance(message, (Holdings, Fetched)) and not (self.answers and self.answers.answered(node, message)):
                raise MessageError("unasked", f"node {node}: a {type(message).__name__} that answers nothing")
        except MessageError as error:
            self._refuse(error, node)
            return
        if isinstance(message, ClockRequest):
            self._send(socket, identity, ClockReply(message.t0, arrived, time.time_ns(), self._started_ns))
        with self._lock:
            state = self._nodes[node]
            state.seen = time.monotonic()
            if isinstance(message, Report):
                state.take, state.clock, state.spool = message.take, message.clock, message.spool
                for report in message.cameras:
                    if report.camera in self._cameras and self._cameras[report.camera].node == node:
                        self._cameras[report.camera].report = report
            elif isinstance(message, Bye):
                state.data = state.control = False
                log.info("node %s has ended", node)

    def _hello(self, socket: zmq.Socket, identity: bytes, hello: Hello) -> None:
        node = _name_of(identity)
        foreign = [name for name in hello.cameras if name not in self._cameras or self._cameras[name].node != node]
        text = ""
        if former_name(identity):
            text = str(_unknown(identity))
        elif node not in self._nodes:
            text = f"the server's rig file has no node {node!r}; its nodes are {', '.join(self._nodes)}"
        elif hello.node != node:
            text = f"this connection is node {node}, its Hello says {hello.node}"
        elif foreign:
            text = f"the server's rig file gives node {node} no camera {', '.join(foreign)}"
        if text:
            self._refuse(MessageError("hello", f"node {node}: refused: {text}"), node)
            self._send(socket, identity, Refused(text[:400]))
            return
        with self._lock:
            state = self._nodes[node]
            fresh = hello.incarnation != state.incarnation
            if fresh:
                state.incarnation, state.take, state.clock = hello.incarnation, "", None
                for name in hello.cameras:
                    self._cameras[name].next_sequence = None
            state.seen = time.monotonic()
            if socket is self._data:
                state.data = True
            else:
                state.control = True
            self._record_at = 0.0  # a node that comes during a take is told at once
        if fresh:
            log.info("node %s is here with %s", node, ", ".join(hello.cameras))
        self._send(socket, identity, Welcome(hello.number, self._started_ns))
        if socket is self._data:
            for name in hello.cameras:
                self._cameras[name].owed = 0
                self._grant(identity, name, self._rig.wire.credit)

    def _give_back(self, identity: bytes, name: str) -> None:
        """The credit that a frame of this camera cost, with that of the frames before it."""
        camera = self._cameras[name]
        camera.owed += 1
        if camera.owed >= self._grants:
            self._grant(identity, name, camera.owed)
            camera.owed = 0

    def _grant(self, identity: bytes, camera: str, frames: int) -> None:
        self._send_packed(self._data, identity, _packed_grant(camera, frames))

    def _remind_of_take(self) -> None:
        """Say Record to every node whose last Report names another take than the present one."""
        now = time.monotonic()
        with self._lock:
            if now < self._record_at:
                return
            self._record_at = now + _RECORD_REPEAT_S
            take, at_ns, ended = self._take, self._take_at, self._ended
            told = [(name, node.take) for name, node in self._nodes.items() if node.control and node.take != take]
        for name, other in told:
            # Of a take that another server began nobody knows here when it ended: now.
            self._send(
                self._control, name.encode(), Record(bool(take), take or other, at_ns if take or other == ended else 0)
            )

    def _send(self, socket: zmq.Socket, identity: bytes, message: Control) -> None:
        self._send_packed(socket, identity, pack_control(message))

    def _send_packed(self, socket: zmq.Socket, identity: bytes, message: bytes) -> None:
        try:
            socket.send_multipart([identity, message])
        except zmq.Again:
            pass  # it does not read; what it misses it asks for again
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def _refuse(self, error: MessageError, node: str, camera: str | None = None) -> None:
        if camera in self._cameras:
            with self._lock:
                self._cameras[camera].refused += 1
        self._refusals.add(error, camera or node)

    def _note_strangers(self) -> None:
        """Peers that the doorkeeper has turned away; their addresses are what one can name them by."""
        if self._doorkeeper is None:
            return
        texts, more = self._doorkeeper.refusals()
        for text in texts:
            self._refuse(MessageError("unknown_key", text), text.partition(":")[0])
        self._refusals.add_unnamed("unknown_key", more)


@functools.lru_cache(maxsize=1024)  # most of what a server says are the same few
def _packed_grant(camera: str, frames: int) -> bytes:
    return pack_control(Grant(camera, frames))


def _unknown(identity: bytes) -> MessageError:
    """Why nothing is taken from this connection."""
    if former := former_name(identity):
        text = f"node {former}: a newer connection with its key has taken this one's place; is the node running twice?"
        return MessageError("superseded", text)
    return MessageError("unknown_node", f"node {_name_of(identity)!r}, which the rig file has not")


def _name_of(identity: bytes) -> str:
    """A connection's name fit for a log line; ZeroMQ makes up binary ones for peers that give none."""
    text = identity.decode("ascii", "replace")
    return text if is_name(text) else "(unnamed)"


def _camera_of(head: bytes) -> str | None:
    """The camera that a refused frame's header names, where that much of it can be read."""
    try:
        fields = msgpack.unpackb(head)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException):
        return None
    return fields[4] if isinstance(fields, list) and len(fields) > 4 and is_name(fields[4]) else None


def _age(seen: float | None, now: float) -> float | None:
    return None if seen is None else now - seen


def _node_statistics(node: _Node, now: float) -> dict[str, Any]:
    heard = node.seen is not None and now - node.seen < _SILENCE_S
    return {
        "connected": node.data and node.control and heard,
        "age_s": _age(node.seen, now),
        "take": node.take,
        "clock": node.clock,
        "spool": asdict(node.spool),
        "incarnation": node.incarnation,
    }


def _camera_statistics(camera: _Camera, clock: ClockReport | None, now: float) -> dict[str, Any]:
    while camera.arrivals and camera.arrivals[0] < now - _RATE_WINDOW_S:
        camera.arrivals.popleft()
    header, report = camera.header, camera.report
    return {
        "node": camera.node,
        "fps": len(camera.arrivals) / _RATE_WINDOW_S,
        "received": camera.received,
        "refused": camera.refused,
        "missed": camera.missed,
        "captured": report.captured if report else 0,
        "captured_fps": report.fps if report else None,
        "dropped": report.dropped if report else 0,
        "errors": report.errors if report else 0,
        "offset_ns": header.offset_ns if header else None,
        "offset_sigma_ns": header.offset_sigma_ns if header else None,
        "drift_ppm": clock.drift_ppm if clock else None,
        "age_s": _age(camera.seen, now),
    }
