"""The sockets with keys: who gets in, under which name, and that nobody takes another's place."""

import time
from dataclasses import replace

import pytest
import zmq
import zmq.auth

from protocol.admission import former_name
from protocol.keys import KeysError, make_pair, public_file, secret_file
from protocol.rig import parse_rig
from protocol.wire import bound_port, control_dealer, control_router, data_dealer, data_router, doorkeeper

DEADLINE_S = 10.0


@pytest.fixture
def rig(tmp_path):
    """Two nodes and a server, all keys in one folder."""
    cameras = [{"id": f"cam{i}", "node": f"pc{i}", "driver": "replay"} for i in (1, 2)]
    wire = {"security": "curve", "max_frame_mb": 0.05, "queue_mb": 1}
    rig = parse_rig({"name": "studio", "calibration": "c.json", "wire": wire, "camera": cameras}, root=tmp_path)
    for who in (None, "pc1", "pc2"):
        make_pair(rig.wire.keys, who)
    return replace(rig, server=replace(rig.server, data_port=0, control_port=0))


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def served(rig):
    """A server's data ROUTER and the rig as its nodes need it."""
    context = zmq.Context()
    keeper = doorkeeper(context, rig)
    router = data_router(context, rig)
    yield router, replace(rig, server=replace(rig.server, data_port=bound_port(router))), keeper
    keeper.close()
    context.destroy(linger=0)


def send(socket, parts):
    """As soon as there is a connection."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return socket.send_multipart(parts)
        except zmq.Again:
            assert time.monotonic() < deadline, "no connection"
            time.sleep(0.005)


def receive(socket, seconds=DEADLINE_S, **how):
    assert socket.poll(seconds * 1000), "nothing came"
    return socket.recv_multipart(**how)


def as_another(rig, tmp_path, node, thief):
    """The rig as a machine sees it that has pc's place in the rig file but only the key of another."""
    folder = tmp_path / "stolen"
    for source, target in ((secret_file, secret_file), (public_file, public_file)):
        path = target(folder, node)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source(rig.wire.keys, thief).read_bytes())
        path.chmod(0o600)
    public_file(folder, None).write_bytes(public_file(rig.wire.keys, None).read_bytes())
    return replace(rig, wire=replace(rig.wire, keys=folder))


def raw_dealer(context, rig, key, identity):
    """Somebody who speaks ZeroMQ as he likes, with a key of the rig and an identity of his choice."""
    pair, server = key, public_file(rig.wire.keys, None)
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.curve_publickey, socket.curve_secretkey = pair
    socket.curve_serverkey = zmq.auth.load_certificate(server)[0]
    socket.connect(f"tcp://127.0.0.1:{rig.server.data_port}")
    return socket


@pytest.mark.parametrize("plane", ["data", "control"])
def test_both_ways_between_a_node_and_the_server(rig, context, plane):
    router_of, dealer_of = {"data": (data_router, data_dealer), "control": (control_router, control_dealer)}[plane]
    server = zmq.Context()
    keeper = doorkeeper(server, rig)
    try:
        router = router_of(server, rig)
        port = bound_port(router)
        dealer = dealer_of(context, replace(rig, server=replace(rig.server, data_port=port, control_port=port)), "pc1")
        send(dealer, [b"head", b"jpeg"])
        assert receive(router) == [b"pc1", b"head", b"jpeg"]
        router.send_multipart([b"pc1", b"grant"])
        assert receive(dealer) == [b"grant"]
        send(dealer, [b"head", b"jpeg"])
        parts = receive(router, copy=False)
        assert [part.bytes for part in parts] == [b"pc1", b"head", b"jpeg"]
        with pytest.raises(zmq.ZMQError) as caught:
            router.send_multipart([b"pc2", b"grant"])
        assert caught.value.errno == zmq.EHOSTUNREACH
        assert keeper.refusals() == ([], 0)
    finally:
        keeper.close()
        server.destroy(linger=0)


def test_nobody_gets_in_without_a_doorkeeper(rig, context):
    """What a future part forgets must not stand open."""
    router = data_router(context, rig)
    nodes = zmq.Context()
    dealer = data_dealer(nodes, replace(rig, server=replace(rig.server, data_port=bound_port(router))), "pc1")
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        with pytest.raises(zmq.Again):
            dealer.send(b"let me in")
        time.sleep(0.02)
    dealer.close()
    nodes.destroy(linger=0)
    assert not router.poll(0)


