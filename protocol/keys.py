"""The key pairs of a rig: who is the server, who is which node.

    keys/server.key               public; every node needs it
    keys/server.key_secret        on the server only
    keys/nodes/<node>.key         public; the server needs all of them
    keys/nodes/<node>.key_secret  on that node's machine only

The files are ZeroMQ certificates (ZPL text, keys in Z85), which ``zmq.auth.load_certificate`` reads, too. A secret is
made with mode 0600 and refused when anybody but its owner can read it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from protocol.errors import HeadstreamError

SERVER, NODES = "server", "nodes"
PUBLIC, SECRET = ".key", ".key_secret"
_LARGEST = 4096  # bytes of a file; ours have under 300
_ENTRY = re.compile(rb'^\s*(public-key|secret-key)\s*=\s*"([!-~]{40})"\s*$')  # Z85 has no quotation mark
_TEXT = """\
#   headstream: the {kind} key of {who}
#   {advice}

metadata
curve
    public-key = "{public}"
"""
_ADVICE = {
    "public": "May be seen by anyone, but must reach the other machine unaltered.",
    "secret": "Never leaves this machine; whoever has it is taken for {who}.",
}


class KeysError(HeadstreamError):
    """A key that is not there or cannot be used; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, 40 bytes of Z85 each. The secret is never printed."""

    public: bytes
    secret: bytes = field(repr=False)


def stem_of(folder: Path, who: str | None) -> Path:
    """A node's files without their ending, or the server's (None)."""
    return folder / SERVER if who is None else folder / NODES / who


def public_file(folder: Path, who: str | None) -> Path:
    """The public key of a node, or the server's (None)."""
    stem = stem_of(folder, who)
    return stem.with_name(stem.name + PUBLIC)  # not with_suffix: a node may be called "pc.1"


def secret_file(folder: Path, who: str | None) -> Path:
    """The secret key of a node, or the server's (None)."""
    stem = stem_of(folder, who)
    return stem.with_name(stem.name + SECRET)


def read_public(path: Path) -> bytes:
    """The public key in a file, 40 bytes of Z85. Raises KeysError."""
    return _key(_entries(path, secret=False), "public-key", path)


def read_pair(path: Path) -> KeyPair:
    """The key pair in a secret file. Raises KeysError, also when others can read the file."""
    entries = _entries(path, secret=True)
    pair = KeyPair(_key(entries, "public-key", path), _key(entries, "secret-key", path))
    if zmq.curve_public(pair.secret) != pair.public:
        raise KeysError(f"{path}: its two keys do not belong together; copy it again or make a new pair")
    return pair


def server_pair(folder: Path) -> KeyPair:
    """The server's own pair. Raises KeysError."""
    return read_pair(secret_file(folder, None))


def node_pair(folder: Path, node: str) -> KeyPair:
    """A node's own pair. Raises KeysError."""
    return read_pair(secret_file(folder, node))


def server_public(folder: Path) -> bytes:
    """What a node must know of the server. Raises KeysError."""
    return read_public(public_file(folder, None))


def node_names(folder: Path, nodes: Iterable[str]) -> dict[bytes, str]:
    """Each node's public key with its name: whom the server lets in. Raises KeysError, also when two have the same."""
    names: dict[bytes, str] = {}
    for node in nodes:
        public = read_public(public_file(folder, node))
        if public in names:
            both = f"nodes {names[public]} and {node}"
            raise KeysError(f"{public_file(folder, node)}: {both} have the same key; each needs one of its own")
        names[public] = node
    return names


def make_pair(folder: Path, who: str | None) -> KeyPair:
    """Write a new pair for a node, or for the server (None). Raises KeysError; a file that exists is never touched."""
    public, secret = zmq.curve_keypair()
    pair = KeyPair(public, secret)
    write_secret(secret_file(folder, who), pair, who)
    try:
        write_public(public_file(folder, who), public, who)
    except KeysError:
        secret_file(folder, who).unlink()
        raise
    return pair


def write_public(path: Path, public: bytes, who: str | None) -> None:
    """Write a new file that others may read. Raises KeysError."""
    name = _name(who)
    _write(path, _TEXT.format(kind="public", who=name, advice=_ADVICE["public"], public=public.decode()), 0o644)


def write_secret(path: Path, pair: KeyPair, who: str | None) -> None:
    """Write a new file that nobody else may read, at no moment of its life. Raises KeysError."""
    name = _name(who)
    advice = _ADVICE["secret"].format(who=name)
    text = _TEXT.format(kind="secret", who=name, advice=advice, public=pair.public.decode())
    _write(path, text + f'    secret-key = "{pair.secret.decode()}"\n', 0o600)


def _name(who: str | None) -> str:
    return "the server" if who is None else f"node {who}"


def _write(path: Path, text: str, mode: int) -> None:
    try:
        for folder in reversed((path.parent, *path.parent.parents)):  # mkdir's mode is not for the parents it makes
            folder.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    except FileExistsError:
        raise KeysError(f"{path}: is there already; it is not overwritten") from None
    except OSError as error:
        raise KeysError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with open(handle, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise KeysError(f"{path}: cannot be written ({error.strerror})") from None


def _entries(path: Path, *, secret: bool) -> dict[str, bytes]:
    """Both keys as they stand in the file."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise KeysError(f"{path}: is no file")
            if secret and about.st_mode & 0o077:
                seen = f"mode {stat.S_IMODE(about.st_mode):04o}"
                raise KeysError(f"{path}: a secret that others can read ({seen}); chmod 600 it, or renew the key")
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise KeysError(f"{path}: there is no such key; `headstream keys RIG` makes what is missing") from None
    except OSError as error:
        raise KeysError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST:
        raise KeysError(f"{path}: is no key (more than {_LARGEST} bytes)")
    entries: dict[str, bytes] = {}
    for line in data.splitlines():
        if found := _ENTRY.match(line):
            entries[found[1].decode()] = found[2]
    return entries


def _key(entries: dict[str, bytes], name: str, path: Path) -> bytes:
    key = entries.get(name)
    if key is None:
        raise KeysError(f'{path}: is no key (has no line `{name} = "..."` with 40 characters of Z85)')
    try:
        z85.decode(key)
    except (KeyError, struct.error):  # a character that Z85 has not, a group beyond 32 bits
        raise KeysError(f"{path}: is no key ({name} is not Z85)") from None
    return key
