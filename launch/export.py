"""``headstream export``: a take's meshes to files that animators open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion_server.takes import TakeReader
from protocol.errors import HeadstreamError


def export_take(take: Path, format: str, out: Path | None, progress: Callable[[int, int], None]) -> Path:
    """Write the take as ``usd`` (one file) or ``ply`` (a folder); returns what was written.

    Raises HeadstreamError for an unknown format, a folder that is no take, or a take without meshes.
    """
    reader = TakeReader(take)
    if format == "usd":
        from fusion_server.takes.export.usd import export_usd

        path = out or take / f"{take.name}.usdc"
        export_usd(reader, path, progress=progress)
    elif format == "ply":
        from fusion_server.takes.export.ply import export_ply

        path = out or take / "ply"
        export_ply(reader, path, progress=progress)
    else:
        raise HeadstreamError(f"--format: {format!r}; must be usd or ply")
    return path
