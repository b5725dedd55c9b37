"""A node as a service of its PC: one process however often it is started, started again when it dies."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from launch.backoff import Backoff
from launch.service import control, systemd
from launch.service.keeper import keep
from launch.service.state import FINISHED, RUNNING, STOPPED, WAITING, KeeperFiles, NodeState, ServiceError
from protocol.errors import HeadstreamError


@pytest.fixture
def rig(tmp_path, capture, monkeypatch, root):
    """A rig file of one node, kept without systemd, ended after the test."""
    monkeypatch.setattr(systemd, "available", lambda: False)
    monkeypatch.setenv("PYTHONPATH", str(root))
    path = tmp_path / "a rig" / "rig.toml"
    path.parent.mkdir()
    path.write_text(
        'name = "test"\ncalibration = "cameras.json"\n'
        f'[[camera]]\nid = "cam0"\nnode = "pc1"\ndriver = "replay"\noptions = {{capture = "{capture}"}}\n'
    )
    yield path
    control.stop(path, "pc1")


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return found


def test_never_started(rig):
    assert control.status(rig, "pc1") == NodeState("pc1", STOPPED, "keeper", note="never started")
    assert control.stop(rig, "pc1").state == STOPPED
    with pytest.raises(ServiceError, match="has no log yet"):
        list(control.log_lines(rig, "pc1", 5, False, lambda: False))
    with pytest.raises(HeadstreamError, match="its nodes are pc1"):
        control.start(rig, "pc2")


def test_started_by_several_at_once_it_is_one_process(rig):
    states = []
    starters = [threading.Thread(target=lambda: states.append(control.start(rig, "pc1"))) for _ in range(3)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(states) == 3
    running = until(lambda: (state := control.status(rig, "pc1")).pid and state)
    keepers = {state.pid for state in states if state.pid}
    assert keepers == {running.pid}


def test_an_older_rig_file_is_told(rig):
    assert control.start(rig, "pc1").note == ""
    assert control.start(rig, "pc1").note == "ran already"
    later = time.time() + 5
    os.utime(rig, (later, later))
    assert control.start(rig, "pc1").note == "ran already, with an older rig file: stop it, then start it"


def test_a_killed_keeper_leaves_no_node_and_is_told(rig):
    started = control.start(rig, "pc1")
    os.kill(KeeperFiles.of(rig, "pc1").holder(), signal.SIGKILL)
    until(lambda: KeeperFiles.of(rig, "pc1").holder() is None)
    state = control.status(rig, "pc1")
    assert (state.state, state.note) == (STOPPED, "its keeper was killed, or the PC went down")
    until(lambda: not _alive(started.pid))
    assert control.start(rig, "pc1").pid != started.pid


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_dies_is_started_again_and_what_has_finished_is_not(tmp_path, monkeypatch):
    codes, started = [2, -9, 0], []

    class Process:
        """Ends at once with the next status, after a word."""

        def __init__(self, name, arguments, on_line):
            self.process = SimpleNamespace(pid=100 + len(started))
            self.returncode = codes[len(started)]
            started.append(arguments)
            on_line(name, f"headstream: reason {len(started)}")

        def end(self):
            return self.returncode

    monkeypatch.setattr("launch.service.keeper.Child", Process)
    rig = tmp_path / "rig.toml"
    assert keep(rig, "pc1", threading.Event(), Backoff(first=0.01)) == 0
    assert started == [["node", str(rig), "--name", "pc1"]] * 3
    _, state = KeeperFiles.of(rig, "pc1").read()
    assert (state.state, state.restarts, state.last_exit) == (FINISHED, 2, 0)
    log = KeeperFiles.of(rig, "pc1").log.read_text()
    assert "headstream: reason 2" in log
    assert "keeper: node pc1 was killed by signal 9; started again in 0.02 s" in log
    assert log.splitlines()[-1].endswith("keeper: node pc1 has finished")


def test_logs_are_followed_across_their_being_turned_over(tmp_path):
    path = tmp_path / "pc1.log"
    path.write_text("old\n")
    seen, ended = [], threading.Event()

    def follow():
        for line in control._what_comes(path, ended.is_set):
            seen.append(line)

    reader = threading.Thread(target=follow)
    reader.start()

    def say(line):
        before = len(seen)
        with path.open("a") as file:
            file.write(line[:2])
            file.flush()
            file.write(line[2:] + "\n")
        until(lambda: len(seen) > before)

    try:
        deadline = time.monotonic() + 10
        while not seen:  # until the reader is there
            with path.open("a") as file:
                file.write("tick\n")
            time.sleep(0.05)
            assert time.monotonic() < deadline
        say("one")
        path.rename(tmp_path / "pc1.log.1")
        path.touch()
        say("two")
        say("three")
    finally:
        ended.set()
        reader.join()
    assert [line for line in seen if line != "tick"] == ["one", "two", "three"]


@pytest.mark.parametrize("change", [{"pid": "7"}, {"more": 1}, {"state": 3}, {"note": "a\nb"}])
def test_a_strange_answer_of_a_pc_is_refused(change):
    good = NodeState("pc1", RUNNING, "keeper").to_json()
    assert NodeState.from_json(good).node == "pc1"
    with pytest.raises(ServiceError, match="another version"):
        NodeState.from_json({**good, **change})


SHOWN = {"ActiveState": "active", "SubState": "running", "MainPID": "7", "NRestarts": "0", "ExecMainCode": "0"}


@pytest.mark.parametrize(
    ("changes", "state", "last_exit"),
    [
        ({}, RUNNING, None),
        ({"ActiveState": "activating", "SubState": "auto-restart", "MainPID": "0", "ExecMainCode": "2",
          "ExecMainStatus": "9", "NRestarts": "3"}, WAITING, -9),
        ({"ActiveState": "inactive", "SubState": "dead", "MainPID": "0"}, STOPPED, None),
        ({"ActiveState": "inactive", "SubState": "dead", "MainPID": "0", "ExecMainCode": "1", "ExecMainStatus": "0",
          "Result": "success", "UnitFileState": "enabled"}, FINISHED, 0),
        ({"ActiveState": "inactive", "SubState": "dead", "MainPID": "0", "ExecMainCode": "1", "ExecMainStatus": "0",
          "Result": "success", "UnitFileState": "disabled"}, STOPPED, 0),
        ({"ActiveState": "failed", "SubState": "failed", "MainPID": "0", "ExecMainCode": "1", "ExecMainStatus": "2"},
         STOPPED, 2),
        ({"ActiveState": "", "SubState": "", "MainPID": ""}, STOPPED, None),
    ],
)  # fmt: skip
def test_what_systemd_shows_in_our_words(changes, state, last_exit):
    found = systemd.parse_state("pc1", {**SHOWN, **changes})
    assert (found.state, found.last_exit, found.manager) == (state, last_exit, "systemd")


def test_nothing_in_a_unit_file_is_a_specifier_or_a_variable(tmp_path):
    text = systemd.unit_text(tmp_path / "a 100% $rig" / 'r"x.toml', "pc1", "/usr/bin/python3", {"A": "b c"})
    command = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert f'"{tmp_path}/a 100%% $$rig/r\\"x.toml" "--name" "pc1"' in command
    assert 'Environment="A=b c"' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / systemd.unit_name(tmp_path / "rig.toml", "pc1")
    unit.write_text(systemd.unit_text(tmp_path / "a rig.toml", "pc1", sys.executable, {"A": "b c"}))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", unit], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line and "RestartSteps" not in line]
    assert not [line for line in complaints if "RestartMaxDelaySec" not in line], done.stderr  # both are systemd 254's


# A user's systemd of its own, in mount and cgroup namespaces that end with it.
USER_SYSTEMD = """
set -u
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0 && chmod 700 /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 HOME="$1" XDG_CONFIG_HOME="$1/.config"; shift
mount -t cgroup2 none /sys/fs/cgroup
group=/sys/fs/cgroup/headstream-test-$$
mkdir $group && echo $$ > $group/cgroup.procs
/lib/systemd/systemd --user --log-target=null > /dev/null 2>&1 &
manager=$!
for i in $(seq 100); do systemctl --user show-environment > /dev/null 2>&1 && break; sleep 0.1; done
"$@"
status=$?
kill $manager; wait $manager
echo $$ > /sys/fs/cgroup/cgroup.procs
find $group -depth -type d -exec rmdir {} \\; 2> /dev/null
exit $status
"""
STORY = """
import os, signal, sys, time
from pathlib import Path
from launch.service import control
rig = Path(sys.argv[1])
first = control.start(rig, "pc1")
assert (first.state, first.manager) == ("running", "systemd"), first
again = control.start(rig, "pc1")
assert (again.pid, again.note) == (first.pid, "ran already"), again
os.kill(first.pid, signal.SIGKILL)
deadline = time.monotonic() + 20
while (now := control.status(rig, "pc1")).state != "running" or now.pid == first.pid:
    assert time.monotonic() < deadline, now
    time.sleep(0.1)
assert now.restarts == 1, now
assert control.stop(rig, "pc1").state == "stopped"
assert control.stop(rig, "pc1").state == "stopped"
print("told")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/lib/systemd/systemd") or shutil.which("unshare") is None,
    reason="needs root, systemd and unshare",
)
def test_a_real_systemd_keeps_the_node(rig, tmp_path, root):
    home = tmp_path / "home"
    home.mkdir()
    command = ["unshare", "--mount", "--cgroup", "bash", "-c", USER_SYSTEMD, "bash", home, sys.executable, "-c", STORY]
    done = subprocess.run([*command, rig], cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "told"), done.stderr
