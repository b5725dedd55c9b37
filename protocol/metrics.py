"""Serves a process's numbers to Prometheus over HTTP. What the numbers are, a collector of the room says.

A collector is asked when Prometheus asks: nothing is counted for its sake anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from protocol.errors import HeadstreamError


class Collector(Protocol):
    """Whatever makes metrics when asked, on a thread of the HTTP server's."""

    def collect(self) -> Iterable[Metric]:
        """Every metric, as it is now."""


class MetricsServer:
    """``http://<host>:<port>/metrics``, from now until ``close``; ``key`` names the rig file's key in errors.

    Beside the collector's there are the process's own (memory, CPU seconds, open files). Raises HeadstreamError when it
    cannot listen there.
    """

    def __init__(self, host: str, port: int, collector: Collector, key: str):
        registry = CollectorRegistry()
        registry.register(collector)  # type: ignore[arg-type]
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise HeadstreamError(
                f"http://{host}:{port}: metrics cannot be served there ({reason}); see {key} in the rig file"
            ) from None
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Free the port; may be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Values: TypeAlias = Iterable[tuple[Iterable[str], float | None]]


def gauge(name: str, text: str, labels: Iterable[str], values: Values) -> Metric:
    """A gauge ``headstream_<name>``; values: (label values, value), those that are None being left out."""
    return _filled(GaugeMetricFamily(f"headstream_{name}", text, labels=list(labels)), values)


def counter(name: str, text: str, labels: Iterable[str], values: Values) -> Metric:
    """A counter ``headstream_<name>_total``; values as for ``gauge``."""
    return _filled(CounterMetricFamily(f"headstream_{name}", text, labels=list(labels)), values)


def _filled(family: Any, values: Values) -> Metric:
    for labels, value in values:
        if value is not None:
            family.add_metric(list(labels), value)
    return family
