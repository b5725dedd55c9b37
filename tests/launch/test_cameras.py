import json

import pytest
from typer.testing import CliRunner

from capture_nodes.drivers.base import Attached, DriverError
from launch import cameras
from launch.cli import app
from protocol.rig import parse_rig

SEEN = {
    "gige": [Attached("gige", "G1", "Maker", "Five", "10.0.0.5", "1.2", True)],
    "pylon": [Attached("pylon", "B1", "Basler", "ace", "BaslerUsb", "", False)],
    "opencv": [Attached("opencv", "0001", "", "Maker_Camera_0001", "/dev/v4l/by-id/x", "", None)],
}


@pytest.fixture
def attached(monkeypatch):
    """What the drivers see; an error in place of a list is raised."""
    seen = dict(SEEN)

    def look(driver):
        if isinstance(seen[driver], Exception):
            raise seen[driver]
        return seen[driver]

    monkeypatch.setattr(cameras, "attached_cameras", look)
    return seen


def rig_file(tmp_path):
    path = tmp_path / "rig.toml"
    entries = [
        ("cam00", "gige", 'serial = "G1"'),
        ("cam01", "gige", 'options = {ip = "10.0.0.5"}'),
        ("cam02", "gige", 'serial = "G9"'),
        ("cam03", "opencv", 'serial = "Maker_Camera_0001"'),
        ("cam04", "opencv", 'options = {url = "rtsp://x"}'),
    ]
    text = 'name = "r"\ncalibration = "c.json"\n'
    for name, driver, more in entries:
        text += f'[[camera]]\nid = "{name}"\nnode = "pc1"\ndriver = "{driver}"\n{more}\n'
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_for_people(attached):
    result = CliRunner().invoke(app, ["cameras"])
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == ["driver", "serial", "model", "address", "firmware", "state"]
    assert lines[1].split() == ["gige", "G1", "Maker", "Five", "10.0.0.5", "1.2", "in", "use"]
    assert lines[2].split()[-1] == "free" and lines[3].split()[-1] == "attached"


def test_which_of_the_rigs_cameras_they_are(attached, tmp_path):
    result = CliRunner().invoke(app, ["cameras", str(rig_file(tmp_path)), "--json"])
    found = json.loads(result.output)["cameras"]
    assert [(row["serial"], row["attached"], row["rig_camera"]) for row in found] == [
        ("G1", True, "cam00"),
        ("B1", True, None),
        ("0001", True, "cam03"),
        ("10.0.0.5", False, "cam01"),  # it is cam00, and one camera cannot be two
        ("G9", False, "cam02"),
    ]
    text = CliRunner().invoke(app, ["cameras", str(rig_file(tmp_path))]).output
    assert "not in the rig" in text and "cam02 (node pc1)" in text and "missing" in text


def test_an_extra_that_is_not_installed_is_said_and_the_others_are_searched(attached):
    attached["pylon"] = DriverError("'pylon' cannot be loaded (No module named 'pypylon'); it needs: pip install x")
    result = CliRunner().invoke(app, ["cameras"])
    assert "G1" in result.output and "not searched: 'pylon' cannot be loaded" in result.output
    assert result.exit_code == 0


def test_none_at_all(attached):
    for driver in attached:
        attached[driver] = []
    assert CliRunner().invoke(app, ["cameras"]).output == "no camera is attached to this machine\n"


def test_a_package_that_is_missing_names_its_extra(monkeypatch):
    from capture_nodes import drivers

    monkeypatch.setitem(drivers.DRIVERS, "gige", "capture_nodes.drivers.absent:Nothing")
    with pytest.raises(DriverError, match=r"'gige' cannot be loaded .*; it needs: pip install 'headstream\[gige\]'"):
        drivers.attached_cameras("gige")
    camera = {"id": "a", "node": "pc1", "driver": "gige", "serial": "1"}
    rig = parse_rig({"name": "r", "calibration": "c.json", "camera": [camera]})
    with pytest.raises(DriverError, match=r"rig 'r': camera\[0\]\.driver: 'gige' cannot be loaded"):
        drivers.make_driver(rig.cameras[0], rig)
