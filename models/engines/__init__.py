"""Engines that run the normal network, by the name that the rig file gives."""

from __future__ import annotations

from pathlib import Path

from models.engines.base import NormalEngine, NormalPrediction
from protocol.errors import HeadstreamError

ENGINES = ("openvino", "torch")

USUAL_SIZE, QUICK_SIZE = 256, 192  # pixels; see usual_size

__all__ = ["ENGINES", "QUICK_SIZE", "USUAL_SIZE", "NormalEngine", "NormalPrediction", "make_engine", "usual_size"]


def make_engine(
    name: str,
    *,
    weights: str | Path | None = None,
    views: int,
    size: int,
    precision: str = "bf16",
    threads: int = 0,
) -> NormalEngine:
    """An engine for up to ``views`` pictures of ``size`` x ``size``; the shipped weights unless others are named.

    ``size`` 0 is what ``usual_size`` says. ``threads`` 0 leaves the number to the engine. Raises HeadstreamError for an
    unknown name or precision, a size that is not a multiple of 16, or weights that cannot be read. Only the chosen
    engine's library is imported.
    """
    size = size or usual_size(name)
    if name == "openvino":
        from models.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(weights, views, size, precision, threads)
    if name == "torch":
        from models.engines.torch import TorchEngine

        return TorchEngine(weights, views, size, precision, threads)
    raise HeadstreamError(f"normals.engine: {name!r} is unknown; known are {', '.join(ENGINES)}")


def usual_size(name: str) -> int:
    """The side of pictures, in pixels, that an engine keeps up with on this machine: ``USUAL_SIZE`` where it computes
    in bf16, ``QUICK_SIZE`` (little more than half the work) on an older CPU."""
    if name == "openvino":
        from models.engines.openvino import computes_in_bf16

        return USUAL_SIZE if computes_in_bf16() else QUICK_SIZE
    if name == "torch":
        import torch

        return USUAL_SIZE if torch.cuda.is_available() else QUICK_SIZE
    return USUAL_SIZE
