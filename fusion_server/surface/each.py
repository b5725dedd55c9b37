"""Every view's work side by side: OpenCV and numba leave Python to others while they compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(make: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What ``make`` makes of every item, in order, on all cores. What one of them raises is raised."""
    return list(_pool().map(make, items))


def begun(make: Callable[[Item], Made], items: Iterable[Item]) -> Callable[[], list[Made]]:
    """The same, on its way while others use what the cores have left: to be called for the results."""
    made = _pool().map(make, items)
    return lambda: list(made)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="views")
