"""When a node says Hello on one of its sockets (``protocol.messages``: announcing). Pure: times are handed in."""

from __future__ import annotations

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_REFUSED_PAUSE_S = 5.0
_ABSENT_PAUSE_S = 0.1  # a Hello that found nobody cost nothing


class Announcement:
    """One socket's Hellos, from the first to the Welcome that answers the latest, and again when the server is lost."""

    def __init__(self) -> None:
        self.welcomed = False
        self.number = 0
        self._pause = _FIRST_PAUSE_S
        self._at = 0.0

    def due(self, now: float) -> bool:
        """Whether a Hello is to be said now."""
        return not self.welcomed and now >= self._at

    def wait(self, now: float) -> float | None:
        """Seconds until a Hello is due; None when none will be."""
        return None if self.welcomed else max(0.0, self._at - now)

    def next_number(self) -> int:
        """The number of the next Hello."""
        self.number += 1
        return self.number

    def said(self, now: float) -> None:
        """The Hello is on its way; the next one waits twice as long."""
        self._at = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)

    def nobody(self, now: float) -> None:
        """There is no connection that could have taken the Hello."""
        self._at = now + _ABSENT_PAUSE_S
        self._pause = _FIRST_PAUSE_S

    def answered(self, number: int) -> bool:
        """A Welcome came; True when it answers the latest Hello, which makes it count."""
        if self.welcomed or number != self.number:
            return False
        self.welcomed = True
        return True

    def refused(self, now: float) -> None:
        """The server does not want this node; asking again may help once its rig file is mended."""
        self.welcomed = False
        self._at = now + _REFUSED_PAUSE_S

    def lost(self, now: float) -> None:
        """The server forgot this node or is gone: start again."""
        self.welcomed = False
        self._pause = _FIRST_PAUSE_S
        self._at = now
