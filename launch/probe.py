"""What a camera PC measures together with the server: its clock, and how much and how large the network carries.

The server listens (``Sink``) where its data port would be, or on any free port; a PC sends (``send``) for a second over
TCP and asks over UDP how large a packet arrives whole. Whoever does not know the token of this one measurement is not
listened to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import socket
import sys
import time
from dataclasses import dataclass

from launch.doctor_node import interface_to
from protocol.errors import HeadstreamError

_TOKEN_BYTES = 16
_BLOCK = bytes(1 << 18)
_HEADERS = 28  # bytes of an IPv4 and a UDP header
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_TRIES, _ANSWER_S = 3, 0.4
_LONGEST_S = 30.0  # of one transfer
_ORDINARY_MTU, _LARGEST_PACKET = 1500, 65_535


class ProbeError(HeadstreamError):
    """A measurement that cannot be made; the message says why."""


@dataclass(frozen=True)
class Carried:
    """What came of a transfer. path_mtu: the largest packet that arrived whole, bytes; None: none did, or not asked."""

    received: int  # bytes, as the server counted them
    seconds: float
    interface: str
    mtu: int
    path_mtu: int | None

    @property
    def megabits(self) -> float:
        """Mbit/s."""
        return self.received * 8e-6 / self.seconds if self.seconds else 0.0


class Sink(asyncio.DatagramProtocol):
    """The server's end. ``async with Sink(host, port)``; ``port`` is then the one it has. Raises ProbeError."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.token = secrets.token_hex(_TOKEN_BYTES)
        self._datagrams: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Sink:
        try:
            try:
                self._server = await asyncio.start_server(self._take, self.host, self.port)
            except OSError:  # the server runs: another port tells as much, unless a firewall is in between
                self._server = await asyncio.start_server(self._take, self.host, 0)
            self.port = self._server.sockets[0].getsockname()[1]
            loop = asyncio.get_running_loop()
            self._datagrams, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self.host, self.port))
        except OSError as error:
            raise ProbeError(f"cannot listen at {self.host}: {error.strerror}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._datagrams:
            self._datagrams.close()
        self._server.close()

    def datagram_received(self, data: bytes, who: tuple[str, int]) -> None:
        """Say how large it was."""
        if self._datagrams and hmac.compare_digest(data[: 2 * _TOKEN_BYTES], self.token.encode()):
            self._datagrams.sendto(len(data).to_bytes(4), who)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LONGEST_S):
                if not hmac.compare_digest(await reader.readexactly(2 * _TOKEN_BYTES), self.token.encode()):
                    return
                began, received = time.monotonic(), 0
                while data := await reader.read(1 << 18):
                    received += len(data)
                writer.write(f"{received} {time.monotonic() - began}\n".encode())
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def send(host: str, port: int, token: str, seconds: float) -> Carried:
    """A PC's end: send for so long, then ask for the largest packet. Raises ProbeError."""
    towards = interface_to(host)
    if towards is None:
        raise ProbeError(f"no way to {host}; see the cable and the address")
    try:
        with socket.create_connection((host, port), 5.0) as line:
            line.sendall(token.encode())
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                line.sendall(_BLOCK)
            line.shutdown(socket.SHUT_WR)
            line.settimeout(_LONGEST_S)
            answer = b""
            while not answer.endswith(b"\n"):
                data = line.recv(256)
                if not data:
                    raise ProbeError(f"{host}:{port} did not say what arrived")
                answer += data
    except OSError as error:
        raise ProbeError(f"{host}:{port}: {error.strerror or error}; is a firewall in between?") from None
    received, took = answer.split()
    whole = min(towards[1], _LARGEST_PACKET)
    sizes = [whole, _ORDINARY_MTU] if whole > _ORDINARY_MTU else [whole]
    path_mtu = next((size for size in sizes if _arrives(host, port, token, size)), None)
    return Carried(int(received), float(took), towards[0], whole, path_mtu)


def _arrives(host: str, port: int, token: str, size: int) -> bool:
    """Whether a packet of so many bytes arrives in one piece; it must not be cut in pieces on the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        asker.settimeout(_ANSWER_S)
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                asker.connect((host, port))
                asker.send(token.encode().ljust(size - _HEADERS, b"\0"))
                if int.from_bytes(asker.recv(4)) == size - _HEADERS:
                    return True
    return False


def tell_the_time() -> None:
    """For each line of standard input one of output: this machine's clock, nanoseconds since 1970."""
    for _ in sys.stdin:
        print(time.time_ns(), flush=True)
