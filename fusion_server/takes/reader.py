"""Reads a take: finished, still being written, or cut at any byte."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack
import numpy as np

from fusion_server.takes.layout import (
    BACKFILL_NAME,
    CALIBRATION_NAME,
    INFO_NAME,
    MCAP_NAME,
    TakeError,
    TakeMesh,
    Topology,
)
from fusion_server.takes.mcap_index import DAMAGE, McapIndex, Place, read
from protocol.calibration import Calibration, parse_calibration
from protocol.frame_record import unpack_frame_record
from protocol.messages import Frame, MessageError

log = logging.getLogger(__name__)


class _Item(NamedTuple):
    at_ns: int
    file: int  # 0: of the take; 1: of what came after it
    place: Place


class TakeReader:
    """A take's folder, or its ``take.mcap`` alone. Frames that came after the take (``backfill.mcap``) are its own.

    Opening walks the files once, from record to record without reading pictures (``mcap_index``); what follows a record
    that is not whole is left out (``cut_bytes``). ``faults`` holds the lines that were recorded.
    Raises TakeError when there is no take.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        self.path = path.parent if path.name == MCAP_NAME else path
        self._file_path = self.path / MCAP_NAME
        self.damaged: Counter[str] = Counter()  # frames left out for their CRC, by camera
        try:
            self._main = McapIndex(self._file_path)
        except (FileNotFoundError, NotADirectoryError):
            raise TakeError(f"{path}: no take; a take is a folder with {MCAP_NAME}") from None
        try:
            self._backfill: McapIndex | None = McapIndex(self.path / BACKFILL_NAME)
        except (FileNotFoundError, NotADirectoryError):
            self._backfill = None
        self.finished, self.cut_bytes = self._main.finished, self._main.cut_bytes
        try:
            with self._file_path.open("rb") as file:
                self.topologies = {each.id: each for each in map(_topology, self._messages(file, "/topology"))}
                self.faults = [msgpack.unpackb(data)["text"] for data in self._messages(file, "/fault")]
                self.statistics = [msgpack.unpackb(data) for data in self._messages(file, "/statistics")]
        except OSError as error:
            raise TakeError(f"{self._file_path}: cannot be read ({error.strerror})") from None
        except DAMAGE as error:
            raise TakeError(f"{self._file_path}: damaged ({' '.join(str(error).split())})") from None

    @cached_property
    def info(self) -> dict[str, Any]:
        """What is known about the take: slate, take, fps, rig, cameras, started; counts where it was closed."""
        info: dict[str, Any] = {}
        for key, value in self._main.metadata.get("take", {}).items():
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
        if CALIBRATION_NAME not in self._main.attachments:
            raise TakeError(f"{self._file_path}: ends before its calibration; nothing was recorded")
        try:
            data = json.loads(self._main.attachments[CALIBRATION_NAME])
        except (ValueError, RecursionError) as error:
            raise TakeError(f"{self._file_path}: damaged calibration ({' '.join(str(error).split())})") from None
        return parse_calibration(data, f"{self._file_path}: calibration")

    @property
    def frame_counts(self) -> dict[str, int]:
        """Frames of each camera, those that came after the take included."""
        return {name: len(self._places(name)) for name in self._main.cameras}

    @property
    def backfilled(self) -> int:
        """How many of the frames came after the take, out of the nodes' spools."""
        return sum(len(self._backfill.of_camera(name)) for name in self._backfill.cameras) if self._backfill else 0

    @property
    def mesh_count(self) -> int:
        """Number of meshes."""
        return len(self._main.places.get("/mesh", ()))

    def frames(self, camera: str | None = None, *, by_exposure: bool = False) -> Iterator[Frame]:
        """Frames of one camera, or of all; damaged ones are left out.

        In the order in which they were received; ``by_exposure``, and in a take that was backfilled, in which they were
        exposed.
        """
        names = [name for name in self._main.cameras if camera in (None, name)]
        found = [item for name in names for item in self._places(name)]
        by_exposure = by_exposure or self._backfill is not None
        found.sort(key=(lambda item: item.at_ns) if by_exposure else (lambda item: item.place.offset))
        with self._open() as files:
            for item in found:
                frame = self._frame(files, item)
                if frame is not None:
                    yield frame

    def frames_at(self, capture_ns: int, within_ns: int) -> dict[str, Frame]:
        """The frame of each camera that was exposed nearest to a moment of the server's clock, no further than this.

        A camera that has none, or a damaged one, is left out.
        """
        found = {}
        with self._open() as files:
            for camera in self._main.cameras:
                times = self._moments[camera]
                if not len(times) or np.abs(times - capture_ns).min() > within_ns:
                    continue
                frame = self._frame(files, self._places(camera)[int(np.abs(times - capture_ns).argmin())])
                if frame is not None:
                    found[camera] = frame
        return found

    @property
    def title(self) -> str:
        """Slate and number."""
        return f"{self.info.get('slate', 'take')}_{self.info.get('take', 1):03d}"

    @property
    def origin(self) -> str:
        """Where it was recorded."""
        return f"rig {self.info.get('rig', 'unknown')}"

    @property
    def by_trigger(self) -> bool:
        """Whether frames were matched by trigger, so that a mesh's index counts frames."""
        return self.info.get("sync", "trigger") == "trigger"

    @property
    def has_pictures(self) -> bool:
        """Whether it holds any."""
        return any(self.frame_counts.values())

    def jpegs_of(self, mesh: TakeMesh) -> Mapping[str, bytes | memoryview]:
        """The pictures of the moment of a mesh, by camera; none where the take holds none of it."""
        frames = self.frames_at(mesh.capture_ns, max(round(0.5e9 / self.fps), mesh.spread_ns))
        names = set(self.calibration.names) - set(mesh.missing)
        return {name: frame.jpeg for name, frame in frames.items() if name in names}

    def meshes(self) -> Iterator[TakeMesh]:
        """Meshes in the order in which they were made. Raises TakeError for one that cannot be read."""
        with self._file_path.open("rb") as file:
            for data in self._messages(file, "/mesh"):
                try:
                    mesh = _mesh(data)
                    known = mesh.topology in self.topologies
                except DAMAGE as error:
                    raise TakeError(f"{self._file_path}: damaged mesh ({' '.join(str(error).split())})") from None
                if not known:
                    raise TakeError(f"{self._file_path}: mesh {mesh.index} has no topology {mesh.topology}")
                yield mesh

    def _messages(self, file: BinaryIO, topic: str) -> Iterator[bytes]:
        for place in self._main.places.get(topic, ()):
            yield read(file, place)

    def _places(self, camera: str) -> list[_Item]:
        if camera not in self._items:
            indices = [self._main, *([self._backfill] if self._backfill else [])]
            self._items[camera] = [
                _Item(at, i, place) for i, each in enumerate(indices) for at, place in each.of_camera(camera)
            ]
        return self._items[camera]

    @cached_property
    def _items(self) -> dict[str, list[_Item]]:
        return {}

    @cached_property
    def _moments(self) -> dict[str, np.ndarray]:
        return {name: np.array([item.at_ns for item in self._places(name)], np.int64) for name in self._main.cameras}

    @contextmanager
    def _open(self) -> Iterator[list[BinaryIO]]:
        """The take's file and, where there is one, that of the frames that came after it."""
        with ExitStack() as stack:
            paths = [self._file_path, *([self._backfill.path] if self._backfill else [])]
            yield [stack.enter_context(path.open("rb")) for path in paths]

    def _frame(self, files: list[BinaryIO], item: _Item) -> Frame | None:
        try:
            return unpack_frame_record(read(files[item.file], item.place))
        except MessageError as error:
            self.damaged[error.reason] += 1
            log.warning("%s: frame left out: %s", files[item.file].name, error)
            return None


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
        timecode=fields.get("timecode", ""),
    )
