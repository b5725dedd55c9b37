"""Pictures of 8 cameras from 8 processes to one: frames a second, CPU a frame, latency, drops; beside peers.

python -m benchmarks throughput [--seconds 8] [--pictures 512,5mp] [--only ours,imagezmq-req]

The same JPEGs go through ours (real nodes with the replay driver, the real receiver; plain and with CURVE), imagezmq
and vidgear's NetGear, which are installed into an environment of their own. The offered rate starts at the first of a
row and goes up while the contender still delivers 95 %; CPU a frame is that of all its processes at the first rate.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import platformdirs

from benchmarks._machine import machine
from protocol.calibration import Calibration, Camera, save_calibration
from protocol.keys import make_pair
from protocol.rig import CameraConfig, Rig, ServerConfig, WireConfig, load_rig, save_rig

ROOT = Path(__file__).resolve().parent.parent
CAMERAS, PICTURES = 8, 4
SIZES = {"512": (512, 512, (60, 120, 240, 360, 500, 700, 1000)), "5mp": (2448, 2048, (5, 10, 20, 30, 45, 60))}
OURS = ("ours", "ours-curve")
PEERS = ("imagezmq-req", "imagezmq-pub", "netgear-bytes", "netgear-jpeg")
PEER_PACKAGES = {  # imagezmq and vidgear without their dependencies: they name an OpenCV with windows
    "--no-deps": ["imagezmq==1.2.0", "vidgear==0.3.6"],
    "--quiet": ["numpy", "opencv-python-headless<5", "pyzmq==27.3.0", "simplejpeg", "requests", "colorlog", "tqdm"]
    + ["packaging"],
}
WARM_S = 1.0
KEEPS_UP = 0.95
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Round:
    """One contender at one offered rate."""

    fps: float  # offered by each camera
    seconds: float
    frames: int
    megabytes: float
    late_ms: dict[str, float]
    cpu_senders_s: float
    cpu_receiver_s: float
    counts: dict[str, Any]  # ours only: what the receiver counted over its whole life

    @property
    def delivered(self) -> float:
        """The share of what was offered."""
        return self.frames / (self.fps * CAMERAS * self.seconds)

    @property
    def cpu_ms(self) -> float:
        """CPU of all processes, ms a frame."""
        return 1e3 * (self.cpu_senders_s + self.cpu_receiver_s) / max(1, self.frames)


def pictures(folder: Path, width: int, height: int) -> float:
    """A capture of distinct pictures with detail of all sizes; returns the mean size of a JPEG, kB."""
    rng = np.random.default_rng(0)
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    cameras = [
        Camera(f"cam{i:02d}", width, height, K, np.zeros(5), np.eye(3), np.array([0, 0, 1.0])) for i in range(CAMERAS)
    ]
    total = 0
    for index in range(PICTURES):
        (folder / "frames" / f"{index:03d}").mkdir(parents=True)
        for camera in cameras:
            picture = np.full((height, width, 3), 128, np.float32)
            for cells, strength in ((4, 60), (32, 30), (128, 15)):
                noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
                picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            picture += rng.normal(0, 2, picture.shape)  # a sensor's
            jpeg = cv2.imencode(".jpg", picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            (folder / "frames" / f"{index:03d}" / f"{camera.name}.jpg").write_bytes(jpeg.tobytes())
            total += len(jpeg)
    save_calibration(Calibration(tuple(cameras)), folder / "cameras.json")
    return total / (PICTURES * CAMERAS) / 1e3


def rig_file(folder: Path, capture: Path, fps: float, security: str) -> Rig:
    """A rig of one node a camera on free ports, with keys where asked for."""
    data, control = free_ports(2)
    rig = Rig(
        name="throughput",
        root=folder,
        calibration=capture / "cameras.json",
        fps=fps,
        server=ServerConfig(data_port=data, control_port=control, takes=folder / "takes"),
        wire=WireConfig(security=security, keys=folder / "keys"),
        cameras=tuple(
            CameraConfig(f"cam{i:02d}", f"pc{i}", "replay", options={"capture": str(capture)}) for i in range(CAMERAS)
        ),
    )
    save_rig(rig, folder / "rig.toml")
    if security == "curve" and not rig.wire.keys.exists():
        for who in (None, *rig.nodes):
            make_pair(rig.wire.keys, who)
    return load_rig(folder / "rig.toml")


def free_ports(count: int) -> list[int]:
    """Neighbouring free ports, as far as can be known."""
    for first in range(20_000, 60_000, 97):
        try:
            sockets = [socket.create_server(("127.0.0.1", first + i)) for i in range(count)]
        except OSError:
            continue
        for each in sockets:
            each.close()
        return [first + i for i in range(count)]
    sys.exit("no free ports")


def peers_python() -> Path:
    """The interpreter of the peers' environment, made at the first run in the user's cache."""
    home = Path(platformdirs.user_cache_dir("headstream")) / "benchmark-peers"
    python = home / "bin" / "python"
    ready = home / ".ready"
    if not ready.exists():
        print(f"installing the peers into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        for option, packages in PEER_PACKAGES.items():
            command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", option, *packages]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        ready.touch()
    return python


class Processes:
    """A receiver and its senders: started, their CPU read, and ended by their ids."""

    def __init__(self, receiver: list[str], senders: list[list[str]]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HEADSTREAM_LOG": "ERROR"}
        how: dict[str, Any] = {"cwd": ROOT, "env": environment, "stderr": subprocess.DEVNULL}
        self.receiver = subprocess.Popen(receiver, stdout=subprocess.PIPE, text=True, **how)
        self.senders = [subprocess.Popen(command, stdout=subprocess.DEVNULL, **how) for command in senders]
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.receiver.stdout is not None
        for line in self.receiver.stdout:
            if line.startswith("{"):
                self._lines.put(json.loads(line))

    def wait_for(self, event: str, seconds: float) -> dict[str, Any] | None:
        """The receiver's line of this event; None when it does not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.1)
            except queue.Empty:
                if self.receiver.poll() is not None and self._lines.empty():
                    return None
                continue
            if line["event"] == event:
                return line
        return None

    def cpu(self) -> tuple[float, float]:
        """CPU seconds of the senders together and of the receiver, so far."""
        return sum(_cpu(sender.pid) for sender in self.senders), _cpu(self.receiver.pid)

    def end(self) -> None:
        """Ask, wait, insist."""
        for process in (*self.senders, self.receiver):
            process.terminate()
        for process in (*self.senders, self.receiver):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def commands(
    contender: str, folder: Path, capture: Path, fps: float, seconds: float
) -> tuple[list[str], list[list[str]]]:
    """The receiver's command and the senders'."""
    window = [str(WARM_S), str(seconds)]
    if contender in OURS:
        rig = rig_file(folder, capture, fps, "curve" if contender == "ours-curve" else "plain")
        path = str(folder / "rig.toml")
        ours = [sys.executable, "-m"]
        nodes = [[*ours, "launch.cli", "node", path, "--name", name] for name in rig.nodes]
        return [*ours, "benchmarks._receiver", path, *window], nodes
    peer = [str(peers_python()), "-m", "benchmarks._peers"]
    port = str(free_ports(CAMERAS)[0])
    senders = [[*peer, "send", contender, f"cam{i:02d}", port, str(fps), str(capture)] for i in range(CAMERAS)]
    return [*peer, "receive", contender, str(CAMERAS), port, *window], senders


