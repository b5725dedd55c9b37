"""The spool: what of a take is kept, what is not and why, whatever the disk does."""

import errno
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_nodes.drivers.base import Captured
from capture_nodes.outbox import Waiting
from capture_nodes.preroll import Picture, PreRoll
from capture_nodes.spool import Spool
from capture_nodes.spool_file import SpoolWriter, file_name, read_index
from capture_nodes.spool_folder import delete_take, room_fault, short_of_room, take_files
from protocol.rig import SpoolConfig

MS = 10**6
INCARNATION = 77


def waiting(sequence: int, camera: str = "a", size: int = 100, at_ms: int | None = None) -> Waiting:
    at = (sequence * 10 if at_ms is None else at_ms) * MS
    return Waiting(camera, sequence, Captured(b"", None, sequence, at, at, 6, 4), bytes([1 + sequence % 250]) * size)


def until(condition, what="it", seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.002)


@pytest.fixture
def make(tmp_path):
    """A spool of cameras a and b with a known clock; further arguments go into its config."""
    made = []

    def spool(cameras=("a",), disk_free=None, make_writer=SpoolWriter, **config):
        config = {"min_free_gb": 0.0, **config}
        it = Spool(
            SpoolConfig(folder=tmp_path / "spool", **config),
            "pc1",
            cameras,
            INCARNATION,
            disk_free=disk_free or (lambda folder: 10**12),
            make_writer=make_writer,
        )
        it.use_clock(lambda node_ns: (0, 1000))
        it.start()
        made.append(it)
        return it

    yield spool
    for it in made:
        it.close()


def index(spool, take="t_001", camera="a"):
    until(lambda: not spool.is_open(take), "the take to be closed")
    path = spool.folder / take / file_name(camera, INCARNATION)
    with path.open("rb") as file:
        return read_index(file, path.stat().st_size)


def finish(spool, now=0.0):
    spool.end(10**18, now)
    spool.tick(now + 10)


def test_a_take_is_kept_from_its_start_out_of_the_pre_roll_to_its_end(make):
    spool = make()
    for i in range(10):
        spool.put(waiting(i))
    spool.begin("t_001", 50 * MS)  # heard of late
    for i in range(10, 15):
        spool.put(waiting(i))
    spool.end(170 * MS, now=0)
    spool.tick(0.1)
    for i in range(15, 20):
        spool.put(waiting(i))
    spool.tick(0.2)  # every camera is past the end
    assert index(spool).held() == ((5, 17),)
    assert index(spool).ended and index(spool).lost == []
    assert spool.report().kept == 13 and spool.report().lost == 0 and spool.report().fault == ""


def test_a_camera_that_delivers_nothing_more_does_not_keep_a_take_open(make):
    spool = make(cameras=("a", "b"))
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    spool.end(5 * MS, now=0)
    spool.put(waiting(1))
    spool.tick(1.9)
    assert spool.is_open("t_001")
    spool.tick(2.0)
    assert index(spool).held() == ((0, 0),)


def test_with_an_unknown_clock_nothing_is_left_out(make):
    spool = make()
    spool.use_clock(lambda node_ns: (0, 10**15))
    for i in range(3):
        spool.put(waiting(i))
    spool.begin("t_001", 10**18)
    spool.put(waiting(3))
    finish(spool)
    assert index(spool).held() == ((0, 3),)


def test_pictures_from_before_the_clock_was_known_are_timed_when_it_is(make):
    spool = make()
    spool.use_clock(lambda node_ns: (0, 10**15))
    for i in range(5):
        spool.put(waiting(i))
    spool.use_clock(lambda node_ns: (100 * MS, 1000))
    spool.begin("t_001", 130 * MS)
    finish(spool)
    assert index(spool).held() == ((3, 4),)
    assert [entry.capture_ns for entry in index(spool).entries] == [130 * MS, 140 * MS]


def test_the_next_take_ends_the_one_before_and_the_end_is_heard_once(make):
    spool = make()
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    spool.begin("t_001", 0)  # the server repeats itself
    spool.begin("t_002", 5 * MS)
    spool.put(waiting(1))
    finish(spool)
    assert index(spool, "t_001").held() == ((0, 0),)
    assert index(spool, "t_002").held() == ((1, 1),)


def test_the_node_ends_and_its_take_with_it(make):
    spool = make()
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    spool.close()
    assert index(spool).ended and index(spool).held() == ((0, 0),)


def test_pictures_that_nobody_read_are_written_down(make):
    spool = make()
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    spool.missed("a", 1, 3)
    spool.put(waiting(4))
    finish(spool)
    assert index(spool).held() == ((0, 0), (4, 4))
    (lost,) = index(spool).lost
    assert lost[:2] == (1, 3) and lost[2].startswith("the node was too slow to read it at ")


def test_a_picture_that_cannot_be_written_down_is_lost_and_the_next_is_not(make):
    spool = make()
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    spool.put(Waiting("a", 1, Captured(b"", None, -5, 0, 10 * MS, 6, 4), b"x"))
    spool.put(waiting(2))
    finish(spool)
    assert index(spool).held() == ((0, 0), (2, 2))
    assert "trigger is -5" in index(spool).lost[0][2]


def test_pictures_missed_before_the_take_was_heard_of_are_written_down_if_they_are_its(make):
    spool = make()
    spool.missed("a", 0, 1)
    time.sleep(0.002)
    start = time.time_ns()
    spool.missed("a", 2, 3)
    now = time.time_ns()
    spool.put(Waiting("a", 4, Captured(b"", None, 4, now, now, 6, 4), b"x"))
    spool.begin("t_001", start)
    spool.close()
    assert index(spool).held() == ((4, 4),)
    assert [(first, last) for first, last, _ in index(spool).lost] == [(2, 3)]


