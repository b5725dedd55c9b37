"""Every process of a rig on this machine: started, watched, and ended by their own ids.

Children run in process groups of their own, so that Ctrl-C reaches only the parent, which ends them in order: the
server first, which closes its take and fetches what it missed from the nodes, then these. Should the parent be killed
outright, the kernel tells each child (``follow_parent``), so that none is left behind.

On one machine they share its cores, and cameras do not wait: the server, which takes all that it can get, gives way to
the nodes, which want little and want it at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from protocol.rig import Rig

PARENT = "HEADSTREAM_PARENT"  # a child's environment: the process to end with
_PR_SET_PDEATHSIG = 1
_GRACE = 10.0  # seconds a child has to end cleanly; the server may have a take to close
_GIVES_WAY = 5  # added to the server's niceness


class Child:
    """One process; its output goes line by line to ``on_line(name, line)``, which threads may call at the same time.

    gives_way: how much nicer than this process it is to others on the machine.
    """

    def __init__(
        self, name: str, arguments: list[str], on_line: Callable[[str, str], None], gives_way: int = 0
    ) -> None:
        self.name = name
        self.started = time.monotonic()
        self._asked = False
        environment = {**os.environ, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # not into the same pipe: a long line of one would be cut by a line of the other
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
        if gives_way:  # before it has threads, which take over what it has
            os.setpriority(os.PRIO_PROCESS, self.process.pid, os.getpriority(os.PRIO_PROCESS, 0) + gives_way)
        assert self.process.stdout is not None and self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, on_line), daemon=True, name=f"read {name}")
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], on_line: Callable[[str, str], None]) -> None:
        for line in stream:
            on_line(self.name, line.rstrip("\n"))

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def ask_to_end(self) -> None:
        """Ask it to end, once however often this is called, and do not wait.

        A second SIGTERM can meet a Python that is shutting down and has no handler any more; it would kill a process
        that was ending cleanly.
        """
        if self.returncode is None and not self._asked:
            self._asked = True
            self.process.terminate()

    def end(self, grace: float = _GRACE) -> int:
        """Ask it to end, insist after ``grace`` seconds; returns its exit status."""
        self.ask_to_end()
        if self.returncode is None:
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        for reader in self._readers:
            reader.join(2.0)
        return code


class LocalRig:
    """A rig's server and nodes as child processes. Use as a context: leaving it ends them all."""

    def __init__(
        self, path: Path, rig: Rig, on_line: Callable[[str, str], None], serve_arguments: tuple[str, ...] = ()
    ) -> None:
        self._path = path
        self._rig = rig
        self._on_line = on_line
        self._serve_arguments = serve_arguments
        self.server: Child | None = None
        self.nodes: list[Child] = []

    def __enter__(self) -> LocalRig:
        self.server = Child("server", ["serve", str(self._path), *self._serve_arguments], self._on_line, _GIVES_WAY)
        self.nodes = [self._start(name) for name in self._rig.nodes]
        return self

    def _start(self, node: str) -> Child:
        return Child(node, ["node", str(self._path), "--name", node], self._on_line)

    def __exit__(self, *_: object) -> None:
        if self.server:
            self.server.end(grace=60.0)
        for node in self.nodes:
            node.ask_to_end()
        for node in self.nodes:
            node.end()

    def start_again(self, node: Child) -> None:
        """A new process in the place of a node's that has ended."""
        node.end()
        self.nodes[self.nodes.index(node)] = self._start(node.name)

    def dead(self) -> list[Child]:
        """Children that ended although nobody asked them to."""
        children = [*self.nodes, *([self.server] if self.server else [])]
        return [child for child in children if child.returncode is not None]


def how_it_ended(code: int) -> str:
    """An exit status in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"


def follow_parent() -> None:
    """In a child: end when the process that started it does, however it ends (Linux; elsewhere the parent's own end
    of its children must do)."""
    parent = os.environ.get(PARENT)
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before we asked to be told
        os.kill(os.getpid(), signal.SIGTERM)


def until_asked_to_stop() -> threading.Event:
    """An event that SIGINT and SIGTERM set. Main thread only."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
