"""Lets these tests import the benchmarks, which are not installed, and the doubles of the models' and the surface's
tests."""

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS / "models"), str(_TESTS / "fusion_server")]
