"""The pictures that a take's meshes were made of, and which mesh's pictures to colour a whole take with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion_server.colour import Photo, encoded, vertex_colours
from fusion_server.decode import TurboDecoder
from fusion_server.takes.export import MeshSequence
from fusion_server.takes.layout import TakeMesh
from geometry.cameras import undistort, without_distortion
from geometry.rasterize.cpu import CpuRasterizer

_TRUSTED = 0.1  # of confidence: meshes this near to the surest are as good; the stillest of them has sharp pictures


@dataclass(frozen=True, eq=False)
class Pose:
    """A mesh to take colours from."""

    mesh: TakeMesh
    cameras: int  # pictures that it was made of
    moved: float  # metres that its vertices moved since the mesh before, in the mean; infinite for the first


class Pictures:
    """Decodes what a take's cameras saw at the moment of a mesh."""

    def __init__(self, take: MeshSequence):
        self._take = take
        self._decoder = TurboDecoder()
        self._rasterizer = CpuRasterizer()

    def of(self, mesh: TakeMesh) -> list[Photo]:
        """Undistorted pictures of the moment of a mesh; none where the take holds none of it."""
        images, _ = self._decoder.decode(self._take.jpegs_of(mesh), self._take.calibration)
        cameras = {name: self._take.calibration[name] for name in images}
        return [Photo(without_distortion(cameras[name]), undistort(cameras[name], images[name])) for name in images]

    def vertex_colours(self, mesh: TakeMesh) -> np.ndarray | None:
        """Linear light of each vertex from the pictures of its moment, None where there are none.  # P,3"""
        photos = self.of(mesh)
        if not photos:
            return None
        faces = self._take.topologies[mesh.topology].faces
        return vertex_colours(mesh.vertices.astype(np.float64), faces, photos, self._rasterizer)


def sharpest(take: MeshSequence) -> dict[int, TakeMesh]:
    """For each topology the mesh to colour it by: seen by most cameras, sure, and hardly moving."""
    poses: dict[int, list[Pose]] = {}
    before: TakeMesh | None = None
    total = len(take.calibration.cameras)
    for mesh in take.meshes():
        same = before is not None and before.topology == mesh.topology
        moved = float(np.linalg.norm(mesh.vertices - before.vertices, axis=1).mean()) if before and same else np.inf
        poses.setdefault(mesh.topology, []).append(Pose(mesh, total - len(mesh.missing), moved))
        before = mesh
    chosen = {}
    for topology, found in poses.items():
        most = max(pose.cameras for pose in found)
        whole = [pose for pose in found if pose.cameras == most]
        surest = max(_confidence(pose.mesh) for pose in whole)
        sure = [pose for pose in whole if _confidence(pose.mesh) >= surest - _TRUSTED]
        chosen[topology] = min(sure, key=lambda pose: pose.moved).mesh
    return chosen


def as_srgb(colours: np.ndarray | None) -> np.ndarray | None:
    """Colours for a file that holds bytes."""
    return None if colours is None else encoded(colours)


def _confidence(mesh: TakeMesh) -> float:
    return float(mesh.quality.get("confidence", 0.0))
