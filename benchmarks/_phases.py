"""A take in parts: what each part is like, how bad its worst frame is, and when what went wrong is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks._takes import Fault, Played
from geometry.measure import DistanceSummary

HOLD = 3  # measured frames in a row that must be good before a surface counts as recovered
BACK = 1.5  # times what the error was before
ENDS = 30  # measured frames at either end of a take, between which it may drift


@dataclass(frozen=True)
class Phase:
    """Frames of a take that get a row of their own. settles: whether they are when the surface has to come back."""

    name: str
    frames: range
    settles: bool = False

    def of(self, played: Sequence[Played]) -> list[Played]:
        """Those of the played frames that are in it."""
        return [each for each in played if each.frame in self.frames]


def whole(count: int) -> tuple[Phase, ...]:
    """Of a take in which nothing happens."""
    phases = [Phase("keyframe", range(1)), Phase("warm", range(1, count))]
    if count > 2 * ENDS:
        phases += [
            Phase(f"first {ENDS} warm", range(1, ENDS + 1)),
            Phase(f"last {ENDS}", range(count - ENDS, count)),
        ]
    return tuple(phases)


def around(fault: Fault, count: int) -> tuple[Phase, ...]:
    """Of a take with a fault in it. The keyframe stands by itself; nothing is before what is there from the start."""
    frames = fault.frames
    before = (Phase("before", range(1, frames.start)),) if frames.start else ()
    during = Phase("during", range(max(frames.start, 1), frames.stop))
    return Phase("keyframe", range(1)), *before, during, Phase("after", range(frames.stop, count), settles=True)


def typical(played: Sequence[Played]) -> DistanceSummary | None:
    """The medians, over the frames that were measured, of their distances' medians and 95 %; None without any."""
    return summarised([each.there for each in played if each.there])


def back_after(errors: Mapping[int, float], first: int, limit: float) -> int | None:
    """How many frames from ``first`` on pass before the error (of each measured frame) is within the limit for HOLD of
    them in a row: 0 when it never left; None when it does not come back."""
    later = sorted(frame for frame in errors if frame >= first)
    for n in range(len(later) - HOLD + 1):
        if all(errors[frame] <= limit for frame in later[n : n + HOLD]):
            return later[n] - first
    return None


def drift(played: Sequence[Played]) -> tuple[float, float] | None:
    """The error of the last ENDS measured warm frames over that of the first: median, 95 %. Of a shorter take halves;
    None where fewer than two were measured."""
    measured = [each for each in played if each.frame and each.there]
    span = min(ENDS, len(measured) // 2)
    if not span:
        return None
    first, last = typical(measured[:span]), typical(measured[-span:])
    assert first and last
    return last.median / first.median, last.p95 / first.p95


def flags_in(played: Sequence[Played]) -> dict[str, tuple[int, int]]:
    """Each flag that was raised: on how many frames, and on which first."""
    found: dict[str, tuple[int, int]] = {}
    for each in played:
        for flag in each.quality.flags:
            count, first = found.get(flag, (0, each.frame))
            found[flag] = count + 1, first
    return dict(sorted(found.items()))


def said(played: Sequence[Played]) -> dict[str, tuple[float, float, float]]:
    """What the tracker says of itself: each number of its ``Quality``, over frames the median, the least, the most."""
    found = {}
    for field in dataclasses.fields(played[0].quality) if played else ():
        values = [getattr(each.quality, field.name) for each in played]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if numbers:
            found[field.name] = float(np.median(numbers)), float(min(numbers)), float(max(numbers))
    return found


def summarised(summaries: Sequence[DistanceSummary]) -> DistanceSummary | None:
    """Of several frames' summaries the medians; None without any."""
    if not summaries:
        return None
    count = sum(each.count for each in summaries)
    return DistanceSummary(
        count, *(float(np.median([getattr(each, name) for each in summaries])) for name in ("median", "mean", "p95"))
    )
