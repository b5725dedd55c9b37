"""The whole chain, `headstream demo`, with every process: meshes a second, latency, drops, CPU and memory, error.

python -m benchmarks live [--seconds 30]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._machine import machine
from launch.evaluate import table


def main() -> None:
    """Run the demo as an operator would and print what its status lines and the kernel say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "launch.cli", "demo", "--seconds", str(options.seconds), "--record"]
        command += ["--no-browser", "--json", "--out", out]
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        usage = _Usage(demo.pid)
        statuses, scores = [], None
        assert demo.stdout is not None
        for line in demo.stdout:
            entry = json.loads(line)
            if "meshes_per_second" in entry:
                statuses.append(entry)
                usage.look()
            elif "truth" in entry:
                scores = entry
        code = demo.wait()
    if code or not statuses:
        sys.exit(f"the demo ended with status {code} after {len(statuses)} status lines")
    steady = [status for status in statuses if status["meshes"]][3:-1]
    rates = [status["meshes_per_second"] for status in steady]
    print(f"{len(steady)} steady seconds: {np.mean(rates):.2f} meshes a second (lowest {min(rates):.2f})")
    print(f"latency {np.mean([status['latency_ms'] for status in steady]):.0f} ms from exposure to mesh")
    cameras = statuses[-1]["cameras"].values()
    print(f"{sum(c['received'] for c in cameras)} frames received, {sum(c['dropped'] for c in cameras)} dropped live")
    print(usage.summary())
    if scores:
        print(table(scores))


class _Usage:
    """CPU seconds and memory of the demo's processes, from /proc."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._cpu: dict[int, tuple[str, float]] = {}
        self._started = time.monotonic()
        self._peak: dict[str, float] = {}

    def look(self) -> None:
        total: dict[str, float] = {}
        for pid in self._children():
            try:
                name = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                memory = Path(f"/proc/{pid}/statm").read_text().split()
            except OSError:
                continue
            role = "server" if "serve" in name else "nodes" if "node" in name else "demo"
            seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
            self._cpu[pid] = (role, seconds)
            private = (int(memory[1]) - int(memory[2])) * os.sysconf("SC_PAGE_SIZE") / 2**30
            total[role] = total.get(role, 0.0) + private
        for role, value in total.items():
            self._peak[role] = max(self._peak.get(role, 0.0), value)

    def _children(self) -> list[int]:
        pids = [self._root]
        for pid in pids:
            try:
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return pids

    def summary(self) -> str:
        wall = time.monotonic() - self._started
        parts = []
        for role in ("server", "nodes", "demo"):
            cpu = sum(seconds for each, seconds in self._cpu.values() if each == role)
            parts.append(f"{role} {cpu / wall:.2f} cores, {self._peak.get(role, 0.0):.2f} GB")
        return "; ".join(parts)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
