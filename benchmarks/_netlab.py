"""A small laboratory of network namespaces: some PCs on one switch, and what happens to their cables.

    with Lab(["server", "pc1", "pc2"]) as lab:
        lab["server"].popen([sys.executable, "server.py", lab["server"].address])
        node = lab["pc1"].popen([sys.executable, "node.py", lab["server"].address])
        with lab["pc1"].unplugged():      # no carrier, as when the cable is pulled
            time.sleep(5)
        with lab["pc1"].loss(2.0), lab["pc2"].rate(100):
            time.sleep(10)
        lab["pc1"].power_off()            # kill -9 of everything that runs there

Each PC has a network namespace of its own with ``lo``, ``eth0``, an address, a hostname, a home folder (in ``HOME``
and ``/etc/passwd``), and an ``/etc/hosts`` that knows all of them. The switch is a bridge in one more namespace, so
that nothing of this machine's own network is touched. A PC has no clock, disk, processor or memory of its own.

Segmentation offload is limited to one segment, so that what is lost or delayed is a packet as it would be on a wire,
not a block of 64 kB. Needs Linux, root, ``ip``, ``tc`` and ``nft`` (``missing`` says what is not there). Names carry
the process id; a lab that was killed is swept up by the next one (``sweep``).
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from protocol.errors import HeadstreamError

PREFIX = "hsl"  # of every namespace: hsl-<process id>-<which lab of it>.<name>
_NUMBERS = itertools.count()
NETWORK = ipaddress.ip_network("10.77.0.0/24")
_TOOLS = ("ip", "tc", "nft", "unshare")
_CLONE_NEWNET = 0x40000000
_HOSTS = Path("/etc/netns")  # `ip netns exec` mounts what lies here over /etc
_END_S = 3.0
# Runs in the PC: its name and its home, then the command in the place of the shell.
_ENTER = 'hostname "$1" && export HOME="$2" && shift 2 && exec "$@"'


class LabError(HeadstreamError):
    """The laboratory cannot be built or used here; the message says what is missing or which command failed."""


def missing() -> str:
    """Why no lab can be built on this machine, as one line; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install iproute2 nftables util-linux"
    name = f"{PREFIX}-{os.getpid()}-probe"
    try:
        _do("ip", "netns", "add", name)
    except LabError as error:
        return str(error)
    _do("ip", "netns", "del", name)
    return ""


def sweep() -> list[str]:
    """Remove what labs of processes that are gone have left; returns the names of the namespaces."""
    swept = []
    for line in _do("ip", "netns", "list").splitlines():
        name = line.split()[0] if line.strip() else ""
        parts = name.split("-")
        if len(parts) == 3 and parts[0] == PREFIX and parts[1].isdigit() and not Path(f"/proc/{parts[1]}").exists():
            _remove(name)
            swept.append(name)
    return swept


