"""Tables of takes that were played and measured: ``surface`` and ``fast`` print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from benchmarks._phases import BACK, HOLD, Phase, back_after, drift, flags_in, said, summarised, typical
from benchmarks._takes import Played
from geometry.measure import DistanceSummary

_COLUMNS = ("frames", "measured", "surface to truth", "truth to surface", "slid", "inverted", "back after", "flags")
_EXPLAINED = (
    "median / 95 % of a frame's distances, mm: medians over frames, and below the worst frame's (its number)\n"
    f"back after: frames until median / 95 % are within {BACK:g} of before, for {HOLD} measured frames in a row"
)


def accuracy_table(title: str) -> Table:
    """An empty one; ``add_rows`` fills it."""
    table = Table(title=f"{title}\n{_EXPLAINED}")
    for column in ("normals", "part", *_COLUMNS):
        table.add_column(column)
    return table


def add_rows(
    table: Table, run: str, played: Sequence[Played], phases: Sequence[Phase], clean: Sequence[Played] = ()
) -> dict[tuple[str, str], list[Played]]:
    """Add a row a phase; returns the frames of each. clean: warm ones without a fault, else those before it."""
    good = typical(clean or [each for phase in phases if phase.name == "before" for each in phase.of(played)])
    for phase in phases:
        table.add_row(run, phase.name, *_row(phase, phase.of(played), good))
    return {(run, phase.name): phase.of(played) for phase in phases}


def _row(phase: Phase, part: Sequence[Played], before: DistanceSummary | None) -> tuple[str, ...]:
    return (
        f"{len(part)}",
        f"{sum(each.there is not None for each in part)}",
        *(_distances({each.frame: getattr(each, way) for each in part}) for way in ("there", "back", "slid")),
        f"{max((each.quality.inverted for each in part), default=0)}",
        _returned(phase, part, before) if phase.settles and before else "",
        ", ".join(f"{flag} x{count} (from {first})" for flag, (count, first) in flags_in(part).items()),
    )


def quality_table(rows: Mapping[tuple[str, str], Sequence[Played]]) -> Table:
    """``said`` of each part of each run."""
    table = Table(title="what the tracker says of itself: median (least to most)")
    parts = {name: said(played) for name, played in rows.items()}
    numbers = list(dict.fromkeys(number for found in parts.values() for number in found))
    for column in ("run", "part", *numbers):
        table.add_column(column)
    for (run, part), found in parts.items():
        table.add_row(
            run, part, *("{:.4g} ({:.4g} to {:.4g})".format(*found[n]) if n in found else "" for n in numbers)
        )
    return table


def timing_table(runs: Mapping[str, Sequence[Played]]) -> Table:
    """Milliseconds of each stage of each run's keyframes and warm frames."""
    table = Table(title="milliseconds (medians)")
    rows = []
    for run, played in runs.items():
        for kind in ("keyframe", "warm"):
            seconds = [each.seconds for each in played if each.kind == kind]
            names = list(dict.fromkeys(name for each in seconds for name in each))
            medians = {name: 1e3 * float(np.median([each.get(name, 0) for each in seconds])) for name in names}
            total = 1e3 * float(np.median([sum(each.values()) for each in seconds])) if seconds else 0.0
            rows.append((run, kind, total, medians))
    stages = list(dict.fromkeys(stage for *_, medians in rows for stage in medians))
    for column in ("run", "frame", "total", *stages):
        table.add_column(column, justify="right" if column not in ("run", "frame") else "left")
    for run, kind, total, medians in rows:
        cells = (f"{medians[stage]:.0f}" if stage in medians else "" for stage in stages)
        table.add_row(run, kind, f"{total:.0f}", *cells)
    return table


def _distances(measured: Mapping[int, DistanceSummary | None]) -> str:
    """Medians over frames, and below them the largest of each with its frame."""
    known = {frame: each for frame, each in measured.items() if each}
    middle = summarised(list(known.values()))
    if middle is None:
        return ""
    shown = f"{1e3 * middle.median:.3f} / {1e3 * middle.p95:.2f}"
    if len(known) == 1:
        return shown
    median, p95 = (max(known, key=lambda frame: getattr(known[frame], name)) for name in ("median", "p95"))
    return f"{shown}\n{1e3 * known[median].median:.3f} ({median}) / {1e3 * known[p95].p95:.2f} ({p95})"


def _returned(phase: Phase, part: Sequence[Played], before: DistanceSummary) -> str:
    shown = []
    for name in ("median", "p95"):
        errors = {each.frame: getattr(each.there, name) for each in part if each.there}
        after = back_after(errors, phase.frames.start, BACK * getattr(before, name))
        shown.append("not" if after is None else f"{after}")
    return " / ".join(shown)


def remark(run: str, played: Sequence[Played]) -> str:
    """What is said of a run as a whole."""
    quarter = max(1, len(played) // 4)
    parts = played[quarter : 2 * quarter] or played, played[-quarter:]
    early, late = (max(each.memory for each in part) for part in parts)
    measured = [each for each in played if each.there]
    cost = float(np.mean([each.measuring for each in measured]))
    ratio = drift(played)
    ends = f"; drift: median x{ratio[0]:.2f}, 95 % x{ratio[1]:.2f}" if ratio else ""
    return (
        f"{run}: {len(measured)} of {len(played)} frames measured, {cost:.2f} s each{ends}; at most {early:.0f} MB in "
        f"use in the second quarter, {late:.0f} in the last"
    )
