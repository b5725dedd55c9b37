"""The keeper: one small process that keeps a node running where there is no systemd to do it.

It holds a lock for as long as it lives, so there is one keeper a node however often it is started, and writes the
node's output into a log file that is turned over at 10 MB, three old ones kept.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import threading
import time
from pathlib import Path

from launch.backoff import Backoff
from launch.local import Child, how_it_ended
from launch.service.state import FINISHED, RUNNING, STOPPED, WAITING, KeeperFiles, NodeState

STARTING = "starting"  # the note of a node that has not said a word yet
ALREADY = 3  # exit status: another keeper has this node
_LOG_BYTES, _OLD_LOGS = 10 << 20, 3
_LOOK_S = 0.1
_LONGEST_NOTE = 500  # characters


def keep(rig: Path, node: str, stop: threading.Event, backoff: Backoff | None = None) -> int:
    """Run the node until ``stop`` is set or it has finished, and start it again when it dies; returns 0 or ALREADY."""
    files = KeeperFiles.of(rig, node)
    with files.hold() as ours:
        if not ours:
            return ALREADY
        log = _log_file(files.log)
        try:
            _Keeper(rig, node, files, log, backoff or Backoff()).run(stop)
        finally:
            log.handlers[0].close()
    return 0


class _Keeper:
    def __init__(self, rig: Path, node: str, files: KeeperFiles, log: logging.Logger, backoff: Backoff) -> None:
        self._rig, self._node, self._files, self._log, self._backoff = rig, node, files, log, backoff
        self._restarts = 0
        self._last_exit: int | None = None
        self._heard = threading.Event()  # the node has printed something
        self._last_line = ""  # of the node's output: why it ended, when it ended by itself

    def run(self, stop: threading.Event) -> None:
        arguments = ["node", str(self._rig), "--name", self._node]
        while not stop.is_set():
            began = time.monotonic()
            self._heard.clear()
            child = Child(self._node, arguments, self._hear)
            self._say(RUNNING, child.process.pid, STARTING)
            starting = True
            while child.returncode is None and not stop.wait(_LOOK_S):
                if starting and self._heard.is_set():
                    self._say(RUNNING, child.process.pid)
                    starting = False
            self._last_exit = child.end()
            if stop.is_set():
                break
            if self._last_exit == 0:
                self._note("has finished")
                self._say(FINISHED)
                return
            pause = self._backoff.pause(time.monotonic() - began)
            self._note(f"{how_it_ended(self._last_exit)}; started again in {pause:g} s")
            self._say(WAITING, note=self._last_line)
            if not stop.wait(pause):
                self._restarts += 1
        self._note("was told to stop")
        self._say(STOPPED)

    def _hear(self, _: str, line: str) -> None:
        self._log.info("%s", line)
        self._heard.set()
        if line.strip():
            self._last_line = "".join(c if c.isprintable() else " " for c in line[:_LONGEST_NOTE])

    def _note(self, text: str) -> None:
        self._log.info("%s W keeper: node %s %s", time.strftime("%H:%M:%S"), self._node, text)

    def _say(self, state: str, pid: int | None = None, note: str = "") -> None:
        known = NodeState(self._node, state, "keeper", pid, time.time(), self._restarts, self._last_exit, note)
        self._files.write(os.getpid(), known)


def _log_file(path: Path) -> logging.Logger:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_OLD_LOGS, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("keeper", logging.INFO)  # not of the tree: the node's lines are no log of this process
    logger.addHandler(handler)
    return logger
