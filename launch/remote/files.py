"""What a node's PC must have of a rig: the rig file as it is, the calibration, and with keys that node's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.remote.ssh import RemoteError
from protocol.rig import Rig

READABLE, SECRET = 0o644, 0o600


@dataclass(frozen=True)
class Deployed:
    """One file: where it lies below the rig file's folder, here as there, its content and its mode."""

    relative: str
    data: bytes
    mode: int


def files_for(path: Path, rig: Rig, node: str) -> list[Deployed]:
    """Raises RemoteError for a file that cannot be read or does not lie below the rig file's folder."""
    files = [_deployed(path, path, "rig", SECRET)]  # a rig file may hold a token
    files.append(_deployed(path, rig.calibration, "calibration", READABLE))
    if rig.wire.security == "curve":
        folder = Path(getattr(rig.wire, "keys", rig.root / "keys"))
        for name, mode in (
            ("server.key", READABLE),
            (f"nodes/{node}.key", READABLE),
            (f"nodes/{node}.key_secret", SECRET),
        ):
            files.append(_deployed(path, folder / name, "wire.keys", mode))
    return files


def _deployed(rig_path: Path, path: Path, what: str, mode: int) -> Deployed:
    root = rig_path.parent.absolute()
    whole = path.absolute()
    if not whole.is_relative_to(root):
        text = (
            f"{what} is {path}, which is not below {rig_path.parent}: a PC gets the rig file as it is, so keep both in"
        )
        raise RemoteError(f"{rig_path}: {text} one folder")
    try:
        return Deployed(whole.relative_to(root).as_posix(), path.read_bytes(), mode)
    except OSError as error:
        advice = "; make the keys with: headstream keys RIG" if what == "wire.keys" else ""
        raise RemoteError(f"{path}: cannot be read ({error.strerror}){advice}") from None
