"""``headstream export``: meshes to files that animators open, or a take's pictures to a capture folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion_server.takes import TakeReader
from fusion_server.takes.export import MeshSequence
from launch.results import ResultFolder
from protocol.errors import HeadstreamError


def export_take(
    take: Path, format: str, out: Path | None, progress: Callable[[int, int], None], texture: int = 2048
) -> Path:
    """Write a take, or what ``reconstruct`` wrote, as ``usd`` (one file) or ``ply`` (a folder), a take also as
    ``capture`` (a folder); returns what was written.

    ``texture`` is the side of USD's textures in pixels; 0 leaves colours out of either.
    Raises HeadstreamError for an unknown format, a folder that is neither, or one without meshes (or pictures).
    """
    if format not in ("usd", "ply", "capture"):
        raise HeadstreamError(f"--format: {format!r}; must be usd, ply or capture")
    name, made_offline = take.resolve().name, ResultFolder.lies_at(take)
    if format == "capture":
        if made_offline:
            raise HeadstreamError(f"{take}: is no take; the capture that it was made of has its pictures")
        from fusion_server.takes.export.capture import export_capture

        path = out or take / "capture"
        export_capture(TakeReader(take), path, progress)
        return path
    meshes: MeshSequence = ResultFolder(take) if made_offline else TakeReader(take)
    if format == "usd":
        from fusion_server.takes.export.usd import export_usd

        path = out or take / f"{name}.usdc"
        export_usd(meshes, path, progress, texture)
    else:
        from fusion_server.takes.export.ply import export_ply

        path = out or take / "ply"
        export_ply(meshes, path, progress, colour=texture > 0)
    return path
