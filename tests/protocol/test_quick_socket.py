"""Ours beside pyzmq's own socket: the same parts, nothing in halves."""

import pytest
import zmq

from protocol.quick_socket import QuickSocket


@pytest.fixture
def pair():
    context = zmq.Context()
    server = context.socket(zmq.ROUTER, socket_class=QuickSocket)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    peers = []

    def connect(kind, **options):
        peer = context.socket(zmq.DEALER, socket_class=kind)
        peer.setsockopt(zmq.IDENTITY, b"pc1")
        for option, value in options.items():
            peer.setsockopt(getattr(zmq, option), value)
        peer.connect(f"tcp://127.0.0.1:{port}")
        peers.append(peer)
        return peer

    yield server, connect
    context.destroy(linger=0)


MESSAGES = [[b"one"], [b"head", b"x" * 300_000], [b"", b"", b"end"]]


@pytest.mark.parametrize("kind", [QuickSocket, zmq.Socket])
@pytest.mark.parametrize("copy", [True, False])
def test_what_one_sends_the_other_takes(pair, kind, copy):
    server, connect = pair
    peer = connect(kind)
    for parts in MESSAGES:
        peer.send_multipart(parts, copy=copy)
    for parts in MESSAGES:
        assert server.poll(5000)
        got = server.take(copy)
        assert [part if copy else part.bytes for part in got] == [b"pc1", *parts]
    assert server.take() is None
    server.send_multipart([b"pc1", b"back", b""])
    assert peer.poll(5000)
    assert peer.recv_multipart() == [b"back", b""]


def test_a_full_peer_takes_a_message_whole_or_not_at_all(pair):
    server, connect = pair
    server.close()
    peer = connect(QuickSocket, SNDHWM=3)  # nobody there: what is queued stays queued
    sent = 0
    with pytest.raises(zmq.Again):
        for sent in range(10):
            peer.send_multipart([b"%d" % sent, b"body"], zmq.NOBLOCK)
    assert sent == 3
    with pytest.raises(zmq.Again):
        peer.send(b"one part", zmq.NOBLOCK)


def test_looking_for_a_message_that_is_not_there_raises_nothing_and_costs_no_message(pair):
    server, connect = pair
    peer = connect(QuickSocket)
    assert server.take() is None and peer.take() is None
    peer.send(b"now")
    assert server.poll(5000)
    assert server.take() == [b"pc1", b"now"]
