"""Rendered multi-view sets on disk, and the batches that training draws from them.

A data folder holds ``NNNNNN.npz`` files, one multi-view set each: ``image`` uint8 (V, S, S, 3), ``normal`` int8
(V, S, S, 3) = round(127 n) in the camera frame, ``mask`` uint8 (V, S, S) 0 or 255, ``depth`` float16 (V, S, S) metres
along the camera's axis and 0 where nothing is (it may be absent: such sets teach no depth), and pinhole cameras ``K``,
``R``, ``t`` float32. Folders may grow while training runs.
"""

from __future__ import annotations

import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models.matches import surface_matches
from models.rays import CameraInputs, camera_inputs, token_depth
from protocol.errors import HeadstreamError

_ARRAYS = ("image", "normal", "mask", "K", "R", "t")
MATCHES = 2048  # points of a set that two views see, told to the loss
HOLD_OUT = 25  # where there is no validation folder, every 25th set is kept from training


@dataclass(frozen=True, eq=False)
class ViewSet:
    """One multi-view set; V pictures of the same moment."""

    image: np.ndarray  # V,S,S,3 uint8
    normal: np.ndarray  # V,S,S,3 int8
    mask: np.ndarray  # V,S,S uint8
    K: np.ndarray  # V,3,3
    R: np.ndarray  # V,3,3
    t: np.ndarray  # V,3
    depth: np.ndarray | None = None  # V,S,S float16

    def choose(self, views: Sequence[int] | np.ndarray) -> ViewSet:
        """Some of the views, in the given order."""
        index = np.asarray(views)
        depth = None if self.depth is None else self.depth[index]
        return ViewSet(**{name: getattr(self, name)[index] for name in _ARRAYS}, depth=depth)


@dataclass(frozen=True)
class Batch:
    """What one step takes: B sets of V views."""

    image: Tensor  # B,V,S,S,3 uint8
    normal: Tensor  # B,V,S,S,3 float32, zero where unknown
    mask: Tensor  # B,V,S,S float32
    depth: Tensor  # B,V,N float32 of the tokens, as rays.token_depth; NaN where unknown
    cameras: tuple[Tensor, ...]  # rays.CameraInputs with a batch axis
    R: Tensor  # B,V,3,3 float32
    matches: Tensor  # B,P,2 int64 where two views show one point, as losses.agreement_loss; -1: none


def load_set(path: Path) -> ViewSet:
    """Read one set. Raises HeadstreamError when the file is not one."""
    try:
        with np.load(path) as data:
            return ViewSet(**{name: data[name] for name in _ARRAYS}, depth=data.get("depth"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise HeadstreamError(f"{path}: not a training set ({error})") from None


def list_sets(folders: Sequence[Path], held_out: bool = False) -> list[Path]:
    """Training sets of the folders that exist now, or those held out of training, in order."""
    paths = [path for folder in folders for path in sorted(folder.glob("*.npz")) if path.stem.isdigit()]
    return [path for path in paths if (int(path.stem) % HOLD_OUT == 0) == held_out]


def make_batch(sets: Sequence[ViewSet]) -> Batch:
    """Stack sets with the same number of views and the same size."""
    size = sets[0].image.shape[1:3]
    cameras = [camera_inputs(s.K, s.R, s.t, *size) for s in sets]
    normal = torch.from_numpy(np.stack([s.normal for s in sets])).float()
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=1.0)
    return Batch(
        image=torch.from_numpy(np.stack([s.image for s in sets])),
        normal=normal,
        mask=torch.from_numpy(np.stack([s.mask for s in sets])).float() / 255,
        depth=torch.from_numpy(np.stack([_token_depth(s) for s in sets])),
        cameras=tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*cameras, strict=True)),
        R=torch.from_numpy(np.stack([s.R for s in sets])).float(),
        matches=torch.from_numpy(np.stack([_matches(s) for s in sets])),
    )


def _matches(views: ViewSet) -> np.ndarray:
    """Some of the points that two views see, evenly out of all of them.  # MATCHES,2"""
    out = np.full((MATCHES, 2), -1, np.int64)
    if views.depth is None or len(views.image) == 1:
        return out
    found = surface_matches(views.depth, views.normal.astype(np.float32), views.K, views.R, views.t, step=3)
    pixels = found.nearest_pixels(*views.mask.shape[1:])
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(MATCHES, len(pixels))).astype(int)]
    out[: len(chosen)] = chosen
    return out


