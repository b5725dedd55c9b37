"""A spool file cut at any byte, damaged anywhere: every whole record is found, and what is not is named."""

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_nodes.spool_file import (
    MAGIC,
    SpoolError,
    SpoolWriter,
    file_name,
    parse_file_name,
    read_index,
    read_picture,
)
from protocol.frame_record import unpack_frame_record
from protocol.messages import Frame, FrameHeader, MessageError
from protocol.spans import numbers


def frame(sequence: int, jpeg: bytes = b"") -> Frame:
    header = FrameHeader("cam0", "pc1", sequence, 100 + sequence, 0, 10**18 + sequence, 5, 7, 6, 4, incarnation=9)
    return Frame(header, jpeg or b"\xff\xd8 picture %d" % sequence)


@pytest.fixture
def written(tmp_path):
    """A file with pictures 0 to 3 and 6 to 8, losses 4 to 5, and its end; and where each record ends."""
    writer = SpoolWriter(tmp_path / "take_001" / file_name("cam0", 9))
    ends = []
    for step in (
        *(lambda i=i: writer.frame(frame(i)) for i in range(4)),
        lambda: writer.lost(4, 5, "disk full at 12:03:11"),
        *(lambda i=i: writer.frame(frame(i)) for i in range(6, 9)),
        lambda: writer.end("the take ended"),
    ):
        step()
        ends.append(writer.size)
    writer.close()
    return writer.path.read_bytes(), ends


def index_of(data: bytes):
    return read_index(io.BytesIO(data), len(data))


def test_what_went_in_comes_out(written):
    data, _ = written
    index = index_of(data)
    assert index.ended and index.cut_bytes == 0 and index.damaged_at == []
    assert index.held() == ((0, 3), (6, 8)) and index.lost == [(4, 5, "disk full at 12:03:11")]
    for entry in index.entries:
        assert unpack_frame_record(read_picture(io.BytesIO(data), entry)) == frame(entry.sequence)
        assert entry.capture_ns == 10**18 + entry.sequence + 5


def test_a_file_cut_at_any_byte_gives_every_whole_record(written):
    data, ends = written
    for cut in range(len(data)):
        index = index_of(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert len(index.entries) + len(index.lost) + index.ended == whole, f"cut at {cut}"
        assert index.damaged_at == []
        assert index.cut_bytes == cut - max([len(MAGIC) if cut >= len(MAGIC) else cut, *(e for e in ends if e <= cut)])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damage_anywhere_costs_what_it_hit_and_is_named(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(folder / file_name("cam0", 9))
    starts = []
    for i in range(8):
        starts.append(writer.size)
        writer.frame(frame(i, bytes(data.draw(st.binary(min_size=1, max_size=40)))))
    writer.end("")
    writer.close()
    whole = writer.path.read_bytes()
    at = data.draw(st.integers(len(MAGIC), starts[7] - 1))
    length = data.draw(st.integers(1, 60))
    noise = data.draw(st.binary(min_size=length, max_size=length))
    damaged = whole[:at] + noise + whole[at + length :]
    damaged = damaged[: len(whole)]
    index = index_of(damaged)
    hit = {i for i in range(8) if starts[i] < at + length and (starts[i + 1] if i < 7 else len(whole)) > at}
    found, torn = set(), set()
    for entry in index.entries:
        try:
            assert unpack_frame_record(read_picture(io.BytesIO(damaged), entry)).header.sequence == entry.sequence
            found.add(entry.sequence)
        except MessageError:
            torn.add(entry.sequence)
    lost = {number for first, last, _ in index.lost for number in numbers(((first, last),))}
    assert found >= set(range(8)) - hit
    assert found | torn | lost >= set(range(max(found | {-1}))), (
        "each picture before the last found one is accounted for"
    )
    assert all("damaged at byte" in reason for _, _, reason in index.lost)


def test_a_picture_that_holds_the_marker_does_not_confuse_the_search(tmp_path):
    writer = SpoolWriter(tmp_path / "a-1.spool")
    writer.frame(frame(0))
    first = writer.size
    writer.frame(frame(1, b"\xf5\xb1SP" * 50))
    writer.frame(frame(2))
    data = bytearray(writer.path.read_bytes())
    writer.close()
    data[first] ^= 1  # the marker of the second record
    index = index_of(bytes(data))
    assert index.held() == ((0, 0), (2, 2))
    assert index.lost == [(1, 1, f"spool file damaged at byte {first}")]


def test_a_write_that_fails_half_way_leaves_a_file_that_goes_on(tmp_path, monkeypatch):
    writer = SpoolWriter(tmp_path / "a-1.spool")
    writer.frame(frame(0))
    real, fail = os.write, [True]
    monkeypatch.setattr("capture_nodes.spool_file.os.write", lambda file, data: _half(real, fail, file, data))
    with pytest.raises(OSError, match="No space"):
        writer.frame(frame(1))
    fail[0] = False
    writer.frame(frame(2))
    writer.close()
    index = index_of(writer.path.read_bytes())
    assert index.held() == ((0, 0), (2, 2)) and index.damaged_at == [] and index.cut_bytes == 0


def _half(real, fail, file, data):
    """Twenty bytes are taken, then the disk is full."""
    if not fail[0]:
        return real(file, data)
    if fail[0] == "full":
        raise OSError(28, "No space left on device")
    fail[0] = "full"
    return real(file, data[:20])


def test_a_file_is_opened_again_by_the_process_that_began_it(tmp_path):
    for i in (0, 1, 1):
        writer = SpoolWriter(tmp_path / "a-1.spool")
        writer.frame(frame(i))
        writer.close()
    data = (tmp_path / "a-1.spool").read_bytes()
    assert index_of(data).held() == ((0, 1),) and len(index_of(data).entries) == 2


def test_another_file_is_refused():
    with pytest.raises(SpoolError, match="not a spool file"):
        index_of(b"something else, and long enough")


def test_names_of_files():
    assert parse_file_name(file_name("cam-1", 170)) == ("cam-1", 170)
    for other in ("cam0.spool", "cam0-12.spool.part", "cam0-x.spool", "take.json"):
        assert parse_file_name(other) is None
