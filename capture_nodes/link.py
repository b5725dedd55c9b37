"""What node and server say to each other besides pictures, in one thread (``protocol.messages`` has the order)."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence

import zmq

from capture_nodes.announce import Announcement
from capture_nodes.lane import Lane
from capture_nodes.outbox import Counts, Outbox, Waiting
from capture_nodes.shelf import Shelf
from capture_nodes.spool import Spool
from protocol.clock import ClockFilter, ClockState
from protocol.messages import (
    Buffer,
    Bye,
    CameraReport,
    ClockReply,
    ClockReport,
    ClockRequest,
    Control,
    Fetch,
    Frame,
    Grant,
    Hello,
    Inventory,
    MessageError,
    Record,
    Refused,
    Release,
    Report,
    SpoolReport,
    Welcome,
    pack_control,
    unpack_control,
)
from protocol.rig import Rig
from protocol.wire import NodeSocket, control_dealer, data_dealer

log = logging.getLogger(__name__)

_SPEAK_S = 0.1  # the longest between two looks at what else is due, and so the longest sleep
_QUIET_S = 2.0  # nothing on the control socket for so long: the server is gone
_STARVED_S = 1.0  # no credit for so long although frames wait: it was lost on the way
_CREDIT_S = 0.005  # between two looks for credit that pictures wait for
_REPORT_S = 1.0
_CROWDED_S = 0.01  # until a full connection is tried again with what is not urgent
_CLOCK_S, _CLOCK_FIRST_S, _CLOCK_FIRST_COUNT = 0.25, 0.05, 20
_MOST_COMPLAINTS = 100
_FAREWELL_MS = 100  # how long closing may take to get the last message out
_LAST_FRAMES_MS = 2000  # and, when every camera is finished, the last frames


class Wake:
    """Ends the link's sleep from another thread; sockets of libzmq cannot be shared, this can."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def __call__(self) -> None:
        """Wake the link now, or when it next goes to sleep."""
        with contextlib.suppress(BlockingIOError):  # enough calls are pending already
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Forget all calls so far."""
        with contextlib.suppress(BlockingIOError):
            while len(self.reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Give both ends back."""
        self.reader.close()
        self._writer.close()


