import cv2
import numpy as np
import pytest
import turbojpeg

from capture_nodes.encode import EncodeError, Encoder, jpeg_size


def gradient(height=48, width=64):
    """Red grows to the right, green downwards; blue is dark."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([x * 255 // width, y * 255 // height, np.full_like(x, 20)]).astype(np.uint8)


def test_pixels_survive_the_jpeg_with_their_channels_in_place():
    pixels = gradient()
    jpeg = Encoder(quality=95).encode(pixels)
    assert jpeg_size(jpeg) == (64, 48)
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(back.astype(int) - pixels).mean() < 3


def test_quality_is_heeded():
    assert len(Encoder(30).encode(gradient())) < len(Encoder(95).encode(gradient()))


def test_a_view_of_a_larger_picture_is_encoded_as_it_looks():
    whole = gradient(96, 128)
    view = whole[::2, ::2]
    assert Encoder().encode(view) == Encoder().encode(view.copy())


@pytest.mark.parametrize(("shape", "dtype"), [((4, 4), np.uint8), ((4, 4, 3), np.float32), ((4, 4, 4), np.uint8)])
def test_anything_but_rgb_bytes_is_a_mistake(shape, dtype):
    pixels = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match=r"must be uint8 \(H, W, 3\)"):
        Encoder().encode(pixels)


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    def fail():
        raise RuntimeError("Unable to locate\nturbojpeg library automatically.")

    monkeypatch.setattr(turbojpeg, "TurboJPEG", fail)
    with pytest.raises(EncodeError) as caught:
        Encoder()
    assert "apt-get install libturbojpeg0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("width", [1, 17, 300])
def test_the_size_stands_in_the_header(width, progressive):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    jpeg = cv2.imencode(".jpg", np.zeros((9, width, 3), np.uint8), options)[1].tobytes()
    assert jpeg_size(jpeg) == (width, 9)


def test_a_picture_cut_in_half_has_its_size_and_one_cut_before_it_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    jpeg = Encoder(95).encode(noise)
    assert jpeg_size(jpeg[: len(jpeg) // 2]) == (64, 48)
    start = jpeg.index(b"\xff\xc0")
    for end in range(start + 9):
        with pytest.raises(EncodeError):
            jpeg_size(jpeg[:end])
    assert jpeg_size(jpeg[: start + 9]) == (64, 48)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"PNG and so on", b"\xff\xd8" + b"\xff" * 50, b"\xff\xd8\xff\xc4" + bytes(50)]
    + [b"\xff\xd8\xff\xc0\x00\x0b\x08" + bytes(50)],
)
def test_what_is_no_jpeg_is_refused(data):
    with pytest.raises(EncodeError):
        jpeg_size(data)