def test_an_unknown_key_is_turned_away_counted_and_told(served, context, tmp_path):
    router, rig, keeper = served
    other = tmp_path / "other"
    make_pair(other, "pc1")
    public_file(other, None).write_bytes(public_file(rig.wire.keys, None).read_bytes())
    dealer = data_dealer(context, replace(rig, wire=replace(rig.wire, keys=other)), "pc1")
    said, deadline = "", time.monotonic() + DEADLINE_S
    while not said:
        assert time.monotonic() < deadline, "it was told nothing"
        said = dealer.refused(0.0)
        time.sleep(0.01)
    assert "the server does not know this node's key; copy" in said and "other/nodes/pc1.key" in said
    (why,), more = keeper.refusals()
    assert why.startswith("127.0.0.1: its key ") and more == 0
    assert not router.poll(50)
    assert dealer.refused(4.0) == ""  # it does not knock yet
    assert dealer.refused(5.1) == ""  # now it does
    while not keeper.refusals()[0]:
        assert time.monotonic() < deadline, "it has not knocked again"
        time.sleep(0.01)


def test_a_node_whose_key_arrives_later_gets_in_without_being_restarted(rig, context, tmp_path):
    """The server was started before the key was copied to it, and is then started again."""
    late, mine = make_pair(tmp_path / "late", "pc1"), tmp_path / "late"
    public_file(mine, None).write_bytes(public_file(rig.wire.keys, None).read_bytes())
    first = zmq.Context()
    keeper = doorkeeper(first, rig)
    router = data_router(first, rig)
    port = bound_port(router)
    node_rig = replace(rig, wire=replace(rig.wire, keys=mine), server=replace(rig.server, data_port=port))
    dealer = data_dealer(context, node_rig, "pc1")
    deadline = time.monotonic() + DEADLINE_S
    while not dealer.refused(0.0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    keeper.close()
    first.destroy(linger=0)
    public_file(rig.wire.keys, "pc1").write_bytes(public_file(mine, "pc1").read_bytes())
    second = zmq.Context()
    keeper = doorkeeper(second, rig)
    try:
        router = data_router(second, replace(rig, server=replace(rig.server, data_port=port)))
        dealer.refused(6.0)
        send(dealer, [b"here"])
        assert receive(router) == [b"pc1", b"here"]
        assert late.secret
    finally:
        keeper.close()
        second.destroy(linger=0)


def test_a_plain_peer_gets_nothing_through(served, context):
    router, rig, _ = served
    plain = context.socket(zmq.DEALER)
    plain.setsockopt(zmq.LINGER, 0)
    plain.setsockopt(zmq.IDENTITY, b"pc1")
    plain.connect(f"tcp://127.0.0.1:{rig.server.data_port}")
    plain.send_multipart([b"head", b"jpeg"])
    assert not router.poll(300)


def test_a_node_does_not_talk_to_another_server(served, context, tmp_path):
    """Who answers at the server's address with another key gets no picture, and the node says so."""
    router, rig, _ = served
    foreign = tmp_path / "foreign"
    make_pair(foreign, None)
    for path in (secret_file(foreign, "pc1"), public_file(foreign, "pc1")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((rig.wire.keys / "nodes" / path.name).read_bytes())
        path.chmod(0o600)
    dealer = data_dealer(context, replace(rig, wire=replace(rig.wire, keys=foreign)), "pc1")
    deadline, said = time.monotonic() + DEADLINE_S, ""
    while not said:
        assert time.monotonic() < deadline
        said = dealer.refused(0.0)
        with pytest.raises(zmq.Again):
            dealer.send(b"picture")
        time.sleep(0.01)
    assert "the server hangs up: it has another key than the one in" in said and "foreign/server.key" in said
    assert not router.poll(0)


def test_a_node_with_keys_tells_a_server_without(rig, context):
    plain = replace(rig, wire=replace(rig.wire, security="plain"))
    router = data_router(context, plain)
    nodes = zmq.Context()
    dealer = data_dealer(nodes, replace(rig, server=replace(rig.server, data_port=bound_port(router))), "pc1")
    deadline, said = time.monotonic() + DEADLINE_S, set()
    while not any("another wire.security" in text for text in said):
        assert time.monotonic() < deadline, said
        said.add(dealer.refused(0.0))
        time.sleep(0.01)
    dealer.close()
    nodes.destroy(linger=0)


def test_a_stolen_identity_is_worth_nothing(served, context):
    """pc1's key, with pc2's name as identity: heard as pc1, and pc2 keeps its place and what is sent to it."""
    router, rig, _ = served
    real = data_dealer(context, rig, "pc2")
    send(real, [b"real"])
    assert receive(router) == [b"pc2", b"real"]
    key = zmq.auth.load_certificate(secret_file(rig.wire.keys, "pc1"))
    thief = raw_dealer(context, rig, key, b"pc2")
    thief.send_multipart([b"stolen"])
    assert receive(router) == [b"pc1", b"stolen"]
    router.send_multipart([b"pc2", b"grant"])
    assert receive(real) == [b"grant"]
    assert not thief.poll(50)
    router.send_multipart([b"pc1", b"for pc1"])
    assert receive(thief) == [b"for pc1"]
    send(real, [b"still here"])
    assert receive(router) == [b"pc2", b"still here"]


def test_a_name_cannot_be_occupied_before_its_node_comes(served, context):
    router, rig, _ = served
    key = zmq.auth.load_certificate(secret_file(rig.wire.keys, "pc1"))
    squatter = raw_dealer(context, rig, key, b"pc2")
    squatter.send(b"first")
    assert receive(router) == [b"pc1", b"first"]
    real = data_dealer(context, rig, "pc2")
    send(real, [b"real"])
    assert receive(router) == [b"pc2", b"real"]
    router.send_multipart([b"pc2", b"grant"])
    assert receive(real) == [b"grant"]


def test_a_second_connection_under_a_taken_identity_disturbs_nobody(served, context):
    """Two raw peers with the same identity: the ROUTER ignores the second, the first goes on."""
    router, rig, _ = served
    one, other = (zmq.auth.load_certificate(secret_file(rig.wire.keys, node)) for node in ("pc1", "pc2"))
    first = raw_dealer(context, rig, one, b"same")
    first.send(b"first")
    assert receive(router) == [b"pc1", b"first"]
    second = raw_dealer(context, rig, other, b"same")
    second.send(b"second")
    time.sleep(0.3)
    first.send(b"again")
    assert receive(router) == [b"pc1", b"again"]
    router.send_multipart([b"pc1", b"grant"])
    assert receive(first) == [b"grant"]


def test_a_node_that_comes_again_takes_its_place_and_the_former_connection_is_told_apart(served, context):
    router, rig, _ = served
    first = data_dealer(context, rig, "pc1")
    send(first, [b"first"])
    assert receive(router) == [b"pc1", b"first"]
    second = data_dealer(context, rig, "pc1")  # while the first is still connected
    send(second, [b"second"])
    assert receive(router) == [b"pc1", b"second"]
    router.send_multipart([b"pc1", b"grant"])
    assert receive(second) == [b"grant"]
    send(first, [b"late"])
    name, text = receive(router)
    assert (former_name(name), text) == ("pc1", b"late") and former_name(b"pc1") == ""
    router.send_multipart([name, b"refused"])
    assert receive(first) == [b"refused"]


def test_a_key_of_another_node_gets_in_only_as_that_node(served, context, tmp_path):
    router, rig, _ = served
    thief = data_dealer(context, as_another(rig, tmp_path, "pc2", thief="pc1"), "pc2")
    send(thief, [b"I am pc2"])
    assert receive(router) == [b"pc1", b"I am pc2"]


def test_missing_keys_are_named(rig, context):
    secret_file(rig.wire.keys, "pc1").unlink()
    with pytest.raises(KeysError, match=r"pc1\.key_secret: there is no such key; `headstream keys RIG`"):
        data_dealer(context, rig, "pc1")
    public_file(rig.wire.keys, "pc2").unlink()
    with pytest.raises(KeysError, match=r"pc2\.key: "):
        doorkeeper(context, rig)
    secret_file(rig.wire.keys, None).unlink()
    with pytest.raises(KeysError, match=r"server\.key_secret: "):
        data_router(context, rig)
