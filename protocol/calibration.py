"""The calibration file ``cameras.json``: read, checked and written.

Conventions: metres, OpenCV cameras (x right, y down, z forward), ``x_cam = R @ x_world + t``, pixel centres at
integer coordinates. Keys that this version does not know are kept and written back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from protocol.errors import HeadstreamError
from protocol.table import named, shown

VERSION = 1
_CAMERA_KEYS = {"name", "width", "height", "K", "dist", "R", "t"}
_FILE_KEYS = {"version", "cameras", "groups"}
_ROTATION_TOLERANCE = 1e-4  # a rotation typed with six digits passes, a forgotten transpose or scale does not
_LARGEST_SIDE = 65_536


class CalibrationError(HeadstreamError):
    """A calibration that cannot be used; the message names the file and the path inside it."""


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated camera.

    K: (3, 3) intrinsics in pixels; dist: (5,) k1, k2, p1, p2, k3; R: (3, 3) and t: (3,) world to camera, metres.
    """

    name: str
    width: int
    height: int
    K: np.ndarray
    dist: np.ndarray
    R: np.ndarray
    t: np.ndarray
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def center(self) -> np.ndarray:
        """The camera's centre in the world, metres.  # 3"""
        return -self.R.T @ self.t

    def to_dict(self) -> dict[str, Any]:
        """The camera as it stands in ``cameras.json``."""
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "K": self.K.tolist(),
            "dist": self.dist.tolist(),
            "R": self.R.tolist(),
            "t": self.t.tolist(),
            **self.extra,
        }


@dataclass(frozen=True, eq=False)
class Calibration:
    """Every camera of a rig, in file order, and named groups of them."""

    cameras: tuple[Camera, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Camera names in file order."""
        return tuple(camera.name for camera in self.cameras)

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise CalibrationError(f"no camera {name!r} in the calibration; it has {', '.join(self.names)}")

    def select(self, spec: str | None) -> Calibration:
        """The cameras that ``--cameras NAME[,NAME...]`` asks for: names of cameras or of groups, file order.

        Raises CalibrationError when a name is neither.
        """
        if not spec:
            return self
        wanted: set[str] = set()
        for name in (part.strip() for part in spec.split(",") if part.strip()):
            if name in self.groups:
                wanted.update(self.groups[name])
            elif name in self.names:
                wanted.add(name)
            else:
                known = ", ".join((*self.groups, *self.names))
                raise CalibrationError(f"--cameras: {name!r} is neither a camera nor a group; known are {known}")
        if not wanted:
            raise CalibrationError(f"--cameras: {spec!r} names no camera")
        cameras = tuple(camera for camera in self.cameras if camera.name in wanted)
        return Calibration(cameras, self.groups, self.extra)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as ``cameras.json`` holds it."""
        return {
            "version": VERSION,
            "cameras": [camera.to_dict() for camera in self.cameras],
            "groups": {name: list(members) for name, members in self.groups.items()},
            **self.extra,
        }


def load_calibration(path: str | Path) -> Calibration:
    """Read ``cameras.json`` (or the one inside a folder). Raises CalibrationError with the path of what is wrong."""
    path = Path(path)
    if path.is_dir():
        path = path / "cameras.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CalibrationError(f"{path}: there is no calibration; a cameras.json is needed") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: cannot be read ({error})") from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise CalibrationError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise CalibrationError(f"{path}: not JSON that can be read ({error})") from None
    return parse_calibration(data, str(path))


