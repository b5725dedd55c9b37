"""What pictures a take's folder holds, and its ``take.json``: the part of backfill that knows the disk."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from fusion_server.takes.account import Seen
from fusion_server.takes.layout import BACKFILL_NAME, INFO_NAME, MCAP_NAME, TakeError
from fusion_server.takes.mcap_index import McapIndex
from protocol.frame_record import LARGEST_HEAD, read_header
from protocol.messages import MessageError


def read_info(take: Path) -> dict[str, Any]:
    """``take.json``. Raises TakeError when it cannot be read."""
    path = take / INFO_NAME
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TakeError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise TakeError(f"{path}: not JSON ({error})") from None
    if not isinstance(info, dict) or type(info.get("started_ns")) is not int:
        raise TakeError(f"{path}: not what headstream writes; it has no started_ns")
    return info


def write_info(take: Path, info: dict[str, Any]) -> None:
    """Replace ``take.json``; no reader sees half of it. Raises OSError."""
    scratch = take / (INFO_NAME + ".part")
    scratch.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    scratch.replace(take / INFO_NAME)


class Contents:
    """The pictures that a take has, by camera. Reads every header and no picture. Raises TakeError."""

    def __init__(self, take: Path):
        self.seen: dict[str, set[Seen]] = {}
        self.damaged = 0  # headers that cannot be read
        try:
            main = McapIndex(take / MCAP_NAME)
        except (FileNotFoundError, NotADirectoryError):
            raise TakeError(f"{take}: no take; a take is a folder with {MCAP_NAME}") from None
        self.last_written_ns = main.last_written_ns
        self._read(main)
        with contextlib.suppress(FileNotFoundError):
            self._read(McapIndex(take / BACKFILL_NAME))

    def _read(self, index: McapIndex) -> None:
        with index.path.open("rb") as file:
            for camera in index.cameras:
                seen = self.seen.setdefault(camera, set())
                for _, place in index.of_camera(camera):
                    head = os.pread(file.fileno(), min(place.length, LARGEST_HEAD), place.offset)
                    try:
                        h = read_header(head)
                    except MessageError:
                        self.damaged += 1
                    else:
                        seen.add(Seen(h.incarnation, h.sequence, h.trigger, h.capture_ns))
