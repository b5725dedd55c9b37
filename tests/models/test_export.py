"""ONNX files: static shapes, and the same numbers as PyTorch."""

from __future__ import annotations

import pytest
from model_doubles import tiny_network

from models.export import INPUTS, OUTPUTS, export_onnx, onnx_parity
from models.weights import save_weights
from protocol.errors import HeadstreamError


@pytest.fixture
def weights(tmp_path):
    save_weights(tiny_network(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.slow
def test_the_file_has_static_shapes_and_pytorchs_numbers(tmp_path, weights):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = export_onnx(tmp_path / "tiny.onnx", 3, 64, weights)
    assert [file.name for file in tmp_path.iterdir() if "onnx" in file.name] == ["tiny.onnx"]
    graph = onnx.load(path).graph
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input}
    assert tuple(shapes) == INPUTS and shapes["images"] == [1, 3, 64, 64, 3] and shapes["tokens"][:3] == [1, 3, 16]
    assert tuple(value.name for value in graph.output) == OUTPUTS
    assert all(size > 0 for shape in shapes.values() for size in shape)
    assert onnx_parity(path, 3, 64, weights) < 0.2


def test_what_cannot_be_exported_is_one_line(tmp_path, weights, monkeypatch):
    with pytest.raises(HeadstreamError, match="multiple of 16"):
        export_onnx(tmp_path / "x.onnx", 3, 65, weights)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(HeadstreamError, match="pip install onnx"):
        export_onnx(tmp_path / "x.onnx", 3, 64, weights)
