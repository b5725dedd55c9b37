"""Rendered multi-view sets on disk.

A data folder holds ``NNNNNN.npz`` files, one multi-view set each: ``image`` uint8 (V, S, S, 3), ``normal`` int8
(V, S, S, 3) = round(127 n) in the camera frame, ``mask`` uint8 (V, S, S) 0 or 255, ``depth`` float16 (V, S, S) metres
along the camera's axis and 0 where nothing is (it may be absent: such sets teach no depth), and pinhole cameras ``K``,
``R``, ``t`` float32. Folders may grow while training runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.rays import CameraInputs
from protocol.errors import HeadstreamError

_ARRAYS = ("image", "normal", "mask", "K", "R", "t")
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

    def first_view(self) -> ViewSet:
        """Its first picture alone."""
        depth = None if self.depth is None else self.depth[:1]
        return ViewSet(**{name: getattr(self, name)[:1] for name in _ARRAYS}, depth=depth)


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


def camera_tensors(inputs: CameraInputs) -> tuple[Tensor, ...]:
    """One set's camera inputs with a batch axis."""
    return tuple(torch.from_numpy(array)[None] for array in inputs)