class Stalled(SpoolWriter):
    go = threading.Event()

    def frame(self, frame):
        self.go.wait(10)
        super().frame(frame)


def test_a_disk_that_is_too_slow_loses_the_newest_counts_them_and_bounds_memory(make, caplog):
    Stalled.go.clear()
    spool = make(make_writer=Stalled, queue_mb=1.0)
    spool.begin("t_001", 0)
    for i in range(30):
        spool.put(waiting(i, size=100_000))
    assert spool.report().waiting_bytes == 1_000_000  # ten of them: 1 MiB holds no more
    Stalled.go.set()
    until(lambda: spool.report().waiting_bytes == 0)
    spool.missed("a", 30, 30)
    spool.put(waiting(31, size=100_000))
    finish(spool)
    found = index(spool)
    assert found.held() == ((0, 9), (31, 31))
    assert [(first, last) for first, last, _ in found.lost] in ([(10, 30)], [(10, 29), (30, 30)])
    assert found.lost[0][2].startswith("the node's disk was too slow at ")
    assert spool.report().lost == 21 and spool.report().fault == "pictures of take t_001 are not kept: " + (
        "the node's disk was too slow"
    )
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1


class Full(SpoolWriter):
    full = False

    def _append(self, data):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._append(data)


def test_a_full_disk_is_said_once_and_recording_goes_on_when_there_is_room(make, caplog, monkeypatch):
    monkeypatch.setattr(Full, "full", False)
    monkeypatch.setattr("capture_nodes.spool._LOOK_S", 1e9)  # only when the test says so
    spool = make(make_writer=Full)
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    until(lambda: spool.report().kept == 1)
    Full.full = True
    for i in range(1, 6):
        spool.put(waiting(i))
    until(lambda: spool.report().lost == 5)
    assert "the node's disk was full at " in spool.report().fault
    Full.full = False
    spool._looked_at = -1e18
    spool.put(waiting(6))
    finish(spool)
    found = index(spool)
    assert found.held() == ((0, 0), (6, 6))
    assert [(first, last) for first, last, _ in found.lost] == [(1, 5)]
    assert found.lost[0][2].startswith("the node's disk was full at ")
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    assert spool.report().fault == "" or "not kept" in spool.report().fault  # for ten seconds more


def test_a_disk_that_stays_full_is_remembered_as_long_as_the_node_lives(make, monkeypatch):
    monkeypatch.setattr(Full, "full", False)
    spool = make(make_writer=Full)
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    until(lambda: spool.report().kept == 1)
    Full.full = True
    spool.put(waiting(1))
    finish(spool)
    assert index(spool).held() == ((0, 0),) and not index(spool).ended
    ((first, last, reason),) = spool.unwritten("t_001", "a")
    assert (first, last) == (1, 1) and "full" in reason


def test_room_is_left_on_the_disk_and_takes_that_the_server_has_make_way(make, tmp_path):
    free = [10**12]
    folder = tmp_path / "spool"
    old = folder / "old_001"
    old.mkdir(parents=True)
    (old / file_name("a", 5)).write_bytes(b"x")
    (old / "pc1.released").touch()

    def disk_free(_):
        return free[0] + (10**12 if free[0] < 10**9 and not old.exists() and free[0] else 0)

    spool = make(disk_free=disk_free, min_free_gb=1.0)
    free[0] = 10**8
    spool.begin("t_001", 0)
    spool.put(waiting(0))
    until(lambda: spool.report().kept == 1)
    assert not old.exists()
    free[0] = 0
    spool._looked_at = -1e18
    spool.put(waiting(1))
    until(lambda: spool.report().lost == 1)
    assert spool.report().fault.startswith("less than 1 GB free (spool.min_free_gb) at ")
    finish(spool)
    assert index(spool).lost[0][2].startswith("less than 1 GB free")
    assert index(spool).held() == ((0, 0),)  # what is there stays


def test_rules_of_room():
    config = SpoolConfig(max_gb=10, min_free_gb=2)
    assert room_fault(3 * 10**9, 0, config) == ""
    assert "min_free_gb" in room_fault(10**9, 0, config)
    assert "max_gb" in room_fault(10**12, 11 * 10**9, config)
    assert short_of_room(10**12, 0, 0.0, config) == ""
    assert short_of_room(10**12, 0, 10e6, config) == ""
    assert short_of_room(3 * 10**9, 0, 10e6, config) == "room for 1.7 minutes of recording, 1.0 GB; free some"
    assert "room for 0.0 minutes" in short_of_room(2 * 10**9, 0, 10e6, config)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(0, 200))
def test_the_pre_roll_holds_the_newest_that_fit(sizes, most):
    ring = PreRoll(most)
    for i, size in enumerate(sizes):
        ring.add(Picture(waiting(i, size=size), 0, 1))
    kept = [picture.waiting.sequence for picture in ring.since(0, lambda node_ns: (0, 1))]
    assert ring.bytes == sum(sizes[i] for i in kept) <= most
    assert kept == list(range(len(sizes) - len(kept), len(sizes)))
    if len(kept) < len(sizes):
        assert ring.bytes + sizes[len(sizes) - len(kept) - 1] > most


def test_a_take_is_deleted_without_the_files_of_others(tmp_path):
    for name in ("a-5.spool", "a-6.spool", "a-b-5.spool", "c-5.spool", "pc1.released"):
        (tmp_path / name).touch()
    assert [(camera, inc) for _, camera, inc in take_files(tmp_path, ["a", "a-b"])] == [("a", 5), ("a", 6), ("a-b", 5)]
    delete_take(tmp_path, ["a"], "pc1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-b-5.spool", "c-5.spool"]
    delete_take(tmp_path, ["a-b", "c"], "pc2")
    assert not tmp_path.exists()
