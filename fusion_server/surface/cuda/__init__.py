"""The heavy steps of a frame as CUDA kernels, each the twin of a numba one and compiled on first use.

Each step takes arrays and gives arrays, as its twin does. What belongs to a frame (maps, pictures) and to a topology is
copied to the device once, or used where it lies (``handed``), as a raster of the CUDA rasteriser is. Sums are formed in
an order of their own, or as integers, so that a frame gives the same mesh each time; they differ from the CPU's by
rounding.
Contract tests run the kernels' bodies in an emulation on the CPU; **they have not been executed on a GPU yet**.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from fusion_server.surface import contour, fuse, photometric, rigid_rows
from fusion_server.surface.base import View
from fusion_server.surface.contour import ContourRows
from fusion_server.surface.cuda.handed import every_second as halved
from fusion_server.surface.cuda.handed import handed_on, resident_pictures, trusted
from fusion_server.surface.fuse import Fused
from fusion_server.surface.maps import every_second, stacked
from fusion_server.surface.photometric import Pictures, Positions
from fusion_server.surface.solve import Shape, System, Topology
from geometry.device import Lane, Library, Resident, compute_device
from geometry.rasterize.base import Raster
from geometry.rasterize.cuda import DeviceRaster

if TYPE_CHECKING:
    from fusion_server.surface.observation import Observation

T = TypeVar("T")
_HERE = Path(__file__).parent
_THREADS = 256  # of a block, as in kernel.h
_SUMS = 14  # a face and height keeps, as in photometric.cu: 4 sums, 4 of squares, 6 of products
_RIGID_SUMS, _CHUNKS = 27, 2048  # as in pixels.cu


def _on_stream(step: Callable[..., T]) -> Callable[..., T]:
    """Runs a method on the kernels' own stream."""

    @wraps(step)
    def run(self: CudaKernels, *arguments: Any, **named: Any) -> T:
        with self._fuse.stream():
            return step(self, *arguments, **named)

    return run


