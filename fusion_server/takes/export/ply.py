"""A take as one PLY file a mesh, its vertices coloured by the pictures of its moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion_server.takes.export import MeshSequence, timed_meshes
from fusion_server.takes.export.colours import Pictures, as_srgb
from fusion_server.takes.layout import TakeError
from geometry.mesh import Mesh, write_ply


def export_ply(
    take: MeshSequence,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    colour: bool = True,
) -> int:
    """Write ``<folder>/<frame>.ply``, world metres, frames counted from the first mesh; returns how many.

    Vertex order is the same in every file of one topology. Where the take has the pictures of a mesh and ``colour`` is
    wanted, vertices have colours. Texture coordinates are left out: many readers give up colours and the order of
    vertices for them. ``progress`` gets meshes done and in all. Raises TakeError for a take without meshes, and where
    nothing can be written.
    """
    written = 0
    pictures = Pictures(take) if colour else None
    try:
        for code, mesh in timed_meshes(take):
            colours = as_srgb(pictures.vertex_colours(mesh)) if pictures else None
            write_ply(folder / f"{code:06d}.ply", Mesh(mesh.vertices, take.topologies[mesh.topology].faces), colours)
            written += 1
            progress(written, take.mesh_count)
    except OSError as error:
        raise TakeError(f"{folder}: cannot be written ({error.strerror})") from None
    return written
