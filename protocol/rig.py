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
    [[node]]                              # where node pc1 runs; only for `headstream deploy` and its like
    name = "pc1"
    host = "10.0.0.11"

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
from protocol.table import chosen, limited, named, nearest, parse_table, shown
from protocol.timecode import TimecodeError, timecode_rate

_SECTIONS = ("server", "metrics", "sync", "wire", "spool", "normals", "surface")
_PATHS = {"server": "takes", "wire": "keys", "spool": "folder"}  # by section
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
_HOST_MUST = "must be an address or a host's name, without port"


class RigError(HeadstreamError):
    """A rig file that cannot be used; the message names the file and the path inside it."""


@dataclass(frozen=True)
class ServerConfig:
    """Where the fusion server listens and writes. ``host`` is an address of the server, for it and for the nodes.

    The preview on another address than a loopback one asks for ``preview_token``; empty: one is made at each start.
    """

    host: str = "127.0.0.1"
    data_port: int = limited(5560, 1, 65_535)
    control_port: int = limited(5561, 1, 65_535)
    preview_host: str = "127.0.0.1"
    preview_port: int = limited(8080, 1, 65_535)
    preview_token: str = ""
    takes: Path = Path("takes")


@dataclass(frozen=True)
class MetricsConfig:
    """For Prometheus. The rig's first node has ``node_port``, the second the one after it, and so on.

    ``host`` is where server and nodes listen, each on its own machine: loopback, or 0.0.0.0 for any address.
    """

    host: str = "127.0.0.1"
    server_port: int = limited(0, 0, 65_535)  # 0: none
    node_port: int = limited(0, 0, 65_535)  # 0: none


@dataclass(frozen=True)
class SyncConfig:
    """How frames become sets: by trigger counter, or by corrected time within the tolerance."""

    mode: str = chosen("trigger", "trigger", "time")
    tolerance_ms: float = limited(8.0, 0.001, 1000)
    wait_ms: float = limited(100.0, 1, 10_000)
    min_cameras: int = limited(0, 0, 256)  # 0: all but a quarter
    alarm_ms: float = limited(0.0, 0, 1000)  # spread within a set beyond which there is an alarm; 0: tolerance_ms
    timecode: str = chosen("none", "none", "utc")  # utc: SMPTE timecode of the server's clock on each frame set


@dataclass(frozen=True)
class WireConfig:
    """What a connection may hold, and who may make one.

    ``plain`` is unencrypted, which beyond loopback must be allowed in as many words. With ``curve`` every process
    proves who it is by the keys in the folder ``keys`` (``protocol.keys``; ``headstream keys RIG`` makes them).
    """

    credit: int = limited(4, 1, 64)  # frames of one camera on their way at a time
    queue_mb: float = limited(64.0, 1, 65_536)  # of unsent frames at one node
    max_frame_mb: float = limited(16.0, 0.01, 1024)
    jpeg_quality: int = limited(90, 1, 100)  # where the camera does not give JPEGs itself
    security: str = chosen("plain", "plain", "curve")
    keys: Path = Path("keys")
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
class SpoolConfig:
    """What a node keeps on its own disk while a take is recorded, until the server has it."""

    enabled: bool = True
    folder: Path = Path("spool")
    max_gb: float = limited(200.0, 0.001, 1e6)  # of everything in the folder
    min_free_gb: float = limited(2.0, 0, 1e6)  # left on the disk for everything else
    keep: bool = False  # keep takes that the server has, until their room is wanted
    queue_mb: float = limited(128.0, 1, 65_536)  # pictures that wait for the disk
    preroll_mb: float = limited(64.0, 0, 65_536)  # newest pictures, for a take of which the node hears late
    alone_minutes: float = limited(60.0, 0.1, 10_000)  # how long a take goes on at a node that hears of no server

    @property
    def max_bytes(self) -> int:
        """``max_gb`` in bytes."""
        return int(self.max_gb * 1e9)

    @property
    def min_free_bytes(self) -> int:
        """``min_free_gb`` in bytes."""
        return int(self.min_free_gb * 1e9)


