"""Decoding: right pixels, and no picture out of half a JPEG."""

from __future__ import annotations

import threading
import warnings

import cv2
import numpy as np
import pytest

from fusion_server.decode import TurboDecoder
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError

WIDTH, HEIGHT = 160, 120


def camera(name: str, width: int = WIDTH, height: int = HEIGHT) -> Camera:
    K = np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]])
    return Camera(name, width, height, K, np.zeros(5), np.eye(3), np.zeros(3))


CALIBRATION = Calibration(tuple(camera(f"cam{i}") for i in range(4)))


def picture(seed: int = 0) -> np.ndarray:
    """Smooth colours, so that JPEG keeps them."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([x + seed * 10, y * 2, 255 - x], axis=-1).clip(0, 255).astype(np.uint8)


def jpeg(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@pytest.fixture(params=[1, 3])
def decoder(request):
    made = TurboDecoder(request.param)
    yield made
    made.close()


def test_pictures_come_back_as_rgb_in_their_order(decoder):
    truth = {f"cam{i}": picture(i) for i in (2, 0, 3)}
    images, faults = decoder.decode({name: memoryview(jpeg(rgb)) for name, rgb in truth.items()}, CALIBRATION)
    assert faults == {} and list(images) == ["cam2", "cam0", "cam3"]
    for name, image in images.items():
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - truth[name]).mean() < 2


def test_a_jpeg_cut_anywhere_is_a_fault_and_the_others_are_not(decoder):
    whole = jpeg(picture())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cut in (0, 1, 2, 20, 200, 620, len(whole) // 2, len(whole) - 20, len(whole) - 2, len(whole) - 1):
            images, faults = decoder.decode({"cam0": whole, "cam1": whole[:cut], "cam2": whole}, CALIBRATION)
            assert list(images) == ["cam0", "cam2"], f"cut at {cut} of {len(whole)}"
            assert list(faults) == ["cam1"] and "\n" not in faults["cam1"]
            assert faults["cam1"].startswith(f"camera cam1: JPEG of {cut} bytes cannot be decoded (")


def test_damaged_data_and_data_of_another_kind_are_faults(decoder):
    whole = bytearray(jpeg(picture()))
    middle = len(whole) // 2
    whole[middle : middle + 60] = b"\xff\xd9" * 30  # ends in the middle
    _, faults = decoder.decode({"cam0": whole, "cam1": b"\x89PNG\r\n\x1a\n" + bytes(500)}, CALIBRATION)
    assert set(faults) == {"cam0", "cam1"}


def test_padding_before_the_end_is_no_fault(decoder):
    whole = jpeg(picture())
    padded = whole[:-2] + bytes(64) + whole[-2:] + bytes(100)
    images, faults = decoder.decode({"cam0": padded}, CALIBRATION)
    assert faults == {} and np.array_equal(images["cam0"], decoder.decode({"cam0": whole}, CALIBRATION)[0]["cam0"])


def test_another_size_than_the_calibrations_is_a_fault_with_both(decoder):
    small = cv2.resize(picture(), (80, 60))
    images, faults = decoder.decode({"cam0": jpeg(small), "cam1": jpeg(picture())}, CALIBRATION)
    assert list(images) == ["cam1"]
    assert faults == {"cam0": "camera cam0: picture is 80x60, its calibration is for 160x120"}


def test_a_header_that_promises_too_much_takes_no_memory(decoder):
    whole = bytearray(jpeg(picture()))
    at = whole.index(b"\xff\xc0")
    whole[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 would be 12 GB
    _, faults = decoder.decode({"cam0": whole}, CALIBRATION)
    assert "65500x65500" in faults["cam0"]


def test_grey_jpegs_become_rgb(decoder):
    grey = cv2.imencode(".jpg", picture()[..., 0])[1].tobytes()
    images, faults = decoder.decode({"cam0": grey}, CALIBRATION)
    assert faults == {} and images["cam0"].shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(images["cam0"][..., 0], images["cam0"][..., 2])


def test_several_threads_are_used():
    decoder = TurboDecoder(3)
    try:
        before = threading.active_count()
        decoder.decode({f"cam{i}": jpeg(picture(i)) for i in range(4)}, CALIBRATION)
        assert before < threading.active_count() <= before + 3
    finally:
        decoder.close()


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("turbojpeg.find_library", lambda name: None)
    monkeypatch.setattr("turbojpeg.DEFAULT_LIB_PATHS", {"Linux": [], "Darwin": [], "Windows": [], "FreeBSD": []})
    with pytest.raises(HeadstreamError, match="apt-get install libturbojpeg0"):
        TurboDecoder()
