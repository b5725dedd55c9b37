"""Reads a take: finished, still being written, or cut at any byte."""

from __future__ import annotations

import json
import logging
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Metadata
from mcap.writer import MCAP0_MAGIC

from fusion_server.takes.layout import (
    CALIBRATION_NAME,
    CAMERA_TOPIC,
    INFO_NAME,
    MCAP_NAME,
    TakeError,
    TakeMesh,
    Topology,
    unpack_frame_record,
)
from protocol.calibration import Calibration, parse_calibration
from protocol.messages import Frame, MessageError

log = logging.getLogger(__name__)

_RECORD = struct.Struct("<BQ")  # opcode, length
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log_time, publish_time
_DAMAGE = (ValueError, KeyError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException)
_LATEST = 2**63 - 1  # ns; times stand as unsigned in the file and are reckoned with as signed
_KNOWN = {opcode.value for opcode in Opcode}


class TakeReader:
    """A take's folder, or its ``take.mcap`` alone.

    Opening walks the file once, from record to record without reading pictures, and remembers where each message lies;
    what follows a record that is not whole is left out (``cut_bytes``). ``faults`` holds the lines that were recorded.
    Raises TakeError when there is no take.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        self.path = path.parent if path.name == MCAP_NAME else path
        self._file_path = self.path / MCAP_NAME
        self._at: dict[str, list[tuple[int, int]]] = {}  # topic -> offset and length of each message's data
        self._times: dict[str, list[int]] = {}  # topic -> what each message is about, server clock
        self._attachments: dict[str, bytes] = {}
        self._metadata: dict[str, dict[str, str]] = {}
        self.finished = False
        self.damaged: Counter[str] = Counter()  # frames left out for their CRC, by camera
        try:
            with self._file_path.open("rb") as file:
                self.cut_bytes = self._walk(file, self._file_path.stat().st_size)
                self.topologies = {each.id: each for each in map(_topology, self._messages(file, "/topology"))}
                self.faults = [msgpack.unpackb(data)["text"] for data in self._messages(file, "/fault")]
                self.statistics = [msgpack.unpackb(data) for data in self._messages(file, "/statistics")]
        except (FileNotFoundError, NotADirectoryError):
            raise TakeError(f"{path}: no take; a take is a folder with {MCAP_NAME}") from None
        except OSError as error:
            raise TakeError(f"{self._file_path}: cannot be read ({error.strerror})") from None
        except (*_DAMAGE, McapError, struct.error) as error:
            raise TakeError(f"{self._file_path}: damaged ({' '.join(str(error).split())})") from None

    @cached_property
    def info(self) -> dict[str, Any]:
        """What is known about the take: slate, take, fps, rig, cameras, started; counts where it was closed."""
        info: dict[str, Any] = {}
        for key, value in self._metadata.get("take", {}).items():
            try:
                info[key] = json.loads(value)
            except (ValueError, RecursionError) as error:
                log.warning("%s: %s of the take cannot be read (%s)", self._file_path, ascii(key), error)
        try:
            beside = json.loads((self.path / INFO_NAME).read_text(encoding="utf-8"))
            if not isinstance(beside, dict):
                raise ValueError("must be an object")
            info |= beside
        except FileNotFoundError:
            pass  # the file alone says the essentials
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s: cannot be read (%s)", self.path / INFO_NAME, error)
        return info

    @property
    def fps(self) -> float:
        """Frames a second of the rig; 30 where it is not known. Raises TakeError for what is no rate."""
        fps = self.info.get("fps", 30.0)
        if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not 0 < fps <= 1000:
            raise TakeError(f"{self.path}: fps: {ascii(fps)[:60]}; must be a number above 0, at most 1000")
        return float(fps)

    @cached_property
    def calibration(self) -> Calibration:
        """The rig's cameras. Raises TakeError when the file ends before them."""
        if CALIBRATION_NAME not in self._attachments:
            raise TakeError(f"{self._file_path}: ends before its calibration; nothing was recorded")
        try:
            data = json.loads(self._attachments[CALIBRATION_NAME])
        except (ValueError, RecursionError) as error:
            raise TakeError(f"{self._file_path}: damaged calibration ({' '.join(str(error).split())})") from None
        return parse_calibration(data, f"{self._file_path}: calibration")

    @property
    def frame_counts(self) -> dict[str, int]:
        """Frames of each camera."""
        topics = [topic for topic in self._at if topic.startswith(CAMERA_TOPIC)]
        return {topic[len(CAMERA_TOPIC) :]: len(self._at[topic]) for topic in topics}

    @property
    def mesh_count(self) -> int:
        """Number of meshes."""
        return len(self._at.get("/mesh", ()))

    def frames(self, camera: str | None = None) -> Iterator[Frame]:
        """Frames of one camera, or of all, in the order in which they were received. Damaged ones are left out."""
        topics = [CAMERA_TOPIC + name for name in self.frame_counts if camera in (None, name)]
        places = sorted(place for topic in topics for place in self._at[topic])
        with self._file_path.open("rb") as file:
            for place in places:
                try:
                    yield unpack_frame_record(_read(file, place))
                except MessageError as error:
                    self.damaged[error.reason] += 1
                    log.warning("%s: frame left out: %s", self._file_path, error)

    def frames_at(self, capture_ns: int, within_ns: int) -> dict[str, Frame]:
        """The frame of each camera that was exposed nearest to a moment of the server's clock, no further than this.

        A camera that has none, or a damaged one, is left out.
        """
        found = {}
        with self._file_path.open("rb") as file:
            for camera in self.frame_counts:
                topic = CAMERA_TOPIC + camera
                times = np.array(self._times.get(topic, ()), np.int64)
                if not len(times) or np.abs(times - capture_ns).min() > within_ns:
                    continue
                place = self._at[topic][int(np.abs(times - capture_ns).argmin())]
                try:
                    found[camera] = unpack_frame_record(_read(file, place))
                except MessageError as error:
                    self.damaged[error.reason] += 1
                    log.warning("%s: frame left out: %s", self._file_path, error)
        return found

    def meshes(self) -> Iterator[TakeMesh]:
        """Meshes in the order in which they were made. Raises TakeError for one that cannot be read."""
        with self._file_path.open("rb") as file:
            for data in self._messages(file, "/mesh"):
                try:
                    mesh = _mesh(data)
                    known = mesh.topology in self.topologies
                except _DAMAGE as error:
                    raise TakeError(f"{self._file_path}: damaged mesh ({' '.join(str(error).split())})") from None
                if not known:
                    raise TakeError(f"{self._file_path}: mesh {mesh.index} has no topology {mesh.topology}")
                yield mesh

    def _messages(self, file: BinaryIO, topic: str) -> Iterator[bytes]:
        for place in self._at.get(topic, ()):
            yield _read(file, place)

    def _walk(self, file: BinaryIO, size: int) -> int:
        """Note where every whole record lies; returns the bytes behind the last."""
        magic = file.read(len(MCAP0_MAGIC))
        if magic != MCAP0_MAGIC[: len(magic)]:
            raise TakeError(f"{self._file_path}: not an MCAP file")
        topics: dict[int, str] = {}
        at = len(magic)
        while at + _RECORD.size <= size:
            opcode, length = _RECORD.unpack(file.read(_RECORD.size))
            start, end = at + _RECORD.size, at + _RECORD.size + length
            if opcode not in _KNOWN or end > size:
                break
            if opcode == Opcode.MESSAGE and length >= _MESSAGE.size:
                channel, _, _, about = _MESSAGE.unpack(file.read(_MESSAGE.size))
                if channel not in topics:
                    break
                self._times.setdefault(topics[channel], []).append(min(about, _LATEST))
                self._at.setdefault(topics[channel], []).append((start + _MESSAGE.size, length - _MESSAGE.size))
            elif opcode in (Opcode.CHANNEL, Opcode.ATTACHMENT, Opcode.METADATA):
                self._note(Opcode(opcode), file.read(length), topics)
            elif opcode == Opcode.FOOTER:
                self.finished = size - end == len(MCAP0_MAGIC)
                return 0 if self.finished else size - end
            file.seek(end)
            at = end
        return size - at

    def _note(self, opcode: Opcode, data: bytes, topics: dict[int, str]) -> None:
        stream = ReadDataStream(BytesIO(data))
        if opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            topics[channel.id] = channel.topic
            if channel.topic.startswith(CAMERA_TOPIC):
                self._at.setdefault(channel.topic, [])
        elif opcode == Opcode.ATTACHMENT:
            attachment = Attachment.read(stream)
            self._attachments[attachment.name] = attachment.data
        else:
            metadata = Metadata.read(stream)
            self._metadata[metadata.name] = metadata.metadata


def _read(file: BinaryIO, place: tuple[int, int]) -> bytes:
    offset, length = place
    file.seek(offset)
    return file.read(length)


def _topology(data: bytes) -> Topology:
    fields = msgpack.unpackb(data)
    faces = np.frombuffer(fields["faces"], "<i4").reshape(-1, 3).astype(np.int32)
    uv = None if fields["uv"] is None else np.frombuffer(fields["uv"], "<f4").reshape(-1, 3, 2)
    return Topology(fields["id"], faces, uv)


def _mesh(data: bytes) -> TakeMesh:
    fields = msgpack.unpackb(data)
    return TakeMesh(
        index=fields["index"],
        capture_ns=fields["capture_ns"],
        topology=fields["topology"],
        vertices=np.frombuffer(fields["vertices"], "<f4").reshape(-1, 3),
        kind=fields["kind"],
        quality=fields["quality"],
        timing=fields["timing"],
        missing=tuple(fields["missing"]),
        spread_ns=fields["spread_ns"],
    )
