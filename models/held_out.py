"""Scenes that no training ever sees, with everything that an evaluation wants to know about them.

A training set's random numbers start from two words, seed and index (``models.synthetic.training_sets``). A held-out
scene's start from three, and the third is not zero: numpy fills missing words with zeros, so no seed and no index that
training could be given starts the same stream. Subjects, hair, light, backgrounds and sensors are drawn from the same
distributions as training's, never with the same values. Cameras are drawn by ``draw_rig``, which training's have grown
beyond: scenes stay what they are, so that scores of two days compare.

Scenes are rendered when first asked for and kept as files; the folder's name holds a digest of the generator's code, so
a changed generator makes new ones.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from platformdirs import user_cache_path
from scipy.spatial import cKDTree

from geometry.cameras import pixel_rays
from models.synthetic.photography import draw_rig, exposure_for
from models.synthetic.render import render
from models.synthetic.scenes import draw_scene
from models.synthetic.topology import topology
from models.synthetic.training_sets import photograph
from models.workers import spread
from protocol.calibration import Camera

HELD_OUT = 0x48454C44  # the third word
PLAIN = ("black", "plain", "gradient")  # backdrops; all others are clutter
REGIONS = ("", "face", "ears", "scalp", "neck and body")  # by the number in ``KnownScene.region``; "" is no person
_HEAD = -0.125  # metres below the middle of an average head: what is lower helps no fit of heads


@dataclass(frozen=True, eq=False)
class KnownScene:
    """V pictures of one moment, with what is known of them."""

    image: np.ndarray  # V,S,S,3 uint8 RGB
    normal: np.ndarray  # V,S,S,3 float16 unit, camera frame; zero where nothing is
    mask: np.ndarray  # V,S,S bool, where the subject is
    depth: np.ndarray  # V,S,S float32 metres along z, 0 where nothing is, or unknown
    region: np.ndarray  # V,S,S uint8 index into REGIONS
    K: np.ndarray  # V,3,3
    R: np.ndarray  # V,3,3
    t: np.ndarray  # V,3
    kind: str  # person, statue, skull, solid; capture
    backdrop: str

    @property
    def cameras(self) -> list[Camera]:
        """The pinhole cameras."""
        size, none = self.image.shape[1], np.zeros(5)
        parts = zip(self.K, self.R, self.t, strict=True)
        return [Camera(f"view{i}", size, size, K, none, R, t) for i, (K, R, t) in enumerate(parts)]

    def first(self, views: int) -> KnownScene:
        """The same scene with its first ``views`` pictures; they stand in random order around the subject."""
        return self.only(slice(views))

    def only(self, views: slice | Sequence[int]) -> KnownScene:
        """The same scene with these pictures, in this order."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return KnownScene(**{k: v[views] if isinstance(v, np.ndarray) else v for k, v in parts.items()})


def make_held_out(seed: int, index: int, views: int = 10, size: int = 256) -> KnownScene:
    """Render one scene; the same for the same arguments. There always is a subject."""
    rng = np.random.default_rng([seed, index, HELD_OUT])
    scene = draw_scene(rng)
    cameras = draw_rig(rng, scene.surface.vertices, views, size)
    renderings = render(scene.surface, cameras, scene.lighting)
    masks = [rendering.mask for rendering in renderings]
    gain = exposure_for([rendering.light for rendering in renderings], masks)
    images, backdrop = photograph(rng, renderings, masks, gain, scene.flash)
    depth = np.stack([rendering.depth * mask for rendering, mask in zip(renderings, masks, strict=True)])
    region = np.zeros(depth.shape, np.uint8)
    if scene.kind == "person":
        region = region_maps(depth, cameras, scene.surface.vertices, scene.surface.normals)
    return KnownScene(
        images,
        np.stack([rendering.normal for rendering in renderings]).astype(np.float16),
        np.stack(masks),
        depth,
        region,
        np.stack([camera.K for camera in cameras]),
        np.stack([camera.R for camera in cameras]),
        np.stack([camera.t for camera in cameras]),
        scene.kind,
        backdrop,
    )


def held_out_sets(
    count: int,
    seed: int = 0,
    views: int = 10,
    size: int = 256,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> list[Path]:
    """Files of the scenes 0 to ``count`` - 1, rendered where they are not there yet; ``load_held_out`` reads them.

    folder: where to keep them; the user's cache by default, in which the scenes of other versions of the generator are
    removed. workers: processes that render.
    """
    if folder is None:
        root = user_cache_path("headstream") / "held_out"
        for old in root.glob("*-*"):
            if not old.name.startswith(_generator()):
                shutil.rmtree(old, ignore_errors=True)
        folder = root
    folder = folder / f"{_generator()}-{views}x{size}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}-{index:04d}.npz" for index in range(count)]
    jobs = [(path, seed, index, views, size) for index, path in enumerate(paths) if not path.exists()]
    done = count - len(jobs)
    made = spread(_write, jobs, workers) if workers > 1 and len(jobs) > 2 * workers else map(_write, jobs)
    for _ in made:
        done += 1
        if progress:
            progress(done, count)
    return paths


