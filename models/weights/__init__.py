"""Weights of the normal network: safetensors in half precision, with the network's sizes in the metadata.

``lite.safetensors`` is shipped; ``MODEL_CARD.md`` says how it was made and how good it is. A larger network is kept in
shards below ``LARGEST_FILE``, ``full-00001-of-00004.safetensors`` and so on, beside ``full.safetensors.index.json``,
which names the shard of each tensor (Hugging Face's layout); the index is then the file to name. Reading the digest or
path needs no torch, so an engine with a cached graph starts without it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import HeadstreamError

if TYPE_CHECKING:
    from torch import Tensor

    from models.network import NormalNetwork

SHIPPED = Path(__file__).parent / "lite.safetensors"
LARGEST_FILE = 15_000_000  # bytes of tensors; with its header a shard stays below 16 MB
INDEX = ".index.json"


def weights_path(weights: str | Path | None = None) -> Path:
    """The weights file that is meant: the shipped one unless another is named. Raises HeadstreamError when absent."""
    path = Path(weights) if weights else SHIPPED
    index = path.with_name(path.name + INDEX)
    if not path.is_file() and index.is_file():
        return index
    if not path.is_file():
        raise HeadstreamError(f"{path}: no such weights file; leave `weights` empty for the shipped ones")
    return path


def weights_digest(path: Path) -> str:
    """A short digest of the weights' bytes. Raises HeadstreamError for an index whose shards are not there."""
    whole = hashlib.sha256()
    for file in _files(path):
        try:
            whole.update(file.read_bytes())
        except OSError as error:
            raise HeadstreamError(f"{file}: cannot be read ({error.strerror}); {path.name} needs it") from None
    return whole.hexdigest()[:16]


def save_weights(network: NormalNetwork, path: str | Path, notes: dict[str, Any] | None = None) -> Path:
    """Write a network in float16; returns the file to name, which is the index where there are shards.

    A reader never sees half a file. ``notes`` go into the metadata as JSON.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    metadata = {"config": json.dumps(network.config.to_dict()), "notes": json.dumps(notes or {})}
    shards = _shards(tensors)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        of = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = path.with_name(path.stem + of + path.suffix)
        scratch = file.with_suffix(".part")
        save_file({name: tensors[name] for name in shard}, scratch, metadata)
        scratch.replace(file)
        places |= dict.fromkeys(shard, file.name)
    if len(shards) == 1:
        return path
    index = path.with_name(path.name + INDEX)
    scratch = index.with_suffix(".part")
    scratch.write_text(json.dumps({"metadata": metadata, "weight_map": places}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(index)
    return index


def load_network(path: str | Path) -> NormalNetwork:
    """Read a network, float32, ready to predict. Raises HeadstreamError when the file is not such weights."""
    from safetensors import SafetensorError, safe_open

    from models.network import NetworkConfig, NormalNetwork

    tensors: dict[str, Tensor] = {}
    try:
        for part in _files(weights_path(path)):
            with safe_open(str(part), framework="pt") as file:
                values: dict[str, Any] = json.loads(file.metadata()["config"])
                tensors |= {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        network = NormalNetwork(NetworkConfig(**(values | {"decoder": tuple(values["decoder"])})))
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HeadstreamError(f"{path}: not weights of this network ({reason})") from None
    return network.eval().requires_grad_(False)


def _shards(tensors: dict[str, Tensor]) -> list[list[str]]:
    """Names of the tensors, file by file."""
    shards: list[list[str]] = [[]]
    room = LARGEST_FILE
    for name, value in tensors.items():
        if value.nbytes > room and shards[-1]:
            shards.append([])
            room = LARGEST_FILE
        shards[-1].append(name)
        room -= value.nbytes
    return shards


def _files(path: Path) -> list[Path]:
    """The file itself, or the shards that an index names. Raises HeadstreamError for what is no index."""
    if not path.name.endswith(INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("its shards must lie beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadstreamError(f"{path}: not an index of weights ({error})") from None
    return [path.with_name(name) for name in names]
