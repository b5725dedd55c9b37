import dataclasses
import zlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.fields import MOST_LOST, MOST_SPANS
from protocol.messages import (
    LARGEST_CONTROL,
    LARGEST_HEADER,
    MOST_PARTS,
    Bye,
    CameraReport,
    ClockReply,
    ClockReport,
    ClockRequest,
    Fetch,
    Fetched,
    Frame,
    FrameHeader,
    Grant,
    Hello,
    Holding,
    Holdings,
    Inventory,
    MessageError,
    Record,
    Refused,
    Release,
    Report,
    Spooled,
    SpoolReport,
    Welcome,
    pack_control,
    pack_frame,
    unpack_control,
    unpack_frame,
    unpack_header,
)

JPEG = b"\xff\xd8 a picture \xff\xd9"
HEADER = FrameHeader(
    camera="cam03",
    node="pc-1",
    sequence=70_000,
    trigger=53_941_234_567,
    device_ns=123_456_789,
    node_ns=1_798_041_152_000_000_000,
    offset_ns=-1_234_567,
    offset_sigma_ns=8_900,
    width=2448,
    height=2048,
    incarnation=1_798_041_150_000_000_000,
)
# What version 1 looks like on the wire. When one of these changes, so must VERSION or SCHEMA.
RECORDED_HEADER = bytes.fromhex(
    "9f01020fce1a1d2c68a563616d3033a470632d31ce00011170cf0000000c8f25eb87ce075bcd15cf18f3ece6bc7e8000d2ff"
    "ed2979cd22c4cd0990cd0800cf18f3ece64548ec00"
)
HEADER_OF_SCHEMA_1 = bytes.fromhex(  # as older takes have it
    "9e01010fce1a1d2c68a563616d3033a470632d31ce00011170cf0000000c8f25eb87ce075bcd15cf18f3ece6bc7e8000d2ff"
    "ed2979cd22c4cd0990cd0800"
)
CLOCK = ClockReport(-(10**9), 9_000, -42.5, 80_000, 2)
NO_SPOOL = [0, 0, 0, 0, ""]
SPOOL = SpoolReport(300, 2, 9, 8, "full")
REPORT = Report("pc-1", "a_003", (CameraReport("cam03", 300, 290, 8, 1, 29.97),), CLOCK, SPOOL)
HOLDINGS = Holdings(7, "a_003", 0, 2, True, (Holding("cam03", 5, ((0, 9), (12, 20)), ((10, 11, "disk full"),)),))
RECORDED_CONTROL = {
    Hello("pc-1", ("cam03", "cam04"), 1_798_041_152_000_000_000, 3): (
        "9601a568656c6c6fa470632d3192a563616d3033a563616d3034cf18f3ece6bc7e800003"
    ),
    Welcome(3, 1_798_041_150_000_000_000): "9401a777656c636f6d6503cf18f3ece64548ec00",
    Refused("no such node"): "9301a772656675736564ac6e6f2073756368206e6f6465",
    Grant("cam03", 3): "9401a56772616e74a563616d303303",
    ClockRequest(1_798_041_152_000_000_000): "9301a6636c6f636b3fcf18f3ece6bc7e8000",
    ClockReply(1, 2, 3, 4): "9601a6636c6f636b2101020304",
    REPORT: (
        "9701a67265706f7274a470632d31a5615f3030339196a563616d3033cd012ccd01220801cb403df851eb851eb895d2c46536"
        "00cd2328cbc045400000000000ce000138800295cd012c020908a466756c6c"
    ),
    Bye("pc-1"): "9301a3627965a470632d31",
    Record(True, "a_003", 77): "9501a67265636f7264c3a5615f3030334d",
    Inventory(7, "a_003", 5, 6): "9601a9696e76656e746f727907a5615f3030330506",
    HOLDINGS: (
        "9801a8686f6c64696e677307a5615f3030330002c39194a563616d30330592920009920c1491930a0ba96469736b2066756c6c"
    ),
    Fetch(
        8, "a_003", "cam03", 5, ((0, 3), (9, 9)), 4096
    ): "9801a5666574636808a5615f303033a563616d30330592920003920909cd1000",
    Spooled(8): "9301a773706f6f6c656408",
    Fetched(8, 4, ((9, 9, "damaged"),)): "9501a766657463686564080491930909a764616d61676564",
    Release("a_003"): "9301a772656c65617365a5615f303033",
}
EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
times = st.integers(0, 2**62)
headers = st.builds(
    FrameHeader,
    camera=names,
    node=names,
    sequence=times,
    trigger=st.none() | times,
    device_ns=times,
    node_ns=times,
    offset_ns=st.integers(-(2**62), 2**62),
    offset_sigma_ns=times,
    width=st.integers(1, 65_535),
    height=st.integers(1, 65_535),
    incarnation=times,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=4,
)


