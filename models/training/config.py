"""The training configuration: a TOML file, checked, with the name of what is wrong."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from models.engines.base import MOST_VIEWS
from models.network import NetworkConfig
from models.training.losses import LossWeights
from protocol.errors import HeadstreamError


@dataclass(frozen=True)
class TrainConfig:
    """One run. Paths are relative to the configuration file."""

    out: Path  # checkpoints, log and sample sheets
    data: tuple[Path, ...]  # folders of training sets; they may be empty yet and may grow
    validation: Path | None = None  # a folder of sets; without it every 25th set is held out
    captures: tuple[Path, ...] = ()  # capture folders with truth, scored at every validation and never trained on
    start: Path | None = None  # a weights file to start from instead of ImageNet's; a smaller network grows (grow.py)
    minutes: float = 60.0  # wall time of the whole run, resumes included
    imagenet: bool = True
    seed: int = 0
    processes: int = 1  # each draws its own batches; gradients are averaged
    threads: int = 2  # of each process
    pool_gb: float = 2.0  # sets that a process holds ready, on its GPU where there is one; 3.5 MB each at 6 x 256 px
    readers: int = 1  # threads of a process that read sets
    pictures: int = 12  # pictures a step, of all processes together
    size: int = 224  # picture size, and in the last part of the run
    final_size: int = 256
    final_share: float = 0.15
    views: tuple[int, ...] = (1, 2, 3, 4, 6)
    rate: float = 1e-3
    encoder_rate: float = 4e-4
    decoder_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_minutes: float = 1.0
    average: float = 0.998  # decay of the averaged weights
    bf16: bool = False
    checkpoint_minutes: float = 2.5
    validation_minutes: float = 6.0
    validation_sets: int = 24
    loss: LossWeights = field(default_factory=LossWeights)
    network: NetworkConfig = field(default_factory=NetworkConfig)


def load_config(path: str | Path) -> TrainConfig:
    """Read a configuration. Raises HeadstreamError naming the file and the key."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadstreamError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HeadstreamError(f"{path}: not TOML ({error})") from None
    for key in ("out", "data"):
        if key not in data:
            raise HeadstreamError(f"{path}: {key} is missing")
    data["loss"] = _build(LossWeights, data.get("loss", {}), f"{path}: loss")
    data["network"] = _build(NetworkConfig, data.get("network", {}), f"{path}: network")
    root = path.resolve().parent
    data["out"] = root / Path(str(data["out"])).expanduser()
    for key in ("data", "captures"):
        names = data.get(key, [])
        names = [names] if isinstance(names, str) else names
        data[key] = tuple(root / Path(str(name)).expanduser() for name in names)
    for key in ("validation", "start"):
        if key in data:
            data[key] = root / Path(str(data[key])).expanduser()
    config = _build(TrainConfig, data, str(path))
    for key in ("size", "final_size"):
        if getattr(config, key) % 16 or getattr(config, key) <= 0:
            raise HeadstreamError(f"{path}: {key} is {getattr(config, key)}; it must be a multiple of 16")
    for key in ("minutes", "pictures", "rate", "threads", "processes", "pool_gb", "readers"):
        if getattr(config, key) <= 0:
            raise HeadstreamError(f"{path}: {key} must be more than zero")
    if not config.views or not all(isinstance(count, int) and 1 <= count <= MOST_VIEWS for count in config.views):
        raise HeadstreamError(f"{path}: views: {list(config.views)}; must be numbers from 1 to {MOST_VIEWS}")
    network = config.network
    if network.dim <= 0 or network.heads <= 0 or network.dim % (6 * network.heads):
        raise HeadstreamError(
            f"{path}: network.dim is {network.dim}; it must be a multiple of 6 x {network.heads} heads"
        )
    if network.pool < 1:
        raise HeadstreamError(f"{path}: network.pool is {network.pool}; it must be 1 or more")
    if len(network.decoder) != 3:
        raise HeadstreamError(f"{path}: network.decoder: {list(network.decoder)}; must be three numbers of channels")
    return config


def _build(kind: type, data: dict[str, Any], where: str) -> Any:
    if not isinstance(data, dict):
        raise HeadstreamError(f"{where}: must be a table")
    known = {f.name: f for f in fields(kind)}
    for name, value in data.items():
        if name not in known:
            raise HeadstreamError(f"{where}.{name}: unknown; known are {', '.join(known)}")
        default = known[name].default
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise HeadstreamError(f"{where}.{name}: {value!r}; must be a number")
        if isinstance(default, tuple) and not isinstance(value, list | tuple):
            raise HeadstreamError(f"{where}.{name}: {value!r}; must be a list")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise HeadstreamError(f"{where}.{name}: {value!r}; must be true or false")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})
