"""Engines that run the normal network, by the name that the rig file gives."""

from __future__ import annotations

import logging
from pathlib import Path

from models.engines.base import EngineUnavailable, NormalEngine, NormalPrediction
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)

ENGINES = ("openvino", "torch", "tensorrt")

USUAL_SIZE, QUICK_SIZE = 256, 192  # pixels; see usual_size

__all__ = [
    "ENGINES",
    "QUICK_SIZE",
    "USUAL_SIZE",
    "EngineUnavailable",
    "NormalEngine",
    "NormalPrediction",
    "make_engine",
    "usual_precision",
    "usual_size",
    "why_not",
]


def make_engine(
    name: str,
    *,
    weights: str | Path | None = None,
    views: int,
    size: int,
    precision: str = "",
    threads: int = 0,
    fallback: str = "",
    device: str = "",
    resident: bool = False,
) -> NormalEngine:
    """An engine for up to ``views`` pictures of ``size`` x ``size``; the shipped weights unless others are named.

    ``size`` 0 is what ``usual_size`` says, no ``precision`` what ``usual_precision`` says, for the engine made.
    ``threads`` 0 leaves the number to the engine. device: "cuda", "cuda:1" or "cpu"; empty: the engine's usual one.
    resident: keep pictures and maps on that device (``StaticEngine.predict_on_device``). fallback: the engine to take,
    and say so, where the machine cannot run ``name``; without one that is EngineUnavailable. Raises HeadstreamError for
    an unknown name or precision, a size that is not a multiple of 16, weights that cannot be read, or a device that the
    engine has nothing on. Only the chosen engine's library is imported.
    """
    for key, engine in (("engine", name), ("fallback", fallback or name)):
        if engine not in ENGINES:
            raise HeadstreamError(f"normals.{key}: {engine!r} is unknown; known are {', '.join(ENGINES)}")
    try:
        return _make(name, weights, views, size, precision, threads, device, resident)
    except EngineUnavailable as error:
        if not fallback or fallback == name:
            raise
        log.warning("%s; %s takes its place, as normals.fallback says", error, fallback)
        if fallback == "openvino":
            device = ""  # of the engine whose place it takes
        return _make(fallback, weights, views, size, "f32" if precision == "f32" else "", threads, device, resident)


def _make(
    name: str,
    weights: str | Path | None,
    views: int,
    size: int,
    precision: str,
    threads: int,
    device: str,
    resident: bool,
) -> NormalEngine:
    size = size or usual_size(name, device)
    precision = precision or usual_precision(name)
    if name == "openvino":
        from models.engines.openvino import OpenVinoEngine

        if resident or device not in ("", "cpu"):
            what = 'normals.windows: "cuda"' if resident else f"normals.device: {device!r}"
            raise HeadstreamError(f"{what}: the openvino engine runs on the CPU; torch and tensorrt run on a GPU")
        return OpenVinoEngine(weights, views, size, precision, threads)
    if name == "tensorrt":
        from models.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(weights, views, size, precision, threads, device=device)
    from models.engines.torch import TorchEngine

    return TorchEngine(weights, views, size, precision, threads, device=device, static=resident)


def usual_size(name: str, device: str = "") -> int:
    """The side of pictures, in pixels, that an engine keeps up with on this machine: ``USUAL_SIZE`` where it computes
    in bf16, ``QUICK_SIZE`` (little more than half the work) on an older CPU."""
    if name == "openvino":
        from models.engines.openvino import computes_in_bf16

        return USUAL_SIZE if computes_in_bf16() else QUICK_SIZE
    if name == "torch":
        import torch

        return USUAL_SIZE if torch.cuda.is_available() and device != "cpu" else QUICK_SIZE
    return USUAL_SIZE


def usual_precision(name: str) -> str:
    """``f16`` for TensorRT: as quick as bf16 and ten times as near to float32. CPUs and training know bf16."""
    return "f16" if name == "tensorrt" else "bf16"


def why_not(name: str) -> str:
    """Why this machine cannot run an engine, one line; empty where it can."""
    if name == "tensorrt":
        from models.engines.tensorrt import why_not

        return why_not()
    return ""
