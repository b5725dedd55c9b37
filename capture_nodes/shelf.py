"""Answers what the server asks about takes in the spool: what is there, these pictures, delete it.

A thread of its own reads the disk; the link asks and takes the answers when nothing more urgent is to be sent. Answers
that wait are bounded in bytes, and a new question takes the place of the one under way.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from capture_nodes.spool import Spool
from capture_nodes.spool_file import Entry, Index, SpoolError, file_name, read_index, read_picture
from capture_nodes.spool_folder import RELEASED, delete_take, take_files
from protocol.clock import UNKNOWN_SIGMA_NS
from protocol.fields import MOST_LOST, MOST_SPANS
from protocol.frame_record import split_frame_record
from protocol.messages import (
    MOST_PARTS,
    Fetch,
    Fetched,
    Holding,
    Holdings,
    Inventory,
    Lost,
    MessageError,
    Release,
    Spooled,
    pack_control,
)
from protocol.spans import Span, Spans, numbers, of_numbers

log = logging.getLogger(__name__)

_WAITING_BYTES = 8 << 20  # of answers that nobody has sent yet
_INDICES = 8  # files whose index is kept in memory


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be sent: one message's parts, by the data socket or by the other."""

    parts: tuple[bytes | memoryview, ...]
    data: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.parts))


