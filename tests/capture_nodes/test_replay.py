import pytest

from capture_nodes.drivers import make_driver
from capture_nodes.drivers.base import DriverError
from capture_nodes.drivers.replay import ReplayDriver
from protocol.calibration import CalibrationError
from protocol.capture_folder import CaptureError

START = 1_798_041_152 * 10**9
PERIOD = 1 / 30


class Clock:
    """A clock that only moves when somebody sleeps or the test says so."""

    def __init__(self):
        self.ns = START
        self.slept = 0.0

    def __call__(self):
        return self.ns

    def sleep(self, seconds):
        assert seconds > 0
        self.slept += seconds
        self.ns += round(seconds * 1e9)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def play(make_rig, capture, clock):
    """A replay driver with options, on the test's clock."""

    def make(camera=0, fps=30.0, **options):
        rig = make_rig(2, options, fps=fps)
        driver = ReplayDriver(rig.cameras[camera], rig, now_ns=clock, sleep=clock.sleep)
        driver.open()
        return driver

    return make


def take(driver, count, timeout=1.0):
    return [driver.next_frame(timeout) for _ in range(count)]


def test_pictures_come_unmodified_in_order_in_a_loop(play, capture):
    taken = take(play(), 10)
    first = taken[0].trigger
    for i, picture in enumerate(taken):
        assert picture.trigger == first + i
        frame = f"{(first + i) % 4:03d}"
        assert picture.jpeg == (capture / "frames" / frame / "cam00.jpg").read_bytes()
        assert (picture.width, picture.height, picture.pixels) == (6, 4, None)


def test_the_trigger_is_the_wall_clock_in_frames(play, clock):
    driver = play()
    for _ in range(20):
        picture = driver.next_frame(1.0)
        assert picture.trigger == round(picture.node_ns * 30 / 1e9)
        assert picture.node_ns == picture.device_ns
        assert abs(clock.ns - picture.node_ns) < 1000  # neither early nor late


@pytest.mark.parametrize("fps", [5, 29.97, 30, 60, 240])
def test_processes_that_start_at_different_times_agree(play, clock, fps):
    early = play(camera=0, fps=fps)
    first = {p.trigger: p for p in take(early, 40)}
    clock.ns = START + 123_456_789
    late = play(camera=1, fps=fps)
    both = [(first[p.trigger], p) for p in take(late, 20) if p.trigger in first]
    assert both
    for one, other in both:
        assert one.node_ns == other.node_ns
        assert one.jpeg.replace(b" of 0", b" of 1") == other.jpeg


def test_options_override_the_rigs_rate_and_the_cameras_name(make_rig, capture, clock):
    rig = make_rig(1, {"fps": 10.0, "camera": "cam01"})
    driver = ReplayDriver(rig.cameras[0], rig, now_ns=clock, sleep=clock.sleep)
    taken = take(driver, 2)
    assert taken[1].node_ns - taken[0].node_ns == 10**8
    assert taken[0].jpeg.endswith(b"of 1")


def test_waiting_is_bounded_and_costs_no_picture(play, clock):
    driver = play(fps=2.0)
    taken = [driver.next_frame(0.2) for _ in range(20)]
    triggers = [p.trigger for p in taken if p]
    assert len(triggers) >= 3 and triggers == list(range(triggers[0], triggers[0] + len(triggers)))
    assert driver.missed == 0
    assert clock.slept < 20 * 0.2 + 1e-6


def test_who_is_late_gets_the_present_picture_and_the_skipped_are_counted(play, clock):
    driver = play()
    before = take(driver, 3)[-1]
    clock.ns += round(5.5 * PERIOD * 1e9)
    after = driver.next_frame(1.0)
    assert after.trigger == before.trigger + 5
    assert clock.ns - after.node_ns < PERIOD * 1e9
    assert driver.missed == 4
    assert driver.next_frame(1.0).trigger == after.trigger + 1
    assert driver.missed == 4


@pytest.mark.parametrize(("late", "missed"), [(0.9, 0), (5.5, 0), (6.5, 1), (50.5, 45)])
def test_who_is_late_gets_what_waits_in_the_buffers(play, clock, late, missed):
    driver = play(buffers=4)
    before = take(driver, 3)[-1]
    clock.ns += round(late * PERIOD * 1e9)
    after = take(driver, 8)
    assert [p.trigger for p in after] == list(range(before.trigger + 1 + missed, before.trigger + 9 + missed))
    assert driver.missed == missed
    assert all(p.node_ns == pytest.approx(p.trigger * PERIOD * 1e9, abs=1000) for p in after)


