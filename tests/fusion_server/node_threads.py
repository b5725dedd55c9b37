"""Real nodes for the tests of this room, each on a thread of its own."""

from __future__ import annotations

import threading

from capture_nodes.node import Node
from protocol.rig import Rig


class Nodes:
    """Nodes on threads of their own."""

    def __init__(self, rig: Rig):
        self.rig, self.running = rig, {}

    def start(self, *names: str) -> None:
        for name in names:
            stop = threading.Event()
            thread = threading.Thread(target=Node(self.rig, name).run, args=(stop,))
            thread.start()
            self.running[name] = (stop, thread)

    def stop(self, name: str) -> None:
        stop, thread = self.running.pop(name)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
