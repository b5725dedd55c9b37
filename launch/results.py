"""What ``headstream reconstruct`` wrote, read back as a take is: meshes in time, and the capture's pictures of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusion_server.takes.layout import TakeMesh, Topology
from geometry.mesh import Mesh, read_ply
from launch.checkpoint import FOLDER
from protocol.calibration import Calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

REPORT = "report.json"


class ResultFolder:
    """The folder of a finished job; a ``takes.export.MeshSequence``. Frames are counted by their numbers.

    Raises HeadstreamError for a folder without a report that can be read, and for a job that is not finished; later
    where meshes or the capture are not there any more.
    """

    by_trigger = True  # a frame's number says when it was

    def __init__(self, path: Path):
        self.path = path
        self.topologies: dict[int, Topology] = {}
        if (path / FOLDER).exists():
            raise HeadstreamError(f"{path}: is not finished; the same `headstream reconstruct` goes on where it was")
        try:
            report = json.loads((path / REPORT).read_text(encoding="utf-8"))
            self._capture_path = Path(report["capture"])
            self._cameras = tuple(report["cameras"])
            self._frames: dict[int, dict[str, Any]] = {
                int(entry["frame"]): entry for entry in report["frames"] if "fault" not in entry
            }
            self.fps = float(report["fps"])
            if not 0 < self.fps <= 1000:
                raise ValueError(f"fps: {self.fps}")
        except OSError as error:
            raise HeadstreamError(f"{path / REPORT}: cannot be read ({error.strerror})") from None
        except KeyError as error:
            raise HeadstreamError(f"{path / REPORT}: lacks {error}; reconstruct the capture again") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise HeadstreamError(f"{path / REPORT}: is no report of `headstream reconstruct` ({error})") from None

    @classmethod
    def lies_at(cls, path: Path) -> bool:
        """Whether a folder is the result of a job, finished or not."""
        return (path / REPORT).exists() or (path / FOLDER).exists()

    @property
    def title(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def origin(self) -> str:
        """The capture's name."""
        return f"capture {self._capture_path.name}"

    @property
    def calibration(self) -> Calibration:
        """The cameras that were selected."""
        return Calibration(tuple(c for c in self._capture.calibration.cameras if c.name in self._cameras))

    @property
    def mesh_count(self) -> int:
        """Number of meshes."""
        return len(self._frames)

    @property
    def has_pictures(self) -> bool:
        """True; raises HeadstreamError where the capture is not there any more."""
        return bool(self._capture.frames)

    def meshes(self) -> Iterator[TakeMesh]:
        """Meshes in the order of their frames. Raises HeadstreamError for one that cannot be read."""
        for number, entry in sorted(self._frames.items()):
            mesh = read_ply(self.path / "mesh" / f"{entry['frame']}.ply")
            yield TakeMesh(
                index=number,
                capture_ns=round(number / self.fps * 1e9),
                topology=self._topology(mesh),
                vertices=mesh.vertices.astype(np.float32),
                kind=entry.get("kind", ""),
                quality={"confidence": entry.get("confidence", 0.0)},
                timing={},
                missing=tuple(entry.get("camera_faults", ())),
            )

    def jpegs_of(self, mesh: TakeMesh) -> Mapping[str, bytes]:
        """The pictures that a mesh was made of, by camera."""
        frame = self._frames[mesh.index]["frame"]
        names = [name for name in self.calibration.names if name not in mesh.missing]
        paths = {name: self._capture.jpeg(frame, name) for name in names}
        return {name: path.read_bytes() for name, path in paths.items() if path.exists()}

    def _topology(self, mesh: Mesh) -> int:
        for known in self.topologies.values():
            if np.array_equal(known.faces, mesh.faces):
                return known.id
        made = Topology(len(self.topologies), mesh.faces, mesh.corner_uv)
        self.topologies[made.id] = made
        return made.id

    @cached_property
    def _capture(self) -> CaptureFolder:
        try:
            return CaptureFolder.open(self._capture_path)
        except HeadstreamError as error:
            raise HeadstreamError(
                f"{self.path}: the pictures that it was made of are not there ({error}); put them back, or export "
                "without colours: --texture 0"
            ) from None
