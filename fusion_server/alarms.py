"""What an operator must know now: conditions that hold, with hysteresis. Pure: times are handed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

RAISE_AFTER_S = 1.0  # a condition must hold for so long
CLEAR_AFTER_S = 3.0  # and be gone for so long


@dataclass(frozen=True)
class Alarm:
    """Something that is wrong and lasts."""

    key: str  # what, and of whom: ``drift:pc1``
    text: str  # one line: what is wrong, and what to do
    since_ns: int  # server clock


@dataclass(frozen=True)
class Change:
    """An alarm that was raised or cleared."""

    alarm: Alarm
    raised: bool

    @property
    def line(self) -> str:
        """For the log and the take."""
        return f"alarm: {self.alarm.text}" if self.raised else f"alarm over: {self.alarm.text}"


@dataclass
class _State:
    wrong_since: float | None = None
    right_since: float | None = None
    alarm: Alarm | None = None


class Alarms:
    """``set`` says how each condition stands, as often as one likes; ``changes``, what that raised or cleared."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._changes: list[Change] = []

    def set(
        self,
        key: str,
        wrong: bool | None,
        text: str,
        now_s: float,
        wall_ns: int,
        *,
        raise_after_s: float = RAISE_AFTER_S,
        clear_after_s: float = CLEAR_AFTER_S,
    ) -> None:
        """Whether something is wrong now; None: neither clearly so nor clearly not, which leaves things as they are.

        ``now_s`` is any clock that does not go back, ``wall_ns`` the server's. The text of a raised alarm follows.
        """
        state = self._states.setdefault(key, _State())
        if wrong:
            state.right_since = None
            state.wrong_since = now_s if state.wrong_since is None else state.wrong_since
            if state.alarm is not None:
                state.alarm = Alarm(key, text, state.alarm.since_ns)
            elif now_s - state.wrong_since >= raise_after_s:
                state.alarm = Alarm(key, text, wall_ns)
                self._changes.append(Change(state.alarm, True))
        elif wrong is None:
            state.right_since = None
            state.wrong_since = None if state.alarm is None else state.wrong_since
        else:
            state.wrong_since = None
            state.right_since = now_s if state.right_since is None else state.right_since
            if state.alarm is not None and now_s - state.right_since >= clear_after_s:
                self._changes.append(Change(state.alarm, False))
                state.alarm = None

    def changes(self) -> list[Change]:
        """What was raised and cleared since this was last asked, oldest first."""
        changes, self._changes = self._changes, []
        return changes

    @property
    def active(self) -> tuple[Alarm, ...]:
        """The raised ones, oldest first."""
        raised = [state.alarm for state in self._states.values() if state.alarm is not None]
        return tuple(sorted(raised, key=lambda alarm: (alarm.since_ns, alarm.key)))

    def keys(self, prefix: str) -> Iterable[str]:
        """Every key that was ever set and begins so."""
        return [key for key in self._states if key.startswith(prefix)]
