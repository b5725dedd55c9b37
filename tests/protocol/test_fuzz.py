"""Whatever bytes come, every parser gives a value or a HeadstreamError: files here, messages in ``test_messages``.

``python -m benchmarks fuzz`` does the same to the messages by the ten million bytes.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.calibration import load_calibration, parse_calibration, save_calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import load_rig, parse_rig, save_rig

EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True)
RIG = b"""\
name = "studio A"
calibration = "cameras.json"
fps = 60
[server]
host = "127.0.0.1"
data_port = 5560
[sync]
mode = "time"
tolerance_ms = 4.0
[wire]
credit = 3
security = "curve"
[[camera]]
id = "cam00"
node = "pc1"
driver = "replay"
options = {capture = "capture", loop = true}
"""
CAMERA = {
    "name": "front",
    "width": 640,
    "height": 480,
    "K": [[500, 0, 320], [0, 500, 240], [0, 0, 1]],
    "dist": [0, 0, 0, 0, 0],
    "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "t": [0, 0, 1],
}
CALIBRATION = json.dumps({"version": 1, "cameras": [CAMERA], "groups": {"all": ["front"]}}).encode()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file cut, overwritten, repeated, or with foreign bytes in it, in up to four places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = at + draw(st.integers(0, 40))
        data[at:until] = draw(st.binary(max_size=12) | st.just(bytes(data[at:until]) * 2) | st.sampled_from(WORDS))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


WORDS = [
    b"1e999",
    b"nan",
    b"-1",
    b"[" * 2000,
    b"9" * 5000,
    b'"\\ud800"',
    b"{}",
    b"true",
    b"null",
    b"\xff\xfe",
    b"\n[[camera]]\n",
]


def test_errors_show_strange_keys_in_a_line():
    """Found by the tests below."""
    camera = {"id": "cam", "node": "pc1", "driver": "replay"}
    good = {"name": "x", "calibration": "c", "camera": [camera]}
    for bad in ({**good, "\n": 1}, {**good, "server": {"\n" * 3000: 1}}, {**good, "camera": [{**camera, "\n": 1}]}):
        with pytest.raises(HeadstreamError) as caught:
            parse_rig(bad)
        assert is_one_line(caught.value)
    for groups in ({"\n": None}, {"\n": ["none"]}, {"all": ["x" * 3000]}):
        with pytest.raises(HeadstreamError) as caught:
            parse_calibration({"version": 1, "cameras": [CAMERA], "groups": groups})
        assert is_one_line(caught.value)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, "[" * 300 + "]" * 300])
def test_a_rig_file_that_no_toml_reader_takes(tmp_path, value):
    path = tmp_path / "rig.toml"
    path.write_text(f"fps = {value}\n", encoding="utf-8")
    with pytest.raises(HeadstreamError) as caught:
        load_rig(path)
    assert is_one_line(caught.value)


def is_one_line(error: HeadstreamError) -> bool:
    return "\n" not in str(error) and len(str(error)) < 2000


@EXAMPLES
@given(damaged(RIG))
def test_any_rig_file_is_a_rig_or_a_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("rig") / "rig.toml"
    path.write_bytes(data)
    try:
        rig = load_rig(path)
    except HeadstreamError as error:
        assert is_one_line(error)
    else:
        save_rig(rig, path)
        assert load_rig(path) == rig


@EXAMPLES
@given(st.lists(st.sampled_from(["server", "sync", "wire", "normals", "surface", "camera", "fps", "name"])), st.data())
def test_any_tables_are_a_rig_or_a_line(keys, data):
    camera = {"id": "cam", "node": "pc1", "driver": "replay"}
    tables = {"name": "x", "calibration": "c", "camera": [camera], **{key: data.draw(values) for key in keys}}
    try:
        parse_rig(tables)
    except HeadstreamError as error:
        assert is_one_line(error)


@EXAMPLES
@given(damaged(CALIBRATION))
def test_any_calibration_file_is_one_or_a_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("calibration") / "cameras.json"
    path.write_bytes(data)
    try:
        calibration = load_calibration(path)
    except HeadstreamError as error:
        assert is_one_line(error)
    else:
        save_calibration(calibration, path)
        assert load_calibration(path).to_dict() == calibration.to_dict()


@EXAMPLES
@given(st.sampled_from([*CAMERA, "version", "cameras", "groups"]), values)
def test_any_value_of_a_calibration_is_taken_or_named(key, value):
    data = {"version": 1, "cameras": [dict(CAMERA)], "groups": {}}
    (data if key in data else data["cameras"][0])[key] = value
    try:
        parse_calibration(data)
    except HeadstreamError as error:
        assert is_one_line(error)


@EXAMPLES
@given(damaged(b'{"fps": 30.0, "subject": "simulated"}'), st.sampled_from(["cameras.json", "capture.json"]), st.data())
def test_any_capture_folder_is_one_or_a_line(tmp_path_factory, info, which, data):
    root = tmp_path_factory.mktemp("capture")
    names = data.draw(
        st.lists(st.sampled_from(["000", "1", "²", "-1", "a", "0x1", "99999999999999999999", " 1"]), unique=True)
    )
    for name in names:
        (root / "frames" / name).mkdir(parents=True)
    (root / "cameras.json").write_bytes(CALIBRATION if which == "capture.json" else info)
    (root / "capture.json").write_bytes(info)
    try:
        folder = CaptureFolder.open(root)
        assert 0 < folder.fps <= 1000
        assert all(
            folder.jpeg(frame, name).parent.is_dir() for frame in folder.frames for name in folder.calibration.names
        )
    except HeadstreamError as error:
        assert is_one_line(error)
