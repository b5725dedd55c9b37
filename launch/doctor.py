"""``headstream doctor``: is this machine fit for the job, and if not, what to do about it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.keys import check as check_keys
from protocol.calibration import load_calibration
from protocol.errors import HeadstreamError
from protocol.rig import Rig

NEEDED = ("numpy", "torch", "numba", "openvino", "pyzmq", "msgpack", "PyTurboJPEG", "mcap", "viser")
OPTIONAL = {
    **{"usd-core": "export", "anny": "train", "pycuda": "gpu", "tensorrt": "gpu", "tensorrt-rtx": "rtx"},
    **{"viva-genicam": "gige", "pypylon": "pylon", "av": "video"},
}
FREE_DISK_GB = 20.0
FREE_MEMORY_GB = 3.0
SLOW_DISK_MB_S = 100.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``ok``, ``note`` (works, but know it) or ``bad`` (will not work), and what to do."""

    what: str
    state: str
    detail: str
    remedy: str = ""
    where: str = ""  # the node whose PC it is about; empty: this machine


def examine(rig: Rig | None) -> Iterator[Finding]:
    """Look at this machine and, where a rig is given, at what the rig needs of it."""
    yield _python()
    yield from _libraries()
    yield _turbojpeg()
    yield _processor()
    yield _memory()
    yield _gpu()
    takes = Path.cwd() if rig is None else rig.server.takes
    yield from _disk(takes)
    if rig is not None:
        yield from _ports(rig)
        yield _calibration(rig)
        yield from (Finding("keys", *found) for found in check_keys(rig))
        yield from _surface(rig)


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _libraries() -> Iterator[Finding]:
    for name in NEEDED:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "bad", "not installed", "make setup")
    for name, extra in OPTIONAL.items():
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "note", "not installed", f"only where it is wanted: pip install 'headstream[{extra}]'")


def _turbojpeg() -> Finding:
    import turbojpeg

    try:
        turbojpeg.TurboJPEG()
    except (OSError, RuntimeError) as error:
        return Finding("libturbojpeg", "bad", str(error), "apt-get install libturbojpeg0")
    return Finding("libturbojpeg", "ok", "found")


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fast = ""
    if Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        fast = (
            ", bf16 in hardware" if "avx512_bf16" in flags or "amx_bf16" in flags else ", no bf16 (normals run in f32)"
        )
    if cores < 2:
        return Finding("processor", "bad", f"{cores} core{fast}", "a server needs 2 cores at least")
    return Finding("processor", "ok", f"{cores} cores{fast}")


def _memory() -> Finding:
    if not Path("/proc/meminfo").exists():
        return Finding("memory", "note", "not known on this system")
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = int(lines["MemAvailable"].split()[0]) / 2**20
    if free < FREE_MEMORY_GB:
        return Finding("memory", "bad", f"{free:.1f} GB free", f"a server needs {FREE_MEMORY_GB:.0f} GB")
    return Finding("memory", "ok", f"{free:.1f} GB free")


def _gpu() -> Finding:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Finding("GPU", "note", "none (no CUDA driver)", "the CPU path is used")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("GPU", "note", f"a driver, but nvidia-smi does not answer ({error})")
    return Finding("GPU", "ok", listed.replace("\n", "; "))


def _disk(folder: Path) -> Iterator[Finding]:
    where, free = there(folder), free_space(folder)
    remedy = "" if free >= FREE_DISK_GB else "a minute of 8 cameras takes about 2 GB; make room or set server.takes"
    yield Finding("disk for takes", "ok" if free >= FREE_DISK_GB else "note", f"{free:.0f} GB free at {where}", remedy)
    speed = write_speed(where)
    if speed is None:
        yield Finding("disk for takes", "bad", f"{where} cannot be written", "change its owner or set server.takes")
        return
    slow = speed < SLOW_DISK_MB_S
    yield Finding("disk speed", "note" if slow else "ok", f"{speed:.0f} MB/s", "takes may lag behind" if slow else "")


def there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())


def free_space(folder: Path) -> float:
    """GB that are free where a folder is, or would be."""
    return shutil.disk_usage(there(folder)).free / 1e9


def write_speed(folder: Path, megabytes: int = 64) -> float | None:
    """MB/s of writing and syncing a scratch file; None where it cannot be written."""
    path = folder / f".headstream-doctor-{os.getpid()}"
    block = os.urandom(1 << 20)
    start = time.perf_counter()
    try:
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return megabytes / (time.perf_counter() - start)
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _ports(rig: Rig) -> Iterator[Finding]:
    server = rig.server
    named = (
        ("data", server.host, server.data_port),
        ("control", server.host, server.control_port),
        ("preview", server.preview_host, server.preview_port),
    )
    for what, host, port in named:
        try:
            with socket.create_server((host, port)):
                yield Finding(f"{what} port", "ok", f"{host}:{port} is free")
        except OSError as error:
            remedy = f"end what uses it (is the server running?) or change server.{what}_port in the rig file"
            yield Finding(f"{what} port", "bad", f"{host}:{port}: {error.strerror}", remedy)


def _calibration(rig: Rig) -> Finding:
    try:
        calibration = load_calibration(rig.calibration)
    except HeadstreamError as error:
        return Finding(
            "calibration", "bad", str(error), "headstream needs a cameras.json; set calibration in the rig file"
        )
    unknown = [camera.id for camera in rig.cameras if camera.id not in calibration.names]
    if unknown:
        return Finding("calibration", "bad", f"it does not have {', '.join(unknown)}", "calibrate, or correct the ids")
    return Finding("calibration", "ok", f"{len(rig.cameras)} cameras of {rig.calibration}")


def _surface(rig: Rig) -> Iterator[Finding]:
    """What the mesh is made on, where that is not the CPU; compiles what is not compiled yet."""
    from fusion_server.surface.kernels import make_kernels
    from geometry.rasterize import make_rasterizer

    for key, name, make in (
        ("rasterizer", rig.surface.rasterizer, make_rasterizer),
        ("kernels", rig.surface.kernels, make_kernels),
    ):
        if name == "cpu":
            continue
        try:
            make(name, rig.surface.device)
        except HeadstreamError as error:
            yield Finding(key, "bad", str(error), f'{key} = "cpu" needs neither a GPU nor nvcc')
        else:
            yield Finding(key, "ok", name)
