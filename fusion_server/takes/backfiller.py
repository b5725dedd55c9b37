"""Runs backfill beside the server: one take after the other, newest first, never while one is recorded.

A thread of its own does everything that touches the disk; the receiver's thread puts answers into an inbox that is
bounded in bytes. Whoever starts it again, or interrupts it, loses nothing: what has come is in ``backfill.mcap``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_server.receive import Receiver
from fusion_server.takes.account import Missing
from fusion_server.takes.backfill import TakeBackfill
from fusion_server.takes.backfill_file import BackfillFile
from fusion_server.takes.contents import Contents, read_info, write_info
from fusion_server.takes.layout import INFO_NAME, MCAP_NAME, TakeError
from protocol.fields import is_take
from protocol.messages import Fetched, Frame, Holdings, Release
from protocol.rig import Rig

log = logging.getLogger(__name__)

_INBOX_BYTES = 64 << 20
_SMALL = 65_536  # bytes that an answer without a picture is taken for
_WAIT_S = 0.05
_RETRY_S = 60.0  # before a take that failed (a full disk) is tried again
_GATHER_S = 3.0  # after a start: nodes find their server one by one
_MOST_RELEASES = 256  # takes that a node which comes back is told it may delete
_NOBODY = "(none in the rig file)"  # the node of a camera that has left the rig since
_MOST_LISTED = 10_000  # entries of ``missing`` in take.json


@dataclass
class _Job:
    path: Path
    info: dict[str, Any]
    work: TakeBackfill
    fps: float
    file: BackfillFile | None = None
    said: str = ""


@dataclass(frozen=True)
class _Letter:
    node: str
    size: int
    number: int = 0
    frame: Frame | None = None
    message: Holdings | Fetched | None = None


@dataclass
class _Queue:
    """Takes that want their pictures, and why one cannot be had now."""

    waiting: list[Path] = field(default_factory=list)  # newest first
    parked: dict[Path, frozenset[str]] = field(default_factory=dict)  # takes and the nodes that were there in vain
    failed: dict[Path, float] = field(default_factory=dict)  # takes and when they may be tried again


class Backfiller:
    """``start`` begins, ``add`` gives it a take that has ended, ``stop`` ends it. Is the receiver's ``answers``.

    takes: folder whose unfinished takes of this rig are looked for at the start, unless ``only`` names the one that is
    wanted. recording(): the folder of the take that runs, or None. on_done(path, info): a take was settled.
    """

    def __init__(
        self,
        rig: Rig,
        receiver: Receiver,
        recording: Callable[[], Path | None],
        *,
        only: Path | None = None,
        on_done: Callable[[Path, dict[str, Any]], None] = lambda path, info: None,
    ):
        self._rig, self._receiver, self._recording = rig, receiver, recording
        self._only, self._on_done = only, on_done
        self._ready = threading.Condition()
        self._inbox: deque[_Letter] = deque()
        self._inbox_bytes = 0
        self._added: deque[Path] = deque()
        self._status: dict[str, Any] = {
            "take": None,
            "done": 0,
            "total": 0,
            "waiting_for": [],
            "stuck": 0,
            "opening": False,
            "fault": "",
        }
        self._stop = threading.Event()
        self._queue = _Queue()
        self._job: _Job | None = None
        self._settled: list[str] = []  # newest last
        self._greeted: dict[str, int] = {}  # nodes that were told of settled takes, and their incarnation
        self._thread = threading.Thread(target=self._run, name="backfill", daemon=True)
        self._hurried_at = time.monotonic() + _GATHER_S
        self._look_for_takes()  # here: a take that is begun from now on is none that was cut short
        self._status["queued"] = len(self._queue.waiting)
        receiver.answers = self

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what has come stays. May be called twice."""
        self._stop.set()
        with self._ready:
            self._ready.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def waiting(self) -> list[Path]:
        """Takes that wanted pictures when this was made, the newest first; before ``start``."""
        return list(self._queue.waiting)

    def add(self, take: Path) -> None:
        """A take has ended; its folder."""
        with self._ready:
            self._added.append(take)
            self._status["queued"] += 1
            self._ready.notify()

    def status(self) -> dict[str, Any]:
        """The state at this moment, as plain values; from any thread.

        take: the one in hand, None when there is none. opening: it is being read, which takes a while for a long one.
        done, total: its pictures to fetch. waiting_for: nodes. queued: takes that want pictures, this one included.
        stuck: those of them for which nothing can be done now, as their nodes are away or the disk is full. fault: one
        line, empty while there is none.
        """
        with self._ready:
            return dict(self._status)

    def wait_idle(self, seconds: float) -> bool:
        """Wait for so long at most until no take wants pictures; False when one still does."""
        end = time.monotonic() + seconds
        while self._thread.is_alive() and not self._stop.is_set():
            with self._ready:
                if not self._status["queued"]:
                    return True
            if time.monotonic() >= end:
                return False
            time.sleep(_WAIT_S)
        return True

    def spooled(self, node: str, number: int, frame: Frame) -> bool:
        """From the receiver: a frame out of a node's spool."""
        return self._post(_Letter(node, len(frame.jpeg), number=number, frame=frame))

    def answered(self, node: str, message: Holdings | Fetched) -> bool:
        """From the receiver: any other answer."""
        return self._post(_Letter(node, _SMALL, message=message))

    def _post(self, letter: _Letter) -> bool:
        with self._ready:
            job = self._job
            if job is None or self._inbox_bytes + letter.size > _INBOX_BYTES:
                return False
            self._inbox.append(letter)
            self._inbox_bytes += letter.size
            self._ready.notify()
            return True

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._step()
        except Exception as error:
            log.exception("backfill failed")
            with self._ready:
                self._status["fault"] = f"backfill failed: {error!r}"
        finally:
            self._drop_job()

    def _step(self) -> None:
        with self._ready:
            if not self._inbox and not self._added:
                self._ready.wait(_WAIT_S)
            added = list(self._added)
            self._added.clear()
        for path in added:
            self._queue.waiting.insert(0, path)
        connected = self._connected()
        self._greet(connected)
        if self._recording() is not None:
            self._deliver()
            self._tell()
            return
        if self._job is None:
            self._next_job(connected)
        try:
            self._deliver()
            if self._job is not None:
                self._ask(self._job, connected)
        except TakeError as error:
            self._fail(error)
        self._tell()

    def _connected(self) -> frozenset[str]:
        return frozenset(name for name, node in self._receiver.nodes().items() if node["connected"])

    def _ask(self, job: _Job, connected: frozenset[str]) -> None:
        now = time.monotonic()
        for node, question in job.work.questions(connected, now):
            self._receiver.tell(node, question)
        if job.work.done:
            self._settle(job)
        elif not any(name in connected for name in self._unfinished(job)):
            self._park(job, connected)

    def _unfinished(self, job: _Job) -> list[str]:
        return job.work.waiting_for(())

    def _deliver(self) -> None:
        """Everything in the inbox to the take in hand."""
        while True:
            with self._ready:
                if not self._inbox:
                    return
                letter = self._inbox.popleft()
                self._inbox_bytes -= letter.size
                job = self._job
            if job is None:
                continue
            now = time.monotonic()
            if letter.frame is not None:
                header = letter.frame.header
                if job.work.expects(letter.node, letter.number, header):
                    if job.file is None:
                        job.file = BackfillFile(job.path, job.info["cameras"])
                    job.file.append(letter.frame)
                    job.work.frame(letter.node, letter.number, header, now)
            elif isinstance(letter.message, Holdings):
                job.work.holdings(letter.node, letter.message, now)
            elif letter.message is not None:
                job.work.fetched_all(letter.node, letter.message)

    def _look_for_takes(self) -> None:
        """Takes of this rig that want pictures, newest first; those that are whole are remembered to be released."""
        found = []
        folder = self._rig.server.takes
        for path in [self._only] if self._only else sorted(folder.glob(f"*/{INFO_NAME}")):
            path = path.parent if path.name == INFO_NAME else path
            try:
                info = read_info(path)
            except TakeError as error:
                log.warning("backfill: %s", error)
                continue
            if info.get("rig") != self._rig.name or not (path / MCAP_NAME).exists():
                continue
            if info.get("settled") and not self._only:
                self._settled.append(path.name)
            else:
                found.append((info["started_ns"], path))
        self._queue.waiting = [path for _, path in sorted(found, reverse=True)]
        if found and not self._only:
            log.info("backfill: takes that want pictures: %s", ", ".join(path.name for path in self._queue.waiting))

    def _next_job(self, connected: frozenset[str]) -> None:
        queue, now = self._queue, time.monotonic()
        if now < self._hurried_at and len(connected) < len(self._rig.nodes):
            return
        queue.waiting += [path for path, there in queue.parked.items() if connected - there]
        queue.parked = {path: there & connected for path, there in queue.parked.items() if not connected - there}
        queue.waiting += [path for path, at in queue.failed.items() if now >= at]
        queue.failed = {path: at for path, at in queue.failed.items() if now < at}
        while queue.waiting and self._job is None:
            path = queue.waiting.pop(0)
            with self._ready:
                self._status |= {"take": path.name, "done": 0, "total": 0, "opening": True}
            try:
                job = self._open(path)
            except TakeError as error:
                self._failed(path, error)
            else:
                with self._ready:
                    self._job = job

    def _open(self, path: Path) -> _Job:
        info, contents = read_info(path), Contents(path)
        if not is_take(path.name):
            raise TakeError(f"{path}: no name for a take; nodes know it by its first one")
        if "ended_ns" not in info:
            info |= {"ended_ns": max(contents.last_written_ns, info["started_ns"]), "cut": True}
            log.warning("backfill: %s was cut short; it ends with the last that was written", path.name)
        nodes: dict[str, list[str]] = {}
        owners = {camera.id: camera.node for camera in self._rig.cameras}
        for camera in info["cameras"]:
            nodes.setdefault(owners.get(camera, _NOBODY), []).append(camera)
        work = TakeBackfill(path.name, info["started_ns"], info["ended_ns"], nodes, contents.seen, time.time_ns())
        return _Job(path, info, work, float(info.get("fps", self._rig.fps)))

    def _settle(self, job: _Job) -> None:
        missing = job.work.account(job.fps)
        if job.file is not None:
            job.file.finish()
        _sync(job.path / MCAP_NAME)
        self._write(job, missing, settled=True)
        for node, release in job.work.releases():
            self._receiver.tell(node, release)
        self._settled.append(job.path.name)
        state = (
            "complete" if not missing else f"{sum(m.frames for m in missing)} pictures are gone; take.json lists them"
        )
        log.info("backfill: %s: %d pictures fetched; %s", job.path.name, job.work.fetched, state)
        with self._ready:
            self._job = None
            self._status["fault"] = ""
        self._on_done(job.path, job.info)

    def _park(self, job: _Job, connected: frozenset[str]) -> None:
        """Nobody is there who could add to it: say what is missing now, and go on with another."""
        missing = job.work.account(job.fps)
        if job.file is not None:
            job.file.close()
        self._write(job, missing, settled=False)
        away = ", ".join(job.work.waiting_for(connected))
        log.info("backfill: %s waits for %s", job.path.name, away)
        self._queue.parked[job.path] = connected
        with self._ready:
            self._job = None

    def _write(self, job: _Job, missing: list[Missing], *, settled: bool) -> None:
        listed = [entry.to_dict() for entry in missing[:_MOST_LISTED]]
        job.info |= {
            "complete": not missing,
            "settled": settled,
            "frames": {camera: len(seen) for camera, seen in sorted(job.work.seen.items())},
            "missing_frames": sum(entry.frames for entry in missing),
            "missing": listed,
        }
        if len(missing) > len(listed):
            job.info["missing_not_listed"] = len(missing) - len(listed)
        try:
            write_info(job.path, job.info)
        except OSError as error:
            raise TakeError(f"{job.path / INFO_NAME}: cannot be written ({error.strerror})") from None

    def _fail(self, error: TakeError) -> None:
        if self._job is not None:
            path = self._job.path
            self._drop_job()
            self._failed(path, error)

    def _failed(self, path: Path, error: TakeError) -> None:
        log.error("backfill: %s; will be tried again", error)
        self._queue.failed[path] = time.monotonic() + _RETRY_S
        with self._ready:
            self._status["fault"] = str(error)

    def _drop_job(self) -> None:
        with self._ready:
            job, self._job = self._job, None
            self._inbox.clear()
            self._inbox_bytes = 0
        if job is not None and job.file is not None:
            try:
                job.file.close()
            except TakeError as error:
                log.error("backfill: %s", error)

    def _greet(self, connected: frozenset[str]) -> None:
        """A node that comes may have missed that takes are safe."""
        nodes = self._receiver.nodes()
        for name in connected:
            if self._greeted.get(name) != nodes[name]["incarnation"]:
                self._greeted[name] = nodes[name]["incarnation"]
                for take in self._settled[-_MOST_RELEASES:]:
                    self._receiver.tell(name, Release(take))

    def _tell(self) -> None:
        job, queue = self._job, self._queue
        wanted = job.work.wanted if job else 0
        stuck = len(queue.parked) + len(queue.failed)
        status = {
            "take": job.path.name if job else None,
            "done": job.work.fetched if job else 0,
            "total": job.work.fetched + wanted if job else 0,
            "waiting_for": job.work.waiting_for(self._connected()) if job else [],
            "stuck": stuck,
            "opening": False,
        }
        with self._ready:
            self._status |= {**status, "queued": bool(job) + len(queue.waiting) + len(self._added) + stuck}


def _sync(path: Path) -> None:
    """See that a file is on the disk itself: nodes delete theirs after this."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise TakeError(f"{path}: cannot be written ({error.strerror})") from None