class Link:
    """Keeps the clock offset, announces the node, reports and answers. One thread, but for ``send``.

    What the shelf has to say is sent when no live frame can be. incarnation: ``time.time_ns`` when the node started.
    """

    def __init__(
        self,
        rig: Rig,
        node: str,
        outbox: Outbox,
        wake: Wake,
        spool: Spool | None,
        shelf: Shelf,
        incarnation: int,
        now_ns: Callable[[], int] = time.time_ns,
    ):
        """``now_ns``: the node's clock. Raises WireError when the rig's addresses cannot be used."""
        self._rig, self._node, self._outbox, self._wake = rig, node, outbox, wake
        self._spool, self._shelf, self._incarnation = spool, shelf, incarnation
        self._now_ns = now_ns
        self._cameras = tuple(camera.id for camera in rig.cameras_of(node))
        self._context = zmq.Context()
        self._control = control_dealer(self._context, rig, node)
        self._data = data_dealer(self._context, rig, node)
        self._lane = Lane(self._data, outbox, self._frame)
        self._poller = zmq.Poller()
        self._poller_open = zmq.Poller()  # for while the lane is open, and its socket not the link's
        for reader in (self._control, wake.reader):
            self._poller.register(reader, zmq.POLLIN)
            self._poller_open.register(reader, zmq.POLLIN)
        self._poller.register(self._data, zmq.POLLIN)
        self._awaits_credit = False  # whether it looks for Grants by itself
        self._hail: dict[NodeSocket, Announcement] = {self._control: Announcement(), self._data: Announcement()}
        self._server: int | None = None
        self._heard_at = 0.0  # on the control socket
        self._clock = ClockFilter()
        if spool:
            spool.use_clock(self._clock.at)
        self._asked: int | None = None  # t0 of the clock request under way
        self._asked_steps = 0  # of the node's clock, until then
        self._asked_at, self._asked_times = -1e9, 0
        self._reported_at = time.monotonic()
        self._speak_at = 0.0
        self._reported: dict[str, Counts] = outbox.counts()
        self._welcomed_at = 0.0  # on the data socket
        self._take = ""
        self._shelf_at = 0.0  # when the shelf's answers may be tried
        self._complained: set[str] = set()

    def run(self, stop: threading.Event, finished: Callable[[], bool]) -> None:
        """Until ``stop``, or until ``finished`` says that no frame will come and the last has been sent."""
        log.info("node %s: looking for the server at %s", self._node, self._rig.server.host)
        while not stop.is_set():
            now = time.monotonic()
            if now >= self._speak_at:
                if self._lane.open:
                    self._hear_data()
                self._speak(now)
                self._speak_at = self._due(now)
            if self._shelf.waiting:
                self._send_answers(now)
            last = finished()  # asked before sending: what was put in before it is sent below
            self._lane.send()
            if last and not self._outbox.waiting:
                self._data.setsockopt(zmq.LINGER, _LAST_FRAMES_MS)
                break
            self._listen()

    def send(self) -> None:
        """A picture was put into the outbox, by the thread that calls this."""
        if not self._lane.send() and self._lane.open and not self._awaits_credit:
            self._wake()

    def close(self) -> None:
        """Say Bye and let the sockets go."""
        if self._hail[self._control].welcomed and self._say(self._control, Bye(self._node)):
            self._control.setsockopt(zmq.LINGER, _FAREWELL_MS)
        self._control.close()
        self._data.close()
        self._context.term()

    def _speak(self, now: float) -> None:
        """Whatever is due: Hello, ClockRequest, Report."""
        self._watch_clock()
        control, data = self._hail[self._control], self._hail[self._data]
        if control.welcomed and now - self._heard_at >= _QUIET_S:
            log.warning("node %s: the server is silent; announcing again", self._node)
            self._lose(now)
        if data.welcomed and self._outbox.starving(now, _STARVED_S):
            self._lane.end()
            data.lost(now)
        for sock, hail in self._hail.items():
            if text := self._lane.refused(now) if sock is self._data else sock.refused(now):
                self._complain(text, text)
            if hail.due(now):
                hello = Hello(self._node, self._cameras, self._incarnation, hail.next_number())
                if self._say(sock, hello):
                    hail.said(now)
                else:
                    hail.nobody(now)
        if now - self._asked_at >= self._clock_pause:
            self._ask_time(now)
        if now - self._reported_at >= _REPORT_S:
            self._report(now)
        if self._spool:
            self._spool.tick(now)
            if self._take and now - self._heard_at >= self._rig.spool.alone_minutes * 60:
                log.error("node %s: no server for so long; take %s ends here", self._node, self._take)
                self._record("", 0, now)

    def _due(self, now: float) -> float:
        """When ``_speak`` is to be called again, unless something happens before."""
        hellos = [now + wait for hail in self._hail.values() if (wait := hail.wait(now)) is not None]
        return min(self._asked_at + self._clock_pause, self._reported_at + _REPORT_S, now + _SPEAK_S, *hellos)

    @property
    def _clock_pause(self) -> float:
        return _CLOCK_FIRST_S if self._asked_times < _CLOCK_FIRST_COUNT else _CLOCK_S

    def _ask_time(self, now: float) -> None:
        self._asked_at, self._asked_steps, self._asked = now, self._clock.steps, self._now_ns()
        if self._say(self._control, ClockRequest(self._asked)):
            self._asked_times += 1
        elif self._hail[self._control].welcomed:
            log.warning("node %s: the connection to the server is lost; announcing again", self._node)
            self._lose(now)

    def clock(self) -> ClockState:
        """What is known of the node's clock at this moment; may be called from any thread."""
        return self._clock.state(self._now_ns())

    def _watch_clock(self) -> None:
        """Somebody may have set this machine's clock; asked before each frame leaves."""
        step = self._clock.look(time.monotonic_ns(), self._now_ns(), time.monotonic_ns())
        if step:
            log.warning("node %s: this machine's clock was set by %+.3f s while it ran", self._node, step / 1e9)

    def _lose(self, now: float) -> None:
        """Begin again on both sockets."""
        self._asked_times = 0
        self._shelf.forget()
        self._lane.end()
        for hail in self._hail.values():
            hail.lost(now)

    def _report(self, now: float) -> None:
        seconds, before, counts = now - self._reported_at, self._reported, self._outbox.counts()
        served = self._hail[self._data].welcomed and self._welcomed_at <= self._reported_at
        self._reported_at, self._reported = now, counts
        rows = []
        for camera, count in counts.items():
            taken = count.captured - before[camera].captured
            dropped = count.dropped - before[camera].dropped
            rows.append(
                CameraReport(camera, count.captured, count.sent, count.dropped, count.errors, round(taken / seconds, 2))
            )
            if dropped and served:  # without a server everything is, which needs no line a second
                log.warning(
                    "camera %s: %d of %d pictures dropped, as the server takes fewer or this machine is too slow",
                    *(camera, dropped, taken),
                )
        if self._hail[self._control].welcomed:
            spool = self._spool.report() if self._spool else SpoolReport()
            self._say(self._control, Report(self._node, self._take, tuple(rows), ClockReport(*self.clock()), spool))

    def _send_answers(self, now: float) -> None:
        """One picture out of the spool at most, as a live one may come meanwhile; and all that is not a picture."""
        while now >= self._shelf_at and self._lane.open and (answer := self._shelf.next()) is not None:
            if not (self._lane.put(answer.parts) if answer.data else self._put(self._control, answer.parts)):
                self._shelf.unsent(answer)
                self._shelf_at = now + _CROWDED_S
                return
            if len(answer.parts) > 1:
                return

    def _frame(self, waiting: Waiting) -> Frame:
        """The frame as it leaves, by whichever thread; somebody may have set the clock since the last one."""
        self._watch_clock()
        return waiting.frame(self._node, self._incarnation, *self._clock.at(waiting.captured.node_ns))

    def _listen(self) -> None:
        """Sleep until something comes or is due, and take all that came.

        Grants end no sleep: a camera's next picture finds them, and while pictures wait the link looks now and then.
        """
        due, now, opened = self._speak_at, time.monotonic(), self._lane.open
        self._awaits_credit = False  # before looking: a picture put in after the look finds this and wakes the link
        self._awaits_credit = opened and self._outbox.waiting > 0
        if self._awaits_credit:
            due = min(due, now + _CREDIT_S)
        if opened and self._shelf.waiting:
            due = min(due, self._shelf_at)
        poller = self._poller_open if opened else self._poller
        ready = dict(poller.poll(max(0, math.ceil((due - now) * 1000))))
        if self._wake.reader.fileno() in ready:
            self._wake.clear()
        if self._control in ready:  # first: its timestamps must not wait
            while (parts := self._control.take()) is not None:
                self._hear_parts(self._control, parts)
        if self._data in ready:
            self._hear_data()

    def _hear_data(self) -> None:
        while heard := self._lane.heard():
            for parts in heard:
                self._hear_parts(self._data, parts)

    def _hear_parts(self, sock: NodeSocket, parts: list[bytes]) -> None:
        arrived_ns = self._now_ns()
        try:
            if len(parts) != 1:
                raise MessageError("malformed", f"the server sent {len(parts)} parts where one was due")
            self._hear(sock, unpack_control(parts[0]), arrived_ns, time.monotonic())
        except MessageError as error:
            self._complain(error.reason, f"a message of the server is refused: {error}")

    def _hear(self, sock: NodeSocket, message: Control, arrived_ns: int, now: float) -> None:
        if sock is self._control:
            self._heard_at = now
        match message:
            case Welcome(number, server):
                self._meet(server, now)
                if self._hail[sock].answered(number) and sock is self._data:
                    self._lane.begin(now)
                    self._welcomed_at = now
                    log.info("node %s: the server takes %s", self._node, ", ".join(self._cameras))
            case Refused(text):
                if sock is self._data:
                    self._lane.end()
                self._hail[sock].refused(now)
                self._complain(text, f"the server refuses this node: {text}")
            case Grant(camera, frames) if sock is self._data:
                if not self._outbox.grant(camera, frames, now):
                    self._complain(camera, f"the server grants frames of {camera}, which is not this node's")
            case ClockReply(t0, t1, t2, server):
                if t0 == self._asked:
                    self._asked = None
                    self._watch_clock()
                    self._clock.add(t0, t1, t2, arrived_ns, self._asked_steps)
                self._meet(server, now)
            case Record(on, take, at_ns) if sock is self._control:
                self._record(take if on else "", at_ns, now)
            case Inventory() | Fetch() | Release() if sock is self._control:
                self._shelf.ask(message)
            case _:
                self._complain(type(message).__name__, f"the server sent a {type(message).__name__}, which is a node's")

    def _record(self, take: str, at_ns: int, now: float) -> None:
        """A take begins at this moment of the server's clock; empty: the one that was recorded ends, at 0 now."""
        if take != self._take:
            log.info("node %s: %s", self._node, f"take {take} begins" if take else "the take ends")
            if self._spool and take:
                self._spool.begin(take, at_ns)
            elif self._spool:
                now_ns = self._now_ns()
                self._spool.end(at_ns or now_ns + self._clock.offset_at(now_ns), now)
        self._take = take

    def _meet(self, server: int, now: float) -> None:
        """The server says who it is; another than before has never heard of this node."""
        if self._server is not None and server != self._server:
            log.info("node %s: the server was restarted; announcing again", self._node)
            self._lose(now)
        self._server = server

    def _complain(self, about: str, text: str) -> None:
        """Each thing once."""
        if about not in self._complained and len(self._complained) < _MOST_COMPLAINTS:
            self._complained.add(about)
            log.error("node %s: %s", self._node, text)

    def _say(self, sock: NodeSocket, message: Control) -> bool:
        """False when there is nobody, or nobody who listens."""
        return self._put(sock, [pack_control(message)])

    @staticmethod
    def _put(sock: NodeSocket, parts: Sequence[Buffer]) -> bool:
        try:
            sock.send_multipart(parts)
        except zmq.Again:
            return False
        return True
