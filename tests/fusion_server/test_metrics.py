"""What Prometheus reads of a server and of a node, over HTTP as it does."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from dataclasses import asdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from capture_nodes.metrics import NodeCollector
from capture_nodes.outbox import Counts
from fusion_server.metrics import ServerCollector
from fusion_server.synchronize import SyncCounters
from protocol.clock import UNKNOWN_SIGMA_NS, ClockState
from protocol.errors import HeadstreamError
from protocol.metrics import MetricsServer

CLOCK = {"offset_ms": 5.0, "sigma_us": 12.0, "drift_ppm": -3.5, "rtt_us": 90.0, "jumps": 2}


def status(**changes):
    camera = {
        "node": "pc1",
        "fps": 29.5,
        "received": 300,
        "refused": 1,
        "missed": 4,
        "captured": 310,
        "captured_fps": None,
        "dropped": 5,
        "errors": 2,
        "offset_ns": 1,
        "offset_sigma_ns": 1,
        "age_s": 0.02,
    }
    return {
        "time_ns": 1,
        "cameras": {"cam0": camera},
        "refused": {"crc": 3},
        "sync": asdict(SyncCounters(sets=7, late_by_camera={"cam0": 1})),
        "meshes": 6,
        "skipped": 1,
        "faults": 2,
        "meshes_per_second": 4.5,
        "latency_ms": 250.0,
        "stages": {
            "normals": {"per_second": 6.5, "ms": {"decode": 4.0, "normals": 90.0}},
            "surface": {"per_second": 4.5, "ms": {"surface": 110.0, "device_frame": 5.0}},
        },
        "alarms": [{"key": "drift:pc1", "text": "...", "since_ns": 1}],
        "clocks": {"pc1": CLOCK, "pc2": None},
        "spread": {"median": 0.4, "p99": 0.9, "last": None},
        "timecode": "",
        "waiting": 3,
        "takes": 2,
        "take": None,
        "take_queue_bytes": 4096,
        **changes,
    }


def nodes():
    return {"pc1": {"connected": True}, "pc2": {"connected": False}}


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


@pytest.fixture
def serve():
    servers = []

    def start(collector):
        servers.append(MetricsServer("127.0.0.1", 0, collector, "metrics.server_port"))
        return servers[-1].port

    yield start
    for each in servers:
        each.close()


def test_the_servers_numbers(serve):
    now = status()
    port = serve(ServerCollector(lambda: now, nodes))
    seen = scrape(port)
    camera = (("camera", "cam0"), ("node", "pc1"))
    assert seen["headstream_frames_received_total", *camera] == 300
    assert seen["headstream_frames_missed_total", *camera] == 4
    assert seen["headstream_frames_dropped_total", *camera] == 5
    assert seen["headstream_camera_fps", *camera] == 29.5
    assert ("headstream_camera_captured_fps", *camera) not in seen  # not reported yet
    assert seen["headstream_clock_offset_seconds", ("node", "pc1")] == 5e-3
    assert seen["headstream_clock_drift_ppm", ("node", "pc1")] == -3.5
    assert seen["headstream_clock_jumps_total", ("node", "pc1")] == 2
    assert ("headstream_clock_offset_seconds", ("node", "pc2")) not in seen
    assert seen["headstream_node_connected", ("node", "pc2")] == 0
    assert seen["headstream_spread_seconds", ("of", "p99")] == pytest.approx(9e-4)
    assert ("headstream_spread_seconds", ("of", "last")) not in seen
    assert seen["headstream_messages_refused_total", ("reason", "crc")] == 3
    assert seen["headstream_sync_sets_total",] == 7
    assert seen["headstream_latency_seconds",] == 0.25
    stage = "headstream_stage_seconds"
    assert seen[stage, ("stage", "decode"), ("thread", "normals")] == pytest.approx(4e-3)
    assert seen[stage, ("stage", "device_frame"), ("thread", "surface")] == pytest.approx(5e-3)
    assert seen["headstream_stage_sets_per_second", ("thread", "normals")] == 6.5
    assert seen["headstream_takes_total",] == 2 and seen["headstream_recording",] == 0
    assert seen["headstream_take_queue_bytes",] == 4096
    assert seen["headstream_alarm", ("key", "drift:pc1")] == 1 and seen["headstream_alarms",] == 1
    assert seen["process_resident_memory_bytes",] > 1e6
    now["cameras"]["cam0"]["received"] = 301  # read when asked, not remembered
    assert scrape(port)["headstream_frames_received_total", *camera] == 301


def test_before_the_server_is_made_there_are_only_the_processs_own(serve):
    seen = scrape(serve(ServerCollector(lambda: None, nodes)))
    assert seen["process_resident_memory_bytes",] > 1e6
    assert not [key for key in seen if key[0].startswith("headstream")]


class Node:
    """Stands for a node."""

    name, waiting_bytes = "pc1", 1234

    def __init__(self, clock):
        self._clock = clock

    def counts(self):
        return {"cam0": Counts(captured=10, sent=8, dropped=1, errors=3)}

    def clock(self):
        return self._clock


def test_a_nodes_numbers(serve):
    seen = scrape(serve(NodeCollector(Node(ClockState(-2_000_000, 9_000, 40.0, 70_000, 1)))))
    camera, node = (("camera", "cam0"), ("node", "pc1")), ("node", "pc1")
    assert [seen[f"headstream_frames_{key}_total", *camera] for key in ("captured", "sent", "dropped")] == [10, 8, 1]
    assert seen["headstream_camera_errors_total", *camera] == 3
    assert seen["headstream_queue_bytes", node] == 1234
    assert seen["headstream_clock_offset_seconds", node] == pytest.approx(-2e-3)
    assert seen["headstream_clock_drift_ppm", node] == 40


@pytest.mark.parametrize("clock", [None, ClockState(0, UNKNOWN_SIGMA_NS, 0.0, 0, 0)])
def test_a_node_without_a_clock_has_no_clock_numbers(serve, clock):
    seen = scrape(serve(NodeCollector(Node(clock))))
    assert not [key for key in seen if "clock" in key[0]]


def test_a_port_in_use_is_one_line_with_the_rig_files_key():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HeadstreamError, match=rf"127\.0\.0\.1:{port}: .*in use.*metrics\.server_port"):
            MetricsServer("127.0.0.1", port, NodeCollector(Node(None)), "metrics.server_port")


def test_a_closed_server_frees_its_port():
    server = MetricsServer("127.0.0.1", 0, NodeCollector(Node(None)), "metrics.node_port")
    server.close()
    with pytest.raises(urllib.error.URLError):
        scrape(server.port)