def _token_depth(views: ViewSet) -> np.ndarray:
    """# V,N float32, NaN where unknown"""
    depth = np.zeros_like(views.mask, np.float16) if views.depth is None else views.depth
    return token_depth(views.K, views.R, views.t, depth).astype(np.float32)


def camera_tensors(inputs: CameraInputs) -> tuple[Tensor, ...]:
    """One set's camera inputs with a batch axis."""
    return tuple(torch.from_numpy(array)[None] for array in inputs)


def augment(views: ViewSet, size: int, rng: np.random.Generator) -> ViewSet:
    """A new look at a set: crop or scale to ``size``, mirror, turn the world, change light sensitivity and noise.

    Cameras and normals follow, so the result is as true as the set was. Every view has its own crop, colour and noise,
    as cameras in a rig do.
    """
    views = _resize(views, size, rng)
    if rng.random() < 0.5:
        views = mirrored(views)
    views = replace(views, R=views.R @ _random_turn(rng).astype(np.float32))
    light = rng.normal(0, 0.12) + rng.normal(0, 0.06, len(views.image))
    image = np.stack(
        [_expose(picture, mask, gain, rng) for picture, mask, gain in zip(views.image, views.mask, light, strict=True)]
    )
    return replace(views, image=image)


def mirrored(views: ViewSet) -> ViewSet:
    """The set as a mirror shows it (x reversed in every picture and in the world)."""
    flip = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)
    K = views.K.copy()
    K[:, 0, 2] = views.image.shape[2] - 1 - K[:, 0, 2]
    K[:, 0, 1] *= -1
    normal = views.normal[:, :, ::-1] * np.array([-1, 1, 1], np.int8)
    image, mask = np.ascontiguousarray(views.image[:, :, ::-1]), np.ascontiguousarray(views.mask[:, :, ::-1])
    depth = None if views.depth is None else np.ascontiguousarray(views.depth[:, :, ::-1])
    return ViewSet(image, normal, mask, K, flip @ views.R @ flip, views.t @ flip, depth)


def _resize(views: ViewSet, size: int, rng: np.random.Generator) -> ViewSet:
    """Half of the time whole-pixel windows, which cost no sharpness; else windows of 0.75 to 1.4 times the size."""
    have = views.image.shape[1]
    if have < size:
        raise HeadstreamError(f"the sets are {have} pixels wide, training asks for {size}")
    exact = rng.random() < 0.5
    parts = []
    for i in range(len(views.image)):
        side = size if exact else size * rng.uniform(0.75, 1.4)
        room = have - side
        x, y = (rng.uniform(0, room) if room > 0 else rng.uniform(room, 0) for _ in range(2))
        if exact:
            x, y = int(x), int(y)
        parts.append(_window(views, i, x, y, side, size, exact))
    image, normal, mask, K, *depth = (np.stack(column) for column in zip(*parts, strict=True))
    return replace(views, image=image, normal=normal, mask=mask, K=K, depth=depth[0] if depth else None)


def _window(views: ViewSet, i: int, x: float, y: float, side: float, size: int, exact: bool) -> tuple[np.ndarray, ...]:
    scale = size / side
    K = views.K[i].copy()
    K[:2] *= scale
    K[0, 2] = (views.K[i, 0, 2] + 0.5 - x) * scale - 0.5
    K[1, 2] = (views.K[i, 1, 2] + 0.5 - y) * scale - 0.5
    if exact:
        window = np.s_[int(y) : int(y) + size, int(x) : int(x) + size]
        depth = () if views.depth is None else (views.depth[i][window],)
        return views.image[i][window], views.normal[i][window], views.mask[i][window], K, *depth
    back = np.array([[side / size, 0, x + 0.5 * side / size - 0.5], [0, side / size, y + 0.5 * side / size - 0.5]])

    def warp(array: np.ndarray, border: int, how: int = cv2.INTER_LINEAR) -> np.ndarray:
        return cv2.warpAffine(array, back, (size, size), flags=how | cv2.WARP_INVERSE_MAP, borderMode=border)

    mask = warp(views.mask[i], cv2.BORDER_CONSTANT)
    normal = warp(views.normal[i].astype(np.int16), cv2.BORDER_CONSTANT).astype(np.int8)
    depth = ()
    if views.depth is not None:  # never between two depths: there is no surface between an ear and what is behind it
        depth = (warp(views.depth[i].astype(np.float32), cv2.BORDER_CONSTANT, cv2.INTER_NEAREST),)
    return warp(views.image[i], cv2.BORDER_REPLICATE), normal, mask, K, *depth