def run(contender: str, capture: Path, fps: float, seconds: float) -> Round | None:
    """One round; None when the contender delivers nothing."""
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(*commands(contender, Path(folder), capture, fps, seconds))
        try:
            if processes.wait_for("open", 60) is None:
                return None
            before = processes.cpu()
            closed = processes.wait_for("close", seconds + 30)
            after = processes.cpu()
            counts = processes.wait_for("counts", 10) if contender in OURS else {}
        finally:
            processes.end()
    if closed is None:
        return None
    return Round(
        fps,
        closed["seconds"],
        closed["frames"],
        closed["bytes"] / 1e6,
        closed["late_ms"],
        after[0] - before[0],
        after[1] - before[1],
        counts or {},
    )


def climb(contender: str, capture: Path, rates: tuple[int, ...], seconds: float) -> list[Round]:
    """Rounds at rising rates, up to the first that the contender does not keep up with."""
    rounds: list[Round] = []
    for fps in rates:
        done = run(contender, capture, fps, seconds)
        if done is None:
            print(f"  {contender:<14} {fps:>4} fps offered a camera: nothing arrived", flush=True)
            break
        rounds.append(done)
        late = ", ".join(f"{share} {value:.1f}" for share, value in done.late_ms.items())
        print(
            f"  {contender:<14} {fps:>4} fps offered a camera: {done.frames / done.seconds:7.1f} frames/s "
            f"({100 * done.delivered:5.1f} %), {done.megabytes / done.seconds:6.1f} MB/s, "
            f"CPU {done.cpu_ms:6.2f} ms a frame (receiver {1e3 * done.cpu_receiver_s / max(1, done.frames):.2f}), "
            f"ms from exposure: {late}",
            flush=True,
        )
        if done.counts:
            counts = done.counts
            print(
                f"  {'':<14}      whole run: {counts['received']} received, {counts['missed']} numbers missing, "
                f"{counts['dropped']} told by the nodes as dropped, {sum(counts['refused'].values())} refused",
                flush=True,
            )
        if done.delivered < KEEPS_UP:
            break
    return rounds


