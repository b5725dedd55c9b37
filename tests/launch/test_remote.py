"""The PCs of a rig over a real SSH connection: brought up to date, started, asked, read, ended; and what goes wrong."""

import asyncio
import os
import signal
import time

import asyncssh
import pytest

from launch.remote.jobs import read_logs, rig_with_pcs
from launch.remote.labels import labelled
from protocol.errors import HeadstreamError


def until(ask, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
    return answer


def test_deploy_start_status_kill_stop(headstream, installed, ssh_pcs):
    code, said = headstream("deploy", installed, "--json")
    assert code == 0, said
    assert said["pc1"]["copied"] == ["rig.toml", "cameras.json"]
    there = ssh_pcs.home("pc2") / "headstream" / "rig" / "rig.toml"
    assert there.read_bytes() == installed.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o600

    code, said = headstream("deploy", installed, "--start", "--json")  # again: nothing to copy
    assert code == 0, said
    assert said["pc1"]["copied"] == []
    first = {name: entry["pid"] for name, entry in said.items()}

    code, said = headstream("start", installed, "--json")  # twice is one process
    assert (code, {name: entry["pid"] for name, entry in said.items()}) == (0, first)
    assert said["pc1"]["note"] == "ran already"

    os.kill(first["pc1"], signal.SIGKILL)

    def started_again():
        _, said = headstream("status", installed, "--json")
        return said["pc1"]["state"] == "running" and said["pc1"]["pid"] != first["pc1"] and said

    said = until(started_again)
    assert (said["pc1"]["restarts"], said["pc1"]["last_exit"]) == (1, -signal.SIGKILL)
    assert said["pc2"]["pid"] == first["pc2"]

    code, printed = headstream("logs", installed)
    assert code == 0
    assert any(line.startswith("[pc1/cam0] ") and "camera cam0: replay" in line for line in printed.splitlines())
    assert any(
        line.startswith("[pc1] ") and "was killed by signal 9; started again" in line for line in printed.splitlines()
    )
    assert any(line.startswith("[pc2/cam3] ") for line in printed.splitlines())

    code, said = headstream("stop", installed, "--json")
    assert (code, {entry["state"] for entry in said.values()}) == (0, {"stopped"})
    assert headstream("stop", installed)[0] == 0
    code, said = headstream("status", installed, "--json")
    assert (code, said["pc1"]["ok"]) == (1, False)


def test_one_pc_that_fails_does_not_stop_the_others_and_is_told_at_the_end(headstream, installed, ssh_pcs):
    (ssh_pcs.home("pc1") / "headstream" / ".venv" / "bin" / "headstream").unlink()
    code, printed = headstream("deploy", installed)
    assert code == 1
    assert printed.splitlines()[-2].startswith("pc1: there is no headstream at ")
    assert "headstream deploy RIG --install" in printed
    assert printed.splitlines()[-1] == "1 of 2 PCs are well"
    assert (ssh_pcs.home("pc2") / "headstream" / "rig" / "rig.toml").exists()


def test_another_version_is_refused_and_nothing_is_copied(headstream, installed, ssh_pcs):
    program = ssh_pcs.home("pc1") / "headstream" / ".venv" / "bin" / "headstream"
    program.write_text('#!/bin/sh\necho "Welcome to pc1"\necho \'{"number": "0.0.9", "code": "abc"}\'\n')
    code, said = headstream("deploy", installed, "--json")
    assert code == 1
    assert said["pc1"]["text"].startswith("it has headstream 0.0.9 (abc), this machine ")
    assert not (ssh_pcs.home("pc1") / "headstream" / "rig").exists()


def test_a_node_is_not_started_with_another_rig_file_than_this_machines(headstream, installed):
    assert headstream("deploy", installed)[0] == 0
    installed.write_text(installed.read_text() + "# changed\n")
    code, said = headstream("start", installed, "--json")
    assert code == 1
    assert said["pc1"]["text"] == "its rig.toml is not this machine's: headstream deploy RIG"


def test_a_node_that_cannot_start_says_why(headstream, installed):
    installed.write_text(installed.read_text().replace('id = "cam0"', 'id = "cam9"'))
    code, said = headstream("deploy", installed, "--start", "--json")
    assert code == 1
    assert said["pc1"]["state"] == "waiting"
    assert "has no camera 'cam9'" in said["pc1"]["note"]
    assert said["pc2"]["ok"]


def test_only_the_named_pc(headstream, installed, ssh_pcs):
    code, said = headstream("deploy", installed, "--node", "pc2", "--json")
    assert (code, list(said)) == (0, ["pc2"])
    assert headstream("deploy", installed, "--node", "pc7")[1].endswith("no [[node]] table 'pc7'; there are pc1, pc2")


def test_keys_go_to_their_own_node_only(tmp_path):
    from types import SimpleNamespace

    from launch.remote.files import files_for

    keys = tmp_path / "keys"
    (keys / "nodes").mkdir(parents=True)
    for name in ("server.key", "server.key_secret", "nodes/pc1.key", "nodes/pc1.key_secret", "nodes/pc2.key_secret"):
        (keys / name).write_text(name)
    path = tmp_path / "rig.toml"
    path.write_text("x")
    (tmp_path / "cameras.json").write_text("y")
    wire = SimpleNamespace(security="curve", keys=keys)
    rig = SimpleNamespace(calibration=tmp_path / "cameras.json", wire=wire, root=tmp_path)
    modes = {file.relative: file.mode for file in files_for(path, rig, "pc1")}
    assert modes == {
        "rig.toml": 0o600,
        "cameras.json": 0o644,
        "keys/server.key": 0o644,
        "keys/nodes/pc1.key": 0o644,
        "keys/nodes/pc1.key_secret": 0o600,
    }
    with pytest.raises(HeadstreamError, match=r"pc2\.key: cannot be read .*headstream keys RIG"):
        files_for(path, rig, "pc2")


def test_an_unknown_host_key_is_refused(headstream, installed, tmp_path):
    (tmp_path / "caller" / ".ssh" / "known_hosts").unlink()
    code, said = headstream("status", installed, "--json")
    assert code == 1
    assert said["pc1"]["text"].startswith("the host key of 127.0.0.1 is not known; run: ssh -p ")


def test_a_changed_host_key_is_refused_in_other_words(headstream, installed, ssh_pcs, tmp_path):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / "caller" / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{ssh_pcs.port} {other}")
    code, said = headstream("status", installed, "--json")
    assert code == 1
    assert "is not the one in known_hosts" in said["pc1"]["text"]
    assert f"ssh-keygen -R [127.0.0.1]:{ssh_pcs.port}" in said["pc1"]["text"]


def test_a_refused_key_says_how_to_bring_it_there(headstream, installed, tmp_path):
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key()
    (tmp_path / "caller" / ".ssh" / "id_ed25519").write_bytes(other)
    code, said = headstream("status", installed, "--json")
    assert code == 1
    assert said["pc1"]["text"].startswith("it refuses the SSH keys of this user; run: ssh-copy-id -p ")


def test_nobody_there(headstream, installed, ssh_pcs):
    installed.write_text(installed.read_text().replace(f"port = {ssh_pcs.port}", "port = 1"))
    code, said = headstream("status", installed, "--json")
    assert code == 1
    assert said["pc1"]["text"] == "127.0.0.1 refuses connections; start the SSH server there (port 1)"


def test_a_rig_without_pcs_says_what_is_missing(headstream, installed):
    installed.write_text(installed.read_text().partition("[[node]]")[0])
    code, said = headstream("status", installed)
    assert code == 2
    assert 'has no [[node]] table that says where a node runs, such as [[node]] name = "pc1"' in said


def test_a_calibration_elsewhere_is_refused_before_any_pc_is_touched(headstream, installed, ssh_pcs):
    elsewhere = installed.parent.parent / "capture" / "cameras.json"
    installed.write_text(installed.read_text().replace('"cameras.json"', f'"{elsewhere}"'))
    code, said = headstream("deploy", installed)
    assert code == 2
    assert "so keep both in one folder" in said
    assert not ssh_pcs.commands


def test_a_log_is_followed_across_a_broken_connection(headstream, installed, ssh_pcs):
    """It ended all of them, with a traceback."""
    assert headstream("deploy", installed)[0] == 0
    logs = {}
    for name in ("pc1", "pc2"):
        logs[name] = ssh_pcs.home(name) / "headstream" / "rig" / ".headstream" / f"{name}.log"
        logs[name].parent.mkdir(parents=True)
        logs[name].write_text("camera cam0: old\n")
    rig, pcs = rig_with_pcs(installed)
    said = []

    def write_until_said(name, line):
        async def write():
            while f"[{name}] {line}" not in said:
                with logs[name].open("a") as file:
                    file.write(line + "\n")
                await asyncio.sleep(0.1)

        return asyncio.wait_for(write(), 20)

    async def story():
        following = asyncio.create_task(read_logs(installed, rig, pcs, 1, True, said.append))
        async with asyncio.timeout(20):
            while len(said) < 2:
                await asyncio.sleep(0.05)
        assert sorted(said) == ["[pc1/cam0] camera cam0: old", "[pc2] camera cam0: old"]
        await write_until_said("pc1", "before")
        await write_until_said("pc2", "before")
        await asyncio.to_thread(ssh_pcs.drop, "pc1")
        await write_until_said("pc1", "after")
        await write_until_said("pc2", "after")
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    asyncio.run(story())
    broken = [line for line in said if "no log: " in line]
    assert broken
    assert all(line.startswith("[pc1] no log: the connection broke") for line in broken)


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("12:00:00 I capture_nodes.camera: camera cam1: replay of x", "[pc1/cam1]"),
        ("12:00:00 I capture_nodes.link: node pc1: the server takes cam1, cam2", "[pc1]"),
        ("camera cam7: is not this node's", "[pc1]"),
        ('{"camera": "cam2", "message": "lost"}', "[pc1/cam2]"),
        ('{"message": "camera cam2"}', "[pc1]"),
        ("{not json", "[pc1]"),
    ],
)
def test_each_line_is_labelled(line, label):
    assert labelled("pc1", line, {"cam1", "cam2"}) == f"{label} {line}"
