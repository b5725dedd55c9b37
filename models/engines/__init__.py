"""Engines that run the normal network, by the name that the rig file gives."""

from __future__ import annotations

from pathlib import Path

from models.engines.base import NormalEngine, NormalPrediction
from protocol.errors import HeadstreamError

ENGINES = ("openvino", "torch")

__all__ = ["ENGINES", "NormalEngine", "NormalPrediction", "make_engine"]


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

    ``threads`` 0 leaves the number to the engine. Raises HeadstreamError for an unknown name or precision, a size that
    is not a multiple of 16, or weights that cannot be read. Only the chosen engine's library is imported.
    """
    if name == "openvino":
        from models.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(weights, views, size, precision, threads)
    if name == "torch":
        from models.engines.torch import TorchEngine

        return TorchEngine(weights, views, size, precision, threads)
    raise HeadstreamError(f"normals.engine: {name!r} is unknown; known are {', '.join(ENGINES)}")
