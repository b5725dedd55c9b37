"""``headstream export``: a take's meshes to files that animators open, or its pictures to a capture folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion_server.takes import TakeReader
from protocol.errors import HeadstreamError


def export_take(
    take: Path, format: str, out: Path | None, progress: Callable[[int, int], None], texture: int = 2048
) -> Path:
    """Write the take as ``usd`` (one file), ``ply`` or ``capture`` (folders); returns what was written.

    ``texture`` is the side of USD's textures in pixels; 0 leaves colours out of either.
    Raises HeadstreamError for an unknown format, a folder that is no take, or a take without meshes (or pictures).
    """
    reader = TakeReader(take)
    if format == "usd":
        from fusion_server.takes.export.usd import export_usd

        path = out or take / f"{take.name}.usdc"
        export_usd(reader, path, progress, texture)
    elif format == "ply":
        from fusion_server.takes.export.ply import export_ply

        path = out or take / "ply"
        export_ply(reader, path, progress, colour=texture > 0)
    elif format == "capture":
        from fusion_server.takes.export.capture import export_capture

        path = out or take / "capture"
        export_capture(reader, path, progress)
    else:
        raise HeadstreamError(f"--format: {format!r}; must be usd, ply or capture")
    return path
