"""A node on a PC whose clock runs 100 ppm fast and is set 2 s ahead while a take runs; its cameras are as they were.

    python -m benchmarks._odd_clock_node RIG NODE SECONDS_UNTIL_THE_CLOCK_IS_SET

The machine's own clock stays as it is: the node is handed another, and its replayed pictures are told in that.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from capture_nodes.drivers.base import Captured
from capture_nodes.drivers.replay import ReplayDriver
from capture_nodes.node import Node
from launch.local import until_asked_to_stop
from protocol.rig import CameraConfig, Rig, load_rig

PPM, JUMP_NS = 100, 2 * 10**9


class OddClock:
    """This machine's clock, made wrong."""

    def __init__(self, jump_after_s: float) -> None:
        self._start = time.time_ns()
        self._jump_at = self._start + round(jump_after_s * 1e9)

    def shown(self, true_ns: int) -> int:
        """What the clock shows at a moment."""
        drifted = true_ns + (true_ns - self._start) * PPM // 10**6
        return drifted + (JUMP_NS if true_ns >= self._jump_at else 0)

    def now_ns(self) -> int:
        """What it shows now."""
        return self.shown(time.time_ns())


def main() -> None:
    """Run the node until asked to stop."""
    rig, name, seconds = load_rig(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    clock = OddClock(seconds)

    class OddReplay(ReplayDriver):
        """A camera that is triggered by a cable, at a PC whose clock is wrong."""

        def next_frame(self, timeout_s: float) -> Captured | None:
            captured = super().next_frame(timeout_s)
            return captured and replace(captured, node_ns=clock.shown(captured.node_ns))

    def make(camera: CameraConfig, rig: Rig) -> OddReplay:
        return OddReplay(camera, rig)

    Node(rig, name, make, clock.now_ns).run(until_asked_to_stop())


if __name__ == "__main__":
    main()
