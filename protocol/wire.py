"""The four sockets between nodes and server, made with every rule that libzmq leaves off by default.

What is said on them stands in ``protocol.messages``. A socket belongs to the thread that uses it. None of them ever
blocks in ``send``: a full or absent peer is ``zmq.Again``, an unknown one at a ROUTER ``zmq.ZMQError`` with
``zmq.EHOSTUNREACH``. Memory per peer is at most the high-water mark times the largest message.

With ``wire.security = "curve"`` each socket takes its key from the rig's key folder when it is made, the server's lets
in only whom its ``doorkeeper`` knows, and nodes give no identity: the name that a ROUTER shows is that of their key
(``protocol.admission``). To those who use them the sockets are the same either way.
"""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from typing import TypeVar

import zmq
from zmq.utils.monitor import recv_monitor_message

from protocol.admission import DOMAIN, Doorkeeper, NamedRouter
from protocol.errors import HeadstreamError
from protocol.keys import node_names, node_pair, public_file, server_pair, server_public
from protocol.messages import LARGEST_CONTROL
from protocol.quick_socket import QuickSocket
from protocol.rig import Rig

_SILENCE_MS = 2000  # without an answer the peer is gone
_RECONNECT_MS = (100, 1000)
_CONTROL_QUEUE = 256  # messages
_COPIED = 262_144  # bytes; below, copying a picture is cheaper than waking pyzmq's thread that gives its memory back
_KNOCK_S = 5.0  # between two tries at a server that turned the node away
_REFUSALS: dict[int, str] = {  # what ended a handshake, as the node can tell it
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the server does not know this node's key; copy {public} to keys/nodes on "
    "the server and start the server again",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the server speaks another wire.security; node and server need the same "
    "rig file",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the server hangs up: it has another key than the one in {server}, or "
    "another wire.security",
}


_FAILED = sum(_REFUSALS)
_Made = TypeVar("_Made", bound=QuickSocket)


class WireError(HeadstreamError):
    """A socket that cannot be opened; the message names its address and the key of the rig file."""


def data_router(context: zmq.Context, rig: Rig) -> QuickSocket:
    """The server's end of the data plane, bound. Port 0 takes any free one (``bound_port``). Raises WireError.

    A message part of more than twice ``wire.max_frame_mb`` ends its sender's connection inside libzmq; between once and
    twice it arrives, to be refused and counted.
    """
    most = max(Counter(camera.node for camera in rig.cameras).values())
    socket = _router(context, rig)
    socket.setsockopt(zmq.RCVHWM, rig.wire.credit * most + 8)
    socket.setsockopt(zmq.SNDHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * rig.wire.max_frame_bytes)
    return _bind(socket, rig.server.host, rig.server.data_port, "server.data_port")


def data_dealer(context: zmq.Context, rig: Rig, identity: str) -> NodeSocket:
    """A node's end of the data plane, connecting by itself whenever the server is there."""
    socket = _dealer(context, rig, identity)
    socket.copy_threshold = _COPIED
    credit = rig.wire.credit * len(rig.cameras_of(identity))
    socket.setsockopt(zmq.SNDHWM, credit + 8)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_QUEUE + 2 * credit)  # never full: a Grant for each credit and then some
    return _connect(socket, rig.server.host, rig.server.data_port, "server.data_port")


def control_router(context: zmq.Context, rig: Rig) -> QuickSocket:
    """The server's end of the control plane, bound. Port 0 takes any free one (``bound_port``). Raises WireError."""
    socket = _router(context, rig)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.SNDHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * LARGEST_CONTROL)
    return _bind(socket, rig.server.host, rig.server.control_port, "server.control_port")


def control_dealer(context: zmq.Context, rig: Rig, identity: str) -> NodeSocket:
    """A node's end of the control plane, connecting by itself whenever the server is there."""
    socket = _dealer(context, rig, identity)
    socket.setsockopt(zmq.SNDHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_QUEUE)
    return _connect(socket, rig.server.host, rig.server.control_port, "server.control_port")


def bound_port(socket: zmq.Socket) -> int:
    """The port that a bound socket has."""
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def doorkeeper(context: zmq.Context, rig: Rig) -> Doorkeeper | None:
    """Who lets nodes in at every ROUTER of this context; None for a plain rig. Close it before the context.

    Without it nobody gets in at a ROUTER with keys. Raises KeysError when a node's public key is missing.
    """
    if rig.wire.security == "plain":
        return None
    return Doorkeeper(context, node_names(rig.wire.keys, rig.nodes))


