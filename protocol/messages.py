"""The messages between a capture node and the fusion server, and the order in which they are said.

Two sockets join a node to the server. Both are DEALER at the node and ROUTER at the server, both carry the node's
name as ZeroMQ identity (with keys: that of the key's owner, ``protocol.admission``), so that each message at the
server is ``[identity, *parts]``. A live frame has two parts, ``[header, jpeg]`` (``pack_frame``), a frame out of a
node's spool three, ``[header, jpeg, Spooled]``; everything else has one (``pack_control``). That is how they are told
apart.

    data     node -> server   Hello, frames, Fetched    server -> node   Welcome, Refused, Grant
    control  node -> server   Hello, ClockRequest,      server -> node   Welcome, Refused, ClockReply, Record,
                              Report, Holdings, Bye                      Inventory, Fetch, Release

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

**Credit.** One frame costs one credit of its camera. The server gives it back when it has taken the frame off the
node's hands (or has refused it), with a Grant for up to half of ``wire.credit`` frames at once. Grants add up, at the
node to at most ``wire.credit``. A node without credit
keeps its newest few frames per camera and drops the oldest unsent one. Where frames wait and no Grant has come for
1 s, something was lost on the way: the node says Hello again on the data socket.

**Clock.** The server answers ClockRequest(t0) at once with ClockReply(t0, t1, t2, server=S): t1 and t2 are its
``time.time_ns`` when the request arrived and when the reply left. It answers nodes that have not said Hello, too; a
node that sees a new S knows that the server was restarted and says Hello on both sockets. So does a node that has
heard nothing on the control socket for 2 s. About 4 requests a second come from each node, 20 in its first.

**Recording.** Record(on, take, at_ns) tells each node that a take begins or ends, and at which moment of the server's
clock; the server repeats it until ``Report.take`` of the node equals the take (empty: not recording), and sends it
after Welcome to a node that comes during a take. While it records a node keeps every picture in its spool, from the
take's beginning (out of its pre-roll, where it heard of it late) to its end, and goes on without a server until told
otherwise.

**Backfill.** No credit is involved; the server asks and the node answers, live frames first.

- Inventory(number, take, start_ns, end_ns): the node answers with ``parts`` Holdings of that number: by camera and
  incarnation the spans of sequences that it holds of that time and those it knows to be lost, with the reason. With
  ``closed`` false it still writes the take, says nothing, and is to be asked again.
- Fetch(number, take, camera, incarnation, spans): the node sends frames of these sequences, each marked with
  Spooled(number), in any order, until it has sent all or ``most_bytes`` of pictures (at least one), then Fetched with
  the same number and whatever turned out to be lost. A later Inventory or Fetch takes the place of one under way.
  Fetched comes by the data socket, so that no frame comes after it. A server that hears nothing asks again.
- Release(take): everything that the node holds of the take is safe at the server; the node may delete it.

**The rest.** Report comes each second. Bye (control) means that the node ends of its own will and nothing more is to
be expected.

Whoever sends on a ROUTER must expect ``zmq.EHOSTUNREACH`` (the node is gone) and ``zmq.EAGAIN`` (it does not read).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import msgpack
from isal.isal_zlib import crc32  # zlib's CRC-32, three times as fast; a large picture's costs more than all else here

from protocol.fields import (
    COUNT,
    LATEST,
    Check,
    MessageError,
    as_list,
    brief,
    count,
    drift,
    flag,
    is_name,
    line,
    losses,
    named,
    nanoseconds,
    nested,
    rate,
    separate_spans,
    several,
    take_name,
    take_or_none,
    whole,
)
from protocol.spans import Spans

VERSION = 1  # of the envelope: what pack_frame and pack_control make
SCHEMA = 2  # of the frame header's fields; 1, without the incarnation, stands in older takes
LARGEST_SIDE = 65_535  # pixels, as a JPEG can hold
LARGEST_HEADER = 512  # bytes
LARGEST_CONTROL = 65_536  # bytes
SCHEMAS_OF_FILES = (1, SCHEMA)
MOST_CREDIT = 1024
MOST_PARTS = 1000  # of one inventory

Buffer: TypeAlias = bytes | bytearray | memoryview

_HEADER_NUMBERS = (  # of a frame header: the least and the most
    ("sequence", 0, COUNT),
    ("trigger", 0, COUNT),
    ("device_ns", 0, LATEST),
    ("node_ns", 0, LATEST),
    ("offset_ns", -LATEST, LATEST),
    ("offset_sigma_ns", 0, LATEST),
    ("width", 1, LARGEST_SIDE),
    ("height", 1, LARGEST_SIDE),
    ("incarnation", 0, LATEST),
)


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
    incarnation: int = 0  # of the node's process, as in Hello; with camera and sequence it names the picture

    @property
    def capture_ns(self) -> int:
        """Time of exposure on the server's clock, nanoseconds."""
        return self.node_ns + self.offset_ns


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture as it travels: still a JPEG."""

    header: FrameHeader
    jpeg: bytes | memoryview
    crc: int | None = field(default=None, compare=False)  # CRC-32 of the JPEG, where it was checked on the way


def pack_frame(frame: Frame) -> list[bytes | memoryview]:
    """``[header, jpeg]``, ready to be sent; the JPEG is not copied.

    Raises MessageError for a header that no receiver would take.
    """
    h, jpeg = frame.header, frame.jpeg
    _check_header(h)
    if not jpeg:
        raise MessageError("malformed", f"camera {h.camera}: a frame without a picture")
    fields = (VERSION, SCHEMA, len(jpeg), crc32(jpeg), h.camera, h.node, h.sequence, h.trigger, h.device_ns)
    rest = (h.node_ns, h.offset_ns, h.offset_sigma_ns, h.width, h.height, h.incarnation)
    return [msgpack.packb(fields + rest), jpeg]


def unpack_frame(parts: Sequence[Buffer], *, max_bytes: int = 16 << 20, of_file: bool = False) -> Frame:
    """The frame that ``pack_frame`` packed; the JPEG is checked against its CRC but neither copied nor decoded.

    of_file: take older schemas, too, as files keep them. Raises MessageError for anything else, whatever the bytes are.
    """
    if len(parts) != 2:
        raise MessageError("malformed", f"a frame has 2 parts, this has {len(parts)}")
    head, jpeg = parts
    header, fields = _header(head, SCHEMAS_OF_FILES if of_file else (SCHEMA,))
    if len(jpeg) > max_bytes:
        text = f"camera {header.camera}: a picture of {len(jpeg)} bytes; at most {max_bytes} are taken"
        raise MessageError("oversized", text)
    if not len(jpeg) or fields[2] != len(jpeg):
        text = f"camera {header.camera}: a picture of {len(jpeg)} bytes where the header says {brief(fields[2])}"
        raise MessageError("malformed", text)
    if crc32(jpeg) != fields[3]:
        raise MessageError("crc", f"camera {header.camera}: picture {header.sequence} was damaged on its way")
    return Frame(header, jpeg if isinstance(jpeg, memoryview) else bytes(jpeg), fields[3])


def unpack_header(head: Buffer) -> FrameHeader:
    """The header alone, of this schema or of an older file's. Raises MessageError."""
    return _header(head, SCHEMAS_OF_FILES)[0]


