"""``headstream doctor RIG`` where the rig has PCs: each looks at itself, and all are measured from here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from launch.doctor import Finding
from launch.doctor_node import stream_rate
from launch.probe import Carried, ProbeError, Sink
from launch.remote.files import files_for
from launch.remote.ssh import Pc, RemoteError, reach
from launch.version import version
from protocol.errors import HeadstreamError
from protocol.rig import PcConfig, Rig, is_loopback

_ROUNDS = 20
_SEND_S = 1.0
_ANSWER_S = 60.0
_OFF_BY_S = 0.1  # what the wire corrects without trouble, but a log's times, timecode and replay do not
_TAI_MINUS_UTC_S = 37.0


async def examine_pcs(path: Path, rig: Rig, found: Callable[[Finding], None]) -> None:
    """Examine the rig's PCs, all at once, then the network between them and this machine, one PC after the other.

    ``found`` hears of everything, a PC at a time.
    """

    async def one(config: PcConfig) -> bool:
        findings: list[Finding] = []
        try:
            async with reach(config) as pc:
                findings.append(Finding("SSH", "ok", f"reached at {config.host}"))
                fit = await _same(pc, path, rig, findings)
                if fit:
                    findings += await _itself(pc, path)
                    findings.append(await _clock(pc))
        except HeadstreamError as error:
            fit = False
            findings.append(Finding("SSH", "bad", str(error)))
        for finding in findings:
            found(replace(finding, where=config.name))
        return fit

    fit = await asyncio.gather(*(one(config) for config in rig.pcs))
    async with contextlib.AsyncExitStack() as connections:
        pcs = {}
        for config, is_fit in zip(rig.pcs, fit, strict=True):
            if is_fit:
                try:
                    pcs[config.name] = await connections.enter_async_context(reach(config))
                except RemoteError as error:
                    found(Finding("SSH", "bad", str(error), where=config.name))
        await _network(rig, pcs, found)


async def _same(pc: Pc, path: Path, rig: Rig, findings: list[Finding]) -> bool:
    """Whether it has this headstream and this rig: else there is nothing to ask it."""
    answer, ours = await pc.ask("version", "--json"), version()
    there = f"{answer.get('number')} ({answer.get('code')})" if isinstance(answer, dict) else "of no known version"
    same = there == str(ours)
    advice = "headstream deploy RIG --install"
    findings.append(Finding("headstream", "ok" if same else "bad", there, "" if same else f"here is {ours}: {advice}"))
    if not same:
        return False
    other = [file.relative for file in files_for(path, rig, pc.name) if not await pc.same(file.relative, file.data)]
    if other:
        findings.append(Finding("rig", "bad", f"{', '.join(other)} not as here", "headstream deploy RIG"))
    return not other


async def _itself(pc: Pc, path: Path) -> list[Finding]:
    answer = await pc.ask("doctor", f"{pc.rig_folder}/{path.name}", "--node", pc.name, "--json", timeout=_ANSWER_S)
    try:
        findings = [Finding(**entry) for entry in answer]
    except TypeError:
        raise RemoteError("its doctor does not answer as this one; is its headstream another version?") from None
    return findings


async def _clock(pc: Pc) -> Finding:
    """Its clock against this one, by the quickest of some round trips over the connection."""
    best: tuple[int, int] | None = None
    async with pc.talk("probe", "clock") as process:
        for _ in range(_ROUNDS):
            t0 = time.time_ns()
            process.stdin.write("\n")
            try:
                line = await asyncio.wait_for(process.stdout.readline(), 10.0)
            except TimeoutError:
                line = ""
            t1 = time.time_ns()
            if not line.strip().isdigit():
                return Finding("clock offset", "note", "its clock could not be asked")
            trip = t1 - t0
            if best is None or trip < best[0]:
                best = trip, int(line) - (t0 + t1) // 2
    assert best is not None
    return clock_finding(best[1] * 1e-9, best[0] * 0.5e-9)


def clock_finding(offset_s: float, within_s: float) -> Finding:
    """What an offset of a PC's clock means; ``within_s`` is how well it is known."""
    detail = f"{1000 * offset_s:+.1f} ms against this machine, within {1000 * within_s:.1f} ms"
    if abs(abs(offset_s) - _TAI_MINUS_UTC_S) < 0.5 + within_s:
        remedy = "one of the two shows TAI, not UTC: phc2sys without -O -37, or a grandmaster without its UTC offset"
        return Finding("clock offset", "bad", detail, remedy)
    if abs(offset_s) > _OFF_BY_S + within_s:
        return Finding("clock offset", "note", detail, "let chrony or PTP set both clocks; frames are corrected anyway")
    return Finding("clock offset", "ok", detail)


