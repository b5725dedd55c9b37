"""The command line ``headstream``: one verb a job."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from launch import logs
from launch.doctor_report import probe_app
from launch.progress import progress_bar
from launch.remote.commands import add_to as add_remote_verbs
from launch.service.commands import app as service_app
from protocol.errors import HeadstreamError

if TYPE_CHECKING:
    from protocol.capture_folder import CaptureFolder

app = typer.Typer(
    help="Continuous 3D head capture from a ring of ordinary cameras.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(probe_app, name="probe", hidden=True)
app.add_typer(service_app, name="service", no_args_is_help=True)
add_remote_verbs(app)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
BAD_INPUT = 2
INTERRUPTED = 130

RigPath = Annotated[Path, typer.Argument(metavar="RIG", help="the rig file, rig.toml")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print for machines")]


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(help="end after this long, counted from the first mesh")] = None,
    record: Annotated[bool, typer.Option("--record", help="record a take")] = False,
    export: Annotated[str | None, typer.Option(help="export the take when done: usd or ply")] = None,
    browser: Annotated[bool, typer.Option(help="open the preview in a browser")] = True,
    capture: Annotated[Path | None, typer.Option(help="play this capture folder, not the simulated subject")] = None,
    cameras: Annotated[str | None, typer.Option(help="cameras or groups of it, separated by commas")] = None,
    out: Annotated[Path, typer.Option(help="where takes and exports go")] = Path("takes"),
    bake_seconds: Annotated[float, typer.Option(min=0.1, help="length of the simulated subject's loop")] = 10.0,
    as_json: JsonFlag = False,
) -> None:
    """A simulated rig, live: eight cameras, eight nodes, one server, a head in your browser."""
    from launch.demo import Demo, run_demo

    what = Demo(capture, cameras, seconds, record, export, browser, out, bake_seconds, as_json)
    raise typer.Exit(run_demo(what))


@app.command()
def up(
    rig: RigPath,
    record: Annotated[str | None, typer.Option(metavar="SLATE", help="record a take from the first frame on")] = None,
) -> None:
    """Every process of a rig on this machine, until Ctrl-C."""
    from launch.up import run_up

    raise typer.Exit(run_up(rig, record))


@app.command()
def node(
    rig: RigPath,
    name: Annotated[str, typer.Option(help="which of the rig's nodes this is")],
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="for Prometheus, 0: none; default: by the rig file")
    ] = None,
) -> None:
    """One camera PC: its cameras to the server, until Ctrl-C."""
    from capture_nodes.node import Node
    from launch.local import follow_parent, until_asked_to_stop
    from launch.metrics import node_metrics
    from protocol.rig import load_rig

    follow_parent()
    stop = until_asked_to_stop()
    logs.bind(node=name)
    made = Node(load_rig(rig), name)
    with node_metrics(made, metrics_port):
        made.run(stop)


@app.command()
def serve(
    rig: RigPath,
    preview: Annotated[bool, typer.Option(help="serve the browser preview")] = True,
    record: Annotated[str | None, typer.Option(metavar="SLATE", help="record a take from the first frame on")] = None,
    truth: Annotated[Path | None, typer.Option(help="the capture that is replayed, to measure against")] = None,
    as_json: JsonFlag = False,
) -> None:
    """The fusion server, until Ctrl-C."""
    from launch.local import follow_parent
    from launch.serve import say_json, say_line
    from launch.serve import serve as run

    follow_parent()
    say = say_json if as_json else say_line
    raise typer.Exit(run(rig, preview=preview, record=record, truth=truth, say=say))


@app.command()
def record(
    rig: RigPath,
    slate: Annotated[str, typer.Argument(metavar="SLATE", help="the take's name; takes of a slate are numbered")],
    seconds: Annotated[float | None, typer.Option(min=0.1, help="its length; default: until Ctrl-C")] = None,
    gather: Annotated[float, typer.Option(min=0, help="wait so many seconds for cameras that are silent")] = 15.0,
    patience: Annotated[float, typer.Option(min=0, help="give up on missing pictures after so many seconds")] = 15.0,
    as_json: JsonFlag = False,
) -> None:
    """Record a take without making meshes, in place of the server; `reconstruct` makes them later."""
    from launch.backfill import report_lines
    from launch.local import follow_parent
    from launch.record import record as run
    from launch.serve import say_json, say_line

    follow_parent()
    say = say_json if as_json else say_line
    take = run(rig, slate, seconds=seconds, gather_s=gather, patience_s=patience, say=say)
    if as_json:
        print(json.dumps({"ended": True, **take}))
    else:
        print("\n".join(report_lines([{**take, "take": take["path"]}])))
    raise typer.Exit(0 if take["complete"] else 1)


@app.command()
def reconstruct(
    capture: Annotated[Path, typer.Argument(metavar="CAPTURE", help="a capture folder")],
    out: Annotated[Path, typer.Option(help="where mesh/, normals/ and report.json go")],
    cameras: Annotated[str | None, typer.Option(help="cameras or groups, separated by commas")] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="A:B", help="frames numbered A up to B (B left out), or the first N")
    ] = None,
    quality: Annotated[str, typer.Option(help="live, or final: nearer, at many times the time")] = "live",
    save_normals: Annotated[bool, typer.Option("--save-normals", help="keep the predicted normals and masks")] = False,
    vertices: Annotated[
        int | None,
        typer.Option(
            min=500, max=200_000, help="of the mesh; default: 10000, and what pictures tell apart for a final one"
        ),
    ] = None,
    uv: Annotated[
        bool | None,
        typer.Option("--uv/--no-uv", help="meshes with texture coordinates; default: final ones, it takes a while"),
    ] = None,
    engine: Annotated[str, typer.Option(help="normal engine")] = "openvino",
    as_json: JsonFlag = False,
) -> None:
    """A capture folder, frame by frame, to meshes. Interrupted, the same command goes on where it was."""
    from launch.reconstruct import Job, chosen_frames, final
    from launch.reconstruct import reconstruct as run
    from protocol.capture_folder import CaptureFolder
    from protocol.rig import NormalsConfig, SurfaceConfig

    if quality not in ("live", "final"):
        raise HeadstreamError(f"--quality: {quality!r}; must be live or final")
    folder = CaptureFolder.open(capture)
    job = Job(
        capture=folder,
        calibration=folder.calibration.select(cameras),
        out=out,
        frames=chosen_frames(folder.frames, frames),
        save_normals=save_normals,
        normals=NormalsConfig(engine=engine),
        surface=SurfaceConfig(vertices=vertices) if vertices else SurfaceConfig(),
        uv=quality == "final" if uv is None else uv,
    )
    if quality == "final":
        job = final(job, vertices)
    try:
        with progress_bar(as_json) as progress:
            task = progress.add_task("reconstruct", total=len(job.frames))

            def step(done: int, total: int, line: str) -> None:
                progress.update(task, completed=done, total=total)
                progress.console.print(line, markup=False, highlight=False)

            report = run(job, step)
    except KeyboardInterrupt:
        errors.print(f"headstream: interrupted; the same command goes on where it was ({out})")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print(json.dumps(report))
    else:
        print(f"{out}: {sum('fault' not in entry for entry in report['frames'])} meshes and report.json")


@app.command()
def evaluate(
    context: typer.Context,
    result: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RESULT]", help="what `reconstruct` wrote, a take, or a capture that knows its normals"
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="a capture folder with meshes, normals or points.npz to score RESULT against")
    ] = None,
    meshes: Annotated[int | None, typer.Option(min=1, help="measure only so many frames, evenly spread")] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="score the normal engine on scenes that no training sees")
    ] = False,
    sets: Annotated[int, typer.Option(min=1, help="so many synthetic scenes")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="which synthetic scenes")] = 0,
    views: Annotated[
        str | None, typer.Option(help="numbers of views to compare; default: 3,6,8,10, or what a capture has of them")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="where synthetic scenes are kept; default: the user's cache")
    ] = None,
    cameras: Annotated[str | None, typer.Option(help="cameras or groups of a capture, separated by commas")] = None,
    engine: Annotated[str, typer.Option(help="normal engine: openvino, torch or tensorrt")] = "openvino",
    weights: Annotated[Path | None, typer.Option(help="a weights file; default: the shipped ones")] = None,
    size: Annotated[int, typer.Option(min=64, max=2048, help="pixels of the network's pictures")] = 256,
    precision: Annotated[str, typer.Option(help="f16, bf16 or f32")] = "bf16",
    as_json: JsonFlag = False,
) -> None:
    """Score meshes and normals against a truth, or the normal engine alone."""
    if synthetic == (result is not None):
        raise HeadstreamError("evaluate: give either a RESULT (with --truth), a capture folder, or --synthetic")
    _refuse_what_does_not_apply(context, "--synthetic" if synthetic else "CAPTURE" if truth is None else "--truth")
    with progress_bar(as_json) as progress:
        task = progress.add_task("evaluate", total=None)

        def step(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        if result is not None and truth is not None:
            from launch.evaluate import evaluate as run
            from launch.evaluate import table as show

            scores = run(result, truth, meshes, lambda done, total: step("evaluate", done, total))
        else:
            from launch import evaluate_synthetic as engine_alone

            choice = engine_alone.EngineChoice(engine, weights, size, precision)
            counts = engine_alone.parse_views(views) if views is not None else None
            if result is None:
                show = engine_alone.synthetic_table
                counts = counts or engine_alone.USUAL_VIEWS
                scores = engine_alone.evaluate_synthetic(choice, sets, seed, counts, cache, step)
            else:
                from launch.evaluate_capture import capture_table as show
                from launch.evaluate_capture import evaluate_capture

                folder = _capture_with_truth(result)
                scores = evaluate_capture(choice, folder, folder.calibration.select(cameras), meshes, step, counts)
    print(json.dumps(scores) if as_json else show(scores))


@app.command()
def export(
    take: Annotated[Path, typer.Argument(metavar="TAKE", help="the folder of a take, or what `reconstruct` wrote")],
    format: Annotated[str, typer.Option(help="usd or ply; of a take, capture: pictures for `reconstruct`")] = "usd",
    out: Annotated[Path | None, typer.Option(help="file (usd) or folder; default: inside TAKE")] = None,
    texture: Annotated[
        int, typer.Option(min=0, max=8192, help="side of the texture in pixels; 0: no colours at all")
    ] = 2048,
) -> None:
    """Meshes to what animators open, coloured by their pictures; or a take's pictures to a capture folder."""
    from launch.export import export_take

    with progress_bar(False) as progress:
        task = progress.add_task("export", total=None)

        def step(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        path = export_take(take, format, out, step, texture)
    print(path)


@app.command()
def backfill(
    rig: RigPath,
    take: Annotated[
        Path | None, typer.Argument(metavar="[TAKE]", help="one take; default: every take that wants pictures")
    ] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="give up when nothing came for so many seconds")] = 15.0,
    as_json: JsonFlag = False,
) -> None:
    """Fetch what takes lack out of the nodes' spools; the server does it by itself while it runs."""
    from launch.backfill import backfill as run
    from launch.backfill import report_lines
    from launch.local import until_asked_to_stop
    from protocol.rig import load_rig

    stop = until_asked_to_stop()
    with progress_bar(as_json) as progress:
        task = progress.add_task("waiting for nodes", total=None)

        def step(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        takes = run(load_rig(rig), take, stop, step, patience)
    print(json.dumps(takes) if as_json else "\n".join(report_lines(takes)))
    raise typer.Exit(0 if all(entry["complete"] for entry in takes) else 1)


@app.command()
def doctor(
    rig: Annotated[Path | None, typer.Argument(metavar="[RIG]", help="check what this rig needs, too")] = None,
    node: Annotated[str | None, typer.Option(help="look at this machine as the PC of that node of RIG")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Is this machine fit for the job, and every PC that the rig file names, and if not, what to do."""
    from launch.doctor_report import report

    raise typer.Exit(report(rig, node, as_json))


@app.command()
def version(as_json: JsonFlag = False) -> None:
    """Which headstream this is."""
    from launch.version import version as this

    print(json.dumps(vars(this())) if as_json else f"headstream {this()}")


@app.command()
def cameras(
    rig: Annotated[
        Path | None, typer.Argument(metavar="[RIG]", help="say which of this rig's cameras they are")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Which cameras are attached to this machine: driver, serial number, model, address, in use or free."""
    from launch.cameras import look, rows, table
    from protocol.rig import load_rig

    loaded = load_rig(rig) if rig else None
    listing = look()
    found = rows(listing, loaded)
    print(
        json.dumps({"cameras": found, "not_searched": listing.not_searched})
        if as_json
        else table(found, listing, loaded)
    )


@app.command()
def keys(
    rig: RigPath,
    check: Annotated[bool, typer.Option("--check", help="make nothing, say what is wrong")] = False,
    renew: Annotated[
        str | None, typer.Option(metavar="NODE", help="a new pair in the place of this node's, or the server's")
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(metavar="NODE", help="write the folder that this node's machine needs")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="of --bundle; default: keys-NODE beside the rig file")] = None,
) -> None:
    """Make the rig's missing keys, and say what to copy where."""
    from launch import keys as of
    from protocol.rig import load_rig

    if sum((check, renew is not None, bundle is not None)) > 1 or (out is not None and bundle is None):
        raise HeadstreamError("keys: give one of --check, --renew and --bundle; --out goes with --bundle")
    whole = load_rig(rig)
    bad = False
    if check:
        for state, what, remedy in of.check(whole):
            print(f"{state:>4}  {what}" + (f" -> {remedy}" if remedy else ""))
            bad = bad or state == "bad"
    elif renew is not None:
        print(of.renew(whole, renew))
    elif bundle is not None:
        print(*of.bundle(whole, bundle, out), sep="\n")
    else:
        made = of.make_missing(whole)
        print(*(made or [f"{whole.wire.keys}: nothing is missing"]), *of.guide(whole, rig), sep="\n")
    raise typer.Exit(1 if bad else 0)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="a training configuration, such as lite.toml")],
) -> None:
    """Train the normal network; the same command resumes."""
    from models.training.train import train as run

    run(config, lambda line: print(line, flush=True))


