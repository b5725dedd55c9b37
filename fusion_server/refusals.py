"""What was refused, and why: counted by reason, and logged so that a flood of nonsense does not fill the log.

The first of a kind is said at once, the rest as one line every ten seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from protocol.messages import MessageError

log = logging.getLogger(__name__)

_SUMMARY_S = 10.0
_MOST_KINDS = 256  # that are logged one by one; strangers can make up any number of names


class Refusals:
    """``counts`` may be asked for by any thread; everything else belongs to the one that receives."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._logged: set[tuple[str, str]] = set()
        self._unsaid: Counter[tuple[str, str]] = Counter()
        self._summary_at = 0.0
        self._lock = threading.Lock()

    def counts(self) -> dict[str, int]:
        """Messages refused since the start, by reason."""
        with self._lock:
            return dict(self._counts)

    def add(self, error: MessageError, who: str) -> None:
        """One message; who: the camera or node that it is laid to."""
        with self._lock:
            self._counts[error.reason] += 1
        kind = (error.reason, who)
        if kind in self._logged:
            self._unsaid[kind] += 1
        elif len(self._logged) < _MOST_KINDS:
            self._logged.add(kind)
            log.warning("refused (%s): %s", error.reason, error)
        else:
            self._unsaid[error.reason, "others"] += 1

    def add_unnamed(self, reason: str, count: int) -> None:
        """So many of which nobody knows more; none is a count, too."""
        if count:
            with self._lock:
                self._counts[reason] += count
            self._unsaid[reason, "others"] += count

    def summarise(self) -> None:
        """Call often: says now and then what has come since."""
        now = time.monotonic()
        if now < self._summary_at:
            return
        self._summary_at = now + _SUMMARY_S
        if self._unsaid:
            parts = [f"{count} x {reason} of {who}" for (reason, who), count in self._unsaid.most_common(8)]
            log.warning("refused in the last %d s: %s", _SUMMARY_S, ", ".join(parts))
            self._unsaid.clear()
