"""Exports are read back with the libraries that others use: pxr for USD, our own reader for PLY."""

from __future__ import annotations

import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh
from surface_scene import camera_at

from fusion_server.colour import Photo
from fusion_server.takes import TakeReader, TakeWriter
from fusion_server.takes.export.colours import sharpest
from fusion_server.takes.export.ply import export_ply
from fusion_server.takes.export.texture import bake_texture
from fusion_server.takes.export.usd import export_usd
from fusion_server.takes.layout import TakeError
from geometry.mesh import read_ply, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.messages import Frame, FrameHeader
from protocol.rig import parse_rig

OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float) * 0.1
FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]], np.int32)
UV = np.linspace(0, 1, 48).reshape(8, 3, 2)
# Each face has a triangle of its own, in two rows of four.
UV_APART = np.array([(0.02, 0.04), (0.23, 0.04), (0.02, 0.46)]) + np.array(
    [(0.25 * (f % 4), 0.5 * (f // 4)) for f in range(8)]
).reshape(8, 1, 2)
RED, GREEN = np.array([200, 40, 40]), np.array([40, 160, 60])


def vertices(i: int) -> np.ndarray:
    return OCTAHEDRON * [1 + i / 10, 1, 1] + [0, 0, i / 100]


def photographed_take(root, moments=(0, 1, 2), confidence=(0.9, 0.9, 0.9)) -> TakeReader:
    """An octahedron red on its +X half and green on the other, before four cameras; at moment i it has moved i^2 mm."""
    names = ("front", "right", "back", "left")
    cameras = tuple(
        replace(camera_at(name, 0.6 * np.array([np.sin(a), 0.3, np.cos(a)]), 96, 240.0), name=name)
        for name, a in zip(names, np.arange(4) * np.pi / 2, strict=True)
    )
    table = {"name": "rig", "calibration": "c.json", "fps": 25.0}
    table["camera"] = [{"id": name, "node": "pc1", "driver": "replay"} for name in names]
    writer = TakeWriter(root, "colours", parse_rig(table), Calibration(cameras))
    number = writer.topology(FACES, UV_APART)
    for i in moments:
        at = 10**18 + i * 40_000_000
        points = OCTAHEDRON + [0, 0, i * i * 1e-3]
        for camera in cameras:
            raster = CpuRasterizer().rasterize(points, FACES, [camera])
            x = raster.interpolate(FACES, points)[0][..., :1]
            picture = np.where(x > 0, RED, GREEN) * (raster.face[0] >= 0)[..., None]
            jpeg = cv2.imencode(".jpg", picture[..., ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 98])[
                1
            ].tobytes()
            writer.frame(Frame(FrameHeader(camera.name, "pc1", i, i, 0, at, 0, 0, 96, 96), jpeg))
        quality = {"confidence": confidence[moments.index(i)]}
        writer.mesh(i, at, points, number, kind="warm", quality=quality, timing={})
    writer.close()
    return TakeReader(writer.path)


def make_take(root, indices, *, sync="trigger", fps=25.0, topology_change=None, slate="1st-scene") -> TakeReader:
    cameras = [{"id": "cam0", "node": "pc1", "driver": "replay"}]
    table = {"name": "rig", "calibration": "c.json", "fps": fps, "camera": cameras, "sync": {"mode": sync}}
    camera = Camera("cam0", 8, 8, np.array([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]]), np.zeros(5), np.eye(3), np.zeros(3))
    writer = TakeWriter(root, slate, parse_rig(table), Calibration((camera,)))
    for position, i in enumerate(indices):
        changed = topology_change is not None and position >= topology_change
        number = writer.topology(FACES[:, [1, 2, 0]] if changed else FACES, None if changed else UV)
        at = 10**18 + round(i * 1e9 / fps)
        writer.mesh(500 + i, at, vertices(i), number, kind="warm", quality={}, timing={})
    writer.close()
    return TakeReader(writer.path)


@pytest.fixture
def pxr():
    return pytest.importorskip("pxr", reason="usd-core is in the extra `export`")


def test_usd_has_one_sample_per_mesh_on_one_topology(tmp_path, pxr):
    from pxr import Usd, UsdGeom

    indices = [0, 2, 3, 7]
    calls = []
    take = make_take(tmp_path, indices)
    assert export_usd(take, tmp_path / "out" / "take.usdc", lambda done, total: calls.append((done, total))) == 4
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    stage = Usd.Stage.Open(str(tmp_path / "out" / "take.usdc"))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0 and UsdGeom.GetStageUpAxis(stage) == "Y"
    assert stage.GetTimeCodesPerSecond() == 25.0 and stage.GetFramesPerSecond() == 25.0
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0, 7)
    root = stage.GetDefaultPrim()
    (prim,) = root.GetChildren()
    mesh = UsdGeom.Mesh(prim)
    assert mesh.GetPointsAttr().GetTimeSamples() == indices
    assert mesh.GetNormalsAttr().GetTimeSamples() == indices and mesh.GetExtentAttr().GetTimeSamples() == indices
    assert mesh.GetFaceVertexIndicesAttr().GetNumTimeSamples() == 0
    assert mesh.GetFaceVertexCountsAttr().GetNumTimeSamples() == 0
    assert np.array_equal(np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3), FACES)
    assert list(mesh.GetFaceVertexCountsAttr().Get()) == [3] * len(FACES)
    assert mesh.GetSubdivisionSchemeAttr().Get() == "none" and mesh.GetNormalsInterpolation() == "vertex"
    for i in indices:
        np.testing.assert_allclose(mesh.GetPointsAttr().Get(i), vertices(i), atol=1e-7)
        normals = np.array(mesh.GetNormalsAttr().Get(i))
        np.testing.assert_allclose(normals, vertex_normals(vertices(i), FACES), atol=1e-6)
        assert ((normals * (vertices(i) - vertices(i).mean(0))).sum(1) > 0).all(), "normals point outward"
        np.testing.assert_allclose(mesh.GetExtentAttr().Get(i), [vertices(i).min(0), vertices(i).max(0)], atol=1e-7)
    st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    assert st.GetInterpolation() == "faceVarying" and st.GetTypeName() == "texCoord2f[]"
    np.testing.assert_allclose(st.Get(), UV.reshape(-1, 2), atol=1e-7)


