"""JPEG at the node: TurboJPEG for cameras that give pixels, and the size of a JPEG out of its header."""

from __future__ import annotations

import numpy as np

from protocol.errors import HeadstreamError

_FRAME_STARTS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOF0..SOF15 without DHT, JPG, DAC
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RST0..7, SOI


class EncodeError(HeadstreamError):
    """JPEG cannot be made here, or this is none."""


class Encoder:
    """RGB to JPEG with libjpeg-turbo, 4:2:0. One encoder a thread.

    Raises EncodeError when the library is not on this machine.
    """

    def __init__(self, quality: int = 90):
        import turbojpeg  # here, so that a node whose cameras give JPEGs does without the library

        try:
            self._jpeg = turbojpeg.TurboJPEG()
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise EncodeError(
                f"libturbojpeg cannot be loaded ({reason}); install it with: apt-get install libturbojpeg0"
            ) from None
        self.quality = quality
        self._format, self._subsampling = turbojpeg.TJPF_RGB, turbojpeg.TJSAMP_420

    def encode(self, pixels: np.ndarray) -> bytes:
        """pixels: (H, W, 3) uint8 RGB. Raises ValueError for anything else."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; must be uint8 (H, W, 3)")
        return self._jpeg.encode(
            np.ascontiguousarray(pixels),
            quality=self.quality,
            pixel_format=self._format,
            jpeg_subsample=self._subsampling,
        )


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Width and height that a JPEG's header states (ITU-T T.81, B.2.2). Raises EncodeError when there is no header.

    What comes after the header is not looked at: a picture cut in half has its size.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise EncodeError("not a JPEG: it does not start with ff d8")
    at = 2
    while at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAME_STARTS:
            height, width = int.from_bytes(jpeg[at + 5 : at + 7]), int.from_bytes(jpeg[at + 7 : at + 9])
            if not width or not height:
                break
            return width, height
        else:
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    raise EncodeError("a JPEG without a size: it is cut off or damaged before its frame header")
