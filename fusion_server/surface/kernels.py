"""The heavy steps of a frame behind one interface, so that they run on a CPU or on a GPU and ``refine`` reads the same.

An ``Observation`` carries the kernels it is for; what a device keeps of an observation, a topology or a shape belongs
to that object and goes with it. Contract tests hold every implementation to the CPU's results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fusion_server.surface.base import View
from fusion_server.surface.contour import ContourRows, contour_rows
from fusion_server.surface.fuse import Fused, fuse_normals
from fusion_server.surface.maps import every_second, stacked
from fusion_server.surface.photometric import Pictures, Positions, photometric_positions, pictures
from fusion_server.surface.rigid_rows import rigid_rows
from fusion_server.surface.silhouette import overlap
from fusion_server.surface.solve import Shape, System, Topology
from geometry.rasterize.base import Raster, Rasterizer
from protocol.errors import HeadstreamError

if TYPE_CHECKING:
    from fusion_server.surface.base import SurfaceSettings
    from fusion_server.surface.observation import Observation
    from fusion_server.surface.warm import Frame, Track, Warm

NAMES = ("cpu", "cuda")


class SurfaceKernels(Protocol):
    """An implementation of a frame's heavy steps. For one thread at a time."""

    name: str

    def maps(self, views: Sequence[View], inside: np.ndarray) -> tuple[Any, Any]:
        """The views' normals and trust where these kernels read them, inside (V, H, W) the masks (``maps.stacked``)."""
        ...

    def every_second(self, maps: Any) -> Any:
        """Such maps with half the pixels each way."""
        ...

    def pictures(self, views: Sequence[View], middle: np.ndarray) -> Pictures:
        """The views' pictures where these kernels read them (``photometric.pictures``)."""
        ...

    def on_host(self, pictures: Pictures) -> Pictures:
        """The same where numpy reads them."""
        ...

    def fuse_normals(self, shape: Shape, raster: Raster, observation: Observation) -> Fused:
        """The observed normals on the faces that are seen (``fuse.fuse_normals``)."""
        ...

    def photometric_positions(
        self,
        shape: Shape,
        topology: Topology,
        raster: Raster,
        observation: Observation,
        pictures: Pictures,
        reach: float,
        step: float,
    ) -> Positions:
        """Where pictures say that vertices belong (``photometric.photometric_positions``)."""
        ...

    def contour_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, gate: float, scale: float
    ) -> ContourRows:
        """Points of the mesh's outline and what the masks say of them (``contour.contour_rows``)."""
        ...

    def rigid_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations of a motion about a centre (3,), world (``rigid_rows.rigid_rows``).  # 6,6; 6"""
        ...

    def overlap(self, raster: Raster, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Pixels a view that rendered and observed masks share, and that either has (``silhouette.overlap``)."""
        ...

    def add_normals(self, system: System, shape: Shape, normals: np.ndarray, weights: np.ndarray) -> None:
        """Rows of wanted normals (F, 3) with weights (F,) (``System.add_normals``)."""
        ...

    def solve(self, system: System, steps: int) -> np.ndarray:
        """Displacements (P,), metres, after conjugate gradients (``System.solve``)."""
        ...

    def warm(self, frame: Frame, track: Track, rasterizer: Rasterizer, settings: SurfaceSettings) -> Warm | None:
        """A whole warm frame at once (``warm.warm``), or None: then it goes step by step, with the steps above."""
        ...


class CpuKernels:
    """numba, on all cores."""

    name = "cpu"

    def maps(self, views: Sequence[View], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``SurfaceKernels``."""
        return stacked(views, inside)

    def every_second(self, maps: np.ndarray) -> np.ndarray:
        """See ``SurfaceKernels``."""
        return every_second(maps)

    def pictures(self, views: Sequence[View], middle: np.ndarray) -> Pictures:
        """See ``SurfaceKernels``."""
        return pictures(views, middle)

    def on_host(self, pictures: Pictures) -> Pictures:
        """See ``SurfaceKernels``."""
        return pictures

    def fuse_normals(self, shape: Shape, raster: Raster, observation: Observation) -> Fused:
        """See ``SurfaceKernels``."""
        o = observation
        return fuse_normals(shape, raster.face, o.rig, o.intrinsics, o.normal, o.trust, o.outlines.distance)

    def photometric_positions(
        self,
        shape: Shape,
        topology: Topology,
        raster: Raster,
        observation: Observation,
        pictures: Pictures,
        reach: float,
        step: float,
    ) -> Positions:
        """See ``SurfaceKernels``."""
        return photometric_positions(shape, topology, pictures, observation.rig, raster.depth, reach, step)

    def contour_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, gate: float, scale: float
    ) -> ContourRows:
        """See ``SurfaceKernels``."""
        o = observation
        return contour_rows(shape, topology, raster.depth, o.rig, o.outlines, gate, scale)

    def rigid_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``SurfaceKernels``."""
        o = observation
        return rigid_rows(
            shape.normals, topology.corners, raster, o.rig, o.in_cameras(center), o.intrinsics, o.normal, o.trust,
            o.outlines.distance,
        )  # fmt: skip

    def overlap(self, raster: Raster, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """See ``SurfaceKernels``."""
        return overlap(raster.face, observation.outlines)

    def add_normals(self, system: System, shape: Shape, normals: np.ndarray, weights: np.ndarray) -> None:
        """See ``SurfaceKernels``."""
        system.add_normals(shape, normals, weights)

    def solve(self, system: System, steps: int) -> np.ndarray:
        """See ``SurfaceKernels``."""
        return system.solve(steps)

    def warm(self, frame: Frame, track: Track, rasterizer: Rasterizer, settings: SurfaceSettings) -> Warm | None:
        """See ``SurfaceKernels``."""
        return None


CPU = CpuKernels()


def make_kernels(name: str, device: str = "cuda") -> SurfaceKernels:
    """The implementation that a rig file names; device: the GPU of one that runs on one ("cuda:1"). Raises
    HeadstreamError when there is none, or it cannot run here."""
    if name == "cpu":
        return CPU
    if name == "cuda":
        from fusion_server.surface.cuda import CudaKernels

        try:
            return CudaKernels(device)
        except HeadstreamError as error:
            raise HeadstreamError(f"surface.kernels: {name!r} cannot run here: {error}; 'cpu' can") from error
    raise HeadstreamError(f"surface.kernels: {name!r}; must be {' or '.join(map(repr, NAMES))}")
