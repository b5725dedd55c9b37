"""What an interrupted ``reconstruct`` needs to go on as if nothing had happened: the tracker's state, frame by frame.

    <out>/.reconstruct/job.json        what is being done; another job begins anew
    <out>/.reconstruct/entries.jsonl   the report's entry of each frame
    <out>/.reconstruct/state           frames done, bytes of entries that count, and the reconstructor after them

``state`` is replaced as a whole, after everything that it counts has been written: a process killed at any moment
leaves the last frame's state or the one before. It holds arrays and the project's own classes (``launch.freeze``), so
that a folder from elsewhere runs no code.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

from launch.freeze import FreezeError, freeze, thaw
from protocol.errors import HeadstreamError

FOLDER = ".reconstruct"
_ROOMS = ("fusion_server.", "geometry.", "protocol.")


class Checkpoint:
    """The state of one job in the folder of its results."""

    def __init__(self, out: Path, job: dict[str, Any]):
        """Take up what lies there if it is of the same job, as plain values; else begin anew."""
        self.folder = out / FOLDER
        self.done, self.stage, self.state = 0, "", None
        self.entries: list[dict[str, Any]] = []
        self._bytes = 0
        text = json.dumps(job, indent=1, sort_keys=True)
        if _read(self.folder / "job.json") != text.encode() or not self._load():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self.folder / "job.json", text.encode())
            self.done, self.stage, self.state, self.entries, self._bytes = 0, "", None, [], 0

    def frame(self, entry: dict[str, Any], state: Any) -> None:
        """One more frame is done and on disk; ``state`` is what the next one starts from."""
        line = json.dumps(entry).encode() + b"\n"
        with (self.folder / "entries.jsonl").open("ab") as file:
            file.truncate(self._bytes)
            file.write(line)
        self._bytes += len(line)
        self.entries.append(entry)
        self.done += 1
        self._save(state)

    def enter(self, stage: str) -> None:
        """All frames are done, and so is everything before this stage."""
        self.stage = stage
        self._save(None)

    def clear(self) -> None:
        """The job is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, state: Any) -> None:
        data = freeze((self.done, self._bytes, self.stage, state), _ROOMS)
        _replace(self.folder / "state", zlib.crc32(data).to_bytes(4, "little") + data)

    def _load(self) -> bool:
        held = _read(self.folder / "state")
        if len(held) < 4 or zlib.crc32(held[4:]) != int.from_bytes(held[:4], "little"):
            return False
        try:
            self.done, self._bytes, self.stage, self.state = thaw(held[4:], _ROOMS)
        except (FreezeError, TypeError, ValueError):
            return False  # of another version of the program
        lines = _read(self.folder / "entries.jsonl")[: self._bytes].splitlines()
        self.entries = [json.loads(line) for line in lines]
        return len(self.entries) == self.done


def fingerprint(value: Any) -> Any:
    """Dataclasses and paths as plain values that can be compared."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: fingerprint(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value.resolve()) if isinstance(value, Path) else value


def _read(path: Path) -> bytes:
    """Empty where there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise HeadstreamError(f"{path}: cannot be read ({error.strerror})") from None


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(data)
    scratch.replace(path)
