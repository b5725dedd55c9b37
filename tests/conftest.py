"""What tests share: where the real data lies, and a machine that is kind to other processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "2")
settings.register_profile("deterministic", derandomize=True, deadline=None)  # a run that fails fails again
settings.register_profile("searching", deadline=None)  # HYPOTHESIS_PROFILE=searching looks for what no run has seen
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and scans, kept beside the repository and never in it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"{path} is absent: the real photographs and scans are not part of the repository")
    return path
