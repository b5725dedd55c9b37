"""A node as a systemd user unit: started again when it dies, its output in the journal.

Where the user may linger (``loginctl enable-linger``) it outlives the login and is started at boot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch.service.state import FINISHED, RUNNING, STOPPED, WAITING, NodeState, ServiceError

_PROPERTIES = "ActiveState,SubState,Result,MainPID,NRestarts,ExecMainStatus,ExecMainCode,ActiveEnterTimestampMonotonic"
_TIMEOUT_S = 30.0
_SETTLED_S = 2.5  # a node that cannot start has ended once by then, where the PC is not busy
_UNIT = """\
# Written by `headstream start`; `headstream stop` disables it.
[Unit]
Description=headstream node {node} of {rig}
StartLimitIntervalSec=0

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec=1
RestartSteps=5
RestartMaxDelaySec=30
TimeoutStopSec=15

[Install]
WantedBy=default.target
"""


def available() -> bool:
    """Whether ``systemctl --user`` works here and now."""
    if shutil.which("systemctl") is None:
        return False
    try:
        return _systemctl("show-environment").returncode == 0
    except ServiceError:
        return False


def unit_name(rig: Path, node: str) -> str:
    """The unit of a node; two rig files on one PC may each have a node of that name."""
    return f"headstream-{node}-{zlib.crc32(os.fsencode(rig.resolve())):08x}.service"


def unit_text(rig: Path, node: str, python: str, environment: Mapping[str, str]) -> str:
    """The unit file. ``environment`` are variables that the node needs beside the user manager's own."""
    command = [python, "-m", "launch.cli", "node", str(rig.resolve()), "--name", node]
    lines = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in environment.items())
    name = str(rig.resolve()).replace("%", "%%")
    return _UNIT.format(node=node, rig=name, command=" ".join(map(_quoted, command)), environment=lines)


def start(rig: Path, node: str) -> NodeState:
    """Write the unit, enable and start it. Raises ServiceError."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    folder.mkdir(parents=True, exist_ok=True)
    unit = unit_name(rig, node)
    environment = {name: os.environ[name] for name in ("PYTHONPATH", "HEADSTREAM_LOG") if name in os.environ}
    text = unit_text(rig, node, sys.executable, {"PYTHONUNBUFFERED": "1", **environment})
    path = folder / unit
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        _must("daemon-reload")
    _must("enable", "--now", unit)
    note = "" if _linger() else "ends when its user logs out; run: loginctl enable-linger"
    began = time.monotonic()
    while time.monotonic() - began < _SETTLED_S:
        now = state(rig, node, note)
        if now.state != RUNNING or now.restarts:
            note = "it ends as soon as it is started; see headstream logs"
            return replace(now, state=WAITING if now.state == RUNNING else now.state, note=note)
        time.sleep(0.1)
    return state(rig, node, note)


def stop(rig: Path, node: str) -> NodeState:
    """End it and do not start it at boot. Raises ServiceError."""
    unit = unit_name(rig, node)
    if _show(unit).get("LoadState") != "not-found":
        _must("disable", "--now", unit)
    return state(rig, node)


def state(rig: Path, node: str, note: str = "") -> NodeState:
    """How it is. Raises ServiceError."""
    return parse_state(node, _show(unit_name(rig, node)), note)


def log_command(rig: Path, node: str, lines: int, follow: bool) -> list[str]:
    """The command that prints its output."""
    command = [
        "journalctl",
        "--user-unit",
        unit_name(rig, node),
        "--lines",
        str(lines),
        "--output",
        "cat",
        "--no-pager",
    ]
    return [*command, "--follow"] if follow else command


def parse_state(node: str, shown: Mapping[str, str], note: str = "") -> NodeState:
    """What ``systemctl show`` says, in our words."""
    active, sub = shown.get("ActiveState", ""), shown.get("SubState", "")
    state = {"active": RUNNING, "activating": WAITING if sub == "auto-restart" else RUNNING}.get(active, STOPPED)
    ran = shown.get("ExecMainCode", "0") != "0"
    code = int(shown.get("ExecMainStatus") or 0)
    killed = shown.get("ExecMainCode") in ("2", "3")  # CLD_KILLED, CLD_DUMPED: the status is a signal's number
    if state == STOPPED and ran and code == 0 and shown.get("Result") == "success" and sub == "dead":
        state = FINISHED if shown.get("UnitFileState") == "enabled" else STOPPED
    pid = int(shown.get("MainPID") or 0) or None
    restarts = int(shown.get("NRestarts") or 0)
    last = (-code if killed else code) if ran else None
    entered = int(shown.get("ActiveEnterTimestampMonotonic") or 0)
    since = time.time() - (time.monotonic() - entered * 1e-6) if entered else None
    return NodeState(node, state, "systemd", pid, since, restarts, last, note)


def _show(unit: str) -> dict[str, str]:
    done = _systemctl("show", unit, "--property", f"{_PROPERTIES},LoadState,UnitFileState")
    if done.returncode:
        raise ServiceError(f"systemctl --user show {unit}: {_reason(done)}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _must(*arguments: str) -> None:
    done = _systemctl(*arguments)
    if done.returncode:
        raise ServiceError(f"systemctl --user {' '.join(arguments)}: {_reason(done)}")


def _linger() -> bool:
    """Whether the user's units outlive the login, asking for it where that is allowed."""
    try:
        done = subprocess.run(["loginctl", "enable-linger"], capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A session over SSH may lack the variable by which the user's manager is found.
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ}
    command = ["systemctl", "--user", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServiceError(f"{' '.join(command)}: {error}") from None


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"


def _quoted(text: str) -> str:
    """One word of a unit file: nothing in it is a specifier, a variable or a blank."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
