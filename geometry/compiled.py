"""The decorator of every kernel that numba compiles.

numba keeps compiled code on disk and takes it again as long as the function's own file is unchanged. What a kernel
calls or reads from another file is compiled into it, and numba does not look there: after an update in place old code
would go on running. Here the stamp of a kernel's code covers all sources that went into it.

Numbers that index something go into a kernel unsigned: of one that may be negative numba asks at each use whether it
counts from the end. A sparse product takes half of the time without.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba.core import caching
from numba.core.dispatcher import Dispatcher


def kernel(function: Callable | None = None, **options: Any) -> Any:
    """``numba.njit``, kept on disk and without Python's lock; options: numba's own, as ``parallel=True``."""
    if function is None:
        return partial(kernel, **options)
    return numba.njit(cache=True, nogil=True, **options)(function)


def stamp(function: FunctionType) -> bytes:
    """A digest of a function's file, of every file whose kernels it calls from there on, and of the numbers that the
    files have from elsewhere."""
    digest, seen, left = hashlib.sha256(), set[str](), [function]
    while left:
        one = left.pop()
        file = inspect.getfile(one)
        if file in seen:
            continue
        seen.add(file)
        digest.update(Path(file).read_bytes())
        for name, value in sorted(one.__globals__.items()):
            if isinstance(value, Dispatcher):
                left.append(value.py_func)
            elif isinstance(value, np.ndarray):
                digest.update(name.encode() + value.tobytes())
            elif isinstance(value, int | float) or (
                isinstance(value, tuple) and all(isinstance(each, int | float) for each in value)
            ):
                digest.update(f"{name}={value!r}".encode())
    return digest.digest()


class _Stamped:
    """A place of numba's for compiled code, with a stamp that covers all sources."""

    def __init__(self, function: FunctionType, file: str):
        super().__init__(function, file)  # type: ignore[call-arg]
        self._function = function

    def get_source_stamp(self) -> bytes:
        return stamp(self._function)


class Chosen(_Stamped, caching.UserProvidedCacheLocator):
    """Where NUMBA_CACHE_DIR says."""


class Beside(_Stamped, caching.InTreeCacheLocator):
    """Beside the source."""


class OfUser(_Stamped, caching.UserWideCacheLocator):
    """In the user's cache, where sources cannot be written to."""


_PLACES = (*(f"{__name__}.{place.__name__}" for place in (Chosen, Beside, OfUser)), "IPythonCacheLocator")
numba.config.CACHE_LOCATOR_CLASSES = ",".join(_PLACES)  # type: ignore[attr-defined]  # made from the environment
