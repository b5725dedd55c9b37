"""The server's numbers for Prometheus, read from its status when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric

from protocol.metrics import counter, gauge

_OF_CAMERA = ("camera", "node")
_OF_NODE = ("node",)
_CAMERA_COUNTS = (
    ("received", "frames_received", "Frames received"),
    ("missed", "frames_missed", "Frames that a gap in the sequence says were dropped, lost or refused"),
    ("refused", "frames_refused", "Frames refused"),
    ("captured", "frames_captured", "Pictures taken, as the node reports"),
    ("dropped", "frames_dropped", "Pictures dropped at the node for want of credit, as it reports"),
    ("errors", "camera_errors", "Attempts without a picture, as the node reports"),
)
_SYNC_COUNTS = (
    ("sets", "Frame sets"),
    ("incomplete", "Frame sets that miss a camera"),
    ("dropped_sets", "Frame sets with too few cameras"),
    ("late", "Frames whose set had been handed out"),
    ("duplicate", "Frames that came twice"),
    ("stale", "Frames thrown away while they waited"),
    ("untriggered", "Frames without a trigger where one is needed"),
    ("restarts", "Trigger counters that were given a new base"),
    ("resets", "Times that the synchroniser started again"),
)
_CLOCK = (
    ("offset_ms", 1e-3, "clock_offset_seconds", "Server clock minus node clock"),
    ("sigma_us", 1e-6, "clock_sigma_seconds", "One standard deviation of the clock offset"),
    ("drift_ppm", 1.0, "clock_drift_ppm", "How much faster the server's clock runs than the node's"),
    ("rtt_us", 1e-6, "clock_rtt_seconds", "Least round trip of the last clock exchanges"),
)


class ServerCollector:
    """Metrics out of ``Recorder.status()``, the server's with meshes, and ``Receiver.nodes()``."""

    def __init__(
        self, status: Callable[[], Mapping[str, Any] | None], nodes: Callable[[], Mapping[str, Mapping[str, Any]]]
    ):
        """A status of None: there is none yet, and there are no metrics."""
        self._status, self._nodes = status, nodes

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        status, nodes = self._status(), self._nodes()
        if status is None:
            return
        yield from _cameras(status["cameras"])
        yield gauge("node_connected", "Whether a node is connected", _OF_NODE, _each(nodes, "connected"))
        clocks = {name: clock for name, clock in status["clocks"].items() if clock}
        for key, unit, name, text in _CLOCK:
            yield gauge(name, text, _OF_NODE, [((node,), unit * clock[key]) for node, clock in clocks.items()])
        yield counter("clock_jumps", "Times that a clock was set", _OF_NODE, _each(clocks, "jumps"))
        spread = [((key,), None if value is None else value * 1e-3) for key, value in status["spread"].items()]
        yield gauge("spread_seconds", "Newest minus oldest exposure within a frame set", ("of",), spread)
        for key, text in _SYNC_COUNTS:
            yield counter(f"sync_{key}", text, (), [((), status["sync"][key])])
        refused = [((reason,), count) for reason, count in status["refused"].items()]
        yield counter("messages_refused", "Messages refused, by reason", ("reason",), refused)
        if "meshes" in status:
            yield from _meshes(status)
        yield counter("takes", "Takes begun", (), [((), status["takes"])])
        yield gauge("recording", "Whether a take is being recorded", (), [((), status["take"] is not None)])
        yield gauge("take_queue_bytes", "What waits for the take's disk", (), [((), status["take_queue_bytes"])])
        yield gauge("sync_waiting_frames", "Frames that wait for their set", (), [((), status["waiting"])])
        alarms = [((alarm["key"],), 1.0) for alarm in status["alarms"]]
        yield gauge("alarm", "Alarms that are raised", ("key",), alarms)
        yield gauge("alarms", "Number of alarms that are raised", (), [((), len(alarms))])


def _meshes(status: Mapping[str, Any]) -> Iterable[Metric]:
    yield counter("meshes", "Meshes made", (), [((), status["meshes"])])
    yield counter("sets_skipped", "Frame sets for which there was no time", (), [((), status["skipped"])])
    yield counter("faults", "Faults of the pipeline", (), [((), status["faults"])])
    yield gauge("meshes_per_second", "Meshes a second", (), [((), status["meshes_per_second"])])
    yield gauge("latency_seconds", "From exposure to mesh", (), [((), status["latency_ms"] * 1e-3)])
    stages = status["stages"]
    took = [((thread, stage), ms * 1e-3) for thread, of in stages.items() for stage, ms in of["ms"].items()]
    yield gauge("stage_seconds", "What a stage takes of a set; on a GPU, by its clock", ("thread", "stage"), took)
    rates = [((thread,), of["per_second"]) for thread, of in stages.items()]
    yield gauge("stage_sets_per_second", "Frame sets that a thread of the pipeline does a second", ("thread",), rates)


def _cameras(cameras: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    def values(key: str) -> list[tuple[tuple[str, str], float | None]]:
        return [((name, camera["node"]), camera[key]) for name, camera in cameras.items()]

    for key, name, text in _CAMERA_COUNTS:
        yield counter(name, text, _OF_CAMERA, values(key))
    yield gauge("camera_fps", "Frames a second received", _OF_CAMERA, values("fps"))
    yield gauge(
        "camera_captured_fps", "Pictures a second taken, as the node reports", _OF_CAMERA, values("captured_fps")
    )
    yield gauge("camera_age_seconds", "Since the last frame arrived", _OF_CAMERA, values("age_s"))


def _each(of: Mapping[str, Mapping[str, Any]], key: str) -> list[tuple[tuple[str], float | None]]:
    return [((name,), value[key]) for name, value in of.items()]
