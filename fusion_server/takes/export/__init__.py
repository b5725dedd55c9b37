"""Takes, and what ``reconstruct`` made of captures, as files that animators open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from fusion_server.takes.layout import TakeError, TakeMesh, Topology
from protocol.calibration import Calibration


class MeshSequence(Protocol):
    """Meshes in time and the pictures that they were made of: a take (``TakeReader``), or what stands for one."""

    path: Path

    @property
    def title(self) -> str:
        """Its name."""
        ...

    @property
    def origin(self) -> str:
        """What it was made of, in words."""
        ...

    @property
    def fps(self) -> float:
        """Frames a second."""
        ...

    @property
    def by_trigger(self) -> bool:
        """Whether a mesh's index counts frames."""
        ...

    @property
    def calibration(self) -> Calibration:
        """The cameras."""
        ...

    @property
    def topologies(self) -> Mapping[int, Topology]:
        """Those of the meshes that were read, at least."""
        ...

    @property
    def mesh_count(self) -> int:
        """Number of meshes."""
        ...

    @property
    def has_pictures(self) -> bool:
        """Whether there are any pictures."""
        ...

    def meshes(self) -> Iterator[TakeMesh]:
        """Meshes in the order in which they were made."""
        ...

    def jpegs_of(self, mesh: TakeMesh) -> Mapping[str, bytes | memoryview]:
        """The pictures of the moment of a mesh, by camera."""
        ...


def timed_meshes(take: MeshSequence) -> Iterator[tuple[int, TakeMesh]]:
    """The meshes of a take with their time codes, which grow: whole frames of the rig's rate since the first mesh.

    Where frames were matched by trigger, the trigger says which frame a mesh is, else its time of exposure does. Of two
    meshes on one frame the later counts, and one that goes back in time is left out. Raises TakeError for no meshes.
    """
    first: TakeMesh | None = None
    held: tuple[int, TakeMesh] | None = None
    for mesh in take.meshes():
        first = first or mesh
        frames = (mesh.capture_ns - first.capture_ns) * 1e-9 * take.fps
        code = mesh.index - first.index if take.by_trigger else round(frames)
        if held is not None and code > held[0]:
            yield held
        if held is None or code >= held[0]:
            held = (code, mesh)
    if held is None:
        raise TakeError(f"{take.path}: holds no meshes{', only pictures' if take.has_pictures else ''}")
    yield held
