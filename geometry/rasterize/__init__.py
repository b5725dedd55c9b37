"""Rasterisers: which face each pixel sees. One interface (``base``), several engines."""

from __future__ import annotations

from geometry.rasterize.base import Raster, Rasterizer
from protocol.errors import HeadstreamError

__all__ = ["NAMES", "Raster", "Rasterizer", "make_rasterizer"]

NAMES = ("cpu", "cuda", "nvdiffrast")


def make_rasterizer(name: str, device: str = "cuda") -> Rasterizer:
    """The engine that a rig file names; device: the GPU of those that run on one ("cuda:1"). Raises
    HeadstreamError when there is none of that name, or it cannot run."""
    if name == "cpu":
        from geometry.rasterize.cpu import CpuRasterizer

        return CpuRasterizer()
    try:
        if name == "cuda":
            from geometry.rasterize.cuda import CudaRasterizer

            return CudaRasterizer(device)
        if name == "nvdiffrast":
            from geometry.rasterize.nvdiffrast import NvdiffrastRasterizer

            return NvdiffrastRasterizer(device)
    except HeadstreamError as error:
        raise HeadstreamError(f"surface.rasterizer: {name!r} cannot run here: {error}; 'cpu' can") from error
    raise HeadstreamError(f"surface.rasterizer: {name!r}; must be {' or '.join(map(repr, NAMES))}")
