"""Four camera PCs and a recorder in a laboratory of network namespaces, to be hurt while a take is recorded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._netlab import Host, Lab, LabError
from fusion_server.takes import TakeReader
from fusion_server.takes.mcap_index import McapIndex
from protocol.capture_folder import CaptureFolder
from protocol.rig import CameraConfig, Rig, ServerConfig, WireConfig, save_rig

PCS = ("pc1", "pc2", "pc3", "pc4")
SERVER = "server"
GATHER_S = 30.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Found:
    """What one fault did to one take."""

    due: int = 0  # pictures that cameras took between the take's start and end
    there: int = 0  # of them in the take
    live: int = 0  # of those without backfill
    listed: int = 0  # in take.json, as gone, with a reason
    unsaid: int = 0  # gone without a word: must be 0
    reasons: list[str] = field(default_factory=list)
    recovered_s: float | None = None  # from the end of the fault to the first live picture of what was hurt
    server_mb: float = 0.0  # peak of resident memory
    node_mb: float = 0.0
    saw: list[str] = field(default_factory=list)  # alarms and refusals, as the operator was told
    notes: list[str] = field(default_factory=list)


class FaultRig:
    """One rig in its own folder, and its processes. Use as a context: leaving it ends them all."""

    def __init__(self, lab: Lab, folder: Path, capture: CaptureFolder, fps: float, security: str = "plain") -> None:
        self.lab, self.folder, self.fps = lab, folder, fps
        names = capture.calibration.names[: 2 * len(PCS)]
        self.rig = Rig(
            name="faults",
            root=folder,
            calibration=capture.root / "cameras.json",
            fps=fps,
            server=ServerConfig(host=lab[SERVER].address, takes=Path("takes")),
            wire=WireConfig(security=security, allow_plain=security == "plain"),
            cameras=tuple(
                CameraConfig(name, PCS[i % len(PCS)], "replay", options={"capture": str(capture.root)})
                for i, name in enumerate(names)
            ),
        )
        self.nodes: dict[str, subprocess.Popen[Any]] = {}
        self.recorder: subprocess.Popen[str] | None = None
        self.statuses: list[dict[str, Any]] = []
        self.ended: dict[str, Any] = {}
        self.lines: list[str] = []  # what the recorder logged
        self.found = Found()
        self.absent: list[str] = []  # cameras that nobody has: their pictures are not due
        self._readers: list[threading.Thread] = []
        self._watching = threading.Event()
        self._peaks: dict[str, float] = {}

    def __enter__(self) -> FaultRig:
        for place in (SERVER, *PCS):
            self.write(place)
        watcher = threading.Thread(target=self._watch_memory, daemon=True)
        watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.set()
        for name in PCS:
            self.kill(name)
        if self.recorder and self.recorder.poll() is None:
            self.recorder.kill()
            self.recorder.wait()

    def file(self, place: str) -> Path:
        """A PC's own rig file; takes and spool lie beside it."""
        return self.folder / place / "rig.toml"

    def write(self, place: str, **changes: Any) -> None:
        """Write a PC's rig file, with these changes to the rig."""
        self.file(place).parent.mkdir(parents=True, exist_ok=True)
        save_rig(replace(self.rig, root=self.file(place).parent, **changes), self.file(place))

    def start(self, name: str, command: Sequence[str] | None = None, on: str = "") -> None:
        """Start a node as its PC would, or another program in its place; ``on`` another PC than its own."""
        arguments = command or [sys.executable, "-m", "launch.cli", "node", str(self.file(name)), "--name", name]
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.nodes[name] = self._popen(self.lab[on or name], arguments, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """``kill -9``."""
        process = self.nodes.get(name)
        if process and process.poll() is None:
            process.kill()
            process.wait()

    def record(self, slate: str, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Start the recorder and return when its take runs."""
        command = [sys.executable, "-m", "launch.cli", "record", str(self.file(SERVER)), slate]
        command += ["--seconds", f"{seconds:g}", "--gather", f"{GATHER_S:g}", "--json"]
        self.statuses, self.ended = [], {}
        self.recorder = self._popen(
            self.lab[SERVER], command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.recorder.stdout, self._take_status), daemon=True),
            threading.Thread(target=self._read, args=(self.recorder.stderr, self.lines.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.until(lambda: any(status.get("take") for status in self.statuses), GATHER_S + 30, "the take to begin")

    def until(self, happened: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for it. Raises LabError with what the recorder said when it does not happen."""
        deadline = time.monotonic() + seconds
        while not happened():
            ended = self.recorder is not None and self.recorder.poll() is not None
            if time.monotonic() > deadline or (ended and not happened()):
                raise LabError(f"waited in vain for {what}: " + " / ".join(self.lines[-5:]))
            time.sleep(0.05)

    def finish(self, seconds: float) -> None:
        """Wait for the recorder's end: the take is closed and what was missed fetched."""
        assert self.recorder is not None
        try:
            self.recorder.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabError("the recorder does not end: " + " / ".join(self.lines[-5:])) from None
        for reader in self._readers:
            reader.join(5)

    @property
    def take(self) -> Path:
        """The newest take's folder."""
        return max((self.folder / SERVER / "takes").iterdir(), key=lambda path: path.stat().st_mtime_ns)

    def account(self, take: Path, hurt: Sequence[str], healed_at: float | None) -> Found:
        """Compare a take with what its cameras must have taken: the schedule of replayed pictures is the clock's.

        hurt: the cameras that the fault concerned; healed_at: ``time.time`` when it was over.
        """
        found, reader = self.found, TakeReader(take)
        info = json.loads((take / "take.json").read_text(encoding="utf-8"))
        period = 1e9 / self.fps
        slack = 0.1 * period  # as near to the take's ends a picture may be in it or not
        first = int(np.ceil((info["started_ns"] + slack) / period))
        last = int(np.floor((info["ended_ns"] - slack) / period))
        live = McapIndex(take / "take.mcap")
        for camera in (name for name in self.rig.camera_ids if name not in self.absent):
            triggers = {frame.header.trigger for frame in reader.frames(camera)}
            missing = set(range(first, last + 1)) - triggers
            gaps = [gap for gap in info.get("missing") or [] if gap["camera"] == camera]
            said = {n for gap in gaps if gap["triggers"] for n in range(gap["triggers"][0], gap["triggers"][1] + 1)}
            said |= {
                n
                for gap in gaps
                for n in range(round(gap["from_ns"] / period), round(gap["to_ns"] / period) + 1)
            }  # fmt: skip
            found.due += last - first + 1
            found.there += last - first + 1 - len(missing)
            found.live += sum(first * period - slack <= at <= last * period + slack for at, _ in live.of_camera(camera))
            found.listed += len(missing & said)
            found.unsaid += len(missing - said)
            found.reasons += [gap["reason"] for gap in gaps]
        if healed_at is not None:
            after = [[at for at, _ in live.of_camera(camera) if at >= healed_at * 1e9] for camera in hurt]
            found.recovered_s = max(map(min, after)) / 1e9 - healed_at if all(after) else None
        found.server_mb = max((mb for name, mb in self._peaks.items() if name == SERVER), default=0.0)
        found.node_mb = max((mb for name, mb in self._peaks.items() if name != SERVER), default=0.0)
        texts = [alarm["text"] for status in self.statuses for alarm in status.get("alarms", [])]
        texts += [line.partition(": ")[2] for line in self.lines if " W " in line or " E " in line]
        found.saw = list(dict.fromkeys(text for text in texts if text))
        refused = self.statuses[-1].get("refused") if self.statuses else None
        if refused:
            found.notes.append("refused " + ", ".join(f"{count} {reason}" for reason, count in refused.items()))
        return found

    def cameras_of(self, *pcs: str) -> list[str]:
        """Cameras of these PCs."""
        return [camera.id for camera in self.rig.cameras if camera.node in pcs]

    @contextlib.contextmanager
    def stopped(self, process: subprocess.Popen[Any]) -> Iterator[None]:
        """SIGSTOP, and SIGCONT in the end."""
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def _popen(self, host: Host, arguments: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return host.popen(list(arguments), stdin=subprocess.DEVNULL, env=environment, **how)

    def _take_status(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if entry.get("ended"):
            self.ended = entry
        else:
            self.statuses.append(entry)

    @staticmethod
    def _read(stream: Any, take: Callable[[str], None]) -> None:
        for line in stream:
            take(line.rstrip("\n"))

    def _watch_memory(self) -> None:
        while not self._watching.wait(0.3):
            running = {**self.nodes, **({SERVER: self.recorder} if self.recorder else {})}
            for name, process in running.items():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
                    self._peaks[name] = max(self._peaks.get(name, 0.0), peak)
