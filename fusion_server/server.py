"""The fusion server: the recorder, the pipeline that makes meshes of what it receives, and the preview."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from fusion_server.colour import Photo
from fusion_server.decode import make_decoder
from fusion_server.pipeline import Pipeline, Result
from fusion_server.preview import Preview
from fusion_server.reconstruct import make_reconstructor
from fusion_server.recorder import Recorder
from fusion_server.surface import View
from fusion_server.synchronize import FrameSet
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, Rig

log = logging.getLogger(__name__)
THUMBNAIL = 160  # pixels, the larger side
THUMBNAIL_PERIOD = 0.5  # seconds


def shared(normals: NormalsConfig) -> NormalsConfig:
    """The network's settings beside a surface: unless the rig file says otherwise it has half of the cores.

    Normals of one frame set are predicted while the surface of another is solved. A network that takes all cores spends
    its time waiting for the one that the surface has.
    """
    return replace(normals, threads=normals.threads or max(1, len(os.sched_getaffinity(0)) // 2))


class Server(Recorder):
    """Everything between the nodes' sockets and the operator. ``start``, look at ``status``, ``stop``."""

    def __init__(self, rig: Rig, *, preview: bool = True) -> None:
        # Sockets first: a port in use is said at once, and not after the engine has compiled for a minute.
        super().__init__(rig)
        reconstructor = make_reconstructor(self.calibration, shared(rig.normals), rig.surface)
        decoder = make_decoder(rig.normals.decode, rig.normals.decode_threads, reconstructor.sight)
        self.pipeline = Pipeline(self.calibration, reconstructor, decoder, lambda: self._take is not None)
        self.pipeline.observe(self._on_result, self._keep_fault, self._on_images)
        self.preview = Preview(rig, self.calibration, self._on_record_button, self.begin_anew) if preview else None
        self._thumbnails_at = 0.0

    def start(self) -> None:
        """Start every thread; nodes may come and go from now on."""
        self.pipeline.start()
        super().start()

    def stop(self) -> None:
        """Close the take, end every thread, free the ports."""
        super().stop()
        self.pipeline.stop()
        if self.preview:
            self.preview.close()

    def begin_anew(self) -> None:
        """Make a first mesh of the next frame set: for another face, or because the first one was not of a neutral one.
        Raises HeadstreamError while a take is recorded, whose meshes are to have the same vertices."""
        with self._take_lock:
            if self._take is not None:
                name = self._take.path.name
                raise HeadstreamError(f"{name} is being recorded, and its meshes share their vertices; stop it first")
        log.info("a new first mesh was asked for")
        self.pipeline.begin_anew()

    def status(self) -> dict[str, Any]:
        """What the operator sees, as plain values: what the recorder says, and meshes."""
        return {
            "meshes": self.pipeline.meter.total,
            "skipped": self.pipeline.skipped,
            "faults": self.pipeline.faults,
            **self.pipeline.meter.summary(),
            **super().status(),
        }

    @property
    def failure(self) -> str | None:
        """Why the server can only end: a bug in one of its threads, whose traceback is in the log."""
        if self.pipeline.failure is not None:
            return f"a stage of the pipeline failed: {self.pipeline.failure!r}"
        return super().failure

    def _frame_set(self, frame_set: FrameSet) -> None:
        super()._frame_set(frame_set)
        self.pipeline.put(frame_set)

    def _told(self) -> None:
        if self.preview:
            self.preview.update_status(self.status())

    def _on_result(self, result: Result) -> None:
        with self._take_lock:
            if self._take is not None:
                self._take.result(result)
        if self.preview:
            self.preview.update_mesh(result.surface.vertices, result.surface.faces, _Photos(result.observation.views))

    def _on_images(self, images: dict[str, Any]) -> None:
        if self.preview is None or time.monotonic() - self._thumbnails_at < THUMBNAIL_PERIOD:
            return
        self._thumbnails_at = time.monotonic()
        self.preview.update_thumbnails({name: _thumbnail(image) for name, image in images.items()})

    def _on_record_button(self, wanted: bool, slate: str) -> None:
        if wanted:
            self.record(slate)
        else:
            self.stop_recording()


class _Photos(Sequence[Photo]):
    """What the views saw; a picture that is on a GPU comes from there when it is looked at."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: Any) -> Any:
        view = self._views[index]
        return Photo(view.image_camera, view.image)


def _thumbnail(image: Any) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        image = image.cpu().numpy()  # of a decoder that leaves pictures on the GPU
    scale = THUMBNAIL / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
