"""The rig file ``rig.toml``: everything about a rig, read by every process of it.

    name = "studio A"
    calibration = "cameras.json"          # relative to the rig file, as every path in it
    [server]
    host = "10.0.0.2"
    [[camera]]
    id = "cam00"
    node = "pc1"
    driver = "replay"
    options = {capture = "capture"}

The dataclasses below are the reference of its keys, their defaults and limits.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from protocol.errors import HeadstreamError
from protocol.messages import is_name
from protocol.table import chosen, limited, nearest, parse_table, shown

_SECTIONS = ("server", "sync", "wire", "normals", "surface")


class RigError(HeadstreamError):
    """A rig file that cannot be used; the message names the file and the path inside it."""


@dataclass(frozen=True)
class ServerConfig:
    """Where the fusion server listens and writes. ``host`` is an address of the server, for it and for the nodes."""

    host: str = "127.0.0.1"
    data_port: int = limited(5560, 1, 65_535)
    control_port: int = limited(5561, 1, 65_535)
    preview_host: str = "127.0.0.1"
    preview_port: int = limited(8080, 1, 65_535)
    takes: Path = Path("takes")


@dataclass(frozen=True)
class SyncConfig:
    """How frames become sets: by trigger counter, or by corrected time within the tolerance."""

    mode: str = chosen("trigger", "trigger", "time")
    tolerance_ms: float = limited(8.0, 0.001, 1000)
    wait_ms: float = limited(100.0, 1, 10_000)
    min_cameras: int = limited(0, 0, 256)  # 0: all but a quarter


@dataclass(frozen=True)
class WireConfig:
    """What a connection may hold. ``plain`` is unencrypted, which beyond loopback must be allowed in as many words."""

    credit: int = limited(3, 1, 64)  # frames of one camera on their way at a time
    queue_mb: float = limited(64.0, 1, 65_536)  # of unsent frames at one node
    max_frame_mb: float = limited(16.0, 0.01, 1024)
    jpeg_quality: int = limited(90, 1, 100)  # where the camera does not give JPEGs itself
    security: str = chosen("plain", "plain")
    allow_plain: bool = False

    @property
    def queue_bytes(self) -> int:
        """``queue_mb`` in bytes."""
        return int(self.queue_mb * 2**20)

    @property
    def max_frame_bytes(self) -> int:
        """``max_frame_mb`` in bytes."""
        return int(self.max_frame_mb * 2**20)


@dataclass(frozen=True)
class NormalsConfig:
    """The network that predicts normals; its engine checks the names it knows."""

    engine: str = "openvino"
    weights: str = ""  # path of a weights file; empty: those shipped
    size: int = limited(0, 0, 2048)  # pixels; 0: 256, or 192 on a CPU that does not compute in bf16
    precision: str = chosen("bf16", "bf16", "f32")
    threads: int = limited(0, 0, 1024)  # 0: half of the cores live, all offline


@dataclass(frozen=True)
class SurfaceConfig:
    """The mesh. ``size`` is the side of the maps that the solve sees, pixels."""

    rasterizer: str = "cpu"
    kernels: str = "cpu"  # what the mesh is solved on
    vertices: int = limited(10_000, 100, 1_000_000)
    size: int = limited(256, 64, 2048)
    iterations: int = limited(2, 1, 100)
    photometric: bool = True


@dataclass(frozen=True)
class CameraConfig:
    """One camera: the process that owns it, and how it is read. The driver checks ``options``."""

    id: str
    node: str
    driver: str
    serial: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rig:
    """A whole rig.

    Its relative paths start at ``root``, the rig file's folder: ``calibration``, ``server.takes`` and
    ``normals.weights`` stand here with it, those in a camera's ``options`` are the driver's to resolve.
    """

    name: str
    root: Path
    calibration: Path
    cameras: tuple[CameraConfig, ...]
    fps: float = 30.0
    server: ServerConfig = ServerConfig()
    sync: SyncConfig = SyncConfig()
    wire: WireConfig = WireConfig()
    normals: NormalsConfig = NormalsConfig()
    surface: SurfaceConfig = SurfaceConfig()

    @property
    def camera_ids(self) -> tuple[str, ...]:
        """Every camera's id, file order."""
        return tuple(camera.id for camera in self.cameras)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, in order of their first camera."""
        return tuple(dict.fromkeys(camera.node for camera in self.cameras))

    def cameras_of(self, node: str) -> tuple[CameraConfig, ...]:
        """The cameras that a node owns. Raises RigError when there are none."""
        cameras = tuple(camera for camera in self.cameras if camera.node == node)
        if not cameras:
            raise RigError(f"no camera of rig {self.name!r} has node {node!r}; its nodes are {', '.join(self.nodes)}")
        return cameras


@dataclass(frozen=True)
class _Top:
    """The keys of the file itself, before sections and cameras are read."""

    name: str
    calibration: Path
    fps: float = limited(30.0, 0.01, 1000)


def load_rig(path: str | Path) -> Rig:
    """Read a rig file. Raises RigError with the path of what is wrong, as ``rig.toml: camera[3].fps: ...``."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RigError(f"{path}: there is no such rig file") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at line (\d+), column \d+\)$", str(error), re.DOTALL)
        line, reason = (f":{found[2]}", found[1]) if found else ("", str(error))
        raise RigError(f"{path}{line}: not TOML ({' '.join(reason.split())})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RigError(f"{path}: cannot be read ({error})") from None
    return parse_rig(data, str(path), path.parent)


def parse_rig(data: Mapping[str, Any], where: str = "rig.toml", root: str | Path = ".") -> Rig:
    """Check the tables of a rig file. ``where`` names it in errors; relative paths in it start at ``root``.

    Raises RigError.
    """
    root = Path(root)
    top_keys = [f.name for f in fields(_Top)]
    known = (*top_keys, *_SECTIONS, "camera")
    for key in data:
        if key not in known:
            raise RigError(f"{where}: {key}: unknown key{nearest(key, known)}; known are {', '.join(known)}")
    top = parse_table(_Top, {key: data[key] for key in top_keys if key in data}, where, "", RigError)
    sections: dict[str, Any] = {
        "server": parse_table(ServerConfig, data.get("server", {}), where, "server", RigError),
        "sync": parse_table(SyncConfig, data.get("sync", {}), where, "sync", RigError),
        "wire": parse_table(WireConfig, data.get("wire", {}), where, "wire", RigError),
        "normals": parse_table(NormalsConfig, data.get("normals", {}), where, "normals", RigError),
        "surface": parse_table(SurfaceConfig, data.get("surface", {}), where, "surface", RigError),
    }
    cameras = _parse_cameras(data.get("camera"), where)
    rig = Rig(name=top.name, root=root, calibration=root / top.calibration, fps=top.fps, cameras=cameras, **sections)
    _check_whole(rig, where)
    normals = rig.normals
    if normals.weights:
        normals = replace(normals, weights=str(root / normals.weights))
    return replace(rig, server=replace(rig.server, takes=root / rig.server.takes), normals=normals)


def save_rig(rig: Rig, path: str | Path) -> None:
    """Write a rig file that ``load_rig`` reads back the same; keys at their default are left out.

    Calibration, takes and weights are written relative to the file where they lie below its folder, ``options`` as
    they are. A reader never sees half a file.
    """
    path = Path(path)
    folder = path.parent
    lines = [f"{key} = {_toml(value, folder)}" for key, value in _top_values(rig).items()]
    for name in _SECTIONS:
        section = getattr(rig, name)
        plain = type(section)()
        if name == "server":
            plain = replace(plain, takes=rig.root / plain.takes)
        if name == "normals" and section.weights:
            section = replace(section, weights=Path(section.weights))
        values = [(f.name, getattr(section, f.name)) for f in fields(section)]
        body = [f"{key} = {_toml(value, folder)}" for key, value in values if value != getattr(plain, key)]
        if body:
            lines += ["", f"[{name}]", *body]
    for camera in rig.cameras:
        lines += ["", "[[camera]]"]
        values = [(f.name, getattr(camera, f.name)) for f in fields(camera)]
        lines += [f"{key} = {_toml(value, folder)}" for key, value in values if value]
    scratch = path.with_name(path.name + ".part")
    scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
    scratch.replace(path)


def is_loopback(host: str) -> bool:
    """Whether an address stays on this machine."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _parse_cameras(entries: Any, where: str) -> tuple[CameraConfig, ...]:
    if not isinstance(entries, list) or not entries:
        raise RigError(f"{where}: camera: must be at least one [[camera]] with id, node and driver")
    cameras: list[CameraConfig] = []
    at: dict[str, int] = {}
    for i, entry in enumerate(entries):
        camera = parse_table(CameraConfig, entry, where, f"camera[{i}]", RigError)
        for key in ("id", "node"):
            if not is_name(getattr(camera, key)):
                text = "must be 1 to 64 of A-Z a-z 0-9 _ . - with a letter or digit first"
                raise RigError(f"{where}: camera[{i}].{key}: {shown(getattr(camera, key))}; {text}")
        if camera.id in at:
            raise RigError(f"{where}: camera[{i}].id: {camera.id!r} is also camera[{at[camera.id]}]; ids must differ")
        _check_options(camera.options, f"{where}: camera[{i}].options")
        at[camera.id] = i
        cameras.append(camera)
    return tuple(cameras)


def _check_options(value: Any, where: str) -> None:
    """TOML's dates and times have no use here and could not be written back."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_options(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_options(inner, f"{where}[{i}]")
    elif not isinstance(value, (str, bool, int, float)):
        raise RigError(f"{where}: {value}; must be text, a number, true or false, a list or a table")


def _check_whole(rig: Rig, where: str) -> None:
    """What single keys cannot show."""
    server, sync, wire = rig.server, rig.sync, rig.wire
    for key in ("host", "preview_host"):
        host = getattr(server, key)
        if not re.fullmatch(r"[A-Za-z0-9.:_-]+", host):
            raise RigError(f"{where}: server.{key}: {shown(host)}; must be an address or a host's name, without port")
    ports: dict[int, str] = {}
    for key in ("data_port", "control_port", "preview_port"):
        port = getattr(server, key)
        if port in ports:
            raise RigError(f"{where}: server.{key}: {port} is also server.{ports[port]}; each needs its own")
        ports[port] = key
    if not is_loopback(server.host) and not wire.allow_plain:
        raise RigError(
            f"{where}: wire.security: 'plain' would cross the network to {server.host} unencrypted; "
            "use a loopback server.host or say wire.allow_plain = true"
        )
    if wire.max_frame_mb > wire.queue_mb:
        most = f"must be at least max_frame_mb, {wire.max_frame_mb:g}"
        raise RigError(f"{where}: wire.queue_mb: {wire.queue_mb:g}; {most}")
    if sync.min_cameras > len(rig.cameras):
        raise RigError(f"{where}: sync.min_cameras: {sync.min_cameras}; the rig has {len(rig.cameras)} cameras")
    if sync.mode == "time" and sync.tolerance_ms >= 500 / rig.fps:
        most = f"must be under half the frame interval, {500 / rig.fps:.3g} ms at {rig.fps:g} fps"
        raise RigError(f"{where}: sync.tolerance_ms: {sync.tolerance_ms:g}; {most}")


def _top_values(rig: Rig) -> dict[str, Any]:
    return {f.name: getattr(rig, f.name) for f in fields(_Top)}


def _toml(value: Any, folder: Path) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _toml_text(value)
    if isinstance(value, Path):
        whole, below = value.absolute(), folder.absolute()
        return _toml_text((whole.relative_to(below) if whole.is_relative_to(below) else whole).as_posix())
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(inner, folder) for inner in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_text(key)} = {_toml(inner, folder)}" for key, inner in value.items()) + "}"
    raise TypeError(f"cannot write a {type(value).__name__} into a rig file")


def _toml_text(text: str) -> str:
    escape = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    out = [escape.get(c) or (c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in text]
    return '"' + "".join(out) + '"'
