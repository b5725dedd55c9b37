"""``backfill.mcap``: appended, interrupted, resumed; and a reader that sees one take."""

from __future__ import annotations

import os

import pytest
from mcap.reader import make_reader
from test_takes import frame, write

from fusion_server.takes import TakeReader
from fusion_server.takes.account import Seen
from fusion_server.takes.backfill_file import BackfillFile
from fusion_server.takes.contents import Contents, read_info
from fusion_server.takes.layout import BACKFILL_NAME, INFO_NAME, MCAP_NAME, TakeError

CAMERAS = ("cam0", "cam1")


@pytest.fixture
def take(tmp_path):
    """A take with frames 0 to 5 of both cameras."""
    return write(tmp_path / "takes").path


def add(take, frames, finish=True):
    file = BackfillFile(take, CAMERAS)
    for camera, i in frames:
        file.append(frame(camera, i))
    if finish:
        file.finish()
    else:
        file.close()


def sequences(take, camera):
    return [f.header.sequence for f in TakeReader(take).frames(camera)]


def test_a_reader_sees_one_take_in_the_order_of_exposure(take):
    plain = TakeReader(take)
    add(take, [("cam1", 7), ("cam0", 7), ("cam0", 6), ("cam1", 9)])
    reader = TakeReader(take)
    assert sequences(take, "cam0") == list(range(8)) and sequences(take, "cam1") == [*range(6), 7, 9]
    assert reader.frame_counts == {"cam0": 8, "cam1": 8} and reader.backfilled == 4 and plain.backfilled == 0
    headers = [f.header for f in reader.frames()]
    assert [h.capture_ns for h in headers] == sorted(h.capture_ns for h in headers)
    assert [f.header.sequence for f in reader.frames("cam1")][-1] == 9
    at = frame("cam0", 7).header.capture_ns
    found = reader.frames_at(at, 1000)
    assert {name: f.header.sequence for name, f in found.items()} == {"cam0": 7, "cam1": 7}
    assert bytes(found["cam0"].jpeg) == bytes(frame("cam0", 7).jpeg)
    assert reader.finished and reader.mesh_count == 6 and len(list(reader.meshes())) == 6


def test_what_was_written_goes_on_after_any_interruption(take):
    add(take, [("cam0", 6)], finish=False)
    path = take / BACKFILL_NAME
    whole = path.stat().st_size
    add(take, [("cam0", 7)], finish=False)
    record = path.stat().st_size - whole
    for cut in [1, 8, 9, 10, 40, record // 2, record - 1]:
        os.truncate(path, whole + cut)
        add(take, [("cam1", 6)], finish=False)
        assert (sequences(take, "cam0"), sequences(take, "cam1")) == ([*range(7)], [*range(7)])
        os.truncate(path, whole)
    add(take, [("cam1", 7)])
    add(take, [("cam1", 8)])  # a finished file goes on, too
    assert sequences(take, "cam1") == [*range(6), 7, 8]
    with path.open("rb") as file:
        messages = [channel.topic for _, channel, _ in make_reader(file, validate_crcs=True).iter_messages()]
    assert messages == ["/camera/cam0", "/camera/cam1", "/camera/cam1"]


def test_a_damaged_picture_among_them_is_left_out_and_counted(take):
    add(take, [("cam0", 6), ("cam0", 7)])
    path = take / BACKFILL_NAME
    data = bytearray(path.read_bytes())
    data[data.index(bytes([6]) * 100) + 50] ^= 1
    path.write_bytes(data)
    reader = TakeReader(take)
    assert [f.header.sequence for f in reader.frames("cam0")] == [*range(6), 7] and reader.damaged == {"crc": 1}


def test_a_write_that_fails_half_way_leaves_whole_records(take, monkeypatch):
    file = BackfillFile(take, CAMERAS)
    file.append(frame("cam0", 6))
    real, calls = os.write, []

    def write_half(number, data):
        calls.append(1)
        if len(calls) == 1:
            return real(number, data[:30])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusion_server.takes.backfill_file.os.write", write_half)
    with pytest.raises(TakeError, match=r"backfill\.mcap: cannot be written \(No space left on device\)"):
        file.append(frame("cam0", 7))
    monkeypatch.undo()
    file.append(frame("cam0", 8))
    file.finish()
    assert sequences(take, "cam0") == [*range(7), 8]


def test_contents_are_the_headers_of_both_files(take):
    add(take, [("cam0", 9)])
    contents = Contents(take)
    assert len(contents.seen["cam1"]) == 6
    h = frame("cam0", 9).header
    assert Seen(h.incarnation, 9, h.trigger, h.capture_ns) in contents.seen["cam0"]
    assert contents.last_written_ns > read_info(take)["started_ns"] and contents.damaged == 0


def test_what_is_no_take_is_refused_in_one_line(tmp_path, take):
    with pytest.raises(TakeError, match="no take"):
        Contents(tmp_path / "nothing")
    with pytest.raises(TakeError, match=r"take\.json: cannot be read"):
        read_info(tmp_path)
    for text in ("[]", "{", '{"started_ns": "x"}'):
        (take / INFO_NAME).write_text(text)
        with pytest.raises(TakeError, match=r"take\.json: not"):
            read_info(take)
    (take / BACKFILL_NAME).write_bytes(b"something else, and long enough")
    with pytest.raises(TakeError, match="not an MCAP file"):
        TakeReader(take)
    assert (take / MCAP_NAME).exists()
