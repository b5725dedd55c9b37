"""One camera's pictures of one take on a node's disk: a file that is only ever appended to.

    <spool>/<take>/<camera>-<incarnation>.spool

It starts with ``MAGIC``. Records follow, each ``marker, kind, bytes of head, bytes of body, CRC-32 of kind, sizes and
head``, then head and body. A FRAME is a frame record (``protocol.frame_record``): the header is its head, the JPEG,
which has a CRC in the header, its body. LOST is a msgpack list [first sequence, last sequence, reason], END a list
[reason]. A writer killed at any byte loses the record in hand; a reader that meets damage finds the next marker and
goes on.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgpack

from protocol.errors import HeadstreamError
from protocol.frame_record import HEAD, unpack_frame_record
from protocol.messages import Frame, Lost, MessageError, pack_frame, unpack_header
from protocol.spans import Spans, join, of_numbers, without

MAGIC = b"headstream spool 1\n"
SUFFIX = ".spool"
FRAME, LOST, END = 1, 2, 3
_MARKER = b"\xf5\xb1SP"
_RECORD = struct.Struct("<4sBHII")  # marker, kind, bytes of head, bytes of body, CRC
_CHECKED = struct.Struct("<BHI")
_FILE_NAME = re.compile(r"(.+)-([0-9]{1,19})\.spool")
_SCAN_BYTES = 1 << 20


class SpoolError(HeadstreamError):
    """A spool that cannot be used; the message names the path."""


def file_name(camera: str, incarnation: int) -> str:
    """What a camera's file of one process of its node is called."""
    return f"{camera}-{incarnation}{SUFFIX}"


def parse_file_name(name: str) -> tuple[str, int] | None:
    """Camera and incarnation; None for any other file."""
    found = _FILE_NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def pack_record(kind: int, head: bytes, body: bytes | memoryview = b"") -> bytes:
    """One record as it stands in the file."""
    check = zlib.crc32(head, zlib.crc32(_CHECKED.pack(kind, len(head), len(body))))
    return b"".join((_RECORD.pack(_MARKER, kind, len(head), len(body), check), head, body))


class SpoolWriter:
    """Appends to a file, a new one or one that this process began; a record is one write. OSError is the caller's.

    After a write that failed half way the file is cut back to its last whole record, so that writing can go on later.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.size = os.fstat(self._file).st_size
        if not self.size:
            try:
                self._append(MAGIC)
            except OSError:
                os.close(self._file)
                raise

    def frame(self, frame: Frame) -> None:
        """One picture."""
        head, jpeg = pack_frame(frame)
        self._append(pack_record(FRAME, HEAD.pack(len(head)) + bytes(head), jpeg))

    def lost(self, first: int, last: int, reason: str) -> None:
        """Pictures of these sequences are not in the file and will not come."""
        self._append(pack_record(LOST, msgpack.packb([first, last, reason])))

    def end(self, reason: str) -> None:
        """Nothing follows."""
        self._append(pack_record(END, msgpack.packb([reason])))

    def close(self) -> None:
        """Everything is on the disk itself when this returns. May raise OSError; the file is closed all the same."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a picture lies, and what its header says of its time."""

    sequence: int
    offset: int  # of the frame record
    length: int
    node_ns: int
    offset_ns: int  # server clock = node_ns + offset_ns
    sigma_ns: int

    @property
    def capture_ns(self) -> int:
        """Exposure on the server's clock."""
        return self.node_ns + self.offset_ns


@dataclass
class Index:
    """What a file holds. ``lost``: as the file says, and sequences that its damaged parts must have held."""

    entries: list[Entry] = field(default_factory=list)  # ascending sequences
    lost: list[Lost] = field(default_factory=list)
    ended: bool = False
    damaged_at: list[int] = field(default_factory=list)  # bytes
    cut_bytes: int = 0  # behind the last whole record

    def held(self) -> Spans:
        """Every sequence whose picture is there."""
        return of_numbers(entry.sequence for entry in self.entries)


def read_index(file: BinaryIO, size: int) -> Index:
    """Walk a file from record to record without reading pictures. Raises SpoolError when it is none."""
    index = Index()
    file.seek(0)
    magic = file.read(len(MAGIC))
    if magic != MAGIC[: len(magic)]:
        raise SpoolError("not a spool file of this headstream")
    gap: list[tuple[int, int]] = []  # damage: how many entries lay before it, and where
    for at, kind, head, body_at, end in _records(file, len(magic), size, gap, index):
        if kind == FRAME:
            try:
                header = unpack_header(head[HEAD.size :])
            except MessageError:
                gap.append((len(index.entries), at))
                continue
            place = body_at - len(head)
            clock = header.node_ns, header.offset_ns, header.offset_sigma_ns
            entry = Entry(header.sequence, place, end - place, *clock)
            index.entries.append(entry)
        elif kind == LOST:
            first, last, reason = msgpack.unpackb(head)
            index.lost.append((int(first), int(last), str(reason)[:100]))
        elif kind == END:
            index.ended = True
    index.damaged_at = [at for _, at in gap]
    known = join((first, last) for first, last, _ in index.lost)
    for count, at in gap:
        before = index.entries[count - 1].sequence if count else -1
        after = index.entries[count].sequence if count < len(index.entries) else before
        for first, last in without(((before + 1, after - 1),) if after > before + 1 else (), known):
            index.lost.append((first, last, f"spool file damaged at byte {at}"))
    # A take that began twice for one process has its pre-roll twice.
    index.entries = sorted({entry.sequence: entry for entry in index.entries}.values(), key=lambda e: e.sequence)
    return index


def _records(
    file: BinaryIO, at: int, size: int, gap: list[tuple[int, int]], index: Index
) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Offset, kind, head, offset of the body and end of each whole record."""
    while at < size:
        file.seek(at)
        found = _record_at(file, at, size)
        if found is not None:
            yield (at, *found)
            at = found[-1]
            continue
        beyond = _next_record(file, at + 1, size)
        if beyond is None:
            index.cut_bytes = size - at
            return
        gap.append((len(index.entries), at))
        at = beyond


def _record_at(file: BinaryIO, at: int, size: int) -> tuple[int, bytes, int, int] | None:
    """Kind, head, offset of the body and end of the record at the file's position; None when it is not whole."""
    fixed = file.read(_RECORD.size)
    if len(fixed) < _RECORD.size:
        return None
    marker, kind, head_size, body_size, check = _RECORD.unpack(fixed)
    body_at = at + _RECORD.size + head_size
    if marker != _MARKER or body_at + body_size > size:
        return None
    head = file.read(head_size)
    if zlib.crc32(head, zlib.crc32(_CHECKED.pack(kind, head_size, body_size))) != check:
        return None
    return kind, head, body_at, body_at + body_size


def _next_record(file: BinaryIO, at: int, size: int) -> int | None:
    """Where the next record with a good CRC begins; a JPEG can hold the marker's bytes by chance."""
    while at < size:
        file.seek(at)
        chunk = file.read(_SCAN_BYTES)
        found = chunk.find(_MARKER)
        while found >= 0:
            file.seek(at + found)
            if _record_at(file, at + found, size) is not None:
                return at + found
            found = chunk.find(_MARKER, found + 1)
        if len(chunk) < _SCAN_BYTES:
            return None
        at += len(chunk) - len(_MARKER) + 1
    return None


def read_picture(file: BinaryIO, entry: Entry) -> bytes:
    """The frame record of an entry. Raises MessageError when the picture is damaged."""
    file.seek(entry.offset)
    data = file.read(entry.length)
    unpack_frame_record(data)
    return data
