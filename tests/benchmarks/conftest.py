"""Lets these tests import the benchmarks, which are not installed, and the doubles of the models' tests."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "models")]