engine_app = typer.Typer(help="Build a normal engine ahead of a shoot, or hand the network to another runtime.")
app.add_typer(engine_app, name="engine", no_args_is_help=True)
ViewsOption = Annotated[int | None, typer.Option(min=1, help="pictures of one moment; default: the rig's cameras")]
SizeOption = Annotated[int | None, typer.Option(min=64, max=2048, help="pixels of the network's pictures")]
WeightsOption = Annotated[Path | None, typer.Option(help="a weights file; default: the shipped ones")]


@engine_app.command("build")
def engine_build(
    rig: Annotated[Path | None, typer.Option(help="take everything from this rig file")] = None,
    views: ViewsOption = None,
    size: SizeOption = None,
    engine: Annotated[str | None, typer.Option(help="openvino, torch or tensorrt; default: the rig's")] = None,
    precision: Annotated[str | None, typer.Option(help="f16, bf16 or f32; default: the rig's")] = None,
    weights: WeightsOption = None,
    target: Annotated[str | None, typer.Option(help="GPUs to build TensorRT plans for, as sm89,sm120")] = None,
    check: Annotated[bool, typer.Option(help="compare with PyTorch in float32")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Build and keep the engine for one shape, so that the first start of a shoot is as quick as every other."""
    from launch.engine import build_engine, build_plans, built_lines, chosen_build, plan_lines

    if target is not None:
        plans = build_plans(chosen_build(rig, engine, weights, views, size, precision), target, check)
        print(json.dumps(plans) if as_json else plan_lines(plans))
        return
    report = build_engine(chosen_build(rig, engine, weights, views, size, precision), check)
    print(json.dumps(report) if as_json else built_lines(report))


@engine_app.command("export")
def engine_export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="the .onnx file to write")],
    rig: Annotated[Path | None, typer.Option(help="take views, size and weights from this rig file")] = None,
    views: ViewsOption = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
) -> None:
    """The network as ONNX with static shapes, compared with PyTorch."""
    from launch.engine import chosen_build
    from models.export import export_onnx, onnx_parity

    build = chosen_build(rig, None, weights, views, size, None)
    export_onnx(out, build.views, build.size, build.weights)
    angle = onnx_parity(out, build.views, build.size, build.weights)
    megabytes = out.stat().st_size / 1e6
    print(f"{out}: {build.views} x {build.size} px, {megabytes:.1f} MB, {angle:.3f} degrees mean from PyTorch")


_OF_THE_ENGINE = ("engine", "weights", "size", "precision")
_APPLIES = {  # options of ``evaluate`` by what is evaluated
    "--truth": ("truth", "meshes"),
    "CAPTURE": ("meshes", "views", "cameras", *_OF_THE_ENGINE),
    "--synthetic": ("synthetic", "sets", "seed", "views", "cache", *_OF_THE_ENGINE),
}


def _refuse_what_does_not_apply(context: typer.Context, what: str) -> None:
    """Raises HeadstreamError when options were typed that this kind of evaluation would not look at."""
    applies = {"result", "as_json", *_APPLIES[what]}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    idle = ", ".join(f"--{name}" for name in typed if name not in applies)
    if idle:
        known = ", ".join(f"--{name}" for name in _APPLIES[what] if f"--{name}" != what)
        raise HeadstreamError(f"evaluate {what}: {idle} would change nothing; what goes with {what}: {known}")


def _capture_with_truth(path: Path) -> CaptureFolder:
    """The capture folder, or one line that says that a result needs ``--truth``."""
    from protocol.capture_folder import CaptureFolder

    if not (path / "cameras.json").exists():
        raise HeadstreamError(
            f"{path}: is no capture folder; a result of `reconstruct` or a take needs --truth CAPTURE"
        )
    return CaptureFolder.open(path)


def main() -> None:
    """The console script: a person's errors are one line and exit status 2, Ctrl-C is 130."""
    try:
        logs.configure()
        app(standalone_mode=True)
    except HeadstreamError as error:
        if os.environ.get(logs.FORMAT) == "json":
            logging.getLogger("headstream").error("%s", error)
        else:
            errors.print(f"headstream: {error}")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
