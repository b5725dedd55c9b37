"""A start for the layers that no pretrained weights fill, measured on a batch.

The encoder's features differ by orders of magnitude between strides. Without batch normalisation the decoder would
spend its first thousand steps on evening them out; so its gains and biases are set once such that every layer's output
has mean zero and deviation one per channel on a first batch (Salimans and Kingma 2016; Mishkin and Matas 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network import Conv, NormalNetwork
from models.training.batch import Batch


@torch.no_grad()
def calibrate(network: NormalNetwork, batch: Batch) -> None:
    """Set gain and bias of the decoder's convolutions (but the last) and of the two that make tokens."""
    chosen = [network.lift, network.lift_coarse, *network.decoder.modules()]
    convolutions = [module for module in chosen if isinstance(module, Conv) and module is not network.decoder.head]
    handles = [conv.register_forward_hook(_standardise) for conv in convolutions]
    try:
        network(batch.image, *batch.cameras)
    finally:
        for handle in handles:
            handle.remove()


def _standardise(conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert isinstance(conv, Conv)
    deviation, mean = torch.std_mean(output.float(), dim=(0, 2, 3))
    scale = 1 / deviation.clamp(min=1e-3)
    conv.gain.mul_(scale)
    conv.bias.sub_(mean).mul_(scale)
    return (output - mean[:, None, None]) * scale[:, None, None]
