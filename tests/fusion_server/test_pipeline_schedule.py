"""The pipeline's schedule with stages of known time: the rate is that of the slowest, latency the sum; nothing starves
and nothing grows.

The stages' threads are the real ones; time is not. A stage that works sleeps on a clock of the test's, which wakes one
at a time and only when every other thread sleeps or waits for something to do, so each run is the same run.
"""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from fusion_server.pipeline import Pipeline
from fusion_server.sets import FrameSets
from fusion_server.synchronize import FrameSet
from protocol.calibration import Calibration, Camera
from protocol.messages import Frame, FrameHeader
from protocol.rig import CameraConfig, Rig, SyncConfig

NAMES = ("a", "b")
PATIENCE = 20.0  # seconds of real time until a schedule that stands still is a failure


class Clock:
    """Milliseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0
        self._lock = threading.Lock()
        self._asleep: dict[str, tuple[int, threading.Event]] = {}  # when who will wake

    def work(self, stage: str, duration: int) -> None:
        """Called by a stage's thread: come back when that much time has passed."""
        if not duration:
            return
        woken = threading.Event()
        with self._lock:
            self._asleep[stage] = self.now + duration, woken
        assert woken.wait(PATIENCE)

    def asleep(self, stage: str) -> bool:
        with self._lock:
            return stage in self._asleep

    def next_wake(self) -> float:
        with self._lock:
            return min((at for at, _ in self._asleep.values()), default=np.inf)

    def wake(self) -> None:
        """The one that is due first; of two at one time the surface, so that each run is the same run."""
        with self._lock:
            stage = min(self._asleep, key=lambda stage: (self._asleep[stage][0], stage != "surface"))
            self.now, woken = self._asleep.pop(stage)
            woken.set()


@dataclass
class Stages:
    """Decoder and reconstructor that take known times, and count what went in and what came out."""

    clock: Clock
    decode_ms: int = 0
    observe_ms: int = 0
    refine_ms: int = 0
    taken: int = 0
    observed: int = 0
    refining: int = 0
    refined: int = 0

    def decode(self, jpegs, calibration):
        self.taken += 1
        self.clock.work("normals", self.decode_ms)
        return {name: np.zeros((1, 1, 3), np.uint8) for name in jpegs}, {}

    def observe(self, images):
        self.clock.work("normals", self.observe_ms)
        self.observed += 1
        return SimpleNamespace(seconds={})

    def refine(self, observation):
        self.refining += 1
        self.clock.work("surface", self.refine_ms)
        self.refined += 1
        return SimpleNamespace(seconds={})


def sets_alive() -> int:
    gc.collect()
    return sum(isinstance(each, FrameSet) for each in gc.get_objects())


class Run:
    """A pipeline on a clock of the test's, fed a set every ``every_ms``."""

    def __init__(self, tmp_path, every_ms, sets, **times) -> None:
        calibration = Calibration(
            tuple(Camera(name, 1, 1, np.eye(3), np.zeros(5), np.eye(3), np.zeros(3)) for name in NAMES)
        )
        rig = Rig(
            name="test",
            root=tmp_path,
            calibration=tmp_path / "cameras.json",
            cameras=tuple(CameraConfig(name, "pc", "replay") for name in NAMES),
            sync=SyncConfig(wait_ms=60_000, min_cameras=2),
        )
        self.clock = Clock()
        self.stages = Stages(self.clock, **times)
        self.pipeline = Pipeline(calibration, self.stages, self.stages)
        self.sets = FrameSets(rig, NAMES)
        self.done: list[tuple[int, int]] = []  # index, milliseconds
        self.pipeline.observe(lambda result: self.done.append((result.index, self.clock.now)))
        self.every_ms, self.sent, self.most_alive, self._others = every_ms, 0, 0, sets_alive()
        self.pipeline.start()
        try:
            self._play(sets)
        finally:
            self.pipeline.stop()

    def _play(self, sets: int) -> None:
        while True:
            self._settle()
            following = self.sent * self.every_ms if self.sent < sets else np.inf
            wake = self.clock.next_wake()
            if wake == following == np.inf:
                return
            if wake <= following:
                self.clock.wake()
            else:
                self.clock.now = following
                self._send()

    def _send(self) -> None:
        for name in NAMES:
            at = self.sent * self.every_ms * 1_000_000
            header = FrameHeader(name, "pc", self.sent, self.sent, at, at, 0, 0, 1, 1)
            for frame_set in self.sets.add(Frame(header, b"jpeg")):
                self.pipeline.put(frame_set)
        self.sent += 1
        if self.sent % 100 == 0:
            self._settle()
            self.most_alive = max(self.most_alive, sets_alive() - self._others)

    def _settle(self) -> None:
        """Until every set that was sent is waiting for a busy stage, being worked on, skipped or done."""
        deadline = time.monotonic() + PATIENCE
        while not self._settled():
            assert self.pipeline.failure is None, self.pipeline.failure
            assert time.monotonic() < deadline, "the stages stand still"
            time.sleep(0.0002)

    def _settled(self) -> bool:
        sets, observations, stages = self.pipeline._sets, self.pipeline._observations, self.stages
        waiting, ready = sets._item is not None, observations._item is not None
        if self.sent != sets.skipped + stages.taken + waiting:
            return False
        if not self.clock.asleep("normals") and (waiting or stages.taken != stages.observed):
            return False
        if stages.observed != observations.skipped + stages.refining + ready:
            return False
        if not self.clock.asleep("surface") and (ready or stages.refining != stages.refined):
            return False
        return stages.refined == len(self.done)

    @property
    def latencies(self) -> np.ndarray:
        return np.array([at - index * self.every_ms for index, at in self.done])

    @property
    def gaps(self) -> np.ndarray:
        """Milliseconds from mesh to mesh."""
        return np.diff([at for _, at in self.done])