def table(found: dict[str, list[Round]]) -> str:
    """Each contender beside ours: most frames a second at any rate, CPU a frame at the first."""
    best = {name: max(each.frames / each.seconds for each in rounds) for name, rounds in found.items() if rounds}
    cpu = {name: rounds[0].cpu_ms for name, rounds in found.items() if rounds}
    lines = [f"  {'':<14}{'most frames/s':>14}{'of ours':>9}{'CPU ms/frame':>14}{'of ours':>9}"]
    for name in best:
        rates = (
            f"{best[name]:>14.1f}{best[name] / best['ours']:>9.2f}" if "ours" in best else f"{best[name]:>14.1f}{'':>9}"
        )
        costs = f"{cpu[name]:>14.2f}" + (f"{cpu[name] / cpu['ours']:>9.2f}" if "ours" in cpu else "")
        lines.append(f"  {name:<14}{rates}{costs}")
    return "\n".join(lines)


def main() -> None:
    """Every size, every contender, rising rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round")
    parser.add_argument("--pictures", default=",".join(SIZES), help="512 and 5mp")
    parser.add_argument("--only", default=",".join(OURS + PEERS), help="contenders")
    parser.add_argument("--first", action="store_true", help="only the first rate of each row")
    options = parser.parse_args()
    contenders = options.only.split(",")
    unknown = set(contenders) - set(OURS + PEERS) | set(options.pictures.split(",")) - SIZES.keys()
    if unknown:
        sys.exit(
            f"unknown: {', '.join(sorted(unknown))}; contenders are {', '.join(OURS + PEERS)}, pictures 512 and 5mp"
        )
    if set(contenders) & set(PEERS):
        peers_python()
    print(machine())
    for name in options.pictures.split(","):
        width, height, rates = SIZES[name]
        with tempfile.TemporaryDirectory() as folder:
            capture = Path(folder) / "capture"
            size = pictures(capture, width, height)
            print(f"{CAMERAS} cameras, {width}x{height}, JPEGs of {size:.0f} kB on average:")
            steps = rates[:1] if options.first else rates
            print(table({each: climb(each, capture, steps, options.seconds) for each in contenders}), flush=True)


if __name__ == "__main__":
    main()
