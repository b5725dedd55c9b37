"""Start, end, ask and read one node's service on this PC, whoever keeps it: systemd where it works, else our keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from launch.service import systemd
from launch.service.keeper import ALREADY, STARTING
from launch.service.state import RUNNING, STOPPED, WAITING, KeeperFiles, NodeState, ServiceError
from protocol.rig import load_rig

_START_S = 20.0
_SETTLED_S = 1.0  # after its first word; a node that cannot start has ended by then
_STOP_S = 20.0  # more than the keeper gives its node
_LOOK_S = 0.05


def start(rig: Path, node: str) -> NodeState:
    """Start the node unless it runs. Raises ServiceError, and RigError for a rig file that has no such node."""
    load_rig(rig).cameras_of(node)
    files = KeeperFiles.of(rig, node)
    if files.holder():
        return _with_age(status(rig, node), rig, "ran already")
    if systemd.available():
        before = systemd.state(rig, node)
        after = systemd.start(rig, node)
        return _with_age(after, rig, "ran already") if before.state == RUNNING else after
    _detach(rig, node, files)
    return status(rig, node)


def stop(rig: Path, node: str) -> NodeState:
    """End the node; it is well when it did not run. Raises ServiceError."""
    files = KeeperFiles.of(rig, node)
    if files.holder():
        _end_keeper(node, files)
        return status(rig, node)
    return systemd.stop(rig, node) if systemd.available() else status(rig, node)


def status(rig: Path, node: str) -> NodeState:
    """How the node is. Raises ServiceError."""
    files = KeeperFiles.of(rig, node)
    known, holder = files.read(), files.holder()
    if holder:
        if known and known[0] == holder:
            return known[1]
        return NodeState(node, WAITING, "keeper", note="it is being started")
    if systemd.available():
        return systemd.state(rig, node)
    if known is None:
        return NodeState(node, STOPPED, "keeper", note="never started")
    state = known[1]
    if state.pid is not None:  # its last word is that the node runs
        note = "its keeper was killed, or the PC went down"
        return NodeState(node, STOPPED, "keeper", None, state.since, state.restarts, state.last_exit, note)
    return state


def log_lines(rig: Path, node: str, lines: int, follow: bool, stopped: Callable[[], bool]) -> Iterator[str]:
    """The last so many lines of the node's output, then what comes, until ``stopped()``. Raises ServiceError."""
    files = KeeperFiles.of(rig, node)
    if not files.log.exists() and systemd.available():
        yield from _output_of(systemd.log_command(rig, node, lines, follow))
        return
    try:
        file = files.log.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise ServiceError(f"node {node} has no log yet ({files.log}); it was never started here") from None
    with file:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))
    if follow:
        yield from _what_comes(files.log, stopped)


def _what_comes(path: Path, stopped: Callable[[], bool]) -> Iterator[str]:
    """Lines that are added to a file, across its being turned over."""
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, os.SEEK_END)
    half = ""
    try:
        while not stopped():
            line = file.readline()
            if line.endswith("\n"):
                yield half + line.rstrip("\n")
                half = ""
                continue
            half += line
            try:
                turned = os.stat(path).st_ino != os.fstat(file.fileno()).st_ino
            except FileNotFoundError:  # between the old one and the new
                turned = False
            if turned and not line:
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(_LOOK_S)
    finally:
        file.close()


def _output_of(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield line.rstrip("\n")
        finally:
            process.terminate()


def _detach(rig: Path, node: str, files: KeeperFiles) -> None:
    """Start a keeper that outlives this process and its login, and wait until the node has run for a moment."""
    files.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.cli", "service", "keep", str(rig.resolve()), "--name", node]
    with files.log.open("ab") as log:
        keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        known = files.read()
        if known and known[0] == keeper.pid and known[1].state != RUNNING:
            return
        settled = known and known[1].note != STARTING and time.time() - (known[1].since or 0.0) > _SETTLED_S
        if known and known[0] == keeper.pid and settled:
            return
        if keeper.poll() is not None:
            if keeper.returncode == ALREADY:  # another start was quicker
                return
            raise ServiceError(f"node {node}: its keeper ended with status {keeper.returncode}; see {files.log}")
        time.sleep(_LOOK_S)
    if files.holder() is None:
        keeper.terminate()
        raise ServiceError(f"node {node}: its keeper did not start in {_START_S:g} s; see {files.log}")


def _end_keeper(node: str, files: KeeperFiles) -> None:
    for number, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, 2.0)):
        keeper = files.holder()
        if keeper is None:
            return
        os.kill(keeper, number)
        deadline = time.monotonic() + patience
        while files.holder() == keeper:
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_S)
        else:
            return
    raise ServiceError(f"node {node}: its keeper, process {files.holder()}, does not end")


def _with_age(state: NodeState, rig: Path, note: str) -> NodeState:
    """Say so when the rig file is younger than the process that read it."""
    if state.since is not None and rig.stat().st_mtime > state.since:
        note = "ran already, with an older rig file: stop it, then start it"
    return NodeState(**{**state.to_json(), "note": note})
