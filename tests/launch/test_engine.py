"""``headstream engine``: what is built ahead of a shoot, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.engine import Build, build_engine, chosen_build
from models.engines import EngineUnavailable
from protocol.errors import HeadstreamError

RIG = """
name = "test"
calibration = "cameras.json"
[normals]
engine = "torch"
size = 128
precision = "f32"
weights = "mine.safetensors"
[[camera]]
id = "a"
node = "pc0"
driver = "replay"
options = {capture = "capture"}
[[camera]]
id = "b"
node = "pc0"
driver = "replay"
options = {capture = "capture"}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_rig_says_all_and_an_option_wins(tmp_path):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG)
    got = chosen_build(rig, None, None, None, None, None)
    assert (got.engine, got.views, got.size, got.precision) == ("torch", 2, 128, "f32")
    assert got.weights is not None and got.weights.name == "mine.safetensors"
    other = chosen_build(rig, "openvino", None, 5, 64, "bf16")
    assert (other.engine, other.views, other.size, other.precision) == ("openvino", 5, 64, "bf16")


def test_a_rig_says_on_which_device_its_engine_is_built(tmp_path, monkeypatch):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG.replace('engine = "torch"', 'engine = "torch"\ndevice = "cuda:1"'))
    build = chosen_build(rig, None, None, None, None, None)
    assert build.device == "cuda:1" and chosen_build(rig, "openvino", None, None, None, None).device == ""
    made = []
    monkeypatch.setattr("launch.engine.make_engine", lambda name, **how: made.append((name, how)) or FakeEngine())
    build_engine(build, check=False)
    assert [(name, how["device"], how["views"], how["size"]) for name, how in made] == [("torch", "cuda:1", 2, 128)] * 2


class FakeEngine:
    location = Path("kept")

    def describe(self):
        return "fake"


@pytest.mark.parametrize(("bf16", "size"), [(True, 256), (False, 192)])
def test_a_size_that_nobody_gave_is_what_the_machine_keeps_up_with(bf16, size, tmp_path, monkeypatch):
    monkeypatch.setattr("models.engines.openvino.computes_in_bf16", lambda: bf16)
    assert chosen_build(None, None, None, 4, None, None) == Build("openvino", None, 4, size, "bf16")
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG.replace("size = 128", "size = 0").replace('"torch"', '"openvino"'))
    assert chosen_build(rig, None, None, None, None, None).size == size


def test_without_a_rig_the_views_must_be_given():
    with pytest.raises(HeadstreamError, match="--rig RIG, or --views"):
        chosen_build(None, None, None, None, 256, None)


def test_what_was_built_is_found_again_and_is_true():
    arguments = ["engine", "build", "--views", "2", "--size", "64", "--precision", "f32", "--json"]
    first = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert "2x64" in first["location"] and first["parity_mean_deg"] < 0.2 and first["parity_mask"] < 0.005
    assert first["seconds_again"] < first["seconds"]  # converted the first time, read the second
    second = json.loads(CliRunner().invoke(app, [*arguments, "--no-check"], catch_exceptions=False).stdout)
    assert second["location"] == first["location"] and "parity_mean_deg" not in second
    shown = CliRunner().invoke(app, arguments[:-1], catch_exceptions=False).stdout
    assert "kept in" in shown and "degrees mean" in shown


def test_an_engine_that_keeps_nothing_says_so():
    arguments = ["engine", "build", "--views", "1", "--size", "64", "--engine", "torch", "--precision", "f32"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "nothing is kept" in shown and "0.000 degrees" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--views", "2", "--size", "100"], "multiple of 16"),
        (["build", "--views", "2", "--engine", "abacus"], "known are"),
        (["build", "--views", "2", "--target", "sm89"], "--target is for --engine tensorrt; openvino is built where"),
        (["build", "--views", "2", "--engine", "tensorrt", "--target", " ,"], "give one or more, such as sm89,sm120"),
        (["build", "--rig", "nowhere.toml"], "nowhere.toml"),
        (["build", "--views", "2", "--weights", "nowhere.safetensors"], "no such weights file"),
        (["export", "nowhere/x.onnx"], "--rig RIG, or --views"),
    ],
)
def test_what_cannot_be_built_is_one_line(arguments, message):
    done = CliRunner().invoke(app, ["engine", *arguments])
    assert isinstance(done.exception, HeadstreamError) and message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_gpu_that_is_not_here_is_named_by_target(monkeypatch):
    def missing(cross=False):
        raise EngineUnavailable("normals: no GPU")

    monkeypatch.setattr("models.engines.tensorrt.library", missing)
    done = CliRunner().invoke(app, ["engine", "build", "--views", "2", "--size", "64", "--engine", "tensorrt"])
    assert str(done.exception) == "normals: no GPU; --target sm89 builds for a GPU that is not here"


def test_a_rig_without_a_precision_takes_the_engines_usual_one(tmp_path):
    rig = tmp_path / "rig.toml"
    rig.write_text(RIG.replace('precision = "f32"', ""))
    assert chosen_build(rig, None, None, None, None, None).precision == "bf16"
    assert chosen_build(rig, "tensorrt", None, None, None, None).precision == "f16"


@pytest.mark.slow
def test_plans_for_two_gpus_that_are_not_here(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx, which builds without a GPU, is not installed")
    arguments = ["engine", "build", "--views", "2", "--size", "64", "--engine", "tensorrt", "--target", "sm89, sm120"]
    reports = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert [report["target"] for report in reports] == ["sm89", "sm120"]
    assert all(report["graph_parity_mean_deg"] < 0.2 and report["bytes"] > 1e6 for report in reports)
    assert all(set(layer) == {"name", "kind", "precision"} for layer in reports[0]["layers"])
    shown = CliRunner().invoke(app, [*arguments, "--no-check"], catch_exceptions=False).stdout
    assert "for sm89, f16, 2 x 64 px" in shown and "layers before fusion" in shown and "degrees" not in shown
