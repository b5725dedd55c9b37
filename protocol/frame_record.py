"""A frame as it stands in a file: a take's channel ``/camera/<id>`` and a node's spool hold the same bytes.

bytes 0..3      length n of the header, uint32 little-endian
bytes 4..4+n    the header of ``protocol.messages.pack_frame``
the rest        the JPEG
"""

from __future__ import annotations

import struct

from protocol.messages import LARGEST_HEADER, Frame, FrameHeader, pack_frame, unpack_frame, unpack_header

HEAD = struct.Struct("<I")
LARGEST_HEAD = HEAD.size + LARGEST_HEADER


def pack_frame_record(frame: Frame) -> bytes:
    """A frame as it stands in the file. Raises MessageError for a header that no reader would take."""
    head, jpeg = pack_frame(frame)
    return b"".join((HEAD.pack(len(head)), head, jpeg))


def unpack_frame_record(data: bytes) -> Frame:
    """The frame of a record; its JPEG is checked against its CRC. Raises MessageError for a damaged one."""
    head, jpeg = split_frame_record(data)
    return unpack_frame([head, jpeg], max_bytes=len(data), of_file=True)


def split_frame_record(data: bytes) -> tuple[memoryview, memoryview]:
    """Header and JPEG, as ``pack_frame`` made them; nothing is checked."""
    view = memoryview(data)
    start = _head_end(data)
    return view[HEAD.size : start], view[start:]


def read_header(data: bytes) -> FrameHeader:
    """The header out of a record's first ``LARGEST_HEAD`` bytes, without its JPEG. Raises MessageError."""
    return unpack_header(memoryview(data)[HEAD.size : _head_end(data)])


def _head_end(data: bytes) -> int:
    (length,) = HEAD.unpack_from(data) if len(data) >= HEAD.size else (0,)
    return HEAD.size + min(length, LARGEST_HEADER + 1)