class CudaKernels:
    """See ``kernels.SurfaceKernels``."""

    def __init__(self, device: str = "cuda"):
        """device: "cuda", "cuda:1", or "cpu" for the emulation. Raises HeadstreamError where it is not to be had."""
        self._named = device
        place = compute_device(device)
        self._fuse, self._pictures, self._contour, self._pixels, self._solve = self._libraries = tuple(
            Library(_HERE / f"{name}.cu", place) for name in ("fuse", "photometric", "contour", "pixels", "solve")
        )
        self._lane = Lane(place, self._fuse.own_stream)
        self._maps, self._topologies, self._shapes, self._grey = Resident(), Resident(), Resident(), Resident()
        self.name = "cuda emulated on the CPU" if self._fuse.emulated else str(place)

    def __reduce__(self) -> tuple[type[CudaKernels], tuple[str]]:
        return CudaKernels, (self._named,)  # a checkpoint holds no loaded library

    @_on_stream
    def maps(self, views: Sequence[View], inside: np.ndarray) -> tuple[Any, Any]:
        """See ``maps.stacked``: tensors, where the views' are on a device; else arrays, to be copied once."""
        there = handed_on(views, self._lane)
        if there is None:
            return stacked(views, inside)
        return there["normal"], trusted(there["confidence"], self._fuse.up(inside))

    @_on_stream
    def every_second(self, maps: Any) -> Any:
        """See ``maps.every_second``."""
        return every_second(maps) if isinstance(maps, np.ndarray) else halved(maps)

    @_on_stream
    def pictures(self, views: Sequence[View], middle: np.ndarray) -> Pictures:
        """See ``photometric.pictures``: a tensor, where the views' are on a device."""
        there = handed_on(views, self._lane)
        if there is None:
            return photometric.pictures(views, middle)
        return resident_pictures(there["fine"], views, middle, self._lane)

    @_on_stream
    def fuse_normals(self, shape: Shape, raster: Raster, observation: Observation) -> Fused:
        """See ``fuse.fuse_normals``."""
        lib, o = self._fuse, observation
        _, _, own, areas = self._shape(shape)
        maps = self._of(o)
        count = len(shape.areas)
        votes = lib.zeros((count, 4), torch.int64)
        fused = lib.empty((count, 3), torch.float64)
        weight, agreement = lib.empty((count,), torch.float64), lib.empty((count,), torch.float64)
        lib(
            "fuse_normals", self._seen(raster, 0), maps["rotation"], maps["intrinsics"], maps["normal"], maps["trust"],
            maps["distance"], own, areas, *o.outlines.distance.shape, count,
            float(shape.areas.mean()) if count else 1.0, fuse.ERODED, fuse.GRAZING, votes, fused, weight, agreement,
        )  # fmt: skip
        return Fused(fused.cpu().numpy(), weight.cpu().numpy(), agreement.cpu().numpy())

    @_on_stream
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
        """See ``photometric.photometric_positions``."""
        lib, ph = self._pictures, photometric
        search = ph.search_of(shape, pictures, reach, step)
        vertices, normals, own, _ = self._shape(shape)
        faces, _, start, neighbour, _, around, _ = self._topology(topology)
        depth = self._seen(raster, 2)
        grey, matrix, center = self._grey.of(
            pictures,
            lambda: tuple(
                self._there(a, kind)
                for a, kind in (
                    (pictures.grey, np.float32), (pictures.rig.matrix, np.float64), (pictures.rig.center, np.float64)
                )
            ),
        )  # fmt: skip
        count, heights = len(shape.vertices), len(search.heights)
        views, rows, columns = pictures.grey.shape
        samples, sample_count = lib.up(search.places, np.float64), len(search.places)
        slot_view = lib.empty((len(faces), 4), torch.int8)
        places = lib.empty((len(faces), 4, 12), torch.float64)
        lib(
            "choose_views", vertices, normals, faces, own, matrix, center,
            self._of(observation)["matrix"], depth, len(faces), views, rows, columns, *depth.shape[1:],
            float(search.heights[-1]), search.slack, ph.FACING, slot_view, places,
        )  # fmt: skip
        sums = lib.empty((len(faces), _SUMS, heights), torch.float32)
        lib(
            "sample", grey, slot_view, places, samples, len(faces), sample_count, heights, rows, columns,
            float(ph.GREY), sums,
        )  # fmt: skip
        best = lib.empty((count, 3), torch.int8)
        flatness = lib.empty((count, heights), torch.float32)
        curves, other = (lib.empty((count, heights), torch.float32) for _ in range(2))
        contrast, weight = (lib.empty((count,), torch.float32) for _ in range(2))
        lib(
            "correlate", vertices, normals, center, slot_view, sums, *around, count, views, heights, sample_count,
            ph.FACING, ph.FLAT, best, flatness, curves, contrast,
        )  # fmt: skip
        for _ in range(ph.ROUNDS):
            lib("average", curves, contrast, start, neighbour, count, heights, other, weight)
            curves, other, contrast, weight = other, curves, weight, contrast
        want, variance = (lib.empty((count,), torch.float64) for _ in range(2))
        lib(
            "peaks", curves, contrast, count, heights, search.step, search.apart, ph.HEIGHT, ph.ABOVE, ph.SHARPNESS,
            want, variance,
        )  # fmt: skip
        points = shape.vertices + want.cpu().numpy()[:, None] * shape.normals
        return Positions(points, variance.cpu().numpy(), search.scale)

    @_on_stream
    def contour_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, gate: float, scale: float
    ) -> ContourRows:
        """See ``contour.contour_rows``."""
        lib, maps = self._contour, self._of(observation)
        vertices, normals, _, _ = self._shape(shape)
        _, edges, start, _, link, _, _ = self._topology(topology)
        views, places = len(observation.cameras), len(topology.edges) + len(shape.vertices)
        numbers = lib.empty((views * places,), torch.int64)
        edge = lib.empty((views * places,), torch.int32)
        rows = lib.empty((views * places, 6), torch.float64)
        count = lib.zeros((1,), torch.int32)
        lib(
            "contours", vertices, normals, edges, start, link, self._seen(raster, 2), maps["matrix"], maps["rotation"],
            maps["center"], maps["focal"], maps["distance"], maps["known"], maps["blind"],
            *observation.outlines.distance.shape, len(topology.edges), len(shape.vertices), gate, scale,
            contour.OUTWARD, contour.INWARD, contour.ROUND, contour.HIDDEN, contour.OUTSIDE, numbers, edge, rows, count,
        )  # fmt: skip
        found = int(count)
        numbers, order = torch.sort(numbers[:found])  # rows of the CPU's order, whichever thread came first
        data = rows[:found][order].cpu().numpy()
        view = (numbers // places).cpu().numpy()
        return ContourRows(view, edge[:found][order].cpu().numpy(), data[:, 0], data[:, 1:4], data[:, 4], data[:, 5])

    @_on_stream
    def rigid_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``rigid_rows.rigid_rows``."""
        lib, o, maps = self._pixels, observation, self._of(observation)
        _, normals, _, _ = self._shape(shape)
        views, height, width = o.outlines.distance.shape
        rendered = lib.empty((views, height, width, 3), torch.float64)
        parts = lib.empty((views, _RIGID_SUMS, _CHUNKS), torch.float64)
        out = lib.empty((views, _RIGID_SUMS), torch.float64)
        lib(
            "rigid_rows", normals, self._topology(topology)[0], *(self._seen(raster, k) for k in range(3)),
            maps["normal"], maps["trust"], maps["distance"], maps["intrinsics"], maps["rotation"],
            lib.up(o.in_cameras(center), np.float64), views, height, width, rigid_rows.CUT, rigid_rows.SLACK, rendered,
            parts, out,
        )  # fmt: skip
        sums = out.cpu().numpy()
        low, turn = np.tril_indices(6), np.zeros((views, 6, 6))
        system = np.zeros((views, 6, 6))
        system[:, low[0], low[1]] = system[:, low[1], low[0]] = sums[:, :21]
        turn[:, :3, :3] = turn[:, 3:, 3:] = o.rig.rotation
        back = turn.transpose(0, 2, 1)
        return (back @ system @ turn).sum(0), (back @ sums[:, 21:, None])[..., 0].sum(0)

    @_on_stream
    def overlap(self, raster: Raster, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """See ``silhouette.overlap``."""
        lib, maps = self._pixels, self._of(observation)
        shape = observation.outlines.inside.shape
        counts = lib.zeros((shape[0], 2), torch.int64)
        lib("overlap", self._seen(raster, 0), maps["inside"], maps["known"], maps["blind"], *shape, counts)
        both, either = counts.cpu().numpy().T
        return both, either

    @_on_stream
    def add_normals(self, system: System, shape: Shape, normals: np.ndarray, weights: np.ndarray) -> None:
        """See ``System.add_normals``."""
        lib = self._solve
        faces, _, _, _, _, around, sides = self._topology(system.topology)
        vertices, own, _, _ = self._shape(shape)
        sums = [lib.up(array.copy()) for array in (system.diagonal, system.off, system.right)]
        lib(
            "normal_rows", vertices, own, faces, lib.up(normals, np.float64), lib.up(weights, np.float64), *around[:2],
            *sides, len(vertices), len(system.off), *sums,
        )  # fmt: skip
        system.diagonal, system.off, system.right = (tensor.cpu().numpy() for tensor in sums)

    @_on_stream
    def solve(self, system: System, steps: int) -> np.ndarray:
        """See ``System.solve``."""
        lib = self._solve
        _, _, start, neighbour, link, _, _ = self._topology(system.topology)
        count = len(system.right)
        blocks = -(-count // _THREADS)
        x, r, z, q = (lib.empty((count,), torch.float64) for _ in range(4))
        p = lib.empty((2, count), torch.float64)
        parts = lib.empty((2 + 2 * steps, blocks), torch.float64)
        sums = [lib.up(array, np.float64) for array in (system.diagonal, system.off, system.right)]
        lib("conjugate_gradients", *sums[:2], start, neighbour, link, sums[2], count, steps, x, r, z, p, q, parts)
        return x.cpu().numpy()

    def _seen(self, raster: Raster, which: int) -> torch.Tensor:
        """A raster's face (0) or depth (2) on the device: where it lies, or a copy."""
        if isinstance(raster, DeviceRaster) and raster.tensors[which].device == self._fuse.device:
            return raster.tensors[which]
        return self._fuse.up((raster.face, raster.bary, raster.depth)[which])

    def _there(self, array: Any, kind: Any) -> torch.Tensor:
        """An array on the device, of a numpy dtype; what is a tensor is there already."""
        return self._fuse.up(array, kind) if isinstance(array, np.ndarray) else array

    def _of(self, observation: Observation) -> dict[str, torch.Tensor]:
        """An observation's cameras and maps."""
        o, up = observation, self._there

        def make() -> dict[str, torch.Tensor]:
            whole = {"inside": o.outlines.inside, "blind": o.outlines.blind}
            single = {"normal": o.normal, "trust": o.trust, "distance": o.outlines.distance}
            double = {
                "matrix": o.rig.matrix, "rotation": o.rig.rotation, "center": o.rig.center, "focal": o.rig.focal,
                "intrinsics": o.intrinsics, "known": o.outlines.known,
            }  # fmt: skip
            kinds = ((whole, np.int8), (single, np.float32), (double, np.float64))
            return {name: up(array, kind) for arrays, kind in kinds for name, array in arrays.items()}

        return self._maps.of(o, make)

    def _shape(self, shape: Shape) -> tuple[torch.Tensor, ...]:
        """Vertices, normals, face normals, areas."""
        arrays = (shape.vertices, shape.normals, shape.face_normals, shape.areas)
        return self._shapes.of(shape, lambda: tuple(self._fuse.up(array, np.float64) for array in arrays))

    def _topology(self, topology: Topology) -> tuple:
        """Faces; edges; start, neighbour and link; faces around vertices, near and wide; sides of faces along edges."""

        def make() -> tuple:
            up, around = self._fuse.up, topology.around
            sides = topology.face_edges.ravel()
            begin = np.concatenate([[0], np.cumsum(np.bincount(sides, minlength=len(topology.edges)))])
            order = np.argsort(sides, kind="stable")
            return (
                up(topology.faces), up(topology.edges), up(topology.start), up(topology.neighbour), up(topology.link),
                tuple(up(a, np.int32) for a in (around.start, around.face, around.wide_start, around.wide_face)),
                (up(begin, np.int32), up(order, np.int32)),
            )  # fmt: skip

        return self._topologies.of(topology, make)
