"""Training sets held ready on the device that trains; threads read what the folders have, and what they get.

Disks and the reading of files would set the pace otherwise: a GPU takes thousands of pictures a second. Sets that were
read once are drawn again and again, in ever new looks (``augment``). Where the folders hold more than there is room
for, every set that was drawn makes room for one that was not yet read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.training.batch import Sets
from models.training.dataset import list_sets, load_set
from models.training.upload import pinned, upload
from protocol.errors import HeadstreamError

_FIRST = 512  # sets to have before the first batch, where there are as many: a few would be learned by heart
_AHEAD = 64  # sets that were read and wait to be taken in
_LOOK_AGAIN = 0.5  # seconds between looks for new files
_PICTURES = ("image", "normal", "mask", "depth")
_CAMERAS = ("K", "R", "t")


@dataclass(frozen=True, eq=False)
class _Read:
    """One set from a file, ready to be copied to the device."""

    path: Path
    maps: dict[str, Tensor]
    cameras: dict[str, np.ndarray]


class Pool:
    """At most ``gigabytes`` of sets of one shape on ``device``. What goes wrong in a reader is raised by ``draw``.

    ``close`` ends the readers.
    """

    def __init__(
        self, folders: Sequence[Path], device: torch.device, gigabytes: float, seed: int, readers: int = 1
    ) -> None:
        self._folders, self._device = list(folders), device
        self._bytes = gigabytes * 1e9
        self._arrived: queue.Queue[_Read | Exception] = queue.Queue(_AHEAD)
        self._maps: dict[str, Tensor] = {}
        self._cameras: dict[str, np.ndarray] = {}
        self._room = 0  # sets that fit; known with the first
        self._taken = 0  # sets taken in so far
        self._lock = threading.Lock()  # of what readers share: the order, and what they have seen
        self._order: list[Path] = []
        self._seen: set[Path] = set()
        self._reads = np.random.default_rng(seed)
        self._ends = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, name="training-reader", daemon=True) for _ in range(readers)
        ]
        for reader in self._readers:
            reader.start()

    def __len__(self) -> int:
        """Sets that can be drawn now."""
        return min(self._taken, self._room)

    def draw(self, count: int, views: int, rng: np.random.Generator) -> Sets:
        """``count`` random sets, ``views`` random pictures of each in random order.

        Waits for the first sets. Raises HeadstreamError when the folders hold none, when one cannot be read, and when
        two differ in shape.
        """
        if not self._taken:
            self._wait()
        for _ in range(_AHEAD if len(self) < self._room else count):
            try:
                self._take(self._arrived.get_nowait())
            except queue.Empty:
                break
        have = self._maps["image"].shape[1]
        chosen = rng.choice(len(self), count, replace=count > len(self))[:, None]
        order = rng.permuted(np.tile(np.arange(have), (count, 1)), axis=1)[:, :views]
        places, pictures = (upload(a, self._device) for a in (chosen, order))
        maps = {name: self._maps[name][places, pictures] for name in _PICTURES}
        return Sets(**maps, **{name: self._cameras[name][chosen, order] for name in _CAMERAS})

    def close(self) -> None:
        """End the readers."""
        self._ends.set()
        for reader in self._readers:
            reader.join()

    def _wait(self) -> None:
        files = len(list_sets(self._folders))
        if not files:
            raise HeadstreamError(f"no training sets in {', '.join(map(str, self._folders))}")
        while self._taken < min(_FIRST, files, self._room or files):
            self._take(self._arrived.get())

    def _take(self, read: _Read | Exception) -> None:
        """Put a set into the next place; round and round when there is none left."""
        if isinstance(read, Exception):
            raise read
        if not self._maps:
            self._make_room(read)
        place = self._taken % self._room
        for name, array in read.maps.items():
            shape = self._maps[name].shape[1:]
            if array.shape != shape:
                raise HeadstreamError(f"{read.path}: {name} is {tuple(array.shape)}, of other sets {tuple(shape)}")
            self._maps[name][place].copy_(array, non_blocking=True)
        for name, array in read.cameras.items():
            self._cameras[name][place] = array
        self._taken += 1

    def _make_room(self, like: _Read) -> None:
        self._room = max(1, int(self._bytes // sum(array.nbytes for array in like.maps.values())))
        for name, array in like.maps.items():
            self._maps[name] = torch.empty((self._room, *array.shape), dtype=array.dtype, device=self._device)
        for name, array in like.cameras.items():
            self._cameras[name] = np.empty((self._room, *array.shape))

    def _read(self) -> None:
        while not self._ends.is_set():
            path = self._next()
            if path is None:
                self._ends.wait(_LOOK_AGAIN)
                continue
            try:
                read: _Read | Exception = self._load(path)
            except Exception as error:  # a thread has nobody to tell but the one who draws
                read = error
            while not self._ends.is_set():
                try:
                    self._arrived.put(read, timeout=_LOOK_AGAIN)
                    break
                except queue.Full:
                    continue

    def _load(self, path: Path) -> _Read:
        views = load_set(path)
        maps = {name: getattr(views, name) for name in _PICTURES}
        if views.depth is None:
            maps["depth"] = np.zeros(views.mask.shape, np.float16)
        return _Read(
            path,
            {name: pinned(array, self._device) for name, array in maps.items()},
            {name: getattr(views, name) for name in _CAMERAS},
        )

    def _next(self) -> Path | None:
        """A file that was not yet read; all again, in another order, when there are more than fit."""
        with self._lock:
            if not self._order:
                files = list_sets(self._folders)
                self._order = [path for path in files if path not in self._seen]
                if not self._order and self._room and len(files) > self._room:
                    self._order = files
                self._reads.shuffle(self._order)
            if not self._order:
                return None
            path = self._order.pop()
            self._seen.add(path)
            return path
