"""The CPU engine: the network compiled by OpenVINO for one shape, kept in the user's cache between starts.

The first start converts the PyTorch network (some seconds); later ones read the cached graph and do not import torch.
The key of the cache holds everything that the graph depends on: weights, shape, the network's code, OpenVINO's version.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import openvino as ov

from models.engines.base import NormalEngine, NormalPrediction, check_precision
from models.engines.cache import kept_path
from models.rays import CameraInputs
from models.weights import weights_digest, weights_path
from protocol.errors import HeadstreamError

log = logging.getLogger(__name__)

_CODE = ("network.py", "rays.py", "export.py", "engines/openvino.py")


class OpenVinoEngine(NormalEngine):
    """OpenVINO on the CPU; ``bf16`` where the CPU computes in it, else float32, which ``describe`` says."""

    name = "openvino"

    def __init__(
        self, weights: str | Path | None, views: int, size: int, precision: str = "bf16", threads: int = 0
    ) -> None:
        super().__init__(views, size)
        wanted = check_precision(precision, ("bf16", "f32"))
        path = weights_path(weights)
        core = ov.Core()
        self.precision = wanted if computes_in_bf16() else "f32"
        self._told = self.precision if self.precision == wanted else "f32 (this CPU has no bf16)"
        if self.precision != wanted:
            log.warning("normals: bf16 was asked for, and this CPU has none; float32 is used and takes longer")
        self._weights = f"{path.name} {weights_digest(path)[:8]}"
        folder = self.location = _graph_folder(path, views, size)
        settings = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads > 0:
            settings["INFERENCE_NUM_THREADS"] = threads
        if not (folder / "model.xml").exists():
            _store(_convert(path, views, size), folder)
        try:
            self._compiled = core.compile_model(str(folder / "model.xml"), "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise HeadstreamError(f"{folder}: the cached graph cannot be used ({reason}); remove the folder") from None
        self._threads = self._compiled.get_property("INFERENCE_NUM_THREADS")
        self._request = self._compiled.create_infer_request()
        self._busy = threading.Lock()

    def describe(self) -> str:
        """One line for the log."""
        version = ov.__version__.split("-")[0]
        how = f"{self._threads} CPU threads, {self._told}"
        return f"openvino {version} on {how}, {self.views} x {self.size} px, {self._weights}"

    def _run(self, images: np.ndarray, cameras: CameraInputs) -> NormalPrediction:
        inputs = [np.ascontiguousarray(array)[None] for array in (images, *cameras)]
        with self._busy:  # a request holds one set of buffers
            results = self._request.infer(inputs, share_inputs=True)
            return NormalPrediction(*(results[k][0].copy() for k in range(3)))


def computes_in_bf16() -> bool:
    """Whether this CPU does."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _graph_folder(weights: Path, views: int, size: int) -> Path:
    """Where the converted graph of these weights and this shape lies, or will lie."""
    return kept_path("openvino", ov.__version__.split("-")[0], weights, _CODE, f"{views}x{size}")


def _convert(weights: Path, views: int, size: int) -> ov.Model:
    """The network as an OpenVINO graph with static shapes. The frontend is called itself: no telemetry."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from models.export import Inference, example_inputs
    from models.weights import load_network

    example = example_inputs(views, size)
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad():
        decoder = TorchScriptPythonDecoder(Inference(load_network(weights)).eval(), example_input=example)
        graph = frontend.convert(frontend.load(decoder))
    for given, tensor in zip(graph.inputs, example, strict=True):
        kind = ov.Type.u8 if tensor.dtype == torch.uint8 else ov.Type.f32
        given.get_node().set_element_type(kind)
        given.get_node().set_partial_shape(ov.PartialShape(list(tensor.shape)))
    graph.validate_nodes_and_infer_types()
    return graph


def _store(graph: ov.Model, folder: Path) -> None:
    """Save a graph so that another process sees all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        ov.save_model(graph, scratch / "model.xml", compress_to_fp16=True)
        try:
            os.replace(scratch, folder)
        except OSError:  # another process was first
            if not (folder / "model.xml").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
