"""The synchroniser against a simulated rig: whatever the order of arrival, the sets are those of the shutter."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_server.synchronize import FrameSet, Synchronizer
from protocol.messages import Frame, FrameHeader

MS = 1_000_000
PERIOD = 33 * MS
CAMERAS = ("a", "b", "c", "d")
START = 1_700_000_000_000 * MS


def frame(camera: str, trigger: int | None, capture_ns: int, sequence: int = 0, sigma_ns: int = 20_000) -> Frame:
    header = FrameHeader(camera, f"pc_{camera}", sequence, trigger, 0, capture_ns - 5 * MS, 5 * MS, sigma_ns, 64, 48)
    return Frame(header, b"jpeg")


def shutter(count: int, cameras=CAMERAS, jitter_ms: float = 1.0, seed: int = 0, first: int = 100) -> list[list[Frame]]:
    """One list of frames per exposure, jittered."""
    noise = random.Random(seed)
    return [
        [
            frame(name, first + i, START + i * PERIOD + int(noise.uniform(-jitter_ms, jitter_ms) * MS), i)
            for name in cameras
        ]
        for i in range(count)
    ]


def synchronizer(mode: str = "trigger", cameras=CAMERAS, **kwargs) -> Synchronizer:
    return Synchronizer(cameras, mode, 8 * MS, 100 * MS, **kwargs)


def shape(sets: list[FrameSet]) -> list[tuple]:
    """What a set consists of, for comparison."""
    return [(s.index, s.capture_ns, s.spread_ns, s.missing, [f.header for f in s.frames.values()]) for s in sets]


def play(sync: Synchronizer, arrivals: list[tuple[int, Frame]]) -> list[FrameSet]:
    """Arrivals (now_ns, frame) in, and everything that comes out until all has waited long enough."""
    sets = []
    for now, item in arrivals:
        sets += sync.add(item, now)
    return sets + sync.poll((arrivals[-1][0] if arrivals else 0) + 10_000 * MS)


@pytest.mark.parametrize("mode", ["trigger", "time"])
def test_complete_sets_leave_at_once_and_in_the_order_of_the_rig(mode):
    sync = synchronizer(mode)
    for i, exposure in enumerate(shutter(5)):
        for last, item in zip((False, False, False, True), reversed(exposure), strict=True):
            sets = sync.add(item, i * PERIOD)
            assert len(sets) == last
        assert list(sets[0].frames) == list(CAMERAS)
        assert sets[0].missing == ()
        assert sets[0].index == (100 + i if mode == "trigger" else i)
        times = sorted(f.header.capture_ns for f in exposure)
        assert sets[0].spread_ns == times[-1] - times[0]
        assert sets[0].capture_ns == times[1]
    assert sync.counters.sets == 5 and sync.counters.incomplete == 0 and sync.waiting == 0


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(["trigger", "time"]),
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    gone=st.sets(st.tuples(st.integers(0, 5), st.sampled_from(CAMERAS)), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_any_interleaving_within_the_window_gives_the_same_sets(mode, seed, count, gone, order):
    exposures = shutter(count, seed=seed, jitter_ms=3.5)
    lanes = {n: [e[k] for i, e in enumerate(exposures) if (i, n) not in gone] for k, n in enumerate(CAMERAS)}
    in_order = [f for e in exposures for f in e if (f.header.sequence, f.header.camera) not in gone]
    mixed, left = [], {n: list(frames) for n, frames in lanes.items() if frames}
    while left:  # each camera's frames stay in order, as they do on a connection; everything else is free
        name = order.choice(sorted(left))
        mixed.append(left[name].pop(0))
        if not left[name]:
            del left[name]
    step = 100 * MS // max(len(mixed), 1)  # everything arrives within the window
    plain = play(synchronizer(mode), [(i * step, f) for i, f in enumerate(in_order)])
    assert shape(play(synchronizer(mode), [(i * step, f) for i, f in enumerate(mixed)])) == shape(plain)
    usable = [e for i, e in enumerate(exposures) if sum((i, n) in gone for n in CAMERAS) <= 1]
    assert len(plain) == len(usable)
    for made, exposure in zip(plain, usable, strict=True):
        assert all(made.frames[n] is exposure[CAMERAS.index(n)] for n in made.frames)
        assert len(made.frames) + len(made.missing) == len(CAMERAS)


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(["trigger", "time"]),
    order=st.randoms(use_true_random=False),
    count=st.integers(1, 30),
    repeats=st.integers(0, 10),
    step_ms=st.integers(0, 60),
    min_cameras=st.integers(1, 4),
    max_open=st.integers(1, 6),
)
def test_whatever_arrives_each_frame_is_accounted_for_once(mode, order, count, repeats, step_ms, min_cameras, max_open):
    frames = [f for e in shutter(count) for f in e]
    frames += [order.choice(frames) for _ in range(repeats)]
    order.shuffle(frames)
    sync = synchronizer(mode, min_cameras=min_cameras, max_open=max_open)
    sets, now = [], 0
    for item in frames:
        now += step_ms * MS
        sets += sync.add(item, now)
        assert sync.waiting <= len(CAMERAS) * max_open
    sets += sync.poll(now + 101 * MS)
    assert sync.waiting == 0
    if sync.counters.resets:
        return  # the order starts again
    used = [(n, f.header.sequence) for s in sets for n, f in s.frames.items()]
    assert len(used) == len(set(used))
    assert all(a.capture_ns < b.capture_ns and a.index < b.index for a, b in itertools.pairwise(sets))
    assert all(len(s.frames) >= min_cameras for s in sets)
    assert all(s.spread_ns <= 8 * MS for s in sets)
    assert sync.counters.restarts == 0, "out of order is not a restart"
    lost = sync.counters.late + sync.counters.duplicate + sync.counters.stale
    assert len(used) + lost <= len(frames)
    assert sync.counters.dropped_sets > 0 or len(used) + lost == len(frames)
    assert sync.counters.sets == len(sets)
    assert sync.counters.incomplete == sum(bool(s.missing) for s in sets)


def test_a_set_without_one_camera_leaves_when_it_has_waited():
    sync = synchronizer()
    first, second = shutter(2)
    for item in first[:3]:
        assert sync.add(item, 0) == []
    assert sync.poll(100 * MS) == []
    (made,) = sync.poll(100 * MS + 1)
    assert made.missing == ("d",) and set(made.frames) == {"a", "b", "c"}
    assert sync.add(first[3], 110 * MS) == []
    assert sync.counters.late == 1 and sync.counters.late_by_camera["d"] == 1
    assert sync.counters.missing_by_camera == {"a": 0, "b": 0, "c": 0, "d": 1}
    assert [len(sync.add(item, 120 * MS)) for item in second] == [0, 0, 0, 1]


def test_a_camera_that_skipped_a_moment_is_not_waited_for():
    sync = synchronizer()
    first, second = shutter(2)
    for item in first[:3]:
        sync.add(item, 0)
    out = [made for item in second for made in sync.add(item, 33 * MS)]
    assert [s.missing for s in out] == [("d",), ()]


def test_too_few_cameras_make_no_set():
    sync = synchronizer(min_cameras=3)
    first, second = shutter(2)
    sync.add(first[0], 0)
    sync.add(first[1], 0)
    assert sync.poll(200 * MS) == []
    assert sync.counters.dropped_sets == 1 and sync.waiting == 0
    assert [len(sync.add(item, 210 * MS)) for item in second] == [0, 0, 0, 1]


def test_all_but_a_quarter_are_enough_by_default():
    names = tuple(f"cam{i}" for i in range(8))
    for missing, enough in ((2, True), (3, False)):
        sync = synchronizer(cameras=names)
        (exposure,) = shutter(1, names)
        for item in exposure[missing:]:
            sync.add(item, 0)
        assert len(sync.poll(200 * MS)) == enough


@pytest.mark.parametrize("mode", ["trigger", "time"])
@pytest.mark.parametrize("pause_ms", [500, 3_000, 60_000])
def test_after_a_pause_of_all_cameras_the_first_set_is_waited_for(mode, pause_ms):
    """A trigger that stops between takes: nobody was silent while others went on."""
    sync, sets = synchronizer(mode), []
    exposures = shutter(6)
    for i, exposure in enumerate(exposures):
        for k, item in enumerate(exposure):
            sets += sync.add(item, i * PERIOD + k * MS + (pause_ms * MS if i >= 3 else 0))
    assert [each.missing for each in sets] == [()] * 6 and sync.counters.dropped_sets == 0


def test_a_silent_camera_is_not_waited_for_and_is_welcome_back():
    sync = synchronizer()
    exposures = shutter(60)
    waits = []
    for i, exposure in enumerate(exposures[:50]):
        sets = [s for item in exposure[:3] for s in sync.add(item, i * PERIOD)]
        waits.append(len(sets) == 1 and sets[0].index == 100 + i)
    assert not any(waits[:25])
    assert all(waits[40:])  # 1 s after the start nobody waits for d any more
    sync.add(exposures[50][3], 50 * PERIOD)
    out = [s for item in exposures[50][:3] for s in sync.add(item, 50 * PERIOD)]
    assert [s.missing for s in out] == [()]


def test_frames_beyond_the_tolerance_do_not_join():
    sync = synchronizer("time", min_cameras=1)
    made = []
    for name, ms in (("a", 0), ("b", 7), ("c", 9), ("d", 33)):
        made += sync.add(frame(name, None, START + ms * MS), 0)
    made += sync.poll(101 * MS)
    assert [sorted(s.frames) for s in made] == [["a", "b"], ["c"], ["d"]]


def test_two_frames_of_one_camera_within_the_tolerance_are_one():
    sync = synchronizer("time")
    for name, ms in (("a", 0), ("a", 4), ("b", 1), ("c", 2)):
        sync.add(frame(name, None, START + ms * MS), 0)
    (made,) = sync.add(frame("d", None, START + 3 * MS), 0)
    assert made.frames["a"].header.capture_ns == START
    assert sync.counters.duplicate == 1


def test_a_frame_that_comes_twice_is_counted_and_used_once():
    sync = synchronizer()
    (exposure,) = shutter(1)
    for item in exposure:
        sync.add(item, 0)
    for item in exposure:
        assert sync.add(item, 1) == []
    assert sync.counters.duplicate == 4 and sync.counters.sets == 1


def test_frames_without_trigger_are_counted_where_a_trigger_is_needed():
    sync = synchronizer()
    assert sync.add(frame("a", None, START), 0) == []
    assert sync.counters.untriggered == 1 and sync.waiting == 0


def _restarted(trigger_of, count: int = 40, cameras=CAMERAS) -> tuple[Synchronizer, list[FrameSet]]:
    """Exposures whose frames carry the counters that ``trigger_of(camera, i)`` gives (None: no frame)."""
    sync, sets = synchronizer(cameras=cameras), []
    for i in range(count):
        for k, name in enumerate(cameras):
            trigger = trigger_of(name, i)
            if trigger is not None:
                item = frame(name, trigger, START + i * PERIOD + k * 100_000, i)
                sets += sync.add(item, i * PERIOD + k * MS)
    return sync, sets + sync.poll(count * PERIOD + 1000 * MS)


@pytest.mark.parametrize("who", ["a", "d"])  # first and last to arrive at each exposure
def test_a_counter_that_restarts_alone_falls_into_step(who):
    gap = range(10, 15)
    sync, sets = _restarted(lambda n, i: 1000 + i if n != who or i < 10 else None if i in gap else i - 14)
    assert [s.index for s in sets] == list(range(1000, 1040))
    for s in sets:
        assert len({f.header.sequence for f in s.frames.values()}) == 1
        assert s.missing == ((who,) if s.index - 1000 in gap else ())
    assert sync.counters.restarts == 1 and sync.counters.late == 0


def test_counters_that_all_wrap_go_on():
    sync, sets = _restarted(lambda n, i: (65_520 + i - 1) % 65_535 + 1)  # 16 bits, never 0
    assert [s.index for s in sets] == list(range(65_520, 65_560))
    assert all(s.missing == () for s in sets)
    assert sync.counters.restarts == len(CAMERAS)


def _wrapped(i: int, first: int) -> int:
    """A 16-bit counter that began at 65 520 and goes on with ``first`` after 65 535."""
    return 65_520 + i if i < 16 else i - 16 + first


@pytest.mark.parametrize("first", [0, 1])
def test_a_counter_of_16_bits_wraps_to_0_or_to_1_without_a_gap(first):
    _, sets = _restarted(lambda n, i: _wrapped(i, first))
    assert [s.index for s in sets] == list(range(65_520, 65_560))
    for s in sets:
        assert s.missing == () and len({f.header.sequence for f in s.frames.values()}) == 1


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("mode", ["mixed", "one wide"])
def test_cameras_whose_counters_wrap_differently_stay_together(mode, first):
    """Two makers in one rig: one skips 0, or one counts in 32 bits and never wraps."""

    def trigger(name: str, i: int) -> int | None:
        if i in (15, 16) and name == "c":
            return None  # lost right where it wraps
        if mode == "one wide":
            return 65_520 + i if name == "b" else _wrapped(i, first)
        return _wrapped(i, first if name in "ab" else 1 - first)

    _, sets = _restarted(trigger)
    assert [s.index for s in sets] == list(range(65_520, 65_560))
    for s in sets:
        assert len({f.header.sequence for f in s.frames.values()}) == 1
        assert s.missing == (("c",) if s.index - 65_520 in (15, 16) else ())


@pytest.mark.parametrize("who", CAMERAS)
def test_a_camera_that_restarts_just_before_the_others_wrap_stays_with_them(who):
    gone = range(12, 15)

    def trigger(name: str, i: int) -> int | None:
        if name != who or i < 12:
            return _wrapped(i, 1)
        return None if i in gone else i - 14

    _, sets = _restarted(trigger)
    assert [s.index for s in sets] == list(range(65_520, 65_560))
    for s in sets:
        assert len({f.header.sequence for f in s.frames.values()}) == 1
        assert s.missing == ((who,) if s.index - 65_520 in gone else ())


@pytest.mark.parametrize("seed", range(4))
def test_at_60_fps_with_lost_frames_counters_wrap_again_and_again(seed):
    """A counter that wraps each 50 frames, so that 20 wraps are seen; 3 % of the frames are lost, arrivals jitter."""
    rng, period = random.Random(seed), 1000 * MS // 60
    arrivals, there = [], {}
    for i in range(1000):
        for k, name in enumerate(CAMERAS):
            if rng.random() < 0.03:
                continue
            item = frame(name, (i + 7 * (name == "d")) % 50 + 1, START + i * period + rng.randrange(MS // 2), i)
            there.setdefault(i, set()).add(name)
            arrivals.append((i * period + k * MS + rng.randrange(8 * MS), k, item))
    arrivals.sort(key=lambda each: each[:2])
    sets = play(synchronizer(), [(now, item) for now, _, item in arrivals])
    for s in sets:
        assert len({f.header.sequence for f in s.frames.values()}) == 1, "a set mixes exposures"
    whole = [s for s in sets if set(s.frames) == there[next(iter(s.frames.values())).header.sequence]]
    usable = [i for i, names in there.items() if len(names) >= 3]
    assert len(whole) >= len(usable) - 4  # the rig's first exposures, while d is found to count from elsewhere


@pytest.mark.parametrize(("sigma_ns", "lost"), [(20_000, 0), (10**12, 2)])
def test_a_fast_counter_that_wraps_falls_into_step_once_time_shows_it(sigma_ns, lost):
    sync, sets, period = synchronizer(), [], 3 * MS  # several frames within the tolerance of 8 ms
    for i in range(60):
        for k, name in enumerate(CAMERAS):
            trigger = 65_500 + i if i < 30 or name != "b" else i - 29
            sets += sync.add(frame(name, trigger, START + i * period + k * 1000, i, sigma_ns), i * period)
    assert sync.counters.restarts == 1 and sync.counters.late == lost
    whole = [s for s in sets if not s.missing]
    assert [s.index for s in whole][-20:] == list(range(65_540, 65_560))
    assert all(len({f.header.sequence for f in s.frames.values()}) == 1 for s in whole)


def test_a_camera_that_comes_late_with_a_counter_of_its_own_is_placed_by_time():
    for who in ("a", "d"):
        sync, sets = _restarted(lambda n, i, who=who: 5000 + i if n != who else None if i < 10 else i - 9)
        assert all(s.missing == () for s in sets[10:])
        assert [s.index for s in sets] == list(range(5000, 5040))
        assert sync.counters.restarts == 1


def test_one_camera_that_stands_far_ahead_does_not_stop_the_others():
    # Its clock is not known, so that nothing can be said about its counter.
    sync, sets = synchronizer(), []
    for i in range(20):
        for k, name in enumerate(CAMERAS):
            far = 10_000_000 if name == "b" else 0
            sets += sync.add(frame(name, i + far, START + i * PERIOD, i, sigma_ns=10**12), i * PERIOD + k)
    assert len(sets) >= 15 and all(s.missing == ("b",) for s in sets)
    assert sync.waiting <= 8  # of its frames those of the last 0.2 s


def test_frames_far_ahead_do_not_pile_up_while_others_always_wait():
    sync, sets = synchronizer(), []
    for i in range(40):
        for name, ahead in (("a", 1), ("b", 10_000_000), ("c", 0), ("d", 0)):  # a is always one exposure early
            sets += sync.add(frame(name, i + ahead, START + (i + ahead % 2) * PERIOD, i, sigma_ns=10**12), i * PERIOD)
    assert sync.counters.stale >= 30 and sync.waiting <= 9
    assert len(sets) >= 30 and all(s.missing == ("b",) for s in sets[2:])


def test_a_camera_whose_clock_comes_right_joins_again():
    sync, sets = synchronizer("time"), []
    for i, exposure in enumerate(shutter(40)):
        for k, item in enumerate(exposure):
            ahead = 3600 * 1000 * MS if item.header.camera == "d" and i < 20 else 0
            moved = frame(item.header.camera, None, item.header.capture_ns + ahead, i)
            sets += sync.add(moved, i * PERIOD + k * MS)
    by_exposure = {s.frames["a"].header.sequence: s.missing for s in sets}
    assert len(by_exposure) == 40
    assert all(by_exposure[i] == ("d",) for i in range(20))
    assert all(by_exposure[i] == () for i in range(26, 40))  # its old frames are gone after twice the waiting time


def test_a_late_frame_with_a_poor_clock_does_not_shift_its_camera():
    sync = synchronizer()
    exposures = shutter(8)
    for i, exposure in enumerate(exposures):
        for item in exposure[:3]:
            sync.add(item, i * PERIOD)
        sync.poll(i * PERIOD + 120 * MS)
    behind = frame("d", 103, START + 4 * PERIOD, 3)  # says one period later than it was
    sync.add(behind, 8 * PERIOD)
    assert sync.counters.late == 1 and sync.counters.restarts == 0


def test_a_clock_that_goes_back_for_all_does_not_silence_the_rig():
    sync = synchronizer("time")
    now, sets = 0, []
    for i, exposure in enumerate(shutter(80)):
        now = i * PERIOD
        for item in exposure:
            back = 0 if i < 20 else 3600 * 1000 * MS
            sets += sync.add(frame(item.header.camera, None, item.header.capture_ns - back, i), now)
    assert sync.counters.resets == 1
    assert sets[-1].frames["a"].header.sequence == 79


def test_what_waits_is_bounded_in_bytes():
    sync = synchronizer(max_bytes=10 * 1000)
    for i in range(8):
        for name in CAMERAS[:3]:
            item = frame(name, i, START + i * PERIOD)
            sync.add(Frame(item.header, bytes(1000)), i)
            assert sync.waiting <= 10
    assert sync.counters.stale == 24 - 10
    out = sync.poll(200 * MS)
    assert [s.index for s in out] == [5, 6, 7], "the newest are kept"


def test_a_bad_mode_is_refused():
    with pytest.raises(ValueError, match="trigger, time"):
        Synchronizer(CAMERAS, "magic", 0, 0)


def test_clocks_that_are_not_known_yet_move_no_counter():
    """At a busy start some offsets are guessed with 60 ms of doubt; the next ones are good. All triggers are right."""
    sync = synchronizer()
    sets = []
    for i in range(12):
        for k, name in enumerate(CAMERAS):
            settled = k == 0 or i >= 5 + k
            off = 0 if settled else 3 * PERIOD
            item = frame(name, 100 + i, START + i * PERIOD + off, i, sigma_ns=20_000 if settled else 60 * MS)
            sets += sync.add(item, i * PERIOD + k * MS)
    assert [made.index for made in sets] == [100 + i for i in range(12)]
    assert sync.counters.restarts == 0
    assert all(f.header.trigger == made.index for made in sets for f in made.frames.values())


@pytest.mark.parametrize("first", CAMERAS)
def test_one_wrong_counter_does_not_move_the_others(first):
    """A camera that counts three too many and whose frames arrive first is the one that is moved."""
    sync = synchronizer()
    sets = []
    order = (first, *(name for name in CAMERAS if name != first))
    for i in range(12):
        for k, name in enumerate(order):
            trigger = 100 + i + (3 if name == first else 0)
            sets += sync.add(frame(name, trigger, START + i * PERIOD + k * 1000, i), i * PERIOD + k * MS)
    assert [made.index for made in sets[-8:]] == [104 + i for i in range(8)]
    assert all(made.spread_ns < MS for made in sets), "a set mixes exposures"
    assert all(not made.missing for made in sets[-8:])
    assert sync.counters.restarts == 1


def test_two_cameras_that_count_differently_agree_on_the_first_ones_count():
    sync, sets = synchronizer(cameras=("a", "b")), []
    for i in range(12):
        for k, name in enumerate(("b", "a")):
            trigger = (500 if name == "a" else 100) + i
            sets += sync.add(frame(name, trigger, START + i * PERIOD + k * 1000, i), i * PERIOD + k * MS)
    assert [made.index for made in sets[-8:]] == [504 + i for i in range(8)]
    assert all(not made.missing and made.spread_ns < MS for made in sets[-8:])
