"""Raw pictures of industrial cameras to RGB: unpack, white balance, demosaic, tone. Pure.

Names of formats are GenICam's (PFNC) and the older ones of GigE Vision 1.x. White balance comes before the demosaic, as
an edge in one colour's scale is none in another's. Formats of more than 8 bits keep their depth until the last step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import cv2
import numpy as np

from capture_nodes.drivers.base import DriverError

_DEPTHS = "(8|10|12|14|16)"
_RAW = re.compile(rf"^(Mono|Bayer(?:RG|GR|GB|BG)){_DEPTHS}(p|Packed)?$")
_DEMOSAIC = {  # edge aware; OpenCV's older names are of the second row and column, these are of the first, as GenICam's
    "BayerRG": cv2.COLOR_BayerRGGB2RGB_EA,
    "BayerGR": cv2.COLOR_BayerGRBG2RGB_EA,
    "BayerGB": cv2.COLOR_BayerGBRG2RGB_EA,
    "BayerBG": cv2.COLOR_BayerBGGR2RGB_EA,
}
_COLOUR = {"RGB8": None, "RGB8Packed": None, "BGR8": cv2.COLOR_BGR2RGB, "BGR8Packed": cv2.COLOR_BGR2RGB}
_YUV = {
    "YUV422_8": cv2.COLOR_YUV2RGB_YUYV,
    "YCbCr422_8": cv2.COLOR_YUV2RGB_YUYV,
    "YUV422_YUYV_Packed": cv2.COLOR_YUV2RGB_YUYV,
    "YUV422_8_UYVY": cv2.COLOR_YUV2RGB_UYVY,
    "YCbCr422_8_CbYCrY": cv2.COLOR_YUV2RGB_UYVY,
    "YUV422Packed": cv2.COLOR_YUV2RGB_UYVY,
}
_PACKED_DEPTHS = {"p": (10, 12, 14), "Packed": (10, 12)}
_MOST_DISTINCT = 1 << 16


def known(pixel_format: str) -> bool:
    """Whether ``RawConverter`` takes pictures of this format."""
    if pixel_format in _COLOUR or pixel_format in _YUV:
        return True
    found = _RAW.match(pixel_format)
    return found is not None and (found[3] is None or int(found[2]) in _PACKED_DEPTHS[found[3]])


def is_colour(pixel_format: str) -> bool:
    """Whether pictures of this format have colours to balance."""
    return not pixel_format.startswith("Mono")


class RawConverter:
    """Pictures of one format and one setting to RGB. Keeps its tables from picture to picture."""

    def __init__(self, pixel_format: str, gains: Sequence[float] = (1.0, 1.0, 1.0), gamma: float = 1.0):
        """gains: of red, green, blue, in front of the demosaic; gamma: out = in ** (1 / gamma), 1 stays linear.

        Raises DriverError for a format that is not known here, and for gains where there is no colour.
        """
        if not known(pixel_format):
            raise DriverError(
                f"pixel format {pixel_format!r} is not read here; known are Mono, BayerRG, BayerGR, BayerGB, BayerBG "
                f"with 8, 10, 12, 14 or 16 bits (10p, 12p, 10Packed, 12Packed), {', '.join((*_COLOUR, *_YUV))}"
            )
        if not is_colour(pixel_format) and tuple(gains) != (1.0, 1.0, 1.0):
            raise DriverError(f"pixel format {pixel_format!r} has no colours to balance")
        self.pixel_format = pixel_format
        self._gains = tuple(gains)
        self._gamma = gamma
        found = _RAW.match(pixel_format)
        self._kind: str = found[1] if found else ""
        self._depth = int(found[2]) if found else 8
        self._packing: str | None = found[3] if found else None
        self._tables = [self._gain_table(gain) for gain in self._gains]
        self._tone = self._tone_table()

    def rgb(self, data: bytes | memoryview | np.ndarray, width: int, height: int, padding: int = 0) -> np.ndarray:
        """(height, width, 3) uint8 of a picture's bytes; ``padding``: bytes after each line. Raises DriverError.

        Bytes after the picture are ignored; too few of them are a picture cut off.
        """
        raw = np.frombuffer(data, np.uint8)
        line = self.line_bytes(width)
        if line is None:  # such lines share a byte with the next: the format knows no padding
            needed = -(-width * height * self._bits // 8)
            lines = self._checked(raw, needed, width, height)[None]
            pixels = self._unpacked(lines, width * height).reshape(height, width)
            return self._developed(pixels)
        lines = self._checked(raw, (line + padding) * height - padding, width, height)
        if padding:
            lines = np.concatenate([lines, np.zeros(padding, np.uint8)])
        lines = lines.reshape(height, line + padding)[:, :line]
        if self.pixel_format in _YUV:
            return self._balanced(cv2.cvtColor(lines.reshape(height, width, 2), _YUV[self.pixel_format]))
        if self.pixel_format in _COLOUR:
            pixels = np.ascontiguousarray(lines).reshape(height, width, 3)
            code = _COLOUR[self.pixel_format]
            return self._balanced(pixels if code is None else cv2.cvtColor(pixels, code))
        return self._developed(self._unpacked(lines, width))

    def line_bytes(self, width: int) -> int | None:
        """Bytes of one line without padding; None when a line does not end at a byte."""
        bits = width * self._bits
        return bits // 8 if bits % 8 == 0 else None

    @property
    def _bits(self) -> int:
        """Of one pixel, as it is sent."""
        if not self._kind:
            return 24 if self.pixel_format in _COLOUR else 16
        return self._depth if self._packing == "p" else 12 if self._packing else 8 * -(-self._depth // 8)

    def _checked(self, raw: np.ndarray, needed: int, width: int, height: int) -> np.ndarray:
        if len(raw) < needed:
            raise DriverError(f"a picture of {len(raw)} bytes; {width} x {height} {self.pixel_format} has {needed}")
        return raw[:needed]

    def _unpacked(self, lines: np.ndarray, width: int) -> np.ndarray:
        """(H, bytes) to (H, width) uint8 or uint16 of ``depth`` bits."""
        if self._packing is None:
            if self._depth == 8:
                return lines
            return np.ascontiguousarray(lines).view("<u2").astype(np.uint16, copy=False)
        if self._packing == "Packed":  # two pixels in three bytes, their low bits together in the middle one
            return _unpack_gige(lines, width, self._depth)
        return _unpack_lsb(lines, width, self._depth)

    def _developed(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) mosaic or grey to RGB: white balance, demosaic, tone."""
        if self._kind == "Mono":
            grey = self._tone[pixels] if self._tone is not None else pixels
            return np.repeat(grey[..., None], 3, axis=2)
        if self._depth > 8 or self._gains != (1.0, 1.0, 1.0):
            balanced = np.empty(pixels.shape, self._tables[0].dtype)
            for row in (0, 1):
                for column in (0, 1):
                    # RG means: red then green in the first line; the second line has the two others.
                    colour = self._kind[5:][column] if row == 0 else _second_line(self._kind[5:])[column]
                    balanced[row::2, column::2] = self._tables["RGB".index(colour)][pixels[row::2, column::2]]
            pixels = balanced
        rgb = cv2.cvtColor(np.ascontiguousarray(pixels), _DEMOSAIC[self._kind])
        return self._tone[rgb] if self._tone is not None else rgb

    def _balanced(self, rgb: np.ndarray) -> np.ndarray:
        """The same for cameras that made colours themselves."""
        if self._gains == (1.0, 1.0, 1.0) and self._gamma == 1.0:
            return rgb
        tables = np.stack([table if self._tone is None else self._tone[table] for table in self._tables], 1)
        return cv2.LUT(rgb, tables[None])

    def _gain_table(self, gain: float) -> np.ndarray:
        """Value to value times gain. Formats of more than 8 bits are spread over 16, so that no step is lost."""
        most = (1 << self._depth) - 1
        out = 255 if self._depth == 8 else _MOST_DISTINCT - 1
        values = np.arange(_MOST_DISTINCT if self._depth > 8 else 256, dtype=np.float64)
        return np.clip(np.rint(values * (gain * out / most)), 0, out).astype(np.uint8 if out == 255 else np.uint16)

    def _tone_table(self) -> np.ndarray | None:
        """From what ``_developed`` works in to 8 bits; None where nothing is to be done."""
        if self._depth == 8 and self._gamma == 1.0:
            return None
        grey = self._kind == "Mono"  # is not spread over 16 bits: it passes no gain table
        most = (1 << self._depth) - 1 if grey or self._depth == 8 else _MOST_DISTINCT - 1
        values = np.clip(np.arange(_MOST_DISTINCT if self._depth > 8 else 256) / most, 0, 1)
        return np.rint(255 * values ** (1 / self._gamma)).astype(np.uint8)


