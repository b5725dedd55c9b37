"""``headstream evaluate --synthetic``: what the normal engine alone is worth on scenes that no training sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models.engines import NormalEngine, make_engine
from models.engines.base import MOST_VIEWS
from models.held_out import held_out_sets, load_held_out
from models.scores import score_scenes, table
from protocol.errors import HeadstreamError

USUAL_VIEWS = (3, 6, 8, 10)
Step = Callable[[str, int, int], None]  # what is being done, how many of it are done, of how many


@dataclass(frozen=True)
class EngineChoice:
    """Which normal engine, with which weights, at which size of pictures."""

    name: str = "openvino"
    weights: Path | None = None
    size: int = 256
    precision: str = "bf16"

    def make(self, views: int) -> NormalEngine:
        """The engine for so many views. Raises HeadstreamError."""
        return make_engine(self.name, weights=self.weights, views=views, size=self.size, precision=self.precision)


def parse_views(text: str) -> tuple[int, ...]:
    """Numbers of views such as ``3,6,8,10``, sorted. Raises HeadstreamError."""
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or counts[-1] > MOST_VIEWS:
        raise HeadstreamError(
            f"--views: {text!r}; must be numbers from 1 to {MOST_VIEWS} separated by commas, such as 3,6,8,10"
        )
    return tuple(counts)


def evaluate_synthetic(
    choice: EngineChoice, sets: int, seed: int, views: Sequence[int], cache: Path | None, step: Step
) -> dict[str, Any]:
    """Score an engine on scenes that training never sees; they are rendered where the cache lacks them."""
    engines = {}
    for number, count in enumerate(views):
        step("engines", number, len(views))
        engines[count] = choice.make(count)
    paths = held_out_sets(sets, seed, max(views), choice.size, cache, partial(step, "render"), os.cpu_count() or 1)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        step("evaluate", done, sets)

    scenes = [partial(load_held_out, path) for path in paths]
    scores = score_scenes(scenes, {count: engine.predict for count, engine in engines.items()}, tick)
    return {"engine": engines[max(views)].describe(), "seed": seed} | scores


def synthetic_table(scores: dict[str, Any]) -> str:
    """The scores for people, ready for a document."""
    return f"{scores['engine']}, seed {scores['seed']}\n{table(scores)}"
