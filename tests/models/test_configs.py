"""The training configurations that are shipped can be run, and say the sizes that the documents say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.network import NormalNetwork
from models.rays import camera_inputs, stack_cameras
from models.training.config import load_config
from models.training.dataset import camera_tensors

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*(ROOT / "models" / "training").glob("*.toml"), *(ROOT / "benchmarks" / "gpu").glob("*.toml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_valid(path):
    config = load_config(path)
    assert config.out.name == path.stem
    assert max(config.views) <= 6  # sets have six pictures
    assert config.final_size <= 256
    assert config.pictures // config.processes >= max(config.views)  # else a process has no whole set


def test_full_is_as_large_as_it_should_be_and_runs():
    from model_doubles import ring

    network = NormalNetwork(load_config(ROOT / "models" / "training" / "full.toml").network)
    assert 20e6 < sum(p.numel() for p in network.parameters()) < 35e6
    cameras = camera_tensors(camera_inputs(*stack_cameras(ring(2, 32)), 32, 32))
    with torch.no_grad():
        output = network(torch.zeros((1, 2, 32, 32, 3), dtype=torch.uint8), *cameras)
    assert output.normal.shape == (1, 2, 32, 32, 3)


def test_the_ablations_differ_in_what_they_take_away_and_in_nothing_else():
    whole, alone, blind = (
        load_config(ROOT / "benchmarks" / "gpu" / f"{name}.toml") for name in ("lite", "alone", "blind")
    )
    for other in (alone, blind):
        same = {
            "minutes",
            "pictures",
            "size",
            "final_size",
            "rate",
            "encoder_rate",
            "decoder_rate",
            "network",
            "imagenet",
        }
        assert all(getattr(other, name) == getattr(whole, name) for name in same)
    assert alone.views == (1,) and len(whole.views) > 1 and blind.views == whole.views
    assert blind.loss.depth == 0 and alone.loss == whole.loss
