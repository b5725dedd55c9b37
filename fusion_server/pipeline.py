"""The server's stages and what runs between them.

    receiver thread        frames -> take, synchroniser -> newest frame set
    normals thread         decode -> windows -> normals -> newest observation
    surface thread         refine -> preview, take, observers

Between two threads stands a slot that holds one thing: a newer one replaces it and the older is counted as skipped.
Nothing queues, so latency is the work of one set and memory is that of the sets in hand. Live shows the newest; the
take, which the receiver feeds before anything can be skipped, gets every frame.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fusion_server.decode import Decoder
from fusion_server.reconstruct import Observation, Reconstructor
from fusion_server.surface import SurfaceFrame
from fusion_server.synchronize import FrameSet
from protocol.calibration import Calibration
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)
T = TypeVar("T")
RATE_WINDOW = 3.0  # seconds over which rates and latencies are averaged


class Slot(Generic[T]):
    """Holds the newest of what one thread hands to another."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self.skipped = 0  # replaced before anyone took them

    def put(self, item: T) -> None:
        """Never waits; what was there and not taken is skipped."""
        with self._condition:
            self.skipped += self._item is not None
            self._item = item
            self._condition.notify()

    def take(self, timeout: float) -> T | None:
        """The newest item, or None when none came in ``timeout`` seconds."""
        with self._condition:
            if self._item is None:
                self._condition.wait(timeout)
            item, self._item = self._item, None
            return item


@dataclass(frozen=True, eq=False)
class Result:
    """A frame set that became a mesh."""

    index: int  # the set's trigger or counter
    capture_ns: int  # server clock, at exposure
    done_ns: int  # server clock, when the mesh was ready
    spread_ns: int
    missing: tuple[str, ...]
    observation: Observation
    surface: SurfaceFrame
    timecode: str = ""  # SMPTE, where the rig stamps it

    @property
    def latency_s(self) -> float:
        """From exposure to mesh."""
        return (self.done_ns - self.capture_ns) * 1e-9


