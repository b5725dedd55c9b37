"""The pictures of a video file by their number."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from capture_nodes.drivers.base import DriverError
from capture_nodes.drivers.jpeg_packets import whole_jpeg

_SEEK_BEYOND = 50  # pictures ahead that are not worth decoding one after the other


class VideoFile:
    """One file, open for reading. Raises DriverError when made with what is no video."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with av.open(str(path)) as container:
                stream = self._video(container)
                self.rate = float(stream.average_rate or stream.guessed_rate or 0)
                self.codec = stream.codec_context.name
                self._times = sorted({packet.pts for packet in container.demux(stream) if packet.pts is not None})
        except (OSError, av.FFmpegError) as error:
            raise DriverError(f"{path}: cannot be read as a video ({_reason(error)})") from None
        if not self._times:
            raise DriverError(f"{path}: there is no picture in it")
        self._container: av.container.InputContainer | None = None
        self._items: Iterator[tuple[int, av.Packet | av.VideoFrame]] | None = None
        self._at = -1  # picture that was read last

    def __len__(self) -> int:
        return len(self._times)

    def read(self, index: int, within_s: float) -> bytes | np.ndarray | None:
        """Picture ``index``: a JPEG as it lies in the file, else (H, W, 3) uint8 RGB; None when the time is over.

        Pictures are read in order, or from the key frame before; what was reached counts for the next call. Raises
        DriverError for a picture that the file lacks or that is damaged.
        """
        deadline = time.monotonic() + within_s
        try:
            if self._items is None or index <= self._at or index > self._at + _SEEK_BEYOND:
                self._seek(index)
            while self._items is not None:
                item = next(self._items, None)
                if item is None:
                    break
                self._at = bisect_left(self._times, item[0])
                if self._at >= index:
                    return self._picture(item[1])
                if time.monotonic() > deadline:
                    return None
        except (OSError, av.FFmpegError) as error:
            self._items = None
            raise DriverError(f"{self.path}: picture {index} cannot be read ({_reason(error)})") from None
        self._items = None
        raise DriverError(f"{self.path}: picture {index} cannot be decoded")

    def close(self) -> None:
        """May be called twice; ``read`` opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._items = None, None

    def _seek(self, index: int) -> None:
        if self._container is None:
            self._container = av.open(str(self.path))
        stream = self._video(self._container)
        self._container.seek(self._times[index], stream=stream)
        self._items = self._read_on(stream)
        self._at = -1

    def _read_on(self, stream: av.VideoStream) -> Iterator[tuple[int, av.Packet | av.VideoFrame]]:
        assert self._container is not None
        for packet in self._container.demux(stream):
            if self.codec == "mjpeg":
                if packet.pts is not None:
                    yield packet.pts, packet
            else:
                for frame in packet.decode():
                    if frame.pts is not None:
                        yield frame.pts, frame

    def _picture(self, item: av.Packet | av.VideoFrame) -> bytes | np.ndarray:
        return whole_jpeg(bytes(item)) if isinstance(item, av.Packet) else item.to_ndarray(format="rgb24")

    def _video(self, container: av.container.InputContainer) -> av.VideoStream:
        if not container.streams.video:
            raise DriverError(f"{self.path}: has no video, only sound or text")
        return container.streams.video[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
