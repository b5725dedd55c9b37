"""What a take loses, and what the operator sees, when things break: a campaign of faults on a rig of four camera PCs.

    python -m benchmarks faults CAPTURE [--only NAME[,NAME]] [--seconds 12] [--fps 30] [--json FILE]

Real processes in network namespaces: four nodes with two replay cameras each, and `headstream record` as their server.
Each fault has a take of its own, in which it happens after a third. Pictures are counted against the schedule by which
cameras took them, so that nothing that was lost can hide: "unsaid" is what neither the take nor its list of what is
gone, with reasons, knows of. Recovery is from the fault's end to the first live picture of what was hurt. Exits with 1
when a picture is gone without a word, or where a disk survived and a picture is missing nevertheless.
Needs Linux, root, iproute2 and nftables.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._fault_rig import PCS, SERVER, FaultRig, Found
from benchmarks._machine import machine
from benchmarks._netlab import Lab, LabError, missing
from fusion_server.takes import TakeReader
from launch.keys import make_missing, write_bundle
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import load_rig

WAIT_S = 90.0  # for a take's end, backfill included
SMALL_DISK = 4  # MB


@dataclass(frozen=True)
class Fault:
    """hurt: PCs whose cameras suffer; happen(rig, seconds of the take) returns when it was over (``time.time``).

    disk_survives: every picture that a camera took lay on some disk in the end, so that all must be in the take.
    """

    name: str
    hurt: tuple[str, ...]
    happen: Callable[[FaultRig, float], float | None]
    disk_survives: bool = True
    prepare: Callable[[FaultRig], None] = lambda rig: None
    security: str = "plain"
    starts: tuple[str, ...] = PCS


def nothing(rig: FaultRig, seconds: float) -> None:
    """The same take unhurt."""


def kill_node(rig: FaultRig, seconds: float) -> float:
    """kill -9, and started again after a second, as its keeper does."""
    rig.kill("pc1")
    time.sleep(1.0)
    rig.start("pc1")
    return time.time()


def kill_each(rig: FaultRig, seconds: float) -> float:
    """Every node in turn."""
    for name in PCS:
        rig.kill(name)
        time.sleep(0.5)
        rig.start(name)
        time.sleep(seconds / 12)
    return time.time()


def kill_server(rig: FaultRig, seconds: float) -> float:
    """kill -9 of the recorder; the next one finishes the take that was cut."""
    assert rig.recorder is not None
    rig.recorder.kill()
    rig.recorder.wait()
    time.sleep(1.0)
    rig.record("after", seconds / 3)
    return time.time()


def unplug(rig: FaultRig, seconds: float) -> float:
    """5 s without a cable."""
    with rig.lab["pc1"].unplugged():
        time.sleep(5.0)
    return time.time()


def through(network: str, *values: float, at: str = SERVER) -> Callable[[FaultRig, float], float]:
    """A bad network for half of the take."""

    def happen(rig: FaultRig, seconds: float) -> float:
        with getattr(rig.lab[at], network)(*values):
            time.sleep(seconds / 2)
        return time.time()

    return happen


def fill_node_disk(rig: FaultRig, seconds: float) -> float:
    """A cable at the server that is too thin for all, so that pictures depend on a disk that is soon full."""
    with rig.lab[SERVER].rate(30):
        time.sleep(seconds / 2)
    return time.time()


def small_disk(place: str) -> Callable[[FaultRig], None]:
    """Takes or spool on a disk of a few MB."""

    def prepare(rig: FaultRig) -> None:
        folder = rig.file(place).parent / ("takes" if place == SERVER else "spool")
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}m", "none", str(folder)], check=True)
        if place != SERVER:
            rig.write(place, spool=replace(rig.rig.spool, min_free_gb=0.001))

    return prepare


def make_room(rig: FaultRig, seconds: float) -> None:
    """The take ends early on a full disk; somebody makes room, and the nodes still have everything."""
    rig.finish(seconds + WAIT_S)
    folder = rig.file(SERVER).parent / "takes"
    subprocess.run(["mount", "-o", f"remount,size={100 * SMALL_DISK}m", str(folder)], check=True)
    command = [sys.executable, "-m", "launch.cli", "backfill", str(rig.file(SERVER))]
    done = rig.lab[SERVER].run(command, timeout=WAIT_S)
    rig.found.notes.append("then `headstream backfill`: " + done.stdout.strip().splitlines()[0])


def freeze(rig: FaultRig) -> None:
    """A camera that sends one picture for ever, with fresh timestamps."""
    camera = rig.cameras_of("pc2")[0]
    frozen = rig.folder / "frozen"
    source = CaptureFolder.open(Path(rig.rig.cameras[0].options["capture"]))
    for frame in source.frames[:2]:
        (frozen / "frames" / frame).mkdir(parents=True)
        shutil.copy(source.jpeg(source.frames[0], camera), frozen / "frames" / frame / f"{camera}.jpg")
    shutil.copy(source.root / "cameras.json", frozen / "cameras.json")
    rig.rig = replace(
        rig.rig,
        cameras=tuple(
            replace(each, options={"capture": str(frozen)}) if each.id == camera else each for each in rig.rig.cameras
        ),
    )
    for place in (SERVER, *PCS):
        rig.write(place)


def odd_clock(rig: FaultRig, seconds: float) -> None:
    """Wait until the clock was set, which its program does; then look how true times stayed."""
    time.sleep(seconds / 2)


def start_odd_clock(rig: FaultRig) -> None:
    """pc3's node on a clock that drifts 100 ppm and is set 2 s ahead in the middle of the take."""
    rig.start("pc3", [sys.executable, "-m", "benchmarks._odd_clock_node", str(rig.file("pc3")), "pc3", "12"])