def _write(job: tuple[Path, int, int, int, int]) -> None:
    path, *arguments = job
    made = make_held_out(*arguments)
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez_compressed(file, **{field.name: getattr(made, field.name) for field in fields(made)})
    scratch.replace(path)


def load_held_out(path: Path) -> KnownScene:
    """Read one scene; a file that was spoiled is removed, and ValueError raised."""
    try:
        with np.load(path) as data:
            values = {field.name: data[field.name] for field in fields(KnownScene)}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path}: was no held-out scene and has been removed; run again ({error})") from None
    return KnownScene(**values | {key: str(values[key]) for key in ("kind", "backdrop")})


def region_maps(depth: np.ndarray, cameras: Sequence[Camera], surface: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Regions where pixels (V, S, S) have depth, 0 elsewhere; surface and normals as ``regions_of`` takes them.

    Gives (V, S, S) uint8.
    """
    region = np.zeros(depth.shape, np.uint8)
    region[depth > 0] = regions_of(_points(depth, cameras), surface, normals)
    return region


def regions_of(points: np.ndarray, surface: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Which region of a head each point (N, 3) belongs to: an index into REGIONS.  # N uint8

    The average adult, whose regions are known, is laid over the subject (vertices and unit normals (P, 3)) by a
    similarity, evenly over the head; a quarter of it may lie anywhere, since hair, hats and collars have no partner on
    the bare average. Each point takes the region of the nearest place. Over random bare heads that is right for 98 % of
    the vertices, and finds 97 % of the ears.
    """
    model, label = _average_head()
    head = model[model[:, 1] > _HEAD]
    _, one_a_cell = np.unique(np.floor(head / 0.007).astype(int), axis=0, return_index=True)
    tree = cKDTree(surface)
    fits = [_fit(head[one_a_cell], tree, normals, nod, 20) for nod in (-0.5, 0.0, 0.5)]
    matrix = min(fits, key=lambda fit: fit[0])[1]
    return label[cKDTree(model @ matrix[:3] + matrix[3]).query(points)[1]]


def _fit(head: np.ndarray, tree: cKDTree, normals: np.ndarray, nod: float, rounds: int) -> tuple[float, np.ndarray]:
    """Lay a head over a surface, from nodding by ``nod`` radians on: the mean distance left, and the similarity.

    Point-to-plane iterations (Chen and Medioni 1992): a head is nearly round, and pairs of points alone would keep it
    from turning. The similarity (4, 3) takes rows (x, 1).
    """
    matrix = np.vstack([cv2.Rodrigues(np.array([nod, 0.0, 0.0]))[0].T, np.zeros(3)])
    left = 0.0
    for _ in range(rounds):
        at = head @ matrix[:3] + matrix[3]
        distance, nearest = tree.query(at)
        kept = distance <= np.quantile(distance, 0.75)
        left = float(distance[kept].mean())
        at, toward, normal = at[kept], tree.data[nearest[kept]] - at[kept], normals[nearest[kept]]
        middle = at.mean(0)
        arm = at - middle
        rows = np.concatenate([np.cross(arm, normal), normal, (arm * normal).sum(1, keepdims=True)], 1)
        step = np.linalg.lstsq(rows, (toward * normal).sum(1))[0]
        turn = cv2.Rodrigues(step[:3])[0].T * (1 + np.clip(step[6], -0.1, 0.1))
        matrix = np.vstack([matrix[:3] @ turn, (matrix[3] - middle) @ turn + middle + step[3:6]])
    return left, matrix


def silhouette_band(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of masks (V, H, W) at most ``width`` pixels from the outline; a picture's border is none.  # V,H,W bool"""
    far = [cv2.distanceTransform(view.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for view in mask]
    return mask & (np.stack(far) <= width)


@cache
def _average_head() -> tuple[np.ndarray, np.ndarray]:
    """Skin, eyes and mouth of the average adult (N, 3), and the region of each vertex (N,)."""
    sites = topology().sites[1]
    points = np.asarray(sites.points, np.float64)
    turn = np.degrees(np.abs(np.arctan2(points[:, 0], points[:, 2] + 0.01)))  # 0 in front, 180 behind
    hairline = np.interp(turn, [0, 35, 55, 75, 100, 140, 180], [0.072, 0.070, 0.050, 0.0, 0.0, -0.045, -0.065])
    below_chin = points[:, 1] < -0.112 + 0.0006 * turn  # the jaw rises towards the ears
    label = np.select(
        [sites.ear > 0.5, points[:, 1] > hairline, (turn < 80) & ~below_chin],
        [REGIONS.index(name) for name in ("ears", "scalp", "face")],
        REGIONS.index("neck and body"),
    )
    return points, label.astype(np.uint8)


def _points(depth: np.ndarray, cameras: Sequence[Camera]) -> np.ndarray:
    """World points of the pixels that show something, view by view.  # N,3"""
    out = []
    for z, camera in zip(depth, cameras, strict=True):
        rays = pixel_rays(camera)[z > 0]
        out.append((rays / rays[:, 2:] * z[z > 0][:, None] - camera.t) @ camera.R)
    return np.concatenate(out)


@cache
def _generator() -> str:
    """A digest of the code that draws and renders scenes."""
    here = Path(__file__)
    files = [here, *sorted((here.parent / "synthetic").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
