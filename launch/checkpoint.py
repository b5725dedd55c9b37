"""What an interrupted ``reconstruct`` needs to go on as if nothing had happened: the tracker's state, frame by frame.

    <out>/.reconstruct/job.json        what is being done; another job begins anew
    <out>/.reconstruct/entries.jsonl   the report's entry of each frame
    <out>/.reconstruct/state           frames done, bytes of entries that count, and the reconstructor after them

``state`` is replaced as a whole, after everything that it counts has been written: a process killed at any moment
leaves the last frame's state or the one before. It is a pickle of the project's own dataclasses and of arrays; reading
takes nothing else, so a folder from elsewhere runs no code.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import shutil
import zlib
from pathlib import Path
from typing import Any

from protocol.errors import HeadstreamError

FOLDER = ".reconstruct"
_ROOMS = ("fusion_server.", "geometry.", "protocol.")
_ARRAYS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


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
        data = pickle.dumps((self.done, self._bytes, self.stage, state), protocol=5)
        _replace(self.folder / "state", zlib.crc32(data).to_bytes(4, "little") + data)

    def _load(self) -> bool:
        held = _read(self.folder / "state")
        if len(held) < 4 or zlib.crc32(held[4:]) != int.from_bytes(held[:4], "little"):
            return False
        try:
            self.done, self._bytes, self.stage, self.state = _Ours(io.BytesIO(held[4:])).load()
        except (pickle.UnpicklingError, AttributeError, ImportError, TypeError, ValueError, EOFError):
            return False  # of another version of the program
        lines = _read(self.folder / "entries.jsonl")[: self._bytes].splitlines()
        self.entries = [json.loads(line) for line in lines]
        return len(self.entries) == self.done


class _Ours(pickle.Unpickler):
    """Makes nothing but arrays and classes of the project."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return super().find_class(module, name)
        if module.startswith(_ROOMS) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a checkpoint")


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