class NodeSocket(QuickSocket):
    """A node's DEALER, which notices that it was turned away and knocks again later; libzmq alone never would."""

    _address = ""
    _keys: dict[str, str] | None = None
    _monitor: zmq.Socket | None = None  # of handshakes that failed
    _knock_at: float | None = None

    def refused(self, now: float) -> str:
        """Why the server has turned this node away since the last call; empty when it has not.

        now: seconds of any clock that does not jump. To be called about once a second or more often.
        """
        why = ""
        monitor = self._monitor
        if self._keys is None or monitor is None:
            return why
        while monitor.poll(0):
            event = recv_monitor_message(monitor)
            text = _REFUSALS.get(event["event"])
            if text is not None:
                why = text.format(**self._keys)
            if event["event"] in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                self._knock_at = now + _KNOCK_S
        if self._knock_at is not None and now >= self._knock_at:
            self._knock_at = None
            with contextlib.suppress(zmq.ZMQError):  # libzmq may have forgotten it already
                self.disconnect(self._address)
            self.connect(self._address)
        return why

    def close(self, linger: int | None = None) -> None:
        """Close this and its monitor, which would keep the context from ending."""
        if not self.closed and self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            self.disable_monitor()
            monitor.close(0)
        super().close(linger)


def _router(context: zmq.Context, rig: Rig) -> QuickSocket:
    if rig.wire.security == "plain":
        socket: QuickSocket = _socket(context, zmq.ROUTER, rig.server.host, QuickSocket)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a node that comes back takes its place from its stale connection
    else:
        pair = server_pair(rig.wire.keys)
        socket = _socket(context, zmq.ROUTER, rig.server.host, NamedRouter)  # and no handover: see protocol.admission
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # no doorkeeper, no entry
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what cannot be routed vanishes without a word
    return socket


def _dealer(context: zmq.Context, rig: Rig, identity: str) -> NodeSocket:
    if rig.wire.security == "plain":
        socket = _socket(context, zmq.DEALER, rig.server.host, NodeSocket)
        socket.setsockopt_string(zmq.IDENTITY, identity)
    else:
        folder = rig.wire.keys
        pair, server = node_pair(folder, identity), server_public(folder)
        socket = _socket(context, zmq.DEALER, rig.server.host, NodeSocket)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)
        socket._keys = {"public": str(public_file(folder, identity)), "server": str(public_file(folder, None))}
        socket._monitor = socket.get_monitor_socket(_FAILED)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a server that is not there
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
    socket.setsockopt(zmq.CONNECT_TIMEOUT, _SILENCE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * LARGEST_CONTROL)
    return socket


def _socket(context: zmq.Context, kind: int, host: str, made: type[_Made]) -> _Made:
    socket: _Made = context.socket(kind, socket_class=made)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDTIMEO, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _SILENCE_MS)
    # The kernel finds out that the peer is gone, at both ends, and libzmq's own heartbeats stay off: libzmq (4.3.5 at
    # least) aborts the whole process, "Assertion failed: !_io_error (src/stream_engine_base.cpp)", when it sends or
    # answers a heartbeat on a connection that broke while its queue was full or taken over. A cable that was out for
    # some seconds did that to a busy server.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 1)  # seconds, where nothing is sent
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)
    socket.setsockopt(zmq.TCP_MAXRT, _SILENCE_MS)  # where something is sent, and not acknowledged
    if ":" in host:
        socket.setsockopt(zmq.IPV6, 1)
    return socket


def _address(host: str, port: int | str) -> str:
    host = "127.0.0.1" if host == "localhost" else host  # libzmq binds to no names, and nodes must go where it bound
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _bind(socket: QuickSocket, host: str, port: int, key: str) -> QuickSocket:
    address = _address(host, port or "*")
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == errno.EADDRINUSE:
            text = f"the port is in use; end the program that has it or give another {key} in the rig file"
        elif error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.EINVAL):
            text = "no address of this machine; server.host in the rig file must be one of the server's"
        else:
            text = f"cannot listen there ({error.strerror}); see {key} in the rig file"
        raise WireError(f"{address}: {text}") from None
    return socket


def _connect(socket: NodeSocket, host: str, port: int, key: str) -> NodeSocket:
    socket._address = address = _address(host, port)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise WireError(f"{address}: cannot connect ({error.strerror}); see {key} in the rig file") from None
    return socket
