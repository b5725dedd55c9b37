"""The messages between a capture node and the fusion server, and the order in which they are said.

Two sockets join a node to the server. Both are DEALER at the node and ROUTER at the server, both carry the node's
name as ZeroMQ identity (with keys: that of the key's owner, ``protocol.admission``), so that each message at the server
is ``[identity, *parts]``. A frame has two parts,
``[header, jpeg]`` (``pack_frame``); everything else has one (``pack_control``). That is how they are told apart.

    data     node -> server   Hello, frames             server -> node   Welcome, Refused, Grant
    control  node -> server   Hello, ClockRequest,      server -> node   Welcome, Refused, ClockReply,
                              Report, Bye                                Record

**Announcing.** The node says Hello on each socket until that same socket brings a Welcome whose ``number`` is the
``number`` of the node's latest Hello there; it repeats after 0.1 s, doubling to 2 s. The server answers *every* Hello
on the socket it came by:

- with Refused(text), when the identity is no node of the rig, differs from ``Hello.node``, or a camera is not that
  node's. The node logs the text and asks again every 5 s; it is not welcomed.
- else with Welcome(number=hello.number, server=S), where S is drawn once when the server starts (``time.time_ns``),
  and on the data socket right after it one Grant per camera in ``Hello.cameras``: as many frames as the server has room
  for now, at most ``wire.credit``. This *replaces* whatever credit was outstanding for these cameras: the node
  forgets its old credit when it accepts the Welcome and takes no Grant before it.

A Hello from a known node is a fresh start of that connection, never an error. When ``Hello.incarnation`` differs from
the one before, the process is a new one: its ``sequence`` numbers count from 0 again.

**Credit.** One frame costs one credit of its camera. The server gives one back with Grant(camera, 1) when it has taken
a frame off its hands (or has refused it). Grants add up, at the node to at most ``wire.credit``. A node without credit
keeps its newest few frames per camera and drops the oldest unsent one. Where frames wait and no Grant has come for
1 s, something was lost on the way: the node says Hello again on the data socket.

**Clock.** The server answers ClockRequest(t0) at once with ClockReply(t0, t1, t2, server=S): t1 and t2 are its
``time.time_ns`` when the request arrived and when the reply left. It answers nodes that have not said Hello, too; a
node that sees a new S knows that the server was restarted and says Hello on both sockets. So does a node that has
heard nothing on the control socket for 2 s. About 4 requests a second come from each node, 20 in its first.

**The rest.** Report comes each second. Bye (control) means that the node ends of its own will and nothing more is to
be expected. Record(on, take) tells each node that a take begins or ends; the server repeats it until ``Report.take`` of
the node equals the take (empty: not recording), and sends it after Welcome to a node that comes during a take.

Whoever sends on a ROUTER must expect ``zmq.EHOSTUNREACH`` (the node is gone) and ``zmq.EAGAIN`` (it does not read).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import msgpack
from isal.isal_zlib import crc32  # zlib's CRC-32, three times as fast; a large picture's costs more than all else here

from protocol.errors import HeadstreamError

VERSION = 1  # of the envelope: what pack_frame and pack_control make
SCHEMA = 1  # of the frame header's fields
LARGEST_SIDE = 65_535  # pixels, as a JPEG can hold
LARGEST_HEADER = 512  # bytes
LARGEST_CONTROL = 65_536  # bytes
MOST_CAMERAS = 256  # of one node
MOST_CREDIT = 1024

Buffer: TypeAlias = bytes | bytearray | memoryview

_LATEST = 2**62  # ns; a clock and an offset add up to less than 2**63
_COUNT = 2**62
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class MessageError(HeadstreamError):
    """A message that cannot be taken. ``reason`` is one word to count by.

    This module's reasons: ``version``, ``malformed``, ``oversized``, ``crc``.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What is known about one picture. Times are integer nanoseconds."""

    camera: str
    node: str
    sequence: int  # counts the pictures that this camera took since its node started
    trigger: int | None  # trigger or block counter, where there is one
    device_ns: int  # the camera's own clock at exposure
    node_ns: int  # the node's clock (time.time_ns) at exposure, as well as the node can tell
    offset_ns: int  # server clock = node_ns + offset_ns
    offset_sigma_ns: int  # one standard deviation of offset_ns
    width: int
    height: int

    @property
    def capture_ns(self) -> int:
        """Time of exposure on the server's clock, nanoseconds."""
        return self.node_ns + self.offset_ns


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture as it travels: still a JPEG."""

    header: FrameHeader
    jpeg: bytes | memoryview


def is_name(value: object) -> bool:
    """Whether this can name a node or a camera: 1 to 64 of ``A-Z a-z 0-9 _ . -``, a letter or digit first."""
    return type(value) is str and _NAME.fullmatch(value) is not None


def pack_frame(frame: Frame) -> list[bytes | memoryview]:
    """``[header, jpeg]``, ready to be sent; the JPEG is not copied.

    Raises MessageError for a header that no receiver would take.
    """
    h, jpeg = frame.header, frame.jpeg
    _check_header(h)
    if not jpeg:
        raise MessageError("malformed", f"camera {h.camera}: a frame without a picture")
    fields = (VERSION, SCHEMA, len(jpeg), crc32(jpeg), h.camera, h.node, h.sequence, h.trigger, h.device_ns)
    rest = (h.node_ns, h.offset_ns, h.offset_sigma_ns, h.width, h.height)
    return [msgpack.packb(fields + rest), jpeg]


def unpack_frame(parts: Sequence[Buffer], *, max_bytes: int = 16 << 20) -> Frame:
    """The frame that ``pack_frame`` packed; the JPEG is checked against its CRC but neither copied nor decoded.

    Raises MessageError for anything else, whatever the bytes are.
    """
    if len(parts) != 2:
        raise MessageError("malformed", f"a frame has 2 parts, this has {len(parts)}")
    head, jpeg = parts
    if len(head) > LARGEST_HEADER:
        raise MessageError("oversized", f"a frame header of {len(head)} bytes; at most {LARGEST_HEADER} are taken")
    fields = _unpack(head)
    if len(fields) < 2 or fields[0] != VERSION or fields[1] != SCHEMA:
        _wrong_version("frame", fields[:2], [VERSION, SCHEMA])
    if len(fields) != 14:
        raise MessageError("malformed", f"a frame header has 14 fields, this has {len(fields)}")
    header = FrameHeader(*fields[4:])
    _check_header(header)
    if len(jpeg) > max_bytes:
        text = f"camera {header.camera}: a picture of {len(jpeg)} bytes; at most {max_bytes} are taken"
        raise MessageError("oversized", text)
    if not len(jpeg) or fields[2] != len(jpeg):
        text = f"camera {header.camera}: a picture of {len(jpeg)} bytes where the header says {_brief(fields[2])}"
        raise MessageError("malformed", text)
    if crc32(jpeg) != fields[3]:
        raise MessageError("crc", f"camera {header.camera}: picture {header.sequence} was damaged on its way")
    return Frame(header, jpeg if isinstance(jpeg, memoryview) else bytes(jpeg))


def _check_header(h: FrameHeader) -> None:
    if not is_name(h.camera):
        raise MessageError("malformed", f"frame header: camera {_brief(h.camera)} is no name")
    if not is_name(h.node):
        raise MessageError("malformed", f"frame header: node {_brief(h.node)} is no name")
    for field, value, low, high in (
        ("sequence", h.sequence, 0, _COUNT),
        ("trigger", 0 if h.trigger is None else h.trigger, 0, _COUNT),
        ("device_ns", h.device_ns, 0, _LATEST),
        ("node_ns", h.node_ns, 0, _LATEST),
        ("offset_ns", h.offset_ns, -_LATEST, _LATEST),
        ("offset_sigma_ns", h.offset_sigma_ns, 0, _LATEST),
        ("width", h.width, 1, LARGEST_SIDE),
        ("height", h.height, 1, LARGEST_SIDE),
    ):
        if type(value) is not int or not low <= value <= high:
            text = f"camera {h.camera}: {field} is {_brief(value)}; must be a whole number from {low} to {high}"
            raise MessageError("malformed", text)


@dataclass(frozen=True, slots=True)
class Hello:
    """A node announces itself and its cameras on the socket that this comes by."""

    node: str
    cameras: tuple[str, ...]
    incarnation: int  # time.time_ns when the node's process started
    number: int  # counts the Hellos of this socket; Welcome repeats it


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's answer to the Hello of that number on the same socket."""

    number: int
    server: int  # time.time_ns when the server started