@dataclass(frozen=True)
class NormalsConfig:
    """The network that predicts normals; its engine checks the names it knows."""

    engine: str = "openvino"
    fallback: str = ""  # the engine to take where the machine cannot run ``engine``; empty: none, it is an error
    device: str = ""  # "cuda", "cuda:1" or "cpu"; empty: the engine's usual one
    windows: str = chosen("cpu", "cpu", "cuda")  # what pictures are undistorted and cut on; cuda: the engine's GPU
    decode: str = chosen("turbojpeg", "turbojpeg", "nvjpeg")  # nvjpeg: on that GPU
    decode_threads: int = limited(0, 0, 256)  # of turbojpeg; 0: half of the cores, 2 at least, one a camera at most
    weights: str = ""  # path of a weights file; empty: those shipped
    size: int = limited(0, 0, 2048)  # pixels; 0: 256, or 192 on a CPU that does not compute in bf16
    precision: str = chosen("", "", "f16", "bf16", "f32")  # empty: the engine's usual one
    threads: int = limited(0, 0, 1024)  # 0: half of the cores live, all offline


@dataclass(frozen=True)
class SurfaceConfig:
    """The mesh. The maps that it is solved on are the network's, of ``normals.size``."""

    rasterizer: str = "cpu"
    kernels: str = "cpu"  # what the mesh is solved on
    device: str = "cuda"  # the GPU of both, where they are on one: "cuda", "cuda:1"; "cpu" emulates it, for tests
    vertices: int = limited(10_000, 100, 1_000_000)
    iterations: int = limited(1, 1, 100)
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
class PcConfig:
    """A ``[[node]]`` table: the PC on which the node of that name runs, reached over SSH.

    An empty ``user`` and a ``port`` of 0 are as ``~/.ssh/config`` has them. ``folder`` is where headstream and this
    rig's files live there, absolute or below the user's home (``~/``).
    """

    name: str
    host: str
    user: str = ""
    port: int = limited(0, 0, 65_535)
    folder: str = "~/headstream"
    command: str = ""  # headstream's path there; empty: <folder>/.venv/bin/headstream
    python: str = "python3"  # what `deploy --install` makes the environment with


@dataclass(frozen=True)
class Rig:
    """A whole rig. ``pcs`` are its ``[[node]]`` tables, in file order; a rig that runs on one machine has none.

    Its relative paths start at ``root``, the rig file's folder: ``calibration``, ``server.takes``, ``wire.keys``,
    ``spool.folder`` and ``normals.weights`` stand here with it, those in a camera's ``options`` are the driver's.
    """

    name: str
    root: Path
    calibration: Path
    cameras: tuple[CameraConfig, ...]
    fps: float = 30.0
    server: ServerConfig = ServerConfig()
    metrics: MetricsConfig = MetricsConfig()
    sync: SyncConfig = SyncConfig()
    wire: WireConfig = WireConfig()
    spool: SpoolConfig = SpoolConfig()
    normals: NormalsConfig = NormalsConfig()
    surface: SurfaceConfig = SurfaceConfig()
    pcs: tuple[PcConfig, ...] = ()

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
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise RigError(f"{path}: not TOML that can be read ({error})") from None
    return parse_rig(data, str(path), path.parent)


