"""``headstream deploy``, ``start``, ``stop``, ``status`` and ``logs``: the PCs that a rig file names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from launch.remote.jobs import Job, Outcome

RigPath = Annotated[Path, typer.Argument(metavar="RIG", help="the rig file, rig.toml")]
Only = Annotated[list[str] | None, typer.Option("--node", help="only this node's PC; may be given several times")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print for machines")]


def add_to(app: typer.Typer) -> None:
    """Give the command line these verbs."""
    for verb in (deploy, start, stop, status, logs):
        app.command()(verb)


def deploy(
    rig: RigPath,
    node: Only = None,
    install: Annotated[bool, typer.Option("--install", help="install this checkout's headstream there first")] = False,
    wheels: Annotated[
        Path | None, typer.Option(help="with --install: a folder of wheels, where the PCs reach no package index")
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="then start the nodes")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Bring rig file, calibration and keys to every PC of the rig, where headstream is the same version."""
    from launch.remote.install import with_wheel_built
    from launch.remote.jobs import deploying, rig_with_pcs

    loaded, _ = rig_with_pcs(rig, tuple(node or ()))
    folder, package = with_wheel_built(wheels) if install else (None, None)
    try:
        _on_each(rig, node, deploying(rig, loaded, package, start), as_json)
    finally:
        if folder:
            folder.cleanup()


def start(rig: RigPath, node: Only = None, as_json: JsonFlag = False) -> None:
    """Start the node of every PC, where it does not run, and keep it running."""
    from launch.remote.jobs import rig_with_pcs, starting

    loaded, _ = rig_with_pcs(rig)
    _on_each(rig, node, starting(rig, loaded), as_json)


def stop(rig: RigPath, node: Only = None, as_json: JsonFlag = False) -> None:
    """End the node of every PC."""
    from launch.remote.jobs import stopping

    _on_each(rig, node, stopping(rig), as_json)


def status(rig: RigPath, node: Only = None, as_json: JsonFlag = False) -> None:
    """How the node of every PC is; exit status 1 when one does not run."""
    from launch.remote.jobs import asking

    _on_each(rig, node, asking(rig), as_json)


def logs(
    rig: RigPath,
    node: Only = None,
    lines: Annotated[int, typer.Option(min=0, help="so many of the last lines of each node")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="and what comes, until Ctrl-C")] = False,
) -> None:
    """What the nodes print, each line with its node's and camera's name."""
    from launch.remote.jobs import read_logs, rig_with_pcs

    loaded, pcs = rig_with_pcs(rig, tuple(node or ()))

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        outcomes = asyncio.run(read_logs(rig, loaded, pcs, lines, follow, say))
    except (KeyboardInterrupt, BrokenPipeError):  # BrokenPipe: who read this, such as `head`, has enough
        raise typer.Exit(0) from None
    _end(outcomes, False, silent=True)


def _on_each(rig: Path, node: list[str] | None, job: Job, as_json: bool) -> None:
    from launch.remote.jobs import on_each, rig_with_pcs, to_stderr

    loaded, pcs = rig_with_pcs(rig, tuple(node or ()))
    quiet: Callable[[Outcome], None] = lambda _: None  # noqa: E731
    outcomes = asyncio.run(on_each(pcs, job, quiet if as_json else to_stderr))
    _end(outcomes, as_json)
    here = [name for name in loaded.nodes if name not in {pc.name for pc in loaded.pcs}]
    if here and not as_json:
        print(f"{', '.join(here)}: no [[node]] table; run `headstream node` where its cameras are")


def _end(outcomes: list[Outcome], as_json: bool, silent: bool = False) -> None:
    """At the end: what failed once more, or everything for machines; exit status 1 when a PC failed."""
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if as_json:
        print(json.dumps({outcome.node: outcome.to_json() for outcome in outcomes}))
    elif failed and (silent or len(outcomes) > 1):
        for outcome in failed:
            print(f"{outcome.node}: {outcome.text}")
    if not as_json and not silent:
        print(f"{len(outcomes) - len(failed)} of {len(outcomes)} PCs are well")
    if failed:
        raise typer.Exit(1)
