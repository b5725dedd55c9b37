"""What the cameras know of one frame, stacked for the kernels, and a surface as they would see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numba
import numpy as np

from fusion_server.surface.base import Rig, SurfaceError, View
from fusion_server.surface.fuse import Fused
from fusion_server.surface.kernels import CPU, SurfaceKernels
from fusion_server.surface.photometric import Pictures, spare_halvings
from fusion_server.surface.silhouette import Silhouettes, silhouettes
from fusion_server.surface.solve import Shape, Topology
from geometry.compiled import kernel
from geometry.rasterize.base import Raster, Rasterizer
from protocol.calibration import Camera


@dataclass(frozen=True, eq=False)
class Observation:
    """All views of one frame, stacked for the kernels."""

    cameras: tuple[Camera, ...]
    rig: Rig
    intrinsics: np.ndarray  # V,4 fx fy cx cy
    normal: Any  # V,H,W,3 float32, an array or where the kernels want it
    trust: Any  # V,H,W float32, mean 1 over the masks, the same
    outlines: Silhouettes
    pictures: Pictures | None
    middle: np.ndarray  # 3, roughly where the subject is
    scale: float = 1.0  # of the maps' sides, to those of the views
    kernels: SurfaceKernels = CPU

    def in_cameras(self, point: np.ndarray) -> np.ndarray:
        """A world point (3,) in the cameras' frames.  # V,3"""
        return np.stack([camera.R @ point + camera.t for camera in self.cameras])

    @property
    def spare_halvings(self) -> int:
        """How much finer the pictures are than is usual beside maps of this size; see ``photometric``."""
        if self.pictures is None:
            return 0
        return spare_halvings(self.pictures.grey.shape[1:], self.outlines.inside.shape[1:])

    def coarser(self) -> Observation:
        """Every second pixel of the maps, for decisions and rigid motion; without pictures."""
        o = self.outlines
        outlines = Silhouettes(
            np.ascontiguousarray(o.inside[:, ::2, ::2]), o.distance[:, ::2, ::2] / 2, o.known // 2, o.blind
        )
        cameras = tuple(_halved(camera) for camera in self.cameras)
        return Observation(
            cameras,
            Rig.of(cameras),
            self.intrinsics / 2,
            self.kernels.every_second(self.normal),
            self.kernels.every_second(self.trust),
            outlines,
            None,
            self.middle,
            self.scale / 2,
            self.kernels,
        )


@dataclass(frozen=True, eq=False)
class Look:
    """A surface as the cameras of an observation would see it."""

    shape: Shape
    raster: Raster
    observation: Observation

    @cached_property
    def fused(self) -> Fused:
        """The observed normals on the faces that are seen."""
        return self.observation.kernels.fuse_normals(self.shape, self.raster, self.observation)

    def shows(self, vertices: np.ndarray, cameras: Sequence[Camera]) -> bool:
        """Whether these very vertices were seen, by cameras that see alike."""
        mine = self.observation.cameras
        return (
            self.shape.vertices is vertices
            and len(mine) == len(cameras)
            and all(_alike(a, b) for a, b in zip(mine, cameras, strict=True))
        )


def observe(views: Sequence[View], photometric: bool, kernels: SurfaceKernels = CPU) -> Observation:
    """Stack the views and clean their masks; kernels: what is to work on them.

    Raises SurfaceError when there are no views, their maps differ in size, or every mask is empty.
    """
    if not views:
        raise SurfaceError("no views: a surface needs at least two")
    shapes = {view.mask.shape for view in views} | {view.shape for view in views}
    if len(shapes) != 1:
        raise SurfaceError(f"the views' maps differ in size ({', '.join(f'{h}x{w}' for h, w in sorted(shapes))})")
    outlines = silhouettes(views)
    if outlines.blind.all():
        raise SurfaceError("no subject in any view: every mask is empty")
    cameras = tuple(view.camera for view in views)
    rig = Rig.of(cameras)
    middle = _middle(cameras, outlines)
    K = np.stack([camera.K for camera in cameras])
    return Observation(
        cameras,
        rig,
        np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1),
        *kernels.maps(views, outlines.inside),
        outlines,
        kernels.pictures(views, middle) if photometric else None,
        middle,
        kernels=kernels,
    )


def look(
    vertices: np.ndarray,
    topology: Topology,
    observation: Observation,
    rasterizer: Rasterizer,
    before: Look | None = None,
) -> Look:
    """Rasterise a surface (P, 3) into the views of an observation; before: a look at the same topology, which is taken
    again if it shows the same."""
    if before is not None and before.shows(vertices, observation.cameras):
        return Look(before.shape, before.raster, observation)
    shape = Shape.of(vertices, topology)
    return Look(shape, rasterizer.rasterize(shape.vertices, topology.faces, observation.cameras), observation)


def _alike(a: Camera, b: Camera) -> bool:
    same = (a.width, a.height) == (b.width, b.height)
    return same and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("K", "R", "t"))


def _halved(camera: Camera) -> Camera:
    K = camera.K.copy()
    K[:2] /= 2  # pixel centres are at integers, so every second one is the first one's coordinate halved
    return replace(camera, K=K, width=-(-camera.width // 2), height=-(-camera.height // 2))


def _middle(cameras: Sequence[Camera], outlines: Silhouettes) -> np.ndarray:
    """Roughly where the subject is: the point nearest to the rays through the middles of the masks.  # 3"""
    system, right = np.zeros((3, 3)), np.zeros(3)
    centroid = np.ones((len(cameras), 3))
    _centroids(outlines.inside, centroid)
    for n in np.flatnonzero(~outlines.blind):
        camera = cameras[n]
        ray = camera.R.T @ np.linalg.solve(camera.K, centroid[n])
        ray /= np.linalg.norm(ray)
        away = np.eye(3) - np.outer(ray, ray)
        system += away
        right += away @ camera.center
    return np.linalg.lstsq(system, right, rcond=None)[0]


@kernel(parallel=True)
def _centroids(inside, out):
    """Column and row of each mask's middle; left as they are where a mask is empty."""
    for v in numba.prange(inside.shape[0]):
        count, columns, rows = 0, 0, 0
        for y in range(inside.shape[1]):
            width = 0
            for x in range(inside.shape[2]):
                if inside[v, y, x]:
                    width += 1
                    columns += x
            count += width
            rows += width * y
        if count:
            out[v, 0], out[v, 1] = columns / count, rows / count
