"""What happens on a GPU in which order, told by doubles of torch.cuda, pycuda and TensorRT that compute on the CPU.

They show that the code fits together and waits where it must. They do not show that it runs on a GPU: nothing does yet.
"""

from __future__ import annotations

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_doubles import ball, ring, tiny_network

from models.engines.static import StaticNetwork
from models.engines.tensorrt import _LoadedPlan, _PinnedNetwork
from models.export import INPUTS, OUTPUTS, Inference, example_inputs
from models.rays import pinhole_inputs, stack_cameras
from protocol.errors import HeadstreamError

VIEWS, SIZE = 2, 64
SHAPES = {"normal": (1, VIEWS, SIZE, SIZE, 3), "confidence": (1, VIEWS, SIZE, SIZE), "mask": (1, VIEWS, SIZE, SIZE)}


class Cuda:
    """A double of ``torch.cuda`` that writes down what it is asked for; a graph repeats ``step``."""

    def __init__(self, step) -> None:
        self.told: list[str] = []
        self.now: list[str] = ["caller"]
        self.events = 0
        self.step = step

    def stream_named(self, name: str):
        tell = self.told.append
        return SimpleNamespace(
            name=name,
            cuda_stream=7,
            wait_stream=lambda other: tell(f"{name} waits for {other.name}"),
            synchronize=lambda: tell(f"host waits for {name}"),
        )

    def new_event(self, enable_timing: bool):
        number, tell = self.events, self.told.append
        self.events += 1
        return SimpleNamespace(
            record=lambda stream: tell(f"event {number} on {stream.name}"),
            synchronize=lambda: tell(f"host waits for event {number}"),
            elapsed_time=lambda other: 1.0,
        )

    @contextlib.contextmanager
    def within(self, stream):
        self.now.append(stream.name)
        yield
        self.now.pop()

    @contextlib.contextmanager
    def capture(self, graph, stream, capture_error_mode):
        assert self.now[-1] == stream.name == "own" and capture_error_mode == "thread_local"
        self.told.append("capture")
        yield
        self.told.append("captured")

    def replay(self) -> None:
        assert self.now[-1] == "own"
        self.told.append("replay")
        self.step()

    def install(self, monkeypatch) -> None:
        for name, value in {
            "Stream": lambda device: self.stream_named("own"),
            "ExternalStream": lambda handle, device: self.stream_named("own"),
            "Event": self.new_event,
            "stream": self.within,
            "current_stream": lambda device=None: self.stream_named(self.now[-1]),
            "CUDAGraph": lambda: SimpleNamespace(replay=self.replay),
            "graph": self.capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(StaticNetwork, "on_gpu", True)
        monkeypatch.setattr(StaticNetwork, "_fresh", lambda _, tensor: torch.empty(tensor.shape))


@pytest.fixture
def moment():
    cameras = ring(VIEWS, SIZE)
    images = ball(cameras, 0.2, np.random.default_rng(0))[0]
    return images, pinhole_inputs(*stack_cameras(cameras), SIZE, SIZE)


@pytest.fixture
def expected(moment):
    with torch.inference_mode():
        plain = StaticNetwork(Inference(tiny_network()), example_inputs(VIEWS, SIZE))
        plain.run(*moment)
        return plain.fetch()


def into(outputs, network, inputs) -> list[torch.Tensor]:
    """Compute into fixed outputs, as a captured graph does."""
    for there, value in zip(outputs, network(*inputs), strict=True):
        there.copy_(value)
    return outputs


@pytest.mark.parametrize("graph", [True, False])
def test_a_set_is_enqueued_on_the_engines_stream_and_the_callers_work_is_ordered_around_it(
    graph, moment, expected, monkeypatch
):
    network, inputs = Inference(tiny_network()), example_inputs(VIEWS, SIZE)
    outputs = [torch.zeros(SHAPES[name]) for name in OUTPUTS]
    cuda = Cuda(lambda: into(outputs, network, inputs))
    cuda.install(monkeypatch)
    monkeypatch.setattr(StaticNetwork, "_pinned", lambda _, tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
    with torch.inference_mode():
        fixed = StaticNetwork(lambda *given: into(outputs, network, given), inputs, graph)
        assert fixed.captured == graph == ("capture" in cuda.told)
        assert cuda.told[-1] == "host waits for own" and fixed.milliseconds() == {}
        cuda.told.clear()
        fixed.run(*moment)
        assert cuda.told == [
            "host waits for event 1",  # the upload before: its buffers are filled next
            "own waits for caller",  # who may still read the maps that are overwritten next
            "event 0 on own",
            "event 1 on own",
            *(["replay"] if graph else []),
            "event 2 on own",
            "caller waits for own",
        ]
        cuda.told.clear()
        for one, other in zip(fixed.fetch(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert cuda.told == ["event 3 on own", "host waits for event 3"]
    assert set(fixed.milliseconds()) == {"upload", "network", "download"}


class Driver:
    """A double of ``pycuda.driver``: host memory for all memory, and a stack of contexts."""

    def __init__(self) -> None:
        self.depth = 0
        self.copied = 0
        self.primary = SimpleNamespace(push=lambda: self._move(1), pop=lambda: self._move(-1))

    def _move(self, by: int) -> None:
        self.depth += by

    def Stream(self, flags):
        assert self.depth == 1 and flags == 1
        return SimpleNamespace(handle=7)

    def pagelocked_empty(self, shape, dtype):
        assert self.depth == 1
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, to: int, array: np.ndarray, stream) -> None:
        assert self.depth == 1 and stream.handle == 7
        self.copied += 1
        ctypes.memmove(to, array.ctypes.data, array.nbytes)


class TensorRt:
    """A double of TensorRT-RTX's runtime whose plan is the tiny network on the addresses that it is given."""

    __name__ = "tensorrt_rtx"

    class ILogger:
        ERROR, INFO = 1, 3

        def __init__(self) -> None: ...

    def __init__(self, works: bool = True) -> None:
        self.works, self.network, self.addresses = works, Inference(tiny_network()), {}
        self.known: bytes | None = None
        inputs = example_inputs(VIEWS, SIZE)
        self.kinds = {name: (tuple(tensor.shape), tensor.numpy().dtype) for name, tensor in zip(INPUTS, inputs)}  # noqa: B905
        self.kinds |= {name: (shape, np.dtype(np.float32)) for name, shape in SHAPES.items()}

    def Runtime(self, logger):
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self)

    def create_runtime_config(self):
        cache = SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda data: setattr(self, "known", data))
        return SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=lambda given: given is cache)

    def create_execution_context(self, config):
        return self

    def get_tensor_shape(self, name):
        return SHAPES[name]

    def set_tensor_address(self, name, address) -> None:
        self.addresses[name] = address

    def at(self, name) -> torch.Tensor:
        shape, kind = self.kinds[name]
        count = int(np.prod(shape)) * kind.itemsize
        raw = (ctypes.c_uint8 * count).from_address(self.addresses[name])
        return torch.from_numpy(np.frombuffer(raw, kind).reshape(shape))

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        if self.works:
            into([self.at(name) for name in OUTPUTS], self.network, [self.at(name) for name in INPUTS])
        return self.works


