"""A GPU on paper: streams and events that compute nothing and write down who waits for whom.

Work is done on the CPU at once; what is noted of it is which earlier work is certain to be over by then: that of its
own stream, that behind events the stream was told to wait for, and that which the host had waited for when it asked.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict

import torch

from geometry.device import lane as module
from geometry.device.lane import Lane

HOST = "host"


class PaperGpu:
    """``before[work]``: what is certain to be over when it begins; ``streams[work]``: where it runs."""

    def __init__(self, monkeypatch) -> None:
        self.before: dict[str, frozenset[str]] = {}
        self.streams: dict[str, str] = {}
        self._over: dict[str, set[str]] = defaultdict(set)
        self._current = [HOST]
        self._made = 0
        gpu = self

        class Stream:
            def __init__(self) -> None:
                gpu._made += 1
                self.name = f"stream {gpu._made}"

            def wait_event(self, event) -> None:
                gpu._over[self.name] |= event.behind

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing

            def record(self, stream) -> None:
                self.behind = frozenset(gpu._over[stream.name])

            def synchronize(self) -> None:
                gpu._over[HOST] |= self.behind

            def elapsed_time(self, later) -> float:
                assert self.behind <= later.behind
                return 1.0  # millisecond

        @contextlib.contextmanager
        def entered(stream):
            self._current.append(stream.name)
            try:
                yield
            finally:
                self._current.pop()

        def made(lane, device, stream=None) -> None:
            lane.device, lane.on_gpu, lane.stream = device, True, stream or Stream()

        def forbidden(*_):
            raise AssertionError("a whole device was waited for")

        empty, copy = torch.empty, torch.Tensor.copy_
        monkeypatch.setattr(Lane, "__init__", made)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", entered)
        monkeypatch.setattr(torch.cuda, "synchronize", forbidden)
        monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        monkeypatch.setattr(torch.Tensor, "copy_", lambda to, what, **k: (self.work("copy"), copy(to, what, **k))[1])
        module._between.cache_clear()

    def work(self, what: str) -> str:
        """Note work that is put into the current stream; a name of its own for it."""
        stream = self._current[-1]
        assert stream != HOST, f"{what} on the default stream"
        name = f"{what} {sum(each.rpartition(' ')[0] == what for each in self.before)}"
        self._over[stream] |= self._over[HOST]
        self.before[name], self.streams[name] = frozenset(self._over[stream]), stream
        self._over[stream].add(name)
        return name

    @property
    def host_knows(self) -> frozenset[str]:
        """What the host has waited for."""
        return frozenset(self._over[HOST])