def save_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write ``cameras.json``; a reader never sees half a file."""
    path = Path(path)
    scratch = path.with_suffix(".json.part")
    scratch.write_text(json.dumps(calibration.to_dict(), indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def parse_calibration(data: Any, where: str = "cameras.json") -> Calibration:
    """Check the JSON value of a calibration. Raises CalibrationError naming e.g. ``cameras[3].K``."""
    if not isinstance(data, dict):
        raise CalibrationError(f"{where}: must be an object with 'version' and 'cameras'")
    if type(data.get("version")) is not int or data["version"] != VERSION:
        raise CalibrationError(
            f"{where}: version is {shown(data.get('version'))}; this headstream reads version {VERSION}"
        )
    entries = data.get("cameras")
    if not isinstance(entries, list) or not entries:
        raise CalibrationError(f"{where}: cameras must be a list of at least one camera")
    cameras = tuple(_parse_camera(entry, f"{where}: cameras[{i}]") for i, entry in enumerate(entries))
    names = [camera.name for camera in cameras]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise CalibrationError(f"{where}: cameras[{i}].name: {shown(name)} stands twice; names must be unique")
    groups = _parse_groups(data.get("groups", {}), set(names), where)
    return Calibration(cameras, groups, {key: value for key, value in data.items() if key not in _FILE_KEYS})


def _parse_camera(entry: Any, where: str) -> Camera:
    if not isinstance(entry, dict):
        raise CalibrationError(f"{where}: must be an object")
    missing = sorted(_CAMERA_KEYS - {"dist"} - entry.keys())
    if missing:
        raise CalibrationError(f"{where}: {', '.join(missing)} missing")
    name = entry["name"]
    if not isinstance(name, str) or not _can_name_a_file(name):
        raise CalibrationError(f"{where}.name: {shown(name)}; must be a word that can name a file")
    for key in ("width", "height"):
        value = entry[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST_SIDE:
            raise CalibrationError(
                f"{where}.{key}: {shown(value)}; must be a whole number of pixels, 1 to {_LARGEST_SIDE}"
            )
    K = _array(entry["K"], (3, 3), f"{where}.K")
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[2], (0, 0, 1)) and K[1, 0] == 0):
        raise CalibrationError(f"{where}.K: must be [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0")
    R = _array(entry["R"], (3, 3), f"{where}.R")
    if not np.allclose(R @ R.T, np.eye(3), atol=_ROTATION_TOLERANCE) or np.linalg.det(R) < 0:
        raise CalibrationError(f"{where}.R: not a rotation (R @ R.T must be the identity, determinant +1)")
    return Camera(
        name=name,
        width=entry["width"],
        height=entry["height"],
        K=K,
        dist=_array(entry.get("dist", [0, 0, 0, 0, 0]), (5,), f"{where}.dist"),
        R=R,
        t=_array(entry["t"], (3,), f"{where}.t"),
        extra={key: value for key, value in entry.items() if key not in _CAMERA_KEYS},
    )


def _parse_groups(data: Any, names: set[str], where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(data, dict):
        raise CalibrationError(f"{where}: groups must be an object of lists of camera names")
    groups = {}
    for group, members in data.items():
        if not isinstance(members, list):
            raise CalibrationError(f"{where}: groups.{named(group)}: must be a list of camera names")
        for member in members:
            if not isinstance(member, str) or member not in names:
                raise CalibrationError(f"{where}: groups.{named(group)}: no camera {shown(member)}")
        groups[group] = tuple(members)
    return groups


def _can_name_a_file(name: str) -> bool:
    return name.isprintable() and name == name.strip() != "" and not name.startswith(".") and not set(name) & set("/\\")


def _array(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    want = "x".join(map(str, shape))
    entries = np.array(value, dtype=object)  # as they are: numpy would make numbers of "1" and true
    if entries.shape != shape:
        got = "x".join(map(str, entries.shape)) or "a single value"
        raise CalibrationError(f"{where}: is {got}; must be {want} numbers")
    if not all(isinstance(entry, Real) and not isinstance(entry, bool) for entry in entries.flat):
        raise CalibrationError(f"{where}: must be {want} numbers")
    try:
        array = entries.astype(np.float64)
    except OverflowError:
        array = np.full(shape, np.inf)
    if not np.isfinite(array).all():
        raise CalibrationError(f"{where}: must be finite numbers")
    array.setflags(write=False)
    return array
