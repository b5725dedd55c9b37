import random

import pytest

from protocol.clock import UNKNOWN_SIGMA_NS, ClockFilter

MS = 1_000_000


def exchange(start, offset, there, back, served=10_000):
    """The four timestamps of an exchange whose two ways take so long."""
    t1 = start + there + offset
    return start, t1, t1 + served, start + there + served + back


def test_nothing_is_known_before_the_first_exchange():
    clock = ClockFilter()
    assert (clock.offset_ns, clock.sigma_ns, clock.rtt_ns, clock.known) == (0, UNKNOWN_SIGMA_NS, 0, False)


def test_equal_ways_give_the_offset_exactly_and_the_serving_time_does_not_count():
    clock = ClockFilter()
    assert clock.add(*exchange(10**18, -5 * MS, 200_000, 200_000, served=50 * MS))
    assert clock.offset_ns == -5 * MS
    assert clock.rtt_ns == 400_000
    assert 100_000 < clock.sigma_ns < 200_000  # rtt / 2 / sqrt(3)


def test_queues_on_one_way_do_not_bias_the_estimate():
    rng = random.Random(1)
    clock = ClockFilter()
    for i in range(40):
        late = 0 if i % 8 == 3 else rng.expovariate(1 / (2 * MS))
        clock.add(*exchange(10**18 + i * 250 * MS, 7 * MS, 50_000 + round(late), 50_000))
    assert abs(clock.offset_ns - 7 * MS) <= 50_000
    assert clock.sigma_ns < 100_000


@pytest.mark.parametrize("seed", range(5))
def test_the_true_offset_lies_within_a_few_sigma(seed):
    rng = random.Random(seed)
    clock = ClockFilter()
    for i in range(16):
        ways = [30_000 + round(rng.expovariate(1 / 100_000)) for _ in range(2)]
        clock.add(*exchange(10**18 + i * 250 * MS, 3 * MS, *ways))
        assert abs(clock.offset_ns - 3 * MS) <= 4 * clock.sigma_ns


def test_disagreement_widens_the_uncertainty():
    agreeing, scattered = ClockFilter(), ClockFilter()
    for i in range(16):
        agreeing.add(*exchange(10**18 + i * 250 * MS, 0, 100_000, 100_000))
        scattered.add(*exchange(10**18 + i * 250 * MS, (i % 2) * 90_000, 100_000, 100_000))
    assert scattered.sigma_ns > agreeing.sigma_ns


def test_the_window_forgets():
    clock = ClockFilter(window=4)
    clock.add(*exchange(10**18, 100_000, 1_000, 1_000))
    for i in range(1, 5):
        clock.add(*exchange(10**18 + i * 250 * MS, 120_000, 10_000, 10_000))
    assert clock.offset_ns == 120_000


@pytest.mark.parametrize("step", [-3600 * 10**9, -20 * MS, 20 * MS, 10**16])
def test_a_clock_that_is_set_is_believed_at_once(step):
    clock = ClockFilter()
    for i in range(16):
        clock.add(*exchange(10**18 + i * 250 * MS, 0, 20_000, 20_000))
    clock.add(*exchange(10**18 + 16 * 250 * MS, step, 40_000, 40_000))
    assert abs(clock.offset_ns - step) <= 40_000


def test_drift_is_no_step():
    clock = ClockFilter()
    for i in range(16):
        clock.add(*exchange(10**18 + i * 250 * MS, i * 25_000, 20_000 + i, 20_000))  # 100 ppm
    assert clock.rtt_ns == 40_000  # the first one, still there


@pytest.mark.parametrize(
    "impossible",
    [(1000, 50, 40, 2000), (1000, 50, 60, 900), (1000, 50, 5000, 1100)],
    ids=["the server's clock ran back", "the node's clock ran back", "answered longer than it took"],
)
def test_an_impossible_exchange_is_left_out(impossible):
    clock = ClockFilter()
    clock.add(*exchange(10**18, 5, 100, 100))
    before = clock.offset_ns, clock.sigma_ns
    assert not clock.add(*impossible)
    assert (clock.offset_ns, clock.sigma_ns) == before
