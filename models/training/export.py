"""A checkpoint's averaged weights as a weights file: ``python -m models.training.export CHECKPOINT OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from models.network import Conv, NetworkConfig, NormalNetwork
from models.weights import save_weights
from protocol.errors import HeadstreamError


def load_average(checkpoint: str | Path) -> tuple[NormalNetwork, dict[str, float]]:
    """The averaged network of a training checkpoint, and its ``step`` and ``minutes``.

    Raises HeadstreamError when the file is not a checkpoint.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network = NormalNetwork(NetworkConfig(**state["config"]))
        network.load_state_dict(state["average"])
        notes = {"step": state["step"], "minutes": round(state["minutes"], 1)}
    except (OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise HeadstreamError(f"{checkpoint}: not a training checkpoint ({error})") from None
    return network.eval().requires_grad_(False), notes


@torch.no_grad()
def round_weights(network: NormalNetwork) -> None:
    """Fold every gain into its weights and round all weights to bfloat16's eight bits.

    float16 then holds them exactly, and engines in bfloat16 and float32 compute with the same weights: rounding them in
    the engine was the largest part of the difference between the two. Biases keep their bits; engines add in float32.
    """
    for module in network.modules():
        if isinstance(module, Conv):
            module.weight.mul_(module.gain[:, None, None, None])
            module.gain.fill_(1.0)
        if isinstance(module, Conv | nn.Linear):
            module.weight.copy_(module.weight.bfloat16().half().bfloat16())


def export(checkpoint: str | Path, out: str | Path) -> Path:
    """Write a checkpoint's averaged weights, rounded by ``round_weights``, in float16; returns the file to name."""
    network, notes = load_average(checkpoint)
    round_weights(network)
    return save_weights(network, out, notes)


def main() -> None:
    """Entry of ``python -m models.training.export``."""
    parser = argparse.ArgumentParser(description="Write a checkpoint's averaged weights as safetensors.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    try:
        print(export(options.checkpoint, options.out))
    except HeadstreamError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
