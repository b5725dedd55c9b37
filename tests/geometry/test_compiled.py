"""Compiled kernels on disk: taken again while all sources are as they were, and never afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCALE = "TIMES = 3\nOFFSETS = (1, 2)\n"
INNER = """
from geometry.compiled import kernel

@kernel
def twice(x):
    return 2 * x
"""
OUTER = """
from geometry.compiled import kernel
from inner import twice
from scale import OFFSETS, TIMES

@kernel
def of(x):
    return twice(x) * TIMES + OFFSETS[1]
"""
BESIDE = "LIMIT = 1\n"
ASK = "import beside; from outer import of; print(of(10), sum(of.stats.cache_hits.values()))"


def test_code_on_disk_is_taken_again_until_a_source_of_it_changes(tmp_path):
    def ask(**files: str) -> tuple[int, int]:
        """Of a new process, after files were written: the kernel's answer, and how often it found code on disk."""
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        out = subprocess.run(
            [sys.executable, "-B", "-c", ASK], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return tuple(int(word) for word in out.split())

    assert ask(scale=SCALE, inner=INNER, outer=OUTER, beside=BESIDE) == (62, 0)
    assert ask() == (62, 1)
    assert ask(beside="LIMIT = 2\n") == (62, 1)  # imported beside it, and not by it
    assert ask(inner=INNER.replace("2 * x", "5 * x")) == (152, 0)
    assert ask(scale=SCALE.replace("TIMES = 3", "TIMES = 4")) == (202, 0)
    assert ask(scale=SCALE.replace("(1, 2)", "(1, 7)")) == (157, 0)
    assert ask() == (157, 1)


def test_every_kernel_is_made_this_way():
    sources = [path for room in ("geometry", "fusion_server", "models") for path in (ROOT / room).rglob("*.py")]
    kernels = [path for path in sources if "@kernel" in path.read_text()]
    own = [path.name for path in sources if "njit" in path.read_text()]
    assert len(kernels) > 20 and own == ["compiled.py"]
