"""How every process logs: lines for people or, with ``HEADSTREAM_LOG_FORMAT=json``, one JSON object a line.

    {"time": "2026-03-01T10:15:00.123Z", "level": "WARNING", "logger": "capture_nodes.link", "message": "...",
     "node": "pc1", "camera": "cam03"}

``node`` and ``camera`` stand there where they are known; ``exception`` has the traceback of a bug. The level is
``HEADSTREAM_LOG``. The formats are made here and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from protocol.errors import HeadstreamError

FORMAT, LEVEL = "HEADSTREAM_LOG_FORMAT", "HEADSTREAM_LOG"
_FORMATS = ("text", "json")
_ABOUT = re.compile(r"\b(node|camera) ([A-Za-z0-9][A-Za-z0-9_.-]{0,63})(?=[\s:,;)]|$)")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class JsonFormatter(logging.Formatter):
    """One JSON object a line; ``known`` is what every line of this process is about, such as its node."""

    def __init__(self, known: Mapping[str, str] | None = None):
        super().__init__()
        self.known = dict(known or {})

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        message = record.getMessage()
        entry: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            **{kind: name.rstrip(".") for kind, name in reversed(_ABOUT.findall(message))},
            **self.known,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """Set up the root logger on stderr. Raises HeadstreamError for a format or level that there is not."""
    level = environment.get(LEVEL, "INFO").upper()
    if level not in _LEVELS:
        raise HeadstreamError(f"{LEVEL}: {level!r}; must be one of {', '.join(_LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    if is_json(environment):
        handler.setFormatter(JsonFormatter())
    else:
        text = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(text, datefmt="%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def is_json(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether lines are for machines. Raises HeadstreamError for a format that there is not."""
    chosen = environment.get(FORMAT, "text")
    if chosen not in _FORMATS:
        raise HeadstreamError(f"{FORMAT}: {chosen!r}; must be {' or '.join(map(repr, _FORMATS))}")
    return chosen == "json"


def bind(**known: str) -> None:
    """From now on every JSON line of this process says this, too: ``bind(node="pc1")``."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.known.update(known)


def relayed(process: str, line: str, environment: Mapping[str, str] = os.environ) -> str:
    """A line of a child process as its parent prints it: with the child's name, in the format that is chosen."""
    if not is_json(environment):
        return f"[{process}] {line}"
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):  # a line for people, such as the server's status, or of a library
        entry = {"time": _stamp(time.time()), "level": "INFO", "logger": "output", "message": line}
    return json.dumps({**entry, "process": process}, ensure_ascii=False)


def _stamp(seconds: float) -> str:
    """UTC with milliseconds."""
    whole, part = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{part:03d}Z"
