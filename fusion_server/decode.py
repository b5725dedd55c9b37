"""JPEG to RGB, several at a time; a picture that is not whole is a fault, never a grey half.

``TurboDecoder`` is libjpeg-turbo on the CPU, straight into the memory that a sight's device copies from where there is
one. nvJPEG (``decode_nvjpeg``) is the other way, for a rig that says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from fusion_server.sight import Sight
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)

Jpeg = bytes | bytearray | memoryview
_HARMLESS = "extraneous bytes before marker 0xd9"  # padding before the end, as many USB cameras write it
_FEWEST_THREADS, _MOST_THREADS = 2, 16


class Decoder(Protocol):
    """Makes pictures of the JPEGs of one moment. For one thread at a time."""

    name: str

    def decode(self, jpegs: Mapping[str, Jpeg], calibration: Calibration) -> tuple[dict[str, Any], dict[str, str]]:
        """Pictures by camera, (H, W, 3) uint8 RGB as they are (distorted), and a line for each that cannot be used.

        A picture whose size is not the calibration's is such a fault, too. Order is kept. Pictures are arrays, or
        tensors on the device of a decoder that works there; the next set may overwrite those of a decoder with room.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; nothing can be decoded afterwards."""
        ...


def make_decoder(name: str, threads: int, sight: Sight) -> Decoder:
    """The decoder that a rig file names (``normals.decode``), for what its pictures are shown to. threads: as for
    ``TurboDecoder``. Raises HeadstreamError where it cannot be had."""
    if name == "turbojpeg":
        turbo = TurboDecoder(threads, sight.room)
        log.info("normals: pictures decoded by %s in %d threads", turbo.name, turbo.threads)
        return turbo
    from fusion_server.decode_nvjpeg import NvjpegDecoder
    from fusion_server.sight.device import DeviceSight

    if not isinstance(sight, DeviceSight):
        raise HeadstreamError('normals.decode: "nvjpeg" leaves pictures on the GPU; set normals.windows = "cuda", too')
    decoder = NvjpegDecoder(sight.upload)
    log.info("normals: pictures decoded by %s on %s", f"{decoder.name} ({decoder.through})", sight.device)
    return decoder


class TurboDecoder:
    """Decodes in a few threads (libjpeg-turbo runs without Python's lock).

    threads: 0 takes half of the cores, 2 to 16, and no more than there are pictures; 1 decodes in the caller's thread.
    room: gives, once a set, arrays by camera to decode into. Raises HeadstreamError when the library is not on this
    machine. ``close`` ends the threads.
    """

    name = "turbojpeg"

    def __init__(self, threads: int = 0, room: Callable[[], Mapping[str, np.ndarray]] | None = None):
        self.threads = threads or usual_threads()
        self._jpeg = strict_turbojpeg()
        self._room = room
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode") if self.threads > 1 else None

    def close(self) -> None:
        """See ``Decoder``."""
        if self._pool is not None:
            self._pool.shutdown()

    def decode(
        self, jpegs: Mapping[str, Jpeg], calibration: Calibration
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """See ``Decoder``."""
        cameras = [calibration[name] for name in jpegs]
        room = self._room() if self._room is not None else {}
        into = [room.get(name) for name in jpegs]
        run = map if self._pool is None else self._pool.map
        images, faults = {}, {}
        for camera, result in zip(cameras, run(self._one, cameras, jpegs.values(), into), strict=True):
            if isinstance(result, str):
                faults[camera.name] = f"camera {camera.name}: {result}"
            else:
                images[camera.name] = result
        return images, faults

    def _one(self, camera: Camera, jpeg: Jpeg, into: np.ndarray | None) -> np.ndarray | str:
        import turbojpeg

        try:
            return unfit(self._jpeg, camera, jpeg) or self._jpeg.decode(jpeg, turbojpeg.TJPF_RGB, dst=into)
        except (OSError, ValueError) as error:
            return undecodable(jpeg, error)


def usual_threads() -> int:
    """Half of the cores that this process may use: the other half is the surface's, or the network's. A pool starts no
    more threads than a set has pictures."""
    return min(max(len(os.sched_getaffinity(0)) // 2, _FEWEST_THREADS), _MOST_THREADS)


def unfit(turbojpeg: Any, camera: Camera, jpeg: Jpeg) -> str:
    """Why a picture is not its camera's, by its header: before that is taken at its word for memory. Empty where it is.

    Raises OSError or ValueError for what has no header.
    """
    width, height, _, _ = turbojpeg.decode_header(jpeg)
    if not width * height:
        raise OSError("it ends before its header does")
    if (width, height) != (camera.width, camera.height):
        return f"picture is {width}x{height}, its calibration is for {camera.width}x{camera.height}"
    return ""


def undecodable(jpeg: Jpeg, error: Exception) -> str:
    """The line for a JPEG that a decoder refuses."""
    return f"JPEG of {len(jpeg)} bytes cannot be decoded ({' '.join(str(error).split())})"


def strict_turbojpeg() -> Any:
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
