"""Writes a take while it happens, on a thread of its own."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import msgpack
import numpy as np
from mcap.writer import CompressionType, IndexType, Writer

from fusion_server.takes.contents import write_info
from fusion_server.takes.layout import (
    CALIBRATION_NAME,
    CAMERA_TOPIC,
    FRAME_SCHEMA,
    INFO_NAME,
    MCAP_NAME,
    PROFILE,
    SCHEMAS,
    VERSION,
    TakeError,
    plain,
)
from protocol.calibration import Calibration
from protocol.frame_record import pack_frame_record
from protocol.messages import Frame, is_name
from protocol.rig import Rig
from protocol.timecode import timecode_at

if TYPE_CHECKING:
    from fusion_server.pipeline import Result

log = logging.getLogger(__name__)

QUEUE_BYTES = 512 << 20  # what may wait for the disk
_OVERHEAD = 512  # bytes that a small record costs while it waits
_LAST_TAKE = 999
_RESERVE = "take.json.room"  # beside it, as large as it may get: a full disk must not keep the take's end unwritten
_RESERVE_BYTES = 256 << 10


class TakeWriter:
    """Opens the next free ``<takes>/<slate>_<take>`` and writes into it until ``close``.

    Every method may be called from any thread and none waits for the disk: records queue, at most ``queue_bytes`` of
    them. When the disk is so slow that the queue is full, or full itself, what cannot be kept is counted and the take
    says so: a fault in the file and ``lost`` in ``take.json``, by topic. Raises TakeError when it cannot be made.
    """

    def __init__(
        self,
        takes: Path,
        slate: str,
        rig: Rig,
        calibration: Calibration,
        *,
        take: int = 1,
        queue_bytes: int = QUEUE_BYTES,
    ):
        if not is_name(slate):
            raise TakeError(f"slate {slate!r}: must be 1 to 64 of A-Z a-z 0-9 _ . - with a letter or digit first")
        self.slate = slate
        self.take, self.path = _make_folder(Path(takes), slate, take)
        self._info: dict[str, Any] = {
            "version": VERSION,
            "slate": slate,
            "take": self.take,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "started_ns": time.time_ns(),
            "fps": rig.fps,
            "sync": rig.sync.mode,
            "rig": rig.name,
            "cameras": list(rig.camera_ids),
            "finished": False,
            "complete": False,  # as long as no node was asked
            "settled": False,
        }
        if rig.sync.timecode == "utc":
            self._info["timecode"] = str(timecode_at(self._info["started_ns"], rig.fps))
        self._queue_bytes = queue_bytes
        self._queue: deque[_Entry] = deque()
        self._waiting = 0  # bytes
        self._ready = threading.Condition()
        self._closing = False
        self._lost: Counter[str] = Counter()  # by topic
        self._unsaid: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self._topology: tuple[np.ndarray, np.ndarray | None] | None = None
        self._topology_id = -1
        self._topology_lock = threading.Lock()
        self.failure = ""  # why nothing is written any more; empty while all is well
        try:
            self._file = _Unbuffered(self.path / MCAP_NAME)
            self._writer = Writer(
                cast("IO[bytes]", self._file),
                compression=CompressionType.NONE,
                index_types=IndexType.ATTACHMENT,
                use_chunking=False,
                enable_data_crcs=True,
            )
            self._write_head(rig, calibration)
            self._write_info()
            (self.path / _RESERVE).write_bytes(bytes(_RESERVE_BYTES))
        except OSError as error:
            raise TakeError(f"{self.path}: cannot be written ({error.strerror})") from None
        self._thread = threading.Thread(target=self._run, name=f"take {self.path.name}", daemon=True)
        self._thread.start()

    @property
    def started_ns(self) -> int:
        """When the take began, server clock."""
        return self._info["started_ns"]

    def frame(self, frame: Frame) -> None:
        """Keep a received frame of a camera of the rig. Its JPEG must not be changed afterwards."""
        topic = CAMERA_TOPIC + frame.header.camera
        if topic not in self._channels:
            raise ValueError(f"camera {frame.header.camera!r} is none of the take's")
        size = len(frame.jpeg) + _OVERHEAD
        self._put(_Entry(topic, frame.header.capture_ns, size, lambda: pack_frame_record(frame)))

    def topology(self, faces: np.ndarray, uv: np.ndarray | None = None) -> int:
        """The number of this topology, for ``mesh``; written when it is new. faces: (F, 3); uv: (F, 3, 2)."""
        with self._topology_lock:
            if self._topology is None or not _same(self._topology, (faces, uv)):
                self._topology_id += 1
                self._topology = (faces, uv)
                number = self._topology_id
                fields = {
                    "id": number,
                    "faces": np.ascontiguousarray(faces, "<i4").tobytes(),
                    "uv": None if uv is None else np.ascontiguousarray(uv, "<f4").tobytes(),
                }
                self._put_map("/topology", time.time_ns(), fields, vital=True)
            return self._topology_id

    def mesh(
        self,
        index: int,
        capture_ns: int,
        vertices: np.ndarray,
        topology: int,
        *,
        kind: str,
        quality: Mapping[str, Any],
        timing: Mapping[str, float],
        missing: tuple[str, ...] = (),
        spread_ns: int = 0,
        timecode: str = "",
    ) -> None:
        """Keep a mesh. vertices: (P, 3) world metres, kept as float32; timing: seconds by stage."""
        fields = {
            "index": int(index),
            "capture_ns": int(capture_ns),
            "topology": topology,
            "kind": kind,
            "vertices": np.ascontiguousarray(vertices, "<f4").tobytes(),
            "quality": plain(dict(quality)),
            "timing": plain(dict(timing)),
            "missing": list(missing),
            "spread_ns": int(spread_ns),
            "timecode": timecode,
        }
        self._put_map("/mesh", capture_ns, fields)

    def result(self, result: Result) -> None:
        """Keep what the pipeline made of a frame set: its mesh, and the topology where that is new."""
        surface = result.surface
        timing = {**result.observation.seconds, **surface.seconds, "latency": result.latency_s}
        self.mesh(
            result.index,
            result.capture_ns,
            surface.vertices,
            self.topology(surface.faces, surface.uv),
            kind=surface.kind,
            quality=asdict(surface.quality),
            timing=timing,
            missing=result.missing,
            spread_ns=result.spread_ns,
            timecode=result.timecode,
        )

    def fault(self, text: str) -> None:
        """Keep one line about what went wrong."""
        self._put_map("/fault", time.time_ns(), {"text": text}, vital=True)

    def statistics(self, values: Mapping[str, Any]) -> None:
        """Keep counts, usually once at the end."""
        self._put_map("/statistics", time.time_ns(), plain(dict(values)), vital=True)

    @property
    def trouble(self) -> str:
        """What is wrong with the take, one line: nothing is written any more, or not everything. Empty: all is well."""
        if self.failure:
            return f"take {self.path.name} is not recorded any more: {self.failure}"
        with self._ready:
            lost = sum(self._lost.values())
        return f"take {self.path.name} lacks {lost} records, as the server's disk is too slow" if lost else ""

    @property
    def waiting_bytes(self) -> int:
        """What waits for the disk."""
        return self._waiting

    def close(self, ended_ns: int | None = None) -> dict[str, Any]:
        """Write what waits, finish the file and ``take.json``; returns what that says. May be called twice.

        ended_ns: when the take ended, server clock; now where it is not given.
        """
        with self._ready:
            self._info.setdefault("ended_ns", ended_ns or time.time_ns())
            self._closing = True
            self._ready.notify()
        self._thread.join()
        return dict(self._info)

    def _put_map(self, topic: str, at_ns: int, fields: dict[str, Any], vital: bool = False) -> None:
        data = msgpack.packb(fields)
        self._put(_Entry(topic, at_ns, len(data) + _OVERHEAD, lambda: data), vital)

    def _put(self, entry: _Entry, vital: bool = False) -> None:
        """Queue a record. Vital ones are small and few: a full queue takes them still."""
        with self._ready:
            if self._closing:
                return
            if self.failure or (self._waiting + entry.size > self._queue_bytes and not vital):
                self._lost[entry.topic] += 1
                self._unsaid[entry.topic] += 1
                return
            self._queue.append(entry)
            self._waiting += entry.size
            self._ready.notify()

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._writer.finish()
        except OSError as error:
            with self._ready:
                self.failure = f"{self.path}: cannot be written any more ({error.strerror})"
                self._lost.update(entry.topic for entry in self._queue)
                self._queue.clear()
            log.error("%s", self.failure)
            self._await_close()
        self._file.close()
        self._info |= {
            "finished": not self.failure,
            "failure": self.failure,
            "written": dict(sorted(self._written.items())),
            "lost": dict(sorted(self._lost.items())),
        }
        try:
            (self.path / _RESERVE).unlink(missing_ok=True)
            self._write_info()
        except OSError as error:
            log.error("%s: cannot be written (%s)", self.path / INFO_NAME, error.strerror)

    def _await_close(self) -> None:
        with self._ready:
            while not self._closing:
                self._ready.wait()

    def _step(self) -> bool:
        """Write one record, and before it what could not be queued; False when there will be none."""
        with self._ready:
            while not self._queue and not self._closing:
                self._ready.wait()
            unsaid, self._unsaid = self._unsaid, Counter()
            entry = self._queue[0] if self._queue else None
        if unsaid:
            lost = ", ".join(f"{count} of {topic}" for topic, count in sorted(unsaid.items()))
            text = f"the disk is too slow: not recorded: {lost}"
            log.warning("%s: %s", self.path.name, text)
            self._write("/fault", time.time_ns(), msgpack.packb({"text": text}))
        if entry is None:
            return False
        self._write(entry.topic, entry.at_ns, entry.make())
        with self._ready:
            self._queue.popleft()
            self._waiting -= entry.size
        return True

    def _write(self, topic: str, at_ns: int, data: bytes) -> None:
        number, sequence = self._channels[topic], self._written[topic] & 0xFFFFFFFF
        self._writer.add_message(number, time.time_ns(), data, max(at_ns, 0), sequence)
        self._written[topic] += 1

    def _write_head(self, rig: Rig, calibration: Calibration) -> None:
        """Everything that a reader needs before the first record."""
        self._writer.start(PROFILE, f"headstream take {VERSION}")
        now = self._info["started_ns"]
        text = json.dumps(calibration.to_dict())
        self._writer.add_attachment(now, now, CALIBRATION_NAME, "application/json", text.encode())
        frame_schema = self._writer.register_schema("headstream.Frame", "text", FRAME_SCHEMA.encode())
        self._channels = {
            CAMERA_TOPIC + name: self._writer.register_channel(CAMERA_TOPIC + name, "headstream", frame_schema)
            for name in rig.camera_ids
        }
        for topic, schema in SCHEMAS.items():
            name = f"headstream.{topic[1:].capitalize()}"
            number = self._writer.register_schema(name, "text", schema.encode())
            self._channels[topic] = self._writer.register_channel(topic, "msgpack", number)
        self._writer.add_metadata("take", {key: json.dumps(value) for key, value in self._info.items()})

    def _write_info(self) -> None:
        write_info(self.path, self._info)


@dataclass(frozen=True)
class _Entry:
    topic: str
    at_ns: int
    size: int  # bytes that it costs while it waits
    make: Callable[[], bytes]  # called when it is written


class _Unbuffered:
    """A new file that hands each record to the system at once; the MCAP writer puts a buffer around Python's own."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._at = 0

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            count = os.write(self._file, rest)
            self._at += count
            rest = rest[count:]
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        os.close(self._file)


def _make_folder(takes: Path, slate: str, take: int) -> tuple[int, Path]:
    """The first free take number from ``take`` on, and its new folder."""
    for number in range(take, _LAST_TAKE + 1):
        path = takes / f"{slate}_{number:03d}"
        try:
            takes.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not takes.is_dir():
                raise TakeError(f"{takes}: is a file; takes need a folder (server.takes in the rig file)") from None
        except OSError as error:
            raise TakeError(f"{path}: cannot be made ({error.strerror}); see server.takes in the rig file") from None
        else:
            return number, path
    raise TakeError(f"{takes}: slate {slate} has takes up to {_LAST_TAKE}; give the next slate another name")


def _same(one: tuple[np.ndarray, np.ndarray | None], other: tuple[np.ndarray, np.ndarray | None]) -> bool:
    """Whether two topologies are the same; quick when they are the same arrays."""
    (faces, uv), (faces2, uv2) = one, other
    if faces is not faces2 and not np.array_equal(faces, faces2):
        return False
    if uv is None or uv2 is None:
        return uv is uv2
    return uv is uv2 or np.array_equal(uv, uv2)