def test_a_plan_reads_and_writes_the_addresses_of_torchs_tensors(moment, expected, tmp_path, monkeypatch):
    path = tmp_path / "x.plan"
    path.write_bytes(b"plan")
    library, driver, inputs = TensorRt(), Driver(), example_inputs(VIEWS, SIZE)
    with torch.inference_mode():
        plan = _LoadedPlan(library, path, inputs)
        cuda = Cuda(lambda: library.execute_async_v3(7))
        cuda.install(monkeypatch)
        network = _PinnedNetwork(driver, driver.primary, plan, inputs, graph=True)
        for wanted in (5, 6):  # pictures and four arrays of the cameras; then pictures alone
            network.run(*moment)
            assert driver.copied == wanted and driver.depth == 0
            for one, other in zip(network.fetch(), expected, strict=True):
                np.testing.assert_array_equal(one, other)
        assert library.known is None
        plan.keep_compiled()
        assert (tmp_path / "x.kernels").read_bytes() == b"kernels"
        _LoadedPlan(library, path, inputs)
        assert library.known == b"kernels"


def test_a_plan_that_does_not_start_is_an_error_and_the_context_is_left(tmp_path, monkeypatch):
    path = tmp_path / "x.plan"
    path.write_bytes(b"plan")
    library, driver, inputs = TensorRt(works=False), Driver(), example_inputs(VIEWS, SIZE)
    Cuda(lambda: None).install(monkeypatch)
    with torch.inference_mode():
        plan = _LoadedPlan(library, path, inputs)
        with pytest.raises(RuntimeError, match="could not enqueue the network"):
            _PinnedNetwork(driver, driver.primary, plan, inputs, graph=False)
    assert driver.depth == 0
    library.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: None)
    with pytest.raises(HeadstreamError, match="remove the file"):
        _LoadedPlan(library, path, inputs)
