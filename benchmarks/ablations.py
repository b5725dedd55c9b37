"""What other views and true cameras are worth to the normal network: the same weights, given less.

    python -m benchmarks ablations [--sets 16] [--views 6] [--weights FILE]
    python -m benchmarks ablations --blind IN OUT        # training sets of which no camera is known

Scenes are the held-out ones of `headstream evaluate --synthetic` (which also says what more views help), run by PyTorch
in bf16. Each row is one way to ask for the same pictures; its difference to the whole network is paired by scene:

- the whole network: all views and their cameras
- views do not look at each other: the cameras stay those of the rig, but every view attends to itself only
- each view alone: as if it were the only camera
- poses exchanged: every view is told the pose of its neighbour, its own focal length stays; a network that does not use
  the rig's geometry would not notice
- cameras unknown: every view is told the same camera at the same place

A network that was trained without something is fairer than one from which it is taken: `benchmarks/gpu/train.sh` with
ABLATIONS=1 trains three for equal time, on sets as they are, on single views, and on sets whose cameras `--blind`
replaced. `--trained-alone` and `--trained-blind` add their rows.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks._machine import machine
from models.engines.base import NormalPrediction
from models.held_out import KnownScene, held_out_sets, load_held_out
from models.network import NormalNetwork
from models.rays import CameraInputs, camera_inputs
from models.scores import Measures, Tally, rows_table
from models.weights import load_network, weights_path
from protocol.errors import HeadstreamError

Cameras = tuple[np.ndarray, np.ndarray, np.ndarray]  # K (V, 3, 3), R (V, 3, 3), t (V, 3)
Predict = Callable[[NormalNetwork, KnownScene], NormalPrediction]


@torch.inference_mode()
def predict(network: NormalNetwork, images: np.ndarray, cameras: CameraInputs, alone: bool = False) -> NormalPrediction:
    """Run a network on pictures (V, S, S, 3); ``alone``: a batch of V sets of one view instead of one set of V."""
    arrays = [torch.from_numpy(np.ascontiguousarray(array)) for array in (images, *cameras)]
    with torch.autocast("cpu", torch.bfloat16):
        output = network.infer(*(array[:, None] if alone else array[None] for array in arrays))
    maps = (value.float().reshape(len(images), *value.shape[2:]).numpy() for value in output[:3])
    return NormalPrediction(*maps)


def inputs_of(cameras: Cameras, size: int) -> CameraInputs:
    """The camera side of the network's input."""
    return camera_inputs(*cameras, size, size)


def whole(network: NormalNetwork, scene: KnownScene) -> NormalPrediction:
    """All views, true cameras."""
    return predict(network, scene.image, inputs_of((scene.K, scene.R, scene.t), scene.image.shape[1]))


def apart(network: NormalNetwork, scene: KnownScene) -> NormalPrediction:
    """The rig's cameras, but no view looks at another: the same as masking the attention across views."""
    return predict(network, scene.image, inputs_of((scene.K, scene.R, scene.t), scene.image.shape[1]), alone=True)


def alone(network: NormalNetwork, scene: KnownScene) -> NormalPrediction:
    """Every view as the only one of its rig."""
    size = scene.image.shape[1]
    each = [inputs_of((scene.K[[i]], scene.R[[i]], scene.t[[i]]), size) for i in range(len(scene.image))]
    cameras = CameraInputs(*(np.concatenate(arrays) for arrays in zip(*each, strict=True)))
    return predict(network, scene.image, cameras, alone=True)


def exchanged(network: NormalNetwork, scene: KnownScene) -> NormalPrediction:
    """Every view with the pose of the next one."""
    poses = (np.roll(scene.R, 1, 0), np.roll(scene.t, 1, 0))
    return predict(network, scene.image, inputs_of((scene.K, *poses), scene.image.shape[1]))


def unknown(network: NormalNetwork, scene: KnownScene) -> NormalPrediction:
    """Every view with one and the same camera."""
    size = scene.image.shape[1]
    return predict(network, scene.image, inputs_of(blind_cameras(len(scene.image), size), size))


def blind_cameras(views: int, size: int) -> Cameras:
    """V times the same camera: one metre before the subject, of a focal length as long as 1.6 pictures are wide."""
    K = np.array([[1.6 * size, 0, (size - 1) / 2], [0, 1.6 * size, (size - 1) / 2], [0, 0, 1.0]])
    return np.tile(K, (views, 1, 1)), np.tile(np.eye(3), (views, 1, 1)), np.tile([0.0, 0.0, 1.0], (views, 1))


