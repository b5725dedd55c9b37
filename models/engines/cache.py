"""Where engines keep what they built, by everything that it depends on: a stale file is never read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

import models
from models.weights import weights_digest


def kept_path(library: str, version: str, weights: Path, code: Sequence[str], *details: str) -> Path:
    """The path, without an ending, of what ``library`` builds from these weights.

    code: files below ``models/`` that make the result what it is. details: shape, precision, device.
    """
    root = Path(models.__file__).parent
    digest = hashlib.sha256(b"".join((root / name).read_bytes() for name in code)).hexdigest()[:8]
    name = "-".join((library, version, weights_digest(weights), digest, *details))
    return user_cache_path("headstream") / "engines" / name