def test_a_recorded_frame_is_still_understood_and_still_made():
    frame = Frame(HEADER, JPEG)
    assert unpack_frame([RECORDED_HEADER, JPEG]) == frame
    assert pack_frame(frame) == [RECORDED_HEADER, JPEG]


@pytest.mark.parametrize("message", RECORDED_CONTROL, ids=lambda message: type(message).__name__)
def test_a_recorded_control_message_is_still_understood_and_still_made(message):
    recorded = bytes.fromhex(RECORDED_CONTROL[message])
    assert unpack_control(recorded) == message
    assert pack_control(message) == recorded


@EXAMPLES
@given(headers, st.binary(min_size=1))
def test_frames_come_back_as_they_were(header, jpeg):
    frame = unpack_frame(pack_frame(Frame(header, jpeg)))
    assert frame == Frame(header, jpeg)
    assert frame.header.capture_ns == header.node_ns + header.offset_ns


def test_a_picture_in_foreign_memory_is_not_copied():
    memory = memoryview(bytearray(JPEG))
    head, sent = pack_frame(Frame(HEADER, memory))
    assert sent is memory
    assert unpack_frame([head, memory]).jpeg is memory


@EXAMPLES
@given(st.lists(st.binary(max_size=600), max_size=4))
def test_any_parts_are_a_frame_or_a_message_error(parts):
    with pytest.raises(MessageError):
        unpack_frame(parts)


@settings(EXAMPLES, max_examples=50)
@given(st.lists(values, min_size=10, max_size=10), st.binary())
def test_any_fields_behind_a_right_version_are_a_frame_or_a_message_error(fields, jpeg):
    head = msgpack.packb([1, 1, len(jpeg), zlib.crc32(jpeg), *fields])
    with pytest.raises(MessageError):
        unpack_frame([head, jpeg])


@EXAMPLES
@given(st.integers(0, 9), values)
def test_one_wrong_field_is_refused_or_taken_as_it_is(at, value):
    fields = list(dataclasses.astuple(HEADER))
    fields[at] = value
    head = msgpack.packb([1, 2, len(JPEG), zlib.crc32(JPEG), *fields])
    try:
        frame = unpack_frame([head, JPEG])
    except MessageError as error:
        assert error.reason in ("malformed", "oversized")
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert list(dataclasses.astuple(frame.header)) == fields
        assert pack_frame(frame)[0] == head


@EXAMPLES
@given(st.integers(0, len(JPEG) * 8 - 1))
def test_a_flipped_bit_of_the_picture_is_noticed(bit):
    damaged = bytearray(JPEG)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MessageError) as caught:
        unpack_frame([RECORDED_HEADER, damaged])
    assert caught.value.reason == "crc"


@EXAMPLES
@given(st.integers(0, len(RECORDED_HEADER) * 8 - 1))
def test_a_flipped_bit_of_the_header_is_a_frame_or_a_message_error(bit):
    damaged = bytearray(RECORDED_HEADER)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        unpack_frame([damaged, JPEG])
    except MessageError as error:
        assert error.reason in ("malformed", "version", "crc")