def parse_rig(data: Mapping[str, Any], where: str = "rig.toml", root: str | Path = ".") -> Rig:
    """Check the tables of a rig file. ``where`` names it in errors; relative paths in it start at ``root``.

    Raises RigError.
    """
    root = Path(root)
    top_keys = [f.name for f in fields(_Top)]
    known = (*top_keys, *_SECTIONS, "camera", "node")
    for key in data:
        if key not in known:
            raise RigError(f"{where}: {named(key)}: unknown key{nearest(key, known)}; known are {', '.join(known)}")
    top = parse_table(_Top, {key: data[key] for key in top_keys if key in data}, where, "", RigError)
    sections: dict[str, Any] = {
        "server": parse_table(ServerConfig, data.get("server", {}), where, "server", RigError),
        "metrics": parse_table(MetricsConfig, data.get("metrics", {}), where, "metrics", RigError),
        "sync": parse_table(SyncConfig, data.get("sync", {}), where, "sync", RigError),
        "wire": parse_table(WireConfig, data.get("wire", {}), where, "wire", RigError),
        "spool": parse_table(SpoolConfig, data.get("spool", {}), where, "spool", RigError),
        "normals": parse_table(NormalsConfig, data.get("normals", {}), where, "normals", RigError),
        "surface": parse_table(SurfaceConfig, data.get("surface", {}), where, "surface", RigError),
    }
    cameras = _parse_cameras(data.get("camera"), where)
    sections["pcs"] = _parse_pcs(data.get("node", []), {camera.node for camera in cameras}, where)
    rig = Rig(name=top.name, root=root, calibration=root / top.calibration, fps=top.fps, cameras=cameras, **sections)
    _check_whole(rig, where)
    normals = rig.normals
    if normals.weights:
        normals = replace(normals, weights=str(root / normals.weights))
    rooted = {name: _rooted(getattr(rig, name), key, root) for name, key in _PATHS.items()}
    return replace(rig, normals=normals, **rooted)


def _rooted(section: Any, key: str, root: Path) -> Any:
    """A section whose path starts at the rig file's folder."""
    return replace(section, **{key: root / getattr(section, key)})


def save_rig(rig: Rig, path: str | Path) -> None:
    """Write a rig file that ``load_rig`` reads back the same; keys at their default are left out.

    Calibration, takes, keys and weights are written relative to the file where they lie below its folder, ``options``
    as they are. A reader never sees half a file.
    """
    path = Path(path)
    folder = path.parent
    lines = [f"{key} = {_toml(value, folder)}" for key, value in _top_values(rig).items()]
    for name in _SECTIONS:
        section = getattr(rig, name)
        plain = type(section)()
        if name in _PATHS:  # those of a rig that was made and not read may have no root yet
            plain, section = _rooted(plain, _PATHS[name], folder), _rooted(section, _PATHS[name], rig.root)
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
    for pc in rig.pcs:
        lines += ["", "[[node]]"]
        lines += [
            f"{f.name} = {_toml(getattr(pc, f.name), folder)}" for f in fields(pc) if getattr(pc, f.name) != f.default
        ]
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


def _parse_pcs(entries: Any, nodes: set[str], where: str) -> tuple[PcConfig, ...]:
    if not isinstance(entries, list):
        raise RigError(f"{where}: node: must be [[node]] tables with name and host")
    pcs: list[PcConfig] = []
    at: dict[str, int] = {}
    for i, entry in enumerate(entries):
        pc = parse_table(PcConfig, entry, where, f"node[{i}]", RigError)
        if pc.name not in nodes:
            text = f"no camera has this node{nearest(pc.name, nodes)}; they have {', '.join(sorted(nodes))}"
            raise RigError(f"{where}: node[{i}].name: {shown(pc.name)}; {text}")
        if pc.name in at:
            raise RigError(f"{where}: node[{i}].name: {pc.name!r} is also node[{at[pc.name]}]; one PC a node")
        if not _HOST.fullmatch(pc.host):
            raise RigError(f"{where}: node[{i}].host: {shown(pc.host)}; {_HOST_MUST}")
        if not re.fullmatch(r"[A-Za-z0-9_.@\\-]*", pc.user):
            raise RigError(f"{where}: node[{i}].user: {shown(pc.user)}; must be a user's name there")
        if not pc.folder.isprintable() or not pc.folder.startswith(("/", "~/")):
            raise RigError(f"{where}: node[{i}].folder: {shown(pc.folder)}; must be a path that starts with / or ~/")
        for key in ("command", "python"):
            if not getattr(pc, key).isprintable():
                raise RigError(f"{where}: node[{i}].{key}: {shown(getattr(pc, key))}; must be the path of a program")
        at[pc.name] = i
        pcs.append(pc)
    return tuple(pcs)


