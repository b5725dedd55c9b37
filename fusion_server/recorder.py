"""What a take needs, and no mesh: frames are received, kept, watched, and what was missed is fetched afterwards.

``headstream record`` runs it as it is, on a machine that need not compute anything; the fusion server (``server``) adds
normals, surface and preview to it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusion_server.metrics import ServerCollector
from fusion_server.receive import Receiver
from fusion_server.sets import FrameSets
from fusion_server.synchronize import FrameSet
from fusion_server.takes import TakeWriter
from fusion_server.takes.backfiller import Backfiller
from fusion_server.watch import Watch
from protocol.calibration import Calibration, load_calibration
from protocol.errors import HeadstreamError
from protocol.messages import Frame
from protocol.metrics import MetricsServer
from protocol.rig import Rig

log = logging.getLogger(__name__)
STATUS_PERIOD_S = 1.0


def rig_calibration(rig: Rig) -> Calibration:
    """The calibration of the rig's cameras, in the rig's order. Raises HeadstreamError for a camera without one."""
    whole = load_calibration(rig.calibration)
    for place, camera in enumerate(rig.cameras):
        if camera.id not in whole.names:
            known = ", ".join(whole.names)
            raise HeadstreamError(
                f"{rig.calibration}: has no camera {camera.id!r} (camera[{place}].id); it has {known}"
            )
    return Calibration(tuple(whole[camera.id] for camera in rig.cameras), {}, whole.extra)


class Recorder:
    """Everything between the nodes' sockets and the disk. ``start``, ``record``, look at ``status``, ``stop``."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.calibration = rig_calibration(rig)
        self.receiver = Receiver(rig, self.calibration, self._on_frame, on_tick=self._on_tick)
        self.backfill = Backfiller(rig, self.receiver, self._recording)
        self.watch = Watch(rig, self._keep_fault)
        self.sets = FrameSets(rig, rig.camera_ids)
        self._take_lock = threading.Lock()
        self._take: TakeWriter | None = None
        self._takes = 0  # begun
        self._teller = threading.Thread(target=self._tell, name="status")
        self._stop = threading.Event()
        self._extra_status: dict[str, Any] = {}
        self._started = False
        self._metrics = self._serve_metrics()

    def start(self) -> None:
        """Start every thread; nodes may come and go from now on."""
        self._started = True
        self.receiver.start()
        self.backfill.start()
        self._teller.start()

    def stop(self) -> None:
        """Close the take, end every thread, free the ports."""
        self._stop.set()
        self.stop_recording()
        self.backfill.stop()
        self.receiver.stop()
        if self._teller.is_alive():
            self._teller.join()
        if self._metrics:
            self._metrics.close()

    def record(self, slate: str) -> Path:
        """Start a take; returns its folder. Raises HeadstreamError when one is running or the disk refuses."""
        with self._take_lock:
            if self._take is not None:
                raise HeadstreamError(f"{self._take.path} is still being recorded; stop it first")
            self._take = TakeWriter(self.rig.server.takes, slate, self.rig, self.calibration)
            path, started_ns = self._take.path, self._take.started_ns
            self._takes += 1
        self.receiver.record(True, path.name, started_ns)
        log.info("recording %s", path)
        return path

    def stop_recording(self) -> Path | None:
        """End the running take, if there is one; returns its folder. What it lacks is then fetched from the nodes."""
        ended_ns = time.time_ns()
        self.receiver.record(False, at_ns=ended_ns)
        with self._take_lock:
            take, self._take = self._take, None
        if take is None:
            return None
        take.statistics(self.status())
        take.close(ended_ns)
        log.info("recorded %s", take.path)
        self.backfill.add(take.path)
        return take.path

    def annotate(self, **values: Any) -> None:
        """Add values to the status, such as the error against a truth that only the caller knows."""
        self._extra_status |= values

    def status(self) -> dict[str, Any]:
        """What the operator sees, as plain values: per camera, synchronisation, clocks, alarms, take."""
        take = self._take
        return {
            "time_ns": time.time_ns(),
            "cameras": self.receiver.statistics(),
            "refused": self.receiver.refused(),
            "sync": asdict(self.sets.counters),
            "waiting": self.sets.waiting,
            **self.watch.status(),
            "takes": self._takes,
            "take": str(take.path) if take else None,
            "take_queue_bytes": take.waiting_bytes if take else 0,
            "backfill": self.backfill.status(),
            "spool": {name: node["spool"] for name, node in self.receiver.nodes().items()},
            **self._extra_status,
        }

    @property
    def failure(self) -> str | None:
        """Why this can only end: a bug in one of its threads, whose traceback is in the log."""
        return None if self.receiver.alive else "the receiver failed"

    def _frame_set(self, frame_set: FrameSet) -> None:
        """A set is whole, or has waited long enough; on the receiver's thread."""
        self.watch.frame_set(frame_set)

    def _told(self) -> None:
        """Once a second, on a thread of its own."""

    def _keep_fault(self, text: str) -> None:
        with self._take_lock:
            if self._take is not None:
                self._take.fault(text)

    def _recording(self) -> Path | None:
        take = self._take
        return take.path if take else None

    def _on_frame(self, frame: Frame) -> None:
        with self._take_lock:
            if self._take is not None:
                self._take.frame(frame)
        self.watch.frame(frame)
        for frame_set in self.sets.add(frame):
            self._frame_set(frame_set)

    def _on_tick(self) -> None:
        for frame_set in self.sets.poll():
            self._frame_set(frame_set)

    def _tell(self) -> None:
        while not self._stop.wait(STATUS_PERIOD_S):
            take = self._take
            nodes = self.receiver.nodes()
            trouble = {"disk": take.trouble} if take and take.trouble else {}
            trouble |= _spool_faults(nodes)
            self.watch.update(self.receiver.statistics(), nodes, trouble)
            self._told()

    def _serve_metrics(self) -> MetricsServer | None:
        config = self.rig.metrics
        if not config.server_port:
            return None
        # The port is bound with the others, before anything is compiled; until all is made there is nothing to say.
        collector = ServerCollector(lambda: self.status() if self._started else None, self.receiver.nodes)
        metrics = MetricsServer(config.host, config.server_port, collector, "metrics.server_port")
        log.info("metrics for Prometheus: http://%s:%d/metrics", config.host, metrics.port)
        return metrics


def _spool_faults(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Nodes whose disk does not keep the take: one alarm for all of them, under one key.

    What they say changes from second to second (minutes of room, times), and is no new alarm each time.
    """
    said: dict[str, list[str]] = {}
    for name, node in nodes.items():
        if fault := node["spool"]["fault"]:
            said.setdefault(fault, []).append(name)
    texts = [f"node {', '.join(names)}: {fault}" for fault, names in said.items()]
    return {"disks of nodes": "; ".join(texts)} if texts else {}
