"""One PC over SSH: a connection, commands, files, and errors that say what to do.

As ``ssh`` does: ``~/.ssh/config``, ``~/.ssh/known_hosts``, the agent and the keys in ``~/.ssh``. A host whose key is
not known is refused, and passwords are never asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import posixpath
import shlex
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from protocol.errors import HeadstreamError
from protocol.rig import PcConfig

CONNECT_S = 10.0
COMMAND_S = 60.0
NOT_FOUND = (126, 127)  # a shell's exit status for a program that is not there, or is none
_LARGEST_ANSWER = 4 << 20  # characters of one command's output

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # each connection and channel is no news


class RemoteError(HeadstreamError):
    """A PC that cannot be reached or does not do as it is told; the message says why and what to do."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line that it said, for an error message."""
        lines = [line.strip() for line in (self.stderr + "\n" + self.stdout).splitlines() if line.strip()]
        return lines[-1].removeprefix("headstream: ") if lines else f"it ended with status {self.status}"


class Pc:
    """An open connection to the PC of one node (``reach``)."""

    def __init__(self, config: PcConfig, connection: asyncssh.SSHClientConnection, home: str) -> None:
        self.config, self.name = config, config.name
        self.folder = _below(config.folder, home)
        self.command = _below(config.command, home) or posixpath.join(self.folder, ".venv/bin/headstream")
        self.rig_folder = posixpath.join(self.folder, "rig")
        self._connection = connection

    async def run(self, *words: str, timeout: float = COMMAND_S) -> Done:
        """Run a program there and wait for its end. Raises RemoteError when it takes too long or the line breaks."""
        try:
            done = await self._connection.run(
                shlex.join(words), timeout=timeout, check=False, encoding="utf-8", errors="replace"
            )
        except asyncssh.TimeoutError:
            raise RemoteError(f"`{shlex.join(words)}` was not done in {timeout:g} s") from None
        except (asyncssh.Error, OSError) as error:
            raise RemoteError(f"the connection broke ({error})") from None
        return Done(_status(done.exit_status), str(done.stdout)[:_LARGEST_ANSWER], str(done.stderr)[:_LARGEST_ANSWER])

    async def headstream(self, *words: str, timeout: float = COMMAND_S) -> Done:
        """Run the headstream of that PC. Raises RemoteError when there is none."""
        done = await self.run(self.command, *words, timeout=timeout)
        if done.status in NOT_FOUND:
            raise RemoteError(self.missing)
        return done

    @property
    def missing(self) -> str:
        """What to say when its headstream is not there."""
        advice = "headstream deploy RIG --install, or set command in its [[node]] table"
        return f"there is no headstream at {self.command}: {advice}"

    async def ask(self, *words: str, timeout: float = COMMAND_S) -> Any:
        """Run its headstream and read the JSON that it prints. Raises RemoteError when it fails."""
        done = await self.headstream(*words, timeout=timeout)
        for line in reversed(done.stdout.splitlines()):  # a login may print lines of its own before
            if line[:1] in ("{", "["):
                try:
                    return json.loads(line)
                except ValueError:
                    break
        raise RemoteError(done.reason)

    @asynccontextmanager
    async def talk(self, *words: str) -> AsyncIterator[asyncssh.SSHClientProcess[str]]:
        """Its headstream as a process to read from and write to, ended when left."""
        process = await self._connection.create_process(
            shlex.join((self.command, *words)), encoding="utf-8", errors="replace", stderr=asyncssh.STDOUT
        )
        try:
            yield process
        finally:
            process.close()

    async def write(self, relative: str, data: bytes, mode: int) -> bool:
        """A file below the rig's folder there; False when it was the same already. A reader never sees half of it."""
        path = posixpath.join(self.rig_folder, relative)
        try:
            async with self._connection.start_sftp_client() as sftp:
                if await _content(sftp, path) == data:
                    return False
                await sftp.makedirs(posixpath.dirname(path), exist_ok=True)
                scratch = path + ".part"
                async with sftp.open(scratch, "wb", asyncssh.SFTPAttrs(permissions=mode)) as file:
                    await file.write(data)
                await sftp.chmod(scratch, mode)  # the server's umask, or an old scratch file, may have had its way
                await sftp.posix_rename(scratch, path)
        except (asyncssh.Error, OSError) as error:
            raise RemoteError(f"{path} cannot be written there ({_text(error)})") from None
        return True

    async def same(self, relative: str, data: bytes) -> bool:
        """Whether a file below the rig's folder there has just this content."""
        try:
            async with self._connection.start_sftp_client() as sftp:
                return await _content(sftp, posixpath.join(self.rig_folder, relative)) == data
        except (asyncssh.Error, OSError) as error:
            raise RemoteError(f"files there cannot be read ({_text(error)})") from None

    async def upload(self, local: Path, remote: str) -> None:
        """Copy a file or a folder of this machine to an absolute path there."""
        try:
            async with self._connection.start_sftp_client() as sftp:
                await sftp.makedirs(posixpath.dirname(remote), exist_ok=True)
                await sftp.put(str(local), remote, recurse=local.is_dir())
        except (asyncssh.Error, OSError) as error:
            raise RemoteError(f"{remote} cannot be written there ({_text(error)})") from None


