"""``headstream up``: a rig's server and nodes on this machine, until Ctrl-C or until one of them dies."""

from __future__ import annotations

import sys
from pathlib import Path

from launch.local import LocalRig, until_asked_to_stop
from launch.logs import relayed
from protocol.rig import load_rig


def run_up(path: Path, record: str | None) -> int:
    """Returns 0 after Ctrl-C, 1 when the server died. A node that dies is started again by whoever mends its PC."""
    stop = until_asked_to_stop()
    rig = load_rig(path)
    arguments = ("--record", record) if record else ()
    said: set[str] = set()
    with LocalRig(path, rig, _print, arguments) as local:
        while not stop.wait(0.5):
            for child in local.dead():
                if child.name not in said:
                    said.add(child.name)
                    _print("up", f"{child.name} ended with status {child.returncode}")
            if "server" in said:
                return 1
            if len(said) == len(rig.nodes):
                _print("up", "no node is left")
                return 1
    return 0


def _print(name: str, line: str) -> None:
    print(relayed(name, line), file=sys.stdout, flush=True)