class Shelf:
    """Reads a node's spool for the server. ``start`` begins its thread, ``close`` ends it.

    wake: called when there is something to send. The spool is None where the rig has none; then nothing is held.
    """

    def __init__(self, node: str, cameras: Iterable[str], folder: Path, spool: Spool | None, wake: Callable[[], None]):
        self._node, self._cameras, self._folder = node, tuple(cameras), folder
        self._spool, self._wake = spool, wake
        self._ready = threading.Condition()
        self._question: Inventory | Fetch | None = None
        self._releases: deque[str] = deque(maxlen=1024)
        self._asked = 0  # counts questions, so that the thread sees that it works on an old one
        self._answers: deque[Answer] = deque()
        self._waiting = 0
        self._closing = False
        self._indices: OrderedDict[Path, Index] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name=f"{node}-shelf", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        self._thread.join()

    def ask(self, question: Inventory | Fetch | Release) -> None:
        """A question of the server; never waits."""
        with self._ready:
            if isinstance(question, Release):
                if question.take not in self._releases:
                    self._releases.append(question.take)
            else:
                self._forget()
                self._question = question
            self._ready.notify_all()

    def forget(self) -> None:
        """The connection is lost, and with it whoever asked."""
        with self._ready:
            self._forget()
            self._ready.notify_all()

    def next(self) -> Answer | None:
        """The oldest answer, taken out; ``unsent`` puts it back."""
        with self._ready:
            if not self._answers:
                return None
            answer = self._answers.popleft()
            self._waiting -= answer.size
            self._ready.notify_all()
            return answer

    def unsent(self, answer: Answer) -> None:
        """It could not be sent now."""
        with self._ready:
            self._answers.appendleft(answer)
            self._waiting += answer.size

    @property
    def waiting(self) -> bool:
        """Whether there is an answer to send; asked for every picture, and so without the lock."""
        return bool(self._answers)

    def _forget(self) -> None:
        self._asked += 1
        self._question = None
        self._answers.clear()
        self._waiting = 0

    def _run(self) -> None:
        while True:
            with self._ready:
                while not (self._question or self._releases or self._closing):
                    self._ready.wait()
                if self._closing:
                    return
                release = self._releases.popleft() if self._releases else None
                question, asked = (None, 0) if release else (self._question, self._asked)
                if question is not None:
                    self._question = None
            try:
                if release:
                    self._release(release)
                elif question is not None:
                    for answer in (
                        self._take_stock(question) if isinstance(question, Inventory) else self._read(question)
                    ):
                        if not self._put(answer, asked):
                            break
            except OSError as error:
                log.error("node %s: spool %s: %s", self._node, error.filename or self._folder, error.strerror)

    def _put(self, answer: Answer, asked: int) -> bool:
        """Queue an answer when there is room; False when its question is no longer of interest."""
        with self._ready:
            while self._answers and self._waiting + answer.size > _WAITING_BYTES and asked == self._asked:
                if self._closing:
                    return False
                self._ready.wait()
            if asked != self._asked or self._closing:
                return False
            self._answers.append(answer)
            self._waiting += answer.size
        self._wake()
        return True

    def _take_stock(self, question: Inventory) -> Iterator[Answer]:
        if self._spool and self._spool.is_open(question.take):
            yield _say(Holdings(question.number, question.take, 0, 1, False, ()))
            return
        holdings = []
        for path, camera, incarnation in take_files(self._folder / question.take, self._cameras):
            try:
                index = self._index(path)
            except SpoolError as error:
                log.error("node %s: %s: %s", self._node, path, error)
                continue
            lost = [*index.lost, *(self._spool.unwritten(question.take, camera) if self._spool else ())]
            held = _within(index.entries, question.start_ns, question.end_ns)
            holdings.append(Holding(camera, incarnation, held, tuple(sorted(lost))))
        parts = paged(holdings)
        for part, some in enumerate(parts):
            yield _say(Holdings(question.number, question.take, part, len(parts), True, some))

    def _read(self, question: Fetch) -> Iterator[Answer]:
        path = self._folder / question.take / file_name(question.camera, question.incarnation)
        spans, sent, size = question.spans, 0, 0
        lost: list[Lost] = []
        mark = pack_control(Spooled(question.number))
        try:
            entries = {entry.sequence: entry for entry in self._index(path).entries}
            with path.open("rb") as file:
                for sequence in numbers(spans):
                    if len(lost) >= MOST_LOST or (sent and size >= question.most_bytes):
                        break
                    entry = entries.get(sequence)
                    if entry is None:
                        lost.append((sequence, sequence, "not in the node's spool"))
                        continue
                    try:
                        head, jpeg = split_frame_record(read_picture(file, entry))
                    except MessageError:
                        lost.append((sequence, sequence, f"spool file damaged at byte {entry.offset}"))
                        continue
                    sent, size = sent + 1, size + len(jpeg)
                    yield Answer((head, jpeg, mark), data=True)
        except (OSError, SpoolError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.error("node %s: %s: %s", self._node, path, reason)
            lost = [(first, last, f"spool file cannot be read ({reason})"[:100]) for first, last in spans[:MOST_LOST]]
        yield Answer((pack_control(Fetched(question.number, sent, tuple(lost))),), data=True)

    def _release(self, take: str) -> None:
        folder = self._folder / take
        if (self._spool and self._spool.is_open(take)) or not folder.is_dir():
            return
        self._indices.clear()
        if self._spool and self._spool.keep:
            mark = folder / f"{self._node}{RELEASED}"
            if not mark.exists():
                mark.touch()
        else:
            delete_take(folder, self._cameras, self._node)
        log.info("node %s: the server has take %s", self._node, take)

    def _index(self, path: Path) -> Index:
        """The file's index; asked for only when it is no longer written."""
        if path not in self._indices:
            with path.open("rb") as file:
                self._indices[path] = read_index(file, path.stat().st_size)
        self._indices.move_to_end(path)
        while len(self._indices) > _INDICES:
            self._indices.popitem(last=False)
        return self._indices[path]


def _say(message: Holdings) -> Answer:
    return Answer((pack_control(message),), data=False)


def _within(entries: list[Entry], start_ns: int, end_ns: int) -> Spans:
    """Sequences from the first to the last picture exposed within the time.

    What lies between two that are inside is inside: a clock that was set does not tear a hole into a take. Pictures
    from before the server's clock was known are timed by the first of the same process that knew it; where none did,
    all are inside.
    """
    known = [entry.offset_ns for entry in entries if entry.sigma_ns < UNKNOWN_SIGMA_NS]
    if not known:
        return of_numbers(entry.sequence for entry in entries)
    inside = [
        place
        for place, entry in enumerate(entries)
        if start_ns <= entry.node_ns + (entry.offset_ns if entry.sigma_ns < UNKNOWN_SIGMA_NS else known[0]) <= end_ns
    ]
    return of_numbers(entry.sequence for entry in entries[inside[0] : inside[-1] + 1]) if inside else ()


def paged(holdings: list[Holding]) -> list[tuple[Holding, ...]]:
    """Holdings cut so that each part fits into a message; at least one part, at most ``MOST_PARTS``."""
    parts: list[tuple[Holding, ...]] = []
    part: list[Holding] = []
    spans_left, lost_left = MOST_SPANS, MOST_LOST
    for whole in holdings:
        held, lost = list[Span](whole.held), list(whole.lost)
        while True:
            some, few = tuple(held[:spans_left]), tuple(lost[:lost_left])
            part.append(Holding(whole.camera, whole.incarnation, some, few))
            del held[: len(some)], lost[: len(few)]
            spans_left, lost_left = spans_left - len(some), lost_left - len(few)
            if not held and not lost and spans_left and lost_left and len(part) < MOST_LOST:
                break
            parts.append(tuple(part))
            part, spans_left, lost_left = [], MOST_SPANS, MOST_LOST
            if not held and not lost:
                break
    if part or not parts:
        parts.append(tuple(part))
    return parts[:MOST_PARTS]
