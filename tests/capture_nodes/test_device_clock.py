"""A device's clock, simulated: what comes out is compared with the truth that the simulation knows."""

import random

import pytest

from capture_nodes.drivers.device_clock import TAI_MINUS_UTC_S, DeviceClock

START = 1_798_041_152 * 10**9  # Unix nanoseconds
BOOTED = 5 * 10**9  # the device's clock at START
SECOND = 10**9
LEAST_DELAY = 8_000_000


class Camera:
    """A camera at 30 fps whose clock drifts, and a network that adds an exponentially distributed delay."""

    def __init__(self, drift_ppm=0.0, jitter_ms=0.5, seed=0, zero=BOOTED):
        self.random = random.Random(seed)
        self.drift, self.jitter, self.zero = drift_ppm * 1e-6, jitter_ms * 1e6, zero
        self.at = 0  # ns since START, true time
        self.late = 0

    def picture(self):
        """(device time, arrival, true exposure)."""
        self.at += SECOND // 30
        device = self.zero + round(self.at * (1 + self.drift))
        exposed = START + self.at
        return device, exposed + LEAST_DELAY + round(self.random.expovariate(1 / self.jitter)) + self.late, exposed

    def feed(self, clock, seconds):
        """[(error, sigma)] of each picture, nanoseconds."""
        out = []
        for _ in range(round(30 * seconds)):
            device, arrived, exposed = self.picture()
            found = clock.add(device, arrived)
            assert found.node_ns <= arrived
            out.append((found.node_ns - exposed, found.sigma_ns))
        return out


def worst(errors):
    return max(abs(error) for error, _ in errors)


@pytest.mark.parametrize("drift_ppm", [0, 100, -100, 50])
@pytest.mark.parametrize("jitter_ms", [0.5, 5])
def test_drift_and_jitter_are_taken_out(drift_ppm, jitter_ms):
    clock, camera = DeviceClock(LEAST_DELAY), Camera(drift_ppm, jitter_ms)
    early, later = camera.feed(clock, 20), camera.feed(clock, 40)
    assert worst(early[60:]) < 1_500_000  # while the drift is not known
    assert worst(later) < 100_000
    assert clock.kind == "free" and clock.restarts == 0 and not clock.take_note()
    assert clock.drift_ppm == pytest.approx(-drift_ppm, abs=5)


@pytest.mark.parametrize("drift_ppm", [0, 100, -100])
def test_the_uncertainty_holds(drift_ppm):
    """The error is hardly ever beyond three standard deviations, and they become small."""
    clock, camera = DeviceClock(LEAST_DELAY), Camera(drift_ppm, jitter_ms=2)
    results = camera.feed(clock, 60)
    assert sum(abs(error) > 3 * sigma for error, sigma in results) < 0.01 * len(results)
    assert results[0][1] >= 10_000_000 and results[-1][1] < 300_000


def test_a_queue_makes_no_exposure_later():
    """Two seconds in which everything comes a quarter of a second late, as when a disk or a core is busy."""
    clock, camera = DeviceClock(LEAST_DELAY), Camera(drift_ppm=60)
    camera.feed(clock, 30)
    camera.late = SECOND // 4
    assert worst(camera.feed(clock, 2)) < 200_000
    camera.late = 0
    assert worst(camera.feed(clock, 5)) < 200_000
    assert clock.restarts == 0


def test_what_is_known_of_the_delay_is_taken_off():
    one, other = DeviceClock(), DeviceClock(LEAST_DELAY)
    camera = Camera()
    for _ in range(100):
        device, arrived, _ = camera.picture()
        assert one.add(device, arrived).node_ns - other.add(device, arrived).node_ns == LEAST_DELAY


def test_a_device_that_restarts():
    clock, camera = DeviceClock(LEAST_DELAY), Camera(drift_ppm=80)
    camera.feed(clock, 20)
    camera.zero -= camera.at + SECOND  # its clock begins again near 0
    after = camera.feed(clock, 20)
    assert worst(after[30:]) < 2_000_000 and worst(after[-30:]) < 200_000
    assert clock.restarts == 1
    assert clock.take_note() == "its clock went back, as after a restart; measured anew"
    assert clock.take_note() == ""


