"""How a node's service is, as its PC says it to whoever asks, and the files that a keeper writes."""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from protocol.errors import HeadstreamError

RUNNING, WAITING, FINISHED, STOPPED = "running", "waiting", "finished", "stopped"
_FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, process
_FOLDER = ".headstream"  # beside the rig file


class ServiceError(HeadstreamError):
    """A service that cannot be started, ended or asked; the message says why."""


@dataclass(frozen=True)
class NodeState:
    """One node's process on its PC.

    state: ``running``; ``waiting`` (it died and is started again in a moment); ``finished`` (its cameras have nothing
    more to give); ``stopped``. manager: ``systemd`` or ``keeper``. since: when it got there, seconds since 1970.
    restarts: since ``start``. last_exit: of the last process that ended; below zero: killed by that signal.
    """

    node: str
    state: str
    manager: str
    pid: int | None = None
    since: float | None = None
    restarts: int = 0
    last_exit: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> NodeState:
        """What another PC said. Raises ServiceError when that is no state."""
        kinds: dict[str, tuple[type, ...]] = {
            "node": (str,),
            "state": (str,),
            "manager": (str,),
            "pid": (int, type(None)),
            "since": (int, float, type(None)),
            "restarts": (int,),
            "last_exit": (int, type(None)),
            "note": (str,),
        }
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            raise ServiceError("the PC's answer is no state of a node; is its headstream another version?")
        for name, value in data.items():
            if not isinstance(value, kinds[name]) or (isinstance(value, str) and not value.isprintable()):
                raise ServiceError(f"the PC's answer has {name} = {value!r:.60}; is its headstream another version?")
        return cls(**data)


@dataclass(frozen=True)
class KeeperFiles:
    """Where the keeper of one node keeps what others must find: beside the rig file, in ``.headstream``."""

    lock: Path  # held by the keeper while it lives: the kernel lets go of it however that ends
    state: Path
    log: Path

    @classmethod
    def of(cls, rig: Path, node: str) -> KeeperFiles:
        """Those of a node of the rig file ``rig``."""
        folder = rig.parent / _FOLDER
        return cls(folder / f"{node}.lock", folder / f"{node}.json", folder / f"{node}.log")

    def holder(self) -> int | None:
        """The keeper that lives, by its process id; None when there is none. The kernel knows, no file can be stale."""
        try:
            file = os.open(self.lock, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        finally:
            os.close(file)
        return None if kind == fcntl.F_UNLCK else pid

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lock, as the keeper does. False: another process has it."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                yield False
            else:
                yield True
        finally:
            os.close(file)

    def write(self, keeper: int, state: NodeState) -> None:
        """The keeper's process and what it says; a reader never sees half of it."""
        scratch = self.state.with_suffix(".part")
        scratch.write_text(json.dumps({"keeper": keeper, "state": state.to_json()}), encoding="utf-8")
        scratch.replace(self.state)

    def read(self) -> tuple[int, NodeState] | None:
        """What was last written; None when nothing was, or nothing that can be read."""
        try:
            data = json.loads(self.state.read_text(encoding="utf-8"))
            return int(data["keeper"]), NodeState.from_json(data["state"])
        except (OSError, ValueError, KeyError, TypeError, ServiceError):
            return None
