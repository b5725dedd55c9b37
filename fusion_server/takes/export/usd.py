"""A take as one USD file: what moves is time-sampled, how it is joined is not.

    /<Slate_take>            Xform, default prim
        Head                 Mesh: points, normals and extent at each mesh's time code, texture coordinates (st)
        Head_1, ...          where the take changed its topology: another mesh, the one before hidden from then on
        Looks/Head, ...      UsdPreviewSurface with the mesh's texture, a PNG beside the file: <file>_Head.png

Metres, Y up, as many time codes a second as the rig takes frames, 0 at the first mesh, whose SMPTE timecode is
``startTimecode`` of the customLayerData where the take has one. Where a take has no texture coordinates, the first mesh
of a topology is unwrapped here. Colours of vertices (displayColor) and of the texture are those of one moment of the
take, lit as it was, when the head held stillest (``colours.sharpest``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusion_server.colour import vertex_colours
from fusion_server.surface.keyframe import unwrap
from fusion_server.takes.export import MeshSequence, timed_meshes
from fusion_server.takes.export.colours import Pictures, sharpest
from fusion_server.takes.export.texture import SIZE, bake_texture
from fusion_server.takes.layout import TakeError
from geometry.mesh import Mesh, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from protocol.errors import HeadstreamError

_SUFFIXES = (".usdc", ".usda", ".usd")
_SKIN = (0.60, 0.43, 0.35)  # linear; what a viewer shows where there is no texture
_ROUGHNESS = 0.8  # the gloss of the day is in the picture already


def export_usd(
    take: MeshSequence,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    texture: int = SIZE,
) -> int:
    """Write ``path`` (.usdc, .usda or .usd); returns the number of time samples.

    ``texture`` is the side of textures in pixels; 0 writes neither textures nor colours, and there are none where the
    take has no pictures. ``progress`` gets meshes done and in all. Raises TakeError for a take without meshes, another
    suffix, or where nothing can be written, HeadstreamError when usd-core is not installed. A reader never sees half a
    file.
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
    root = UsdGeom.Xform.Define(stage, f"/{Tf.MakeValidIdentifier(take.title)}")
    stage.SetDefaultPrim(root.GetPrim())
    stage.SetMetadata("comment", f"headstream: {take.title} of {take.origin}")
    try:
        looks = _Looks(stage, root.GetPath(), path, take, texture)
        samples, last = _write_meshes(stage, root.GetPath(), take, looks, progress)
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


def _write_meshes(
    stage: Any, root: Any, take: MeshSequence, looks: _Looks, progress: Callable[[int, int], None]
) -> tuple[int, int]:
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
            uv = unwrap(Mesh(item.vertices, faces)) if uv is None else uv
            mesh = _define(stage, path, faces, uv)
            looks.dress(mesh, topology, faces, uv)
            if made:
                mesh.CreateVisibilityAttr().Set(UsdGeom.Tokens.invisible, 0)
            mesh.CreateVisibilityAttr().Set(UsdGeom.Tokens.inherited, code)
            made += 1
        _sample(mesh, item.vertices, faces, code)
        if item.timecode and not samples:
            stage.GetRootLayer().customLayerData = {"startTimecode": item.timecode}
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


class _Looks:
    """Gives meshes colours and textures from the take's pictures."""

    def __init__(self, stage: Any, root: Any, path: Path, take: MeshSequence, size: int):
        self._stage, self._root, self._path, self._size = stage, root, path, size
        wanted = size > 0 and take.has_pictures
        self._pictures = Pictures(take) if wanted else None
        self._poses = sharpest(take) if wanted else {}

    def dress(self, mesh: Any, topology: int, faces: np.ndarray, uv: np.ndarray) -> None:
        """Colour a mesh; left as it is where there are no pictures of it."""
        photos = self._pictures.of(self._poses[topology]) if self._pictures else []
        if not photos:
            return
        from pxr import UsdGeom, Vt

        vertices = self._poses[topology].vertices.astype(np.float64)
        colours = vertex_colours(vertices, faces, photos, CpuRasterizer())
        primvar = mesh.GetDisplayColorPrimvar()
        primvar.Set(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(colours, np.float32)))
        primvar.SetInterpolation(UsdGeom.Tokens.vertex)
        name = mesh.GetPrim().GetName()
        picture = self._path.with_name(f"{self._path.stem}_{name}.png")
        baked = bake_texture(vertices, faces, uv, photos, CpuRasterizer(), self._size)
        scratch = picture.with_suffix(".part.png")
        scratch.write_bytes(cv2.imencode(".png", cv2.cvtColor(baked, cv2.COLOR_RGB2BGR))[1].tobytes())
        scratch.replace(picture)
        self._bind(mesh, name, picture.name)

    def _bind(self, mesh: Any, name: str, file_name: str) -> None:
        """A material that shows the texture through the primvar ``st``."""
        from pxr import Sdf, UsdGeom, UsdShade

        looks = UsdGeom.Scope.Define(self._stage, self._root.AppendChild("Looks")).GetPath()
        material = UsdShade.Material.Define(self._stage, looks.AppendChild(name))

        def shader(part: str, kind: str, **inputs: tuple[Any, Any]) -> Any:
            made = UsdShade.Shader.Define(self._stage, material.GetPath().AppendChild(part))
            made.CreateIdAttr(kind)
            for key, (type_name, value) in inputs.items():
                made.CreateInput(key, type_name).Set(value)
            return made

        types = Sdf.ValueTypeNames
        reader = shader("st", "UsdPrimvarReader_float2", varname=(types.String, "st"))
        texture = shader(
            "texture",
            "UsdUVTexture",
            file=(types.Asset, f"./{file_name}"),
            sourceColorSpace=(types.Token, "sRGB"),
            wrapS=(types.Token, "clamp"),
            wrapT=(types.Token, "clamp"),
        )
        coordinates = reader.CreateOutput("result", types.Float2)
        texture.CreateInput("st", types.Float2).ConnectToSource(coordinates)
        surface = shader("surface", "UsdPreviewSurface", roughness=(types.Float, _ROUGHNESS))
        colour = texture.CreateOutput("rgb", types.Float3)
        surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(colour)
        material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
        UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)


def _sample(mesh: Any, vertices: np.ndarray, faces: np.ndarray, code: int) -> None:
    from pxr import Vt

    normals = vertex_normals(vertices.astype(np.float64), faces).astype(np.float32)
    mesh.CreatePointsAttr().Set(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(vertices)), code)
    mesh.CreateNormalsAttr().Set(Vt.Vec3fArray.FromNumpy(normals), code)
    extent = np.stack([vertices.min(0), vertices.max(0)])
    mesh.CreateExtentAttr().Set(Vt.Vec3fArray.FromNumpy(extent), code)
