"""Keeps every picture of a take on the node's own disk, whatever becomes of it on the way to the server.

Cameras' threads put pictures in, the link says when a take begins and ends, one thread of its own writes. None of the
first two ever waits for the disk: what waits for it is bounded in bytes (``spool.queue_mb``), and so is the ring of the
newest pictures that is there for takes of which the node hears late (``spool.preroll_mb``). A picture that cannot be
kept is written down as lost, with the reason; the live stream knows nothing of it.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from capture_nodes.outbox import Waiting
from capture_nodes.preroll import Clock, Picture, PreRoll
from capture_nodes.spool_file import SpoolWriter, file_name
from capture_nodes.spool_folder import RELEASED, delete_take, existing, folder_bytes, room_fault, short_of_room
from protocol.clock import UNKNOWN_SIGMA_NS
from protocol.messages import Lost, MessageError, SpoolReport
from protocol.rig import SpoolConfig

log = logging.getLogger(__name__)

_POST_ROLL_S = 2.0  # after a take's end was heard: how long a camera may take to deliver its last pictures
_LOOK_S = 2.0  # between two looks at the disk's room
_LOOK_BYTES = 64 << 20
_FRESH_S = 10.0  # for how long a lost picture is a fault
_CLOSE_S = 5.0  # how long a slow disk may hold up the node's end
_MISSES = 256  # that are remembered for a take of which the node hears late
_UNREAD = "the node was too slow to read it"


@dataclass
class _Take:
    name: str
    end_ns: int | None = None
    ended_at: float = 0.0
    past: set[str] = field(default_factory=set)  # cameras that have delivered a picture from after the end
    pending: dict[str, tuple[int, int]] = field(default_factory=dict)  # pictures that found the queue full


@dataclass(frozen=True)
class _Keep:
    take: str
    picture: Picture


@dataclass(frozen=True)
class _Lose:
    take: str
    camera: str
    first: int
    last: int
    cause: str


@dataclass(frozen=True)
class _Close:
    take: str
    reason: str


_Entry: TypeAlias = _Keep | _Lose | _Close


@dataclass
class _Run:
    """Pictures lost one after the other for one cause."""

    first: int
    last: int
    cause: str
    text: str


@dataclass
class _File:
    writer: SpoolWriter | None = None
    runs: list[_Run] = field(default_factory=list)  # losses that the file does not say yet


class Spool:
    """A node's spool. ``start`` begins its thread, ``close`` ends it.

    disk_free(folder): bytes free on the folder's disk; make_writer(path): a file to append to.
    """

    def __init__(
        self,
        config: SpoolConfig,
        node: str,
        cameras: Iterable[str],
        incarnation: int,
        *,
        disk_free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        make_writer: Callable[[Path], Any] = SpoolWriter,
    ):
        self._config, self._node, self._cameras, self._incarnation = config, node, tuple(cameras), incarnation
        self.folder, self.keep = config.folder, config.keep
        self._disk_free, self._make_writer = disk_free, make_writer
        self._ready = threading.Condition()  # over everything that more than the writing thread uses
        self._queue: deque[_Entry] = deque()
        self._waiting = 0  # bytes of pictures in the queue
        self._clock: Clock = lambda node_ns: (0, UNKNOWN_SIGMA_NS)
        self._pre_roll = PreRoll(int(config.preroll_mb * 2**20))
        self._misses: deque[tuple[int, str, int, int]] = deque(maxlen=_MISSES)  # when, camera, first, last
        self._take: _Take | None = None
        self._open: set[str] = set()  # takes whose last record is not on the disk
        self._unwritten: dict[tuple[str, str], list[Lost]] = {}  # losses that could not even be written down
        self._kept = self._lost = self._free = 0
        self._fault = self._short = ""
        self._losing = (-1e9, "")  # when a picture was lost last, and a line about it
        self._said: set[tuple[str, str]] = set()
        self._closing = False
        self._files: dict[tuple[str, str], _File] = {}  # by take and camera; the writing thread's
        self._blocked = ""  # the cause for which nothing is written now; the writing thread's
        self._looked_at, self._looked_bytes = -1e9, 0
        self._thread = threading.Thread(target=self._run, name=f"{node}-spool", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """End the take that is recorded, if there is one, and write what waits, for a few seconds at most."""
        with self._ready:
            self._end_take("the node was ended")
            self._closing = True
            self._ready.notify_all()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.error("node %s: the spool's disk is too slow; its last pictures are not kept", self._node)

    def use_clock(self, clock: Clock) -> None:
        """Whom to ask what is known of the server's clock; before this nothing is."""
        self._clock = clock

    def put(self, waiting: Waiting) -> None:
        """A picture that a camera delivered; kept if a take is recorded."""
        picture = Picture(waiting, *self._clock(waiting.captured.node_ns))
        with self._ready:
            self._pre_roll.add(picture)
            take = self._take
            if take is None:
                return
            if take.end_ns is not None and picture.timed and picture.capture_ns > take.end_ns:
                take.past.add(waiting.camera)
            else:
                self._keep(take, picture)

    def missed(self, camera: str, first: int, last: int) -> None:
        """Pictures of these sequences were taken by the camera and read by nobody."""
        with self._ready:
            take = self._take
            self._misses.append((time.time_ns(), camera, first, last))
            if take is None:
                return
            if camera in take.pending:  # the queue is full, and must not fill with losses
                take.pending[camera] = (take.pending[camera][0], last)
            else:
                self._queue.append(_Lose(take.name, camera, first, last, _UNREAD))
                self._ready.notify()

    def begin(self, take: str, start_ns: int) -> None:
        """A take began at a moment of the server's clock; nothing new when it is being recorded already."""
        with self._ready:
            if self._take is not None:
                if self._take.name == take:
                    return
                self._end_take("the next take began")
            self._take = _Take(take)
            self._open.add(take)
            for picture in self._pre_roll.since(start_ns, self._clock):
                self._keep(self._take, picture)
            for at_ns, camera, first, last in self._misses:
                if at_ns + self._clock(at_ns)[0] >= start_ns:
                    self._queue.append(_Lose(take, camera, first, last, _UNREAD))
            self._looked_at = -1e9  # look at the disk now
            self._ready.notify()

    def end(self, end_ns: int, now: float) -> None:
        """The take ended, or will, at a moment of the server's clock. ``now``: as in ``tick``."""
        with self._ready:
            if self._take is not None and self._take.end_ns is None:
                self._take.end_ns, self._take.ended_at = end_ns, now

    def tick(self, now: float) -> None:
        """Call now and then: closes a take when its last pictures have come. ``now``: seconds of any clock."""
        with self._ready:
            take = self._take
            if take is None or take.end_ns is None:
                return
            if len(take.past) == len(self._cameras) or now - take.ended_at >= _POST_ROLL_S:
                self._end_take("the take ended")

    def is_open(self, take: str) -> bool:
        """Whether the take's files here are still written."""
        with self._ready:
            return take in self._open

    def unwritten(self, take: str, camera: str) -> list[Lost]:
        """Losses of this process that its file could not be told of."""
        with self._ready:
            return list(self._unwritten.get((take, camera), ()))

    def report(self) -> SpoolReport:
        """How it does."""
        with self._ready:
            at, losing = self._losing
            losing = losing if time.monotonic() - at < _FRESH_S else ""
            fault = (self._fault or losing or self._short)[:200]
            return SpoolReport(self._kept, self._lost, self._waiting, self._free, fault)

    def _keep(self, take: _Take, picture: Picture) -> None:
        """Queue a picture, or note that the queue is full. Under the lock."""
        camera, sequence, size = picture.waiting.camera, picture.waiting.sequence, len(picture.waiting.jpeg)
        if self._waiting + size > self._config.queue_mb * 2**20:
            take.pending[camera] = (take.pending.get(camera, (sequence, sequence))[0], sequence)
            return
        self._tell_pending(take, camera)
        self._queue.append(_Keep(take.name, picture))
        self._waiting += size
        self._ready.notify()

    def _tell_pending(self, take: _Take, camera: str) -> None:
        if camera in take.pending:
            self._queue.append(_Lose(take.name, camera, *take.pending.pop(camera), "the node's disk was too slow"))
            self._ready.notify()

    def _end_take(self, reason: str) -> None:
        """Under the lock."""
        if self._take is not None:
            for camera in list(self._take.pending):
                self._tell_pending(self._take, camera)
            self._queue.append(_Close(self._take.name, reason))
            self._take = None
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                if not self._queue and not self._closing:
                    self._ready.wait(_LOOK_S)
                if not self._queue and self._closing:
                    return
                entry = self._queue[0] if self._queue else None
            self._look()
            if entry is None:
                continue
            self._write(entry)
            with self._ready:
                self._queue.popleft()
                if isinstance(entry, _Keep):
                    self._waiting -= len(entry.picture.waiting.jpeg)

    def _write(self, entry: _Entry) -> None:
        match entry:
            case _Keep(take, picture):
                camera, sequence = picture.waiting.camera, picture.waiting.sequence
                frame = picture.frame(self._node, self._incarnation)
                if self._blocked:
                    self._lose(take, camera, sequence, sequence, self._blocked)
                elif cause := self._try(take, camera, lambda writer: writer.frame(frame)):
                    self._lose(take, camera, sequence, sequence, cause)
                else:
                    with self._ready:
                        self._kept += 1
                    self._looked_bytes += len(picture.waiting.jpeg)
            case _Lose(take, camera, first, last, cause):
                self._lose(take, camera, first, last, cause)
            case _Close(take, reason):
                self._close_files(take, reason)

    def _try(self, take: str, camera: str, write: Callable[[SpoolWriter], None]) -> str:
        """Write to a camera's file, and before that the losses that it has not been told; the cause when that fails."""
        file = self._files.setdefault((take, camera), _File())
        try:
            if file.writer is None:
                path = self.folder / take / file_name(camera, self._incarnation)
                file.writer = self._make_writer(path)
            while file.runs:
                run = file.runs[0]
                file.writer.lost(run.first, run.last, run.text)
                del file.runs[0]
            write(file.writer)
        except MessageError as error:
            return f"its header cannot be written: {error}"[:90]
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._block("the node's disk was full" if full else f"the node's disk failed ({error.strerror})")
            return self._blocked
        return ""

    def _lose(self, take: str, camera: str, first: int, last: int, cause: str) -> None:
        """Note pictures as lost; the file is told when something can be written again, or when the take ends."""
        runs = self._files.setdefault((take, camera), _File()).runs
        if runs and runs[-1].cause == cause and runs[-1].last + 1 == first:
            runs[-1].last = last
        else:
            runs.append(_Run(first, last, cause, f"{cause} at {time.strftime('%H:%M:%S')}"))
        with self._ready:
            self._lost += last - first + 1
            self._losing = (time.monotonic(), f"pictures of take {take} are not kept: {cause}")
        if not self._blocked and (take, cause) not in self._said:
            self._said.add((take, cause))
            log.error("node %s: camera %s: pictures of take %s are not kept: %s", self._node, camera, take, cause)

    def _close_files(self, take: str, reason: str) -> None:
        for key in [key for key in self._files if key[0] == take]:
            file = self._files[key]
            self._try(*key, lambda writer: writer.end(reason))
            if file.runs:
                with self._ready:
                    known = self._unwritten.setdefault(key, [])
                    known += [(run.first, run.last, run.text) for run in file.runs]
            if file.writer is not None:
                try:
                    file.writer.close()
                except OSError as error:
                    log.error("node %s: %s: %s", self._node, file.writer.path, error.strerror)
            del self._files[key]
        self._said = {said for said in self._said if said[0] != take}
        with self._ready:
            self._open.discard(take)

    def _block(self, cause: str) -> None:
        """Keep nothing until the next look at the disk finds room. Said once."""
        if not self._blocked:
            fault = f"{cause} at {time.strftime('%H:%M:%S')}; pictures are not kept"
            log.error("node %s: spool %s: %s", self._node, self.folder, fault)
            with self._ready:
                self._fault = fault
        self._blocked = cause

    def _look(self) -> None:
        """At the disk's room, now and then, and when much was written."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S and self._looked_bytes < _LOOK_BYTES:
            return
        self._looked_at, self._looked_bytes = now, 0
        try:
            free, used = self._disk_free(existing(self.folder)), folder_bytes(self.folder)
            cause = room_fault(free, used, self._config)
            while cause and self._drop_released():
                free, used = self._disk_free(existing(self.folder)), folder_bytes(self.folder)
                cause = room_fault(free, used, self._config)
        except OSError as error:
            free, used, cause = 0, 0, f"the spool's folder cannot be looked at ({error.strerror})"
        with self._ready:
            self._free = max(0, free)
            rate = self._pre_roll.bytes_a_second()
            short = "" if cause else short_of_room(free, used, rate, self._config)
            said, self._short = self._short, short
        if short and not said:
            log.warning("node %s: spool %s: %s", self._node, self.folder, short)
        if cause:
            self._block(cause)
        elif self._blocked:
            log.info("node %s: spool %s: there is room again", self._node, self.folder)
            self._blocked = ""
            with self._ready:
                self._fault = ""

    def _drop_released(self) -> bool:
        """Delete the oldest take that the server has; False when there is none."""
        marks = sorted(self.folder.glob(f"*/{self._node}{RELEASED}"), key=lambda path: path.stat().st_mtime)
        for mark in marks[:1]:
            log.info("node %s: spool: take %s makes room, as the server has it", self._node, mark.parent.name)
            delete_take(mark.parent, self._cameras, self._node)
        return bool(marks)
