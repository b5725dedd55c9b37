"""Other programs' senders and receivers of pictures. Run by the interpreter of their own environment, never by ours.

    python -m benchmarks._peers receive KIND CAMERAS PORT WARM SECONDS
    python -m benchmarks._peers send KIND CAMERA PORT FPS FOLDER

KIND is imagezmq-req (a reply for each picture), imagezmq-pub, netgear-bytes (the JPEG as an array of bytes) or
netgear-jpeg (NetGear's own way: it encodes at the sender and decodes at the receiver).
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks._meter import Meter

HOST = "127.0.0.1"


def _schedule(fps: float) -> Iterator[tuple[int, int]]:
    """(number, exposure in Unix ns) of the next picture by the wall clock, as the replay driver does it; late ones are
    skipped. A sequence counts the skipped ones."""
    following = int(time.time() * fps) + 1
    while True:
        current = int(time.time() * fps)
        following = max(following, current)
        wait = following / fps - time.time()
        if wait > 0:
            time.sleep(wait)
        yield following, round(following / fps * 1e9)
        following += 1


def _sender(kind: str, camera: str, port: int) -> Callable[[bytes | np.ndarray, int, int], None]:
    number = int(camera[3:])
    if kind.startswith("imagezmq"):
        import imagezmq

        request = kind == "imagezmq-req"
        address = f"tcp://{HOST}:{port}" if request else f"tcp://{HOST}:{port + number}"
        sender = imagezmq.ImageSender(connect_to=address, REQ_REP=request)
        return lambda picture, sequence, ns: sender.send_jpg(f"{camera} {sequence} {ns}", picture)
    gear = _netgear(kind, str(port + number), receive=False)
    return lambda picture, sequence, ns: gear.send(picture, message=[camera, sequence, ns])


def _netgear(kind: str, port: str | list[str], receive: bool):
    from vidgear.gears import NetGear

    quality = {"jpeg_compression_quality": 90} if kind == "netgear-jpeg" else {}
    options = {"multiserver_mode": True, "jpeg_compression": kind == "netgear-jpeg", **quality}
    return NetGear(address=HOST, port=port, protocol="tcp", pattern=1, receive_mode=receive, logging=False, **options)


def send(kind: str, camera: str, port: int, fps: float, folder: Path) -> None:
    """Every picture of this camera in turn, until stopped."""
    files = sorted(folder.glob(f"frames/*/{camera}.jpg"))
    pictures: list[bytes | np.ndarray] = [path.read_bytes() for path in files]
    if kind == "netgear-jpeg":
        import cv2

        pictures = [cv2.imread(str(path)) for path in files]
    elif kind == "netgear-bytes":
        pictures = [np.frombuffer(picture, np.uint8).reshape(-1, 1).copy() for picture in pictures]
    give = _sender(kind, camera, port)
    for number, exposed_ns in _schedule(fps):
        give(pictures[number % len(pictures)], number, exposed_ns)


def receive(kind: str, cameras: int, port: int, warm_s: float, seconds: float) -> None:
    """Until the meter's window has closed."""
    meter = Meter(cameras, warm_s, seconds)
    if kind.startswith("imagezmq"):
        import imagezmq

        request = kind == "imagezmq-req"
        hub = imagezmq.ImageHub(f"tcp://{HOST}:{port}", REQ_REP=request)
        for number in range(1, 0 if request else cameras):
            hub.connect(f"tcp://{HOST}:{port + number}")
        while not meter.done:
            text, picture = hub.recv_jpg()
            if request:
                hub.send_reply(b"OK")
            camera, sequence, ns = text.split()
            meter.frame(camera, int(sequence), len(picture), int(ns))
            meter.look()
        return
    gear = _netgear(kind, [str(port + number) for number in range(cameras)], receive=True)
    while not meter.done:
        got = gear.recv()
        if got is None:
            sys.exit("NetGear ended")
        _, (camera, sequence, ns), picture = got
        meter.frame(camera, sequence, picture.nbytes, ns)
        meter.look()


def main() -> None:
    """The command line above."""
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    role, kind, *rest = sys.argv[1:]
    if role == "send":
        send(kind, rest[0], int(rest[1]), float(rest[2]), Path(rest[3]))
    else:
        receive(kind, int(rest[0]), int(rest[1]), float(rest[2]), float(rest[3]))


if __name__ == "__main__":
    main()
