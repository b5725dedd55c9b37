"""Processes of a rig: ended in order, and none left behind however the parent ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.local import Child, LocalRig
from launch.up import Revival
from protocol.rig import load_rig

PARENT = """
import sys, time
from launch.local import Child
child = Child("node", ["node", sys.argv[1], "--name", "pc0"], lambda name, line: print(line, flush=True))
print("pid", child.process.pid, flush=True)
time.sleep(60)
"""


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def rig(tmp_path):
    """A rig whose node waits for a server that never comes."""
    import cv2
    import numpy as np

    frames = tmp_path / "capture" / "frames" / "0"
    frames.mkdir(parents=True)
    (tmp_path / "capture" / "cameras.json").write_text(
        '{"version": 1, "cameras": [{"name": "cam00", "width": 32, "height": 32,'
        ' "K": [[30,0,16],[0,30,16],[0,0,1]], "R": [[1,0,0],[0,1,0],[0,0,1]], "t": [0,0,1]}]}'
    )
    cv2.imwrite(str(frames / "cam00.jpg"), np.zeros((32, 32, 3), np.uint8))
    path = tmp_path / "rig.toml"
    path.write_text(
        'name = "test"\ncalibration = "capture/cameras.json"\n'
        '[[camera]]\nid = "cam00"\nnode = "pc0"\ndriver = "replay"\noptions = {capture = "capture"}\n'
    )
    return path


def test_long_lines_and_log_lines_do_not_mix(tmp_path, monkeypatch):
    """A status of 9 kB, which a pipe takes in pieces, while the log goes on: a reader of statuses died of it."""
    talker = tmp_path / "python"
    talker.write_text(
        f"#!{sys.executable}\nimport os, threading\n"
        "status = b'{' + b'x' * 9000 + b'}'\n"
        "def log():\n    for _ in range(2000): os.write(2, b'a line of the log\\n')\n"
        "thread = threading.Thread(target=log)\nthread.start()\n"
        "for _ in range(200):\n    os.write(1, status)\n    os.write(1, b'\\n')\n"
        "thread.join()\n"
    )
    talker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(talker))
    lines = []
    child = Child("server", [], lambda name, line: lines.append(line))
    until(lambda: child.returncode is not None)
    assert child.end() == 0
    assert lines.count("{" + "x" * 9000 + "}") == 200
    assert lines.count("a line of the log") == 2000 and len(lines) == 2200


def test_a_node_ends_cleanly_when_asked(rig):
    lines = []
    child = Child("pc0", ["node", str(rig), "--name", "pc0"], lambda name, line: lines.append(line))
    until(lambda: lines)  # it is up: it has logged something
    start = time.monotonic()
    assert child.end() == 0, lines
    assert time.monotonic() - start < 5.0
    assert not any("Traceback" in line for line in lines)


def test_a_child_is_asked_to_end_once(monkeypatch, rig):
    """A second SIGTERM would kill a Python that is shutting down, and a clean end would look like a crash."""
    lines, asked = [], []
    child = Child("pc0", ["node", str(rig), "--name", "pc0"], lambda name, line: lines.append(line))
    until(lambda: lines)
    terminate = child.process.terminate
    monkeypatch.setattr(child.process, "terminate", lambda: (asked.append(1), terminate()))
    child.ask_to_end()
    child.ask_to_end()
    assert child.end() == 0
    assert asked == [1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's word of a parent's death is Linux's")
def test_a_killed_parent_leaves_no_orphan(rig):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(rig)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[1])
    try:
        parent.stdout.readline()  # the node's first log line: it runs, and has asked to be told
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(5.0)
        until(lambda: not alive(pid))
    finally:
        parent.kill()
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        parent.stdout.close()


def test_the_server_gives_way_to_the_nodes_and_nodes_to_nobody(rig):
    """Two cores computed a first mesh, and pictures that cameras had taken meanwhile were read by nobody."""
    with LocalRig(rig, load_rig(rig), lambda name, line: None) as local:
        server, *nodes = (os.getpriority(os.PRIO_PROCESS, c.process.pid) for c in (local.server, *local.nodes))
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert server == min(ours + 5, 19)
    assert nodes and set(nodes) == {ours}


def test_up_starts_a_killed_node_again(rig):
    """Every node that died stayed dead before, while the server waited for its cameras."""
    with LocalRig(rig, load_rig(rig), lambda name, line: None) as local:
        local.server.end()  # not what this is about: it has no calibration that suits it
        said = []
        revival = Revival(local, said.append)
        first = local.nodes[0]
        os.kill(first.process.pid, signal.SIGKILL)
        until(lambda: revival.look(time.monotonic()) and local.nodes[0] is not first)
        assert said == ["pc0 was killed by signal 9; started again in 1 s"]
        assert alive(local.nodes[0].process.pid)
