"""Processes that die are started again, not too often."""

from types import SimpleNamespace

from launch.backoff import Backoff
from launch.up import Revival


def test_pauses_grow_to_a_limit_and_begin_anew_after_a_steady_life():
    backoff = Backoff(first=1.0, longest=5.0, steady=60.0)
    assert [backoff.pause(0.1) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [backoff.pause(61.0), backoff.pause(0.1)] == [1, 2]


class Local:
    """A LocalRig whose processes are numbers."""

    def __init__(self, *names):
        self.nodes = [SimpleNamespace(name=name, returncode=None, started=0.0) for name in names]
        self.started_again = []

    def start_again(self, node):
        self.started_again.append(node.name)
        self.nodes[self.nodes.index(node)] = SimpleNamespace(name=node.name, returncode=None, started=1.0)


def test_a_dead_node_is_started_again_after_its_pause_and_said_once():
    local, said = Local("a", "b"), []
    revival = Revival(local, said.append)
    assert revival.look(0.0)
    local.nodes[0].returncode = -9
    assert revival.look(0.2)
    assert revival.look(1.1)
    assert (local.started_again, said) == ([], ["a was killed by signal 9; started again in 1 s"])
    assert revival.look(1.3)
    assert local.started_again == ["a"]
    local.nodes[0].returncode = 2  # at once
    assert revival.look(1.5)
    assert said[1:] == ["a ended with status 2; started again in 2 s"]


def test_a_node_that_has_finished_is_left_alone():
    local, said = Local("a", "b"), []
    revival = Revival(local, said.append)
    local.nodes[0].returncode = 0
    assert revival.look(0.0)
    assert revival.look(60.0)
    local.nodes[1].returncode = 0
    assert not revival.look(60.2)
    assert (local.started_again, said) == ([], ["a has finished", "b has finished"])
