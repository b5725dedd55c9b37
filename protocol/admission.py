"""Who gets in at the server, and under which name: the other half of CURVE (``protocol.wire`` has the first).

CURVE proves that a peer has the secret of a public key. The ``Doorkeeper`` says whose key that is, over libzmq's own
protocol for it (ZAP, RFC 27): a key of the rig is let in under its node's name, which libzmq then attaches to every
message of that connection (``User-Id``), and any other is turned away before a byte of it is read.

What a peer *calls* itself counts for nothing. libzmq does not show a peer's chosen identity to the doorkeeper, so a
ROUTER that went by identities could only notice a stolen one after it had taken the place of the real node. Therefore
nodes with keys choose none: the ROUTER numbers its connections, and ``Places`` keeps which of them is the newest of
each name. Nobody without its key gets at a name, and a node that comes back takes its own place at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from zmq.utils import z85

from protocol.quick_socket import QuickSocket

DOMAIN = b"headstream"
_ENDPOINT = "inproc://zeromq.zap.01"  # libzmq's name for it, one a context
_MOST_UNREAD = 64  # refusals that are kept for whoever logs them; the rest is only counted
_MOST_FORMER = 16  # of one name
SILENCE_S = 5.0  # nodes speak several times a second on either socket while they have pictures


def answer(request: Sequence[bytes], names: Mapping[bytes, str]) -> tuple[list[bytes], str]:
    """The reply to a ZAP request, and why it is a refusal (empty: it is none).

    names: public keys, 40 bytes of Z85, with the name that each is let in under.
    """
    version, number, domain, address, _own_identity, mechanism, *credentials = request  # libzmq sends six at least
    peer = ascii(address.decode("ascii", "replace"))[1:-1]
    if version != b"1.0" or domain != DOMAIN:
        why = f"{peer}: a request for admission that is not ours"
    elif mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != 32:
        why = f"{peer}: came without a key"
    elif (name := names.get(key := z85.encode(credentials[0]))) is None:
        why = f"{peer}: its key {key.decode()} is no node's of this rig"
    else:
        return [b"1.0", number, b"200", b"OK", name.encode(), b""], ""
    return [b"1.0", number, b"400", b"not of this rig", b"", b""], why


class Doorkeeper:
    """Answers for every socket of a context, in a thread of its own. Make it before the first socket binds.

    Without it nobody gets in: the sockets insist on an answer.
    """

    def __init__(self, context: zmq.Context, names: Mapping[bytes, str]):
        self._names = dict(names)
        self._refusals: deque[str] = deque(maxlen=_MOST_UNREAD)
        self._count = self._taken = 0
        self._lock = threading.Lock()
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ENDPOINT)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="doorkeeper", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def refusals(self) -> tuple[list[str], int]:
        """Why peers were turned away since the last call, the newest at most, and how many more there were."""
        with self._lock:
            texts = list(self._refusals)
            self._refusals.clear()
            more = self._count - self._taken - len(texts)
            self._taken = self._count
        return texts, more

    def close(self) -> None:
        """End the thread; from now on nobody gets in. May be called twice."""
        if self._wake.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._wake.send(b"\0")
            self._thread.join()
            self._wake.close()
            self._woken.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                if self._woken.fileno() in ready:
                    return
                reply, why = answer(self._socket.recv_multipart(), self._names)
                if why:
                    with self._lock:
                        self._refusals.append(why)
                        self._count += 1
                self._socket.send_multipart(reply)
        finally:
            self._socket.close()


class Places:
    """Which connection speaks for each name: the newest of those let in under it, as long as it speaks at all.

    Knows no socket and no clock: times are handed in, seconds.
    """

    def __init__(self) -> None:
        self._now: dict[bytes, bytes] = {}  # name: connection
        self._heard_s: dict[bytes, float] = {}  # when the connection that has the name last spoke
        self._former: dict[bytes, deque[bytes]] = {}

    def heard(self, name: bytes, connection: bytes, now_s: float) -> bool:
        """A message came by this connection; False when a newer one has taken its place.

        One that was never heard of takes the place; a former one takes it back when the newer has been silent for
        ``SILENCE_S``: whoever came between is gone. (Numbers are not compared: libzmq's begin anywhere and wrap.)
        """
        now = self._now.get(name)
        if now != connection:
            former = self._former.setdefault(name, deque(maxlen=_MOST_FORMER))
            if connection in former:
                if now_s - self._heard_s.get(name, now_s) < SILENCE_S:
                    return False
                former.remove(connection)
            if now is not None:
                former.append(now)
            self._now[name] = connection
        self._heard_s[name] = now_s
        return True

    def heard_former(self, name: bytes, connection: bytes) -> None:
        """Keep where an answer to this name goes, which is no node's."""
        self._now[name] = connection

    def of(self, name: bytes) -> bytes | None:
        """The connection that speaks for a name."""
        return self._now.get(name)


_FORMER = b"formerly "  # no node's name can begin so


def former_name(name: bytes) -> str:
    """The node whose place this connection had; empty for one that has its place still (``NamedRouter``)."""
    return name.removeprefix(_FORMER).decode("ascii", "replace") if name.startswith(_FORMER) else ""


class NamedRouter(QuickSocket):
    """A ROUTER whose peers go by the name that the doorkeeper gave them, in both directions.

    Used like any ROUTER of peers with identities, by ``recv_multipart`` and ``send_multipart``. A message of a
    connection whose place a newer one has taken comes under a name of which ``former_name`` knows the node; what is
    sent to that name goes back to that connection.
    """

    _places: Places | None = None

    def recv_multipart(self, flags: int = 0, copy: bool = True, track: bool = False) -> list[Any]:
        """``[name, *parts]``, as ``zmq.Socket`` does it."""
        parts = super().recv_multipart(flags, copy=False, track=track)
        connection = parts[0].bytes
        name = str(parts[0].get("User-Id")).encode()  # the doorkeeper's; without its word there is no message
        if not self._map.heard(name, connection, time.monotonic()):
            name = _FORMER + name
            self._map.heard_former(name, connection)
        return [name if copy else zmq.Frame(name), *(part.bytes if copy else part for part in parts[1:])]

    def send_multipart(
        self, msg_parts: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False, **kwargs: Any
    ) -> zmq.MessageTracker | None:
        """To the connection that speaks for the name in the first part. Raises ZMQError EHOSTUNREACH for none."""
        connection = self._map.of(bytes(msg_parts[0]))
        if connection is None:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        return super().send_multipart([connection, *msg_parts[1:]], flags, copy, track, **kwargs)

    @property
    def _map(self) -> Places:
        if self._places is None:
            self._places = Places()
        return self._places
