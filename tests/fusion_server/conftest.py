"""What the tests of this room share: ``surface_scene`` to import, and the devices that CUDA kernels run on."""

import sys
from pathlib import Path

import pytest
import torch

from fusion_server.surface.cuda import CudaKernels
from geometry.device.build import compiler
from geometry.rasterize.cuda import CudaRasterizer

sys.path.insert(0, str(Path(__file__).parent))

DEVICES = {"emulated": "cpu", "cuda": "cuda"}


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    """The name of a device to run CUDA kernels on; ``emulated`` runs their bodies on the CPU."""
    if request.param == "emulated" and compiler(cuda=False) is None:
        pytest.skip("no C++ compiler for the emulation")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return DEVICES[request.param]


@pytest.fixture(scope="module")
def kernels(device):
    """The surface's kernels there."""
    return CudaKernels(device)


@pytest.fixture(scope="module")
def rasterizer(device):
    """The rasteriser that goes with them."""
    return CudaRasterizer(device)


@pytest.fixture
def on_their_stream(kernels):
    """As a tracker's frames are: a graph is never captured on the default stream."""
    with kernels.stream():
        yield
