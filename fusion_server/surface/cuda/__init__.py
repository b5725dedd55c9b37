"""The heavy steps of a frame as CUDA kernels, each the twin of a numba one and compiled on first use.

A warm frame runs on the device as a whole where the CUDA rasteriser draws (``frame``). All else goes step by step: each
step takes arrays and gives arrays, as its twin does. What belongs to a frame (maps, pictures) and to a topology is
copied to the device once, or used where it lies (``handed``), as a raster of the CUDA rasteriser is. Sums are formed in
an order of their own, or as integers, so that a frame gives the same mesh each time; they differ from the CPU's by
rounding.
Contract tests run the kernels' bodies in an emulation on the CPU; **they have not been executed on a GPU yet**.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from fusion_server.surface import contour, fuse, photometric, rigid_rows
from fusion_server.surface.base import SurfaceSettings, View
from fusion_server.surface.contour import ContourRows
from fusion_server.surface.cuda.frame import WarmFrame
from fusion_server.surface.cuda.handed import every_second as halved
from fusion_server.surface.cuda.handed import handed_on, resident_pictures, trusted
from fusion_server.surface.cuda.indices import Indices
from fusion_server.surface.cuda.room import CHUNKS, RIGID_SUMS, SUMS, THREADS
from fusion_server.surface.fuse import Fused
from fusion_server.surface.maps import every_second, stacked
from fusion_server.surface.photometric import Pictures, Positions, spare_halvings
from fusion_server.surface.solve import Shape, System, Topology
from geometry.device import Lane, Library, Resident, compute_device
from geometry.rasterize.base import Raster, Rasterizer
from geometry.rasterize.cuda import CudaRasterizer, DeviceRaster

if TYPE_CHECKING:
    from fusion_server.surface.observation import Observation
    from fusion_server.surface.warm import Frame, Track, Warm

T = TypeVar("T")
_SOURCES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.cu"))}
_KEPT_FRAMES = 3  # of a topology: cameras that come and go must not make room anew each time


def _on_stream(step: Callable[..., T]) -> Callable[..., T]:
    """Runs a method on the kernels' own stream."""

    @wraps(step)
    def run(self: CudaKernels, *arguments: Any, **named: Any) -> T:
        with self.stream():
            return step(self, *arguments, **named)

    return run