@dataclass(frozen=True, slots=True)
class Refused:
    """The server's answer to a Hello that it cannot welcome; the text is one line for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The node may send this many more frames of this camera."""

    camera: str
    frames: int


@dataclass(frozen=True, slots=True)
class ClockRequest:
    """First of the four timestamps: the node's clock when this left."""

    t0: int


@dataclass(frozen=True, slots=True)
class ClockReply:
    """The request's t0, and the server's clock when it arrived (t1) and when this left (t2)."""

    t0: int
    t1: int
    t2: int
    server: int


@dataclass(frozen=True, slots=True)
class CameraReport:
    """One camera since its node started: pictures taken, handed to the network, dropped unsent, failed attempts."""

    camera: str
    captured: int
    sent: int
    dropped: int
    errors: int
    fps: float  # captured in the last second


@dataclass(frozen=True, slots=True)
class Report:
    """How a node's cameras do; ``take`` is the take it was told to record, empty when none."""

    node: str
    take: str
    cameras: tuple[CameraReport, ...]


@dataclass(frozen=True, slots=True)
class Bye:
    """The node ends of its own will."""

    node: str


@dataclass(frozen=True, slots=True)
class Record:
    """A take begins (on) or ends; ``take`` is its name."""

    on: bool
    take: str


Control: TypeAlias = Hello | Welcome | Refused | Grant | ClockRequest | ClockReply | Report | Bye | Record