async def _network(rig: Rig, pcs: dict[str, Pc], found: Callable[[Finding], None]) -> None:
    """Each PC alone, then all together: a port that is slow, and a switch or a server that is."""
    if not pcs:
        return
    if is_loopback(rig.server.host):
        remedy = "set server.host to the address that the PCs see"
        found(Finding("network", "bad", f"server.host is {rig.server.host}, which no other PC reaches", remedy))
        return
    try:
        async with Sink(rig.server.host, rig.server.data_port) as sink:
            for name, pc in pcs.items():
                carried = await _send(pc, sink)
                for finding in (_carried(rig, name, carried), _mtu(carried)):
                    if finding:
                        found(replace(finding, where=name))
            if len(pcs) > 1:
                together = await asyncio.gather(*(_send(pc, sink) for pc in pcs.values()))
                found(_together(rig, list(pcs), together))
    except ProbeError as error:
        remedy = "run `headstream doctor` on the server: it must listen at server.host"
        found(Finding("network", "note", f"not measured: {error}", remedy))


async def _send(pc: Pc, sink: Sink) -> Carried | str:
    words = ("probe", "network", sink.host, str(sink.port), sink.token, "--seconds", f"{_SEND_S:g}")
    try:
        return Carried(**await pc.ask(*words, timeout=_ANSWER_S))
    except (RemoteError, TypeError) as error:
        return str(error)


def _carried(rig: Rig, node: str, carried: Carried | str) -> Finding:
    if isinstance(carried, str):
        return Finding("network", "bad", carried, "open the server's ports to the PCs")
    need = stream_rate(rig, node) * 8e-6
    detail = f"{carried.megabits:.0f} Mbit/s to the server by {carried.interface}; its cameras make about {need:.0f}"
    if carried.megabits < need:
        return Finding(
            "network", "bad", detail, "a faster link, fewer cameras a PC, or a lower wire.jpeg_quality or fps"
        )
    return Finding("network", "ok" if carried.megabits > 1.5 * need else "note", detail)


def _mtu(carried: Carried | str) -> Finding | None:
    if isinstance(carried, str):
        return None
    if carried.path_mtu == carried.mtu:
        return Finding("path MTU", "ok", f"packets of {carried.mtu} bytes arrive whole")
    if carried.path_mtu is None:
        remedy = "a firewall that blocks UDP there, or a device on the way with a smaller MTU"
        return Finding("path MTU", "note", f"no packet of {carried.mtu} bytes arrived", remedy)
    remedy = f"raise the MTU of switch and server, or: ip link set dev {carried.interface} mtu {carried.path_mtu}"
    detail = f"{carried.interface} has MTU {carried.mtu}, but only {carried.path_mtu} bytes arrive whole"
    return Finding("path MTU", "bad", detail, remedy)


def _together(rig: Rig, names: list[str], carried: list[Carried | str]) -> Finding:
    rates = [each.megabits for each in carried if isinstance(each, Carried)]
    need = sum(stream_rate(rig, name) for name in names) * 8e-6
    detail = f"{sum(rates):.0f} Mbit/s from {len(rates)} PCs at once; all cameras make about {need:.0f}"
    if sum(rates) < need:
        return Finding("network", "bad", detail, "a faster port for the server (10 Gbit/s), or less fps or quality")
    return Finding("network", "ok" if sum(rates) > 1.5 * need else "note", detail)
