"""The wire across cables that are pulled: who is gone is noticed, and nobody dies of it."""

import os
import signal
import subprocess
import sys
import time

import pytest
import zmq

from benchmarks import _netlab, four_pcs
from benchmarks._netlab import Lab
from protocol.rig import load_rig
from protocol.wire import data_dealer, data_router

PLAIN = "allow_plain = true"  # what is tested is the cable
reason = _netlab.missing()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)


def until(happened, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_node_whose_pc_vanishes_is_dropped_and_one_that_is_silent_is_not():
    """Nobody says that it is gone, and nothing is said on the connection of the other either."""
    with Lab(["server", "pc1", "pc2"]) as lab:
        addresses = {name: lab[name].address for name in ("pc1", "pc2")}
        rig = load_rig(four_pcs.write_rig(lab.folder, lab["server"].address, addresses, 15, PLAIN))
        contexts = {name: zmq.Context() for name in lab.hosts}
        nodes = {}
        with lab["server"].inside():
            router = data_router(contexts["server"], rig)
        for name in addresses:
            with lab[name].inside():
                nodes[name] = data_dealer(contexts[name], rig, name)

        def reaches(name):
            try:
                router.send_multipart([name.encode(), b"are you there?"])
            except zmq.ZMQError as error:
                assert error.errno == zmq.EHOSTUNREACH
                return False
            return True

        def says_hello(node):
            try:
                return node.send(b"hello") is None
            except zmq.Again:
                return False

        try:
            for node in nodes.values():
                until(lambda node=node: says_hello(node))
                assert router.poll(5000)
                assert router.recv_multipart()[1] == b"hello"
            with lab["pc1"].unplugged():
                until(lambda: not reaches("pc1"))
            assert reaches("pc2")
            until(lambda: says_hello(nodes["pc1"]))  # it is back by itself
            until(lambda: reaches("pc1"))
        finally:
            for context in contexts.values():
                context.destroy(linger=0)


SERVER = """
import sys, time
from pathlib import Path
from fusion_server.receive import Receiver
from protocol.calibration import load_calibration
from protocol.rig import load_rig
rig = load_rig(Path(sys.argv[1]))
Receiver(rig, load_calibration(rig.calibration), lambda frame: None).start()
time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_that_stalls_while_a_cable_comes_back_lives(root):
    """libzmq aborted it in about every second try, when nodes still sent heartbeats for it to answer."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with Lab(["server", *four_pcs.PCS]) as lab:
        addresses = {name: lab[name].address for name in four_pcs.PCS}
        rig = four_pcs.write_rig(lab.folder, lab["server"].address, addresses, 15, PLAIN)
        server = lab["server"].popen([sys.executable, "-c", SERVER, rig], env=environment)
        for name in four_pcs.PCS:
            command = [sys.executable, "-m", "launch.cli", "node", rig, "--name", name]
            lab[name].popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(5.0)
        for stall in (0.3, 1.0, 2.5):
            with lab["pc3"].unplugged():
                time.sleep(11.5)
                os.kill(server.pid, signal.SIGSTOP)
                time.sleep(0.5)
            time.sleep(stall)
            os.kill(server.pid, signal.SIGCONT)
            time.sleep(4.0)
            assert server.poll() is None, f"it ended with status {server.returncode}"
