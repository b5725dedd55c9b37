"""Video files on a schedule, Motion JPEG without tables, streams that fail. Those that work: the contract."""

import socket
import time

import av
import cv2
import numpy as np
import pytest
from camera_doubles import BLUE_STEP, COLOUR, COUNT, HEIGHT, WIDTH, pictures, rgb_of, write_video

from capture_nodes.drivers import make_driver
from capture_nodes.drivers.base import CameraLost, DriverError
from capture_nodes.drivers.jpeg_packets import whole_jpeg
from capture_nodes.drivers.opencv import FileDriver, OpencvOptions
from capture_nodes.drivers.video_file import VideoFile
from protocol.rig import parse_rig

START = 1_798_041_152 * 10**9
LONG = 120


def rig_of(root, mode="trigger", serial="", **options):
    camera = {"id": "cam00", "node": "pc1", "driver": "opencv", "options": options}
    data = {"name": "test", "calibration": "c.json", "sync": {"mode": mode}, "camera": [camera]}
    if serial:
        camera["serial"] = serial
    return parse_rig(data, root=root)


def number_of(rgb):
    """Which of ``pictures`` it is."""
    return round((int(rgb[HEIGHT // 2, WIDTH // 2, 2]) - COLOUR[2]) / BLUE_STEP)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    write_video(folder / "film.mp4", "libx264", count=LONG)
    write_video(folder / "film.avi", "mjpeg", count=LONG)
    return folder


class Clock:
    def __init__(self):
        self.ns = START

    def __call__(self):
        return self.ns

    def sleep(self, seconds):
        self.ns += round(seconds * 1e9)


def player(folder, name, clock, **options):
    rig = rig_of(folder, file=name, **options)
    options = OpencvOptions(file=folder / name, **options)
    return FileDriver(rig.cameras[0], rig, options, now_ns=clock, sleep=clock.sleep)


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_the_picture_is_that_of_the_wall_clock(films, name):
    """Two processes that start at different times show the same moment."""
    clock = Clock()
    first, second = player(films, name, clock), player(films, name, clock)
    shown = {}
    for driver, wait_ns in ((first, 0), (second, 777_000_000)):
        clock.ns = START + wait_ns
        for _ in range(40):
            captured = driver.next_frame(1.0)
            number = number_of(rgb_of(captured))
            assert number == captured.trigger % LONG % COUNT
            assert captured.node_ns == round(captured.trigger * 1e9 / 25)
            assert shown.setdefault(captured.trigger, number) == number
        driver.close()
    assert first.missed == second.missed == 0


def test_motion_jpeg_is_passed_on_as_it_lies_in_the_file(films):
    file = VideoFile(films / "film.avi")
    jpeg = file.read(3, 1.0)
    assert jpeg in (films / "film.avi").read_bytes()
    file.close()


def test_a_late_reader_skips_and_counts(films):
    clock = Clock()
    driver = player(films, "film.mp4", clock)
    before = driver.next_frame(1.0)
    clock.ns += 3 * 10**9
    after = driver.next_frame(1.0)
    assert number_of(rgb_of(after)) == after.trigger % LONG % COUNT
    assert driver.missed == after.trigger - before.trigger - 1 > 70
    driver.close()


def test_once_from_a_given_moment_on(films):
    clock = Clock()
    driver = player(films, "film.avi", clock, loop=False, start=START / 1e9 + 1, fps=50.0)
    numbers = []
    while not driver.finished:
        if (captured := driver.next_frame(0.5)) is not None:
            numbers.append(number_of(rgb_of(captured)))
    assert numbers == [index % COUNT for index in range(LONG)]
    assert str(driver) == f"video {films}/film.avi, {LONG} pictures of mjpeg at 50 fps"
    driver.close()


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_pictures_in_any_order(films, name):
    file = VideoFile(films / name)
    for index in (0, 1, 2, 100, 3, 119, 118, 0):
        picture = file.read(index, 10.0)
        rgb = cv2.imdecode(np.frombuffer(picture, np.uint8), 1)[..., ::-1] if isinstance(picture, bytes) else picture
        assert number_of(rgb) == index % COUNT
    file.close()
    file.close()


def test_no_time_to_get_there(films):
    file = VideoFile(films / "film.mp4")
    assert file.read(0, 1.0) is not None
    tries = 1
    while file.read(40, -1.0) is None:  # it goes on where it was, or a busy machine would never get there
        tries += 1
    assert 1 < tries <= 40
    file.close()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("text.mp4", b"no video at all", "cannot be read as a video"),
        ("empty.mp4", b"", "cannot be read as a video"),
    ],
)
def test_what_is_no_video(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    rig = rig_of(tmp_path, file=name)
    with pytest.raises(DriverError, match=f"{name}: {says}") as caught:
        make_driver(rig.cameras[0], rig)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("serial", "mode", "options", "says"),
    [
        ("", "time", {}, r"camera\[0\]: none given; must be one of serial, options.url, options.file"),
        ("", "time", {"url": "rtsp://a", "file": "b"}, r"options.url and options.file given; must be one of"),
        ("A1", "trigger", {}, r"options.format: a camera without trigger counter; sync.mode in the rig file must be"),
        ("", "trigger", {"url": "rtsp://a"}, r"options.url: a camera without trigger counter; sync.mode"),
        ("", "trigger", {"file": "nowhere.mp4"}, r"options.file: .*nowhere.mp4: there is no such file"),
        (
            "",
            "trigger",
            {"file": "x", "transport": "tpc"},
            r"options.transport: 'tpc'; must be 'tcp' or 'udp'; did you",
        ),
    ],
)
def test_wrong_options(tmp_path, serial, mode, options, says):
    rig = rig_of(tmp_path, mode, serial, **options)
    with pytest.raises(DriverError, match=says):
        make_driver(rig.cameras[0], rig)


def test_a_file_that_is_played_once_must_say_when(films):
    rig = rig_of(films, file="film.avi", loop=False)
    with pytest.raises(DriverError, match=r"options.start: missing; with loop = false"):
        make_driver(rig.cameras[0], rig)


def test_a_stream_that_refuses_is_said_by_open_without_its_password():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rig = rig_of(".", "time", url=f"rtsp://user:secret@127.0.0.1:{port}/x")
    driver = make_driver(rig.cameras[0], rig)
    with pytest.raises(DriverError, match=f"127.0.0.1:{port}/x: Connection refused") as caught:
        driver.open()
    assert "secret" not in str(caught.value) and "secret" not in str(driver)
    driver.close()


def test_a_stream_that_never_answers_neither_blocks_nor_hides(monkeypatch):
    monkeypatch.setattr("capture_nodes.drivers.opencv._OPEN_S", 0.8)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rig = rig_of(".", "time", url=f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x")
        driver = make_driver(rig.cameras[0], rig)
        driver.open()
        deadline = time.monotonic() + 20
        with pytest.raises(CameraLost, match=r"127\.0\.0\.1"):
            while time.monotonic() < deadline:
                assert driver.next_frame(0.1) is None
        driver.close()


def write_moving(path, count=40):
    """H.264 of a pattern that moves: where a part of a picture is guessed, it shows."""
    pattern = np.random.default_rng(0).integers(0, 256, (15, 30, 3), np.uint8)
    pattern = cv2.resize(pattern, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(count):
            picture = np.ascontiguousarray(pattern[:, 4 * index : 4 * index + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def read_all(root, path):
    """Device time to picture, of everything that the stream gives."""
    rig = rig_of(root, "time", url=str(path))
    driver = make_driver(rig.cameras[0], rig)
    driver.open()
    taken = {}
    with pytest.raises(CameraLost, match="the stream ended"):
        while True:
            if (captured := driver.next_frame(1.0)) is not None:
                taken[captured.device_ns] = captured.pixels
    driver.close()
    return taken


def test_pictures_of_a_stream_with_losses_are_whole_or_not_there(tmp_path, monkeypatch):
    """Packets of the transport are taken out, as a network loses them: what builds on them must not be shown."""
    monkeypatch.setattr("capture_nodes.drivers.opencv._HELD", 1000)
    path = tmp_path / "moving.ts"
    data = write_moving(path)
    sent = read_all(tmp_path, path)
    assert len(sent) == 40
    packets = len(data) // 188
    for lost in range(packets // 4, packets - packets // 4, packets // 8):
        path.write_bytes(data[: 188 * lost] + data[188 * (lost + 2) :])
        came = read_all(tmp_path, path)
        assert 24 <= len(came) < 40
        assert all(np.array_equal(came[at], sent[at]) for at in came)


def test_tables_that_webcams_leave_out_are_put_back():
    jpeg = cv2.imencode(".jpg", pictures()[0][..., ::-1], [cv2.IMWRITE_JPEG_OPTIMIZE, 0])[1].tobytes()
    bare, at = bytearray(jpeg[:2]), 2
    while jpeg[at + 1] != 0xDA:
        size = 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] != 0xC4:
            bare += jpeg[at : at + size]
        at += size
    bare += jpeg[at:]
    assert b"\xff\xc4" not in bare[: len(bare) - len(jpeg[at:])]
    mended = whole_jpeg(bytes(bare) + b"\0\0\0")  # and drivers pad the buffer
    assert b"\xff\xc4" in mended and mended.endswith(b"\xff\xd9")
    one, other = (cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in (jpeg, mended))
    assert np.array_equal(one, other)
    assert whole_jpeg(jpeg) == jpeg


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x04"])
def test_what_is_no_jpeg_stays_as_it_is(data):
    assert whole_jpeg(data) == data