class Meter:
    """Rates and means over the last few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._samples: deque[tuple[float, Result]] = deque(maxlen=1024)
        self._observed: deque[float] = deque(maxlen=1024)
        self._lock = threading.Lock()
        self.total = 0

    def add(self, result: Result) -> None:
        """Count a result now."""
        with self._lock:
            self.total += 1
            self._samples.append((self._clock(), result))

    def observed(self) -> None:
        """Count a set now that the normals thread has done with, whether it becomes a mesh or not."""
        with self._lock:
            self._observed.append(self._clock())

    def summary(self) -> dict[str, Any]:
        """meshes_per_second, latency_ms and stages: by thread ("normals", "surface") the sets it does a second
        (per_second) and the mean milliseconds of each of its stages (ms), of sets that became meshes. Zeros, and no
        stage, before the first. A stage may be a part of another: those of the surface are of ``surface``."""
        now = self._clock()
        with self._lock:
            recent = [result for at, result in self._samples if now - at <= RATE_WINDOW]
            looks = sum(now - at <= RATE_WINDOW for at in self._observed)
        span = max(min(RATE_WINDOW, now - self._started), 1e-3)
        count = len(recent)
        stages: dict[str, dict[str, Any]] = {"normals": {"per_second": looks / span, "ms": {}}}
        stages["surface"] = {"per_second": count / span, "ms": {}}
        for result in recent:
            looked = dict(result.observation.seconds)
            solved = {"surface": looked.pop("surface", 0.0), **result.surface.seconds}
            for thread, seconds in (("normals", looked), ("surface", solved)):
                mean = stages[thread]["ms"]
                for stage, took in seconds.items():
                    mean[stage] = mean.get(stage, 0.0) + 1e3 * took / count
        latency = 1e3 * sum(result.latency_s for result in recent) / max(count, 1)
        return {"meshes_per_second": count / span, "latency_ms": latency, "stages": stages}


class Pipeline:
    """Runs the stages. Frame sets come in through ``put``; meshes go out to every observer, on the surface thread.

    An observer must not keep the thread: the preview and the take hand over to threads of their own.
    """

    def __init__(
        self,
        calibration: Calibration,
        reconstructor: Reconstructor,
        decoder: Decoder,
        recording: Callable[[], bool] | None = None,
    ) -> None:
        """recording: whether meshes go into a take, which has one topology."""
        self._calibration = calibration
        self._recording = recording
        self._reconstructor = reconstructor
        self._decoder = decoder
        self._sets: Slot[FrameSet] = Slot()
        self._observations: Slot[tuple[FrameSet, Observation]] = Slot()
        self._observers: list[Callable[[Result], None]] = []
        self._fault_observers: list[Callable[[str], None]] = []
        self._image_observers: list[Callable[[dict], None]] = []
        self._stop = threading.Event()
        self._anew = threading.Event()  # the surface is to be forgotten before the next one
        self._searches = False  # it was, and no observation has come that searched whole pictures
        self._threads = [
            threading.Thread(target=self._normals, name="normals"),
            threading.Thread(target=self._surface, name="surface"),
        ]
        self.meter = Meter()
        self.failure: Exception | None = None  # a stage died of a bug: the server must end, and say so
        self.faults = 0
        self._said: dict[str, float] = {}

    @property
    def skipped(self) -> int:
        """Frame sets that were complete but never made into a mesh, because a newer one was there."""
        return self._sets.skipped + self._observations.skipped

    def observe(
        self,
        on_result: Callable[[Result], None] | None = None,
        on_fault: Callable[[str], None] | None = None,
        on_images: Callable[[dict], None] | None = None,
    ) -> None:
        """Call these with each mesh, each fault (one line) and each decoded set of pictures. Before ``start``."""
        if on_result:
            self._observers.append(on_result)
        if on_fault:
            self._fault_observers.append(on_fault)
        if on_images:
            self._image_observers.append(on_images)

    def start(self) -> None:
        """Start the stages' threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the stages after what they have in hand."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def put(self, frame_set: FrameSet) -> None:
        """Take a frame set; never waits. One that is newer than the last, which is skipped if nobody took it yet."""
        self._sets.put(frame_set)

    def begin_anew(self) -> None:
        """Let the next mesh be a first one, with a topology of its own; never waits."""
        self._anew.set()

    def _fault(self, text: str) -> None:
        """Count a fault; log and tell each kind at most once in five seconds."""
        self.faults += 1
        now = time.monotonic()
        if now - self._said.get(text, -1e9) < 5.0:
            return
        self._said = {said: at for said, at in self._said.items() if now - at < 60.0} | {text: now}
        log.warning("%s", text)
        for observer in self._fault_observers:
            observer(text)

    def _guard(self, stage: Callable[[], None]) -> None:
        """A person's error is counted and the stream goes on; a bug ends the server instead of half of it."""
        while not self._stop.is_set():
            try:
                stage()
            except HeadstreamError as error:
                self._fault(str(error))
            except Exception as error:
                log.exception("a stage of the pipeline failed")
                self.failure = error
                self._stop.set()
                raise

    def _normals(self) -> None:
        self._guard(self._normals_step)

    def _surface(self) -> None:
        self._guard(self._surface_step)

    def _normals_step(self) -> None:
        frame_set = self._sets.take(timeout=0.1)
        if frame_set is None:
            return
        start = time.perf_counter()
        jpegs = {name: frame.jpeg for name, frame in frame_set.frames.items()}
        images, faults = self._decoder.decode(jpegs, self._calibration)
        for camera, text in faults.items():
            self._fault(text if camera in text else f"{camera}: {text}")
        decoded = time.perf_counter() - start
        for observer in self._image_observers:
            observer(images)
        if len(images) < 2:
            raise HeadstreamError(
                f"frame set {frame_set.index}: {len(images)} readable pictures; 2 at least are needed"
            )
        observation = self._reconstructor.observe(images)
        observation.seconds["decode"] = decoded
        self.meter.observed()
        self._observations.put((frame_set, observation))

    def _surface_step(self) -> None:
        item = self._observations.take(timeout=0.1)
        if item is None:
            return
        frame_set, observation = item
        start = time.perf_counter()
        if self._anew.is_set():
            self._anew.clear()
            self._reconstructor.begin_anew()
            self._searches = True
        if self._searches and not observation.searched:
            return  # it was begun before, and looks where the head was that is forgotten
        self._searches = False
        if self._recording is not None:
            self._reconstructor.keep_topology(self._recording())
        surface = self._reconstructor.refine(observation)
        observation.seconds["surface"] = time.perf_counter() - start
        result = Result(
            index=frame_set.index,
            capture_ns=frame_set.capture_ns,
            done_ns=time.time_ns(),
            spread_ns=frame_set.spread_ns,
            missing=frame_set.missing,
            observation=observation,
            surface=surface,
            timecode=frame_set.timecode,
        )
        self.meter.add(result)
        for observer in self._observers:
            observer(result)
