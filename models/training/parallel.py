"""Several training processes that average their gradients, on one machine.

On a CPU that other work shares, two processes of one thread are faster than one of two threads: they wait for each
other once a step and not after every layer.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn


class Team:
    """This process among its peers; alone unless ``started`` made it one of several."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this is the process that logs, validates and writes."""
        return self.rank == 0

    def average_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its mean over the processes; one that a process does not have is zero there."""
        if self.size == 1:
            return
        parameters = [p for p in network.parameters() if p.requires_grad]
        for parameter in parameters:  # a batch without known depths gives the depth heads none, another's does
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.div_(self.size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_weights(self, network: nn.Module) -> None:
        """Give every process the leading one's weights."""
        if self.size > 1:
            for value in network.state_dict().values():
                dist.broadcast(value, src=0)

    def leads_value(self, value: float) -> float:
        """The leading process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return float(shared)


@contextmanager
def started(count: int, target: Callable[..., None], *arguments: object) -> Iterator[Team]:
    """Start ``count`` - 1 processes that run ``target(team, *arguments)`` and yield this process's team.

    The others end with this one: they are waited for, and where the block raises, ended.
    """
    if count == 1:
        yield Team()
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_other, args=(rank, count, meeting, target, arguments), daemon=True)
            for rank in range(1, count)
        ]
        for other in others:
            other.start()
        finished = False
        try:
            _join(0, count, meeting)
            yield Team(0, count)
            finished = True
        finally:
            if not finished:
                for other in others:
                    other.terminate()
            for other in others:
                other.join()
            dist.destroy_process_group()


def _join(rank: int, count: int, meeting: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the peers are on this machine
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)


def _other(rank: int, count: int, meeting: str, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    _join(rank, count, meeting)
    try:
        target(Team(rank, count), *arguments)
    finally:
        dist.destroy_process_group()
