import copy
import json

import numpy as np
import pytest

from protocol.calibration import CalibrationError, load_calibration, parse_calibration, save_calibration

TURN = [[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]  # a quarter turn about y


def camera(name="cam00", **changes):
    plain = {
        "name": name,
        "width": 640,
        "height": 480,
        "K": [[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]],
        "R": TURN,
        "t": [0.0, 0.0, 2.0],
    }
    return {**plain, **changes}


def file_with(*cameras, **changes):
    return {"version": 1, "cameras": list(cameras or (camera(),)), **changes}


def test_a_camera_is_read_and_knows_where_it_stands():
    one = parse_calibration(file_with())["cam00"]
    assert (one.width, one.height) == (640, 480)
    np.testing.assert_array_equal(one.dist, np.zeros(5))
    np.testing.assert_allclose(one.R @ one.center + one.t, 0, atol=1e-12)
    np.testing.assert_allclose(one.center, [-2, 0, 0], atol=1e-12)


def test_what_was_saved_is_read_back_with_unknown_keys(tmp_path):
    data = file_with(
        camera("a", dist=[0.1, -0.2, 0.001, 0.002, 0.3], lens="50 mm"),
        camera("b"),
        groups={"ring": ["b", "a"], "none": []},
        note={"by": "hand"},
    )
    save_calibration(parse_calibration(data), tmp_path / "cameras.json")
    assert [path.name for path in tmp_path.iterdir()] == ["cameras.json"]
    written = json.loads((tmp_path / "cameras.json").read_text(encoding="utf-8"))
    data["cameras"][1]["dist"] = [0, 0, 0, 0, 0]
    assert written == data
    assert load_calibration(tmp_path).to_dict() == data  # a folder will do


def test_selection_keeps_file_order_and_takes_groups():
    calibration = parse_calibration(file_with(*map(camera, "abcd"), groups={"back": ["d", "c"]}))
    assert calibration.select("back,a").names == ("a", "c", "d")
    assert calibration.select(" b , b ").names == ("b",)
    assert calibration.select(None).names == calibration.select("").names == ("a", "b", "c", "d")
    with pytest.raises(CalibrationError, match="'e' is neither a camera nor a group; known are back, a, b, c, d"):
        calibration.select("a,e")
    with pytest.raises(CalibrationError, match="names no camera"):
        calibration.select(",")
    with pytest.raises(CalibrationError, match="no camera 'e' in the calibration; it has a, b, c, d"):
        calibration["e"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "must be an object with 'version' and 'cameras'"),
        (file_with(version=2), "version is 2; this headstream reads version 1"),
        ({"cameras": [camera()]}, "version is None"),
        (file_with(version=True), "version is true"),
        (file_with(cameras=[]), "cameras must be a list of at least one camera"),
        (file_with(cameras={}), "cameras must be a list"),
        (file_with(3), "cameras[0]: must be an object"),
        (file_with({"name": "a", "dist": [], "K": 0}), "cameras[0]: R, height, t, width missing"),
        (file_with(camera(), camera()), "cameras[1].name: 'cam00' stands twice"),
        (file_with(camera("a/b")), "cameras[0].name: 'a/b'; must be a word that can name a file"),
        (file_with(camera("a\\b")), "cameras[0].name"),
        (file_with(camera("")), "cameras[0].name"),
        (file_with(camera("..")), "cameras[0].name"),
        (file_with(camera("a\n")), "cameras[0].name"),
        (file_with(camera(3)), "cameras[0].name: 3"),
        (file_with(camera(width=0)), "cameras[0].width: 0; must be a whole number of pixels, 1 to 65536"),
        (file_with(camera(width=640.0)), "cameras[0].width: 640.0"),
        (file_with(camera(height=True)), "cameras[0].height: true"),
        (file_with(camera(K=[[1, 0], [0, 1]])), "cameras[0].K: is 2x2; must be 3x3 numbers"),
        (file_with(camera(K=[[-500, 0, 0], [0, 500, 0], [0, 0, 1]])), "cameras[0].K: must be [[fx, skew, cx]"),
        (file_with(camera(K=[[500, 0, 0], [0, 500, 0], [0, 1, 1]])), "cameras[0].K: must be [[fx, skew, cx]"),
        (file_with(camera(K="wide")), "cameras[0].K: is a single value; must be 3x3 numbers"),
        (file_with(camera(K=[["500", 0, 0], [0, 500, 0], [0, 0, 1]])), "cameras[0].K: must be 3x3 numbers"),
        (file_with(camera(K=[[500, 0, 0], [0, 500, 0], [0, 0]])), "cameras[0].K: is 3; must be 3x3 numbers"),
        (file_with(camera(R=(2 * np.eye(3)).tolist())), "cameras[0].R: not a rotation"),
        (file_with(camera(R=np.diag([1, 1, -1]).tolist())), "cameras[0].R: not a rotation"),
        (file_with(camera(t=[0, 0, float("nan")])), "cameras[0].t: must be finite numbers"),
        (file_with(camera(t=[0, 0, 10**400])), "cameras[0].t: must be finite numbers"),
        (file_with(camera(t=[0, 0, None])), "cameras[0].t: must be 3 numbers"),
        (file_with(camera(t=[0, 0, True])), "cameras[0].t: must be 3 numbers"),
        (file_with(camera(t=0)), "cameras[0].t: is a single value; must be 3 numbers"),
        (file_with(camera(dist=[0, 0, 0, 0])), "cameras[0].dist: is 4; must be 5 numbers"),
        (file_with(groups=[]), "groups must be an object of lists"),
        (file_with(groups={"g": "cam00"}), "groups.g: must be a list of camera names"),
        (file_with(groups={"g": ["cam01"]}), "groups.g: no camera 'cam01'"),
        (file_with(groups={"g": [["cam00"]]}), "groups.g: no camera ['cam00']"),
    ],
)
def test_refusals_name_the_path_and_what_would_be_right(data, says):
    before = copy.deepcopy(data)
    with pytest.raises(CalibrationError) as caught:
        parse_calibration(data, "rig/cameras.json")
    assert str(caught.value).startswith("rig/cameras.json: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert repr(data) == repr(before)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CalibrationError, match=r"cameras\.json: there is no calibration"):
        load_calibration(tmp_path)
    (tmp_path / "cameras.json").write_text('{"version": 1,\n "cameras": [}', encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"cameras\.json:2: not JSON"):
        load_calibration(tmp_path)
    (tmp_path / "cameras.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_calibration(tmp_path)
    (tmp_path / "cameras.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(CalibrationError, match="not JSON that can be read"):
        load_calibration(tmp_path)
    (tmp_path / "cameras.json").write_text("9" * 5000, encoding="utf-8")
    with pytest.raises(CalibrationError, match="not JSON that can be read"):
        load_calibration(tmp_path)


def test_the_real_calibrations_are_read(shared_data):
    folders = [path for path in shared_data.iterdir() if (path / "cameras.json").exists()]
    assert folders
    for folder in folders:
        calibration = load_calibration(folder)
        assert len(calibration.cameras) >= 8
        for group in calibration.groups:
            assert set(calibration.select(group).names) == set(calibration.groups[group])
