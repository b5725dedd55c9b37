"""What waits at a node to be sent: the newest few frames of each camera, and the credit to send them with.

Knows no socket and no clock: times are handed in. Safe between the threads of the cameras and the one that sends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from capture_nodes.drivers.base import Captured
from protocol.messages import Frame, FrameHeader


@dataclass(frozen=True, slots=True)
class Waiting:
    """One encoded picture that is not sent yet."""

    camera: str
    sequence: int
    captured: Captured
    jpeg: bytes

    def frame(self, node: str, incarnation: int, offset_ns: int, sigma_ns: int) -> Frame:
        """As it travels, and as it is spooled: with what is known of the clock's offset at its exposure."""
        captured = self.captured
        header = FrameHeader(
            camera=self.camera,
            node=node,
            sequence=self.sequence,
            trigger=captured.trigger,
            device_ns=captured.device_ns,
            node_ns=captured.node_ns,
            offset_ns=offset_ns,
            offset_sigma_ns=sigma_ns,
            width=captured.width,
            height=captured.height,
            incarnation=incarnation,
        )
        return Frame(header, self.jpeg)


@dataclass(slots=True)
class Counts:
    """One camera since the node started. captured = sent + dropped + waiting, missed pictures being dropped ones."""

    captured: int = 0
    sent: int = 0
    dropped: int = 0
    errors: int = 0


@dataclass(slots=True)
class _Queue:
    frames: deque[Waiting] = field(default_factory=deque)
    bytes: int = 0
    credit: int = 0
    granted_at: float = 0.0
    counts: Counts = field(default_factory=Counts)

    @property
    def since_ns(self) -> int:
        """Exposure of its oldest frame."""
        return self.frames[0].captured.node_ns


class Outbox:
    """Bounded in frames and in bytes for each camera; beyond that the oldest unsent frame is dropped and counted."""

    def __init__(self, cameras: Iterable[str], *, frames: int, max_bytes: int):
        """frames: of each camera, and the most credit that it collects; max_bytes: of all cameras together."""
        self._queues = {camera: _Queue() for camera in cameras}
        self._frames = frames
        self._bytes = max_bytes // max(1, len(self._queues))
        self._lock = threading.Lock()

    def put(self, camera: str, captured: Captured, jpeg: bytes) -> Waiting:
        """A new picture, as it waits from now on. It takes the camera's next sequence number."""
        with self._lock:
            queue = self._queues[camera]
            waiting = Waiting(camera, queue.counts.captured, captured, jpeg)
            queue.frames.append(waiting)
            queue.bytes += len(jpeg)
            queue.counts.captured += 1
            self._drop_beyond_bounds(queue)
            return waiting

    def missed(self, camera: str, pictures: int) -> tuple[int, int]:
        """Pictures that the camera took and nobody read: captured and dropped. Returns the first and last of the
        sequence numbers that they take."""
        with self._lock:
            counts = self._queues[camera].counts
            counts.captured += pictures
            counts.dropped += pictures
            return counts.captured - pictures, counts.captured - 1

    def failed(self, camera: str) -> None:
        """An attempt that brought no picture."""
        with self._lock:
            self._queues[camera].counts.errors += 1

    def next(self) -> Waiting | None:
        """The oldest frame that there is credit for, taken out to be sent; ``unsent`` takes that back."""
        with self._lock:
            oldest: _Queue | None = None
            for queue in self._queues.values():
                if queue.credit and queue.frames and (oldest is None or queue.since_ns < oldest.since_ns):
                    oldest = queue
            if oldest is None:
                return None
            waiting = oldest.frames.popleft()
            oldest.bytes -= len(waiting.jpeg)
            oldest.counts.sent += 1
            oldest.credit -= 1
            return waiting

    def unsent(self, waiting: Waiting) -> None:
        """The frame could not be sent: it has its credit back, and its place, if newer ones have left it one."""
        with self._lock:
            queue = self._queues[waiting.camera]
            queue.counts.sent -= 1
            queue.credit = min(self._frames, queue.credit + 1)
            queue.frames.appendleft(waiting)
            queue.bytes += len(waiting.jpeg)
            self._drop_beyond_bounds(queue)

    def grant(self, camera: str, frames: int, now: float) -> bool:
        """Credit from the server; False for a camera that is not this node's."""
        with self._lock:
            queue = self._queues.get(camera)
            if queue is None:
                return False
            queue.credit = min(self._frames, queue.credit + frames)
            queue.granted_at = now
            return True

    def forget_credit(self, now: float) -> None:
        """The connection is a new one: what was granted on the old one is void."""
        with self._lock:
            for queue in self._queues.values():
                queue.credit, queue.granted_at = 0, now

    def starving(self, now: float, seconds: float) -> bool:
        """Whether a camera has frames, no credit, and has been granted none for so long."""
        with self._lock:
            queues = self._queues.values()
            return any(q.frames and not q.credit and now - q.granted_at >= seconds for q in queues)

    def counts(self) -> dict[str, Counts]:
        """A copy of every camera's counts."""
        with self._lock:
            return {
                camera: Counts(c.captured, c.sent, c.dropped, c.errors)
                for camera, c in ((camera, queue.counts) for camera, queue in self._queues.items())
            }

    @property
    def waiting(self) -> int:
        """Frames of all cameras that wait; without the lock, as each number is one at some moment of this call."""
        return sum([len(queue.frames) for queue in self._queues.values()])

    @property
    def waiting_bytes(self) -> int:
        """Bytes of all frames that wait."""
        with self._lock:
            return sum(queue.bytes for queue in self._queues.values())

    def _drop_beyond_bounds(self, queue: _Queue) -> None:
        while len(queue.frames) > self._frames or queue.bytes > self._bytes:
            queue.bytes -= len(queue.frames.popleft().jpeg)
            queue.counts.dropped += 1
