"""What is done on every PC of a rig at once, each on its own: one that fails keeps none of the others waiting."""

from __future__ import annotations

import asyncio
import posixpath
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.backoff import Backoff
from launch.remote.files import Deployed, files_for
from launch.remote.install import Package, install
from launch.remote.labels import labelled
from launch.remote.ssh import NOT_FOUND, Pc, RemoteError, reach
from launch.service.commands import state_line
from launch.service.state import NodeState
from launch.version import Version, version
from protocol.errors import HeadstreamError
from protocol.rig import PcConfig, Rig, load_rig

_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class Outcome:
    """How one PC did: a line for people, and the same for machines."""

    node: str
    ok: bool
    text: str
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"ok": self.ok, "text": self.text, **self.data}


Job = Callable[[Pc], Awaitable[Outcome]]


def rig_with_pcs(path: Path, only: tuple[str, ...] = ()) -> tuple[Rig, tuple[PcConfig, ...]]:
    """The rig and the PCs that are meant: all, or those of these nodes. Raises RigError and RemoteError."""
    rig = load_rig(path)
    if not rig.pcs:
        example = '[[node]] name = "pc1", host = "10.0.0.11"'
        raise RemoteError(f"{path}: has no [[node]] table that says where a node runs, such as {example}")
    known = {pc.name: pc for pc in rig.pcs}
    for name in only:
        if name not in known:
            raise RemoteError(f"{path}: no [[node]] table {name!r}; there are {', '.join(known)}")
    return rig, tuple(pc for pc in rig.pcs if not only or pc.name in only)


async def on_each(pcs: tuple[PcConfig, ...], job: Job, done: Callable[[Outcome], None]) -> list[Outcome]:
    """Reach every PC and do the job there, all at once; ``done`` hears of each as it ends. Never raises for a PC."""

    async def one(config: PcConfig) -> Outcome:
        try:
            async with reach(config) as pc:
                outcome = await job(pc)
        except HeadstreamError as error:
            outcome = Outcome(config.name, False, str(error))
        done(outcome)
        return outcome

    return await asyncio.gather(*(one(config) for config in pcs))


def deploying(path: Path, rig: Rig, package: Package | None, start: bool) -> Job:
    """Install where asked to, check that both headstreams are one version, copy, and start where asked to."""
    files = {pc.name: files_for(path, rig, pc.name) for pc in rig.pcs}  # what is missing here is said at once

    async def deploy(pc: Pc) -> Outcome:
        if package:
            await install(pc, rig, package)
        there = await _same_version(pc)
        copied = [file.relative for file in files[pc.name] if await pc.write(file.relative, file.data, file.mode)]
        what = f"{', '.join(copied)} copied" if copied else "has this rig already"
        text = f"headstream {there}, {what}"
        data = {"version": there.number, "code": there.code, "copied": copied}
        if start:
            state = await _service(pc, path, "start")
            return Outcome(
                pc.name, state.state == "running", f"{text}; {state_line(state)}", {**data, **state.to_json()}
            )
        return Outcome(pc.name, True, text, data)

    return deploy


def starting(path: Path, rig: Rig) -> Job:
    """Start each node, where its PC has just this rig."""
    files = {pc.name: files_for(path, rig, pc.name) for pc in rig.pcs}

    async def start(pc: Pc) -> Outcome:
        await _same_files(pc, files[pc.name])
        state = await _service(pc, path, "start")
        return Outcome(pc.name, state.state == "running", state_line(state), state.to_json())

    return start


def stopping(path: Path) -> Job:
    """End each node."""

    async def stop(pc: Pc) -> Outcome:
        state = await _service(pc, path, "stop")
        return Outcome(pc.name, state.state in ("stopped", "finished"), state_line(state), state.to_json())

    return stop


def asking(path: Path) -> Job:
    """How each node is; one that does not run is not well."""

    async def ask(pc: Pc) -> Outcome:
        state = await _service(pc, path, "status")
        return Outcome(pc.name, state.state == "running", state_line(state), state.to_json())

    return ask


async def read_logs(
    path: Path, rig: Rig, pcs: tuple[PcConfig, ...], lines: int, follow: bool, say: Callable[[str], None]
) -> list[Outcome]:
    """Print the nodes' logs, each line with its node and camera; with ``follow`` until cancelled.

    A PC that is lost while its log is followed is said and tried again; what it prints meanwhile is in its own log.
    """

    def reading(lines: int) -> Job:
        async def read(pc: Pc) -> Outcome:
            cameras = {camera.id for camera in rig.cameras_of(pc.name)}
            words = ["service", "logs", _there(pc, path), "--name", pc.name, "--lines", str(lines)]
            last = ""
            async with pc.talk(*words, *(["--follow", "--attached"] if follow else [])) as process:
                while line := await process.stdout.readline():
                    last = line.rstrip("\r\n")[:_LONGEST_LINE]
                    if not last.startswith("headstream: "):
                        say(labelled(pc.name, last, cameras))
                await process.wait_closed()
            if process.exit_status in NOT_FOUND:
                raise RemoteError(pc.missing)
            ok = process.exit_status == 0
            return Outcome(pc.name, ok, "" if ok else last.removeprefix("headstream: ") or "the connection broke")

        return read

    async def one(config: PcConfig) -> Outcome:
        backoff, wanted = Backoff(longest=10.0), lines
        while True:
            began = asyncio.get_running_loop().time()
            (outcome,) = await on_each((config,), reading(wanted), lambda _: None)
            if not follow or outcome.ok:
                return outcome
            pause = backoff.pause(asyncio.get_running_loop().time() - began)
            say(f"[{config.name}] no log: {outcome.text}; tried again in {pause:g} s")
            wanted = 0
            await asyncio.sleep(pause)

    return await asyncio.gather(*(one(config) for config in pcs))


async def _service(pc: Pc, path: Path, verb: str) -> NodeState:
    return NodeState.from_json(await pc.ask("service", verb, _there(pc, path), "--name", pc.name, "--json"))


async def _same_version(pc: Pc) -> Version:
    answer, ours = await pc.ask("version", "--json"), version()
    try:
        there = Version(str(answer["number"]), str(answer["code"]))
    except (KeyError, TypeError):
        raise RemoteError(
            f"{pc.command} does not say which headstream it is: headstream deploy RIG --install"
        ) from None
    if there != ours:
        raise RemoteError(f"it has headstream {there}, this machine {ours}: headstream deploy RIG --install")
    return there


async def _same_files(pc: Pc, files: list[Deployed]) -> None:
    for file in files:
        if not await pc.same(file.relative, file.data):
            raise RemoteError(f"its {file.relative} is not this machine's: headstream deploy RIG")


def _there(pc: Pc, path: Path) -> str:
    return posixpath.join(pc.rig_folder, path.name)


def to_stderr(outcome: Outcome) -> None:
    """One PC's outcome as it ends, for people who wait."""
    print(f"[{outcome.node}] {'' if outcome.ok else 'FAILED: '}{outcome.text}", file=sys.stderr, flush=True)
