"""The fusion server's receiver alone, in a process of its own: python -m benchmarks._receiver RIG WARM SECONDS."""

from __future__ import annotations

import signal
import sys
import time

from benchmarks._meter import Meter, say
from fusion_server.receive import Receiver
from protocol.calibration import load_calibration
from protocol.messages import Frame
from protocol.rig import load_rig


def main() -> None:
    """Until the window has closed, or until asked to stop; says at the end what the receiver counted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    rig = load_rig(sys.argv[1])
    meter = Meter(len(rig.cameras), float(sys.argv[2]), float(sys.argv[3]))

    def on_frame(frame: Frame) -> None:
        header = frame.header
        meter.frame(header.camera, header.sequence, len(frame.jpeg), header.node_ns)

    receiver = Receiver(rig, load_calibration(rig.calibration), on_frame, meter.look)
    receiver.start()
    try:
        while receiver.alive and not meter.done:
            time.sleep(0.05)
        time.sleep(1.2)  # the nodes' last reports
    finally:
        cameras = receiver.statistics().values()
        receiver.stop()
        counts = {key: sum(camera[key] for camera in cameras) for key in ("received", "missed", "captured", "dropped")}
        say({"event": "counts", **counts, "refused": receiver.refused()})


if __name__ == "__main__":
    main()