def _header(head: Buffer, schemas: tuple[int, ...]) -> tuple[FrameHeader, list[Any]]:
    """The header and the fields that it was made of: version, schema, bytes and CRC of the JPEG, then its own."""
    if len(head) > LARGEST_HEADER:
        raise MessageError("oversized", f"a frame header of {len(head)} bytes; at most {LARGEST_HEADER} are taken")
    fields = _unpack(head)
    if len(fields) < 2 or fields[0] != VERSION or fields[1] not in schemas:
        _wrong_version("frame", fields[:2], [VERSION, SCHEMA])
    due = 13 + fields[1]  # schema 1 has 14
    if len(fields) != due:
        raise MessageError("malformed", f"a frame header has {due} fields, this has {len(fields)}")
    header = FrameHeader(*fields[4:])
    _check_header(header)
    return header, fields


def _check_header(h: FrameHeader) -> None:
    if not is_name(h.camera):
        raise MessageError("malformed", f"frame header: camera {brief(h.camera)} is no name")
    if not is_name(h.node):
        raise MessageError("malformed", f"frame header: node {brief(h.node)} is no name")
    trigger = 0 if h.trigger is None else h.trigger
    times = (h.device_ns, h.node_ns, h.offset_ns, h.offset_sigma_ns)
    values = (h.sequence, trigger, *times, h.width, h.height, h.incarnation)
    for value, (name, low, high) in zip(values, _HEADER_NUMBERS, strict=True):
        if type(value) is not int or not low <= value <= high:
            text = f"camera {h.camera}: {name} is {brief(value)}; must be a whole number from {low} to {high}"
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
class ClockReport:
    """What a node knows of its clock (``protocol.clock.ClockState``), so that the server knows it without frames."""

    offset_ns: int  # server clock minus node clock
    sigma_ns: int  # one standard deviation of it; 10**15 before the first exchange
    drift_ppm: float  # how much faster the server's clock runs
    rtt_ns: int  # least of the last exchanges; 0 before the first
    jumps: int  # times that one of the two clocks was set, since the node started


@dataclass(frozen=True, slots=True)
class SpoolReport:
    """A node's spool: frames kept and lost since it started, bytes that wait for the disk and that it has free.

    ``fault`` is one line while pictures are not kept, and while room for the next take is short; else empty.
    """

    kept: int = 0
    lost: int = 0
    waiting_bytes: int = 0
    free_bytes: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """How a node's cameras and its clock do; ``take`` is the take it was told to record, empty when none."""

    node: str
    take: str
    cameras: tuple[CameraReport, ...]
    clock: ClockReport
    spool: SpoolReport = SpoolReport()


