"""What each term of the surface is worth on predicted normals: photometric term, normals and skin, on and off.

    python -m benchmarks terms CAPTURE[:CAMERAS]... [--frames 3] [--warm 0] [--stride 3] [--vertices N] [--size N]
                               [--out DIR] [--picture FILE]

The shipped network predicts once for each frame; every row gets these same maps, pictures and windows. First meshes are
made of ``--frames`` frames spread over the capture, each by itself. With ``--warm N`` a take of N warm frames after a
keyframe is tracked as well where a capture has more than one moment, every ``--stride``-th frame of it; its windows are
those that the whole method asked for. CAMERAS names cameras or groups, as in ``headstream reconstruct --cameras``.

"photometric": pictures compared along a vertex's normal. "skin": vertices that follow their points of the skin along
the surface; a first mesh has none yet. Of a rig file, ``surface.photometric = false`` takes both, which is the row that
lacks these two; here they are apart. Without "normals" no normal moves anything: neither a vertex (``refine``) nor the
head as one piece (``rigid``). What is left of them is the judgement whether a frame is lost (``quality``). Masks are
the network's in every row, and neighbours are held together in every row: outlines alone are a hull, smoothed.

Numbers are those of ``headstream evaluate``: of what two cameras see to the true mesh (or of ``points.npz`` to ours),
means over meshes; a take's keyframe is among them. --out keeps the meshes, --picture draws each row's first mesh.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._machine import machine
from fusion_server.decode import Decoder, make_decoder
from fusion_server.reconstruct import Observation, Reconstructor, make_reconstructor
from fusion_server.surface import SurfaceSettings, SurfaceTracker, View
from fusion_server.surface.kernels import CpuKernels
from fusion_server.surface.observation import Observation as Stacked
from fusion_server.surface.photometric import Pictures, Positions
from fusion_server.surface.solve import Shape, System, Topology
from geometry.cameras import without_distortion
from geometry.mesh import Mesh, read_ply, vertex_normals, write_ply
from geometry.rasterize.base import Raster
from geometry.rasterize.cpu import CpuRasterizer
from launch.evaluate import CLOSE, evaluate
from protocol.calibration import Calibration, Camera
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

Take = Mapping[str, Sequence[View]]  # what is known of frames in a row, by their names

TILE = 300  # pixels a side of a drawn mesh
_LIGHT = np.array([0.4, -0.5, -0.77])  # towards the light, camera frame


@dataclass(frozen=True)
class Terms:
    """Which terms a surface has."""

    photometric: bool = True
    normals: bool = True
    skin: bool = True

    def settings(self, vertices: int) -> SurfaceSettings:
        """Of a tracker with these. The pictures are there for the skin, too: see ``Kernels``."""
        pictured = self.photometric or self.skin
        return SurfaceSettings(vertices=vertices, photometric=pictured, skin=self.skin, uv=False)


class Kernels(CpuKernels):
    """The CPU's, without what the terms lack: then pictures have found nothing, and normals have no rows."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def photometric_positions(
        self,
        shape: Shape,
        topology: Topology,
        raster: Raster,
        observation: Stacked,
        pictures: Pictures,
        reach: float,
        step: float,
    ) -> Positions:
        """See ``SurfaceKernels``."""
        if self._terms.photometric:
            return super().photometric_positions(shape, topology, raster, observation, pictures, reach, step)
        return Positions(shape.vertices, np.full(len(shape.vertices), np.inf), 1.0)

    def rigid_rows(
        self, shape: Shape, topology: Topology, raster: Raster, observation: Stacked, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """See ``SurfaceKernels``."""
        if self._terms.normals:
            return super().rigid_rows(shape, topology, raster, observation, center)
        return np.zeros((6, 6)), np.zeros(6)

    def add_normals(self, system: System, shape: Shape, normals: np.ndarray, weights: np.ndarray) -> None:
        """See ``SurfaceKernels``."""
        if self._terms.normals:
            super().add_normals(system, shape, normals, weights)


FIRST = {
    "everything": Terms(),
    "no photometric term": Terms(photometric=False, skin=False),
    "no normals": Terms(normals=False),
    "outlines alone": Terms(False, False, False),
}
WARM = {
    "everything": Terms(),
    "no skin": Terms(skin=False),
    "no photometric term": Terms(photometric=False),
    "neither of these two": Terms(photometric=False, skin=False),
    "no normals": Terms(normals=False),
    "outlines alone": Terms(False, False, False),
}


def spread(frames: Sequence[str], count: int) -> list[str]:
    """``count`` of the frames, as far from one another as they can be, or all that there are."""
    count = min(count, len(frames))
    return [frames[n * len(frames) // count] for n in range(count)]


def taken(frames: Sequence[str], count: int, stride: int) -> list[str]:
    """A keyframe and ``count`` warm ones, each so manieth; none where none are wanted or a capture is one moment.

    Raises HeadstreamError when there are too few.
    """
    if not count or len(frames) == 1:
        return []
    chosen = list(frames[::stride][: count + 1])
    if len(chosen) <= count:
        raise HeadstreamError(
            f"--warm {count} at --stride {stride} needs {count * stride + 1} frames; there are {len(frames)}"
        )
    return chosen


class Predictor:
    """The shipped network before the frames of a capture."""

    def __init__(self, capture: CaptureFolder, calibration: Calibration, vertices: int, size: int) -> None:
        self._capture, self._calibration = capture, calibration
        config = NormalsConfig(size=size)
        self._reconstructor: Reconstructor = make_reconstructor(calibration, config, SurfaceConfig(vertices=vertices))
        self._decoder: Decoder = make_decoder(config.decode, 2, self._reconstructor.sight)

    @property
    def size(self) -> int:
        """Of the maps, pixels."""
        return self._reconstructor.sight.size

    def close(self) -> None:
        """End the decoder's threads."""
        self._decoder.close()

    def alone(self, frame: str) -> Take:
        """What is known of a frame that has none before it."""
        self._reconstructor.begin_anew()
        return {frame: self._observed(frame).views}

    def take(self, frames: Sequence[str]) -> Take:
        """What is known of frames in a row: windows follow the mesh that the whole method makes."""
        self._reconstructor.begin_anew()
        known = {}
        for frame in frames:
            observation = self._observed(frame)
            self._reconstructor.refine(observation)
            known[frame] = observation.views
        return known

    def _observed(self, frame: str) -> Observation:
        names = self._calibration.names
        jpegs = {name: self._capture.jpeg(frame, name).read_bytes() for name in names}
        images, faults = self._decoder.decode(jpegs, self._calibration)
        if faults:
            raise HeadstreamError(f"frame {frame}: {'; '.join(f'{name}: {text}' for name, text in faults.items())}")
        return self._reconstructor.observe(images)


def made(terms: Terms, takes: Sequence[Take], vertices: int, out: Path) -> tuple[Counter[str], str]:
    """Meshes of takes, ``out/mesh/<frame>.ply``; a take of one frame is a first mesh. How often each flag was raised
    comes back, and why a take could not begin, empty where all could."""
    flags: Counter[str] = Counter()
    for take in takes:
        tracker = SurfaceTracker(terms.settings(vertices), CpuRasterizer(), Kernels(terms))
        for frame, views in take.items():
            try:
                surface = tracker.update(views)
            except HeadstreamError as error:
                return flags, f"frame {frame}: {error}"
            flags.update(surface.quality.flags)
            write_ply(out / "mesh" / f"{frame}.ply", Mesh(surface.vertices, surface.faces))
    return flags, ""


def row(scores: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a table by their columns, of what ``evaluate`` found."""
    kind = "surface" if "surface_median_mm" in scores else "surface_points"

    def shown(digits: int, *keys: str) -> str:
        known = [f"{scores[key]:.{digits}f}" for key in keys if key in scores]
        return " / ".join(known)

    return {
        "meshes": f"{scores['meshes']}",
        "median / mean / 95 % mm": shown(2, *(f"{kind}_{name}_mm" for name in ("median", "mean", "95"))),
        "mesh normals, deg": shown(1, "mesh_normals_mean_deg"),
        f"below {CLOSE:g} deg, %": shown(0, f"mesh_normals_below_{CLOSE:g}_deg_percent"),
        "slid, median / 95 % mm": shown(2, "slid_median_mm", "slid_95_mm"),
    }


def drawn(mesh: Mesh, camera: Camera) -> np.ndarray:
    """A mesh as plaster under one lamp, seen by a pinhole.  # TILE,TILE,3 uint8"""
    side = max(camera.width, camera.height)
    raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, [camera])
    world = raster.interpolate(mesh.faces, vertex_normals(mesh.vertices, mesh.faces))[0]
    light = np.clip(world @ camera.R.T @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    grey = np.where(raster.face[0] >= 0, 40 + 200 * light, 255)
    square = np.full((side, side), 255, np.float32)
    square[: camera.height, : camera.width] = grey
    small = cv2.resize(square, (TILE, TILE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small.astype(np.uint8), cv2.COLOR_GRAY2BGR)


def sheet(tiles: Mapping[str, np.ndarray]) -> np.ndarray:
    """Drawn meshes side by side under their names.  # TILE + 30,n TILE,3 uint8"""
    columns = []
    for name, tile in tiles.items():
        head = np.full((30, TILE, 3), 255, np.uint8)
        cv2.putText(head, name, (10, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
        columns.append(np.vstack([head, tile]))
    return np.hstack(columns)


def opened(text: str) -> tuple[CaptureFolder, Calibration]:
    """A capture and its cameras from ``FOLDER`` or ``FOLDER:CAMERAS``. Raises HeadstreamError for what is neither."""
    folder, colon, cameras = text.rpartition(":")
    if not colon or Path(text).exists():
        folder, cameras = text, ""
    capture = CaptureFolder.open(Path(folder))
    return capture, capture.calibration.select(cameras or None)


def main() -> int:
    """Print a table a capture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="+", metavar="CAPTURE[:CAMERAS]")
    parser.add_argument("--frames", type=int, default=3, help="to make first meshes of")
    parser.add_argument("--warm", type=int, default=0, help="frames to track after a keyframe")
    parser.add_argument("--stride", type=int, default=3, help="track every so manieth frame")
    parser.add_argument("--vertices", type=int, default=SurfaceSettings.vertices)
    parser.add_argument("--size", type=int, default=0, help="of the maps, pixels; 0: what is usual here")
    parser.add_argument("--out", type=Path, help="keep the meshes, DIR/<capture>/<first or warm>/<row>/mesh")
    parser.add_argument("--picture", type=Path, help="a PNG of the first capture's first meshes")
    options = parser.parse_args()
    console = Console(width=160)
    console.print(machine())
    try:
        if options.frames < 1 or options.warm < 0 or options.stride < 1:
            raise HeadstreamError("--frames and --stride must be 1 or more, --warm 0 or more")
        for n, text in enumerate(options.captures):
            with tempfile.TemporaryDirectory() as scratch:
                _show(console, text, options, options.out or Path(scratch), options.picture if n == 0 else None)
    except HeadstreamError as error:
        print(f"terms: {error}", file=sys.stderr)
        return 2
    return 0


def _show(console: Console, text: str, options: argparse.Namespace, out: Path, picture: Path | None) -> None:
    capture, calibration = opened(text)
    root = out / capture.root.resolve().name
    if root.exists():
        raise HeadstreamError(f"{root}: there already; --out must name a folder that has none of this capture")
    alone = spread(capture.frames, options.frames)
    frames = taken(capture.frames, options.warm, options.stride)
    predictor = Predictor(capture, calibration, options.vertices, options.size)
    try:
        first = [predictor.alone(frame) for frame in alone]
        warm = [predictor.take(frames)] if frames else []
    finally:
        predictor.close()
    title = f"{text}, {len(calibration.cameras)} cameras, maps of {predictor.size} px predicted once"
    console.print(_table(f"{title}: first meshes", capture, FIRST, first, options.vertices, root / "first"))
    if warm:
        length = f"{options.warm} warm frames, stride {options.stride}"
        console.print(_table(f"{title}: {length}", capture, WARM, warm, options.vertices, root / "warm"))
    if picture:
        camera = without_distortion(calibration.cameras[0])
        paths = {name: root / "first" / name / "mesh" / f"{alone[0]}.ply" for name in FIRST}
        tiles = {name: drawn(read_ply(path), camera) for name, path in paths.items() if path.exists()}
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(cv2.imencode(".png", sheet(tiles), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
        console.print(f"{picture}")


def _table(
    title: str,
    capture: CaptureFolder,
    variants: Mapping[str, Terms],
    takes: Sequence[Take],
    vertices: int,
    out: Path,
) -> Table:
    rows = {}
    for name, terms in variants.items():
        flags, failed = made(terms, takes, vertices, out / name)
        known = (out / name / "mesh").is_dir()
        cells = row(evaluate(out / name, capture.root, None, lambda *_: None)) if known else {"meshes": "0"}
        said = [*(f"{flag} x{count}" for flag, count in sorted(flags.items())), *([failed] if failed else [])]
        rows[name] = cells | {"flags": ", ".join(said)}
    columns = [column for column in dict.fromkeys(c for cells in rows.values() for c in cells)
               if any(cells.get(column) for cells in rows.values())]  # fmt: skip
    table = Table(title=title)
    for column in ("", *columns):
        table.add_column(column)
    for name, cells in rows.items():
        table.add_row(name, *(cells.get(column, "") for column in columns))
    return table


if __name__ == "__main__":
    sys.exit(main())
