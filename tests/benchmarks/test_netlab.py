"""The laboratory of network namespaces: its PCs reach each other, and its faults do what they say."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import _netlab
from benchmarks._netlab import Lab, sweep

SO_RCVBUFFORCE = 33  # more than the kernel's limit for others, which some 280 small packets fill
reason = _netlab.missing()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)


@pytest.fixture(scope="module")
def lab():
    with Lab(["server", "pc1"]) as lab:
        yield lab


class Echo:
    """A UDP echo in the server; ``ask`` counts the answers to numbered packets sent from pc1."""

    def __init__(self, lab):
        self.lab = lab
        with lab["server"].inside():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self.socket.bind((lab["server"].address, 0))
        self.socket.settimeout(0.2)
        self.ended = False
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while not self.ended:
            try:
                packet, who = self.socket.recvfrom(2000)
            except TimeoutError:
                continue
            self.socket.sendto(packet, who)

    def ask(self, packets, wait=1.0):
        with self.lab["pc1"].inside():
            asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asker.settimeout(wait)
        asker.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        trips = {}
        with asker:
            sent = {}
            for i in range(packets):
                sent[i] = time.monotonic()
                asker.sendto(i.to_bytes(4), self.socket.getsockname())
                if i % 50 == 49:
                    time.sleep(0.002)
            try:
                while len(trips) < packets:
                    i = int.from_bytes(asker.recv(2000))
                    trips[i] = time.monotonic() - sent[i]
            except TimeoutError:
                pass
        return trips

    def close(self):
        self.ended = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def echo(lab):
    echo = Echo(lab)
    yield echo
    echo.close()


def test_a_pc_has_its_own_name_home_address_and_hosts(lab):
    (lab["pc1"].home / "mine").touch()
    script = 'hostname; ls "$HOME"; cat /etc/hosts; ip -brief address show eth0'
    said = lab["pc1"].run(["sh", "-c", script]).stdout
    assert said.splitlines()[:2] == ["pc1", "mine"]
    assert f"{lab['server'].address} server" in said
    assert f"{lab['pc1'].address}/24" in said


def test_packets_arrive_and_this_machines_own_network_is_not_touched(lab, echo):
    assert len(echo.ask(100)) == 100
    here = subprocess.run(["ip", "-brief", "address"], capture_output=True, text=True, check=True).stdout
    assert lab["pc1"].address not in here


def test_unplugged_nothing_arrives_and_afterwards_everything(lab, echo):
    with lab["pc1"].unplugged():
        assert not echo.ask(3, wait=0.2)
        assert "NO-CARRIER" in lab["pc1"].run(["ip", "link", "show", "eth0"]).stdout
    assert len(echo.ask(20, wait=5)) == 20  # the address is asked for again within a second


def test_so_many_percent_are_lost(lab, echo):
    with lab["pc1"].loss(20):
        answered = len(echo.ask(1000))
    assert 500 < answered < 780  # 64 % survive both ways: 640 +- 15
    assert len(echo.ask(100)) == 100


def test_all_packets_come_late_and_in_order(lab, echo):
    with lab["pc1"].delay(20, jitter_ms=5):
        trips = echo.ask(100)
    assert len(trips) == 100
    assert min(trips.values()) >= 0.030
    assert list(trips) == sorted(trips)
    assert len(echo.ask(100)) == 100


def test_a_slow_cable_carries_what_it_can(lab):
    size = 2 << 20
    with lab["server"].inside():
        listener = socket.create_server((lab["server"].address, 0))
    with listener, lab["pc1"].rate(20), lab["pc1"].inside():
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
        with sender, receiver:
            thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
            began = time.monotonic()
            thread.start()
            got = 0
            while got < size:
                got += len(receiver.recv(1 << 16))
            seconds = time.monotonic() - began
            thread.join()
    assert size * 8 / seconds < 24e6  # never faster; how much slower is the machine's affair


def test_power_off_ends_what_runs_there_and_nothing_else(lab):
    here = lab["server"].popen(["sleep", "60"])
    there = lab["pc1"].popen(["sleep", "60"])
    lab["pc1"].power_off()
    assert there.wait(5) == -signal.SIGKILL
    assert here.poll() is None
    here.kill()
    here.wait()


def test_what_a_killed_lab_leaves_is_swept(root, lab):
    program = (
        "import os, signal, subprocess\n"
        "from benchmarks._netlab import Lab\n"
        "with Lab(['a']) as lab:\n"
        "    lab['a'].popen(['sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "    print(lab['a'].namespace, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    namespace = done.stdout.split()[0]
    assert Path(f"/run/netns/{namespace}").exists()
    assert namespace in sweep()
    assert not Path(f"/run/netns/{namespace}").exists()
    assert not Path(f"/etc/netns/{namespace}").exists()
    assert Path(f"/run/netns/{lab.namespace('switch')}").exists()  # this one still stands


def test_a_switch_that_drops_jumbo_frames_is_found(root):
    """The PC's interface sends 9000 bytes, its port at the switch takes 1500: TCP notices, GigE Vision only fails."""
    with Lab(["server", "pc1"]) as lab:
        serve = (
            "import asyncio, sys\nfrom launch.probe import Sink\n"
            "async def main():\n"
            f"    async with Sink('{lab['server'].address}', 0) as sink:\n"
            "        print(sink.port, sink.token, flush=True); await asyncio.sleep(30)\n"
            "asyncio.run(main())"
        )
        server = lab["server"].popen([sys.executable, "-c", serve], cwd=root, stdout=subprocess.PIPE, text=True)
        port, token = server.stdout.readline().split()
        lab["pc1"].run(["ip", "link", "set", "eth0", "mtu", "9000"], check=True)
        words = ["-m", "launch.cli", "probe", "network", lab["server"].address, port, token, "--seconds", "0.1"]
        said = json.loads(lab["pc1"].run([sys.executable, *words], cwd=root).stdout)
        server.kill()
        server.wait()
        server.stdout.close()
    assert (said["interface"], said["mtu"], said["path_mtu"]) == ("eth0", 9000, 1500)