def test_usd_says_the_timecode_of_its_first_mesh(tmp_path, pxr):
    table = {"name": "rig", "calibration": "c.json", "fps": 25.0}
    table["camera"] = [{"id": "front", "node": "pc1", "driver": "replay"}]
    writer = TakeWriter(tmp_path, "tc", parse_rig(table), Calibration((camera_at("front", np.ones(3), 96, 240.0),)))
    number = writer.topology(FACES, UV_APART)
    for i in range(3):
        writer.mesh(
            i, 10**18 + i * 40_000_000, vertices(i), number,
            kind="warm", quality={}, timing={}, timecode=f"10:00:00:{i + 7:02}",
        )  # fmt: skip
    writer.close()
    export_usd(TakeReader(writer.path), tmp_path / "take.usda", texture=0)
    from pxr import Usd

    stage = Usd.Stage.Open(str(tmp_path / "take.usda"))  # the layer lives as long as its stage
    assert stage.GetRootLayer().customLayerData == {"startTimecode": "10:00:00:07"}


def test_usd_passes_the_validators_of_usd(tmp_path, pxr):
    from pxr import Usd, UsdGeom, UsdValidation

    path = tmp_path / "take.usdc"
    export_usd(make_take(tmp_path, range(3), topology_change=2), path)
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    context = UsdValidation.ValidationContext(validators)
    assert [(e.GetName(), e.GetMessage()) for e in context.Validate(stage)] == []
    for prim in stage.Traverse():
        if prim.IsA(UsdGeom.Mesh):
            mesh = UsdGeom.Mesh(prim)
            code = mesh.GetPointsAttr().GetTimeSamples()[0]
            indices, counts = mesh.GetFaceVertexIndicesAttr().Get(), mesh.GetFaceVertexCountsAttr().Get()
            assert UsdGeom.Mesh.ValidateTopology(indices, counts, len(mesh.GetPointsAttr().Get(code)))[0]
    stage.ClearDefaultPrim()
    assert context.Validate(stage), "the validators find nothing, whatever is wrong"


