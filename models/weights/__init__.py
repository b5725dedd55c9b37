"""Weights of the normal network: safetensors in half precision, with the network's sizes in the metadata.

``lite.safetensors`` is shipped; ``MODEL_CARD.md`` says how it was made and how good it is. Reading the file's digest
or path needs no torch, so an engine with a cached graph starts without it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import HeadstreamError

if TYPE_CHECKING:
    from models.network import NormalNetwork

SHIPPED = Path(__file__).parent / "lite.safetensors"


def weights_path(weights: str | Path | None = None) -> Path:
    """The weights file that is meant: the shipped one unless another is named. Raises HeadstreamError when absent."""
    path = Path(weights) if weights else SHIPPED
    if not path.is_file():
        raise HeadstreamError(f"{path}: no such weights file; leave `weights` empty for the shipped ones")
    return path


def weights_digest(path: Path) -> str:
    """A short digest of the file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def save_weights(network: NormalNetwork, path: str | Path, notes: dict[str, Any] | None = None) -> None:
    """Write a network in float16; a reader never sees half a file. ``notes`` go into the metadata as JSON."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    metadata = {"config": json.dumps(network.config.to_dict()), "notes": json.dumps(notes or {})}
    scratch = path.with_suffix(".part")
    save_file(tensors, scratch, metadata)
    scratch.replace(path)


def load_network(path: str | Path) -> NormalNetwork:
    """Read a network, float32, ready to predict. Raises HeadstreamError when the file is not such weights."""
    from safetensors import SafetensorError, safe_open

    from models.network import NetworkConfig, NormalNetwork

    try:
        with safe_open(str(path), framework="pt") as file:
            values: dict[str, Any] = json.loads(file.metadata()["config"])
            config = NetworkConfig(**(values | {"decoder": tuple(values["decoder"])}))
            network = NormalNetwork(config)
            network.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise HeadstreamError(f"{path}: not weights of this network ({reason})") from None
    return network.eval().requires_grad_(False)
