"""The fusion server: the pipeline with its sockets, its preview and its takes."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusion_server.colour import Photo
from fusion_server.decode import Decoder
from fusion_server.metrics import ServerCollector
from fusion_server.pipeline import Pipeline, Result
from fusion_server.preview import Preview
from fusion_server.receive import Receiver
from fusion_server.reconstruct import make_reconstructor
from fusion_server.takes import TakeWriter
from fusion_server.watch import Watch
from protocol.calibration import Calibration, load_calibration
from protocol.errors import HeadstreamError
from protocol.messages import Frame
from protocol.metrics import MetricsServer
from protocol.rig import Rig

log = logging.getLogger(__name__)
THUMBNAIL = 160  # pixels, the larger side
THUMBNAIL_PERIOD = 0.5  # seconds


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


class Server:
    """Everything between the nodes' sockets and the operator. ``start``, look at ``status``, ``stop``."""

    def __init__(self, rig: Rig, *, preview: bool = True) -> None:
        self.rig = rig
        self.calibration = rig_calibration(rig)
        # Sockets first: a port in use is said at once, and not after the engine has compiled for a minute.
        self.receiver = Receiver(rig, self.calibration, self._on_frame, on_tick=self._on_tick)
        self._whole = False  # made to the end: there is a status
        self.metrics = _serve_metrics(self)
        # Normals of one frame set are predicted while the surface of another is solved. A network that takes all cores
        # spends its time waiting for the one that the surface has.
        threads = rig.normals.threads or max(1, len(os.sched_getaffinity(0)) // 2)
        reconstructor = make_reconstructor(self.calibration, replace(rig.normals, threads=threads), rig.surface)
        self.pipeline = Pipeline(rig, self.calibration, reconstructor, Decoder(threads=2))
        self.watch = Watch(rig, self._on_fault)
        self.pipeline.observe(self._on_result, self._on_fault, self._on_images, self.watch.frame_set)
        self.preview = Preview(rig, self.calibration, on_record=self._on_record_button) if preview else None
        self._take_lock = threading.Lock()
        self._take: TakeWriter | None = None
        self._takes = 0  # begun
        self._teller = threading.Thread(target=self._tell, name="status")
        self._stop = threading.Event()
        self._thumbnails_at = 0.0
        self._extra_status: dict[str, Any] = {}
        self._whole = True

    def start(self) -> None:
        """Start every thread; nodes may come and go from now on."""
        self.pipeline.start()
        self.receiver.start()
        self._teller.start()

    def stop(self) -> None:
        """Close the take, end every thread, free the ports."""
        self._stop.set()
        self.stop_recording()
        self.receiver.stop()
        self.pipeline.stop()
        if self._teller.is_alive():
            self._teller.join()
        if self.preview:
            self.preview.close()
        if self.metrics:
            self.metrics.close()

    def record(self, slate: str) -> Path:
        """Start a take; returns its folder. Raises HeadstreamError when one is running or the disk refuses."""
        with self._take_lock:
            if self._take is not None:
                raise HeadstreamError(f"{self._take.path} is still being recorded; stop it first")
            self._take = TakeWriter(self.rig.server.takes, slate, self.rig, self.calibration)
            path = self._take.path
            self._takes += 1
        self.receiver.record(True, path.name)
        log.info("recording %s", path)
        return path

    def stop_recording(self) -> Path | None:
        """End the running take, if there is one; returns its folder."""
        self.receiver.record(False)
        with self._take_lock:
            take, self._take = self._take, None
        if take is None:
            return None
        take.statistics(self.status())
        take.close()
        log.info("recorded %s", take.path)
        return take.path

    def annotate(self, **values: Any) -> None:
        """Add values to the status, such as the error against a truth that only the caller knows."""
        self._extra_status |= values

    def status(self) -> dict[str, Any]:
        """What the operator sees, as plain values: per camera, synchronisation, clocks, alarms, meshes, take."""
        take = self._take
        return {
            "time_ns": time.time_ns(),
            "cameras": self.receiver.statistics(),
            "refused": self.receiver.refused(),
            "sync": asdict(self.pipeline.synchronizer.counters),
            "meshes": self.pipeline.meter.total,
            "skipped": self.pipeline.skipped,
            "faults": self.pipeline.faults,
            **self.pipeline.meter.summary(),
            **self.watch.status(),
            "waiting": self.pipeline.synchronizer.waiting,
            "takes": self._takes,
            "take": str(take.path) if take else None,
            "take_queue_bytes": take.waiting_bytes if take else 0,
            **self._extra_status,
        }

    @property
    def failure(self) -> str | None:
        """Why the server can only end: a bug in one of its threads, whose traceback is in the log."""
        if self.pipeline.failure is not None:
            return f"a stage of the pipeline failed: {self.pipeline.failure!r}"
        return None if self.receiver.alive else "the receiver failed"

    def _on_frame(self, frame: Frame) -> None:
        with self._take_lock:
            if self._take is not None:
                self._take.frame(frame)
        self.watch.frame(frame)
        self.pipeline.on_frame(frame)

    def _on_result(self, result: Result) -> None:
        with self._take_lock:
            if self._take is not None:
                self._take.result(result)
        if self.preview:
            photos = [Photo(view.image_camera, view.image) for view in result.observation.views]
            self.preview.update_mesh(result.surface.vertices, result.surface.faces, photos)

    def _on_fault(self, text: str) -> None:
        with self._take_lock:
            if self._take is not None:
                self._take.fault(text)

    def _on_images(self, images: dict[str, np.ndarray]) -> None:
        if self.preview is None or time.monotonic() - self._thumbnails_at < THUMBNAIL_PERIOD:
            return
        self._thumbnails_at = time.monotonic()
        self.preview.update_thumbnails({name: _thumbnail(image) for name, image in images.items()})

    def _on_record_button(self, wanted: bool, slate: str) -> None:
        if wanted:
            self.record(slate)
        else:
            self.stop_recording()

    def _on_tick(self) -> None:
        self.pipeline.poll()

    def _tell(self) -> None:
        while not self._stop.wait(1.0):
            take = self._take
            trouble = {"disk": take.trouble} if take and take.trouble else {}
            self.watch.update(self.receiver.statistics(), self.receiver.nodes(), trouble)
            if self.preview:
                self.preview.update_status(self.status())


def _serve_metrics(server: Server) -> MetricsServer | None:
    config = server.rig.server
    if not config.metrics_port:
        return None
    collector = ServerCollector(lambda: server.status() if server._whole else None, server.receiver.nodes)
    metrics = MetricsServer(config.metrics_host, config.metrics_port, collector, "server.metrics_port")
    log.info("metrics for Prometheus: http://%s:%d/metrics", config.metrics_host, metrics.port)
    return metrics


def _thumbnail(image: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