@dataclass(frozen=True, slots=True)
class Bye:
    """The node ends of its own will."""

    node: str


@dataclass(frozen=True, slots=True)
class Record:
    """A take begins (on) or ends; ``take`` is its name, ``at_ns`` the moment on the server's clock.

    An end at 0 is now: the server does not know when the take ended, as it was restarted.
    """

    on: bool
    take: str
    at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """What does the node hold of a take, of pictures exposed from start_ns to end_ns (server clock)?"""

    number: int
    take: str
    start_ns: int
    end_ns: int


Lost: TypeAlias = tuple[int, int, str]  # first and last sequence, and why


@dataclass(frozen=True, slots=True)
class Holding:
    """Of one camera and one process of its node: sequences held, and sequences known to be lost."""

    camera: str
    incarnation: int
    held: Spans
    lost: tuple[Lost, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """The answer to the Inventory of that number: part ``part`` of ``parts``, each with some of the holdings.

    A camera's holding that is too long for a part goes on in the next one.
    """

    number: int
    take: str
    part: int
    parts: int
    closed: bool
    holdings: tuple[Holding, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """The server wants these pictures out of the node's spool."""

    number: int
    take: str
    camera: str
    incarnation: int
    spans: Spans
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Spooled:
    """Third part of a frame that answers the Fetch of that number."""

    number: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """All that the Fetch of that number brings was sent: so many frames; ``lost`` could not be read."""

    number: int
    sent: int
    lost: tuple[Lost, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """All that the node holds of the take is safe at the server."""

    take: str


Control: TypeAlias = (
    Hello
    | Welcome
    | Refused
    | Grant
    | ClockRequest
    | ClockReply
    | Report
    | Bye
    | Record
    | Inventory
    | Holdings
    | Fetch
    | Spooled
    | Fetched
    | Release
)


def pack_control(message: Control) -> bytes:
    """One message part. Raises MessageError for a value that no receiver would take."""
    kind, checks = _KIND_OF[type(message)]
    values = [getattr(message, name) for name in message.__slots__]
    for name, value, check in zip(message.__slots__, values, checks, strict=True):
        check(value, f"{kind}.{name}")
    return msgpack.packb([VERSION, kind, *values], default=as_list)


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
        raise MessageError("malformed", f"control message: kind {brief(kind)}; must be one of {', '.join(_KINDS)}")
    cls, checks = _KINDS[kind]
    if len(fields) - 2 != len(checks):
        raise MessageError("malformed", f"a {kind} has {len(checks)} fields, this has {len(fields) - 2}")
    names = cls.__slots__
    return cls(*(check(v, f"{kind}.{n}") for n, v, check in zip(names, fields[2:], checks, strict=True)))


def _unpack(data: Buffer) -> list[Any]:
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MessageError("malformed", f"not msgpack ({brief(error)})") from None
    if type(fields) is not list:
        raise MessageError("malformed", "not a message: must be a msgpack array")
    return fields


def _wrong_version(what: str, got: list[Any], want: list[int]) -> NoReturn:
    seen, known = ".".join(map(brief, got)) or "none", ".".join(map(str, want))
    raise MessageError("version", f"a {what} message of version {seen}; this headstream speaks version {known}")


_camera_report = nested(CameraReport, (named, count, count, count, count, rate))
_clock_report = nested(ClockReport, (whole(-LATEST, LATEST), nanoseconds, drift, nanoseconds, count))
_spool_report = nested(SpoolReport, (count, count, count, count, line(200)))
_holding = nested(Holding, (named, nanoseconds, separate_spans, losses))
_KINDS: dict[str, tuple[type[Any], tuple[Check, ...]]] = {
    "hello": (Hello, (named, several(named), nanoseconds, count)),
    "welcome": (Welcome, (count, nanoseconds)),
    "refused": (Refused, (line(400),)),
    "grant": (Grant, (named, whole(0, MOST_CREDIT))),
    "clock?": (ClockRequest, (nanoseconds,)),
    "clock!": (ClockReply, (nanoseconds, nanoseconds, nanoseconds, nanoseconds)),
    "report": (Report, (named, take_or_none, several(_camera_report), _clock_report, _spool_report)),
    "bye": (Bye, (named,)),
    "record": (Record, (flag, take_name, nanoseconds)),
    "inventory": (Inventory, (count, take_name, nanoseconds, nanoseconds)),
    "holdings": (
        Holdings,
        (count, take_name, whole(0, MOST_PARTS - 1), whole(1, MOST_PARTS), flag, several(_holding)),
    ),
    "fetch": (Fetch, (count, take_name, named, nanoseconds, separate_spans, whole(1, COUNT))),
    "spooled": (Spooled, (count,)),
    "fetched": (Fetched, (count, count, losses)),
    "release": (Release, (take_name,)),
}
_KIND_OF = {cls: (kind, checks) for kind, (cls, checks) in _KINDS.items()}