def pack_control(message: Control) -> bytes:
    """One message part. Raises MessageError for a value that no receiver would take."""
    kind, checks = _KIND_OF[type(message)]
    values = [getattr(message, name) for name in message.__slots__]
    for name, value, check in zip(message.__slots__, values, checks, strict=True):
        check(value, f"{kind}.{name}")
    return msgpack.packb([VERSION, kind, *values], default=_as_list)


def unpack_control(data: Buffer) -> Control:
    """The message that ``pack_control`` packed. Raises MessageError for anything else, whatever the bytes are."""
    if len(data) > LARGEST_CONTROL:
        text = f"a control message of {len(data)} bytes; at most {LARGEST_CONTROL} are taken"
        raise MessageError("oversized", text)
    fields = _unpack(data)
    if not fields or fields[0] != VERSION:
        _wrong_version("control", fields[:1], [VERSION])
    kind = fields[1] if len(fields) > 1 else None
    if type(kind) is not str or kind not in _KINDS:
        raise MessageError("malformed", f"control message: kind {_brief(kind)}; must be one of {', '.join(_KINDS)}")
    cls, checks = _KINDS[kind]
    if len(fields) - 2 != len(checks):
        raise MessageError("malformed", f"a {kind} has {len(checks)} fields, this has {len(fields) - 2}")
    names = cls.__slots__
    return cls(*(check(v, f"{kind}.{n}") for n, v, check in zip(names, fields[2:], checks, strict=True)))


def _unpack(data: Buffer) -> list[Any]:
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MessageError("malformed", f"not msgpack ({_brief(error)})") from None
    if type(fields) is not list:
        raise MessageError("malformed", "not a message: must be a msgpack array")
    return fields


def _wrong_version(what: str, got: list[Any], want: list[int]) -> NoReturn:
    seen, known = ".".join(map(_brief, got)) or "none", ".".join(map(str, want))
    raise MessageError("version", f"a {what} message of version {seen}; this headstream speaks version {known}")


def _brief(value: object) -> str:
    """A stranger's value, fit for a log line."""
    text = ascii(str(value)[:60]) if isinstance(value, Exception) else ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


_Check: TypeAlias = Callable[[Any, str], Any]


def _name(value: Any, where: str) -> str:
    if not is_name(value):
        raise MessageError("malformed", f"{where}: {_brief(value)} is no name")
    return value


def _whole(low: int, high: int) -> _Check:
    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            text = f"{where}: {_brief(value)}; must be a whole number from {low} to {high}"
            raise MessageError("malformed", text)
        return value

    return check


def _text(longest: int) -> _Check:
    def check(value: Any, where: str) -> str:
        if type(value) is not str or len(value) > longest or not all(c.isprintable() for c in value):
            raise MessageError("malformed", f"{where}: must be a line of at most {longest} characters")
        return value

    return check


def _flag(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise MessageError("malformed", f"{where}: {_brief(value)}; must be true or false")
    return value


def _rate(value: Any, where: str) -> float:
    if type(value) is not float or not math.isfinite(value) or not 0 <= value <= 1e6:
        raise MessageError("malformed", f"{where}: {_brief(value)}; must be a rate")
    return value


def _several(check: _Check) -> _Check:
    def check_all(values: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(values, (list, tuple)) or len(values) > MOST_CAMERAS:
            raise MessageError("malformed", f"{where}: must be a list of at most {MOST_CAMERAS}")
        return tuple(check(value, where) for value in values)

    return check_all


def _camera_report(value: Any, where: str) -> CameraReport:
    fields = _as_list(value) if isinstance(value, CameraReport) else value
    if not isinstance(fields, (list, tuple)) or len(fields) != len(_CAMERA_REPORT):
        raise MessageError("malformed", f"{where}: must be a list of {len(_CAMERA_REPORT)} fields")
    return CameraReport(*(check(field, where) for check, field in zip(_CAMERA_REPORT, fields, strict=True)))


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, CameraReport):
        raise TypeError(f"cannot pack a {type(value).__name__}")
    return [getattr(value, name) for name in value.__slots__]


_count, _ns = _whole(0, _COUNT), _whole(0, _LATEST)
_CAMERA_REPORT: tuple[_Check, ...] = (_name, _count, _count, _count, _count, _rate)
_KINDS: dict[str, tuple[type[Any], tuple[_Check, ...]]] = {
    "hello": (Hello, (_name, _several(_name), _ns, _count)),
    "welcome": (Welcome, (_count, _ns)),
    "refused": (Refused, (_text(400),)),
    "grant": (Grant, (_name, _whole(0, MOST_CREDIT))),
    "clock?": (ClockRequest, (_ns,)),
    "clock!": (ClockReply, (_ns, _ns, _ns, _ns)),
    "report": (Report, (_name, _text(200), _several(_camera_report))),
    "bye": (Bye, (_name,)),
    "record": (Record, (_flag, _text(200))),
}
_KIND_OF = {cls: (kind, checks) for kind, (cls, checks) in _KINDS.items()}
