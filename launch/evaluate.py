"""``headstream evaluate``: meshes and normals against a truth, in millimetres and degrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusion_server.takes import TakeReader
from geometry.cameras import at_most, without_distortion
from geometry.measure import (
    DistanceSummary,
    Jitter,
    Slides,
    SurfaceIndex,
    at_places,
    depth_differences,
    normal_error_degrees,
    sample_places,
    sample_surface,
)
from geometry.mesh import Mesh, face_normals, read_ply, vertex_normals
from geometry.rasterize import make_rasterizer
from geometry.visibility import seen_faces
from launch.truth import SEEN_BY, true_mesh
from models.evaluation import THRESHOLDS, NormalErrors, gradient_errors, view_disagreement
from models.rays import stack_cameras
from protocol.calibration import Camera
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError

POINTS = 20_000  # of a mesh's surface, as many per area everywhere, however its vertices are spread
DEPTH_SIZE = 256  # pixels, larger side of the depth maps that are compared; finer ones change the third digit
CLOSE = 10.0  # degrees; the share of normals that are nearer is told
SURE_POINT = 1.0  # pixels of reprojection error below which a triangulated point counts as truth


@dataclass(frozen=True)
class Scored:
    """One mesh to measure: its frame, and where it comes from."""

    frame: str
    mesh: Callable[[], Mesh]


def evaluate(result: Path, truth: Path, meshes: int | None, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Score what ``reconstruct`` or a recording made against a capture folder that knows more.

    Surface: of the mesh's parts that two cameras or more see the distance to the true mesh, the angle between their
    normals, and in the cameras' pixels the difference of depth along z (of this error Skullptor leaves 2.4 to 3 mm; on
    a slope it is more than the distance); or the distance of the truth's sure points to the mesh. Where meshes share a
    topology, how far their vertices slide over the true skin; of three frames or more in a row, how much they tremble
    (``Jitter``: moving heads, as root mean square, where ``benchmarks surface`` tells a still head's median vertex).
    Normals: where both masks are set, predicted maps against true ones, and against each other. Numbers of several
    meshes are the means of theirs. Raises HeadstreamError when there is nothing to compare.
    """
    scored = list(_meshes(result))
    if not scored:
        raise HeadstreamError(f"{result}: no meshes; give what `headstream reconstruct` wrote, or a take with meshes")
    if meshes is not None and meshes < len(scored):
        scored = [scored[i] for i in np.linspace(0, len(scored) - 1, meshes).astype(int)]
    folder = CaptureFolder.open(truth)
    cloud = truth / "points.npz"
    scores: dict[str, Any] = {"result": str(result), "truth": str(truth), "meshes": len(scored)}
    if any(folder.mesh(frame).exists() for frame in folder.frames):
        scores |= _against_meshes(scored, folder, progress)
    elif cloud.exists():
        scores |= _against_points(scored, cloud, progress)
    normals = _normals(result, folder)
    if not normals and not any(key.startswith("surface") for key in scores):
        raise HeadstreamError(f"{truth}: knows neither meshes, points.npz nor normals to measure against")
    return scores | normals


def table(scores: dict[str, Any]) -> str:
    """The scores for people, one a line."""
    units = {"mm": "mm", "deg": "deg", "percent": "%"}
    lines = [f"{scores['meshes']} meshes of {scores['result']} against {scores['truth']}"]
    for key, value in scores.items():
        if isinstance(value, float):
            name, _, unit = key.rpartition("_")
            shown = f"{value:.3f}" if unit not in units else f"{value:.2f} {units[unit]}"
            lines.append(f"  {(name if unit in units else key).replace('_', ' '):<38}{shown}")
    return "\n".join(lines)


def _meshes(result: Path) -> Iterator[Scored]:
    if (result / "mesh").is_dir():
        for path in sorted((result / "mesh").glob("*.ply")):
            yield Scored(path.stem, partial(read_ply, path))
        return
    take = TakeReader(result)
    for mesh in take.meshes():
        yield Scored(str(mesh.index), partial(Mesh, mesh.vertices, take.topologies[mesh.topology].faces))


def _against_meshes(scored: list[Scored], folder: CaptureFolder, progress: Callable[[int, int], None]) -> dict:
    cameras = [without_distortion(camera) for camera in folder.calibration.cameras]
    small = [at_most(camera, DEPTH_SIZE) for camera in cameras]
    rasterizer = make_rasterizer("cpu")
    slides, jitter = Slides(), Jitter()
    rows: list[dict[str, float]] = []
    for done, item in enumerate(scored, start=1):
        ours, position = item.mesh(), _position(item.frame, folder)
        truth = true_mesh(folder, position)
        seen = seen_faces(ours, cameras, rasterizer, SEEN_BY)
        if not seen.any():
            raise HeadstreamError(f"mesh {item.frame}: no part of it is seen by {SEEN_BY} cameras of {folder.root}")
        part = Mesh(ours.vertices, ours.faces[seen])
        index, places = SurfaceIndex(truth), sample_places(part, POINTS)
        _, distances, there = index.closest(at_places(part.vertices, part.faces, *places))
        true_normals = face_normals(truth.vertices, truth.faces)[0][there]
        our_normals = at_places(vertex_normals(ours.vertices, ours.faces), part.faces, *places)
        angles = normal_error_degrees(our_normals, true_normals, np.ones(POINTS, bool))
        row = _millimetres("surface", distances)
        row |= _millimetres("surface_with_unseen_parts", index.distances(sample_surface(ours, POINTS)))
        row |= _millimetres("depth", depth_differences(ours, seen, truth, small, rasterizer))
        row |= {"mesh_normals_mean_deg": float(angles.mean())}
        row |= {f"mesh_normals_below_{CLOSE:g}_deg_percent": 100 * float((angles < CLOSE).mean())}
        away = slides.away(ours, truth)
        rows.append(row | ({} if away is None else _millimetres("slid", away)))
        jitter.add(position, ours, truth)
        progress(done, len(scored))
    scores = _means(rows) | {"surface_worst_median_mm": max(row["surface_median_mm"] for row in rows)}
    trembling = jitter.rms()
    if trembling is not None:
        along, whole = trembling
        scores |= {"temporal_jitter_along_normals_mm": 1e3 * along, "temporal_jitter_mm": 1e3 * whole}
    return scores


