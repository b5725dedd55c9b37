"""A rig of four camera PCs and a server, simulated by network namespaces, launched over SSH by one command.

python -m benchmarks four_pcs [--seconds 10] [--fps 15]

Each PC has its own network, hostname, home folder and a real sshd; two replay cameras each. From the server:
`headstream deploy RIG --start`, frames counted by the real receiver, `status`, kill -9 of one node, `logs`, a take that
is recorded and backfilled, `stop`.
Exits with 1 when something is not as it should be. Needs Linux, root, iproute2, nftables and openssh-server.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks._machine import machine
from benchmarks._netlab import Host, Lab, LabError
from benchmarks._netlab import missing as no_lab
from benchmarks._ssh_pcs import ROOT, install_this_checkout, serve_ssh
from benchmarks._ssh_pcs import missing as no_ssh
from fusion_server.receive import Receiver
from fusion_server.takes import TakeReader
from protocol.calibration import load_calibration
from protocol.messages import Frame
from protocol.rig import load_rig

PCS = ("pc1", "pc2", "pc3", "pc4")
CAMERAS = 8
SIDE = 256  # pixels of a picture
PICTURES = 30
WAIT_S = 30.0


class Reception:
    """The real receiver on the lab's server; counts what arrives. Use as a context."""

    def __init__(self, server: Host, rig: Path) -> None:
        loaded = load_rig(rig)
        self.frames: Counter[str] = Counter()
        self.last: dict[str, float] = {}
        self._lock = threading.Lock()
        with server.inside():
            self.receiver = Receiver(loaded, load_calibration(loaded.calibration), self._take)
            self.receiver.start()

    def _take(self, frame: Frame) -> None:
        with self._lock:
            self.frames[frame.header.camera] += 1
            self.last[frame.header.camera] = time.monotonic()

    def __enter__(self) -> Reception:
        return self

    def __exit__(self, *_: object) -> None:
        self.receiver.stop()

    def counts(self) -> Counter[str]:
        """Frames of each camera so far."""
        with self._lock:
            return Counter(self.frames)

    def until_more(self, cameras: list[str], count: int = 5) -> float:
        """Wait for so many more frames of each of these cameras; returns the seconds that it took."""
        before, began = self.counts(), time.monotonic()
        while any(self.counts()[camera] < before[camera] + count for camera in cameras):
            if time.monotonic() - began > WAIT_S:
                raise LabError(f"no frames of {', '.join(cameras)} in {WAIT_S:g} s")
            time.sleep(0.01)
        return time.monotonic() - began


class Campaign:
    """The steps, what each found, and whether it was right."""

    def __init__(self, lab: Lab, rig: Path) -> None:
        self.lab, self.rig = lab, rig
        self.rows: list[tuple[str, bool, str]] = []

    def note(self, what: str, right: bool, found: str) -> None:
        """A row of the table."""
        self.rows.append((what, right, found))
        print(f"{'ok ' if right else 'NO '} {what:<34} {found}", flush=True)

    def headstream(self, *arguments: str) -> tuple[int, Any, float]:
        """A command as the operator types it at the server: exit status, its JSON (or text), seconds."""
        began = time.monotonic()
        command = [sys.executable, "-m", "launch.cli", *arguments]
        done = self.lab["server"].run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
        seconds = time.monotonic() - began
        if "--json" not in arguments:
            return done.returncode, done.stdout, seconds
        try:
            return done.returncode, json.loads(done.stdout), seconds
        except ValueError:
            raise LabError(f"headstream {' '.join(arguments)}: {done.stderr.strip() or done.stdout}") from None

    def run(self, seconds: float) -> None:
        """Everything, in the order of a shoot day."""
        rig = str(self.rig)
        cameras = [camera.id for camera in load_rig(self.rig).cameras]
        code, said, _ = self.headstream("keys", rig)
        self.note("keys for server and nodes", code == 0, said.splitlines()[0] if said else "")
        with Reception(self.lab["server"], self.rig) as reception:
            code, said, took = self.headstream("deploy", rig, "--start", "--json")
            texts = [entry["text"] for entry in said.values() if not entry["ok"]]
            self.note("deploy --start, four PCs at once", code == 0, f"{took:.1f} s {'; '.join(texts)}")
            if code:
                return
            first = {name: entry["pid"] for name, entry in said.items()}
            self.note("frames of all eight cameras", True, f"after {reception.until_more(cameras):.1f} s more")

            code, said, took = self.headstream("start", rig, "--json")
            same = first == {name: entry["pid"] for name, entry in said.items()}
            self.note("start again: the same processes", code == 0 and same, f"{took:.1f} s")
            self._steady(reception, cameras, seconds)

            victims = [camera.id for camera in load_rig(self.rig).cameras_of("pc2")]
            others = [camera for camera in cameras if camera not in victims]
            before = reception.counts()
            os.kill(first["pc2"], signal.SIGKILL)
            recovered = reception.until_more(victims)
            code, said, _ = self.headstream("status", rig, "--json")
            pc2 = said["pc2"]
            again = pc2["state"] == "running" and pc2["pid"] != first["pc2"] and pc2["restarts"] == 1
            self.note("kill -9 of pc2's node: it comes back", code == 0 and again, f"pictures after {recovered:.1f} s")
            lost = [camera for camera in others if reception.counts()[camera] == before[camera]]
            self.note("meanwhile, the other six cameras", not lost, "went on" if not lost else f"silent: {lost}")

            code, printed, _ = self.headstream("logs", rig, "--lines", "200")
            labels = {line.split()[0] for line in printed.splitlines() if line.startswith("[")}
            wanted = {f"[{camera.node}/{camera.id}]" for camera in load_rig(self.rig).cameras}
            self.note("logs name node and camera", wanted <= labels, f"{len(printed.splitlines())} lines")

            with self.lab["pc3"].unplugged():
                code, said, took = self.headstream("status", rig, "--json")
                told = code == 1 and not said["pc3"]["ok"] and all(said[name]["ok"] for name in ("pc1", "pc2", "pc4"))
                self.note("pc3 unplugged: told, others well", told, f"{took:.1f} s: {said['pc3']['text']}")
            back = reception.until_more([camera.id for camera in load_rig(self.rig).cameras_of("pc3")])
            self.note("plugged in again: pc3's pictures", True, f"after {back:.1f} s")

        self._take(rig, seconds)

        code, said, took = self.headstream("stop", rig, "--json")
        self.note("stop", code == 0, f"{took:.1f} s")
        with Reception(self.lab["server"], self.rig) as reception:
            time.sleep(2.0)
            self.note("no pictures any more", not reception.counts(), f"{sum(reception.counts().values())} in 2 s")
        code, said, _ = self.headstream("status", rig, "--json")
        stopped = {entry["state"] for entry in said.values()} == {"stopped"}
        self.note(
            "status says so", code == 1 and stopped, ", ".join(sorted({entry["state"] for entry in said.values()}))
        )

    def _take(self, rig: str, seconds: float) -> None:
        """A take, in which pc4 has no cable for 3 s: it ends whole all the same."""
        command = [sys.executable, "-m", "launch.cli", "record", rig, "four", "--seconds", f"{seconds:g}", "--json"]
        recorder = self.lab["server"].popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert recorder.stdout is not None
        for line in recorder.stdout:
            if json.loads(line).get("take"):
                break
        time.sleep(seconds / 4)
        with self.lab["pc4"].unplugged():
            time.sleep(3.0)
        *_, last = recorder.stdout
        recorder.wait(WAIT_S)
        take = json.loads(last)
        reader = TakeReader(take["path"])
        counts = reader.frame_counts
        found = f"{sum(counts.values())} pictures, {reader.backfilled} of them fetched afterwards"
        missing = "" if take["complete"] else f"; missing: {take['missing_frames']}"
        self.note("a take, pc4 unplugged for 3 s of it", bool(take["complete"]), found + missing)

    def _steady(self, reception: Reception, cameras: list[str], seconds: float) -> None:
        before = {name: entry["missed"] for name, entry in reception.receiver.statistics().items()}
        start, began = reception.counts(), time.monotonic()
        time.sleep(seconds)
        rate = {name: (reception.counts()[name] - start[name]) / (time.monotonic() - began) for name in cameras}
        missed = sum(entry["missed"] - before[name] for name, entry in reception.receiver.statistics().items())
        found = f"{min(rate.values()):.1f} to {max(rate.values()):.1f} fps a camera, {missed} frames missed"
        self.note(f"{seconds:g} s of steady pictures", min(rate.values()) > 0, found)


