"""The command line as a person meets it: one clear line for what is wrong, and an exit status that scripts can use."""

import json
import socket
import subprocess
import sys

import pytest

RIG = """
name = "test"
calibration = "cameras.json"
[[camera]]
id = "cam00"
node = "pc0"
driver = "replay"
options = {capture = "capture"}
"""


@pytest.fixture
def free_port():
    def find():
        with socket.create_server(("127.0.0.1", 0)) as free:
            return free.getsockname()[1]

    return find


def headstream(*arguments, cwd=None):
    command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


def one_line(done):
    """The single line that a refused command prints."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("headstream: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_missing_rig_file_is_named(tmp_path):
    assert "nowhere.toml" in one_line(headstream("node", tmp_path / "nowhere.toml", "--name", "pc0"))


def test_a_broken_rig_file_is_refused_with_the_path_of_what_is_wrong(tmp_path):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG + "fsp = 30\n")
    assert "camera[0].fsp" in one_line(headstream("node", rig, "--name", "pc0"))


def test_an_unknown_node_is_told_which_there_are(tmp_path):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG)
    assert "pc0" in one_line(headstream("node", rig, "--name", "pc7"))


def test_a_log_format_that_there_is_not_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTREAM_LOG_FORMAT", "xml")
    assert "HEADSTREAM_LOG_FORMAT: 'xml'; must be 'text' or 'json'" in one_line(headstream("node", tmp_path / "x"))


def test_with_json_logs_a_refusal_is_an_object(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTREAM_LOG_FORMAT", "json")
    done = headstream("node", tmp_path / "nowhere.toml", "--name", "pc0")
    (line,) = done.stderr.splitlines()
    entry = json.loads(line)
    assert done.returncode == 2 and entry["level"] == "ERROR" and "nowhere.toml" in entry["message"]


def test_a_server_without_calibration_says_so(tmp_path):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG)
    assert "cameras.json" in one_line(headstream("serve", rig, "--no-preview"))


def test_a_metrics_port_in_use_is_said_at_once(tmp_path, free_port):
    camera = {"name": "cam00", "width": 8, "height": 8, "K": [[8, 0, 4], [0, 8, 4], [0, 0, 1]]}
    camera |= {"R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "t": [0, 0, 1]}
    (tmp_path / "cameras.json").write_text(json.dumps({"version": 1, "cameras": [camera]}))
    ports = [free_port() for _ in range(2)]
    rig = tmp_path / "rig.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        keys = f"data_port = {ports[0]}\ncontrol_port = {ports[1]}\n"
        rig.write_text(f"{RIG}[server]\n{keys}[metrics]\nserver_port = {port}\n")
        said = one_line(headstream("serve", rig, "--no-preview"))
    assert f"127.0.0.1:{port}" in said and "metrics.server_port" in said


def test_a_folder_that_is_no_capture_is_refused(tmp_path):
    assert "cameras.json" in one_line(headstream("reconstruct", tmp_path, "--out", tmp_path / "out"))


def test_an_unknown_camera_is_refused_with_those_there_are(shared_data, tmp_path):
    done = headstream("reconstruct", shared_data / "skull", "--cameras", "ring99", "--out", tmp_path)
    assert "ring99" in one_line(done) and "ring10" in done.stderr


def test_an_export_of_what_is_no_take_is_refused(tmp_path):
    assert str(tmp_path) in one_line(headstream("export", tmp_path))


def test_the_demo_refuses_a_format_before_it_starts_anything(tmp_path):
    assert "usd or ply" in one_line(headstream("demo", "--export", "fbx", "--out", tmp_path))


def test_the_doctor_finds_a_port_in_use_and_names_what_to_do(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        rig = tmp_path / "rig.toml"
        rig.write_text(RIG + f"[server]\ndata_port = {taken.getsockname()[1]}\n")
        done = headstream("doctor", rig, "--json", cwd=tmp_path)
    assert done.returncode == 1
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert findings["data port"]["state"] == "bad" and "data_port" in findings["data port"]["remedy"]
    assert findings["calibration"]["state"] == "bad"
    assert findings["Python"]["state"] == "ok"


def test_the_doctor_says_when_the_surface_cannot_run_as_the_rig_wants_it(tmp_path):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG + '[surface]\nrasterizer = "cpu"\nkernels = "gpu"\n')
    done = headstream("doctor", rig, "--json", cwd=tmp_path)
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert findings["kernels"]["state"] == "bad" and "must be 'cpu'" in findings["kernels"]["detail"]
    assert "rasterizer" not in findings


@pytest.mark.parametrize(
    "verb", ["demo", "up", "node", "serve", "reconstruct", "evaluate", "export", "doctor", "train"]
)
def test_every_verb_explains_itself(verb):
    from typer.testing import CliRunner

    from launch.cli import app

    done = CliRunner().invoke(app, [verb, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output
