"""A take as a capture folder, so that its meshes can be made, or made again, offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from fusion_server.synchronize import FrameSet, Synchronizer
from fusion_server.takes.layout import CALIBRATION_NAME, TakeError
from fusion_server.takes.reader import TakeReader
from protocol.calibration import save_calibration

_FEWEST = 2  # cameras of a set; nothing can be made of fewer
_WAIT_NS = 10**9  # of the take's own time, for a camera that is silent for a while
_OPEN = 256  # frames of a camera that wait meanwhile
_TOLERANCE = 0.25  # of the frame interval, where times decide what belongs together


def export_capture(
    take: TakeReader, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Write ``<folder>/frames/<n>/<camera>.jpg``, ``cameras.json`` and ``capture.json``; returns the frame sets.

    Pictures are the take's own bytes. Sets are counted from 0 in the order of their exposure; one may lack cameras, at
    least two are there. ``progress`` gets frames read and in all. Raises TakeError for a take without frames and where
    nothing can be written, or something else lies there.
    """
    if (folder / "frames").exists():
        raise TakeError(f"{folder}: has frames already; give another --out")
    written, moments = 0, []
    try:
        for frame_set in _sets(take, progress):
            place = folder / "frames" / f"{written:06d}"
            place.mkdir(parents=True)
            for name, frame in frame_set.frames.items():
                (place / f"{name}.jpg").write_bytes(frame.jpeg)
            moments.append(frame_set.capture_ns)
            written += 1
        if not written:
            raise TakeError(f"{take.path}: has no frames of {_FEWEST} cameras of one moment")
        save_calibration(take.calibration, folder / CALIBRATION_NAME)
        about = {"fps": take.fps, "take": take.path.name, "capture_ns": moments}
        (folder / "capture.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    except OSError as error:
        raise TakeError(f"{folder}: cannot be written ({error.strerror})") from None
    return written


def _sets(take: TakeReader, progress: Callable[[int, int], None]) -> Iterator[FrameSet]:
    total, now = sum(take.frame_counts.values()), 0
    synchronizer = Synchronizer(
        take.calibration.names,
        mode=take.info.get("sync", "time"),
        tolerance_ns=round(_TOLERANCE * 1e9 / take.fps),
        wait_ns=_WAIT_NS,
        min_cameras=_FEWEST,
        max_open=_OPEN,
        max_bytes=1 << 30,
    )
    for done, frame in enumerate(take.frames(by_exposure=True), 1):
        now = frame.header.capture_ns
        yield from synchronizer.add(frame, now)
        progress(done, total)
    yield from synchronizer.poll(now + 2 * _WAIT_NS)
