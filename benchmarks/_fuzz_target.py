"""One parser under atheris, until so many bytes went through: python -m benchmarks._fuzz_target NAME BYTES SEED FOLDER.

libFuzzer, which atheris drives, keeps inputs that reach new code and changes those on. A crash ends the process with
its input in FOLDER; else the last line is JSON with what was done.
"""

from __future__ import annotations

import json
import os
import sys

import atheris

with atheris.instrument_imports(include=["protocol.messages", "protocol.fields", "protocol.frame_record"]):
    from protocol import frame_record, messages

import msgpack

from benchmarks._fuzz_seeds import FRAME, seeds
from protocol.errors import HeadstreamError


def frame(data: bytes) -> None:
    """The first byte says where header and picture part; once as it is, once with size and CRC put right."""
    at = data[0] if data else 0
    head, picture = data[1 : at + 1], data[at + 1 :] or b"x"
    taken = messages.unpack_frame([head, picture], max_bytes=1 << 20)
    messages.pack_frame(taken)


def header(data: bytes) -> None:
    """Any msgpack array behind a right version, size and CRC: what damage cannot reach, but a liar can."""
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, TypeError, OverflowError, RecursionError):
        fields = None
    if not isinstance(fields, list):
        raise messages.MessageError("malformed", "no array: not for this target")
    right = msgpack.unpackb(messages.pack_frame(FRAME)[0])[:4]
    messages.unpack_frame([msgpack.packb([*right, *fields]), FRAME.jpeg])


def control(data: bytes) -> None:
    """A control message; what is taken must pack again."""
    messages.pack_control(messages.unpack_control(data))


def record(data: bytes) -> None:
    """A frame as it stands in a take."""
    frame_record.unpack_frame_record(data)


TARGETS = {"frame": frame, "header": header, "control": control, "record": record}


def main() -> None:
    """Fuzz; leaves through ``os._exit``, as libFuzzer never returns."""
    name, most, seed, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    target, count = TARGETS[name], {"executions": 0, "bytes": 0, "taken": 0}
    corpus = os.path.join(folder, "corpus")
    os.makedirs(corpus, exist_ok=True)
    for number, each in enumerate(seeds(name)):
        with open(os.path.join(corpus, f"seed{number}"), "wb") as file:
            file.write(each)

    def one(data: bytes) -> None:
        count["executions"] += 1
        count["bytes"] += len(data)
        try:
            target(data)
        except HeadstreamError:
            pass
        else:
            count["taken"] += 1
        if count["bytes"] >= most:
            print(json.dumps(count), flush=True)
            os._exit(0)

    atheris.Setup(
        [sys.argv[0], corpus, f"-seed={seed}", "-max_len=1024", f"-artifact_prefix={folder}/", "-len_control=0"], one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
