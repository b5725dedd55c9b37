"""A node's way to the server for pictures: the data socket, which goes from thread to thread under a lock.

Whoever has a new picture sends it, because to wake another thread for that costs more than the sending. The server's
Grants are read when credit is short, many at once. What else it says here is kept for the link, and while the node is
not welcome here the link alone uses the socket.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from capture_nodes.outbox import Outbox, Waiting
from protocol.messages import Buffer, Frame, Grant, MessageError, pack_frame, unpack_control
from protocol.wire import NodeSocket


class Lane:
    """Pictures out, credit in. All of it may be called from any thread."""

    def __init__(self, socket: NodeSocket, outbox: Outbox, as_frame: Callable[[Waiting], Frame]):
        """as_frame: a waiting picture as it leaves."""
        self._socket, self._outbox, self._as_frame = socket, outbox, as_frame
        self._lock = threading.Lock()
        self._open = False
        self._heard: deque[list[bytes]] = deque()

    @property
    def open(self) -> bool:
        """Whether the server takes pictures."""
        return self._open

    def begin(self, now: float) -> None:
        """The server welcomes this connection, and what it granted on another one is void. now: monotonic seconds."""
        with self._lock:
            self._outbox.forget_credit(now)
            self._open = True

    def end(self) -> None:
        """The server takes no pictures; from now on the socket is the caller's."""
        with self._lock:
            self._open = False

    def send(self) -> bool:
        """Every picture that there is credit for; False when some have to wait for more."""
        with self._lock:
            while self._open:
                waiting = self._outbox.next()
                if waiting is not None:
                    try:
                        self._socket.send_multipart(pack_frame(self._as_frame(waiting)), copy=False)
                    except zmq.Again:
                        self._outbox.unsent(waiting)
                        return False
                elif not self._outbox.waiting:
                    return True
                elif not self._read():
                    return False
            return not self._outbox.waiting

    def refused(self, now: float) -> str:
        """Why the server has turned this connection away (``NodeSocket.refused``)."""
        with self._lock:
            return self._socket.refused(now)

    def put(self, parts: Sequence[Buffer]) -> bool:
        """Something else by the same way; False when there is no room now."""
        with self._lock:
            try:
                self._socket.send_multipart(parts, copy=False)
            except zmq.Again:
                return False
            return True

    def heard(self) -> list[list[bytes]]:
        """What the server has said here and is no Grant of an open lane, as parts, in order."""
        with self._lock:
            self._read()
            heard, self._heard = list(self._heard), deque()
            return heard

    def _read(self) -> bool:
        """Take what has come; whether there was credit. From then on the socket's descriptor tells of more."""
        granted = False
        while (parts := self._socket.take()) is not None:
            if not (self._open and len(parts) == 1 and self._credit(parts[0])):
                self._heard.append(parts)
            else:
                granted = True
        return granted

    def _credit(self, data: bytes) -> bool:
        """Whether this was a Grant for one of this node's cameras."""
        try:
            message = unpack_control(data)
        except MessageError:
            return False  # whoever reads what was heard says so
        return isinstance(message, Grant) and self._outbox.grant(message.camera, message.frames, time.monotonic())
