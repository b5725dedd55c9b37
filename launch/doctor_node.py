"""``headstream doctor RIG --node NAME``: is this camera PC fit for its node, and if not, what to do about it."""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import importlib.metadata
import platform
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from launch.doctor import Finding, free_space, there, write_speed
from protocol.calibration import load_calibration
from protocol.errors import HeadstreamError
from protocol.rig import Rig, is_loopback

# What a node needs to run; `deploy --install` brings these and not the server's gigabytes.
NODE_NEEDS = (
    *("isal", "msgpack", "numpy", "opencv-python-headless", "prometheus-client"),
    *("PyTurboJPEG", "pyzmq", "rich", "typer"),
)
NETWORK_CAMERAS = ("gige", "pylon")  # drivers whose cameras may send over Ethernet
JPEG_BYTES_A_PIXEL = 0.3  # of a photograph at quality 90, roughly
SOCKET_BUFFER = 8 << 20  # bytes; what a burst of a 5 MP camera needs
JUMBO = 9000  # bytes
TAKE_MINUTES = 10.0  # that a spool should hold
_DAEMONS = ("chronyd", "ntpd", "systemd-timesyn", "ptp4l", "phc2sys", "timemaster")  # as /proc names them
_STA_UNSYNC = 0x40
_SIOCGIFADDR = 0x8915


def examine_node(rig: Rig, node: str) -> Iterator[Finding]:
    """Look at this machine as the PC of that node. Raises RigError when the rig has no such node."""
    rig.cameras_of(node)
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _libraries()
    yield _clock()
    rate = stream_rate(rig, node)
    yield from _disk(spool_folder(rig), rate)
    yield from _interfaces(rig, node)
    yield from _socket_buffer(rig, node)
    yield from _cameras(rig, node)


def stream_rate(rig: Rig, node: str) -> float:
    """What a node's cameras make, bytes a second, estimated from their sizes; 0 without a calibration."""
    try:
        calibration = load_calibration(rig.calibration)
    except HeadstreamError:
        return 0.0
    mine = {camera.id for camera in rig.cameras_of(node)}
    pixels = sum(camera.width * camera.height for camera in calibration.cameras if camera.name in mine)
    return pixels * rig.fps * JPEG_BYTES_A_PIXEL


def spool_folder(rig: Rig) -> Path:
    """Where the node keeps frames of a take."""
    spool = getattr(rig, "spool", None)
    return Path(spool.folder) if spool else rig.root / "spool"


def _libraries() -> Finding:
    absent = []
    for name in NODE_NEEDS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding("libraries", "bad", f"{', '.join(absent)} not installed", "headstream deploy RIG --install")
    import turbojpeg

    try:
        turbojpeg.TurboJPEG()
    except (OSError, RuntimeError) as error:
        return Finding("libraries", "bad", str(error), "apt-get install libturbojpeg0")
    return Finding("libraries", "ok", "all that a node needs")


def _clock() -> Finding:
    """Whether something keeps the system clock right: the kernel knows, whatever program it is."""
    running = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            running.add(path.read_text().strip())
        except OSError:  # it has ended meanwhile
            continue
    daemons = ", ".join(name for name in _DAEMONS if name in running) or "no NTP or PTP program"
    buffer = ctypes.create_string_buffer(512)  # struct timex, asked without modes: nothing is changed
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return Finding("clock", "note", f"{daemons}; the kernel does not say whether it is right")
    status = struct.unpack_from("i", buffer.raw, 40)[0]
    if status & _STA_UNSYNC:
        remedy = "apt-get install chrony (or ptp4l and phc2sys where PTP stamps the frames)"
        return Finding("clock", "note", f"{daemons}; the kernel's clock is not synchronised", remedy)
    return Finding("clock", "ok", f"synchronised by {daemons}")


def _disk(folder: Path, rate: float) -> Iterator[Finding]:
    where = there(folder)
    need = rate * 60 * TAKE_MINUTES / 1e9
    free = free_space(folder)
    detail = f"{free:.0f} GB free at {where}; {TAKE_MINUTES:g} minutes take about {need:.1f} GB"
    if free < need:
        yield Finding("spool space", "bad", detail, "make room, or set spool.folder to a larger disk")
    else:
        yield Finding("spool space", "ok" if free > 3 * need else "note", detail)
    speed = write_speed(where)
    if speed is None:
        yield Finding("spool speed", "bad", f"{where} cannot be written", "change its owner or set spool.folder")
        return
    need = rate / 1e6
    detail = f"{speed:.0f} MB/s; the cameras make about {need:.0f} MB/s"
    state = "bad" if speed < need else "note" if speed < 2 * need else "ok"
    yield Finding(
        "spool speed", state, detail, "a faster disk (an SSD), or fewer cameras a PC" if state != "ok" else ""
    )


