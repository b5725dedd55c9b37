"""``headstream keys``: as an operator types it, on the server and on a node's machine."""

import stat

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.doctor import examine
from protocol.errors import HeadstreamError
from protocol.keys import make_pair, node_names, node_pair, public_file, secret_file, server_pair, server_public
from protocol.rig import load_rig

RIG = """
name = "studio"
calibration = "cameras.json"
[server]
host = "{host}"
[wire]
security = "{security}"
[[camera]]
id = "cam1"
node = "pc1"
driver = "replay"
[[camera]]
id = "cam2"
node = "pc2"
driver = "replay"
"""


@pytest.fixture
def rig(tmp_path):
    path = tmp_path / "server" / "rig.toml"
    path.parent.mkdir()
    path.write_text(RIG.format(host="10.0.0.2", security="curve"), encoding="utf-8")
    return path


def keys(*arguments, code=0):
    run = CliRunner().invoke(app, ["keys", *map(str, arguments)])
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == code, run.output
    return run.output


def on_a_node(rig, node):
    """The rig file and the bundle of a node, as they lie on its machine."""
    there = rig.parent.parent / node
    there.mkdir()
    keys(rig, "--bundle", node, "--out", there / "keys")
    path = there / "rig.toml"
    path.write_bytes(rig.read_bytes())
    return path


def test_everything_that_is_missing_is_made_once(rig):
    out = keys(rig)
    folder = load_rig(rig).wire.keys
    assert folder == rig.parent / "keys"
    assert "keys/server.key_secret: made" in out and f"headstream keys {rig} --bundle pc1" in out
    pairs = server_pair(folder), node_pair(folder, "pc1"), node_pair(folder, "pc2")
    secret_file(folder, "pc2").unlink()  # it was moved to its machine
    assert "nothing is missing" in keys(rig)
    assert (server_pair(folder), node_pair(folder, "pc1")) == pairs[:2]
    assert node_names(folder, ["pc1", "pc2"]) == {pairs[1].public: "pc1", pairs[2].public: "pc2"}
    public_file(folder, "pc1").unlink()
    assert "written again from its secret" in keys(rig)
    assert node_pair(folder, "pc1") == pairs[1]


def test_a_bundle_holds_what_one_node_needs_and_nothing_else(rig):
    keys(rig)
    node = on_a_node(rig, "pc1")
    here, there = load_rig(rig).wire.keys, load_rig(node).wire.keys
    assert node_pair(there, "pc1") == node_pair(here, "pc1") and server_public(there) == server_public(here)
    files = sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())
    assert files == ["nodes/pc1.key", "nodes/pc1.key_secret", "server.key"]
    assert stat.S_IMODE(secret_file(there, "pc1").stat().st_mode) == 0o600
    with pytest.raises(HeadstreamError, match="is there already"):
        keys(rig, "--bundle", "pc1", "--out", there)
    with pytest.raises(HeadstreamError, match="'pc9' is no node of the rig; its nodes are pc1, pc2"):
        keys(rig, "--bundle", "pc9")


def test_on_a_nodes_machine_nothing_is_made(rig):
    keys(rig)
    node = on_a_node(rig, "pc1")
    with pytest.raises(HeadstreamError, match="this is a node's machine"):
        keys(node)
    assert "copy it to keys/nodes on the server" in keys(node, "--renew", "pc1")
    assert not secret_file(load_rig(node).wire.keys, None).exists()


def test_a_key_is_replaced_only_when_asked(rig):
    keys(rig)
    folder = load_rig(rig).wire.keys
    before = node_pair(folder, "pc1"), server_pair(folder)
    assert "start the server again, and bring node pc1 its secret" in keys(rig, "--renew", "pc1")
    assert node_pair(folder, "pc1") != before[0] and server_pair(folder) == before[1]
    assert "copy it to every node" in keys(rig, "--renew", "server")
    assert server_pair(folder) != before[1]
    with pytest.raises(HeadstreamError, match="must be server or a node of the rig: pc1, pc2"):
        keys(rig, "--renew", "pc9")


def test_check_on_the_server(rig):
    assert "there is no such folder -> headstream keys RIG" in keys(rig, "--check", code=1)
    keys(rig)
    out = keys(rig, "--check")
    assert "ok  the server's, and those of 2 nodes" in out and "node pc1's secret lies on the server" in out
    folder = load_rig(rig).wire.keys
    folder.chmod(0o777)
    assert "others may exchange the keys in it (mode 0777)" in keys(rig, "--check", code=1)
    folder.chmod(0o700)
    secret_file(folder, None).chmod(0o644)
    assert "chmod 600" in keys(rig, "--check", code=1)
    secret_file(folder, None).chmod(0o600)
    public_file(folder, "pc2").unlink()
    assert "pc2.key: there is no such key" in keys(rig, "--check", code=1)
    make_pair(folder / "other", "pc2")
    public_file(folder, "pc2").write_bytes(public_file(folder / "other", "pc2").read_bytes())
    assert "pc2.key_secret: is not of pc2.key" in keys(rig, "--check", code=1)


def test_check_on_a_node(rig):
    keys(rig)
    node = on_a_node(rig, "pc1")
    assert keys(node, "--check") == "  ok  those of node pc1, and the server's public one\n"
    public_file(load_rig(node).wire.keys, None).unlink()
    assert "server.key: there is no such key" in keys(node, "--check", code=1)
    public_file(load_rig(node).wire.keys, None).write_bytes(public_file(load_rig(rig).wire.keys, None).read_bytes())
    secret_file(load_rig(node).wire.keys, "pc1").unlink()
    assert "has no secret of the server or of a node" in keys(node, "--check", code=1)


def test_the_doctor_looks_at_the_keys(rig):
    found = [finding for finding in examine(load_rig(rig)) if finding.what == "keys"]
    assert [finding.state for finding in found] == ["bad"] and found[0].remedy == "headstream keys RIG"
    keys(rig)
    assert "ok" in [finding.state for finding in examine(load_rig(rig)) if finding.what == "keys"]


def test_a_plain_rig_needs_none_and_is_told_when_it_has_some(rig):
    rig.write_text(RIG.format(host="127.0.0.1", security="plain"), encoding="utf-8")
    assert "none needed" in keys(rig, "--check")
    assert 'no key is used until it says "curve"' in keys(rig)
    assert "is not used" in keys(rig, "--check")


def test_one_thing_at_a_time(rig):
    with pytest.raises(HeadstreamError, match="give one of"):
        keys(rig, "--check", "--renew", "pc1")
