"""The node's metrics, served or not, as the rig file and the command line say."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from capture_nodes.metrics import NodeCollector
from capture_nodes.node import Node
from protocol.metrics import MetricsServer

log = logging.getLogger(__name__)


@contextlib.contextmanager
def node_metrics(node: Node, port: int | None = None) -> Iterator[MetricsServer | None]:
    """Serve the node's metrics meanwhile, on this port or by the rig file; 0: not at all.

    Raises HeadstreamError when that port cannot be had.
    """
    config = node.rig.metrics
    if port is None:
        port = config.node_port and config.node_port + node.rig.nodes.index(node.name)
    if not port:
        yield None
        return
    server = MetricsServer(config.host, port, NodeCollector(node), "metrics.node_port")
    log.info("node %s: metrics for Prometheus: http://%s:%d/metrics", node.name, config.host, server.port)
    with contextlib.closing(server):
        yield server