@pytest.mark.parametrize(
    ("parts", "max_bytes", "reason", "says"),
    [
        ([RECORDED_HEADER, JPEG[:-1]], 1000, "malformed", "cam03: a picture of 14 bytes where the header says 15"),
        ([RECORDED_HEADER, b""], 1000, "malformed", "cam03"),
        ([RECORDED_HEADER, JPEG], 14, "oversized", "cam03: a picture of 15 bytes; at most 14 are taken"),
        ([bytes(LARGEST_HEADER + 1), JPEG], 1000, "oversized", "header"),
        ([RECORDED_HEADER[:-1], JPEG], 1000, "malformed", "not msgpack"),
        ([RECORDED_HEADER + b"\0", JPEG], 1000, "malformed", "not msgpack"),
        ([RECORDED_HEADER], 1000, "malformed", "2 parts"),
        ([RECORDED_HEADER, JPEG, b""], 1000, "malformed", "2 parts"),
        ([msgpack.packb({"version": 1}), JPEG], 1000, "malformed", "array"),
        ([b"\x9f\x02" + RECORDED_HEADER[2:], JPEG], 1000, "version", "version 2.2; this headstream speaks version 1.2"),
        ([HEADER_OF_SCHEMA_1, JPEG], 1000, "version", "version 1.1;"),
        ([b"\x9f\x01\x03" + RECORDED_HEADER[3:], JPEG], 1000, "version", "version 1.3;"),
        ([msgpack.packb([1]), JPEG], 1000, "version", "version 1;"),
        ([msgpack.packb([1, 2, 2]), JPEG], 1000, "malformed", "15 fields"),
        ([b"\xdd\xff\xff\xff\xff", JPEG], 1000, "malformed", "not msgpack"),  # an array of 4 billion, it says
        ([b"\x91" * 500, JPEG], 1000, "malformed", "not msgpack"),  # nested as deep as fits
    ],
)
def test_refusals_of_frames(parts, max_bytes, reason, says):
    with pytest.raises(MessageError) as caught:
        unpack_frame(parts, max_bytes=max_bytes)
    assert caught.value.reason == reason
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "../etc"},
        {"camera": "cam\n"},
        {"camera": ""},
        {"camera": "x" * 65},
        {"node": "pc 1"},
        {"sequence": -1},
        {"sequence": 1.0},
        {"trigger": -1},
        {"trigger": True},
        {"device_ns": 2**63},
        {"node_ns": -1},
        {"offset_ns": -(2**63)},
        {"offset_sigma_ns": -1},
        {"width": 0},
        {"height": 65_536},
        {"incarnation": -1},
    ],
    ids=str,
)
def test_a_header_that_nobody_would_take_is_neither_sent_nor_taken(change):
    header = dataclasses.replace(HEADER, **change)
    with pytest.raises(MessageError, match=next(iter(change))):
        pack_frame(Frame(header, JPEG))
    head = msgpack.packb([1, 2, len(JPEG), zlib.crc32(JPEG), *dataclasses.astuple(header)])
    with pytest.raises(MessageError, match=next(iter(change))) as caught:
        unpack_frame([head, JPEG])
    assert caught.value.reason == "malformed"


def test_an_empty_picture_is_not_sent():
    with pytest.raises(MessageError, match="cam03"):
        pack_frame(Frame(HEADER, b""))


@EXAMPLES
@given(st.binary(max_size=400))
def test_any_bytes_are_a_control_message_or_a_message_error(data):
    with pytest.raises(MessageError):
        unpack_control(data)


