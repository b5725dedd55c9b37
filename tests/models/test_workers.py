"""Work in other processes: all of it comes back, and a process that is killed ends it with one line."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest

from models.workers import spread
from protocol.errors import HeadstreamError


def test_every_job_comes_back_from_processes_that_were_made_ready(tmp_path):
    names = [f"{n}" for n in range(7)]
    made = list(spread(os.path.abspath, names, 2, os.chdir, tmp_path))
    assert sorted(made) == [str(tmp_path / name) for name in names]


def test_a_killed_process_ends_it_with_one_line():
    """As the kernel kills one when memory runs out."""
    start = time.monotonic()
    with pytest.raises(HeadstreamError, match=r"^a process that renders was killed .*goes on from what is done$"):
        list(spread(signal.raise_signal, [signal.SIGKILL] * 40, 2))
    assert time.monotonic() - start < 60


def test_what_a_job_raises_is_raised():
    with pytest.raises(ValueError, match=r"domain|nonnegative"):
        list(spread(math.sqrt, [1.0, -1.0, 2.0], 2))