def _check_options(value: Any, where: str) -> None:
    """TOML's dates and times have no use here and could not be written back."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_options(inner, f"{where}.{named(key)}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_options(inner, f"{where}[{i}]")
    elif not isinstance(value, (str, bool, int, float)):
        raise RigError(f"{where}: {value}; must be text, a number, true or false, a list or a table")


def _check_whole(rig: Rig, where: str) -> None:
    """What single keys cannot show."""
    server, sync, wire = rig.server, rig.sync, rig.wire
    hosts = {"server.host": server.host, "server.preview_host": server.preview_host, "metrics.host": rig.metrics.host}
    for key, host in hosts.items():
        if not _HOST.fullmatch(host):
            raise RigError(f"{where}: {key}: {shown(host)}; {_HOST_MUST}")
    ports: dict[int, str] = {}
    taken = [(f"server.{key}", getattr(server, key)) for key in ("data_port", "control_port", "preview_port")]
    for key, port in [*taken, ("metrics.server_port", rig.metrics.server_port)]:
        if port and port in ports:
            raise RigError(f"{where}: {key}: {port} is also {ports[port]}; each needs its own")
        ports[port] = key
    if server.preview_token and not re.fullmatch(r"[A-Za-z0-9_-]{16,128}", server.preview_token):
        raise RigError(f"{where}: server.preview_token: must be 16 to 128 of A-Z a-z 0-9 _ - (not shown: it is secret)")
    if wire.security == "plain" and not is_loopback(server.host) and not wire.allow_plain:
        raise RigError(
            f"{where}: wire.security: 'plain' would cross the network to {server.host} unencrypted; say "
            'wire.security = "curve" (headstream keys RIG makes the keys), use a loopback server.host or say '
            "wire.allow_plain = true"
        )
    if wire.max_frame_mb > wire.queue_mb:
        most = f"must be at least max_frame_mb, {wire.max_frame_mb:g}"
        raise RigError(f"{where}: wire.queue_mb: {wire.queue_mb:g}; {most}")
    _check_devices(rig.normals, rig.surface, where)
    if sync.min_cameras > len(rig.cameras):
        raise RigError(f"{where}: sync.min_cameras: {sync.min_cameras}; the rig has {len(rig.cameras)} cameras")
    if rig.metrics.node_port + len(rig.nodes) - 1 > 65_535:
        text = f"must leave room for the ports of {len(rig.nodes)} nodes"
        raise RigError(f"{where}: metrics.node_port: {rig.metrics.node_port}; {text}")
    if sync.timecode != "none":
        try:
            timecode_rate(rig.fps)
        except TimecodeError as error:
            raise RigError(f"{where}: sync.timecode: {error}") from None
    if sync.mode == "time" and sync.tolerance_ms >= 500 / rig.fps:
        most = f"must be under half the frame interval, {500 / rig.fps:.3g} ms at {rig.fps:g} fps"
        raise RigError(f"{where}: sync.tolerance_ms: {sync.tolerance_ms:g}; {most}")


def _check_devices(normals: NormalsConfig, surface: SurfaceConfig, where: str) -> None:
    """Names of devices, and settings that need one. Whether it is there, who opens it says."""
    for key, device in (("normals.device", normals.device or "cuda"), ("surface.device", surface.device)):
        if not _DEVICE.fullmatch(device):
            raise RigError(f"{where}: {key}: {shown(device)}; must be 'cuda', 'cuda:<number>' or 'cpu'")
    if normals.decode == "nvjpeg" and normals.windows != "cuda":
        raise RigError(
            f"{where}: normals.decode: 'nvjpeg' leaves pictures on the GPU; say normals.windows = \"cuda\", too"
        )
    if surface.device != SurfaceConfig().device and {surface.rasterizer, surface.kernels} == {"cpu"}:
        raise RigError(
            f"{where}: surface.device: {shown(surface.device)}; neither surface.rasterizer nor surface.kernels uses it"
        )


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
