"""Good messages, one of each kind at least, for a fuzzer to begin with."""

from __future__ import annotations

import msgpack

from protocol import messages
from protocol.frame_record import pack_frame_record

FRAME = messages.Frame(
    messages.FrameHeader("cam03", "pc-1", 7, 7, 1, 2, -3, 4, 640, 480, 5), b"\xff\xd8 a picture \xff\xd9"
)
CONTROL: tuple[messages.Control, ...] = (
    messages.Hello("pc-1", ("cam03", "cam04"), 5, 3),
    messages.Welcome(3, 9),
    messages.Refused("no such node"),
    messages.Grant("cam03", 3),
    messages.ClockRequest(1),
    messages.ClockReply(1, 2, 3, 4),
    messages.Report(
        "pc-1",
        "a_003",
        (messages.CameraReport("cam03", 300, 290, 8, 1, 29.97),),
        messages.ClockReport(-7, 12_000, 3.5, 90_000, 1),
        messages.SpoolReport(290, 2, 1 << 20, 1 << 40, "the node's disk was full"),
    ),
    messages.Bye("pc-1"),
    messages.Record(True, "a_003", 12),
    messages.Inventory(7, "a_003", 1, 9),
    messages.Holdings(
        7, "a_003", 0, 2, True, (messages.Holding("cam03", 5, ((0, 9), (12, 20)), ((10, 11, "disk full"),)),)
    ),
    messages.Fetch(8, "a_003", "cam03", 5, ((0, 4), (9, 9)), 1 << 20),
    messages.Spooled(8),
    messages.Fetched(8, 4, ((9, 9, "damaged"),)),
    messages.Release("a_003"),
)


def seeds(name: str) -> list[bytes]:
    """Inputs for a target of ``_fuzz_target``."""
    head, picture = messages.pack_frame(FRAME)
    if name == "frame":
        return [bytes([len(head)]) + head + picture]
    if name == "header":
        return [msgpack.packb(msgpack.unpackb(head)[4:])]
    return [pack_frame_record(FRAME)] if name == "record" else [messages.pack_control(m) for m in CONTROL]
