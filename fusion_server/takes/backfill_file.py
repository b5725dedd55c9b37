"""``backfill.mcap``: frames that came after their take, appended one by one; interrupted at any byte, it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import DataEnd, Footer
from mcap.writer import MCAP0_MAGIC, CompressionType, IndexType, Writer

from fusion_server.takes.layout import BACKFILL_NAME, CAMERA_TOPIC, FRAME_SCHEMA, PROFILE, VERSION, TakeError
from fusion_server.takes.mcap_index import MESSAGE, RECORD, McapIndex
from protocol.frame_record import pack_frame_record
from protocol.messages import Frame


class BackfillFile:
    """Opens a take's ``backfill.mcap``, or begins it; what is behind its last whole record is cut off.

    Each frame is one write. Raises TakeError when it cannot be opened or written; what was written stays.
    """

    def __init__(self, take: Path, cameras: Iterable[str]):
        self.path = take / BACKFILL_NAME
        self._sequence = 0
        try:
            try:
                index = McapIndex(self.path)
            except FileNotFoundError:
                self._begin(cameras)
                index = McapIndex(self.path)
            self._channels = {topic: number for number, topic in index.channels.items()}
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            self._size = index.data_end
            os.ftruncate(self._file, self._size)
        except OSError as error:
            raise TakeError(f"{self.path}: cannot be written ({error.strerror})") from None

    def append(self, frame: Frame) -> None:
        """Keep a frame of a camera that the take has."""
        topic = CAMERA_TOPIC + frame.header.camera
        data = pack_frame_record(frame)
        head = MESSAGE.pack(self._channels[topic], self._sequence, time.time_ns(), max(0, frame.header.capture_ns))
        self._write(RECORD.pack(Opcode.MESSAGE, len(head) + len(data)) + head + data)
        self._sequence += 1

    def finish(self) -> None:
        """End the file as MCAP wants it, and see that it is on the disk itself."""
        end = RecordBuilder()
        DataEnd(data_section_crc=0).write(end)
        Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(end)
        self._write(end.end() + MCAP0_MAGIC)
        self.close()

    def close(self) -> None:
        """Let the file go as it is; it can be opened again. May be called twice."""
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.fsync(file)
            except OSError as error:
                raise TakeError(f"{self.path}: cannot be written ({error.strerror})") from None
            finally:
                os.close(file)

    def _begin(self, cameras: Iterable[str]) -> None:
        """A file with every channel and no message, which is there whole or not at all."""
        head = BytesIO()
        writer = Writer(head, compression=CompressionType.NONE, index_types=IndexType.NONE, use_chunking=False)
        writer.start(PROFILE, f"headstream backfill {VERSION}")
        schema = writer.register_schema("headstream.Frame", "text", FRAME_SCHEMA.encode())
        for camera in cameras:
            writer.register_channel(CAMERA_TOPIC + camera, "headstream", schema)
        writer.add_metadata("backfill", {"take": self.path.parent.name})  # which writes the channels, too
        scratch = self.path.with_name(BACKFILL_NAME + ".part")
        scratch.write_bytes(head.getvalue())
        scratch.replace(self.path)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise TakeError(f"{self.path}: cannot be written ({error.strerror})") from None
        self._size += len(data)