def test_a_clock_set_back_starts_a_new_schedule(play, clock):
    driver = play()
    take(driver, 3)
    clock.ns -= 3600 * 10**9
    picture = driver.next_frame(1.0)
    assert 0 <= clock.ns - picture.node_ns < PERIOD * 1e9
    assert driver.missed == 0


def test_once_from_a_given_moment_on(play, clock):
    driver = play(loop=False, start=START / 1e9 + 2.1)
    assert driver.next_frame(0.5) is None and not driver.finished
    taken = []
    while not driver.finished:
        if (picture := driver.next_frame(0.5)) is not None:
            taken.append(picture)
    assert [p.jpeg[-6:] for p in taken] == [b"%d of 0" % i for i in range(4)]
    assert taken[0].node_ns == pytest.approx(START + 2.1e9, abs=1000)
    assert driver.next_frame(0.5) is None
    assert driver.missed == 0


@pytest.mark.parametrize(("late_frames", "got", "missed"), [(2.5, [2, 3], 2), (100, [], 4)])
def test_once_and_late(play, clock, late_frames, got, missed):
    driver = play(loop=False, start=START / 1e9 + PERIOD)
    clock.ns += round(PERIOD * 1e9)
    clock.ns += round(late_frames * PERIOD * 1e9)
    taken = []
    while not driver.finished:
        if (picture := driver.next_frame(0.5)) is not None:
            taken.append(picture.jpeg)
    assert [jpeg[-6:] for jpeg in taken] == [b"%d of 0" % i for i in got]
    assert driver.missed == missed


@pytest.mark.parametrize(("cache_mb", "kept"), [(64, 4), (0, 0), (60 / 2**20, 2)])
def test_pictures_are_kept_within_bounds(play, capture, cache_mb, kept):
    driver = play(cache_mb=cache_mb)
    size = (capture / "frames" / "000" / "cam00.jpg").stat().st_size
    assert 2 * size < 60 < 3 * size
    before = {p.trigger % 4: p.jpeg for p in take(driver, 8)}
    for path in capture.glob("frames/*/cam00.jpg"):
        path.write_bytes(path.read_bytes().replace(b" of ", b" OF "))
    after = {p.trigger % 4: p.jpeg for p in take(driver, 4)}
    assert sum(before[i] == after[i] for i in range(4)) == kept


def test_a_picture_that_cannot_be_read_is_an_error_and_the_next_one_comes(play, capture):
    (capture / "frames" / "001" / "cam00.jpg").unlink()
    (capture / "frames" / "002" / "cam00.jpg").write_bytes(b"no JPEG")
    driver = play()
    seen, errors = set(), []
    for _ in range(4):
        try:
            seen.add(driver.next_frame(1.0).jpeg[-6:])
        except DriverError as error:
            errors.append(str(error))
    assert seen == {b"0 of 0", b"3 of 0"}
    assert sorted(error.split("frames")[1] for error in errors) == [
        "/001/cam00.jpg: missing",
        "/002/cam00.jpg: not a JPEG: it does not start with ff d8",
    ]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"captur": "x"}, DriverError, "camera[0].options.captur: unknown key; did you mean 'capture'?"),
        ({"capture": 3}, DriverError, "camera[0].options.capture: 3; must be a path"),
        ({"fps": -1}, DriverError, "camera[0].options.fps: -1; must be a number from 0 to 1000"),
        ({"loop": False}, DriverError, "camera[0].options.start: missing; with loop = false it must say"),
        ({"camera": "cam9"}, DriverError, "has no camera 'cam9'; it has cam00, cam01"),
        ({"capture": "nowhere"}, CaptureError, "nowhere: no such folder"),
        ({"capture": "."}, CalibrationError, "there is no calibration"),
    ],
)
def test_wrong_options_are_refused_when_the_driver_is_made(make_rig, capture, options, error, says):
    rig = make_rig(1, options)
    with pytest.raises(error) as caught:
        make_driver(rig.cameras[0], rig)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_camera_that_the_capture_lacks_and_a_driver_that_nobody_has(make_rig, capture):
    rig = make_rig(3)
    with pytest.raises(DriverError, match=r"camera\[2\]\.options\.capture: .* has no camera 'cam02'"):
        make_driver(rig.cameras[2], rig)
    camera = {"id": "a", "node": "pc1", "driver": "reply"}
    rig = make_rig(camera=[camera])
    with pytest.raises(
        DriverError, match=r"camera\[0\]\.driver: .reply.; must be .replay. or .*; did you mean 'replay'"
    ):
        make_driver(rig.cameras[0], rig)


def test_the_log_says_what_is_played(play, capture):
    assert str(play()) == f"replay of {capture} cam00, 4 pictures at 30 fps"