def test_stages_that_keep_up_make_every_set_and_latency_is_their_sum(tmp_path):
    run = Run(tmp_path, every_ms=33, sets=100, decode_ms=4, observe_ms=22, refine_ms=30)
    assert [index for index, _ in run.done] == list(range(100))
    assert (run.latencies == 4 + 22 + 30).all()
    assert (run.gaps == 33).all()
    assert run.pipeline.skipped == 0


@pytest.mark.parametrize(
    ("decode_ms", "observe_ms", "refine_ms"),
    [(5, 45, 20), (5, 15, 50), (0, 50, 50), (25, 25, 1), (3, 7, 97), (0, 160, 10)],
)
def test_the_rate_is_that_of_the_slowest_stage_and_latency_the_sum(tmp_path, decode_ms, observe_ms, refine_ms):
    """The slowest never rests: it takes the newest there is, which is as old as what the stage before it takes."""
    run = Run(tmp_path, every_ms=5, sets=300, decode_ms=decode_ms, observe_ms=observe_ms, refine_ms=refine_ms)
    first, second = decode_ms + observe_ms, refine_ms
    slowest = max(first, second)
    settled = run.gaps[2:-2]
    assert len(settled) > 5 and (settled == slowest).all()
    # A set may wait for the first stage as long as sets are apart; for the second, until the next replaces it.
    waits = run.every_ms + (first if second > first else 0)
    assert run.latencies.min() >= first + second
    assert run.latencies[:-2].max() <= first + second + waits
    assert run.done[-1][0] == 299  # and what came last is made in the end: nothing newer replaces it


def test_a_rate_that_does_not_divide_the_cameras_loses_no_more_than_a_frame(tmp_path):
    run = Run(tmp_path, every_ms=33, sets=100, observe_ms=40, refine_ms=47)
    assert set(run.gaps[2:-2].tolist()) == {47}
    assert run.latencies.max() <= 33 + 40 + 40 + 47
    assert run.gaps.max() <= 33 + 40 + 47


@pytest.mark.parametrize(("observe_ms", "refine_ms"), [(1, 200), (200, 1), (90, 110)])
def test_nothing_starves_and_nothing_grows(tmp_path, observe_ms, refine_ms):
    run = Run(tmp_path, every_ms=4, sets=600, observe_ms=observe_ms, refine_ms=refine_ms)
    indices = [index for index, _ in run.done]
    assert indices == sorted(set(indices))  # never back in time, never one twice
    assert run.gaps.max() <= observe_ms + refine_ms  # each stage is served, however fast the other is
    assert run.pipeline.skipped + len(run.done) == run.sent  # each set is a mesh or counted
    # One set a stage and one in each slot, whatever was sent.
    assert 0 < run.most_alive <= 4
