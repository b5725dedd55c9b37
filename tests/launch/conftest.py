"""PCs to reach over SSH: a real SSH server in this process, whose commands run here with a home folder of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

import asyncssh
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from launch.cli import app
from protocol.errors import HeadstreamError

ROOT = Path(__file__).parents[2]


class SshPcs:
    """One SSH server that plays several PCs: user ``pc1`` has the home folder ``pc1``, and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.commands: list[tuple[str, str]] = []
        self._connections: dict[str, list[asyncssh.SSHConnection]] = {}
        self._children: list[asyncio.subprocess.Process] = []
        self._client_key = asyncssh.generate_private_key("ssh-ed25519")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        authorized = self.folder / "authorized_keys"
        authorized.write_bytes(self._client_key.export_public_key())
        self._thread.start()

        async def listen() -> asyncssh.SSHAcceptor:
            return await asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[self.host_key],
                authorized_client_keys=str(authorized),
                process_factory=self._run,
                sftp_factory=True,
                password_auth=False,
                kbdint_auth=False,
            )

        self._server = self._on_loop(listen())
        self.port = self._server.get_port()

    def stop(self) -> None:
        async def end() -> None:
            self._server.close()
            await self._server.wait_closed()
            for child in self._children:
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._on_loop(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def trust(self, home: Path, *, key: bool = True, host: bool = True) -> None:
        """Give a user who calls these PCs the key that they take, and their host key."""
        ssh = home / ".ssh"
        ssh.mkdir(parents=True, exist_ok=True)
        if key:
            (ssh / "id_ed25519").write_bytes(self._client_key.export_private_key())
            (ssh / "id_ed25519").chmod(0o600)
        if host:
            line = f"[127.0.0.1]:{self.port} " + self.host_key.export_public_key().decode()
            (ssh / "known_hosts").write_text(line)

    def home(self, name: str) -> Path:
        """Of that PC's user."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def install(self, name: str) -> None:
        """A headstream that is this checkout's, where the rig file expects it."""
        program = self.home(name) / "headstream" / ".venv" / "bin" / "headstream"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m launch.cli "$@"\n')
        program.chmod(0o755)

    async def _run(self, process: asyncssh.SSHServerProcess) -> None:
        name = process.get_extra_info("username")
        self.commands.append((name, process.command or ""))
        self._connections.setdefault(name, []).append(process.channel.get_connection())
        environment = {**os.environ, "HOME": str(self.home(name))}
        child = await asyncio.create_subprocess_shell(
            process.command or "true",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=self.home(name),
            start_new_session=True,
        )
        self._children.append(child)

        async def pump(source: asyncio.StreamReader, sink: asyncssh.SSHWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data.decode(errors="replace"))
                await sink.drain()

        async def feed() -> None:
            while text := await process.stdin.read(1 << 16):
                child.stdin.write(text.encode())
                await child.stdin.drain()
            child.stdin.close()

        feeding = asyncio.create_task(feed())
        try:
            await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
            process.exit(await child.wait())
        except (OSError, asyncssh.Error):  # who called has gone
            process.close()
        finally:
            feeding.cancel()
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGHUP)

    def drop(self, name: str) -> None:
        """Break the connections of that PC, as a cable does."""

        async def abort() -> None:
            for connection in self._connections.get(name, []):
                connection.abort()

        self._on_loop(abort())

    def _on_loop(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture
def ssh_pcs(tmp_path, monkeypatch):
    """SSH servers with a trusted caller whose home is ``tmp_path/caller``."""
    pcs = SshPcs(tmp_path)
    pcs.start()
    monkeypatch.setenv("HOME", str(tmp_path / "caller"))
    monkeypatch.setenv("USER", "caller")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    pcs.trust(tmp_path / "caller")
    yield pcs
    pcs.stop()


@pytest.fixture
def capture(tmp_path):
    """Two pictures of each of four cameras."""
    root = tmp_path / "capture"
    names = [f"cam{i}" for i in range(4)]
    pose = {"K": [[30, 0, 16], [0, 30, 16], [0, 0, 1]], "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "t": [0, 0, 1]}
    cameras = [{"name": name, "width": 32, "height": 32, **pose} for name in names]
    for frame in range(2):
        folder = root / "frames" / str(frame)
        folder.mkdir(parents=True)
        for name in names:
            cv2.imwrite(str(folder / f"{name}.jpg"), np.full((32, 32, 3), 100 * frame, np.uint8))
    (root / "cameras.json").write_text(json.dumps({"version": 1, "cameras": cameras}))
    return root


@pytest.fixture
def remote_rig(tmp_path, ssh_pcs, capture):
    """A rig file of two nodes, pc1 and pc2, with two cameras each, whose PCs are ``ssh_pcs``."""
    folder = tmp_path / "rig"
    folder.mkdir()
    (folder / "cameras.json").write_bytes((capture / "cameras.json").read_bytes())
    text = 'name = "test"\ncalibration = "cameras.json"\n'
    for i in range(4):
        text += f'[[camera]]\nid = "cam{i}"\nnode = "pc{1 + i // 2}"\ndriver = "replay"\n'
        text += f'options = {{capture = "{capture}"}}\n'
    for name in ("pc1", "pc2"):
        text += f'[[node]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {ssh_pcs.port}\nuser = "{name}"\n'
    path = folder / "rig.toml"
    path.write_text(text)
    return path


@pytest.fixture
def headstream():
    """The command line in this process: exit status, and what it printed or, with ``--json``, the JSON of that."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(result.exception, HeadstreamError):
            return 2, str(result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout) if "--json" in arguments else result.stdout

    return run


@pytest.fixture
def installed(ssh_pcs, remote_rig, headstream):
    """The rig file ``remote_rig``, where both PCs have this headstream; what was started there is ended."""
    for name in ("pc1", "pc2"):
        ssh_pcs.install(name)
    yield remote_rig
    headstream("stop", remote_rig)
