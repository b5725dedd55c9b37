"""Freed memory stays with the process, up to a limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMES = """
import resource, sys
import numpy as np
from fusion_server.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def frame():
    maps = [np.ones(size, np.uint8) for size in [9 << 20] * 10]  # bytes
    return sum(int(m[0]) for m in maps)
for _ in range(3):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(10):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FRAMES, how], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_ten_frames_alike_ask_the_system_for_nothing_more():
    assert faults("kept") < 100 < faults("given back")
