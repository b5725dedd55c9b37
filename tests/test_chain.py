"""The whole chain with real node processes: pictures on disk -> nodes -> wire -> server -> take -> USD."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion_server.reconstruct import make_reconstructor
from fusion_server.server import Server
from fusion_server.takes import TakeReader
from geometry.device.build import compiler
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from launch.local import Child
from launch.reconstruct import Job, reconstruct
from models.synthetic.bake import bake_capture
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import CameraConfig, NormalsConfig, Rig, ServerConfig, SurfaceConfig, SyncConfig, load_rig, save_rig

SURFACE = SurfaceConfig(vertices=3000)
NORMALS = NormalsConfig(engine="openvino", size=128, precision="f32")


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """One still moment of the simulated subject, in six cameras."""
    folder = tmp_path_factory.mktemp("still") / "capture"
    bake_capture(folder, seconds=1 / 30, cameras=6, size=256, maps_every=1, workers=1)
    return CaptureFolder.open(folder)


@pytest.fixture(scope="module")
def offline(capture, tmp_path_factory):
    """The capture reconstructed from disk."""
    out = tmp_path_factory.mktemp("offline")
    lines = []
    job = Job(capture, capture.calibration, out, capture.frames, True, NORMALS, SURFACE)
    report = reconstruct(job, lambda done, total, line: lines.append(line))
    assert len(lines) == 1
    return out, report


def make_rig(path: Path, capture: CaptureFolder) -> Rig:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    data, control, preview = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    rig = Rig(
        name="test",
        root=path.parent,
        calibration=capture.root / "cameras.json",
        fps=10.0,
        cameras=tuple(
            CameraConfig(name, f"pc{i}", "replay", options={"capture": str(capture.root)})
            for i, name in enumerate(capture.calibration.names)
        ),
        server=ServerConfig(data_port=data, control_port=control, preview_port=preview, takes=path.parent / "takes"),
        normals=NORMALS,
        surface=SURFACE,
        # Complete sets only: what is compared saw all six pictures; a set without a node that still starts would
        # make another keyframe.
        sync=SyncConfig(min_cameras=len(capture.calibration.cameras)),
    )
    save_rig(rig, path)
    return load_rig(path)


def test_reconstruct_makes_a_closed_head_near_the_truth(capture, offline):
    from geometry.mesh import read_ply

    out, report = offline
    frame = capture.frames[0]
    mesh = read_ply(out / "mesh" / f"{frame}.ply")
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all(), "an edge without two faces: not closed"
    truth = read_ply(capture.mesh(frame))
    distances = 1e3 * SurfaceIndex(truth).distances(mesh.vertices)
    assert np.median(distances) < 2.0
    assert report["frames"][0]["kind"] == "keyframe"
    with np.load(out / "normals" / frame / f"{capture.calibration.names[0]}.npz") as saved:
        assert saved["normal"].shape == (256, 256, 3) and saved["normal"].dtype == np.float16
        lengths = np.linalg.norm(saved["normal"][saved["mask"]].astype(float), axis=-1)
        assert saved["mask"].any() and np.allclose(lengths, 1, atol=0.01)


@pytest.mark.skipif(compiler(cuda=False) is None, reason="no C++ compiler for the emulation")
def test_reconstruct_as_a_gpu_would_do_it_makes_the_same_head(capture, offline, tmp_path, caplog):
    """Windows, engine, rasteriser and surface of a rig with a GPU, emulated. A checkpoint once refused all of it."""
    from launch.evaluate import evaluate

    normals = replace(NORMALS, engine="torch", device="cpu", windows="cuda")
    surface = replace(SURFACE, rasterizer="cuda", kernels="cuda", device="cpu")
    job = Job(capture, capture.calibration, tmp_path, capture.frames, True, normals, surface)
    report = reconstruct(job, lambda done, total, line: None)
    (entry,), (theirs,) = report["frames"], offline[1]["frames"]
    assert entry["kind"] == "keyframe" and entry["flags"] == theirs["flags"]
    ours, other = (evaluate(out, capture.root, None, lambda done, total: None) for out in (tmp_path, offline[0]))
    for what in ("surface_median_mm", "normals_mean_deg", "mesh_normals_mean_deg"):
        assert ours[what] == pytest.approx(other[what], rel=0.15), what  # windows are resampled in two ways


def test_evaluate_measures_what_reconstruct_wrote(capture, offline):
    from launch.evaluate import evaluate, table

    scores = evaluate(offline[0], capture.root, None, lambda done, total: None)
    assert 0 < scores["surface_median_mm"] < 2.0
    assert scores["surface_with_unseen_parts_95_mm"] > scores["surface_95_mm"]  # the cut below the pictures is a guess
    assert 0 < scores["normals_mean_deg"] < 40 and scores["mask_iou"] > 0.8
    assert "mm" in table(scores) and "deg" in table(scores)


def test_the_wire_changes_nothing_and_a_take_becomes_usd(capture, offline, tmp_path):
    """Six node processes and the server give the mesh that reconstruct gives, and the take holds what was sent."""
    from geometry.mesh import read_ply

    path = tmp_path / "rig.toml"
    rig = make_rig(path, capture)
    server = Server(rig, preview=False)
    server.start()
    lines = []
    nodes = []
    try:
        take = server.record("chain")
        for name in rig.nodes:
            nodes.append(Child(name, ["node", str(path), "--name", name], lambda name, line: lines.append(line)))
        until(lambda: server.pipeline.meter.total >= 3 or server.failure)
        assert server.failure is None
        assert all(node.returncode is None for node in nodes), lines
        statuses = server.status()
        with pytest.raises(HeadstreamError, match=r"chain_001 is being recorded.*stop it first"):
            server.begin_anew()
        server.stop_recording()
        server.begin_anew()
        made = []
        server.pipeline.observe(made.append)
        until(lambda: len(made) >= 3 or server.failure)
        kinds = [result.surface.kind for result in made]
        assert kinds.count("keyframe") == 1 and "keyframe" in kinds[:2]  # one may have been in hand
    finally:
        for node in nodes:
            node.ask_to_end()
        codes = [node.end() for node in nodes]
        server.stop()
    assert codes == [0] * len(nodes), lines
    assert {camera["refused"] for camera in statuses["cameras"].values()} == {0}
    json.dumps(statuses, default=float)

    reader = TakeReader(take)
    meshes = list(reader.meshes())
    assert len(meshes) >= 3 and meshes[0].kind == "keyframe" and {mesh.topology for mesh in meshes} == {0}
    ours = Mesh(meshes[0].vertices.astype(float), reader.topologies[0].faces)
    theirs = read_ply(offline[0] / "mesh" / f"{capture.frames[0]}.ply")
    assert 1e3 * SurfaceIndex(theirs).distances(ours.vertices).max() < 0.1
    sent = capture.jpeg(capture.frames[0], capture.calibration.names[0]).read_bytes()
    frames = list(reader.frames(capture.calibration.names[0]))
    assert frames and all(bytes(frame.jpeg) == sent for frame in frames)

    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "export", str(take), "--format", "usd"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(done.stdout.strip())
    head = UsdGeom.Mesh(next(prim for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)))
    assert len(head.GetPointsAttr().GetTimeSamples()) == len(meshes)
    assert not head.GetFaceVertexIndicesAttr().GetTimeSamples()
    assert UsdGeom.PrimvarsAPI(head).GetPrimvar("st").HasValue()


def test_a_picture_without_a_subject_is_one_line_and_no_mesh(capture, tmp_path):
    reconstructor = make_reconstructor(capture.calibration, NORMALS, SURFACE)
    black = {name: np.zeros((256, 256, 3), np.uint8) for name in capture.calibration.names}
    with pytest.raises(HeadstreamError) as caught:
        reconstructor.reconstruct(black)
    assert "\n" not in str(caught.value)
