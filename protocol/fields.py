"""What a field of a message may be: one check for each kind, which returns the value or refuses it.

A check gets a stranger's value and the name that an error gives it, as ``grant.frames``. Whatever the value is, the
only thing that it raises is MessageError.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from protocol.errors import HeadstreamError
from protocol.spans import Spans

MOST_SPANS, MOST_LOST = 1024, 128  # of one message; LARGEST_CONTROL holds that many whatever their numbers are
LATEST = 2**62  # ns; a clock and an offset add up to less than 2**63
COUNT = 2**62
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TAKE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")  # a slate and its number; nodes make a folder of it
MOST_CAMERAS = 256  # of one node


class MessageError(HeadstreamError):
    """A message that cannot be taken. ``reason`` is one word to count by.

    This module's reasons: ``version``, ``malformed``, ``oversized``, ``crc``.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


def is_name(value: object) -> bool:
    """Whether this can name a node or a camera: 1 to 64 of ``A-Z a-z 0-9 _ . -``, a letter or digit first."""
    return type(value) is str and _names(value)


@functools.lru_cache(maxsize=1024)  # each picture names the same few
def _names(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def is_take(value: object) -> bool:
    """Whether this can name a take: as a node or camera, of up to 80 characters."""
    return type(value) is str and _TAKE.fullmatch(value) is not None


def brief(value: object) -> str:
    """A stranger's value, fit for a log line."""
    text = ascii(str(value)[:60]) if isinstance(value, Exception) else ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


Check: TypeAlias = Callable[[Any, str], Any]


def named(value: Any, where: str) -> str:
    """That of a node or a camera."""
    if not is_name(value):
        raise MessageError("malformed", f"{where}: {brief(value)} is no name")
    return value


def whole(low: int, high: int) -> Check:
    """A whole number within limits, both included."""

    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            text = f"{where}: {brief(value)}; must be a whole number from {low} to {high}"
            raise MessageError("malformed", text)
        return value

    return check


def line(longest: int) -> Check:
    """One line for a person."""

    def check(value: Any, where: str) -> str:
        if type(value) is not str or len(value) > longest or not all(c.isprintable() for c in value):
            raise MessageError("malformed", f"{where}: must be a line of at most {longest} characters")
        return value

    return check


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise MessageError("malformed", f"{where}: {brief(value)}; must be true or false")
    return value


def rate(value: Any, where: str) -> float:
    """Times a second."""
    if type(value) is not float or not math.isfinite(value) or not 0 <= value <= 1e6:
        raise MessageError("malformed", f"{where}: {brief(value)}; must be a rate")
    return value


def drift(value: Any, where: str) -> float:
    """Of a clock, parts in a million."""
    if type(value) is not float or not math.isfinite(value) or not -1e6 <= value <= 1e6:
        raise MessageError("malformed", f"{where}: {brief(value)}; must be parts in a million")
    return value


def several(check: Check) -> Check:
    """A list, as long as a node has cameras at most."""

    def check_all(values: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(values, (list, tuple)) or len(values) > MOST_CAMERAS:
            raise MessageError("malformed", f"{where}: must be a list of at most {MOST_CAMERAS}")
        return tuple(check(value, where) for value in values)

    return check_all


def nested(cls: type[Any], checks: tuple[Check, ...]) -> Check:
    """A dataclass inside a message: a list of its fields."""

    def check(value: Any, where: str) -> Any:
        values = as_list(value) if isinstance(value, cls) else value
        if not isinstance(values, (list, tuple)) or len(values) != len(checks):
            raise MessageError("malformed", f"{where}: must be a list of {len(checks)} fields")
        return cls(*(inner(field, where) for inner, field in zip(checks, values, strict=True)))

    return check


def as_list(value: Any) -> list[Any]:
    """The fields of a dataclass inside a message, as it is packed. Raises TypeError for anything else."""
    if not is_dataclass(value):
        raise TypeError(f"cannot pack a {type(value).__name__}")
    return [getattr(value, each.name) for each in fields(value)]


def separate_spans(value: Any, where: str) -> Spans:
    """Sorted spans that do not touch."""
    spans = tuple((first, last) for first, last, _ in _pieces(value, where, MOST_SPANS, 2))
    for before, after in pairwise(spans):
        if after[0] <= before[1] + 1:
            raise MessageError("malformed", f"{where}: spans must ascend and not touch")
    return spans


def losses(value: Any, where: str) -> tuple[tuple[int, int, str], ...]:
    """First and last sequence of what was lost, and why."""
    return tuple((first, last, line(100)(why, where)) for first, last, why in _pieces(value, where, MOST_LOST, 3))


def _pieces(value: Any, where: str, most: int, numbers: int) -> Iterator[tuple[int, int, Any]]:
    if not isinstance(value, (list, tuple)) or len(value) > most:
        raise MessageError("malformed", f"{where}: must be a list of at most {most}")
    for piece in value:
        if not isinstance(piece, (list, tuple)) or len(piece) != numbers:
            raise MessageError("malformed", f"{where}: must be lists of {numbers}")
        first, last = count(piece[0], where), count(piece[1], where)
        if last < first:
            raise MessageError("malformed", f"{where}: {first} to {last} is no span")
        yield first, last, piece[-1]


def take_name(value: Any, where: str) -> str:
    """That of a take."""
    if not is_take(value):
        raise MessageError("malformed", f"{where}: {brief(value)} is no take's name")
    return value


def take_or_none(value: Any, where: str) -> str:
    """That of a take, or empty."""
    return value if value == "" and type(value) is str else take_name(value, where)


count, nanoseconds = whole(0, COUNT), whole(0, LATEST)