@asynccontextmanager
async def reach(config: PcConfig) -> AsyncIterator[Pc]:
    """Connect to a node's PC. Raises RemoteError."""
    options: dict[str, Any] = {"username": config.user} if config.user else {}
    if config.port:
        options["port"] = config.port
    try:
        connection = await asyncssh.connect(
            config.host,
            preferred_auth="publickey",
            connect_timeout=CONNECT_S,
            login_timeout=CONNECT_S,
            keepalive_interval=5,
            keepalive_count_max=3,
            **options,
        )
    except (TimeoutError, asyncssh.Error, OSError) as error:
        raise RemoteError(_why_not(config, error)) from None
    async with connection:
        try:
            asked = await connection.run("printf 'home:%s\\n' \"$HOME\"", timeout=CONNECT_S)
        except (TimeoutError, asyncssh.Error, OSError) as error:
            raise RemoteError(f"it takes the key but runs no command ({_text(error)})") from None
        homes = [line[5:] for line in str(asked.stdout).splitlines() if line.startswith("home:/")]
        if not homes:
            raise RemoteError("its login shell is no POSIX shell with a HOME; headstream's nodes run on Linux")
        try:
            yield Pc(config, connection, homes[-1])
        except (asyncssh.Error, ConnectionResetError) as error:  # in the midst of something
            raise RemoteError(f"the connection broke ({_text(error)})") from None


def _why_not(config: PcConfig, error: BaseException) -> str:
    """An error of ``asyncssh.connect`` as a line that says what to do."""
    who = f"{config.user}@{config.host}" if config.user else config.host
    port = f"-p {config.port} " if config.port else ""
    match error:
        case asyncssh.HostKeyNotVerifiable() if _knows(config):
            return (
                f"the host key of {config.host} is not the one in known_hosts: another PC has its address, or it was "
                f"installed anew; if that is so, run: ssh-keygen -R {_known_as(config)}, then: ssh {port}{who}"
            )
        case asyncssh.HostKeyNotVerifiable():
            return f"the host key of {config.host} is not known; run: ssh {port}{who}, compare its fingerprint, say yes"
        case asyncssh.PermissionDenied():
            return f"it refuses the SSH keys of this user; run: ssh-copy-id {port}{who}"
        case socket.gaierror():
            return f"there is no host {config.host!r}; see host in its [[node]] table"
        case ConnectionRefusedError():
            return f"{config.host} refuses connections; start the SSH server there (port {config.port or 22})"
        case asyncio.TimeoutError() | TimeoutError():
            return f"{config.host} does not answer in {CONNECT_S:g} s; is it on, and its cable in?"
        case asyncssh.Error() | OSError():
            return f"{config.host} cannot be reached ({_text(error)})"
    raise error


def _known_as(config: PcConfig) -> str:
    return f"[{config.host}]:{config.port}" if config.port not in (0, 22) else config.host


def _knows(config: PcConfig) -> bool:
    """Whether known_hosts has some key of this host."""
    path = Path("~/.ssh/known_hosts").expanduser()
    try:
        found = asyncssh.read_known_hosts(str(path)).match(config.host, "", config.port or None)
    except (OSError, ValueError):
        return False
    return any(found[:2])


async def _content(sftp: asyncssh.SFTPClient, path: str) -> bytes | None:
    try:
        async with sftp.open(path, "rb") as file:
            data = await file.read()
    except asyncssh.SFTPNoSuchFile:
        return None
    return data if isinstance(data, bytes) else data.encode()


def _below(path: str, home: str) -> str:
    return posixpath.join(home, path[2:]) if path.startswith("~/") else path


def _status(status: int | None) -> int:
    return -1 if status is None else status  # None: it was killed, or the connection broke


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
