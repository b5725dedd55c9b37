"""JPEG to RGB with libjpeg-turbo, several at a time; a picture that is not whole is a fault, never a grey half."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError

_HARMLESS = "extraneous bytes before marker 0xd9"  # padding before the end, as many USB cameras write it
_MOST_THREADS = 4


class Decoder:
    """Decodes the JPEGs of one moment in a few threads (libjpeg-turbo runs without Python's lock).

    threads: 0 takes as many as there are cores, at most 4; 1 decodes in the caller's thread. Raises HeadstreamError
    when the library is not on this machine. ``close`` ends the threads.
    """

    def __init__(self, threads: int = 0):
        threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)
        self._jpeg = _strict_turbojpeg()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None

    def close(self) -> None:
        """End the threads; nothing can be decoded afterwards."""
        if self._pool is not None:
            self._pool.shutdown()

    def decode(
        self, jpegs: Mapping[str, bytes | bytearray | memoryview], calibration: Calibration
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Pictures by camera, (H, W, 3) uint8 RGB as they are (distorted), and a line for each that cannot be used.

        A picture whose size is not the calibration's is such a fault, too. Order is kept.
        """
        cameras = [calibration[name] for name in jpegs]
        run = map if self._pool is None else self._pool.map
        images, faults = {}, {}
        for camera, result in zip(cameras, run(self._one, cameras, jpegs.values()), strict=True):
            if isinstance(result, str):
                faults[camera.name] = f"camera {camera.name}: {result}"
            else:
                images[camera.name] = result
        return images, faults

    def _one(self, camera: Camera, jpeg: bytes | bytearray | memoryview) -> np.ndarray | str:
        import turbojpeg

        try:
            width, height, _, _ = self._jpeg.decode_header(jpeg)
            if not width * height:
                raise OSError("it ends before its header does")
            if (width, height) != (camera.width, camera.height):  # before a header's word is taken for memory
                return f"picture is {width}x{height}, its calibration is for {camera.width}x{camera.height}"
            return self._jpeg.decode(jpeg, pixel_format=turbojpeg.TJPF_RGB)
        except (OSError, ValueError) as error:
            return f"JPEG of {len(jpeg)} bytes cannot be decoded ({' '.join(str(error).split())})"


def _strict_turbojpeg():
    """A TurboJPEG whose warnings are errors: it only warns of data that end early, and paints the rest grey."""
    import turbojpeg

    class Strict(turbojpeg.TurboJPEG):
        def _TurboJPEG__report_error(self, handle):  # the one place where the package turns a warning into nothing
            text = self._TurboJPEG__get_error_string(handle)
            if _HARMLESS not in text:
                raise OSError(text)

    try:
        return Strict()
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise HeadstreamError(
            f"libturbojpeg cannot be loaded ({reason}); install it with: apt-get install libturbojpeg0"
        ) from None
