"""Rasterisers: which face each pixel sees. One interface (``base``), several engines."""

from __future__ import annotations

from geometry.rasterize.base import Raster, Rasterizer
from protocol.errors import HeadstreamError

__all__ = ["Raster", "Rasterizer", "make_rasterizer"]


def make_rasterizer(name: str) -> Rasterizer:
    """The engine that a rig file names. Raises HeadstreamError when there is none of that name."""
    if name == "cpu":
        from geometry.rasterize.cpu import CpuRasterizer

        return CpuRasterizer()
    raise HeadstreamError(f"surface.rasterizer: {name!r}; this headstream has 'cpu'")
