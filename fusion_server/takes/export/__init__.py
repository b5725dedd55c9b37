"""Takes as files that animators open."""

from __future__ import annotations

from collections.abc import Iterator

from fusion_server.takes.layout import TakeError, TakeMesh
from fusion_server.takes.reader import TakeReader


def timed_meshes(take: TakeReader) -> Iterator[tuple[int, TakeMesh]]:
    """The meshes of a take with their time codes, which grow: whole frames of the rig's rate since the first mesh.

    Where frames were matched by trigger, the trigger says which frame a mesh is, else its time of exposure does. Of two
    meshes on one frame the later counts, and one that goes back in time is left out. Raises TakeError for no meshes.
    """
    by_trigger = take.info.get("sync", "trigger") == "trigger"
    first: TakeMesh | None = None
    held: tuple[int, TakeMesh] | None = None
    for mesh in take.meshes():
        first = first or mesh
        frames = (mesh.capture_ns - first.capture_ns) * 1e-9 * take.fps
        code = mesh.index - first.index if by_trigger else round(frames)
        if held is not None and code > held[0]:
            yield held
        if held is None or code >= held[0]:
            held = (code, mesh)
    if held is None:
        raise TakeError(f"{take.path}: holds no meshes, only {sum(take.frame_counts.values())} pictures")
    yield held
