"""Decoding: right pixels, and no picture out of half a JPEG."""

from __future__ import annotations

import sys
import threading
import warnings
from enum import Enum
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import turbojpeg

from fusion_server.decode import TurboDecoder, strict_turbojpeg
from fusion_server.decode_nvjpeg import NvjpegDecoder
from geometry.device import Lane
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


class OnHost:
    """A decoder of tensors, as one of arrays."""

    def __init__(self, decoder):
        self.decoder, self.close = decoder, decoder.close

    def decode(self, jpegs, calibration):
        images, faults = self.decoder.decode(jpegs, calibration)
        return {name: image.numpy() for name, image in images.items()}, faults


def stand_in(sources, *, mode, device):
    """TorchCodec's ``decode_jpeg`` by its documentation: a batch is planes on the device, or an error for all of it."""
    assert mode == "RGB" and all(source.dtype == torch.uint8 and source.dim() == 1 for source in sources)
    turbo = strict_turbojpeg()
    try:
        pictures = [turbo.decode(source.numpy().tobytes(), turbojpeg.TJPF_RGB) for source in sources]
    except OSError as error:
        raise RuntimeError(str(error)) from None
    return [torch.from_numpy(picture).permute(2, 0, 1).contiguous().to(device) for picture in pictures]


class ReadMode(Enum):
    RGB = 3


def older_stand_in(sources, mode, device):
    """torchvision's, which says the mode otherwise."""
    assert mode is ReadMode.RGB and isinstance(sources, list)
    return stand_in(sources, mode="RGB", device=device)


def there(monkeypatch, torchcodec=None, torchvision=None) -> None:
    """Have these functions be what the packages have; None: they are not installed."""
    found = {"torchcodec.decoders": {"decode_jpeg": torchcodec}}
    found["torchvision.io"] = {"decode_jpeg": torchvision, "ImageReadMode": ReadMode}
    for name, functions in found.items():
        installed = functions["decode_jpeg"] is not None
        monkeypatch.setitem(sys.modules, name.partition(".")[0], SimpleNamespace() if installed else None)
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions) if installed else None)


@pytest.fixture(params=["one thread", "three threads", "with room", "torchcodec's nvjpeg", "torchvision's nvjpeg"])
def decoder(request, monkeypatch):
    if request.param.endswith("nvjpeg"):
        package = request.param.partition("'")[0]
        there(monkeypatch, **{package: stand_in if package == "torchcodec" else older_stand_in})
        made = OnHost(NvjpegDecoder(Lane(torch.device("cpu"))))
        assert made.decoder.through == package
    elif request.param == "with room":
        made = TurboDecoder(2, lambda: {c.name: np.full((HEIGHT, WIDTH, 3), 7, np.uint8) for c in CALIBRATION.cameras})
    else:
        made = TurboDecoder(1 if request.param == "one thread" else 3)
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
    kept = images["cam0"].copy()
    assert faults == {} and np.array_equal(kept, decoder.decode({"cam0": whole}, CALIBRATION)[0]["cam0"])


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


def test_pictures_are_written_into_the_room_that_is_given():
    room = {c.name: np.zeros((HEIGHT, WIDTH, 3), np.uint8) for c in CALIBRATION.cameras}
    decoder = TurboDecoder(1, lambda: room)
    images, _ = decoder.decode({"cam2": jpeg(picture(2)), "cam0": jpeg(picture(0))}, CALIBRATION)
    assert images["cam2"] is room["cam2"] and images["cam0"] is room["cam0"]
    assert np.abs(images["cam2"].astype(int) - picture(2)).mean() < 2 and not room["cam1"].any()


def without_nvjpeg(*_, **__):
    raise RuntimeError("not compiled with\nnvJPEG support")


def test_without_a_package_that_has_it_nvjpeg_is_one_line_with_what_to_install(monkeypatch):
    needs = r"^normals.decode: 'nvjpeg' needs torchcodec, or else torchvision \(torchcodec: .*; torchvision: .*\); pip "
    for packages in ({}, {"torchvision": without_nvjpeg}, {"torchcodec": without_nvjpeg}):
        there(monkeypatch, **packages)
        with pytest.raises(HeadstreamError, match=needs + r"install 'headstream\[nvjpeg\]'$") as caught:
            NvjpegDecoder(Lane(torch.device("cpu")))
        assert "\n" not in str(caught.value) and ("not compiled with nvJPEG" in str(caught.value)) == bool(packages)


def test_the_package_that_stays_is_taken_before_the_one_that_goes(monkeypatch):
    there(monkeypatch, stand_in, older_stand_in)
    assert NvjpegDecoder(Lane(torch.device("cpu"))).through == "torchcodec"
    there(monkeypatch, without_nvjpeg, older_stand_in)
    assert NvjpegDecoder(Lane(torch.device("cpu"))).through == "torchvision"


def test_several_threads_are_used():
    decoder = TurboDecoder(3)
    try:
        before = threading.active_count()
        decoder.decode({f"cam{i}": jpeg(picture(i)) for i in range(4)}, CALIBRATION)
        assert before < threading.active_count() <= before + 3
    finally:
        decoder.close()


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (10, 5), (16, 8), (128, 16)])
def test_half_of_the_cores_decode_unless_it_is_said_how_many(monkeypatch, cores, threads):
    monkeypatch.setattr("fusion_server.decode.os.sched_getaffinity", lambda _: set(range(cores)))
    jpegs = {f"cam{n}": jpeg(picture(n)) for n in range(20)}
    calibration = Calibration(tuple(camera(name) for name in jpegs))
    for said, expected in ((0, threads), (3, 3)):
        decoder = TurboDecoder(said)
        meet, one, seen = threading.Barrier(expected), decoder._one, set()

        def noted(*arguments, meet=meet, one=one, seen=seen):
            if threading.get_ident() not in seen:
                seen.add(threading.get_ident())
                meet.wait(10.0)  # so many are at work at once; one more would wait in vain
            return one(*arguments)

        decoder._one = noted
        try:
            assert decoder.decode(jpegs, calibration)[1] == {}
        finally:
            decoder.close()
        assert len(seen) == expected


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("turbojpeg.find_library", lambda name: None)
    monkeypatch.setattr("turbojpeg.DEFAULT_LIB_PATHS", {"Linux": [], "Darwin": [], "Windows": [], "FreeBSD": []})
    with pytest.raises(HeadstreamError, match="apt-get install libturbojpeg0"):
        TurboDecoder()
