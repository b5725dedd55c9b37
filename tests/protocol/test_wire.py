import subprocess
import sys
import time
from dataclasses import replace

import pytest
import zmq

from protocol.rig import parse_rig
from protocol.wire import WireError, bound_port, control_dealer, control_router, data_dealer, data_router

RIG = parse_rig(
    {
        "name": "studio",
        "calibration": "cameras.json",
        "wire": {"max_frame_mb": 0.05, "queue_mb": 1},
        "camera": [{"id": f"cam{i}", "node": f"pc{i}", "driver": "replay"} for i in (1, 2)],
    }
)


def at(host="127.0.0.1", data=0, control=0):
    return replace(RIG, server=replace(RIG.server, host=host, data_port=data, control_port=control))


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def send(socket, parts, seconds=5.0):
    """As soon as there is a connection."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.send_multipart(parts)
        except zmq.Again:
            assert time.monotonic() < deadline, "no connection"
            time.sleep(0.005)


def listen_again(context, port, seconds=5.0):
    """libzmq frees a closed socket's port a moment later."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return data_router(context, at(data=port))
        except WireError:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def receive(socket, seconds=5.0):
    assert socket.poll(seconds * 1000), "nothing came"
    return socket.recv_multipart()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
@pytest.mark.parametrize("plane", ["data", "control"])
def test_both_ways_between_a_node_and_the_server(context, plane, host):
    router_of, dealer_of = {"data": (data_router, data_dealer), "control": (control_router, control_dealer)}[plane]
    try:
        router = router_of(context, at(host))
    except WireError:
        pytest.skip(f"this machine has no {host}")
    dealer = dealer_of(context, at(host, bound_port(router), bound_port(router)), "pc1")
    send(dealer, [b"head", b"jpeg"])
    assert receive(router) == [b"pc1", b"head", b"jpeg"]
    router.send_multipart([b"pc1", b"grant"])
    assert receive(dealer) == [b"grant"]


@pytest.mark.parametrize(("make", "key"), [(data_router, "data_port"), (control_router, "control_port")])
def test_a_port_in_use_is_named_with_its_key(context, make, key):
    holder = make(context, at())
    port = bound_port(holder)
    with pytest.raises(WireError, match=rf"tcp://127\.0\.0\.1:{port}: the port is in use; .* server\.{key}"):
        make(context, at(data=port, control=port))


def test_an_address_of_another_machine_is_named(context):
    with pytest.raises(WireError, match=r"tcp://192\.0\.2\.1:\*: no address of this machine; server\.host"):
        data_router(context, at("192.0.2.1"))


def test_nothing_waits_for_a_server_that_is_not_there(context):
    router = data_router(context, at())
    port = bound_port(router)
    router.close()
    dealer = data_dealer(context, at(data=port), "pc1")
    with pytest.raises(zmq.Again):
        dealer.send(b"old")
    router = listen_again(context, port)
    send(dealer, [b"new"])
    assert receive(router) == [b"pc1", b"new"]


def test_a_server_learns_that_a_node_is_not_there(context):
    router = data_router(context, at())
    with pytest.raises(zmq.ZMQError) as caught:
        router.send_multipart([b"pc1", b"grant"])
    assert caught.value.errno == zmq.EHOSTUNREACH


def test_a_node_that_comes_again_takes_its_place(context):
    router = data_router(context, at())
    rig = at(data=bound_port(router))
    first = data_dealer(context, rig, "pc1")
    send(first, [b"first"])
    assert receive(router) == [b"pc1", b"first"]
    second = data_dealer(context, rig, "pc1")  # while the first is still connected
    send(second, [b"second"])
    assert receive(router) == [b"pc1", b"second"]
    router.send_multipart([b"pc1", b"grant"])
    assert receive(second) == [b"grant"]


def test_a_message_far_too_large_does_not_arrive_and_the_server_goes_on(context):
    router = data_router(context, at())
    rig = at(data=bound_port(router))
    bad, good = data_dealer(context, rig, "pc1"), data_dealer(context, rig, "pc2")
    send(bad, [b"head", bytes(3 * RIG.wire.max_frame_bytes)])
    send(good, [b"head", bytes(RIG.wire.max_frame_bytes)])
    assert receive(router)[0] == b"pc2"
    assert not router.poll(200)


def test_unread_frames_are_bounded(context):
    """A server that does not read holds a few frames of a node, not libzmq's thousand, and the node is told."""
    router = data_router(context, at())
    dealer = data_dealer(context, at(data=bound_port(router)), "pc1")
    frame = [b"head", bytes(RIG.wire.max_frame_bytes)]
    send(dealer, frame)
    sent, deadline = 1, time.monotonic() + 10
    idle = 0
    while idle < 20 and time.monotonic() < deadline:  # until the kernel's buffers are full, too
        try:
            dealer.send_multipart(frame)
            sent, idle = sent + 1, 0
        except zmq.Again:
            idle += 1
            time.sleep(0.005)
    kernel = 8 << 20
    assert sent <= 2 * (RIG.wire.credit + 8) + kernel // RIG.wire.max_frame_bytes


NODE_DIES = """
import time, zmq
from dataclasses import replace
from protocol.rig import parse_rig
from protocol.wire import bound_port, data_dealer, data_router

camera = {"id": "cam1", "node": "pc1", "driver": "replay"}
rig = parse_rig({"name": "s", "calibration": "c", "wire": {"max_frame_mb": 0.5}, "camera": [camera]})
rig = replace(rig, server=replace(rig.server, data_port=0))
servers, nodes = zmq.Context(), zmq.Context()
router = data_router(servers, rig)
rig = replace(rig, server=replace(rig.server, data_port=bound_port(router)))
dealer = data_dealer(nodes, rig, "pc1")
full_since = time.monotonic()
while time.monotonic() < full_since + 0.3:
    try:
        dealer.send_multipart([b"head", bytes(400_000)])
        full_since = time.monotonic()
    except zmq.Again:
        time.sleep(0.005)
nodes.destroy(linger=0)
time.sleep(0.9)
dealer = data_dealer(nodes := zmq.Context(), rig, "pc1")
deadline = time.monotonic() + 10
said = False
while time.monotonic() < deadline:
    try:
        said = said or dealer.send(b"again") is None
    except zmq.Again:
        time.sleep(0.005)
    if router.poll(5) and router.recv_multipart() == [b"pc1", b"again"]:
        print("served")
        break
nodes.destroy(linger=0)
servers.destroy(linger=0)
"""


def test_a_node_that_dies_while_the_server_is_behind_does_not_take_it_along(root):
    """In a process of its own, as libzmq would abort it."""
    run = subprocess.run([sys.executable, "-c", NODE_DIES], cwd=root, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip()) == (0, "served"), run.stderr


def test_no_socket_says_or_answers_heartbeats(context):
    """With them libzmq aborted the server when a cable came back; the kernel watches connections instead."""
    sockets = [data_router(context, at()), control_router(context, at())]
    sockets += [data_dealer(context, at(data=1), "pc1"), control_dealer(context, at(control=1), "pc1")]
    for socket in sockets:
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
        assert socket.getsockopt(zmq.TCP_MAXRT) == 2000
