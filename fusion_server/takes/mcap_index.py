"""Where everything lies in an MCAP file of ours: finished, still being written, or cut at any byte."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgpack
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Metadata
from mcap.writer import MCAP0_MAGIC

from fusion_server.takes.layout import CAMERA_TOPIC, TakeError

RECORD = struct.Struct("<BQ")  # opcode, length
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log_time, publish_time
DAMAGE = (
    *(ValueError, KeyError, TypeError, OverflowError, RecursionError),
    *(msgpack.exceptions.UnpackException, McapError, struct.error),
)
_LATEST = 2**63 - 1  # ns; times stand as unsigned in the file and are reckoned with as signed
_KNOWN = {opcode.value for opcode in Opcode}


class Place(NamedTuple):
    """Where a message's data lie."""

    offset: int
    length: int


class McapIndex:
    """Opening walks the file once, from record to record without reading messages.

    What follows a record that is not whole is left out (``cut_bytes``). Raises TakeError when the file is none of ours,
    FileNotFoundError when it is not there.
    """

    def __init__(self, path: Path):
        self.path = path
        self.places: dict[str, list[Place]] = {}  # topic -> its messages
        self.times: dict[str, list[int]] = {}  # topic -> what each message is about, server clock
        self.channels: dict[int, str] = {}  # number -> topic
        self.attachments: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.finished = False
        self.last_written_ns = 0  # when the newest message was written
        self.data_end = 0  # byte behind the last whole record of the data
        try:
            with path.open("rb") as file:
                self.cut_bytes = self._walk(file, path.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise TakeError(f"{path}: cannot be read ({error.strerror})") from None
        except DAMAGE as error:
            raise TakeError(f"{path}: damaged ({' '.join(str(error).split())})") from None

    @property
    def cameras(self) -> list[str]:
        """Cameras that have a channel, in the order of the channels."""
        return [topic[len(CAMERA_TOPIC) :] for topic in self.places if topic.startswith(CAMERA_TOPIC)]

    def of_camera(self, camera: str) -> list[tuple[int, Place]]:
        """Moment of exposure and place of each frame of a camera, file order."""
        topic = CAMERA_TOPIC + camera
        return list(zip(self.times.get(topic, ()), self.places.get(topic, ()), strict=True))

    def _walk(self, file: BinaryIO, size: int) -> int:
        """Note where every whole record lies; returns the bytes behind the last."""
        magic = file.read(len(MCAP0_MAGIC))
        if magic != MCAP0_MAGIC[: len(magic)]:
            raise TakeError(f"{self.path}: not an MCAP file")
        at = self.data_end = len(magic)
        closed = False
        while at + RECORD.size <= size:
            opcode, length = RECORD.unpack(file.read(RECORD.size))
            start, end = at + RECORD.size, at + RECORD.size + length
            if opcode not in _KNOWN or end > size:
                break
            if opcode == Opcode.MESSAGE and length >= MESSAGE.size:
                channel, _, written, about = MESSAGE.unpack(file.read(MESSAGE.size))
                if channel not in self.channels:
                    break
                topic, self.last_written_ns = self.channels[channel], written
                self.times.setdefault(topic, []).append(min(about, _LATEST))
                self.places.setdefault(topic, []).append(Place(start + MESSAGE.size, length - MESSAGE.size))
            elif opcode in (Opcode.CHANNEL, Opcode.ATTACHMENT, Opcode.METADATA):
                self._note(Opcode(opcode), file.read(length))
            elif opcode == Opcode.FOOTER:
                self.finished = size - end == len(MCAP0_MAGIC)
                return 0 if self.finished else size - end
            if opcode == Opcode.DATA_END:
                closed = True
            file.seek(end)
            at = end
            if not closed:
                self.data_end = at
        return size - at

    def _note(self, opcode: Opcode, data: bytes) -> None:
        stream = ReadDataStream(BytesIO(data))
        if opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            self.channels[channel.id] = channel.topic
            if channel.topic.startswith(CAMERA_TOPIC):
                self.places.setdefault(channel.topic, [])
        elif opcode == Opcode.ATTACHMENT:
            attachment = Attachment.read(stream)
            self.attachments[attachment.name] = attachment.data
        else:
            metadata = Metadata.read(stream)
            self.metadata[metadata.name] = metadata.metadata


def read(file: BinaryIO, place: Place) -> bytes:
    """A message's data."""
    file.seek(place.offset)
    return file.read(place.length)