@EXAMPLES
@given(st.sampled_from(list(RECORDED_CONTROL)), st.data())
def test_one_wrong_field_of_a_control_message_is_refused_or_taken_as_it_is(message, data):
    fields = msgpack.unpackb(pack_control(message))
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(values)
    packed = msgpack.packb(fields)
    try:
        taken = unpack_control(packed)
    except MessageError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert msgpack.unpackb(pack_control(taken)) == fields


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (msgpack.packb([2, "bye", "pc-1"]), "version", "version 2; this headstream speaks version 1"),
        (msgpack.packb([]), "version", "version none"),
        (msgpack.packb([1, "byebye", "pc-1"]), "malformed", "must be one of hello, welcome"),
        (msgpack.packb([1, ["bye"], "pc-1"]), "malformed", "kind ['bye']"),
        (msgpack.packb([1]), "malformed", "kind None"),
        (msgpack.packb([1, "bye"]), "malformed", "a bye has 1 fields, this has 0"),
        (msgpack.packb([1, "bye", "../x"]), "malformed", "bye.node: '../x'"),
        (msgpack.packb([1, "refused", "two\nlines"]), "malformed", "refused.text"),
        (msgpack.packb([1, "hello", "pc-1", ["c"] * 257, 1, 1]), "malformed", "at most 256"),
        (msgpack.packb([1, "report", "pc-1", "", [["c", 1, 1, 1, 1, float("nan")]], [], []]), "malformed", "rate"),
        (
            msgpack.packb([1, "report", "pc-1", "", [], [0, 1, 0.0, 1, 0], [0, 0, 0, 0]]),
            "malformed",
            "report.spool: must be a list of 5",
        ),
        (msgpack.packb([1, "record", True, "../x", 0]), "malformed", "record.take: '../x' is no take's name"),
        (msgpack.packb([1, "record", True, "", 0]), "malformed", "record.take: '' is no take's name"),
        (msgpack.packb([1, "release", ".."]), "malformed", "release.take"),
        (msgpack.packb([1, "fetch", 1, "a_1", "../c", 0, [], 1]), "malformed", "fetch.camera"),
        (msgpack.packb([1, "fetch", 1, "a_1", "c", 0, [[5, 4]], 1]), "malformed", "5 to 4 is no span"),
        (msgpack.packb([1, "fetch", 1, "a_1", "c", 0, [[0, 4], [5, 9]], 1]), "malformed", "not touch"),
        (msgpack.packb([1, "fetch", 1, "a_1", "c", 0, [[0, 4]], 0]), "malformed", "fetch.most_bytes"),
        (msgpack.packb([1, "fetch", 1, "a_1", "c", 0, [[0, 0]] * 1025, 1]), "malformed", "at most 1024"),
        (msgpack.packb([1, "fetched", 1, 1, [[0, 0, "x" * 101]]]), "malformed", "at most 100 characters"),
        (msgpack.packb([1, "fetched", 1, 1, [[0, 0]]]), "malformed", "lists of 3"),
        (msgpack.packb([1, "holdings", 1, "a_1", 0, 1001, True, []]), "malformed", "holdings.parts"),
        (
            msgpack.packb([1, "report", "pc-1", "", [], [0, 1, float("nan"), 1, 0], NO_SPOOL]),
            "malformed",
            "parts in a million",
        ),
        (
            msgpack.packb([1, "report", "pc-1", "", [], [0, -1, 0.0, 1, 0], NO_SPOOL]),
            "malformed",
            "report.clock",
        ),
        (
            msgpack.packb([1, "report", "pc-1", "", [], [0, 1], [0, 0, 0, 0, ""]]),
            "malformed",
            "report.clock: must be a list of 5",
        ),
        (msgpack.packb([2, "report", "pc-1", "", []]), "version", "version 2; this headstream speaks version 1"),
        (bytes(LARGEST_CONTROL + 1), "oversized", f"{LARGEST_CONTROL + 1} bytes"),
    ],
)
def test_refusals_of_control_messages(data, reason, says):
    with pytest.raises(MessageError) as caught:
        unpack_control(data)
    assert caught.value.reason == reason
    assert says in str(caught.value)


def test_a_control_message_that_nobody_would_take_is_not_sent():
    with pytest.raises(MessageError, match=r"grant\.frames: -1"):
        pack_control(Grant("cam03", -1))


def test_the_largest_holdings_fit_into_a_control_message():
    spans = tuple((2**61 + 2 * i, 2**61 + 2 * i) for i in range(MOST_SPANS))
    lost = tuple((2**61, 2**62, "x" * 100) for _ in range(MOST_LOST))
    holding = Holding("c" * 64, 2**62, spans, lost)
    message = Holdings(2**62, "a" * 80, MOST_PARTS - 1, MOST_PARTS, True, (holding,))
    packed = pack_control(message)
    assert len(packed) < LARGEST_CONTROL and unpack_control(packed) == message


def test_older_schemas_are_read_from_files_and_not_taken_from_the_wire():
    old = dataclasses.replace(HEADER, incarnation=0)
    assert unpack_header(HEADER_OF_SCHEMA_1) == old
    assert unpack_frame([HEADER_OF_SCHEMA_1, JPEG], of_file=True) == Frame(old, JPEG)
