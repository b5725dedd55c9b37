"""A warm frame that stays on a device from the cameras' maps to the new vertices, on buffers that never move.

``WarmFrame`` does what ``warm.warm`` does, for one track and views of one size: one copy in, launches alone, one copy
out. Whatever the CPU decides by looking at a number is decided by a flag on the device that later launches wait on
(``Library``'s ``when``), so launches are the same each time: on a GPU they are captured as one CUDA graph at the first
frame and replayed from then on. Without a GPU the same buffers are used in the same order, which is how the tests run
it; **no graph has been captured yet** (docs/gpu-log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fusion_server.surface.base import Rig, SurfaceSettings, View
from fusion_server.surface.cuda.handed import handed_on
from fusion_server.surface.cuda.indices import Indices
from fusion_server.surface.cuda.launches import Launches
from fusion_server.surface.cuda.room import Sizes, kept_of
from fusion_server.surface.quality import Fit
from fusion_server.surface.silhouette import _known
from fusion_server.surface.skin import uncorrelated
from fusion_server.surface.warm import Track, Warm
from geometry.device import Lane, Library

_MAPS = ("normal", "confidence", "mask")


class WarmFrame:
    """The warm frames of one track. For one thread at a time."""

    def __init__(
        self,
        libraries: dict[str, Library],
        indices: Indices,
        track: Track,
        views: Sequence[View],
        settings: SurfaceSettings,
        graph: bool = True,
    ):
        """views: like those that will come, in number, size and cameras' names. graph: capture one where there is a
        GPU."""
        lib = libraries["shape"]
        self._device, self._photometric, self._iterations = lib.device, settings.photometric, settings.iterations
        self._lane = Lane(lib.device, lib.own_stream)
        sizes = Sizes.of(views, track, settings.photometric)
        self.inbox, self.outbox = sizes.inbox(lib.device), sizes.outbox(lib.device)
        kept = kept_of(track, [view.camera.name for view in views], lib)
        self.launches = Launches(libraries, indices, sizes, settings, self.inbox, self.outbox, kept)
        self._wants_graph = graph and not lib.emulated
        self._graph: torch.cuda.CUDAGraph | None = None
        self._events = [] if lib.emulated else [torch.cuda.Event(enable_timing=True) for _ in range(4)]

    @property
    def captured(self) -> bool:
        """Whether a graph is replayed."""
        return self._graph is not None

    def __call__(self, views: Sequence[View], track: Track) -> Warm | None:
        """A frame; None where no view shows a subject. On the stream that is current."""
        self._mark(0)
        self.fill(views, track)
        self._mark(1)
        if self._graph is not None:
            self._graph.replay()
        else:
            self.launches()
        self._mark(2)
        self.outbox.down()
        self._mark(3)
        if self._events:
            torch.cuda.current_stream(self._device).synchronize()
            if self._wants_graph and self._graph is None:
                self._capture()
        return self._result()

    def milliseconds(self) -> dict[str, float]:
        """Of the last frame, by CUDA's own clock: upload, frame, download. Empty without a GPU."""
        pairs = zip(("upload", "frame", "download"), self._events, self._events[1:], strict=False)
        return {stage: before.elapsed_time(after) for stage, before, after in pairs}

    # What comes in and what goes out.

    def fill(self, views: Sequence[View], track: Track) -> None:
        """One copy of what is on the host; maps and pictures that are on the device already are copied there."""
        there = handed_on(views, self._lane)
        host, rig = self.inbox.host, Rig.of([view.camera for view in views])
        for name in ("matrix", "rotation", "center", "focal"):
            host[name][:] = getattr(rig, name)
        for v, view in enumerate(views):
            K = view.camera.K
            host["intrinsics"][v] = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
            host["inverse"][v] = np.linalg.inv(K)
            host["known"][v] = _known(view)
            if there is not None:
                continue
            if self._photometric:
                host["image"][v] = view.image
            for name in _MAPS:
                host[name][v] = getattr(view, name)
        host["fine_focal"][:] = 1.0
        if self._photometric:
            fine = Rig.of([view.image_camera for view in views])
            host["fine_matrix"][:], host["fine_center"][:], host["fine_focal"][:] = fine.matrix, fine.center, fine.focal
        host["start"][:], host["rest"][:], host["share"][:] = track.vertices, track.rest, track.bias.share
        if there is None:
            self.inbox.up()
            return
        self.inbox.up(before="image")
        for name in _MAPS:
            self.inbox[name].copy_(there[name], non_blocking=True)
        if self._photometric:
            self.inbox["image"].copy_(there["fine"], non_blocking=True)

    def _result(self) -> Warm | None:
        host = self.outbox.host
        blind = host["blind"] != 0
        if blind.all():
            return None
        off = float(host["residual"][0])
        residual = 180.0 if np.isnan(off) else float(np.degrees(np.arccos(1 - off)))
        both, either = host["counts"].T.copy()
        fit = Fit(both, either, blind, residual, int(host["inverted"][0]), uncorrelated(*host["likeness"]))
        return Warm(
            host["vertices"].copy(), host["middle"].copy(), float(host["share"][0]), fit, host["wanted"].copy(),
            self._iterations + int(host["moved"][0]),
        )  # fmt: skip

    def _capture(self) -> None:
        """``thread_local``: other threads may use the GPU meanwhile. Nothing is launched by it."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.launches()
        self._graph = graph

    def _mark(self, which: int) -> None:
        if self._events:
            self._events[which].record()
