import os
import stat

import pytest
import zmq
import zmq.auth
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.keys import (
    KeysError,
    make_pair,
    node_names,
    node_pair,
    public_file,
    read_pair,
    read_public,
    secret_file,
    server_pair,
    server_public,
    write_secret,
)


def test_a_pair_comes_back_as_it_was_made_and_zeromq_reads_it(tmp_path):
    server, node = make_pair(tmp_path, None), make_pair(tmp_path, "pc.1")
    assert server_pair(tmp_path) == server and server_public(tmp_path) == server.public
    assert node_pair(tmp_path, "pc.1") == node != server
    assert zmq.auth.load_certificate(secret_file(tmp_path, "pc.1")) == (node.public, node.secret)
    assert zmq.auth.load_certificate(public_file(tmp_path, "pc.1")) == (node.public, None)
    assert zmq.curve_public(node.secret) == node.public


def test_a_node_called_server_has_files_of_its_own(tmp_path):
    assert make_pair(tmp_path, None) != make_pair(tmp_path, "server")


def test_secrets_are_nobody_elses_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        make_pair(tmp_path / "keys", "pc1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(secret_file(tmp_path / "keys", "pc1").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert secret_file(tmp_path / "keys", "pc1").read_bytes() not in public_file(tmp_path / "keys", "pc1").read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode):
    make_pair(tmp_path, None)
    secret_file(tmp_path, None).chmod(mode)
    with pytest.raises(KeysError, match=rf"server\.key_secret: .* \(mode {mode:04o}\); chmod 600"):
        server_pair(tmp_path)


def test_a_key_is_never_overwritten(tmp_path):
    made = make_pair(tmp_path, "pc1")
    with pytest.raises(KeysError, match="is there already"):
        make_pair(tmp_path, "pc1")
    secret_file(tmp_path, "pc1").unlink()
    with pytest.raises(KeysError, match="is there already"):
        make_pair(tmp_path, "pc1")
    assert not secret_file(tmp_path, "pc1").exists()  # no secret without its public half
    assert read_public(public_file(tmp_path, "pc1")) == made.public


def test_a_link_is_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "nodes").mkdir()
    secret_file(tmp_path, "pc1").symlink_to(elsewhere)
    with pytest.raises(KeysError):
        make_pair(tmp_path, "pc1")
    assert not elsewhere.exists()


def test_the_secret_is_not_printed(tmp_path):
    pair = make_pair(tmp_path, None)
    assert pair.secret.decode() not in repr(pair) and pair.public.decode() in repr(pair)


def test_names_of_nodes_by_their_keys(tmp_path):
    pairs = {name: make_pair(tmp_path, name) for name in ("pc1", "pc2")}
    assert node_names(tmp_path, pairs) == {pairs["pc1"].public: "pc1", pairs["pc2"].public: "pc2"}
    with pytest.raises(KeysError, match=r"pc3\.key: there is no such key; `headstream keys RIG`"):
        node_names(tmp_path, ["pc1", "pc3"])
    public_file(tmp_path, "pc3").write_bytes(public_file(tmp_path, "pc1").read_bytes())
    with pytest.raises(KeysError, match="nodes pc1 and pc3 have the same key"):
        node_names(tmp_path, ["pc1", "pc2", "pc3"])


def test_halves_of_two_pairs_are_refused(tmp_path):
    one, other = make_pair(tmp_path, "pc1"), make_pair(tmp_path, "pc2")
    path = secret_file(tmp_path, "pc1")
    path.write_bytes(path.read_bytes().replace(one.public, other.public))
    with pytest.raises(KeysError, match="do not belong together"):
        node_pair(tmp_path, "pc1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "has no line `public-key"),
        (b'public-key = "short"', "has no line `public-key"),
        (b'public-key = "%s"' % (b"|" * 40), "not Z85"),
        (b'public-key = "%s"' % (b"#" * 40), "not Z85"),
        (b"\0" * 5000, "more than 4096 bytes"),
    ],
)
def test_files_that_are_no_keys(tmp_path, text, says):
    (tmp_path / "server.key").write_bytes(text)
    with pytest.raises(KeysError, match=says):
        server_public(tmp_path)


def test_a_folder_is_no_key(tmp_path):
    (tmp_path / "server.key").mkdir()
    with pytest.raises(KeysError, match=r"server\.key: "):
        server_public(tmp_path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_are_a_key_or_a_keys_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("keys")
    pair = make_pair(folder, None)
    path = secret_file(folder, None)
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=50))
    path.write_bytes(whole)
    try:
        assert read_pair(path) == pair
    except KeysError as error:
        assert "\n" not in str(error) and pair.secret.decode() not in str(error)


def test_a_secret_is_written_for_another_machine(tmp_path):
    pair = make_pair(tmp_path, "pc1")
    write_secret(tmp_path / "bundle" / "pc1.key_secret", pair, "pc1")
    assert read_pair(tmp_path / "bundle" / "pc1.key_secret") == pair
