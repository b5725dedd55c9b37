"""``headstream up``: a rig's server and nodes on this machine, until Ctrl-C or until the server dies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch.backoff import Backoff
from launch.local import LocalRig, how_it_ended, until_asked_to_stop
from launch.logs import relayed
from protocol.rig import load_rig


def run_up(path: Path, record: str | None) -> int:
    """Returns 0 after Ctrl-C or when every node has finished, 1 when the server died.

    A node that dies is started again, after a pause that grows while it keeps dying. The server is not: its take has
    ended with it, and who records must know.
    """
    stop = until_asked_to_stop()
    rig = load_rig(path)
    arguments = ("--record", record) if record else ()
    with LocalRig(path, rig, _print, arguments) as local:
        revival = Revival(local, lambda text: _print("up", text))
        while not stop.wait(0.2):
            if local.server and local.server.returncode is not None:
                _print("up", f"the server {how_it_ended(local.server.returncode)}")
                return 1
            if not revival.look(time.monotonic()):
                _print("up", "every node has finished")
                return 0
    return 0


class Revival:
    """Starts nodes again that died. One that ended with status 0 has finished and is left alone."""

    def __init__(self, local: LocalRig, say: Callable[[str], None]) -> None:
        self._local, self._say = local, say
        self._backoffs = {node.name: Backoff() for node in local.nodes}
        self._due: dict[str, float] = {}
        self._finished: set[str] = set()

    def look(self, now: float) -> bool:
        """See how the nodes are at this time (monotonic, s), and start those whose pause is over.

        False when all have finished.
        """
        for node in self._local.nodes:
            code = node.returncode
            if code is None or node.name in self._finished:
                continue
            if code == 0:
                self._finished.add(node.name)
                self._say(f"{node.name} has finished")
            elif node.name not in self._due:
                pause = self._backoffs[node.name].pause(now - node.started)
                self._due[node.name] = now + pause
                self._say(f"{node.name} {how_it_ended(code)}; started again in {pause:g} s")
            elif now >= self._due[node.name]:
                del self._due[node.name]
                self._local.start_again(node)
        return len(self._finished) < len(self._local.nodes)


def _print(name: str, line: str) -> None:
    print(relayed(name, line), file=sys.stdout, flush=True)
