"""Work spread over processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from protocol.errors import HeadstreamError

Job = TypeVar("Job")
Made = TypeVar("Made")


def spread(
    work: Callable[[Job], Made], jobs: Iterable[Job], workers: int, ready: Callable[..., Any] | None = None, *given: Any
) -> Iterator[Made]:
    """What ``work`` makes of every job, as each is done; ``ready(*given)`` is called once in every process.

    What a job raises is raised. Raises HeadstreamError when a process was killed: ``multiprocessing.Pool`` would start
    another one and wait for ever for what the first one had in hand.
    """
    with ProcessPoolExecutor(workers, get_context("spawn"), ready, given) as pool:
        waiting: list[Future[Made]] = []
        try:
            waiting += (pool.submit(work, job) for job in jobs)
            for done in as_completed(waiting):
                yield done.result()
        except BrokenProcessPool:
            raise HeadstreamError(
                "a process that renders was killed (memory enough?); the same command goes on from what is done"
            ) from None
        finally:
            for future in waiting:
                future.cancel()
