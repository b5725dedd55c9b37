"""The newest pictures of a node, kept in memory for a take of which it hears late. Pure: no clock is read here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from capture_nodes.outbox import Waiting
from protocol.clock import UNKNOWN_SIGMA_NS
from protocol.messages import Frame

# The node's time, ns -> what to add to it for the server's and one standard deviation of that, ns. From any thread.
Clock: TypeAlias = Callable[[int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture and what was known of the clock when it came."""

    waiting: Waiting
    offset_ns: int
    sigma_ns: int

    @property
    def capture_ns(self) -> int:
        """Exposure on the server's clock."""
        return self.waiting.captured.node_ns + self.offset_ns

    def frame(self, node: str, incarnation: int) -> Frame:
        """As it is spooled."""
        return self.waiting.frame(node, incarnation, self.offset_ns, self.sigma_ns)

    @property
    def timed(self) -> bool:
        """Whether the server's clock was known at all."""
        return self.sigma_ns < UNKNOWN_SIGMA_NS


class PreRoll:
    """The newest pictures of all cameras, bounded in bytes; the oldest goes first."""

    def __init__(self, max_bytes: int):
        self._pictures: deque[Picture] = deque()
        self._max_bytes = max_bytes
        self.bytes = 0

    def add(self, picture: Picture) -> None:
        """Keep it, and let go of the oldest beyond the bound."""
        self._pictures.append(picture)
        self.bytes += len(picture.waiting.jpeg)
        while self.bytes > self._max_bytes:
            self.bytes -= len(self._pictures.popleft().waiting.jpeg)

    def since(self, start_ns: int, clock: Clock) -> list[Picture]:
        """Those exposed at a moment of the server's clock or later.

        Pictures from before the clock was known are timed by what is known now; while nothing is, all are taken.
        """
        timed = [p if p.timed else Picture(p.waiting, *clock(p.waiting.captured.node_ns)) for p in self._pictures]
        return [picture for picture in timed if not picture.timed or picture.capture_ns >= start_ns]

    def bytes_a_second(self) -> float:
        """The rate at which pictures come; 0 where too few have come to tell."""
        if len(self._pictures) < 2:
            return 0.0
        span_ns = self._pictures[-1].waiting.captured.node_ns - self._pictures[0].waiting.captured.node_ns
        return self.bytes * 1e9 / span_ns if span_ns > 0 else 0.0
