"""What `reconstruct` wrote, exported: read back with the libraries that others use.

The surface is a stand-in that knows the true meshes; the job, its folder and its report are the real ones.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import trimesh

import launch.reconstruct as module
from fusion_server.surface import Quality, SurfaceFrame
from geometry.mesh import read_ply
from geometry.rasterize.cpu import CpuRasterizer
from launch.checkpoint import FOLDER
from launch.export import export_take
from launch.reconstruct import Job, reconstruct
from models.synthetic.photography import look_at
from protocol.calibration import Calibration, save_calibration
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float) * 0.1
FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]], np.int32)
# Each face has a triangle of its own, in two rows of four.
UV = np.array([(0.02, 0.04), (0.23, 0.04), (0.02, 0.46)]) + np.array(
    [(0.25 * (f % 4), 0.5 * (f // 4)) for f in range(8)]
).reshape(8, 1, 2)
RED, GREEN = np.array([200, 40, 40]), np.array([40, 160, 60])
FRAMES = ("0010", "0011", "0012", "0014")  # in this order; of 0011 nothing can be made
MOVED = {"0010": 0.0, "0012": 2e-3, "0014": 2.5e-3}  # metres along Z


class Knowing:
    """Hands out the octahedron of each frame, and texture coordinates where they were asked for."""

    sight = SimpleNamespace(room=None)

    def __init__(self, *asked):
        self._uv = UV if asked[-1] else None
        self._rest = list(FRAMES)

    def keep_topology(self, keeps):
        pass

    def reconstruct(self, images):
        frame = self._rest.pop(0)
        if frame not in MOVED:
            raise HeadstreamError("nothing to see")
        vertices = OCTAHEDRON + [0, 0, MOVED[frame]]
        surface = SurfaceFrame(vertices, FACES, self._uv, vertices, "warm", Quality(0.9, 5.0, 0, 0.8), {}, 2)
        return SimpleNamespace(seconds={}), surface

    def state(self):
        return None


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    """Red on its +X half and green on the other, in four cameras and a fifth that was not selected."""
    monkeypatch.setattr(module, "make_reconstructor", Knowing)
    names = ("front", "right", "back", "left", "unused")
    places = [0.6 * np.array([np.sin(a), 0.3, np.cos(a)]) for a in np.arange(5) * np.pi / 2]
    cameras = [look_at(name, at, np.zeros(3), 240.0, (96, 96)) for name, at in zip(names, places, strict=True)]
    root = tmp_path / "capture"
    for frame in FRAMES:
        (root / "frames" / frame).mkdir(parents=True)
        points = OCTAHEDRON + [0, 0, MOVED.get(frame, 0.0)]
        for camera in cameras:
            raster = CpuRasterizer().rasterize(points, FACES, [camera])
            x = raster.interpolate(FACES, points)[0][..., :1]
            picture = np.where(x > 0, RED, GREEN) * (raster.face[0] >= 0)[..., None]
            if camera.name == "unused":
                picture = np.full((96, 96, 3), 255)
            path = root / "frames" / frame / f"{camera.name}.jpg"
            cv2.imwrite(str(path), picture[..., ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 98])
    save_calibration(Calibration(tuple(cameras)), root / "cameras.json")
    (root / "capture.json").write_text(json.dumps({"fps": 25.0}))
    capture = CaptureFolder.open(root)
    four = Calibration(tuple(cameras[:4]))
    return Job(capture, four, tmp_path / "out", capture.frames, False, NormalsConfig(), SurfaceConfig(), uv=True)


@pytest.fixture
def result(job):
    reconstruct(job, lambda *_: None)
    return job.out


def export(folder, format, out=None, texture=128):
    return export_take(folder, format, out, lambda done, total: None, texture)


def test_usd_of_a_result_has_its_meshes_in_time_and_the_texture_of_the_captures_pictures(result):
    pytest.importorskip("pxr", reason="usd-core is in the extra `export`")
    from pxr import Usd, UsdGeom, UsdValidation

    path = export(result, "usd")
    assert path == result / "out.usdc"
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert UsdValidation.ValidationContext(validators).Validate(stage) == []
    assert stage.GetTimeCodesPerSecond() == 25.0 and (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0, 4)
    assert "of capture capture" in stage.GetMetadata("comment") and stage.GetDefaultPrim().GetName() == "out"
    mesh = UsdGeom.Mesh(stage.GetDefaultPrim().GetChild("Head"))
    assert mesh.GetPointsAttr().GetTimeSamples() == [0, 2, 4]
    for frame, moved in MOVED.items():
        points = np.array(mesh.GetPointsAttr().Get(int(frame) - 10))
        np.testing.assert_allclose(points, OCTAHEDRON + [0, 0, moved], atol=1e-7)
    np.testing.assert_allclose(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get(), UV.reshape(-1, 2), atol=1e-6)
    picture = cv2.imread(str(result / "out_Head.png"))[..., ::-1].astype(int)
    for corners, face in zip(UV, FACES, strict=True):
        u, v = corners.mean(0)
        wanted = RED if OCTAHEDRON[face, 0].sum() > 0 else GREEN
        assert np.abs(picture[int((1 - v) * 128), int(u * 128)] - wanted).max() < 30, face


def test_ply_of_a_result_has_the_colours_of_its_pictures(result, tmp_path):
    export(result, "ply", tmp_path / "ply")
    assert sorted(path.name for path in (tmp_path / "ply").iterdir()) == ["000000.ply", "000002.ply", "000004.ply"]
    loaded = trimesh.load(tmp_path / "ply" / "000002.ply", process=False)
    np.testing.assert_allclose(loaded.vertices, OCTAHEDRON + [0, 0, MOVED["0012"]], atol=1e-7)
    assert np.abs(loaded.visual.vertex_colors[:2, :3].astype(int) - [RED, GREEN]).max() < 30


def test_a_result_without_texture_coordinates_is_unwrapped_for_usd(job):
    pytest.importorskip("pxr", reason="usd-core is in the extra `export`")
    from pxr import Usd, UsdGeom

    reconstruct(replace(job, uv=False), lambda *_: None)
    assert read_ply(job.out / "mesh" / "0010.ply").corner_uv is None
    stage = Usd.Stage.Open(str(export(job.out, "usd")))
    made = np.array(UsdGeom.PrimvarsAPI(stage.GetDefaultPrim().GetChild("Head")).GetPrimvar("st").Get())
    assert made.shape == (24, 2) and made.min() >= 0 and made.max() <= 1 and len(np.unique(made)) > 4


def test_a_capture_that_is_gone_is_one_line_and_no_hindrance_without_colours(result, job, tmp_path):
    job.capture.root.rename(tmp_path / "elsewhere")
    for format in ("usd", "ply"):
        with pytest.raises(HeadstreamError, match=r"capture: no such folder.*--texture 0") as refused:
            export(result, format)
        assert "\n" not in str(refused.value)
    export(result, "ply", tmp_path / "ply", texture=0)
    assert len(list((tmp_path / "ply").iterdir())) == 3


def test_what_is_no_finished_result_is_refused(result):
    report = (result / "report.json").read_text()
    with pytest.raises(HeadstreamError, match="is no take; the capture"):
        export(result, "capture")
    (result / FOLDER).mkdir()
    with pytest.raises(HeadstreamError, match="is not finished"):
        export(result, "ply")
    (result / FOLDER).rmdir()
    for text, said in ((report[:-9], "no report of"), ("[]", "no report of"), ("{}", "lacks 'capture'")):
        (result / "report.json").write_text(text)
        with pytest.raises(HeadstreamError, match=rf"report\.json: .*{said}"):
            export(result, "ply")
    (result / "report.json").write_text(report)
    (result / "mesh" / "0012.ply").unlink()
    with pytest.raises(HeadstreamError, match=r"0012\.ply"):
        export(result, "ply")
