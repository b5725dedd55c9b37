"""A node's spool folder: how much room there is, which files a take has, and how they are deleted.

<spool>/<take>/<camera>-<incarnation>.spool     one file a camera and process (``spool_file``)
<spool>/<take>/<node>.released                  the server has what this node holds of the take
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from capture_nodes.spool_file import SUFFIX, parse_file_name
from protocol.rig import SpoolConfig

RELEASED = ".released"
_SHORT_MINUTES = 5.0  # less room for a take than this is worth a warning


def room_fault(free: int, used: int, config: SpoolConfig) -> str:
    """Why no more may be written; empty when it may. free: bytes on the disk; used: bytes of the spool."""
    if free < config.min_free_bytes:
        return f"less than {config.min_free_gb:g} GB free (spool.min_free_gb)"
    if used > config.max_bytes:
        return f"the spool holds {config.max_gb:g} GB (spool.max_gb)"
    return ""


def short_of_room(free: int, used: int, bytes_a_second: float, config: SpoolConfig) -> str:
    """A line when a take would not go on for a few minutes; empty when it would, or nothing is known of the rate."""
    room = min(free - config.min_free_bytes, config.max_bytes - used)
    if bytes_a_second <= 0 or room >= bytes_a_second * 60 * _SHORT_MINUTES:
        return ""
    return f"room for {room / bytes_a_second / 60:.1f} minutes of recording, {room / 1e9:.1f} GB; free some"


def folder_bytes(folder: Path) -> int:
    """Bytes of every spool file below the folder."""
    total = 0
    for path in folder.glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another node of this machine has just deleted it
            total += path.stat().st_size
    return total


def take_files(folder: Path, cameras: Iterable[str]) -> list[tuple[Path, str, int]]:
    """Files that these cameras have in a take's folder, with camera and incarnation; the oldest of a camera first."""
    own = set(cameras)
    found = [(path, parsed) for path in folder.glob(f"*{SUFFIX}") if (parsed := parse_file_name(path.name))]
    files = [(path, camera, incarnation) for path, (camera, incarnation) in found if camera in own]
    return sorted(files, key=lambda file: file[1:])


def delete_take(folder: Path, cameras: Iterable[str], node: str) -> None:
    """Delete what a node keeps of a take; the folder goes with the last node's files. Raises OSError."""
    for path, _, _ in take_files(folder, cameras):
        path.unlink(missing_ok=True)
    (folder / f"{node}{RELEASED}").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # files of other nodes of this machine
        folder.rmdir()


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
