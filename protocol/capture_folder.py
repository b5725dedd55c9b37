"""The capture folder: calibrated frames on disk, with truth beside them where it is known.

cameras.json
frames/<index>/<camera>.jpg
frames/<index>/<camera>_mask.png      truth: 8-bit grey, 255 where the subject is
frames/<index>/<camera>_normal.npz    truth: `normal` H,W,3, camera frame, unit, facing the camera means z < 0
frames/<index>/<camera>_depth.npz     truth: `depth` H,W metres along z, 0 where nothing is
mesh/<index>.ply                      truth: world metres
capture.json                          optional: {"fps": ...} and whatever made the capture wishes to keep
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from protocol.calibration import Calibration, load_calibration
from protocol.errors import HeadstreamError
from protocol.table import shown


class CaptureError(HeadstreamError):
    """A capture folder that cannot be played; the message names the path."""


@dataclass(frozen=True)
class CaptureFolder:
    """Where the parts of a capture lie. Opening checks that it has a calibration and at least one frame."""

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> CaptureFolder:
        """Raises CaptureError or CalibrationError when the folder is not a capture."""
        folder = cls(Path(root))
        if not folder.root.is_dir():
            raise CaptureError(f"{root}: no such folder; a capture folder has cameras.json and frames/<index>/")
        folder.calibration  # noqa: B018  read here so that a bad one is refused at start
        if not folder.frames:
            raise CaptureError(f"{root}: no frames; a capture folder has frames/<index>/<camera>.jpg")
        return folder

    @cached_property
    def calibration(self) -> Calibration:
        """The capture's cameras."""
        return load_calibration(self.root / "cameras.json")

    @cached_property
    def frames(self) -> tuple[str, ...]:
        """Frame indices as they stand on disk (``000``, ``000017``), in order."""
        if not (self.root / "frames").is_dir():
            return ()
        names = [path.name for path in (self.root / "frames").iterdir() if path.is_dir()]
        return tuple(sorted((n for n in names if n.isascii() and n.isdigit()), key=lambda n: (int(n), n)))

    @cached_property
    def info(self) -> dict[str, Any]:
        """What ``capture.json`` says; empty where there is none."""
        path = self.root / "capture.json"
        if not path.exists():
            return {}
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CaptureError(f"{path}: cannot be read ({error})") from None
        if not isinstance(info, dict):
            raise CaptureError(f"{path}: must be an object")
        return info

    @property
    def fps(self) -> float:
        """Frames a second that the capture was made at; 30 where it does not say. Raises CaptureError."""
        fps = self.info.get("fps", 30.0)
        if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not 0 < fps <= 1000:
            raise CaptureError(
                f"{self.root / 'capture.json'}: fps: {shown(fps)}; must be a number above 0, at most 1000"
            )
        return float(fps)

    def jpeg(self, frame: str, camera: str) -> Path:
        """Path of one picture."""
        return self.root / "frames" / frame / f"{camera}.jpg"

    def mask(self, frame: str, camera: str) -> Path:
        """Path of a truth mask; it may be absent."""
        return self.root / "frames" / frame / f"{camera}_mask.png"

    def normal(self, frame: str, camera: str) -> Path:
        """Path of a truth normal map; it may be absent."""
        return self.root / "frames" / frame / f"{camera}_normal.npz"

    def depth(self, frame: str, camera: str) -> Path:
        """Path of a truth depth map; it may be absent."""
        return self.root / "frames" / frame / f"{camera}_depth.npz"

    def mesh(self, frame: str) -> Path:
        """Path of a truth mesh; it may be absent."""
        return self.root / "mesh" / f"{frame}.ply"
