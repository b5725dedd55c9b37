"""``headstream engine``: build what an engine needs ahead of a shoot, and hand the network to other runtimes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.engines import EngineUnavailable, make_engine, usual_precision, usual_size
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
    device: str = ""  # as ``normals.device``


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
        device = wanted.device if name == wanted.engine else ""  # of that engine
        return Build(
            name,
            weights or (Path(wanted.weights) if wanted.weights else None),
            views or len(loaded.cameras),
            size or wanted.size or usual_size(name, device),
            precision or wanted.precision or usual_precision(name),
            device,
        )
    if views is None:
        raise HeadstreamError("engine: for how many views? give --rig RIG, or --views and --size")
    name = engine or "openvino"
    return Build(name, weights, views, size or usual_size(name), precision or usual_precision(name))


def build_engine(build: Build, check: bool) -> dict[str, Any]:
    """Make the engine once, so that the next start finds it in the cache; how long that took, and how true it is."""
    wanted: dict[str, Any] = {name: value for name, value in asdict(build).items() if name != "engine"}
    start = time.perf_counter()
    try:
        engine = make_engine(build.engine, **wanted)
    except EngineUnavailable as error:
        if build.engine != "tensorrt":
            raise
        raise HeadstreamError(f"{error}; --target sm89 builds for a GPU that is not here") from None
    built = time.perf_counter() - start
    report: dict[str, Any] = {"engine": engine.describe(), "location": engine.location and str(engine.location)}
    report |= {"seconds": round(built, 2), "seconds_again": None}
    if engine.location is not None:
        start = time.perf_counter()
        make_engine(build.engine, **wanted)
        report["seconds_again"] = round(time.perf_counter() - start, 2)
    if check:
        found = parity(engine, build.weights)
        report |= {"parity_mean_deg": round(found.mean_deg, 4), "parity_mask": round(found.mask, 5)}
    return report


def build_plans(build: Build, targets: str, check: bool) -> list[dict[str, Any]]:
    """TensorRT plans for GPUs that need not be here, ``sm89,sm86``: a report of each, with its layers' precisions.

    check: run the very graph that went into the builder by OpenVINO in float32 and compare it with PyTorch; the plan
    itself runs on its GPU alone. Raises HeadstreamError for another engine than tensorrt, or a target that is unknown.
    """
    if build.engine != "tensorrt":
        raise HeadstreamError(f"engine: --target is for --engine tensorrt; {build.engine} is built where it runs")
    from models.engines.tensorrt_build import library, make_plans

    wanted = list(dict.fromkeys(name.strip() for name in targets.split(",") if name.strip()))
    if not wanted:
        raise HeadstreamError("engine: --target is empty; give one or more, such as sm89,sm120")
    plans, graph = make_plans(library(cross=True), build.weights, build.views, build.size, build.precision, wanted)
    reports = []
    for plan in plans:
        report = asdict(plan) | {"path": str(plan.path), "graph": str(graph), "precisions": plan.precisions()}
        report["float32_kinds"] = plan.kinds("f32")
        reports.append(report)
    if check:
        from models.export import onnx_parity

        angle = round(onnx_parity(graph, build.views, build.size, build.weights), 4)
        reports = [report | {"graph_parity_mean_deg": angle} for report in reports]
    return reports


def plan_lines(reports: list[dict[str, Any]]) -> str:
    """The reports of plans for people."""
    lines = []
    for report in reports:
        shape = f"{report['views']} x {report['size']} px"
        lines.append(f"{report['library']} for {report['target']}, {report['precision']}, {shape}")
        lines.append(f"  {report['bytes'] / 1e6:.1f} MB, built in {report['seconds']:.1f} s, kept in {report['path']}")
        counts = ", ".join(f"{count} in {name}" for name, count in report["precisions"].items())
        lines.append(f"  {len(report['layers'])} layers before fusion: {counts}; no operation is unsupported")
        if report["precision"] != "f32" and report["float32_kinds"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in report["float32_kinds"].items())
            lines.append(f"  in f32, after the decoder and along rays: {kinds}")
    first = reports[0]
    if "graph_parity_mean_deg" in first:
        angle = first["graph_parity_mean_deg"]
        lines.append(
            f"the graph with its weights in {first['precision']}, run by OpenVINO in float32: {angle:.3f} degrees"
        )
        lines.append("mean from PyTorch in float32; a plan itself runs on its GPU alone and was not run here")
    return "\n".join(lines)


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
