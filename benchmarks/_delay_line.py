"""Two network devices joined by a cable that is slow: what enters one leaves the other later, in the order it came.

    python _delay_line.py DEVICE DEVICE MILLISECONDS JITTER_MILLISECONDS

Both devices are made (TAP); it says ``ready`` when they are there, and ends with SIGTERM. Used by ``_netlab`` where
others would use ``tc netem``. Needs nothing but Python: it runs in namespaces as a process of its own.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_LARGEST = 65_536  # bytes of one packet
_MOST_WAITING = 64 << 20  # bytes; beyond it packets are lost, as in any queue
_BURST = 64  # packets of one device between two looks at what is due


def main() -> None:
    """Forward until told to stop."""
    names, delay, jitter = sys.argv[1:3], float(sys.argv[3]) / 1000, float(sys.argv[4]) / 1000
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    devices = [_tap(name) for name in names]
    waiting: list[deque[tuple[float, bytes]]] = [deque(), deque()]  # by the device that they leave by
    held = [0, 0]
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        due = [queue[0][0] for queue in waiting if queue]
        ready, _, _ = select.select(devices, [], [], max(0.0, min(due) - now) if due else None)
        now = time.monotonic()
        for device in ready:
            out = 1 - devices.index(device)
            for packet in _packets(device):
                if held[out] + len(packet) > _MOST_WAITING:
                    continue
                at = now + max(0.0, delay + random.uniform(-jitter, jitter))
                if waiting[out]:
                    at = max(at, waiting[out][-1][0])
                waiting[out].append((at, packet))
                held[out] += len(packet)
        now = time.monotonic()
        for out, queue in enumerate(waiting):
            while queue and queue[0][0] <= now:
                packet = queue.popleft()[1]
                held[out] -= len(packet)
                try:
                    os.write(devices[out], packet)
                except OSError:  # the device is down, or its own queue is full
                    continue


def _tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return device


def _packets(device: int) -> list[bytes]:
    packets: list[bytes] = []
    try:
        while len(packets) < _BURST:
            packets.append(os.read(device, _LARGEST))
    except OSError:  # none left, or the device is down
        pass
    return packets


if __name__ == "__main__":
    main()