def bad_peer(rig: FaultRig, seconds: float) -> None:
    """A program in pc4's place that breaks the protocol, for half of the take."""
    program = [sys.executable, "-m", "benchmarks._bad_peer", str(rig.file("pc4")), "pc4", f"{seconds / 2:g}"]
    rig.start("pc4", program)
    if code := rig.nodes["pc4"].wait(seconds + 10):
        raise LabError(f"the program that breaks the protocol ended with status {code}; see pc4.log")


def make_keys(rig: FaultRig) -> None:
    """Keys for the server and every node; each PC has its own bundle."""
    make_missing(load_rig(rig.file(SERVER)))
    for name in PCS:
        write_bundle(rig.file(SERVER).parent / "keys", name, rig.file(name).parent / "keys")


def wrong_key(rig: FaultRig) -> None:
    """pc4 comes with keys that the server never saw, pc3's with its own and takes pc1's name."""
    make_keys(rig)
    stranger = rig.folder / "stranger"
    rig.write("stranger")
    make_missing(load_rig(stranger / "rig.toml"))
    for file in (rig.file("pc4").parent / "keys" / "nodes").iterdir():
        shutil.copy(stranger / "keys" / "nodes" / file.name, file)


def stolen_name(rig: FaultRig, seconds: float) -> None:
    """With pc3's key, a second node says that it is pc1: pc1 must stay in its place."""
    thief = rig.folder / "thief"
    thief.mkdir()
    shutil.copy(rig.file("pc1"), thief / "rig.toml")
    shutil.copytree(rig.file("pc3").parent / "keys", thief / "keys")
    for file in list((thief / "keys" / "nodes").iterdir()):
        file.rename(file.with_name(file.name.replace("pc3", "pc1")))
    command = [sys.executable, "-m", "launch.cli", "node", str(thief / "rig.toml"), "--name", "pc1"]
    rig.start("pc3-as-pc1", command, on="pc3")
    time.sleep(seconds / 3)
    rig.kill("pc3-as-pc1")


def slow_server(rig: FaultRig, seconds: float) -> float:
    """The recorder stands still for 3 s."""
    assert rig.recorder is not None
    with rig.stopped(rig.recorder):
        time.sleep(3.0)
    return time.time()


FAULTS = (
    Fault("nothing", (), nothing),
    Fault("kill -9 of a node", ("pc1",), kill_node, disk_survives=False),
    Fault("kill -9 of every node in turn", PCS, kill_each, disk_survives=False),
    Fault("kill -9 of the server", PCS, kill_server),
    Fault("a node unplugged for 5 s", ("pc1",), unplug),
    Fault("2 % loss at the server", PCS, through("loss", 2.0)),
    Fault("20 ms delay, 10 jitter, at a node", ("pc1",), through("delay", 20.0, 10.0, at="pc1")),
    Fault("100 Mbit/s at the server", PCS, through("rate", 100.0)),
    Fault("30 Mbit/s at the server", PCS, through("rate", 30.0)),
    Fault("30 Mbit/s, and a node's disk full", PCS, fill_node_disk, disk_survives=False, prepare=small_disk("pc1")),
    Fault("the server's disk full, room made later", (), make_room, prepare=small_disk(SERVER)),
    Fault("a frozen camera", ("pc2",), nothing, prepare=freeze),
    Fault(
        "a clock drifts 100 ppm, jumps 2 s", ("pc3",), odd_clock, prepare=start_odd_clock, starts=("pc1", "pc2", "pc4")
    ),
    Fault("a node that breaks the protocol", (), bad_peer, starts=PCS[:3]),
    Fault("a wrong key, a stolen name", (), stolen_name, prepare=wrong_key, security="curve"),
    Fault("the server stands still for 3 s", PCS, slow_server),
)


