"""How exactly frames of many nodes are timed and matched: simulated clocks, real sockets, then ten simulated minutes.

    python -m benchmarks sync [--nodes 8] [--seconds 40] [--skip-sockets]

**Sockets.** Each node is a process of its own with the real node, link and clock filter; the server is the real
receiver and synchroniser. What is simulated is each node's clock: seconds ahead or behind, up to 100 ppm fast or slow,
5 us of jitter a reading. All run on this machine, whose clock is the truth: a picture carries the true time of its
exposure as ``device_ns``, so the error is that of ``capture_ns``. "Best of 16" is the offset of the least round trip of
the last 16 exchanges, without drift, on the very same exchanges: what headstream did before it laid a line through
them. With load, pictures of 60 kB flow at 30 a second from every node, and one process a core does nothing but compute.

**Simulated time.** The real clock filter and synchroniser, ten minutes in some tens of seconds: cameras at 30 fps on
clocks as above, queues on the network, pictures that arrive up to 60 ms late and in any order among cameras, 1 % of
them never; by time, and by 16-bit trigger counters that start anywhere and wrap.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

import capture_nodes.link
from benchmarks._machine import machine
from capture_nodes.drivers.base import Captured, Driver
from capture_nodes.node import Node
from fusion_server.receive import Receiver
from fusion_server.synchronize import Synchronizer
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.clock import ClockFilter
from protocol.messages import Frame, FrameHeader
from protocol.rig import CameraConfig, Rig, ServerConfig, SyncConfig, load_rig, save_rig

SETTLE_S = 8.0  # from the first frame until errors count: nodes start one after the other on busy cores
DRIFT_PPM = 100.0
JITTER_NS = 5_000
LOADS = {"without load": (2.0, 2_000, False), "with load": (30.0, 60_000, True)}  # fps, bytes a picture, busy cores
MINUTES, MISSING = 10, 0.01


class NodeClock:
    """A clock that a node might have: (1 + drift) * true time + a constant, with jitter. Nanoseconds."""

    def __init__(self, number: int, nodes: int, now_ns: Callable[[], int] = time.time_ns):
        rng = random.Random(number)
        self._now_ns, self._noise = now_ns, rng
        self.drift = DRIFT_PPM * 1e-6 * (2 * number / max(1, nodes - 1) - 1)
        self._ahead, self._epoch = rng.randrange(-5_000_000_000, 5_000_000_000), 1_700_000_000_000_000_000

    def at(self, true_ns: int) -> int:
        """What it shows at a moment."""
        slow = round((true_ns - self._epoch) % 10**14 * self.drift)
        return true_ns + self._ahead + slow + round(self._noise.gauss(0, JITTER_NS))

    def __call__(self) -> int:
        """What it shows now."""
        return self.at(self._now_ns())


class BestOf16:
    """The offset by the least round trip of the last 16 exchanges."""

    def __init__(self) -> None:
        self._exchanges: deque[tuple[int, int]] = deque(maxlen=16)

    def add(self, t0: int, t1: int, t2: int, t3: int) -> None:
        """Take an exchange."""
        self._exchanges.append(((t3 - t0) - (t2 - t1), ((t1 - t0) + (t2 - t3)) // 2))

    @property
    def offset_ns(self) -> int | None:
        """Server clock minus node clock; None before the first exchange."""
        return min(self._exchanges)[1] if self._exchanges else None


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each load, beyond the settling")
    parser.add_argument("--skip-sockets", action="store_true", help="simulated time only")
    parser.add_argument("--node", nargs=4, metavar=("RIG", "NUMBER", "BYTES", "SETTLE_UNTIL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        path, number, size, until = options.node
        run_node(Path(path), int(number), int(size), int(until))
        return
    print(machine())
    if not options.skip_sockets:
        print(
            f"sockets: {options.nodes} node processes, clocks up to {DRIFT_PPM:g} ppm off, {options.seconds:g} s each"
        )
        for name in LOADS:
            measure(name, options.nodes, options.seconds)
    for mode in ("time", "trigger"):
        match(mode, options.nodes)


def measure(name: str, nodes: int, seconds: float) -> None:
    """One load over real sockets."""
    fps, size, busy = LOADS[name]
    errors: dict[int, list[int]] = {number: [] for number in range(nodes)}
    sigmas: list[float] = []
    spreads: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        rig = _rig(Path(folder), nodes, fps)
        calibration = _calibration(nodes)
        sync = Synchronizer(rig.camera_ids, "time", 8_000_000, 100_000_000)
        until = time.time_ns() + round(1e9 * (SETTLE_S + 0.5 * nodes))  # starting takes a node half a second here

        def take(frame: Frame) -> None:
            header = frame.header
            spreads.extend(each.spread_ns for each in sync.add(frame, time.monotonic_ns()) if each.capture_ns > until)
            if header.device_ns > until:
                errors[int(header.camera[3:])].append(header.capture_ns - header.device_ns)
                sigmas.append(abs(header.capture_ns - header.device_ns) / header.offset_sigma_ns)

        receiver = Receiver(rig, calibration, take)
        receiver.start()
        burners: list[subprocess.Popen] = []
        command = [sys.executable, "-m", "benchmarks.sync", "--node", str(rig.root / "rig.toml")]
        processes = [
            subprocess.Popen([*command, str(number), str(size), str(until)], stdout=subprocess.PIPE, text=True)
            for number in range(nodes)
        ]
        try:
            if busy:
                spin = [sys.executable, "-c", "while True: sum(range(10_000))"]
                burners += [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
            time.sleep(max(0.0, until / 1e9 - time.time()) + seconds)
            received = sum(camera["received"] for camera in receiver.statistics().values())
            missed = sum(camera["missed"] for camera in receiver.statistics().values())
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            outputs = [process.communicate(timeout=30)[0] for process in processes]
            for burner in burners:
                burner.kill()
                burner.wait()
            receiver.stop()
    ours = np.abs(np.concatenate([np.array(each) for each in errors.values()])) / 1e3
    plain = np.abs(np.concatenate([np.array(json.loads(text)["best_of_16"], float) for text in outputs])) / 1e3
    silent = [number for number, each in errors.items() if not each]
    print(f"  {name} ({fps:g} fps a node, {size / 1000:g} kB): {received} frames received, {missed} dropped live")
    if silent:
        sys.exit(f"node {silent[0]} sent nothing; give the machine more time with --seconds")
    print(f"    error of capture times:      {_quantiles(ours)}; within 2 sigma: {np.mean(np.array(sigmas) < 2):.1%}")
    print(f"    best of 16, same exchanges:  {_quantiles(plain)}")
    if spreads:
        print(f"    spread within {len(spreads)} sets:      {_quantiles(np.array(spreads) / 1e3)} (exposed at once)")


def run_node(path: Path, number: int, size: int, until: int) -> None:
    """A node process: the real one, on a simulated clock."""
    logging.basicConfig(level=logging.ERROR)  # the parent prints what was dropped
    rig = load_rig(path)
    clock, best, plain = NodeClock(number, len(rig.nodes)), BestOf16(), []

    class Recorded(ClockFilter):
        """Hands each exchange to the other filter, too."""

        def add(self, t0: int, t1: int, t2: int, t3: int, steps: int = 0) -> bool:
            """As the base says."""
            best.add(t0, t1, t2, t3)
            return super().add(t0, t1, t2, t3, steps)

    class Camera(Driver):
        """Exposes when every other one does; the device's timestamp is the truth."""

        def __init__(self) -> None:
            self._jpeg = b"\xff\xd8" + os.urandom(size - 2)
            self._next = 0

        def open(self) -> None:
            self._next = int(time.time() * rig.fps) + 1

        def next_frame(self, timeout_s: float) -> Captured | None:
            exposed = round(self._next * 1e9 / rig.fps)
            wait = (exposed - time.time_ns()) / 1e9
            if wait > timeout_s:
                time.sleep(timeout_s)
                return None
            time.sleep(max(0.0, wait))
            self._next = max(self._next, int(time.time() * rig.fps)) + 1
            node_ns = clock.at(exposed)
            if best.offset_ns is not None and exposed > until:
                plain.append(node_ns + best.offset_ns - exposed)
            return Captured(self._jpeg, None, None, exposed, node_ns, 512, 512)

        def close(self) -> None:
            pass

        def __str__(self) -> str:
            return "simulated"

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    capture_nodes.link.ClockFilter = Recorded  # type: ignore[misc]
    Node(rig, f"pc{number}", lambda camera, rig: Camera(), now_ns=clock).run(stop)
    print(json.dumps({"best_of_16": plain}))


