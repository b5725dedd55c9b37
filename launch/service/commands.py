"""``headstream service``: this PC's node as a service. `headstream start RIG` and its like call it on every PC."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.service.state import NodeState

app = typer.Typer(help="One node of a rig as a service of this PC (what `headstream start RIG` does on every PC).")

RigPath = Annotated[Path, typer.Argument(metavar="RIG", help="the rig file, rig.toml")]
NodeName = Annotated[str, typer.Option("--name", help="which of the rig's nodes")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print for machines")]


@app.command()
def start(rig: RigPath, name: NodeName, as_json: JsonFlag = False) -> None:
    """Start the node, unless it runs, and keep it running."""
    from launch.service import control

    _say(control.start(rig, name), as_json)


@app.command()
def stop(rig: RigPath, name: NodeName, as_json: JsonFlag = False) -> None:
    """End the node."""
    from launch.service import control

    _say(control.stop(rig, name), as_json)


@app.command()
def status(rig: RigPath, name: NodeName, as_json: JsonFlag = False) -> None:
    """How the node is."""
    from launch.service import control

    _say(control.status(rig, name), as_json)


@app.command()
def logs(
    rig: RigPath,
    name: NodeName,
    lines: Annotated[int, typer.Option(min=0, help="so many of the last lines")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="and what comes, until Ctrl-C")] = False,
    attached: Annotated[bool, typer.Option("--attached", hidden=True, help="end when standard input does")] = False,
) -> None:
    """What the node printed."""
    import threading

    from launch.local import until_asked_to_stop
    from launch.service import control

    stop = until_asked_to_stop()
    if attached:  # SSH tells a process that says nothing of a broken connection in no other way

        def wait_for_end() -> None:
            while sys.stdin.read(4096):
                pass
            stop.set()

        threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        for line in control.log_lines(rig, name, lines, follow, stop.is_set):
            print(line, flush=True)
    except BrokenPipeError:  # who listened has gone
        sys.stderr.close()


@app.command(hidden=True)
def keep(rig: RigPath, name: NodeName) -> None:
    """Be the node's keeper, until SIGTERM."""
    from launch.local import until_asked_to_stop
    from launch.service.keeper import keep as run

    raise typer.Exit(run(rig, name, until_asked_to_stop()))


def state_line(state: NodeState) -> str:
    """One line for people."""
    parts = [f"{state.state} ({state.manager})"]
    if state.pid:
        parts.append(f"process {state.pid}")
    if state.restarts:
        parts.append(f"started again {state.restarts} times")
    if state.last_exit is not None:
        from launch.local import how_it_ended

        parts.append(f"the last one {how_it_ended(state.last_exit)}")
    return ", ".join(parts) + (f"; {state.note}" if state.note else "")


def _say(state: NodeState, as_json: bool) -> None:
    print(json.dumps(state.to_json()) if as_json else f"{state.node}: {state_line(state)}")