@pytest.mark.parametrize(("jump_s", "says"), [(2, "jumped ahead"), (0.1, "jumped ahead"), (3600, "jumped ahead")])
def test_a_device_that_jumps_ahead(jump_s, says):
    clock, camera = DeviceClock(LEAST_DELAY), Camera()
    camera.feed(clock, 20)
    camera.zero += round(jump_s * SECOND)
    after = camera.feed(clock, 10)
    assert worst(after[1:]) < 20_000_000 and worst(after[30:]) < 1_000_000
    assert clock.restarts == 1 and says in clock.take_note()


def test_the_nodes_clock_is_set_ahead():
    """All arrivals are two seconds later from now on: no queue lasts that long."""
    clock, camera = DeviceClock(LEAST_DELAY), Camera()
    camera.feed(clock, 20)
    camera.late = 2 * SECOND
    after = [(error - 2 * SECOND, sigma) for error, sigma in camera.feed(clock, 15)]
    assert worst(after[-120:]) < 200_000
    assert "fell behind, or the node's was set ahead" in clock.take_note()


def test_first_pictures_that_were_late_are_forgiven():
    clock, camera = DeviceClock(LEAST_DELAY), Camera()
    camera.late = SECOND // 5
    camera.feed(clock, 0.3)
    camera.late = 0
    assert worst(camera.feed(clock, 5)[30:]) < 1_000_000
    assert not clock.take_note()


def test_ptp_in_utc_is_taken_as_it_is():
    clock, camera = DeviceClock(), Camera(zero=START, jitter_ms=20)
    results = camera.feed(clock, 60)
    assert worst(results) == 0 and clock.kind == "utc" and not clock.take_note()
    assert all(sigma <= 100_000 for _, sigma in results)


def test_ptp_in_tai_is_corrected_and_said_once():
    assert TAI_MINUS_UTC_S == 37
    clock, camera = DeviceClock(), Camera(zero=START + 37 * SECOND, jitter_ms=5)
    results = camera.feed(clock, 40)
    assert worst(results) == 0 and clock.kind == "tai"
    assert clock.take_note() == "its clock is TAI, 37 s ahead of UTC as PTP has it; corrected"
    assert clock.take_note() == ""


def test_another_number_of_leap_seconds():
    clock, camera = DeviceClock(tai_minus_utc_s=38), Camera(zero=START + 38 * SECOND)
    assert worst(camera.feed(clock, 5)) == 0 and clock.kind == "tai"


def test_ptp_that_begins_while_the_camera_runs():
    """Free-running, then the camera finds its grandmaster: its clock jumps to the wall clock."""
    clock, camera = DeviceClock(LEAST_DELAY), Camera(drift_ppm=50)
    camera.feed(clock, 20)
    camera.zero, camera.drift = START, 0.0
    assert worst(camera.feed(clock, 5)) == 0
    assert clock.kind == "utc" and "jumped ahead" in clock.take_note()


def test_a_clock_that_was_set_once_is_no_ptp():
    """A camera whose clock some program set to the wall clock at its start drifts away like any other."""
    clock, camera = DeviceClock(LEAST_DELAY), Camera(zero=START, drift_ppm=80)
    camera.feed(clock, 60)
    assert clock.kind == "free" and "drifts by -80 ppm" in clock.take_note()
    assert worst(camera.feed(clock, 20)) < 200_000


def test_ptp_that_is_lost():
    clock, camera = DeviceClock(LEAST_DELAY), Camera(zero=START)
    camera.feed(clock, 10)
    camera.zero += 2 * SECOND  # away from the wall clock
    assert worst(camera.feed(clock, 10)[30:]) < 1_000_000
    assert clock.kind == "free" and "is ahead of the node's, which it was not before" in clock.take_note()


def test_late_pictures_of_a_ptp_camera_do_not_unsettle_it():
    clock, camera = DeviceClock(), Camera(zero=START)
    camera.feed(clock, 10)
    camera.late = 2 * SECOND
    assert worst(camera.feed(clock, 3)) == 0
    camera.late = 0
    assert worst(camera.feed(clock, 3)) == 0 and clock.kind == "utc" and clock.restarts == 0


def test_ptp_is_not_looked_for_when_not_wanted():
    clock, camera = DeviceClock(recognise_ptp=False), Camera(zero=START)
    camera.feed(clock, 2)
    assert clock.kind == "free"


def test_a_device_without_a_clock():
    clock = DeviceClock(least_delay_ns=1000)
    found = clock.add(0, START)
    assert found.node_ns == START - 1000 and found.sigma_ns > 1_000_000
    assert clock.kind == "unknown" and clock.drift_ppm == 0
