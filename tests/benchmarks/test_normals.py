"""A network that nobody has trained can be timed, and is not taken for one that was."""

from __future__ import annotations

from benchmarks.normals import untrained
from models.training.config import load_config
from models.weights import load_network


def test_random_weights_are_of_the_config_s_network_and_say_that_they_are(root, tmp_path):
    config = root / "models" / "training" / "lite.toml"
    path = untrained(config, tmp_path)
    assert load_network(path).config == load_config(config).network
    assert "untrained" in path.name
