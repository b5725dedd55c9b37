"""How a server ends while it records: the take is completed first, but nobody waits for nodes that are not there."""

from __future__ import annotations

from typing import Any

import pytest

import launch.serve
from launch.serve import _complete_take, status_line


class Server:
    """As much of a server as ending a take needs; each wait takes one of the steps."""

    def __init__(self, steps: list[dict[str, Any]], recording: bool = True):
        self.steps, self.recording = steps, recording
        self.backfill, self.waits = self, 0

    def stop_recording(self) -> str | None:
        return "take" if self.recording else None

    def wait_idle(self, seconds: float) -> bool:
        self.waits += 1
        return not self.steps

    def status(self) -> dict[str, Any]:
        return {"backfill": self.steps.pop(0)}


BUSY = {"take": "a_001", "queued": 2, "stuck": 1}
NEXT, AWAY = {"take": None, "queued": 2, "stuck": 1}, {"take": None, "queued": 2, "stuck": 2}


@pytest.mark.parametrize(
    ("steps", "recording", "waits", "said"),
    [
        ([], False, 0, 0),  # nothing was recorded
        ([], True, 1, 0),  # nothing was missing
        ([BUSY] * 5, True, 6, 5),
        ([NEXT, BUSY, NEXT, AWAY, BUSY], True, 4, 4),  # nobody is there any more who has something
    ],
)
def test_a_take_is_completed_as_far_as_nodes_are_there(steps, recording, waits, said):
    server, lines = Server(list(steps), recording), []
    _complete_take(server, lines.append)
    assert (server.waits, len(lines)) == (waits, said)


def test_it_does_not_take_for_ever(monkeypatch):
    monkeypatch.setattr(launch.serve, "_BACKFILL_S", 0.0)
    server = Server([BUSY] * 5)
    _complete_take(server, lambda status: None)
    assert server.waits == 0


def test_the_status_line_says_what_limits_the_rate():
    status = {
        "cameras": {"a": {"fps": 30.0, "missed": 0}},
        "spread": {"last": 0.4},
        "meshes": 9,
        "meshes_per_second": 29.8,
        "latency_ms": 61.2,
        "stages": {
            "normals": {"per_second": 30.0, "ms": {"decode": 4.2, "normals": 20.4}},
            "surface": {"per_second": 29.8, "ms": {"surface": 25.4, "warm": 24.0}},
        },
        "take": None,
    }
    assert " | latency 61 ms | decode 4 normals 20 ms (30.0/s) | surface 25 ms (29.8/s)" in status_line(status)