class Host:
    """One PC of a lab."""

    def __init__(self, lab: Lab, name: str, number: int, home: Path) -> None:
        self.name = name
        self.address = str(NETWORK[number + 1])
        self.home = home  # of the user there
        self.namespace = lab.namespace(str(number))
        self._lab, self._port = lab, f"p{number}"
        self._started: list[subprocess.Popen[Any]] = []

    def command(self, arguments: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command line that runs these arguments in this PC; it becomes their process, with the same id."""
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "--", "sh", "-c", _ENTER, "lab"]
        return [*enter, self.name, str(self.home), *(os.fspath(argument) for argument in arguments)]

    def popen(self, arguments: Sequence[str | os.PathLike[str]], **how: Any) -> subprocess.Popen[Any]:
        """``subprocess.Popen`` in this PC, a session of its own; it is killed when the lab ends."""
        self._started.append(subprocess.Popen(self.command(arguments), **{"start_new_session": True, **how}))
        return self._started[-1]

    def run(self, arguments: Sequence[str | os.PathLike[str]], **how: Any) -> subprocess.CompletedProcess[Any]:
        """``subprocess.run`` in this PC, by default with its output as text."""
        return subprocess.run(self.command(arguments), **{"capture_output": True, "text": True, "check": False, **how})

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread, and threads that it starts meanwhile, use this PC's network: sockets made here are its.

        A thread that started before, such as the I/O thread of a ZeroMQ context that has a socket, is not moved.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        try:
            if libc.setns(there, _CLONE_NEWNET):
                raise LabError(f"{self.name}: cannot enter its network ({os.strerror(ctypes.get_errno())})")
            try:
                yield
            finally:
                if libc.setns(here, _CLONE_NEWNET):
                    raise LabError(f"cannot leave the network of {self.name}")
        finally:
            os.close(here)
            os.close(there)

    def pids(self) -> list[int]:
        """Processes of this PC (a thread that is ``inside`` does not count)."""
        found = _do("ip", "netns", "pids", self.namespace).split()
        return [pid for pid in map(int, found) if pid != os.getpid()]

    def power_off(self) -> None:
        """``kill -9`` of everything that runs in this PC, at once."""
        for process in self._started:  # one that starts just now may not be in the namespace yet
            process.kill()
        deadline = time.monotonic() + _END_S
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """The cable is out: neither side has a carrier, addresses and connections stay.

        The kernel takes up to a second over each change; both ends of this wait until it is done.
        """
        self._lab.switch("ip", "link", "set", self._port, "down")
        try:
            self._until_link("DOWN")
            yield
        finally:
            self._lab.switch("ip", "link", "set", self._port, "up")
            self._until_link("UP")

    def _until_link(self, state: str) -> None:
        deadline = time.monotonic() + _END_S
        while f"state {state}" not in self._here("ip", "link", "show", "eth0"):
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: the link does not go {state.lower()}")
            time.sleep(0.02)

    @contextlib.contextmanager
    def loss(self, percent: float) -> Iterator[None]:
        """So many percent of the packets vanish, at random, in either direction."""
        one = round(percent * 1000)
        if not 0 <= one <= 100_000:
            raise LabError(f"loss of {percent:g} %: must be from 0 to 100")
        ends = ((self._lab.switch, self._port), (self._here, "eth0"))
        try:
            for do, device in ends:
                hook = f"type filter hook ingress device {device} priority 0"
                do("nft", f"add table netdev loss_{device}; add chain netdev loss_{device} in {{ {hook}; }}")
                do("nft", f"add rule netdev loss_{device} in numgen random mod 100000 < {one} counter drop")
            yield
        finally:
            for do, device in ends:
                with contextlib.suppress(LabError):
                    do("nft", f"delete table netdev loss_{device}")

    @contextlib.contextmanager
    def rate(self, mbit: float, queue_ms: float = 50.0) -> Iterator[None]:
        """The cable carries so many Mbit/s in each direction, with a queue of ``queue_ms`` before packets are lost."""
        tbf = ("tbf", "rate", f"{mbit:g}mbit", "burst", f"{max(16, round(mbit))}kb", "latency", f"{queue_ms:g}ms")
        ends = ((self._lab.switch, self._port), (self._here, "eth0"))
        try:
            for do, device in ends:
                do("tc", "qdisc", "add", "dev", device, "root", *tbf)
            yield
        finally:
            for do, device in ends:
                with contextlib.suppress(LabError):
                    do("tc", "qdisc", "del", "dev", device, "root")

    @contextlib.contextmanager
    def delay(self, milliseconds: float, jitter_ms: float = 0.0) -> Iterator[None]:
        """Each packet comes later by so many milliseconds, give or take ``jitter_ms`` (uniform), in either direction.

        Order is kept, as on a path that queues. Done by a process of our own (``_delay_line``) and not by ``tc netem``,
        which few kernels of virtual machines have; it carries some 200 Mbit/s. Going in and out costs a few packets.
        """
        number = self._port[1:]
        outer, inner, bridge = f"out{number}", f"in{number}", f"slow{number}"
        program = Path(__file__).with_name("_delay_line.py")
        command = [sys.executable, str(program), outer, inner, f"{milliseconds:g}", f"{jitter_ms:g}"]
        line = subprocess.Popen(
            ["ip", "netns", "exec", self._lab.namespace("switch"), *command], stdout=subprocess.PIPE, text=True
        )
        try:
            assert line.stdout is not None
            if line.stdout.readline().strip() != "ready":
                raise LabError(f"{program.name}: it did not start (status {line.wait()})")
            do = self._lab.switch
            do("ip", "link", "add", bridge, "mtu", str(self._lab.mtu), "type", "bridge")
            for device, master in ((outer, bridge), (inner, "switch"), (self._port, bridge)):
                do("ip", "link", "set", device, "mtu", str(self._lab.mtu), "master", master, "up")
            do("ip", "link", "set", bridge, "up")
            yield
        finally:
            with contextlib.suppress(LabError):
                self._lab.switch("ip", "link", "set", self._port, "master", "switch")
            with contextlib.suppress(LabError):
                self._lab.switch("ip", "link", "del", bridge)
            line.terminate()
            line.wait()
            if line.stdout:
                line.stdout.close()

    def _here(self, *arguments: str) -> str:
        return _do("ip", "netns", "exec", self.namespace, *arguments)


class Lab:
    """PCs with these names on one switch. Use as a context; ``lab["pc1"]`` is a Host.

    mtu: of every cable, bytes. folder: where home folders are made; by default a temporary one that goes with the lab.
    """

    def __init__(self, names: Sequence[str], *, mtu: int = 1500, folder: Path | None = None) -> None:
        """Raises LabError when no lab can be built here."""
        reason = missing()
        if reason:
            raise LabError(reason)
        self.mtu = mtu
        self._number = next(_NUMBERS)
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="headstream-lab-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.hosts = {name: Host(self, name, i, self.folder / name) for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Lab:
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def namespace(self, name: str) -> str:
        """Name of a namespace of this lab: the number of a PC or ``switch``."""
        return f"{PREFIX}-{os.getpid()}-{self._number}.{name}"

    def switch(self, *arguments: str) -> str:
        """Run a command where the switch is; its ports are p0, p1 ... Raises LabError when it fails."""
        return _do("ip", "netns", "exec", self.namespace("switch"), *arguments)

    def close(self) -> None:
        """End every process and remove everything; may be called twice."""
        for host in self.hosts.values():
            with contextlib.suppress(LabError):
                host.power_off()
            for process in host._started:
                process.wait()
        for name in [self.namespace("switch"), *(host.namespace for host in self.hosts.values())]:
            _remove(name)
        if self._temporary:
            self._temporary.cleanup()

    def _build(self) -> None:
        _do("ip", "netns", "add", self.namespace("switch"))
        self.switch("ip", "link", "add", "switch", "mtu", str(self.mtu), "type", "bridge")
        self.switch("ip", "link", "set", "switch", "up")
        table = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts.values())
        for number, host in enumerate(self.hosts.values()):
            host.home.mkdir(parents=True, exist_ok=True)
            hosts = _HOSTS / host.namespace
            hosts.mkdir(parents=True)
            (hosts / "hosts").write_text(table, encoding="ascii")
            (hosts / "passwd").write_text(_at_home(host.home.resolve()), encoding="utf-8")
            _do("ip", "netns", "add", host.namespace)
            one = ("mtu", str(self.mtu), "gso_max_segs", "1")
            peer = ("type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            self.switch("ip", "link", "add", f"p{number}", *one, *peer)
            self.switch("ip", "link", "set", f"p{number}", "master", "switch", "up")
            here = ("ip", "-n", host.namespace)
            _do(*here, "link", "set", "lo", "up")
            _do(*here, "link", "set", "eth0", *one, "up")
            _do(*here, "address", "add", f"{host.address}/{NETWORK.prefixlen}", "dev", "eth0")


def _at_home(home: Path) -> str:
    """This machine's ``/etc/passwd`` with another home folder for the user that runs this."""
    lines = [line.split(":") for line in Path("/etc/passwd").read_text(encoding="utf-8").splitlines()]
    for fields in lines:
        if len(fields) == 7 and fields[2] == str(os.geteuid()):
            fields[5] = str(home)
    return "".join(":".join(fields) + "\n" for fields in lines)


def _remove(name: str) -> None:
    """End what still runs in a namespace and remove it."""
    with contextlib.suppress(LabError):
        for pid in _do("ip", "netns", "pids", name).split():
            if int(pid) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(LabError):
        _do("ip", "netns", "del", name)
    shutil.rmtree(_HOSTS / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        _HOSTS.rmdir()  # only when it is empty


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
        raise LabError(f"{' '.join(command)}: {reason}")
    return done.stdout
