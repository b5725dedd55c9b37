import json

import pytest

from protocol.calibration import CalibrationError
from protocol.capture_folder import CaptureError, CaptureFolder

CAMERAS = {
    "version": 1,
    "cameras": [
        {
            "name": "cam00",
            "width": 4,
            "height": 4,
            "K": [[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]],
            "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            "t": [0, 0, 1],
        }
    ],
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "cameras.json").write_text(json.dumps(CAMERAS), encoding="utf-8")
    for frame in ("10", "9", "000", ".cache", "notes"):
        (tmp_path / "frames" / frame).mkdir(parents=True)
    (tmp_path / "frames" / "11").write_text("no folder", encoding="utf-8")
    return tmp_path


def test_frames_are_in_order_of_their_number_and_nothing_else_is_one(root):
    assert CaptureFolder.open(root).frames == ("000", "9", "10")


def test_where_the_parts_lie(root):
    capture = CaptureFolder.open(str(root))
    at = root / "frames" / "000"
    assert capture.jpeg("000", "cam00") == at / "cam00.jpg"
    assert capture.mask("000", "cam00") == at / "cam00_mask.png"
    assert capture.normal("000", "cam00") == at / "cam00_normal.npz"
    assert capture.depth("000", "cam00") == at / "cam00_depth.npz"
    assert capture.mesh("000") == root / "mesh" / "000.ply"
    assert capture.calibration.names == ("cam00",)


@pytest.mark.parametrize(("text", "fps"), [(None, 30.0), ("{}", 30.0), ('{"fps": 60}', 60.0), ('{"fps": 2.5}', 2.5)])
def test_the_rate_it_was_made_at(root, text, fps):
    if text is not None:
        (root / "capture.json").write_text(text, encoding="utf-8")
    assert CaptureFolder.open(root).fps == fps


@pytest.mark.parametrize("text", ["[]", "{", '{"fps": "fast"}', '{"fps": 0}', '{"fps": NaN}', '{"fps": true}', "\xff"])
def test_a_capture_json_that_makes_no_sense(root, text):
    (root / "capture.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CaptureError, match=r"capture\.json"):
        _ = CaptureFolder.open(root).fps


def test_folders_that_are_no_capture(root):
    with pytest.raises(CaptureError, match="absent: no such folder"):
        CaptureFolder.open(root / "absent")
    empty = root / "frames" / "10"
    with pytest.raises(CalibrationError, match="there is no calibration"):
        CaptureFolder.open(empty)
    (empty / "cameras.json").write_text(json.dumps(CAMERAS), encoding="utf-8")
    for frames in (None, "frames"):
        if frames:
            (empty / frames).mkdir()
        with pytest.raises(CaptureError, match="no frames"):
            CaptureFolder.open(empty)


def test_digits_of_other_scripts_are_no_frame_numbers(root):
    (root / "frames" / "²").mkdir()
    (root / "frames" / "٣").mkdir()
    assert CaptureFolder.open(root).frames == ("000", "9", "10")


def test_the_real_captures_open(shared_data):
    folders = [path for path in shared_data.iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        capture = CaptureFolder.open(folder)
        assert any(capture.jpeg(capture.frames[0], name).exists() for name in capture.calibration.names)
