"""Motion JPEG as whole JPEGs: webcams leave the Huffman tables out, as they are always the standard's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np

_START, _HUFFMAN, _SCAN, _END = b"\xff\xd8", 0xC4, 0xDA, b"\xff\xd9"


def whole_jpeg(packet: bytes) -> bytes:
    """The packet as a JPEG that every decoder reads: with Huffman tables, and without what follows its end.

    Anything that does not look like a JPEG is returned as it is, for ``jpeg_size`` to refuse.
    """
    segments = list(_segments(packet))
    if not segments:
        return packet
    end = packet.rfind(_END)
    packet = packet[: end + 2] if end > 0 else packet
    scan = next((at for marker, at in segments if marker == _SCAN), None)
    if scan is None or any(marker == _HUFFMAN for marker, _ in segments):
        return packet
    return packet[:scan] + _standard_tables() + packet[scan:]


def _segments(jpeg: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where it starts) of each segment up to the scan."""
    at = 2
    while jpeg[:2] == _START and at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        yield jpeg[at + 1], at
        if jpeg[at + 1] == _SCAN:
            return
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])


@cache
def _standard_tables() -> bytes:
    """The DHT segments of ITU-T T.81, annex K.3, out of a picture that libjpeg wrote with them."""
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_OPTIMIZE, 0])[1].tobytes()
    tables = b""
    for marker, at in _segments(jpeg):
        if marker == _HUFFMAN:
            tables += jpeg[at : at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])]
    return tables
