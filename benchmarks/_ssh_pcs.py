"""PCs of a lab (``_netlab``) with real SSH servers, for what is done to them from the lab's server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._netlab import Host, Lab, LabError

ROOT = Path(__file__).parents[1]
_PRIVILEGES = Path("/run/sshd")  # sshd does not start without it
_START_S = 10.0
_CONFIGURATION = """\
ListenAddress {address}:22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


def missing() -> str:
    """Why there can be no SSH servers here; empty when there can."""
    absent = [tool for tool in ("sshd", "ssh-keygen") if shutil.which(tool, path="/usr/sbin:/usr/bin:/bin") is None]
    return f"needs {', '.join(absent)}: apt-get install openssh-server" if absent else ""


def serve_ssh(lab: Lab, caller: str, names: Sequence[str]) -> None:
    """Start an SSH server on each of these PCs, and give the caller's user a key that they take and their host keys."""
    if missing():
        raise LabError(missing())
    _PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    ssh = lab[caller].home / ".ssh"
    ssh.mkdir(mode=0o700)
    _make_key(ssh / "id_ed25519")
    known = ""
    for name in names:
        host, folder = lab[name], lab.folder / f"ssh-{name}"
        folder.mkdir()
        _make_key(folder / "host_key")
        shutil.copy(ssh / "id_ed25519.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(_CONFIGURATION.format(address=host.address, folder=folder))
        known += f"{host.name},{host.address} {(folder / 'host_key.pub').read_text()}"
        command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
        with (folder / "log").open("wb") as log:
            host.popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    (ssh / "known_hosts").write_text(known)
    for name in names:
        _until_it_answers(lab, caller, lab[name])


def install_this_checkout(host: Host) -> None:
    """A ``headstream`` where a ``[[node]]`` table expects it by default, which runs this checkout's code."""
    program = host.home / "headstream" / ".venv" / "bin" / "headstream"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m launch.cli "$@"\n')
    program.chmod(0o755)


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path], check=True)


def _until_it_answers(lab: Lab, caller: str, host: Host) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with lab[caller].inside(), socket.create_connection((host.address, 22), 1.0) as line:
                if line.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            log = (lab.folder / f"ssh-{host.name}" / "log").read_text().strip()
            raise LabError(f"{host.name}: sshd does not answer ({log})")
        time.sleep(0.05)
