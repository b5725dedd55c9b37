"""How long to wait before a process that ended is started again."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Pauses in seconds: ``first``, doubled each time up to ``longest``; after ``steady`` s of life from the start."""

    first: float = 1.0
    longest: float = 30.0
    steady: float = 60.0
    _next: float = field(default=0.0, init=False)

    def pause(self, ran_s: float) -> float:
        """The pause for a process that has just ended after running ``ran_s`` seconds."""
        pause = self.first if ran_s >= self.steady or not self._next else self._next
        self._next = min(2 * pause, self.longest)
        return pause