def match(mode: str, nodes: int) -> None:
    """Ten simulated minutes through the clock filters and the synchroniser."""
    rng, fps, start = random.Random(1), 30, 1_700_000_000_000_000_000
    names = [f"cam{number:02}" for number in range(nodes)]
    clocks = [NodeClock(number, nodes) for number in range(nodes)]
    filters = [ClockFilter() for _ in range(nodes)]
    first = [rng.randrange(1, 65_536) for _ in range(nodes)]
    sync = Synchronizer(names, mode, 8_000_000, 100_000_000)
    began, asked = time.perf_counter(), [start - 5_000_000_000] * nodes
    arrived = [0] * nodes
    waiting: list[tuple[int, int, Frame]] = []
    there: dict[int, set[str]] = {}
    sets = []
    errors = []
    exposures = MINUTES * 60 * fps
    for i in range(exposures):
        exposed = start + i * 1_000_000_000 // fps
        for number, name in enumerate(names):
            while asked[number] <= exposed:
                _exchange(filters[number], clocks[number], asked[number], rng)
                asked[number] += 250_000_000
            if rng.random() < MISSING:
                continue
            node_ns = clocks[number].at(exposed)
            trigger = (first[number] + i - 1) % 65_535 + 1
            offset, sigma = filters[number].offset_at(node_ns), filters[number].sigma_at(node_ns)
            errors.append(abs(node_ns + offset - exposed))
            header = FrameHeader(name, f"pc{number}", i, trigger, exposed, node_ns, offset, sigma, 512, 512)
            arrived[number] = max(arrived[number] + 1, exposed + rng.randrange(60_000_000))
            waiting.append((arrived[number], number, Frame(header, b"x")))
            there.setdefault(i, set()).add(name)
        waiting.sort(key=lambda item: item[:2])
        while waiting and waiting[0][0] <= exposed:
            now, _, frame = waiting.pop(0)
            sets += sync.add(frame, now)
    for now, _, frame in waiting:
        sets += sync.add(frame, now)
    sets += sync.poll(start + 2 * MINUTES * 60_000_000_000)
    mixed = sum(len({frame.header.sequence for frame in each.frames.values()}) > 1 for each in sets)
    made = {next(iter(each.frames.values())).header.sequence: set(each.frames) for each in sets}
    usable = [i for i, cameras in there.items() if len(cameras) >= nodes - nodes // 4]
    wrong = [i for i in usable if made.get(i) != there[i]]
    missing = exposures * nodes - sum(map(len, there.values()))
    print(
        f"simulated time, {MINUTES} min by {mode}: {exposures} exposures of {nodes} cameras, {missing} frames missing; "
        f"{len(usable)} exposures with enough cameras, {len(sets)} sets, {mixed} mixed, "
        f"{len(usable) - len(wrong)} exposures with exactly their frames"
        + (f" (the others are numbers {', '.join(map(str, wrong[:5]))})" if wrong else "")
    )
    print(f"    error of capture times:      {_quantiles(np.array(errors) / 1e3)}")
    print(f"    {sync.counters.restarts} counters rebased, {sync.counters.late} frames late", end="")
    print(f" ({time.perf_counter() - began:.0f} s of computing)")


def _exchange(clock: ClockFilter, node: NodeClock, at: int, rng: random.Random) -> None:
    """One clock exchange at a true time, over a network where every other packet meets a queue of 0.3 ms."""
    there, back = (60_000 + round(rng.expovariate(1 / 300_000) if rng.random() < 0.5 else 0) for _ in range(2))
    t1 = at + there
    clock.add(node.at(at), t1, t1 + 20_000, node.at(at + there + 20_000 + back))


def _quantiles(values: np.ndarray) -> str:
    median, most, worst = np.quantile(values, (0.5, 0.99, 1.0))
    return f"median {median:6.1f} us, 99 % {most:7.1f} us, worst {worst:7.1f} us"


def _rig(folder: Path, nodes: int, fps: float) -> Rig:
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    save_calibration(_calibration(nodes), folder / "cameras.json")
    rig = Rig(
        name="sync",
        root=folder,
        calibration=folder / "cameras.json",
        fps=fps,
        cameras=tuple(CameraConfig(f"cam{number:02}", f"pc{number}", "simulated") for number in range(nodes)),
        server=ServerConfig(data_port=ports[0], control_port=ports[1], takes=folder / "takes"),
        sync=SyncConfig(mode="time"),
    )
    save_rig(rig, folder / "rig.toml")
    return rig


def _calibration(nodes: int) -> Calibration:
    K = np.array([[500.0, 0, 256], [0, 500, 256], [0, 0, 1]])
    each = [Camera(f"cam{number:02}", 512, 512, K, np.zeros(5), np.eye(3), np.zeros(3)) for number in range(nodes)]
    return Calibration(tuple(each))


if __name__ == "__main__":
    main()
