"""A larger network that starts as a smaller trained one: the same answers, and room to learn more.

After Net2Net (Chen, Goodfellow, Shlens 2016). Everything here keeps the function:

- **Wider tokens** hold every channel several times, which a layer norm does not notice. Layers that write them repeat
  their rows; layers that read them split each weight between the copies. Heads are copied whole: one with twice the
  channels would attend more sharply.
- **Wider MLPs and decoder** also get new channels with random weights, which nothing old reads yet: zeros.
- **More blocks**: pairs (view, rig) are put in behind each old pair as its copies, but write nothing: zeros in their
  last layers (as Wu et al. 2024 did with LLaMA). Their depth heads say what the old pair's said.

The shares of copies are uneven, and drawn anew for every weight: were they a number per copy, the gradients of copies
would be multiples of each other, and Adam, which does not see a gradient's size, would keep them equal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import AttentionBlock, Conv, Decoder, NetworkConfig, NormalNetwork
from protocol.errors import HeadstreamError

_NEW = -1  # instead of the index of an old channel: a channel that copies none


@torch.no_grad()
def grown(small: NormalNetwork, config: NetworkConfig, generator: torch.Generator) -> NormalNetwork:
    """A network of the larger config that computes what the small one does, to float32's rounding. Both on the CPU.

    Depths after pairs that were put in equal those of the pair before. Raises HeadstreamError, naming the sizes, when
    the small network does not fit into the config: dim and heads must grow by one whole factor, blocks, expansion and
    decoder channels must not shrink, points and pool must be equal.
    """
    _check(small.config, config)
    large = NormalNetwork(config)
    tokens = _origins(small.config.dim, config.dim // small.config.dim, config.dim)
    large.encoder.load_state_dict(small.encoder.state_dict())
    for name in ("lift", "lift_coarse", "norm_in", "norm_out"):
        _fill(getattr(large, name), getattr(small, name), generator, tokens)
    _fill(large.embed[0], small.embed[0], generator, tokens)
    _fill(large.embed[2], small.embed[2], generator, tokens, tokens)
    _grow_decoder(large.decoder, small.decoder, generator, tokens)
    sources = _sources(small.config.blocks, config.blocks)
    for i, (block, source) in enumerate(zip(large.blocks, sources, strict=True)):
        _grow_block(block, small.blocks[source], generator, tokens)
        if source in sources[:i]:
            _silence(block)
    for head, source in zip(large.depths, sources[1::2], strict=False):
        _fill(head, small.depths[source // 2], generator, torch.tensor([0]), tokens)
    return large


def _check(small: NetworkConfig, config: NetworkConfig) -> None:
    factor = config.dim // small.dim
    if factor < 1 or (config.dim, config.heads) != (factor * small.dim, factor * small.heads):
        reason = f"dim {small.dim} and heads {small.heads} to {config.dim} and {config.heads}: not by one whole factor"
    elif config.blocks < small.blocks:
        reason = f"blocks {small.blocks} to {config.blocks}: fewer"
    elif small.blocks < 2 and config.blocks > small.blocks:
        reason = f"blocks {small.blocks} to {config.blocks}: no look across the views that others could copy"
    elif config.expansion < small.expansion:
        reason = f"expansion {small.expansion} to {config.expansion}: less"
    elif any(new < old for new, old in zip(config.decoder, small.decoder, strict=True)):
        reason = f"decoder {list(small.decoder)} to {list(config.decoder)}: fewer channels"
    elif (config.points, config.pool) != (small.points, small.pool):
        reason = f"points {small.points} and pool {small.pool} to {config.points} and {config.pool}: not the same"
    else:
        return
    raise HeadstreamError(f"cannot grow {reason}")


def _origins(old: int, copies: int, new: int) -> Tensor:
    """The old channel that each of the new copies: all, some times over, and then _NEW up to how many there are."""
    return F.pad(torch.arange(old).repeat(copies), (0, new - copies * old), value=_NEW)


def _sources(old: int, new: int) -> list[int]:
    """The old block that each new one copies. The first of its copies stands for it; old pairs are spread evenly.

    The first old pair stays first, because the first look across the views knows no points yet.
    """
    old_pairs, new_pairs = (old + 1) // 2, (new + 1) // 2
    pair_at = {pair * new_pairs // old_pairs: pair for pair in range(old_pairs)}
    sources, last = [], [0, 1]  # of view blocks, of blocks across views
    for i in range(new):
        source = 2 * pair_at.get(i // 2, -1) + i % 2
        if 0 <= source < old:
            last[i % 2] = source
        sources.append(last[i % 2])
    return sources


def _grow_block(block: AttentionBlock, old: AttentionBlock, generator: torch.Generator, tokens: Tensor) -> None:
    """What the block has and the old one, the first across views, has not (points) is left as it is made."""
    copies = block.heads // old.heads
    heads = _origins(old.heads, copies, block.heads)
    dim = old.heads * old.head_dim
    channels = torch.arange(dim)  # by head, as AttentionBlock arranges them
    if block.across:
        channels = channels.reshape(6, old.heads, -1)[:, heads].flatten()
    else:
        channels = channels.reshape(old.heads, -1)[heads].flatten()
    hidden = _origins(old.mlp[0].out_features, copies, block.mlp[0].out_features)
    _fill(block.norm1, old.norm1, generator, tokens)
    _fill(block.norm2, old.norm2, generator, tokens)
    _fill(block.qkv, old.qkv, generator, torch.cat([channels, channels + dim, channels + 2 * dim]), tokens)
    _fill(block.out, old.out, generator, tokens, channels)
    _fill(block.mlp[0], old.mlp[0], generator, hidden, tokens)
    _fill(block.mlp[2], old.mlp[2], generator, tokens, hidden)
    if block.across:
        block.sharpness.copy_(old.sharpness[heads])
    if hasattr(old, "closeness"):
        block.closeness.copy_(old.closeness[heads])
        axes = torch.arange(3 * old.heads).reshape(3, old.heads)[:, heads].flatten()
        _fill(block.offset, old.offset, generator, tokens, axes)


def _silence(block: AttentionBlock) -> None:
    """Make a block hand on its tokens as they come; it learns what to add."""
    layers = [block.out, block.mlp[2]]
    if hasattr(block, "offset"):
        layers.append(block.offset)
    for layer in layers:
        for parameter in layer.parameters():
            parameter.zero_()


def _grow_decoder(decoder: Decoder, old: Decoder, generator: torch.Generator, tokens: Tensor) -> None:
    inputs = tokens
    for narrow, skip, refine, old_narrow, old_skip, old_refine in zip(
        decoder.narrow, decoder.skip, decoder.refine, old.narrow, old.skip, old.refine, strict=True
    ):
        channels = _origins(len(old_narrow.bias), 1, len(narrow.bias))
        _fill(narrow, old_narrow, generator, channels, inputs)
        _fill(skip, old_skip, generator, channels)
        for conv, old_conv in zip(refine, old_refine, strict=True):
            _fill(conv, old_conv, generator, channels, channels)
        inputs = channels
    _fill(decoder.head, old.head, generator, torch.arange(len(old.head.bias)), inputs)


def _fill(
    layer: nn.Module, old: nn.Module, generator: torch.Generator, rows: Tensor, columns: Tensor | None = None
) -> None:
    """Set a linear layer, convolution or norm from the old one; rows, columns: origins of its outputs and inputs.

    Without columns the inputs are the old ones. New outputs are as strong as old ones are on average.
    """
    fresh = rows == _NEW
    weight = old.weight[rows]
    if weight.ndim > 1:
        columns = torch.arange(weight.shape[1]) if columns is None else columns
        shares = _shares(columns, len(rows), generator)
        weight = weight[:, columns] * shares.reshape(*shares.shape, *[1] * (weight.ndim - 2))
        lengths = old.weight.flatten(1).norm(dim=1)
        random = torch.randn(weight[fresh].shape, generator=generator)
        weight[fresh] = lengths.mean() * F.normalize(random.flatten(1)).reshape(random.shape)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(old.bias[rows].masked_fill(fresh, 0.0))
    if isinstance(layer, Conv):
        layer.gain.copy_(torch.where(fresh, old.gain.mean(), old.gain[rows]))


def _shares(columns: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """What each input gets of the old weight, for every output; copies of an input add up to one.  # rows, columns"""
    same = columns[:, None] == columns
    copies = same.sum(0)
    uneven = 2 * torch.rand(rows, len(columns), generator=generator) - 1
    shares = (1 + uneven - uneven @ (same / copies)) / copies
    return shares.masked_fill(columns == _NEW, 0.0)
