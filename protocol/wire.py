"""The four sockets between nodes and server, made with every rule that libzmq leaves off by default.

What is said on them stands in ``protocol.messages``. A socket belongs to the thread that uses it. None of them ever
blocks in ``send``: a full or absent peer is ``zmq.Again``, an unknown one at a ROUTER ``zmq.ZMQError`` with
``zmq.EHOSTUNREACH``. Memory per peer is at most the high-water mark times the largest message.
"""

from __future__ import annotations

import errno
from collections import Counter

import zmq

from protocol.errors import HeadstreamError
from protocol.messages import LARGEST_CONTROL
from protocol.rig import Rig

_SILENCE_MS = 2000  # without an answer the peer is gone
_RECONNECT_MS = (100, 1000)
_CONTROL_QUEUE = 256  # messages


class WireError(HeadstreamError):
    """A socket that cannot be opened; the message names its address and the key of the rig file."""


def data_router(context: zmq.Context, rig: Rig) -> zmq.Socket:
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


def data_dealer(context: zmq.Context, rig: Rig, identity: str) -> zmq.Socket:
    """A node's end of the data plane, connecting by itself whenever the server is there."""
    socket = _dealer(context, rig, identity)
    credit = rig.wire.credit * len(rig.cameras_of(identity))
    socket.setsockopt(zmq.SNDHWM, credit + 8)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_QUEUE + 2 * credit)  # never full: a Grant for each credit and then some
    return _connect(socket, rig.server.host, rig.server.data_port, "server.data_port")


def control_router(context: zmq.Context, rig: Rig) -> zmq.Socket:
    """The server's end of the control plane, bound. Port 0 takes any free one (``bound_port``). Raises WireError."""
    socket = _router(context, rig)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.SNDHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * LARGEST_CONTROL)
    return _bind(socket, rig.server.host, rig.server.control_port, "server.control_port")


def control_dealer(context: zmq.Context, rig: Rig, identity: str) -> zmq.Socket:
    """A node's end of the control plane, connecting by itself whenever the server is there."""
    socket = _dealer(context, rig, identity)
    socket.setsockopt(zmq.SNDHWM, _CONTROL_QUEUE)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_QUEUE)
    return _connect(socket, rig.server.host, rig.server.control_port, "server.control_port")


def bound_port(socket: zmq.Socket) -> int:
    """The port that a bound socket has."""
    return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def _router(context: zmq.Context, rig: Rig) -> zmq.Socket:
    socket = _socket(context, zmq.ROUTER, rig.server.host)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what cannot be routed vanishes without a word
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a node that comes back takes its place from its own stale connection
    return socket


def _dealer(context: zmq.Context, rig: Rig, identity: str) -> zmq.Socket:
    socket = _socket(context, zmq.DEALER, rig.server.host)
    socket.setsockopt_string(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a server that is not there
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
    socket.setsockopt(zmq.CONNECT_TIMEOUT, _SILENCE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * LARGEST_CONTROL)
    return socket


def _socket(context: zmq.Context, kind: int, host: str) -> zmq.Socket:
    socket = context.socket(kind)
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


def _bind(socket: zmq.Socket, host: str, port: int, key: str) -> zmq.Socket:
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


def _connect(socket: zmq.Socket, host: str, port: int, key: str) -> zmq.Socket:
    address = _address(host, port)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise WireError(f"{address}: cannot connect ({error.strerror}); see {key} in the rig file") from None
    return socket
