"""A take as one USD file: what moves is time-sampled, how it is joined is not.

    /<Slate_take>            Xform, default prim
        Head                 Mesh: points, normals and extent at each mesh's time code, texture coordinates (st)
        Head_1, ...          where the take changed its topology: another mesh, the one before hidden from then on

Metres, Y up, as many time codes a second as the rig takes frames, 0 at the first mesh. Where a take has no texture
coordinates, the first mesh of a topology is unwrapped here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fusion_server.surface.keyframe import unwrap
from fusion_server.takes.export import timed_meshes
from fusion_server.takes.layout import TakeError
from fusion_server.takes.reader import TakeReader
from geometry.mesh import Mesh, vertex_normals
from protocol.errors import HeadstreamError

_SUFFIXES = (".usdc", ".usda", ".usd")
_SKIN = (0.60, 0.43, 0.35)  # linear; what a viewer shows where there is no texture


def export_usd(take: TakeReader, path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Write ``path`` (.usdc, .usda or .usd); returns the number of time samples.

    ``progress`` gets meshes done and in all. Raises TakeError for a take without meshes, another suffix, or where
    nothing can be written, HeadstreamError when usd-core is not installed. A reader never sees half a file.
    """
    try:
        from pxr import Tf, Usd, UsdGeom
    except ImportError:
        raise HeadstreamError("USD export needs usd-core; install it with: pip install headstream[export]") from None
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise TakeError(f"{path}: a USD file must end in {', '.join(_SUFFIXES)}")
    scratch = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)
        stage = Usd.Stage.CreateNew(str(scratch))
    except (OSError, Tf.ErrorException) as error:
        raise TakeError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    stage.SetTimeCodesPerSecond(take.fps)
    stage.SetFramesPerSecond(take.fps)
    name = f"{take.info.get('slate', 'take')}_{take.info.get('take', 1):03d}"
    root = UsdGeom.Xform.Define(stage, f"/{Tf.MakeValidIdentifier(name)}")
    stage.SetDefaultPrim(root.GetPrim())
    stage.SetMetadata("comment", f"headstream: {name} of rig {take.info.get('rig', 'unknown')}")
    try:
        samples, last = _write_meshes(stage, root.GetPath(), take, progress)
        stage.SetStartTimeCode(0)
        stage.SetEndTimeCode(last)
        stage.Save()
        del stage
        scratch.replace(path)
    except (OSError, Tf.ErrorException) as error:
        raise TakeError(f"{path}: cannot be written ({' '.join(str(error).split())})") from None
    finally:
        scratch.unlink(missing_ok=True)
    return samples


def _write_meshes(stage: Any, root: Any, take: TakeReader, progress: Callable[[int, int], None]) -> tuple[int, int]:
    """Number of time samples, and the last time code."""
    from pxr import UsdGeom

    mesh: Any = None
    faces = np.empty((0, 3), np.int32)
    topology = -1
    made = samples = code = 0
    for code, item in timed_meshes(take):
        if item.topology != topology:
            topology, faces = item.topology, take.topologies[item.topology].faces
            if mesh is not None:
                mesh.CreateVisibilityAttr().Set(UsdGeom.Tokens.invisible, code)
            path = root.AppendChild(f"Head_{made}" if made else "Head")
            uv = take.topologies[topology].uv
            mesh = _define(stage, path, faces, unwrap(Mesh(item.vertices, faces)) if uv is None else uv)
            if made:
                mesh.CreateVisibilityAttr().Set(UsdGeom.Tokens.invisible, 0)
            mesh.CreateVisibilityAttr().Set(UsdGeom.Tokens.inherited, code)
            made += 1
        _sample(mesh, item.vertices, faces, code)
        samples += 1
        progress(samples, take.mesh_count)
    return samples, code


def _define(stage: Any, path: Any, faces: np.ndarray, uv: np.ndarray) -> Any:
    """A mesh with everything that does not move; uv: (F, 3, 2)."""
    from pxr import Sdf, UsdGeom, Vt

    mesh = UsdGeom.Mesh.Define(stage, path)
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(faces.ravel(), np.int32)))
    mesh.CreateDisplayColorAttr([_SKIN])
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    kind, interpolation = Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying
    texture = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("st", kind, interpolation)
    texture.Set(Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(uv.reshape(-1, 2), np.float32)))
    return mesh


def _sample(mesh: Any, vertices: np.ndarray, faces: np.ndarray, code: int) -> None:
    from pxr import Vt

    normals = vertex_normals(vertices.astype(np.float64), faces).astype(np.float32)
    mesh.CreatePointsAttr().Set(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(vertices)), code)
    mesh.CreateNormalsAttr().Set(Vt.Vec3fArray.FromNumpy(normals), code)
    extent = np.stack([vertices.min(0), vertices.max(0)])
    mesh.CreateExtentAttr().Set(Vt.Vec3fArray.FromNumpy(extent), code)