def run(fault: Fault, lab: Lab, folder: Path, capture: CaptureFolder, seconds: float, fps: float) -> Found:
    """One fault, one take, in a folder of its own; what an earlier campaign left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    with FaultRig(lab, folder, capture, fps, fault.security) as rig:
        try:
            fault.prepare(rig)
            for name in fault.starts:
                rig.start(name)
            absent = [name for name in PCS if name not in rig.nodes]
            if fault.security == "curve":
                absent = ["pc4"]
            rig.absent = rig.cameras_of(*absent)
            rig.record("fault", seconds)
            take = rig.take
            time.sleep(seconds / 3)
            healed = fault.happen(rig, seconds)
            rig.finish(seconds + WAIT_S)
            found = rig.account(take, rig.cameras_of(*fault.hurt), healed)
            if fault.starts != PCS and not absent:
                found.notes.append(_time_errors(take, rig.cameras_of(*fault.hurt), fps))
            return found
        finally:
            for place in (SERVER, *PCS):
                for name in ("takes", "spool"):
                    subprocess.run(["umount", str(rig.file(place).parent / name)], stderr=subprocess.DEVNULL)


def _time_errors(take: Path, cameras: Sequence[str], fps: float) -> str:
    """How far the corrected times of these cameras are from when their pictures were taken."""
    errors = np.array(
        [
            frame.header.capture_ns - frame.header.trigger * 1e9 / fps
            for camera in cameras
            for frame in TakeReader(take).frames(camera)
            if frame.header.trigger is not None
        ]
    )
    away = np.abs(errors) / 1e3
    median, p99, most = np.median(away), np.quantile(away, 0.99), away.max()
    return f"times off by {median:.0f} us in the median, 99 %: {p99:.0f}, most {most:.0f}"


def row(fault: Fault, found: Found) -> list[str]:
    """A row of the table."""
    gone = "; ".join(dict.fromkeys(found.reasons))
    saw = list(dict.fromkeys(found.saw))
    return [
        fault.name,
        f"{found.there:,} of {found.due:,} ({found.live:,} live)",
        str(found.listed),
        str(found.unsaid),
        "" if found.recovered_s is None else f"{found.recovered_s:.1f}",
        f"{found.server_mb:.0f} / {found.node_mb:.0f}",
        "\n".join(part[:110] for part in [*saw[:3], *found.notes, *([f"gone: {gone}"] if gone else [])]),
    ]


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--only", default="", help="names, or parts of names, separated by commas")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder where takes and logs stay")
    options = parser.parse_args()
    wanted = [part for part in options.only.split(",") if part]
    chosen = [fault for fault in FAULTS if not wanted or any(part in fault.name for part in wanted)]
    if reason := missing():
        sys.exit(f"benchmarks faults: {reason}")
    table = Table(
        "fault", "pictures in the take", "listed", "unsaid", "recovered s", "MB server / node", "what was said"
    )
    results, bad = {}, False
    print(machine())
    try:
        capture = CaptureFolder.open(options.capture)
        with Lab([SERVER, *PCS], folder=options.keep) as lab:
            for fault in chosen:
                folder = lab.folder / "faults" / fault.name.replace(" ", "_").replace("%", "percent").replace("/", "_")
                try:
                    found = run(fault, lab, folder, capture, options.seconds, options.fps)
                except LabError as error:
                    table.add_row(fault.name, "", "", "", "", "", f"FAILED: {error}")
                    print(f"{fault.name}: FAILED: {error}", flush=True)
                    bad = True
                    continue
                results[fault.name] = asdict(found)
                wrong = found.unsaid > 0 or (fault.disk_survives and found.there < found.due)
                bad |= wrong
                table.add_row(*row(fault, found), style="red" if wrong else "")
                print(
                    f"{fault.name}: {found.there} of {found.due}, {found.listed} listed, {found.unsaid} unsaid",
                    flush=True,
                )
    except HeadstreamError as error:
        sys.exit(f"benchmarks faults: {error}")
    Console(width=200).print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