def _random_turn(rng: np.random.Generator) -> np.ndarray:
    """Any turn about the vertical and a small tilt: studios agree on up, hardly on anything else."""
    yaw = rng.uniform(-np.pi, np.pi)
    pitch, roll = np.radians(rng.normal(0, 6, 2))
    turn = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))[0]
    return turn @ cv2.Rodrigues(np.array([pitch, 0.0, roll]))[0]


def _expose(picture: np.ndarray, mask: np.ndarray, light: float, rng: np.random.Generator) -> np.ndarray:
    """Background, blur, exposure, white balance, contrast, noise of one camera."""
    if rng.random() < 0.2:
        picture = _new_background(picture, mask, rng)
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.2))
    gamma = np.exp(rng.normal(0, 0.15))
    gain = np.exp(2 * light + rng.normal(0, 0.06, 3))
    curve = np.linspace(0, 1, 256)[:, None] ** gamma * gain + rng.normal(0, 0.02)
    table = (np.clip(curve, 0, 1) * 255).astype(np.uint8)  # 256,3
    picture = cv2.LUT(np.ascontiguousarray(picture), table[None])
    if rng.random() < 0.15:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
        keep = rng.random()
        picture = cv2.addWeighted(picture, keep, np.broadcast_to(grey, picture.shape).copy(), 1 - keep, 0)
    if rng.random() < 0.4:
        noise = np.empty(picture.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, rng.uniform(1, 6))
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
    return picture


def _new_background(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black, one colour, or a soft gradient behind the subject, as studios have."""
    size = picture.shape[0]
    kind = rng.random()
    corners = np.zeros((2, 2, 3), np.float32)
    if kind > 0.4:
        corners += rng.uniform(0, 255, 3)
    if kind > 0.7:
        corners += rng.normal(0, 40, corners.shape)
    back = cv2.resize(np.clip(corners, 0, 255), (size, size), interpolation=cv2.INTER_LINEAR)
    back += cv2.resize(rng.normal(0, rng.uniform(0, 4), (size // 4, size // 4, 3)), (size, size))
    alpha = cv2.GaussianBlur(mask, (0, 0), 0.7)[..., None].astype(np.float32) / 255
    return np.clip(picture * alpha + back * (1 - alpha), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class BatchPlan:
    """How batches are drawn: pictures a step, picture size, and how many views a set gives (drawn evenly)."""

    pictures: int = 12
    size: int = 224
    views: tuple[int, ...] = (1, 2, 3, 4, 6)


class Loader:
    """Draws augmented batches in a thread of its own, so that the optimiser does not wait for the disk.

    Iterating gives batches for ever. ``plan`` may be changed between batches. What goes wrong in the thread is raised
    to the reader.
    """

    def __init__(self, folders: Sequence[Path], plan: BatchPlan, seed: int, depth: int = 3) -> None:
        self._folders, self.plan = list(folders), plan
        self._rng = np.random.default_rng(seed)
        self._order: list[Path] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training-loader")
        self._pending = deque(self._thread.submit(self._draw) for _ in range(depth))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._pending.popleft().result()
            self._pending.append(self._thread.submit(self._draw))
            yield batch

    def close(self) -> None:
        """Stop the thread; batches that wait are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _draw(self) -> Batch:
        rng, plan = self._rng, self.plan
        count = int(rng.choice(plan.views))
        sets = []
        for _ in range(max(1, plan.pictures // count)):
            if not self._order:
                self._order = list_sets(self._folders)  # again each round: the folders may have grown
                if not self._order:
                    raise HeadstreamError(f"no training sets in {', '.join(map(str, self._folders))}")
                rng.shuffle(self._order)
            views = load_set(self._order.pop())
            chosen = rng.permutation(len(views.image))[:count]
            sets.append(augment(views.choose(chosen), plan.size, rng))
        fewest = min(len(s.image) for s in sets)
        return make_batch([s.choose(range(fewest)) for s in sets])
