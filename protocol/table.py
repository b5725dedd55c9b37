"""Tables of a TOML file read into dataclasses: the class says keys, types, defaults, limits, and nothing else is taken.

    @dataclass(frozen=True)
    class SyncConfig:
        mode: str = chosen("trigger", "trigger", "time")
        wait_ms: float = limited(100.0, 1, 10_000)

A field without default must be given. Types: str, bool, int, float, pathlib.Path, dict.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, TypeVar

from protocol.errors import HeadstreamError

T = TypeVar("T")
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", Path: "a path", dict: "a table"}


def limited(default: Any, low: float, high: float) -> Any:
    """A number with limits, both included."""
    return field(default=default, metadata={"limits": (low, high)})


def chosen(default: str, *choices: str) -> Any:
    """One of a few words."""
    return field(default=default, metadata={"choices": choices})


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'xyz'?`` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse_table(cls: type[T], data: Any, where: str, path: str, error: type[HeadstreamError]) -> T:
    """An instance of the dataclass ``cls`` from a TOML table.

    where: the file; path: the table's place in it, as ``camera[3]`` (empty for the file itself). Raises ``error``
    with both for a key that is unknown, missing, of the wrong type or out of its limits.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where}: {path}: {shown(data)}; must be a table")
    prefix = f"{where}: {path}." if path else f"{where}: "
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise error(f"{prefix}{named(key)}: unknown key{nearest(key, known)}; known are {', '.join(known)}")
    kinds = typing.get_type_hints(cls)
    values = {}
    for name, spec in known.items():
        kind = typing.get_origin(kinds[name]) or kinds[name]
        if name in data:
            values[name] = _value(data[name], kind, spec.metadata, f"{prefix}{name}", error)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise error(f"{prefix}{name}: missing; must be {_WORDS[kind]}")
    return cls(**values)


def named(key: str) -> str:
    """A key out of a file as an error line shows it: as it stands there, in quotes and cut when it is strange."""
    return key if re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", key) else shown(key)


def shown(value: Any) -> str:
    """A value out of a file as an error line shows it: as TOML would write it, cut when long."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _value(value: Any, kind: Any, metadata: Mapping[str, Any], where: str, error: type[HeadstreamError]) -> Any:
    choices, limits = metadata.get("choices"), metadata.get("limits")
    if choices is not None:
        if not isinstance(value, str) or value not in choices:
            hint = nearest(value, choices) if isinstance(value, str) else ""
            raise error(f"{where}: {shown(value)}; must be {' or '.join(map(repr, choices))}{hint}")
        return value
    must = _WORDS[kind] + (f" from {limits[0]:g} to {limits[1]:g}" if limits else "")
    taken = {float: (int, float), Path: (str,)}.get(kind, (kind,))
    if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
        raise error(f"{where}: {shown(value)}; must be {must}")
    if limits and not limits[0] <= value <= limits[1]:  # nan fails here too
        raise error(f"{where}: {shown(value)}; must be {must}")
    if kind is Path and not value:
        raise error(f"{where}: empty; must be {must}")
    return dict(value) if kind is dict else kind(value)