def _second_line(first: str) -> str:
    return {"RG": "GB", "GR": "BG", "GB": "RG", "BG": "GR"}[first]


def _unpack_gige(lines: np.ndarray, width: int, depth: int) -> np.ndarray:
    """GigE Vision 1.x, 10Packed and 12Packed: high byte, both low parts, high byte."""
    triples = lines.reshape(len(lines), -1)
    triples = np.pad(triples, ((0, 0), (0, -triples.shape[1] % 3)))
    first, middle, second = (triples[:, i::3].astype(np.uint16) for i in range(3))
    low, mask = depth - 8, (1 << (depth - 8)) - 1
    pixels = np.empty((len(lines), 2 * first.shape[1]), np.uint16)
    pixels[:, 0::2] = first << low | middle & mask
    pixels[:, 1::2] = second << low | (middle >> 4) & mask
    return pixels[:, :width]


def _unpack_lsb(lines: np.ndarray, width: int, depth: int) -> np.ndarray:
    """PFNC's 10p, 12p, 14p: a stream of bits, lowest first."""
    group = {10: 5, 12: 3, 14: 7}[depth]  # bytes in which a whole number of pixels ends
    per_group = group * 8 // depth
    packed = np.pad(lines, ((0, 0), (0, -lines.shape[1] % group + 2)))  # two more, so that a pixel may reach over
    bit = np.arange(per_group) * depth
    at, shift = bit // 8, bit % 8
    groups = (lines.shape[1] + group - 1) // group
    start = np.arange(groups)[:, None] * group + at  # groups, pixels of a group
    wide = packed[:, start].astype(np.uint32)
    wide |= packed[:, start + 1].astype(np.uint32) << 8
    wide |= packed[:, start + 2].astype(np.uint32) << 16
    pixels = (wide >> shift.astype(np.uint32)) & ((1 << depth) - 1)
    return pixels.astype(np.uint16).reshape(len(lines), -1)[:, :width]