def write_rig(
    folder: Path, server: str, addresses: dict[str, str], fps: float, wire: str = 'security = "curve"'
) -> Path:
    """A capture of eight cameras, and the rig that plays it, two cameras a PC; returns the rig file.

    wire: what the rig file says of it; keys are still to be made.
    """
    capture = folder / "capture"
    names = [f"cam{i}" for i in range(CAMERAS)]
    noise = np.random.default_rng(0)
    for frame in range(PICTURES):
        at = capture / "frames" / f"{frame:03d}"
        at.mkdir(parents=True)
        for name in names:
            picture = cv2.resize(noise.integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8), (SIDE, SIDE))
            cv2.imwrite(str(at / f"{name}.jpg"), picture)
    K = [[SIDE, 0, SIDE / 2], [0, SIDE, SIDE / 2], [0, 0, 1]]
    pose = {"width": SIDE, "height": SIDE, "K": K, "R": np.eye(3).tolist(), "t": [0, 0, 1]}
    calibration = json.dumps({"version": 1, "cameras": [{"name": name, **pose} for name in names]})
    (capture / "cameras.json").write_text(calibration)
    rig = folder / "rig" / "rig.toml"
    rig.parent.mkdir()
    (rig.parent / "cameras.json").write_text(calibration)
    text = f'name = "four PCs"\ncalibration = "cameras.json"\nfps = {fps}\n'
    text += f'[server]\nhost = "{server}"\n[wire]\n{wire}\n'
    for i, name in enumerate(names):
        text += f'[[camera]]\nid = "{name}"\nnode = "{PCS[i // 2]}"\ndriver = "replay"\n'
        text += f'options = {{capture = "{capture}"}}\n'
    for name, address in addresses.items():
        text += f'[[node]]\nname = "{name}"\nhost = "{address}"\n'
    rig.write_text(text)
    return rig


def main() -> None:
    """Build the lab, run the campaign, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of steady pictures")
    parser.add_argument("--fps", type=float, default=15.0)
    options = parser.parse_args()
    reason = no_lab() or no_ssh()
    if reason:
        sys.exit(f"four_pcs: {reason}")
    print(machine())
    with Lab(["server", *PCS]) as lab:
        serve_ssh(lab, "server", PCS)
        for name in PCS:
            install_this_checkout(lab[name])
        rig = write_rig(lab.folder, lab["server"].address, {name: lab[name].address for name in PCS}, options.fps)
        campaign = Campaign(lab, rig)
        try:
            campaign.run(options.seconds)
        except LabError as error:
            campaign.note("the campaign", False, str(error))
    sys.exit(not all(right for _, right, _ in campaign.rows))


if __name__ == "__main__":
    main()
