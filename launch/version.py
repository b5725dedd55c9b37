"""Which headstream this is: its version, and a print of the code that nodes and server must have in common."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

_SHARED = ("protocol", "capture_nodes")  # the rooms that run on a node


@dataclass(frozen=True)
class Version:
    """``number`` is the release's; ``code`` is 12 hex digits that change with any line of the node's code."""

    number: str
    code: str

    def __str__(self) -> str:
        return f"{self.number} ({self.code})"


def version() -> Version:
    """That of the code that runs."""
    root = Path(__file__).parents[1]
    print_ = hashlib.sha256()
    for room in _SHARED:
        for path in sorted((root / room).rglob("*.py")):
            print_.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    try:
        number = importlib.metadata.version("headstream")
    except importlib.metadata.PackageNotFoundError:
        number = "0"
    return Version(number, print_.hexdigest()[:12])
