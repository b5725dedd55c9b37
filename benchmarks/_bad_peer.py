"""A program in the place of a node: knows the protocol and breaks it. python -m benchmarks._bad_peer RIG NODE SECONDS

Sends good frames, and among them doubled, late, truncated, oversized and random ones, some of another version, of
another node's camera or with a wrong checksum. Prints what it sent as one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import zmq

from protocol.capture_folder import CaptureFolder
from protocol.messages import Frame, FrameHeader, Hello, pack_control, pack_frame
from protocol.rig import Rig, load_rig
from protocol.wire import control_dealer, data_dealer


def broken(kind: str, parts: list[bytes], rng: random.Random, limit: int) -> list[bytes]:
    """A good frame's parts, broken in one way."""
    head, jpeg = parts
    return {
        "truncated": [head, jpeg[: len(jpeg) // 2]],
        "oversized": [head, jpeg + bytes(limit)],
        "version": [bytes([head[0], 99]) + head[2:], jpeg],
        "checksum": [head, jpeg[:-1] + bytes([jpeg[-1] ^ 1])],
        "random": [rng.randbytes(rng.randrange(1, 600)), rng.randbytes(1000)],
        "parts": [head, jpeg, jpeg],
        "one part": [rng.randbytes(rng.randrange(1, 600))],
    }[kind]


def main() -> None:
    """Send for so long, about 200 messages a second."""
    rig, name, seconds = load_rig(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    rng, sent = random.Random(7), Counter[str]()
    context = zmq.Context()
    sockets = data_dealer(context, rig, name), control_dealer(context, rig, name)
    own = [camera.id for camera in rig.cameras_of(name)]
    for socket in sockets:
        _greet(socket, Hello(name, tuple(own), time.time_ns(), 1))
    jpeg, size = _picture(rig, own[0])
    other = next(camera.id for camera in rig.cameras if camera.node != name)
    kinds = ("good", "doubled", "late", "foreign", *broken_kinds())
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        kind = rng.choice(kinds)
        number += kind != "doubled"
        late = 40 if kind == "late" else 0
        now = time.time_ns()
        camera = other if kind == "foreign" else own[0]
        trigger = round(now * rig.fps / 1e9) - late
        header = FrameHeader(camera, name, max(0, number - late), trigger, now, now, 0, 1000, *size)
        parts = [bytes(part) for part in pack_frame(Frame(header, jpeg))]
        try:
            sockets[0].send_multipart(
                parts if kind in kinds[:4] else broken(kind, parts, rng, rig.wire.max_frame_bytes), zmq.NOBLOCK
            )
            sent[kind] += 1
        except zmq.Again:
            sent["not taken"] += 1
        time.sleep(0.005)
    context.destroy(linger=100)
    print(json.dumps(sent), flush=True)


def broken_kinds() -> tuple[str, ...]:
    """Every way in which a frame can be broken here."""
    return "truncated", "oversized", "version", "checksum", "random", "parts", "one part"


def _greet(socket: zmq.Socket, hello: Hello) -> None:
    """Say Hello as soon as the connection is there."""
    for _ in range(200):
        try:
            socket.send(pack_control(hello))
            return
        except zmq.Again:
            time.sleep(0.05)
    sys.exit("no connection to the server")


def _picture(rig: Rig, camera: str) -> tuple[bytes, tuple[int, int]]:
    options = next(each.options for each in rig.cameras if each.id == camera)
    folder = CaptureFolder.open(Path(options["capture"]))
    known = folder.calibration[camera]
    return folder.jpeg(folder.frames[0], camera).read_bytes(), (known.width, known.height)


if __name__ == "__main__":
    main()
