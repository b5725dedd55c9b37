"""What a training run says of itself: CSV files that any program reads, and the same numbers for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class RunLog:
    """One run's numbers in its folder: ``log.csv`` and ``validation.csv``, and event files in ``tensorboard``.

    Each row is on disk when ``write`` returns. A resumed run goes on in the same files: what a killed run wrote after
    its checkpoint, of ``step``, is forgotten, since those steps come again. ``close`` ends the event file.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._folder = folder
        for kind in ("log", "validation"):
            _forget_after(folder / f"{kind}.csv", step)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, flush_secs=30)

    def write(self, kind: str, step: int, minutes: float, values: Mapping[str, float]) -> None:
        """Add a row to ``<kind>.csv``; ``minutes`` of training so far."""
        path = self._folder / f"{kind}.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(("step", "minutes", *values))
            writer.writerow((step, f"{minutes:.3f}", *(f"{value:.6g}" for value in values.values())))
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name.replace(' ', '_')}", value, step)

    def close(self) -> None:
        """End the event file."""
        self._events.close()


def _forget_after(path: Path, step: int) -> None:
    """Take rows of later steps out of a CSV file, and one that was cut off; a reader never sees half a file."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    kept = whole[:1] + [row for row in whole[1:] if int(row.partition(b",")[0]) <= step]
    if not kept:
        path.unlink()
    elif kept != lines:
        scratch = path.with_suffix(".part")
        scratch.write_bytes(b"".join(kept))
        scratch.replace(path)
