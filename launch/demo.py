"""``headstream demo``: a simulated rig through the whole chain, every process a real one."""

from __future__ import annotations

import json
import queue
import socket
import sys
import tempfile
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from launch.evaluate import evaluate, table
from launch.export import export_take
from launch.local import LocalRig, until_asked_to_stop
from launch.progress import progress_bar
from launch.serve import status_line
from models.synthetic.bake import bake_capture
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import CameraConfig, Rig, ServerConfig, load_rig, save_rig

START = 600.0  # seconds the server may take to start: on a new machine it compiles for minutes
FIRST_MESH = 60.0  # seconds from then to the first mesh
PREVIEW_PORT = 8080
BUFFERS = 8  # pictures that wait in a simulated camera, as in a real one's driver: all processes share a few cores
EVALUATED = 60  # meshes of a take that are measured, evenly spread


@dataclass(frozen=True)
class Demo:
    """What to show, for how long, and what to leave behind."""

    capture: Path | None = None  # None: the simulated subject
    cameras: str | None = None
    seconds: float | None = None  # from the first mesh on; None: until Ctrl-C
    record: bool = False
    export: str | None = None
    browser: bool = True
    out: Path = Path("takes")
    bake_seconds: float = 10.0
    as_json: bool = False


def run_demo(demo: Demo) -> int:
    """Bake where need be, launch, watch, and at the end hand over; returns the exit status.

    1 means that a process died or no mesh came. Ctrl-C ends everything cleanly and returns 0.
    """
    if demo.export not in (None, "usd", "ply"):
        raise HeadstreamError(f"--export: {demo.export!r}; must be usd or ply")
    capture = CaptureFolder.open(demo.capture or _bake(demo.bake_seconds, quiet=demo.as_json))
    with tempfile.TemporaryDirectory(prefix="headstream-") as folder:
        path = Path(folder) / "rig.toml"
        rig = _write_rig(path, capture, demo)
        status, take = _watch(path, rig, capture, demo)
    if take and take.exists():
        _hand_over(take, capture, demo)
    return status


def _bake(seconds: float, quiet: bool) -> Path:
    """The simulated subject's capture folder, rendered on the first run and kept in the user's cache."""
    folder = platformdirs.user_cache_path("headstream") / f"demo-{seconds:g}s"
    with progress_bar(quiet) as progress:
        task = progress.add_task("bake the simulated subject", total=None)
        bake_capture(
            folder,
            seconds=seconds,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return folder


def _has_truth(capture: CaptureFolder) -> bool:
    return all(capture.mesh(frame).exists() for frame in capture.frames)


def _write_rig(path: Path, capture: CaptureFolder, demo: Demo) -> Rig:
    """A rig of one node a camera, on free ports of this machine."""
    data, control, preview = _free_ports(PREVIEW_PORT)
    root = capture.root.resolve()
    rig = Rig(
        name=demo.capture.name if demo.capture else "simulated",
        root=path.parent,
        calibration=root / "cameras.json",
        fps=capture.fps,
        server=ServerConfig(data_port=data, control_port=control, preview_port=preview, takes=demo.out.resolve()),
        cameras=tuple(
            CameraConfig(id=name, node=f"node{i}", driver="replay", options={"capture": str(root), "buffers": BUFFERS})
            for i, name in enumerate(capture.calibration.select(demo.cameras).names)
        ),
    )
    save_rig(rig, path)
    return load_rig(path)


def _free_ports(preferred: int) -> tuple[int, int, int]:
    """Two free ports and the preferred one, or a third free one where that is taken."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    try:
        sockets.append(socket.create_server(("127.0.0.1", preferred)))
        chosen = [sockets[0], sockets[1], sockets[3]]
    except OSError:
        chosen = sockets[:3]
    ports = [each.getsockname()[1] for each in chosen]
    for each in sockets:
        each.close()
    return ports[0], ports[1], ports[2]


def _watch(path: Path, rig: Rig, capture: CaptureFolder, demo: Demo) -> tuple[int, Path | None]:
    """Run the rig's processes and show what the server says; returns exit status and the take's folder."""
    stop = until_asked_to_stop()
    arguments = ["--json"]
    if _has_truth(capture):
        arguments += ["--truth", str(capture.root)]
    if demo.record or demo.export:
        arguments += ["--record", "demo"]
    statuses: queue.Queue[dict[str, Any]] = queue.Queue()

    def on_line(name: str, line: str) -> None:
        if name == "server" and line.startswith("{"):
            statuses.put(json.loads(line))
        else:
            print(f"[{name}] {line}", file=sys.stderr, flush=True)

    address = f"http://{rig.server.preview_host}:{rig.server.preview_port}"
    started, ready, first_mesh, opened, code = time.monotonic(), None, None, False, 0
    last: dict[str, Any] = {}
    with LocalRig(path, rig, on_line, tuple(arguments)) as local:
        while not stop.is_set():
            dead = local.dead()
            if dead:
                for child in dead:
                    print(f"{child.name} ended with status {child.returncode}", file=sys.stderr)
                code = 1
                break
            now = time.monotonic()
            if ready is None and now - started > START:
                print(f"the server was not ready in {START:.0f} s", file=sys.stderr)
                code = 1
                break
            if first_mesh is None and ready is not None and now - ready > FIRST_MESH:
                print(f"no mesh in {FIRST_MESH:.0f} s", file=sys.stderr)
                code = 1
                break
            if demo.seconds is not None and first_mesh is not None and now - first_mesh >= demo.seconds:
                break
            try:
                last = statuses.get(timeout=0.2)
            except queue.Empty:
                continue
            ready = ready or time.monotonic()
            _say(last, address, demo.as_json)
            if last["meshes"] and first_mesh is None:
                first_mesh = time.monotonic()
            if not opened and demo.browser:
                opened = True
                webbrowser.open(address)
    while not statuses.empty():
        last = statuses.get()
    if first_mesh is not None:
        _summarise(last, time.monotonic() - first_mesh, demo.as_json)
    return code, Path(last["take"]) if last.get("take") else None


def _say(status: dict[str, Any], address: str, as_json: bool) -> None:
    print(json.dumps(status) if as_json else f"{status_line(status)} | {address}", flush=True)


def _summarise(status: dict[str, Any], seconds: float, as_json: bool) -> None:
    if as_json or not status.get("truth_samples"):
        return
    print(
        f"{status['meshes']} meshes in {seconds:.0f} s; against truth, {status['truth_samples']} live samples: "
        f"surface {status['truth_mean_surface_mm']:.2f} mm (mean of medians), "
        f"predicted normals {status['truth_mean_normal_deg']:.1f} deg (mean)"
    )


def _hand_over(take: Path, capture: CaptureFolder, demo: Demo) -> None:
    """Export the take, then measure its meshes against the truth, where there is one."""
    if demo.export:
        with progress_bar(demo.as_json) as progress:
            task = progress.add_task("export", total=None)
            path = export_take(
                take, demo.export, None, lambda done, total: progress.update(task, completed=done, total=total)
            )
        print(path)
    if not _has_truth(capture):
        return
    with progress_bar(demo.as_json) as progress:
        task = progress.add_task("evaluate", total=None)
        scores = evaluate(
            take, capture.root, EVALUATED, lambda done, total: progress.update(task, completed=done, total=total)
        )
    print(json.dumps(scores) if demo.as_json else table(scores))
