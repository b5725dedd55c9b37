"""``headstream keys``: make a rig's key pairs, bring them to its machines, and say what is wrong with them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from protocol.errors import HeadstreamError
from protocol.keys import (
    KeysError,
    make_pair,
    node_names,
    node_pair,
    public_file,
    read_pair,
    secret_file,
    server_pair,
    server_public,
    write_public,
    write_secret,
)
from protocol.rig import Rig, is_loopback


def make_missing(rig: Rig) -> list[str]:
    """Make the pairs of the server and of every node that has none here; says what was made, one line each.

    A public key without its secret is left alone: the secret lies on another machine, where it belongs. Raises
    KeysError, also on a node's machine, where pairs that were made would be of no use.
    """
    folder = rig.wire.keys
    if public_file(folder, None).exists() and not secret_file(folder, None).exists():
        raise KeysError(
            f"{folder}: has the server's public key but not its secret, so this is a node's machine; run `headstream "
            "keys` on the server, or `--renew NODE` here and copy the node's public key to the server"
        )
    made = []
    for who in (None, *rig.nodes):
        secret, public = secret_file(folder, who), public_file(folder, who)
        if secret.exists() and not public.exists():
            write_public(public, read_pair(secret).public, who)
            made.append(f"{public}: written again from its secret")
        elif not public.exists():
            make_pair(folder, who)
            made.append(f"{secret}: made, and its public half")
    return made


def renew(rig: Rig, name: str) -> str:
    """Replace the pair of a node, or of the ``server``; says what to copy where. Raises KeysError."""
    if name not in (*rig.nodes, "server"):
        raise KeysError(f"--renew: {name!r}; must be server or a node of the rig: {', '.join(rig.nodes)}")
    folder, who = rig.wire.keys, name if name in rig.nodes else None
    for path in (secret_file(folder, who), public_file(folder, who)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise KeysError(f"{path}: cannot be removed ({error.strerror})") from None
    make_pair(folder, who)
    if who is None:
        return f"{public_file(folder, None)}: new; copy it to every node and start server and nodes again"
    public = public_file(folder, who)
    if not secret_file(folder, None).exists():
        return f"{public}: new; copy it to keys/nodes on the server, and start the server again"
    return (
        f"{public}: new; start the server again, and bring node {who} its secret: `headstream keys RIG --bundle {who}`"
    )


def write_bundle(folder: Path, node: str, out: Path) -> list[Path]:
    """Write what the machine of this node needs, and nothing else, into the new folder ``out``; returns the files.

    Raises KeysError when a key is missing or one of the files is there already.
    """
    pair, server = node_pair(folder, node), server_public(folder)
    files = [public_file(out, None), public_file(out, node), secret_file(out, node)]
    for path in files:
        if path.exists():
            raise KeysError(f"{path}: is there already; remove the folder or give another with --out")
    write_public(files[0], server, None)
    write_public(files[1], pair.public, node)
    write_secret(files[2], pair, node)
    return files


def check(rig: Rig) -> Iterator[tuple[str, str, str]]:
    """What is well and what is not with the keys on this machine: (``ok``, ``note`` or ``bad``; what; what to do)."""
    folder = rig.wire.keys
    if rig.wire.security == "plain":
        if not is_loopback(rig.server.host):
            yield (
                "note",
                f"nothing is encrypted or checked on the way to {rig.server.host} (wire.allow_plain)",
                'wire.security = "curve"',
            )
        elif not folder.exists():
            yield "ok", "none, and none needed: the rig stays on this machine", ""
        if not folder.exists():
            return
        yield "note", f"{folder} is not used", 'say wire.security = "curve" in the rig file'
    if not folder.is_dir():
        yield "bad", f"{folder}: there is no such folder", "headstream keys RIG"
        return
    for place in (folder, folder / "nodes"):
        if place.is_dir() and place.stat().st_mode & 0o022:
            seen = f"{stat.S_IMODE(place.stat().st_mode):04o}"
            yield "bad", f"{place}: others may exchange the keys in it (mode {seen})", f"chmod 700 {place}"
    yield from _check_server(rig) if secret_file(folder, None).exists() else _check_node(rig)


def _check_server(rig: Rig) -> Iterator[tuple[str, str, str]]:
    folder = rig.wire.keys
    try:
        pair = server_pair(folder)
        if server_public(folder) != pair.public:
            raise KeysError(f"{public_file(folder, None)}: is not of {secret_file(folder, None).name}; remove it")
        names = node_names(folder, rig.nodes)
    except KeysError as error:
        yield "bad", str(error), "headstream keys RIG makes what is missing"
        return
    yield "ok", f"the server's, and those of {len(names)} nodes", ""
    for node in rig.nodes:
        secret = secret_file(folder, node)
        if not secret.exists():
            continue
        try:
            if names.get(read_pair(secret).public) != node:
                raise KeysError(f"{secret}: is not of {public_file(folder, node).name}; remove the wrong one")
        except KeysError as error:
            yield "bad", str(error), f"headstream keys RIG --renew {node}"
            continue
        if not is_loopback(rig.server.host):
            remedy = f"headstream keys RIG --bundle {node}; once it is there, remove {secret}"
            yield "note", f"node {node}'s secret lies on the server", remedy


def _check_node(rig: Rig) -> Iterator[tuple[str, str, str]]:
    folder = rig.wire.keys
    here = [node for node in rig.nodes if secret_file(folder, node).exists()]
    try:
        server_public(folder)
        for node in here:
            node_pair(folder, node)
    except KeysError as error:
        yield "bad", str(error), "copy it from the server: headstream keys RIG --bundle NODE"
        return
    if here:
        yield "ok", f"those of node {', '.join(here)}, and the server's public one", ""
    else:
        yield "bad", f"{folder}: has no secret of the server or of a node", "headstream keys RIG --bundle NODE there"


def guide(rig: Rig, path: Path) -> list[str]:
    """What to do with the keys now, a line each."""
    folder = rig.wire.keys
    lines = []
    if rig.wire.security != "curve":
        lines.append(f'{path} says wire.security = "plain": no key is used until it says "curve"')
    moved = [node for node in rig.nodes if secret_file(folder, node).exists()]
    if moved and not is_loopback(rig.server.host):
        lines.append("each node's machine needs its own secret and the server's public key, beside its rig file:")
        for node in moved:
            lines.append(f"  headstream keys {path} --bundle {node}    then copy the folder it writes to {node}")
        lines.append(f"then remove the nodes' secrets here: rm {folder / 'nodes'}/*.key_secret")
    return lines


def bundle(rig: Rig, node: str, out: Path | None) -> list[str]:
    """``write_bundle`` for a node of the rig, by default beside the rig file; says what to do with it."""
    if node not in rig.nodes:
        raise HeadstreamError(f"--bundle: {node!r} is no node of the rig; its nodes are {', '.join(rig.nodes)}")
    target = out or rig.root / f"keys-{node}"
    write_bundle(rig.wire.keys, node, target)
    try:
        name = rig.wire.keys.relative_to(rig.root)
    except ValueError:
        name = rig.wire.keys
    return [
        f"{target}: the secret of {node} and the server's public key",
        f"copy it to {node} as {name} beside the rig file (scp -rp: others must not read it), then remove it here",
    ]