def _against_points(scored: list[Scored], cloud: Path, progress: Callable[[int, int], None]) -> dict:
    with np.load(cloud) as data:
        points = data["xyz"][data["err"] < SURE_POINT]
    rows = []
    for done, item in enumerate(scored, start=1):
        rows.append(_millimetres("surface_points", SurfaceIndex(item.mesh()).distances(points)))
        progress(done, len(scored))
    return _means(rows)


def _millimetres(name: str, distances: np.ndarray) -> dict[str, float]:
    """Median, mean and 95th percentile of distances (N,) in metres; nothing where there are none."""
    if not len(distances):
        return {}
    of = DistanceSummary.of(distances)
    return {f"{name}_median_mm": 1e3 * of.median, f"{name}_mean_mm": 1e3 * of.mean, f"{name}_95_mm": 1e3 * of.p95}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of each score, over the meshes that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _position(frame: str, folder: CaptureFolder) -> int:
    """Where in the capture's loop a frame stands: by its name, else by its trigger number."""
    return folder.frames.index(frame) if frame in folder.frames else int(frame)


def _normals(result: Path, folder: CaptureFolder) -> dict[str, float]:
    """Saved normal maps against true ones, pooled over all pixels; and against each other, at points of a surface.

    The surface is the true mesh where the capture has one, else the mesh that was made from the normals.
    """
    angles, gradients, overlaps, apart, floor = [], [], [], [], []
    for maps in sorted(path for path in (result / "normals").glob("*") if path.is_dir()):
        frame = maps.name
        cameras = [without_distortion(c) for c in folder.calibration.cameras if (maps / f"{c.name}.npz").exists()]
        loaded = [np.load(maps / f"{camera.name}.npz") for camera in cameras]
        normals = [data["normal"].astype(np.float32) for data in loaded]
        masks = [data["mask"] for data in loaded]
        for camera, normal, mask in zip(cameras, normals, masks, strict=True):
            true_path, mask_path = folder.normal(frame, camera.name), folder.mask(frame, camera.name)
            if not true_path.exists() or not mask_path.exists():
                continue
            with np.load(true_path) as truth:
                true = truth["normal"].astype(np.float32)
            true_mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 127
            both = mask & true_mask
            angles.append(normal_error_degrees(normal, true, both))
            gradients.append(gradient_errors(normal, true, both))
            overlaps.append(both.sum() / max((mask | true_mask).sum(), 1))
        mesh = folder.mesh(frame) if folder.mesh(frame).exists() else result / "mesh" / f"{frame}.ply"
        if mesh.exists() and len(cameras) > 1:
            sampling, differing = _views_apart(read_ply(mesh), cameras, normals, masks)
            floor.append(sampling)
            apart.append(differing)
    scores = {}
    if angles:
        errors = NormalErrors.of(np.concatenate(angles))
        scores = {"normals_mean_deg": errors.mean, "normals_median_deg": errors.median}
        shares = zip(THRESHOLDS, errors.below, strict=True)
        scores |= {f"normals_below_{limit:g}_deg_percent": 100 * share for limit, share in shares}
        scores |= {"normals_gradient": float(np.concatenate(gradients).mean()), "mask_iou": float(np.mean(overlaps))}
    if sum(map(len, apart)):
        scores["normals_between_views_deg"] = float(np.concatenate(apart).mean())
        scores["normals_between_views_median_deg"] = float(np.median(np.concatenate(apart)))
        scores["normals_between_views_sampling_deg"] = float(np.concatenate(floor).mean())
    return scores


def _views_apart(
    mesh: Mesh, cameras: list[Camera], normals: list[np.ndarray], masks: list[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Angles between views at the same point of a mesh: of the mesh's own normals, and of the predicted ones."""
    shape = normals[0].shape
    chosen = [i for i, normal in enumerate(normals) if normal.shape == shape]  # cameras of one size can be compared
    K, R, t = stack_cameras([cameras[i] for i in chosen])
    raster = make_rasterizer("cpu").rasterize(mesh.vertices, mesh.faces, [cameras[i] for i in chosen])
    world = raster.interpolate(mesh.faces, vertex_normals(mesh.vertices, mesh.faces))  # V,H,W,3
    own = np.einsum("vij,vhwj->vhwi", R, world)
    depth = np.where(np.stack([masks[i] for i in chosen]), raster.depth, 0)
    return view_disagreement((own, np.stack([normals[i] for i in chosen])), depth, K, R, t, step=3)
