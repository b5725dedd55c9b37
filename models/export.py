"""The network as an ONNX file with static shapes: what TensorRT and other people's runtimes read.

Inputs are the pictures and ``models.rays.CameraInputs``, each with a batch axis of one; outputs are normal, confidence
and mask as ``models.engines.base.NormalPrediction`` has them.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from models.engines.base import NormalEngine
from models.engines.parity import ring
from models.network import Conv, NormalNetwork
from models.rays import CameraInputs, camera_inputs, stack_cameras
from models.weights import load_network, weights_path
from protocol.errors import HeadstreamError

OPSET = 18
INPUTS = ("images", *CameraInputs._fields)
OUTPUTS = ("normal", "confidence", "mask")
TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


class Inference(torch.nn.Module):
    """A network with the mask as a probability and nothing else than the three maps, computed in one precision.

    The types are written into the network (weights, and casts where they change), not left to autocast or to a builder:
    TensorRT-RTX takes a graph's types as they stand, and a CUDA graph repeats no casts of weights. Inputs and outputs
    keep their types; depths along the rays and what comes after the decoder are float32 always. Takes the network over:
    its gains are folded and its weights rounded.
    """

    def __init__(self, network: NormalNetwork, precision: str = "f32") -> None:
        super().__init__()
        for module in network.modules():
            if isinstance(module, Conv):
                module.fold()
        self.kind = TYPES[precision]
        self.network = network.to(self.kind)

    def forward(self, images, direction, tokens, frames, lines) -> tuple[torch.Tensor, ...]:
        """As ``NormalNetwork.infer``."""
        maps = self.network.infer(images, direction, tokens, frames.to(self.kind), lines.to(self.kind))
        return tuple(maps)[: len(OUTPUTS)]


def example_inputs(views: int, size: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes and types: black pictures from a ring of cameras."""
    cameras = camera_inputs(*stack_cameras(ring(views, size)), size, size)
    images = torch.zeros((1, views, size, size, 3), dtype=torch.uint8)
    return (images, *(torch.from_numpy(array)[None] for array in cameras))


def export_onnx(
    out: str | Path, views: int, size: int, weights: str | Path | None = None, precision: str = "f32"
) -> Path:
    """Write the network for ``views`` pictures of ``size`` x ``size`` as one file; opset ``OPSET``, in ``precision``.

    Raises HeadstreamError when the shape cannot be, or when the packages onnx and onnxscript are missing.
    """
    NormalEngine.check_shape(views, size)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise HeadstreamError(f"ONNX export needs a package that is missing: pip install {error.name}") from None
    out = Path(out)
    if not out.parent.is_dir():
        raise HeadstreamError(f"{out.parent}: no such folder")
    network = Inference(load_network(weights_path(weights)), precision).eval()
    scratch = out.with_name(f".{out.name}.part")
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            example_inputs(views, size),
            str(scratch),
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    scratch.replace(out)
    return out


def onnx_parity(file: Path, views: int, size: int, weights: str | Path | None = None) -> float:
    """Mean angle between an ONNX file run by OpenVINO in float32 and the network run by PyTorch, degrees."""
    import openvino as ov

    from models.engines.parity import lit_ball
    from models.evaluation import normal_errors

    cameras = ring(views, size)
    images, mask = lit_ball(cameras)
    inputs = [array[None] for array in (images, *camera_inputs(*stack_cameras(cameras), size, size))]
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(file)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    theirs = np.array(compiled(inputs)[0][0])
    with torch.no_grad():
        ours = load_network(weights_path(weights)).infer(*(torch.from_numpy(array) for array in inputs)).normal
    return normal_errors(theirs, ours[0].numpy(), mask).mean
