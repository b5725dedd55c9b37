"""What the doctor says of a PC, and what it measures with it."""

import asyncio
import socket
import threading

import pytest

from launch.doctor import Finding
from launch.doctor_node import examine_node, interface_to, stream_rate
from launch.doctor_pcs import _carried, _mtu, _together, clock_finding
from launch.probe import Carried, ProbeError, Sink, send
from protocol.rig import load_rig


def by_name(findings):
    return {finding.what: finding for finding in findings}


def test_a_node_of_replayed_cameras_is_looked_at(remote_rig):
    found = by_name(examine_node(load_rig(remote_rig), "pc1"))
    assert found["cameras"] == Finding("cameras", "ok", "2 replayed ones")
    assert found["interface"].state == "ok"  # the loopback
    assert found["spool speed"].state in ("ok", "note")
    assert {"socket buffer", "jumbo frames"}.isdisjoint(found)  # no camera of the network


def test_a_network_camera_wants_large_buffers(remote_rig, monkeypatch):
    remote_rig.write_text(remote_rig.read_text().replace('driver = "replay"', 'driver = "gige"'))
    monkeypatch.setattr("launch.doctor_node.SOCKET_BUFFER", 1 << 40)
    found = by_name(examine_node(load_rig(remote_rig), "pc1"))
    assert found["socket buffer"].state == "bad"
    assert "sysctl -w net.core.rmem_max" in found["socket buffer"].remedy
    monkeypatch.setattr("launch.doctor_node.SOCKET_BUFFER", 1)
    assert by_name(examine_node(load_rig(remote_rig), "pc1"))["socket buffer"].state == "ok"


def test_what_the_cameras_make_is_estimated_from_their_pictures(remote_rig):
    rig = load_rig(remote_rig)
    assert stream_rate(rig, "pc1") == pytest.approx(2 * 32 * 32 * 30 * 0.3)
    rig.calibration.unlink()
    assert stream_rate(rig, "pc1") == 0.0


def test_no_way_to_the_server_is_said(remote_rig):
    assert interface_to("127.0.0.1")[0] == "lo"
    assert interface_to("no.such.host.invalid") is None


@pytest.mark.parametrize(
    ("offset", "within", "state", "says"),
    [
        (0.0005, 0.0002, "ok", "+0.5 ms against this machine, within 0.2 ms"),
        (-2.0, 0.001, "note", "-2000.0 ms"),
        (0.15, 0.1, "ok", "within 100.0 ms"),  # not known well enough to complain of
        (37.0002, 0.001, "bad", "+37000.2 ms"),
        (-36.9, 0.001, "bad", "-36900.0 ms"),
    ],
)
def test_what_a_clocks_offset_means(offset, within, state, says):
    finding = clock_finding(offset, within)
    assert finding.state == state
    assert says in finding.detail
    assert ("TAI" in finding.remedy) == (abs(offset) > 36)


def test_what_a_transfer_means(remote_rig):
    rig = load_rig(remote_rig)
    need = stream_rate(rig, "pc1")
    slow, fair, quick = (Carried(int(need * times), 1.0, "eth0", 1500, 1500) for times in (0.9, 1.2, 10))
    assert [_carried(rig, "pc1", each).state for each in (slow, fair, quick, "no way")] == ["bad", "note", "ok", "bad"]
    assert _together(rig, ["pc1", "pc2"], [fair, "no way"]).state == "bad"
    assert _together(rig, ["pc1", "pc2"], [quick, quick]).detail.endswith(
        "from 2 PCs at once; all cameras make about 0"
    )
    assert [_mtu(Carried(1, 1.0, "eth0", 9000, path)).state for path in (9000, 1500, None)] == ["ok", "bad", "note"]


class Listening:
    """A Sink in a thread, as the doctor's process has it."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

        async def begin():
            return await Sink("127.0.0.1", 0).__aenter__()

        self.sink = asyncio.run_coroutine_threadsafe(begin(), self.loop).result(5)
        return self.sink

    def __exit__(self, *_):
        async def end():
            await self.sink.__aexit__()

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def test_a_transfer_is_counted_where_it_arrives():
    with Listening() as sink:
        carried = send("127.0.0.1", sink.port, sink.token, 0.05)
    assert carried.received > 0
    assert carried.received % (1 << 18) == 0  # every block that was sent
    assert carried.interface == "lo"
    assert carried.path_mtu == carried.mtu == 65_535  # the loopback has one more, which no packet fills


def test_a_stranger_is_not_listened_to():
    with Listening() as sink, pytest.raises(ProbeError):
        send("127.0.0.1", sink.port, "0" * len(sink.token), 0.05)


def test_a_port_in_use_is_no_obstacle():
    with socket.create_server(("127.0.0.1", 0)) as taken:

        async def listen():
            async with Sink("127.0.0.1", taken.getsockname()[1]) as sink:
                return sink.port

        assert asyncio.run(listen()) not in (0, taken.getsockname()[1])


def test_an_address_of_another_machine_is_said():
    async def listen():
        async with Sink("192.0.2.1", 0):
            pass

    with pytest.raises(ProbeError, match=r"cannot listen at 192\.0\.2\.1"):
        asyncio.run(listen())


def test_the_doctor_sees_every_pc(headstream, installed, ssh_pcs):
    assert headstream("deploy", installed)[0] == 0
    (ssh_pcs.home("pc2") / "headstream" / "rig" / "cameras.json").unlink()
    code, said = headstream("doctor", installed, "--json")
    assert code == 1
    of = {(entry["where"], entry["what"]): entry for entry in said}
    assert of["pc1", "SSH"]["state"] == "ok"
    assert of["pc1", "cameras"]["detail"] == "2 replayed ones"
    assert of["pc1", "clock offset"]["state"] == "ok"  # it is this machine's
    assert of["pc2", "rig"]["detail"] == "cameras.json not as here"
    assert ("pc2", "cameras") not in of
    assert of["", "network"]["detail"] == "server.host is 127.0.0.1, which no other PC reaches"
