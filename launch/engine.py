"""``headstream engine``: build what an engine needs ahead of a shoot, and hand the network to other runtimes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.engines import make_engine, usual_size
from models.engines.parity import parity
from protocol.errors import HeadstreamError
from protocol.rig import load_rig


@dataclass(frozen=True)
class Build:
    """One engine to build: its name and everything that it is built for."""

    engine: str
    weights: Path | None
    views: int
    size: int
    precision: str


def chosen_build(
    rig: Path | None,
    engine: str | None,
    weights: Path | None,
    views: int | None,
    size: int | None,
    precision: str | None,
) -> Build:
    """What the rig file's ``[normals]`` and number of cameras say, or the options; an option wins over the rig.

    Raises HeadstreamError when neither says for how many views.
    """
    if rig is not None:
        loaded = load_rig(rig)
        wanted = loaded.normals
        name = engine or wanted.engine
        return Build(
            name,
            weights or (Path(wanted.weights) if wanted.weights else None),
            views or len(loaded.cameras),
            size or wanted.size or usual_size(name),
            precision or wanted.precision,
        )
    if views is None:
        raise HeadstreamError("engine: for how many views? give --rig RIG, or --views and --size")
    name = engine or "openvino"
    return Build(name, weights, views, size or usual_size(name), precision or "bf16")


def build_engine(build: Build, check: bool) -> dict[str, Any]:
    """Make the engine once, so that the next start finds it in the cache; how long that took, and how true it is."""
    start = time.perf_counter()
    engine = make_engine(
        build.engine, weights=build.weights, views=build.views, size=build.size, precision=build.precision
    )
    built = time.perf_counter() - start
    report: dict[str, Any] = {"engine": engine.describe(), "location": engine.location and str(engine.location)}
    report |= {"seconds": round(built, 2), "seconds_again": None}
    if engine.location is not None:
        start = time.perf_counter()
        make_engine(build.engine, weights=build.weights, views=build.views, size=build.size, precision=build.precision)
        report["seconds_again"] = round(time.perf_counter() - start, 2)
    if check:
        found = parity(engine, build.weights)
        report |= {"parity_mean_deg": round(found.mean_deg, 4), "parity_mask": round(found.mask, 5)}
    return report


def built_lines(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [report["engine"]]
    if report["location"]:
        again = f"a start from there takes {report['seconds_again']:.1f} s"
        lines.append(f"  kept in {report['location']}; ready after {report['seconds']:.1f} s, {again}")
    else:
        lines.append(f"  nothing is kept: this engine starts from the weights; ready after {report['seconds']:.1f} s")
    if "parity_mean_deg" in report:
        lines.append(f"  {report['parity_mean_deg']:.3f} degrees mean from PyTorch in float32 with the same weights")
    return "\n".join(lines)
