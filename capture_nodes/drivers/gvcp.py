"""The few words of GigE Vision's control protocol that need no control of a camera: who are you, who has you, act.

The streams are a library's (``gige``, ``pylon``). Neither tells a camera's serial number without opening it, nor
whether another program has it, and these are read here
(GigE Vision 1.2, chapters 9 to 16): each question is one datagram.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from capture_nodes.drivers.base import DriverError

PORT = 3956
CONTROL_PRIVILEGE = 0x0A00  # 0: nobody's
TICK_FREQUENCY = 0x093C  # of the camera's clock, 64 bits
_IDENTITY = 0x0048  # manufacturer 32, model 32, version 32, information 48, serial 16, user's name 16
_IDENTITY_BYTES = 176
_READ_REGISTER, _READ_MEMORY, _ACTION = 0x0080, 0x0084, 0x0100
_KEY, _WANTS_ANSWER = 0x42, 0x01
_PENDING = 0x0089  # an answer that says "wait"
_TRIES = 3


class GvcpError(DriverError):
    """A camera that does not answer, or answers with an error."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a camera says of itself."""

    vendor: str
    model: str
    firmware: str
    serial: str
    user_name: str


def identify(address: str, timeout_s: float = 0.2) -> Identity:
    """Ask the camera at an IP address who it is. Raises GvcpError."""
    return parse_identity(
        _ask(address, _READ_MEMORY, struct.pack(">IHH", _IDENTITY, 0, _IDENTITY_BYTES), timeout_s)[4:]
    )


def parse_identity(data: bytes) -> Identity:
    """The bootstrap registers from the manufacturer's name on. Raises GvcpError when they are cut off."""
    if len(data) < _IDENTITY_BYTES:
        raise GvcpError(f"{len(data)} bytes of a camera's {_IDENTITY_BYTES} about itself")
    fields = [data[at : at + size] for at, size in ((0, 32), (32, 32), (64, 32), (144, 16), (160, 16))]
    texts = [field.split(b"\0")[0].decode("utf-8", "replace").strip() for field in fields]
    return Identity(*texts)


def read_register(address: str, register: int, timeout_s: float = 0.2) -> int:
    """One 32-bit register. Raises GvcpError."""
    return int.from_bytes(_ask(address, _READ_REGISTER, struct.pack(">I", register), timeout_s)[:4])


def action_command(device_key: int, group_key: int, group_mask: int, number: int) -> bytes:
    """The datagram at which every camera with these keys acts at once. No answer is asked for."""
    return _command(_ACTION, struct.pack(">III", device_key, group_key, group_mask), number, 0)


class ActionSender:
    """Sends action commands to an address, a broadcast one as a rule. Raises GvcpError."""

    def __init__(self, address: str, device_key: int, group_key: int, group_mask: int):
        self._address, self._keys, self._number = address, (device_key, group_key, group_mask), 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

    def send(self, trigger: int = 0) -> None:
        """One action, now. The command has no room for the trigger's number."""
        self._number = self._number % 0xFFFF + 1  # request id 0 is not allowed
        try:
            self._socket.sendto(action_command(*self._keys, self._number), (self._address, PORT))
        except OSError as error:
            raise GvcpError(f"action command to {self._address}: {error.strerror}") from None

    def close(self) -> None:
        """No more."""
        self._socket.close()


def _command(command: int, payload: bytes, number: int, flags: int = _WANTS_ANSWER) -> bytes:
    return struct.pack(">BBHHH", _KEY, flags, command, len(payload), number) + payload


def _ask(address: str, command: int, payload: bytes, timeout_s: float) -> bytes:
    """The answer's payload. Datagrams get lost, so the question is repeated; all tries together take ``timeout_s``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, PORT))
            for number in range(1, _TRIES + 1):
                asking.send(_command(command, payload, number))
                deadline = time.monotonic() + timeout_s / _TRIES
                while (left := deadline - time.monotonic()) > 0:
                    asking.settimeout(left)
                    try:
                        answer = asking.recv(1024)
                    except TimeoutError:
                        break
                    if len(answer) < 8:
                        continue
                    status, kind, size, _ = struct.unpack(">HHHH", answer[:8])
                    if kind == _PENDING:
                        deadline += timeout_s / _TRIES
                        continue
                    if kind != command + 1:
                        continue
                    if status:
                        raise GvcpError(f"the camera at {address} answers with error {status:#06x}")
                    return answer[8 : 8 + size]
        except OSError as error:
            raise GvcpError(f"the camera at {address} cannot be reached ({error.strerror})") from None
    raise GvcpError(f"the camera at {address} does not answer")
