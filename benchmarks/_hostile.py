"""What strangers do to a listening socket, in a process of its own: python -m benchmarks._hostile PORT SECONDS SEED.

Raw TCP only, so that nothing of ours keeps it polite. Prints what was sent as one line of JSON.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time

RATE = 2_000_000  # bytes a second of one stranger: to be a nuisance, and not to take all cores from whom he annoys
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)  # ZMTP 3.0
CURVE = GREETING.replace(b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0"))
READY = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
HUGE = (  # frames that announce more than they bring: a long message, a long command, with more to come
    b"\x02" + (1 << 62).to_bytes(8, "big"),
    b"\x06" + (1 << 40).to_bytes(8, "big"),
    b"\x03" + ((1 << 64) - 1).to_bytes(8, "big"),
    b"\x02" + (30 << 20).to_bytes(8, "big"),  # within what a part may have
)


def garbage(rng: random.Random) -> bytes:
    """Bytes without any sense."""
    return rng.randbytes(rng.randrange(1, 65_536))


def half_handshake(rng: random.Random) -> bytes:
    """A good beginning, cut or damaged, then nonsense."""
    whole = bytearray(rng.choice((GREETING, CURVE)) + READY)
    for _ in range(rng.randrange(3)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole[: rng.randrange(1, len(whole) + 1)]) + rng.randbytes(rng.randrange(4096))


def announcement(rng: random.Random) -> bytes:
    """A whole handshake, then a frame that says it is huge, and a little of it."""
    return rng.choice((GREETING + READY, CURVE, GREETING)) + rng.choice(HUGE) + rng.randbytes(rng.randrange(65_536))


def nonsense(rng: random.Random) -> bytes:
    """A whole handshake without keys, then well-formed frames of nonsense."""
    parts = [rng.randbytes(rng.randrange(255)) for _ in range(rng.randrange(1, 6))]
    frames = b"".join(bytes([i < len(parts) - 1, len(part)]) + part for i, part in enumerate(parts))
    return GREETING + READY + frames * rng.randrange(1, 50)


def say(peer: socket.socket, data: bytes) -> None:
    """Send it all; behind greeting and READY with a pause, as libzmq lets lie what comes together with those."""
    for end in (len(GREETING), len(READY)) if data.startswith(GREETING[:10]) else ():
        peer.sendall(data[:end])
        data = data[end:]
        time.sleep(0.002)
    peer.sendall(data)


def attack(port: int, seconds: float, seed: int) -> dict[str, int]:
    """Connect, say, sometimes wait for an answer, go; beside that, many connections that say almost nothing."""
    rng, told = random.Random(seed), {"connections": 0, "bytes": 0}
    slow: list[socket.socket] = []
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        if told["bytes"] > RATE * (now - began + 0.1):
            time.sleep(0.005)
            continue
        try:
            peer = socket.create_connection(("127.0.0.1", port), 1)
        except OSError:
            time.sleep(0.01)
            continue
        told["connections"] += 1
        if len(slow) < 200:
            slow.append(peer)
        for each in rng.sample(slow, min(5, len(slow))):  # a byte now and then, for as long as they are let
            try:
                each.send(GREETING[:1])
                told["bytes"] += 1
            except OSError:
                slow.remove(each)
        if peer in slow:
            continue
        data = rng.choice((garbage, half_handshake, announcement, nonsense))(rng)
        try:
            peer.settimeout(0.2)
            say(peer, data)
            told["bytes"] += len(data)
            if rng.random() < 0.2:
                peer.recv(1000)
        except OSError:
            pass
        finally:
            peer.close()
    for each in slow:
        each.close()
    return told


if __name__ == "__main__":
    print(json.dumps(attack(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
