import socket
import urllib.request

import pytest

from capture_nodes.outbox import Counts
from launch.metrics import node_metrics
from protocol.errors import HeadstreamError
from protocol.rig import parse_rig


def free_ports(count):
    """Neighbouring ports that are free."""
    while True:
        sockets = [socket.create_server(("127.0.0.1", 0))]
        first = sockets[0].getsockname()[1]
        try:
            sockets += [socket.create_server(("127.0.0.1", first + i)) for i in range(1, count)]
            return first
        except (OSError, OverflowError):
            continue
        finally:
            for each in sockets:
                each.close()


class Node:
    """Stands for the second node of a rig."""

    name, waiting_bytes = "pc1", 5

    def __init__(self, port):
        cameras = [{"id": f"cam{i}", "node": f"pc{i}", "driver": "replay"} for i in range(2)]
        rig = {"name": "t", "calibration": "c.json", "camera": cameras, "metrics": {"node_port": port}}
        self.rig = parse_rig(rig)

    def counts(self):
        return {"cam1": Counts(captured=3)}

    def clock(self):
        return None


def test_a_rigs_nodes_have_neighbouring_ports():
    first = free_ports(2)
    with node_metrics(Node(first)) as server:
        assert server.port == first + 1
        with urllib.request.urlopen(f"http://127.0.0.1:{first + 1}/metrics", timeout=5) as answer:
            assert b'headstream_frames_captured_total{camera="cam1",node="pc1"} 3.0' in answer.read()


def test_the_command_line_goes_before_the_rig_file():
    port = free_ports(1)
    with node_metrics(Node(9), port) as server:
        assert server.port == port
    with node_metrics(Node(9), 0) as server:
        assert server is None


def test_without_a_port_there_are_none():
    with node_metrics(Node(0)) as server:
        assert server is None


def test_a_port_in_use_is_one_line():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(HeadstreamError, match=r"metrics\.node_port"),
        node_metrics(Node(0), taken.getsockname()[1]),
    ):
        pass
