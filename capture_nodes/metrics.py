"""A node's numbers for Prometheus, read from the node when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from capture_nodes.node import Node
from protocol.clock import UNKNOWN_SIGMA_NS
from protocol.metrics import counter, gauge

_COUNTS = (
    ("captured", "frames_captured", "Pictures taken"),
    ("sent", "frames_sent", "Pictures handed to the network"),
    ("dropped", "frames_dropped", "Pictures dropped unsent"),
    ("errors", "camera_errors", "Attempts without a picture"),
)


class NodeCollector:
    """Metrics of one node, while it runs and before."""

    def __init__(self, node: Node):
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        name, counts, clock = self._node.name, self._node.counts(), self._node.clock()
        for key, metric, text in _COUNTS:
            values = [((camera, name), getattr(count, key)) for camera, count in counts.items()]
            yield counter(metric, text, ("camera", "node"), values)
        yield gauge("queue_bytes", "Pictures that wait to be sent", ("node",), [((name,), self._node.waiting_bytes)])
        if clock is None or clock.sigma_ns >= UNKNOWN_SIGMA_NS:
            return
        for metric, text, value in (
            ("clock_offset_seconds", "Server clock minus node clock", clock.offset_ns * 1e-9),
            ("clock_sigma_seconds", "One standard deviation of the clock offset", clock.sigma_ns * 1e-9),
            ("clock_drift_ppm", "How much faster the server's clock runs than the node's", clock.drift_ppm),
            ("clock_rtt_seconds", "Least round trip of the last clock exchanges", clock.rtt_ns * 1e-9),
        ):
            yield gauge(metric, text, ("node",), [((name,), value)])
        yield counter("clock_jumps", "Times that a clock was set", ("node",), [((name,), clock.jumps)])