def _interfaces(rig: Rig, node: str) -> Iterator[Finding]:
    """The network interface to the server, and those that cameras may hang on."""
    towards = interface_to(rig.server.host)
    if towards:
        name, mtu = towards
        yield Finding("interface", "ok", f"{name} leads to the server, MTU {mtu}")
    elif not is_loopback(rig.server.host):
        remedy = "see the cable and the address, and server.host in the rig file"
        yield Finding("interface", "bad", f"no way to {rig.server.host}", remedy)
    drivers = {camera.driver for camera in rig.cameras_of(node)}
    if drivers.isdisjoint(NETWORK_CAMERAS):
        return
    for name in sorted(interface for _, interface in socket.if_nameindex()):
        if name == "lo" or (towards and name == towards[0]) or not _is_up(name):
            continue
        mtu = interface_mtu(name)
        remedy = f"if cameras hang on it: ip link set dev {name} mtu {JUMBO}, and as much at switch and cameras"
        small = mtu < JUMBO
        yield Finding("jumbo frames", "note" if small else "ok", f"{name} has MTU {mtu}", remedy if small else "")


def interface_to(host: str) -> tuple[str, int] | None:
    """Name and MTU of the interface by which packets to a host leave; None when there is no way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.connect((host, 9))  # sends nothing
            mine = asker.getsockname()[0]
    except OSError:
        return None
    for _, name in socket.if_nameindex():
        if _address(name) == mine:
            return name, interface_mtu(name)
    return None


def interface_mtu(name: str) -> int:
    """The largest packet that an interface sends, bytes."""
    return int(Path(f"/sys/class/net/{name}/mtu").read_text())


def _is_up(name: str) -> bool:
    return Path(f"/sys/class/net/{name}/operstate").read_text().strip() in ("up", "unknown")


def _address(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            answer = fcntl.ioctl(asker, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(answer[20:24])


def _socket_buffer(rig: Rig, node: str) -> Iterator[Finding]:
    if {camera.driver for camera in rig.cameras_of(node)}.isdisjoint(NETWORK_CAMERAS):
        return
    try:
        most = int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        yield Finding("socket buffer", "note", "net.core.rmem_max is not known here")
        return
    small = most < SOCKET_BUFFER
    remedy = f"sysctl -w net.core.rmem_max={4 * SOCKET_BUFFER}, and the same in /etc/sysctl.d, or packets are lost"
    yield Finding("socket buffer", "bad" if small else "ok", f"rmem_max {most / 2**20:.1f} MB", remedy if small else "")


def _cameras(rig: Rig, node: str) -> Iterator[Finding]:
    """Whether the node's cameras are attached, and with which firmware, where their driver can tell."""
    mine = [camera for camera in rig.cameras_of(node) if camera.driver != "replay"]
    if not mine:
        yield Finding("cameras", "ok", f"{len(rig.cameras_of(node))} replayed ones")
        return
    try:
        listing = importlib.import_module("launch.cameras")
    except ModuleNotFoundError:
        yield Finding("cameras", "note", "this headstream cannot list them")
        return
    found = listing.look()
    attached = {row["rig_camera"]: row for row in listing.rows(found, rig) if row["attached"] and row["rig_camera"]}
    for camera in mine:
        what, serial = f"camera {camera.id}", f"{camera.driver} {camera.serial or camera.options.get('ip', '')}".strip()
        if camera.id in attached:
            row = attached[camera.id]
            firmware = f", firmware {row['firmware']}" if row["firmware"] else ""
            used = ", in use (by the running node?)" if row["busy"] else ""
            yield Finding(what, "ok", f"{serial}: {row['model'] or 'attached'}{firmware}{used}")
        elif camera.driver in found.not_searched:
            yield Finding(what, "bad", f"{serial}: not searched: {found.not_searched[camera.driver]}")
        elif camera.options.get("url") or camera.options.get("file"):
            yield Finding(what, "note", f"{serial}: a stream or file, which is tried when the node starts")
        else:
            remedy = "see its power and cable, and the serial in the rig file: headstream cameras"
            yield Finding(what, "bad", f"{serial}: not attached to this PC", remedy)