def test_a_new_topology_is_another_mesh_and_only_one_is_seen(tmp_path, pxr):
    from pxr import Usd, UsdGeom

    export_usd(make_take(tmp_path, range(5), topology_change=3), tmp_path / "take.usda")
    stage = Usd.Stage.Open(str(tmp_path / "take.usda"))
    first, second = (UsdGeom.Mesh(prim) for prim in stage.GetDefaultPrim().GetChildren())
    assert first.GetPointsAttr().GetTimeSamples() == [0, 1, 2] and second.GetPointsAttr().GetTimeSamples() == [3, 4]
    made = np.array(UsdGeom.PrimvarsAPI(second).GetPrimvar("st").Get())  # the take has none for this topology
    assert made.shape == (24, 2) and made.min() >= 0 and made.max() <= 1
    corners = made.reshape(8, 3, 2)
    across, along = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert (np.abs(across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]) > 1e-4).all(), "every face has an area"
    for code in range(5):
        seen = [mesh.ComputeVisibility(code) for mesh in (first, second)]
        assert seen == (["inherited", "invisible"] if code < 3 else ["invisible", "inherited"]), code


def test_without_triggers_the_time_of_exposure_places_a_mesh(tmp_path, pxr):
    from pxr import Usd, UsdGeom

    take = make_take(tmp_path, [0, 1.04, 2.9, 2.96, 6], sync="time")  # two of them on one frame
    assert export_usd(take, tmp_path / "take.usdc") == 4
    stage = Usd.Stage.Open(str(tmp_path / "take.usdc"))
    mesh = UsdGeom.Mesh(stage.GetDefaultPrim().GetChildren()[0])
    assert mesh.GetPointsAttr().GetTimeSamples() == [0, 1, 3, 6]
    np.testing.assert_allclose(mesh.GetPointsAttr().Get(3), vertices(2.96), atol=1e-6)


def test_an_export_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path, pxr):
    take = make_take(tmp_path / "takes", range(3))
    path = tmp_path / "out" / "take.usdc"
    for _ in range(2):
        export_usd(take, path)
    assert [p.name for p in path.parent.iterdir()] == ["take.usdc"]


def test_usd_refusals_are_one_line(tmp_path, pxr):
    empty = make_take(tmp_path, [])
    with pytest.raises(TakeError, match="holds no meshes"):
        export_usd(empty, tmp_path / "take.usdc")
    assert not list(tmp_path.glob("*.usdc"))
    take = make_take(tmp_path, [0])
    with pytest.raises(TakeError, match=r"must end in \.usdc"):
        export_usd(take, tmp_path / "take.obj")
    (tmp_path / "file").write_text("")
    with pytest.raises(TakeError, match="cannot be written"):
        export_usd(take, tmp_path / "file" / "take.usdc")


def test_missing_usd_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(HeadstreamError, match=r"pip install headstream\[export\]"):
        export_usd(make_take(tmp_path, [0]), tmp_path / "take.usdc")


def test_ply_has_one_file_per_mesh(tmp_path):
    take = make_take(tmp_path, [0, 2, 3])
    calls = []
    assert export_ply(take, tmp_path / "ply", lambda done, total: calls.append((done, total))) == 3
    assert calls[-1] == (3, 3)
    assert sorted(p.name for p in (tmp_path / "ply").iterdir()) == ["000000.ply", "000002.ply", "000003.ply"]
    mesh = read_ply(tmp_path / "ply" / "000002.ply")
    assert np.array_equal(mesh.faces, FACES)
    np.testing.assert_allclose(mesh.vertices, vertices(2), atol=1e-7)


def test_ply_of_a_take_without_meshes_is_refused(tmp_path):
    with pytest.raises(TakeError, match="holds no meshes"):
        export_ply(make_take(tmp_path, []), tmp_path / "ply")


