"""Raw pictures to RGB. What is sent is made from the truth by a second, slower hand."""

import numpy as np
import pytest

from capture_nodes.drivers.base import DriverError
from capture_nodes.drivers.bayer import RawConverter, is_colour, known

PATTERNS = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}


def mosaic(rgb, pattern):
    raw = np.empty(rgb.shape[:2], rgb.dtype)
    for i, colour in enumerate(pattern):
        raw[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "RGB".index(colour)]
    return raw


def packed_lsb(values, depth):
    """PFNC's p: one number of all bits, the first pixel lowest."""
    whole = sum(int(value) << (i * depth) for i, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * depth // 8), "little")


def packed_gige(values, depth):
    """GigE Vision's Packed: high, low parts of both, high."""
    low = depth - 8
    out = bytearray()
    for first, second in zip(values[::2], values[1::2], strict=True):
        out += bytes([first >> low, (first % (1 << low)) | (second % (1 << low)) << 4, second >> low])
    return bytes(out)


@pytest.fixture
def ramp():
    """Smooth colours (H, W, 3) from 0 to 1, a different ramp in each channel."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x / 31, y / 23, 0.25 + (x + y) / 108], 2)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_every_pattern_and_depth_gives_the_colours_back(ramp, pattern, depth):
    values = np.rint(ramp * ((1 << depth) - 1)).astype("u1" if depth == 8 else "<u2")
    rgb = RawConverter(f"Bayer{pattern}{depth}").rgb(mosaic(values, PATTERNS[pattern]).tobytes(), 32, 24)
    assert rgb.dtype == np.uint8 and rgb.shape == (24, 32, 3)
    assert np.abs(rgb[2:-2, 2:-2] / 255 - ramp[2:-2, 2:-2]).max() < 0.04


def test_an_edge_stays_an_edge_in_all_colours():
    grey = np.full((16, 16, 3), 40, np.uint8)
    grey[:, 8:] = 200
    rgb = RawConverter("BayerRG8").rgb(mosaic(grey, "RGGB").tobytes(), 16, 16)[2:-2]
    assert np.ptp(rgb[:, :7].astype(int), axis=2).max() == 0  # no coloured fringe beside it
    assert np.abs(rgb[:, 9:].astype(int) - 200).max() == 0


@pytest.mark.parametrize(
    ("form", "depth", "pack"), [("p", 10, packed_lsb), ("p", 12, packed_lsb), ("p", 14, packed_lsb)]
)
@pytest.mark.parametrize("width", [8, 7])
def test_bits_packed_from_the_lowest(form, depth, pack, width):
    values = np.random.default_rng(depth).integers(0, 1 << depth, (6, width))
    lines = [values.ravel()] if width * depth % 8 else values  # else the next line begins inside a byte
    sent = b"".join(pack(line, depth) for line in lines)
    rgb = RawConverter(f"Mono{depth}{form}").rgb(sent, width, 6)
    expected = np.rint(255 * values / ((1 << depth) - 1))
    assert np.array_equal(rgb, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("depth", [10, 12])
def test_bits_packed_as_gige_vision_does(depth):
    values = np.random.default_rng(depth).integers(0, 1 << depth, (6, 8))
    sent = b"".join(packed_gige([int(v) for v in line], depth) for line in values)
    rgb = RawConverter(f"Mono{depth}Packed").rgb(sent, 8, 6)
    assert np.array_equal(rgb[..., 0], np.rint(255 * values / ((1 << depth) - 1)))


def test_packed_bayer_and_plain_bayer_are_the_same_picture(ramp):
    values = mosaic(np.rint(ramp * 4095).astype("<u2"), "GBRG")
    plain = RawConverter("BayerGB12").rgb(values.tobytes(), 32, 24)
    packed = b"".join(packed_lsb(line, 12) for line in values)
    assert np.array_equal(RawConverter("BayerGB12p").rgb(packed, 32, 24), plain)


def test_white_balance_before_the_demosaic(ramp):
    """A grey scene under warm light, seen raw; the gains make it grey again."""
    light = np.array([0.8, 0.5, 0.25])
    scene = np.broadcast_to(ramp[..., :1], ramp.shape)
    for depth, kind in ((8, "u1"), (12, "<u2")):
        raw = mosaic(np.rint(scene * light * ((1 << depth) - 1)).astype(kind), "RGGB")
        rgb = RawConverter(f"BayerRG{depth}", 0.5 / light).rgb(raw.tobytes(), 32, 24)[2:-2, 2:-2]
        assert np.ptp(rgb.astype(int), axis=2).max() <= (9 if depth == 8 else 8)
        assert np.abs(rgb / 255 - 0.5 * scene[2:-2, 2:-2]).max() < 0.03


def test_gains_do_not_overflow():
    raw = np.full((4, 4), 200, np.uint8)
    assert (RawConverter("BayerRG8", (4.0, 4.0, 4.0)).rgb(raw.tobytes(), 4, 4) == 255).all()


def test_gamma_lifts_the_dark_and_uses_all_bits():
    dark = np.arange(16, dtype="<u2").reshape(1, 16).repeat(2, 0)  # the lowest 16 of 4096
    rgb = RawConverter("Mono12", gamma=2.2).rgb(dark.tobytes(), 16, 2)[0, :, 0]
    assert np.array_equal(rgb, np.rint(255 * (np.arange(16) / 4095) ** (1 / 2.2)))
    assert len(set(rgb)) == 14  # eight bits would have left one or two of them


@pytest.mark.parametrize("name", ["RGB8", "RGB8Packed", "BGR8", "BGR8Packed"])
def test_cameras_that_make_colours_themselves(name):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    sent = rgb if name.startswith("RGB") else rgb[..., ::-1]
    assert np.array_equal(RawConverter(name).rgb(sent.tobytes(), 5, 3), rgb)
    halved = RawConverter(name, (0.5, 1.0, 1.0)).rgb(sent.tobytes(), 5, 3)
    assert np.array_equal(halved[..., 1:], rgb[..., 1:]) and np.abs(halved[..., 0] - rgb[..., 0] / 2).max() <= 0.5


@pytest.mark.parametrize(("name", "order"), [("YUV422_8", [0, 1, 0, 2]), ("YUV422Packed", [1, 0, 2, 0])])
def test_luma_and_chroma_are_put_where_they_belong(name, order):
    parts = {0: 180, 1: 100, 2: 160}  # Y, Cb, Cr
    sent = bytes([parts[part] for part in order]) * 4
    rgb = RawConverter(name).rgb(sent, 4, 2)
    assert (np.ptp(rgb.reshape(-1, 3), axis=0) == 0).all()
    red, green, blue = (int(v) for v in rgb[0, 0])
    assert red > green > blue  # Cr above its middle, Cb below


def test_padding_after_each_line_is_left_out():
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    sent = b"".join(row.tobytes() + b"\xff\xff" for row in rows)
    assert np.array_equal(RawConverter("Mono8").rgb(sent, 4, 3, padding=2)[..., 0], rows)
    assert np.array_equal(RawConverter("Mono8").rgb(sent[:-2], 4, 3, padding=2)[..., 0], rows)


def test_a_picture_cut_off_is_refused_and_what_follows_it_is_ignored():
    converter = RawConverter("BayerRG12")
    with pytest.raises(DriverError, match="a picture of 23 bytes; 4 x 3 BayerRG12 has 24"):
        converter.rgb(bytes(23), 4, 3)
    assert converter.rgb(bytes(40), 4, 3).shape == (3, 4, 3)


def test_formats_that_are_not_read_say_what_is():
    with pytest.raises(DriverError, match=r"'Coord3D_ABC32f' is not read here; known are Mono, BayerRG.*RGB8"):
        RawConverter("Coord3D_ABC32f")
    with pytest.raises(DriverError, match="has no colours to balance"):
        RawConverter("Mono8", (2.0, 1.0, 1.0))
    assert known("BayerBG10p") and not known("BayerBG8p") and not known("Mono14Packed")
    assert is_colour("BayerBG10p") and not is_colour("Mono12")
