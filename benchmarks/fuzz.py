"""Ten million bytes of nonsense: through the parsers of messages (atheris), and at the receiver's open sockets.

python -m benchmarks fuzz [--bytes 10000000] [--seconds 20] [--seed 1]

Parsers: every input must give a value or a HeadstreamError; anything else is a crash, and its input is kept and named.
Sockets: a real receiver and eight real nodes in processes of their own, while strangers send garbage, break off
handshakes, announce huge frames and hold connections open. The receiver must live, its memory be bounded, and the
nodes must get through; strangers that take the cores away cost live frames, as any other load does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._machine import machine
from benchmarks.throughput import CAMERAS, ROOT, Processes, pictures, rig_file

TARGETS = ("frame", "header", "control", "record")


def parser(name: str, size: int, seed: int, keep: Path) -> dict[str, Any]:
    """Send ``size`` bytes through one parser; ``crash`` is the last of the output when it did not survive."""
    folder = keep / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks._fuzz_target", name, str(size), str(seed), str(folder)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    found: dict[str, Any] = {"seconds": time.monotonic() - began}
    edges = re.findall(r"cov: (\d+)", done.stderr)
    found["edges"] = int(edges[-1]) if edges else 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        found["crash"] = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
    else:
        found |= json.loads(lines[-1])
    return found


def sockets(security: str, seconds: float, seed: int) -> dict[str, Any]:
    """Attack both sockets of a receiver for a while; says what arrived, what was lost, and how the memory grew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder / "capture", 128, 128)
        rig = rig_file(folder, folder / "capture", 30.0, security)
        path, python = str(folder / "rig.toml"), [sys.executable, "-m"]
        nodes = [[*python, "launch.cli", "node", path, "--name", node] for node in rig.nodes]
        processes = Processes([*python, "benchmarks._receiver", path, "1", str(seconds + 4)], nodes)
        try:
            if processes.wait_for("open", 90) is None:
                sys.exit("the nodes did not come through before the attack")
            before = memory_mb(processes.receiver.pid)
            command = [*python, "benchmarks._hostile"]
            strangers = [
                subprocess.Popen([*command, str(port), str(seconds), str(seed + i)], cwd=ROOT, stdout=subprocess.PIPE)
                for i, port in enumerate((rig.server.data_port, rig.server.control_port))
            ]
            peak = before
            while any(stranger.poll() is None for stranger in strangers):
                peak = max(peak, memory_mb(processes.receiver.pid))
                time.sleep(0.05)
            told = [json.loads(stranger.communicate()[0]) for stranger in strangers]
            closed, counts = processes.wait_for("close", seconds + 30), processes.wait_for("counts", 10)
        finally:
            processes.end()
    if closed is None or counts is None:
        sys.exit(f"{security}: the receiver did not survive")
    offered = 30.0 * CAMERAS * closed["seconds"]
    return {
        "connections": sum(each["connections"] for each in told),
        "bytes": sum(each["bytes"] for each in told),
        "frames": closed["frames"],
        "offered": offered,
        "gaps": closed["gaps"],
        "refused": counts["refused"],
        "memory_mb": (before, peak),
        "late_ms": closed["late_ms"],
    }


def memory_mb(pid: int) -> float:
    """What a process holds of memory of its own, MB."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[1]) - int(fields[2])) * 4096 / 2**20


def main() -> None:
    """Parsers, then sockets."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bytes", type=int, default=10_000_000, help="through each parser; 0: no parsers")
    options.add_argument("--seconds", type=float, default=20.0, help="of attack on the sockets; 0: none")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", type=Path, default=Path("fuzz"), help="where inputs of crashes are kept")
    chosen = options.parse_args()
    print(machine())
    crashed = False
    if chosen.bytes and importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed; pip install 'headstream[fuzz]', or give --bytes 0")
    with tempfile.TemporaryDirectory() as scratch:
        for name in TARGETS if chosen.bytes else ():
            found = parser(name, chosen.bytes, chosen.seed, Path(scratch))
            if "crash" in found:
                crashed = True
                for path in (Path(scratch) / name).glob("crash-*"):
                    chosen.keep.mkdir(parents=True, exist_ok=True)
                    (chosen.keep / f"{name}-{path.name}").write_bytes(path.read_bytes())
                print(f"parser {name:<8} CRASHED, input kept in {chosen.keep}:\n{found['crash']}", flush=True)
                continue
            print(
                f"parser {name:<8} {found['executions']:>8} executions, {found['bytes']:>9} bytes, {found['edges']} "
                f"edges covered, {found['taken']} taken, the rest refused, 0 crashes, {found['seconds']:.0f} s",
                flush=True,
            )
    for security in ("plain", "curve") if chosen.seconds else ():
        found = sockets(security, chosen.seconds, chosen.seed)
        print(
            f"sockets {security:<6} {found['connections']} connections and {found['bytes'] / 1e6:.1f} MB of strangers; "
            f"of the nodes {found['frames']} frames of about {found['offered']:.0f}, {found['gaps']} numbers missing, "
            f"95 % within {found['late_ms']['95 %']:.1f} ms; refused {found['refused']}; memory "
            f"{found['memory_mb'][0]:.0f} MB before, {found['memory_mb'][1]:.0f} MB at most",
            flush=True,
        )
    sys.exit(crashed)


if __name__ == "__main__":
    main()