def blind(source: Path, out: Path) -> int:
    """Copy training sets with every camera replaced by ``blind_cameras``; how many were written.

    Normals stay in the cameras' frames, so they are as true as before; what is lost is how the frames belong together.
    Raises HeadstreamError when there are none.
    """
    paths = sorted(path for path in source.glob("*.npz") if path.stem.isdigit())
    if not paths:
        raise HeadstreamError(f"{source}: no training sets")
    out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        cameras = blind_cameras(len(arrays["image"]), arrays["image"].shape[1])
        arrays |= {name: value.astype(np.float32) for name, value in zip("KRt", cameras, strict=True)}
        scratch = (out / path.name).with_suffix(".part")
        with scratch.open("wb") as file:
            np.savez(file, **arrays)
        scratch.replace(out / path.name)
    return len(paths)


def compare(ways: dict[str, tuple[NormalNetwork, Predict]], scenes: Sequence[Path], views: int) -> dict[str, dict]:
    """Rows by way; ``worse_deg``: mean over scenes of the mean error less the first way's, with its standard error."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    means: dict[str, list[float]] = defaultdict(list)
    for path in scenes:
        scene = load_held_out(path).first(views)
        for name, (network, way) in ways.items():
            measures = Measures.of(scene, way(network, scene))
            tallies[name].add(measures)
            means[name].append(float(measures.angles.mean()))
    first = np.array(means[next(iter(ways))])
    rows = {}
    for name, tally in tallies.items():
        worse = np.array(means[name]) - first
        error = float(worse.std(ddof=1) / np.sqrt(len(worse))) if len(worse) > 1 else float("nan")
        rows[name] = tally.row() | {"worse_deg": float(worse.mean()), "worse_error_deg": error}
    return rows


def ablate(
    weights: Path | None, scenes: Sequence[Path], views: int, trained: dict[str, Path | None]
) -> dict[str, dict]:
    """The rows of all ways; ``trained``: weights that were trained ``alone`` or ``blind``, where there are such."""
    network = load_network(weights_path(weights))
    ways: dict[str, tuple[NormalNetwork, Predict]] = {
        "the whole network": (network, whole),
        "views do not look at each other": (network, apart),
        "each view alone": (network, alone),
        "poses exchanged": (network, exchanged),
        "cameras unknown": (network, unknown),
    }
    if trained.get("alone"):
        ways["trained on views alone"] = (load_network(weights_path(trained["alone"])), alone)
    if trained.get("blind"):
        ways["trained without cameras"] = (load_network(weights_path(trained["blind"])), unknown)
    return compare(ways, scenes, views)


def shown(rows: dict[str, dict], views: int) -> str:
    """A Markdown table, with the paired difference beside the name."""
    named = {
        name if number == 0 else f"{name} ({row['worse_deg']:+.2f} ± {row['worse_error_deg']:.2f})": row
        for number, (name, row) in enumerate(rows.items())
    }
    return rows_table(f"{views} views (degrees worse, paired)", named)


def main() -> None:
    """Print the tables; ``--json FILE`` writes the numbers as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--weights", type=Path, help="default: the shipped ones")
    parser.add_argument("--trained-alone", type=Path, help="weights that were trained on single views")
    parser.add_argument("--trained-blind", type=Path, help="weights that were trained on sets made by --blind")
    parser.add_argument("--cache", type=Path, help="where scenes are kept; default: the user's cache")
    parser.add_argument("--blind", type=Path, nargs=2, metavar=("IN", "OUT"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        if options.blind:
            print(f"{options.blind[1]}: {blind(*options.blind)} sets")
            return
        scenes = held_out_sets(options.sets, options.seed, max(10, options.views), options.size, options.cache)
        trained = {"alone": options.trained_alone, "blind": options.trained_blind}
        rows = ablate(options.weights, scenes, options.views, trained)
    except HeadstreamError as error:
        raise SystemExit(f"ablations: {error}") from None
    print(f"{machine()}\n{weights_path(options.weights).name}, {options.sets} held-out scenes of {options.size} px\n")
    print(shown(rows, options.views))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