class CudaKernels:
    """See ``kernels.SurfaceKernels``."""

    def __init__(self, device: str = "cuda"):
        """device: "cuda", "cuda:1", or "cpu" for the emulation. Raises HeadstreamError where it is not to be had."""
        self._named = device
        place = compute_device(device)
        with ThreadPoolExecutor() as pool:  # compilers are processes of their own
            libraries = pool.map(lambda path: Library(path, place), _SOURCES.values())
            self._library = dict(zip(_SOURCES, libraries, strict=True))
        self._lane = Lane(place, self._library["fuse"].own_stream)
        self._maps, self._topologies, self._shapes, self._grey = Resident(), Resident(), Resident(), Resident()
        self._frames = Resident()
        self._up = self._library["fuse"].up
        self.name = "cuda emulated on the CPU" if self._library["fuse"].emulated else str(place)

    def __reduce__(self) -> tuple[type[CudaKernels], tuple[str]]:
        return CudaKernels, (self._named,)  # a copy loads its own

    @_on_stream
    def maps(self, views: Sequence[View], inside: np.ndarray) -> tuple[Any, Any]:
        """See ``maps.stacked``: tensors, where the views' are on a device; else arrays, to be copied once."""
        there = handed_on(views, self._lane)
        if there is None:
            return stacked(views, inside)
        return there["normal"], trusted(there["confidence"], self._up(inside))

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
    def on_host(self, pictures: Pictures) -> Pictures:
        """See ``SurfaceKernels``."""
        if isinstance(pictures.grey, np.ndarray):
            return pictures
        return Pictures(pictures.grey.cpu().numpy(), pictures.rig, pictures.footprint)

    @_on_stream
    def fuse_normals(self, shape: Shape, raster: Raster, observation: Observation) -> Fused:
        """See ``fuse.fuse_normals``."""
        lib, o = self._library["fuse"], observation
        _, _, own, areas = self._shape(shape)
        maps = self._of(o)
        count = len(shape.areas)
        votes = lib.empty((count, 4), torch.int64)
        mean = lib.up(np.array([shape.areas.mean() if count else 1.0]))
        fused = lib.empty((count, 3), torch.float64)
        weight, agreement = lib.empty((count,), torch.float64), lib.empty((count,), torch.float64)
        lib(
            "fuse_normals", self._seen(raster, 0), maps["rotation"], maps["intrinsics"], maps["normal"], maps["trust"],
            maps["distance"], own, areas, *o.outlines.distance.shape, count,
            mean, fuse.ERODED, fuse.GRAZING, votes, fused, weight, agreement,
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
        lib, ph = self._library["photometric"], photometric
        vertices, normals, own, _ = self._shape(shape)
        mesh = self._topology(topology)
        faces = mesh.faces
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
        count, heights = len(shape.vertices), 2 * round(reach / step) + 1
        views, rows, columns = pictures.grey.shape
        search, samples = lib.empty((6,), torch.float64), lib.empty((9, 2), torch.float64)
        self._library["observe"](
            "search_of", lib.up(np.array([shape.edge])), lib.up(np.full(2, pictures.footprint)), 1.0, ph.FOOTPRINT,
            reach, step, ph._APART, ph._SPACING, search, samples,
        )  # fmt: skip
        slot_view = lib.empty((len(faces), 4), torch.int8)
        places = lib.empty((len(faces), 4, 12), torch.float64)
        lib(
            "choose_views", vertices, normals, faces, own, matrix, center,
            self._of(observation)["matrix"], depth, len(faces), views, rows, columns, *depth.shape[1:],
            search, ph.FACING, slot_view, places,
        )  # fmt: skip
        sums = lib.empty((len(faces), SUMS, heights), torch.float32)
        lib(
            "sample", grey, slot_view, places, samples, search, len(faces), heights, rows, columns,
            float(ph.GREY), sums,
        )  # fmt: skip
        best = lib.empty((count, 3), torch.int8)
        flatness = lib.empty((count, heights), torch.float32)
        curves, other = (lib.empty((count, heights), torch.float32) for _ in range(2))
        contrast, weight = (lib.empty((count,), torch.float32) for _ in range(2))
        lib(
            "correlate", vertices, normals, center, slot_view, sums, *mesh.around, count, views, heights, search,
            ph.FACING, ph.FLAT, best, flatness, curves, contrast,
        )  # fmt: skip
        for _ in range(ph.ROUNDS):
            lib("average", curves, contrast, mesh.start, mesh.neighbour, count, heights, other, weight)
            curves, other, contrast, weight = other, curves, weight, contrast
        want, variance = (lib.empty((count,), torch.float64) for _ in range(2))
        lib(
            "peaks", curves, contrast, count, heights, search, ph.HEIGHT, ph.ABOVE, ph.SHARPNESS,
            want, variance,
        )  # fmt: skip
        points = shape.vertices + want.cpu().numpy()[:, None] * shape.normals
        return Positions(points, variance.cpu().numpy(), float(search[0]))

    @_on_stream
    def contour_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, gate: float, scale: float
    ) -> ContourRows:
        """See ``contour.contour_rows``."""
        lib, maps = self._library["contour"], self._of(observation)
        vertices, normals, _, _ = self._shape(shape)
        mesh, edges = self._topology(topology), len(topology.edges)
        views, places = len(observation.cameras), edges + len(shape.vertices)
        share, want, weight, off = (lib.empty((views * places,), torch.float64) for _ in range(4))
        gradient, count = lib.empty((views * places, 3), torch.float64), lib.empty((1,), torch.int32)
        lib(
            "contours", vertices, normals, mesh.edges, mesh.start, mesh.link, self._seen(raster, 2), maps["matrix"],
            maps["rotation"], maps["center"], maps["focal"], maps["distance"], maps["known"], maps["blind"],
            *observation.outlines.distance.shape, edges, len(shape.vertices), gate, scale, contour.OUTWARD,
            contour.INWARD, contour.ROUND, contour.HIDDEN, contour.OUTSIDE, contour.ASTRAY, contour.power_of(scale),
            share, gradient, want, weight, off, count,
        )  # fmt: skip
        found = torch.nonzero(weight).ravel()
        data = [array[found].cpu().numpy() for array in (share, gradient, want, weight)]
        view, place = np.divmod(found.cpu().numpy(), places)
        of_vertex = topology.link[topology.start[np.maximum(place - edges, 0)]]
        return ContourRows(view, np.where(place < edges, place, of_vertex).astype(np.int32), *data)

    @_on_stream
    def rigid_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Observation, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``rigid_rows.rigid_rows``."""
        lib, o, maps = self._library["pixels"], observation, self._of(observation)
        _, normals, _, _ = self._shape(shape)
        views, height, width = o.outlines.distance.shape
        rendered = lib.empty((views, height, width, 3), torch.float64)
        parts = lib.empty((views, RIGID_SUMS, CHUNKS), torch.float64)
        out = lib.empty((views, RIGID_SUMS), torch.float64)
        lib(
            "rigid_rows", normals, self._topology(topology).faces, *(self._seen(raster, k) for k in range(3)),
            maps["normal"], maps["trust"], maps["distance"], maps["intrinsics"], maps["rotation"],
            maps["center"], lib.up(center, np.float64), views, height, width, rigid_rows.CUT, rigid_rows.SLACK,
            rigid_rows.EVERY, rendered, parts, out,
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
        lib, maps = self._library["pixels"], self._of(observation)
        shape = observation.outlines.inside.shape
        counts = lib.empty((shape[0], 2), torch.int64)
        lib("overlap", self._seen(raster, 0), maps["inside"], maps["known"], maps["blind"], *shape, counts)
        both, either = counts.cpu().numpy().T
        return both, either

    @_on_stream
    def add_normals(self, system: System, shape: Shape, normals: np.ndarray, weights: np.ndarray) -> None:
        """See ``System.add_normals``."""
        lib = self._library["solve"]
        mesh = self._topology(system.topology)
        vertices, own, _, _ = self._shape(shape)
        sums = [lib.up(array.copy()) for array in (system.diagonal, system.off, system.right)]
        lib(
            "normal_rows", vertices, own, mesh.faces, lib.up(normals, np.float64), lib.up(weights, np.float64),
            *mesh.around[:2], *mesh.sides, len(vertices), len(system.off), *sums,
        )  # fmt: skip
        system.diagonal, system.off, system.right = (tensor.cpu().numpy() for tensor in sums)

    @_on_stream
    def solve(self, system: System, steps: int) -> np.ndarray:
        """See ``System.solve``."""
        lib = self._library["solve"]
        mesh = self._topology(system.topology)
        count = len(system.right)
        blocks = -(-count // THREADS)
        x, r, z, q = (lib.empty((count,), torch.float64) for _ in range(4))
        p = lib.empty((2, count), torch.float64)
        parts = lib.empty((2 + 2 * steps, blocks), torch.float64)
        sums = [lib.up(array, np.float64) for array in (system.diagonal, system.off, system.right)]
        lib(
            "conjugate_gradients", *sums[:2], mesh.start, mesh.neighbour, mesh.link, sums[2], count, steps, x, r, z,
            p, q, parts,
        )  # fmt: skip
        return x.cpu().numpy()

    def warm(self, frame: Frame, track: Track, rasterizer: Rasterizer, settings: SurfaceSettings) -> Warm | None:
        """See ``kernels.SurfaceKernels``: at once if the CUDA rasteriser draws here and views are alike."""
        device = self._library["fuse"].device
        if not isinstance(rasterizer, CudaRasterizer) or rasterizer.library.device != device:
            return None
        if not _alike(frame.views, settings.photometric):
            return None
        before = None if self._library["fuse"].emulated else torch.cuda.current_stream(device)
        with self.stream():
            if before is not None:
                torch.cuda.current_stream(device).wait_stream(before)  # maps may still be on their way there
            resident = self._frame(frame, track, rasterizer, settings)
            found = resident(frame.views, track)
        frame.clock.lap("warm")
        # Parts of it, by the device's own clock; the rest is what the host did.
        frame.clock.seconds.update({f"device_{part}": 1e-3 * ms for part, ms in resident.milliseconds().items()})
        return found

    def warm_frame(
        self,
        track: Track,
        views: Sequence[View],
        rasterizer: CudaRasterizer,
        settings: SurfaceSettings,
        graph: bool = True,
    ) -> WarmFrame:
        """The warm frames of a track, for views like these; to be called within ``stream``."""
        libraries = {**self._library, "rasterize": rasterizer.library}
        return WarmFrame(libraries, self._topology(track.topology), track, views, settings, graph)

    def stream(self) -> AbstractContextManager:
        """See ``Library.stream``."""
        return self._library["fuse"].stream()

    def _frame(self, frame: Frame, track: Track, rasterizer: CudaRasterizer, settings: SurfaceSettings) -> WarmFrame:
        """That of this track and views of this size; of the last few kinds one each."""
        view, held = frame.views[0], self._frames.of(track.topology, dict)
        kept = track.pose, track.bias.tilt, track.skin  # the frame holds what was made of them
        key = (frame.names, view.shape, view.picture_shape, settings, *map(id, kept))
        if key not in held:
            if len(held) == _KEPT_FRAMES:
                del held[next(iter(held))]
            held[key] = self.warm_frame(track, frame.views, rasterizer, settings), kept
        return held[key][0]

    def _seen(self, raster: Raster, which: int) -> torch.Tensor:
        """A raster's face (0) or depth (2) on the device: where it lies, or a copy."""
        if isinstance(raster, DeviceRaster) and raster.tensors[which].device == self._library["fuse"].device:
            return raster.tensors[which]
        return self._up((raster.face, raster.bary, raster.depth)[which])

    def _there(self, array: Any, kind: Any) -> torch.Tensor:
        """An array on the device, of a numpy dtype; what is a tensor is there already."""
        return self._up(array, kind) if isinstance(array, np.ndarray) else array

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
        return self._shapes.of(shape, lambda: tuple(self._up(array, np.float64) for array in arrays))

    def _topology(self, topology: Topology) -> Indices:
        return self._topologies.of(topology, lambda: Indices.of(topology, self._library["fuse"]))


def _alike(views: Sequence[View], photometric: bool) -> bool:
    """Whether maps are of one size, and pictures too where they are asked, and no finer than is usual."""
    maps = {view.shape for view in views} | {view.mask.shape for view in views if not hasattr(view, "handed")}
    pictures = {view.picture_shape for view in views} if photometric else set()
    return len(maps) == 1 and len(pictures) <= 1 and not any(spare_halvings(p, views[0].shape) for p in pictures)
