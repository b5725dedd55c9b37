"""The stages between the sockets: newest wins, faults go on, bugs end, memory is what is in hand."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fusion_server.pipeline import Meter, Pipeline, Slot
from fusion_server.sets import FrameSets
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.messages import Frame, FrameHeader
from protocol.rig import CameraConfig, Rig, SyncConfig

NAMES = ("a", "b", "c")


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


class Reconstructor:
    """Takes known times; what it makes of set n is n."""

    def __init__(self, observe_s=0.0, refine_s=0.0, fail=None):
        self.observe_s, self.refine_s, self.fail = observe_s, refine_s, fail or {}
        self.observed = []
        self.kept = []
        self.held = None  # the number that the surface began with

    def observe(self, images):
        number = int(images["a"][0, 0, 0])
        self.observed.append(number)
        if number in self.fail:
            raise self.fail[number]
        searched = self.held is None
        time.sleep(self.observe_s)
        return SimpleNamespace(number=number, seconds={}, searched=searched)

    def refine(self, observation):
        time.sleep(self.refine_s)
        self.held = self.held if self.held is not None else observation.number
        return SimpleNamespace(number=observation.number, seconds={}, began=self.held)

    def begin_anew(self):
        self.held = None

    def keep_topology(self, keeps):
        self.kept.append(keeps)


class Decoder:
    def decode(self, jpegs, calibration):
        images = {name: np.full((1, 1, 3), jpeg[0], np.uint8) for name, jpeg in jpegs.items() if jpeg != b"bad"}
        return images, {name: f"{name}: cut" for name, jpeg in jpegs.items() if jpeg == b"bad"}


class Fed(Pipeline):
    """A pipeline behind a synchroniser, as the server has it."""

    sets: FrameSets

    def on_frame(self, frame):
        made = self.sets.add(frame)
        for frame_set in made:
            self.put(frame_set)
        return made

    def poll(self):
        for frame_set in self.sets.poll():
            self.put(frame_set)


@pytest.fixture
def make(tmp_path):
    made = []
    calibration = Calibration(
        tuple(Camera(name, 1, 1, np.eye(3), np.zeros(5), np.eye(3), np.zeros(3)) for name in NAMES)
    )
    rig = Rig(
        name="test",
        root=tmp_path,
        calibration=tmp_path / "cameras.json",
        cameras=tuple(CameraConfig(name, "pc", "replay") for name in NAMES),
        sync=SyncConfig(wait_ms=20, min_cameras=2),
    )

    def build(reconstructor, recording=None, **sync):
        pipeline = Fed(calibration, reconstructor, Decoder(), recording)
        pipeline.sets = FrameSets(replace(rig, sync=replace(rig.sync, **sync)), NAMES)
        results, faults = [], []
        pipeline.observe(results.append, faults.append)
        pipeline.start()
        made.append(pipeline)
        return pipeline, results, faults

    yield build
    for pipeline in made:
        pipeline.stop()


def send(pipeline, number, cameras=NAMES, jpeg=None):
    now = time.time_ns()
    for name in cameras:
        header = FrameHeader(name, "pc", number, number, now, now, 0, 0, 1, 1)
        pipeline.on_frame(Frame(header, jpeg or bytes([number])))


def test_a_set_becomes_a_mesh_and_observers_get_it(make):
    pipeline, results, _ = make(Reconstructor())
    send(pipeline, 7)
    until(lambda: results)
    assert results[0].surface.number == 7 and results[0].index == 7
    assert pipeline.meter.total == 1


def test_a_new_first_mesh_is_of_a_set_that_was_searched_for_the_head(make):
    """The one in hand when it was asked for looked only where the old head was."""
    reconstructor = Reconstructor(observe_s=0.15)
    pipeline, results, _ = make(reconstructor)
    for number in (1, 2):
        send(pipeline, number)
        until(lambda wanted=number: len(results) == wanted)
    send(pipeline, 3)
    until(lambda: reconstructor.observed[-1] == 3)
    pipeline.begin_anew()
    time.sleep(0.3)
    assert len(results) == 2  # 3 was observed before, for the surface that is forgotten
    for number in (4, 5):
        send(pipeline, number)
        until(lambda wanted=number: results[-1].surface.number == wanted)
    assert [result.surface.began for result in results] == [1, 1, 4, 4]


def test_while_a_take_is_recorded_its_topology_is_kept(make):
    takes = iter([False, True, True, False])
    reconstructor = Reconstructor()
    pipeline, results, _ = make(reconstructor, lambda: next(takes))
    for number in range(1, 5):
        send(pipeline, number)
        until(lambda wanted=number: len(results) == wanted)
    assert reconstructor.kept == [False, True, True, False]


def test_a_slow_stage_skips_to_the_newest_and_nothing_queues(make):
    pipeline, results, _ = make(Reconstructor(observe_s=0.05))
    for number in range(40):
        send(pipeline, number)
        time.sleep(0.002)
    until(lambda: results and results[-1].index == 39)
    assert len(results) < 20
    assert [r.index for r in results] == sorted({r.index for r in results})
    assert pipeline.skipped + len(results) == 40


def test_a_picture_that_cannot_be_read_is_a_fault_and_the_set_goes_on(make):
    pipeline, results, faults = make(Reconstructor())
    now = time.time_ns()
    for name in NAMES:
        header = FrameHeader(name, "pc", 1, 1, now, now, 0, 0, 1, 1)
        pipeline.on_frame(Frame(header, b"bad" if name == "b" else bytes([1])))
    until(lambda: results)
    assert faults == ["b: cut"]


def test_a_person_s_error_is_counted_and_the_next_set_is_taken(make):
    pipeline, results, faults = make(Reconstructor(fail={3: HeadstreamError("no subject")}))
    send(pipeline, 3)
    until(lambda: faults)
    send(pipeline, 4)
    until(lambda: results)
    assert faults == ["no subject"] and results[0].index == 4 and pipeline.failure is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_ends_the_pipeline_and_is_kept(make):
    pipeline, _, _ = make(Reconstructor(fail={3: ZeroDivisionError("bug")}))
    send(pipeline, 3)
    until(lambda: pipeline.failure is not None)
    assert isinstance(pipeline.failure, ZeroDivisionError)


def test_the_same_fault_is_told_once_in_a_while_but_always_counted(make):
    pipeline, _, faults = make(Reconstructor(fail={n: HeadstreamError("no subject") for n in range(9)}))
    for number in range(5):
        send(pipeline, number)
        until(lambda number=number: pipeline.faults == number + 1)
    assert faults == ["no subject"]


def test_an_incomplete_set_is_used_when_enough_remain(make):
    pipeline, results, _ = make(Reconstructor())
    send(pipeline, 5, cameras=("a", "b", "c"))
    send(pipeline, 6, cameras=("a", "c"))
    time.sleep(0.03)
    until(lambda: (pipeline.poll(), len(results) == 2)[1])
    assert results[1].missing == ("b",)


def test_every_set_is_stamped_and_told_even_when_no_mesh_is_made_of_it(make):
    pipeline, results, _ = make(Reconstructor(observe_s=0.05), timecode="utc")
    told = []
    start = 1_700_000_000_000_000_000  # 22:13:20 UTC
    for number in range(1, 9):
        for name in NAMES:
            at = start + number * 1_000_000_000 // 30 + 5_000_000
            header = FrameHeader(name, "pc", number, number, at, at, 0, 0, 1, 1)
            told += pipeline.on_frame(Frame(header, bytes([number])))
    assert [each.timecode for each in told] == [f"22:13:20:{number:02}" for number in range(1, 9)]
    until(lambda: results and results[-1].index == 8)
    assert results[-1].timecode == "22:13:20:08"
    assert len(results) < 8


def test_a_slot_holds_only_the_newest_and_counts_what_it_replaced():
    slot = Slot()
    assert slot.take(0.0) is None
    slot.put(1)
    slot.put(2)
    assert slot.take(0.0) == 2 and slot.skipped == 1
    taken = []
    thread = threading.Thread(target=lambda: taken.append(slot.take(5.0)))
    thread.start()
    slot.put(3)
    thread.join(5.0)
    assert taken == [3]


def test_the_meter_forgets_what_is_old():
    now = [0.0]
    meter = Meter(lambda: now[0])

    def result(ms):
        return SimpleNamespace(
            latency_s=ms * 1e-3,
            spread_ns=2_000_000,
            observation=SimpleNamespace(seconds={"normals": 0.1, "surface": 0.05}),
            surface=SimpleNamespace(seconds={"device_frame": 0.004}),
        )

    assert meter.summary()["meshes_per_second"] == 0
    assert meter.summary()["stages"]["surface"] == {"per_second": 0, "ms": {}}
    for i in range(9):
        now[0] = i
        for _ in range(2):
            meter.observed()  # every second one is skipped
        meter.add(result(50 if i < 8 else 90))
    assert meter.summary()["meshes_per_second"] == pytest.approx(4 / 3)
    now[0] = 11
    summary = meter.summary()
    assert summary["latency_ms"] == pytest.approx(90)
    looked, solved = summary["stages"]["normals"], summary["stages"]["surface"]
    assert looked["ms"] == pytest.approx({"normals": 100})
    assert solved["ms"] == pytest.approx({"surface": 50, "device_frame": 4})
    assert looked["per_second"] == pytest.approx(2 / 3) and solved["per_second"] == pytest.approx(1 / 3)
    now[0] = 20
    assert meter.summary()["meshes_per_second"] == 0 and meter.total == 9
