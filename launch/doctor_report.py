"""What the doctor found as one table, and the small commands by which it measures from another machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from protocol.errors import HeadstreamError
from protocol.rig import load_rig

if TYPE_CHECKING:
    from launch.doctor import Finding

_COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}

probe_app = typer.Typer(help="What `headstream doctor` runs on a rig's PCs.")


def report(path: Path | None, node: str | None, as_json: bool) -> int:
    """Examine and print; 1 when something is bad. Raises HeadstreamError for a rig file that cannot be used."""
    if node and path is None:
        raise HeadstreamError("doctor: --node needs the RIG file")
    rig = load_rig(path) if path else None
    findings: list[Finding] = []
    console = Console(highlight=False)
    wide = max([len(pc.name) for pc in rig.pcs] + [6]) if rig and rig.pcs and not node else 0

    def found(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            _print(console, finding, wide)

    if rig and node:
        from launch.doctor_node import examine_node

        for finding in examine_node(rig, node):
            found(finding)
    else:
        from launch.doctor import examine

        for finding in examine(rig):
            found(finding)
        if rig and rig.pcs and path:
            import asyncio

            from launch.doctor_pcs import examine_pcs

            asyncio.run(examine_pcs(path, rig, found))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    elif wide:
        bad, notes = (sum(finding.state == state for finding in findings) for state in ("bad", "note"))
        console.print(f"{len(findings)} things looked at: {bad} to mend, {notes} to know")
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def _print(console: Console, finding: Finding, wide: int) -> None:
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    where = f"{finding.where or 'here':<{wide}}  " if wide else ""
    console.print(f"[{_COLOURS[finding.state]}]{finding.state:>4}[/]  {where}{finding.what:<16}", end="")
    console.print(f"{finding.detail}{remedy}", markup=False, soft_wrap=True)


@probe_app.command("clock")
def probe_clock() -> None:
    """Tell the time for each line that comes."""
    from launch.probe import tell_the_time

    tell_the_time()


@probe_app.command("network")
def probe_network(
    host: str, port: int, token: str, seconds: Annotated[float, typer.Option(min=0, max=10)] = 1.0
) -> None:
    """Send to the doctor at the server, and print what arrived."""
    from launch.probe import send

    print(json.dumps(asdict(send(host, port, token, seconds))))