def test_usd_has_the_colours_and_the_texture_of_the_pictures(tmp_path, pxr):
    from pxr import Usd, UsdGeom, UsdShade, UsdValidation

    path = tmp_path / "out" / "take.usda"
    export_usd(photographed_take(tmp_path), path, texture=128)
    assert sorted(p.name for p in path.parent.iterdir()) == ["take.usda", "take_Head.png"]
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert UsdValidation.ValidationContext(validators).Validate(stage) == []
    mesh = UsdGeom.Mesh(stage.GetDefaultPrim().GetChild("Head"))
    colours = mesh.GetDisplayColorPrimvar()
    assert colours.GetInterpolation() == "vertex"
    right, left = np.array(colours.Get())[:2]  # linear: red and green as they were painted
    np.testing.assert_allclose(right, [0.578, 0.021, 0.021], atol=0.1)
    np.testing.assert_allclose(left, [0.021, 0.352, 0.045], atol=0.1)
    material, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
    surface, _, _ = material.ComputeSurfaceSource()
    texture = UsdShade.Shader(surface.GetInput("diffuseColor").GetConnectedSources()[0][0].source.GetPrim())
    asset = texture.GetInput("file").Get()
    assert asset.path == "./take_Head.png" and asset.resolvedPath == str(path.parent / "take_Head.png")
    st = UsdShade.Shader(texture.GetInput("st").GetConnectedSources()[0][0].source.GetPrim())
    assert st.GetInput("varname").Get() == "st"
    picture = cv2.imread(str(path.parent / "take_Head.png"))[..., ::-1].astype(int)
    assert picture.shape == (128, 128, 3)
    for corners, face in zip(UV_APART, FACES, strict=True):
        u, v = corners.mean(0)  # where USD looks: v grows upwards
        texel = picture[int((1 - v) * 128), int(u * 128)]
        wanted = RED if OCTAHEDRON[face, 0].sum() > 0 else GREEN
        assert np.abs(texel - wanted).max() < 30, (face, texel)


def test_colours_are_left_out_where_they_are_not_wanted(tmp_path, pxr):
    from pxr import Usd, UsdGeom

    take = photographed_take(tmp_path, moments=(0,))
    export_usd(take, tmp_path / "out" / "take.usdc", texture=0)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["take.usdc"]
    stage = Usd.Stage.Open(str(tmp_path / "out" / "take.usdc"))
    assert len(UsdGeom.Mesh(stage.GetDefaultPrim().GetChild("Head")).GetDisplayColorAttr().Get()) == 1
    export_ply(take, tmp_path / "ply", colour=False)
    assert "red" not in (tmp_path / "ply" / "000000.ply").read_bytes()[:400].decode("latin1")


def test_ply_has_the_colours_of_its_own_moment(tmp_path):
    export_ply(photographed_take(tmp_path), tmp_path / "ply")
    for i in range(3):
        loaded = trimesh.load(tmp_path / "ply" / f"{i:06d}.ply", process=False)
        np.testing.assert_allclose(loaded.vertices, OCTAHEDRON + [0, 0, i * i * 1e-3], atol=1e-7)
        colours = loaded.visual.vertex_colors[:2, :3].astype(int)
        assert np.abs(colours - [RED, GREEN]).max() < 30


def test_a_take_is_coloured_by_its_stillest_sure_mesh(tmp_path):
    sure = sharpest(photographed_take(tmp_path / "a", moments=(0, 1, 2, 3), confidence=(0.9,) * 4))
    assert sure[0].index == 1  # 0 has none before it to move from, 1 moved least
    unsure = sharpest(photographed_take(tmp_path / "b", moments=(0, 1, 2, 3), confidence=(0.9, 0.5, 0.9, 0.9)))
    assert unsure[0].index == 2


def test_frames_of_a_moment_are_the_nearest_ones(tmp_path):
    take = photographed_take(tmp_path)
    found = take.frames_at(10**18 + 41_000_000, within_ns=2_000_000)
    assert list(found) == ["front", "right", "back", "left"]
    assert {frame.header.trigger for frame in found.values()} == {1}
    assert take.frames_at(10**18 + 60_000_000, within_ns=2_000_000) == {}


def test_texels_that_no_picture_shows_are_no_holes():
    """One camera in front: what is behind has a colour spread from the front, and charts run over their edges."""
    camera = camera_at("front", np.array([0.0, 0.0, 0.6]), 96, 240.0)
    picture = np.full((96, 96, 3), (200, 120, 90), np.uint8)
    texture = bake_texture(OCTAHEDRON, FACES, UV_APART, [Photo(camera, picture)], CpuRasterizer(), 64)
    assert np.abs(texture.astype(int) - [200, 120, 90]).max() <= 1
