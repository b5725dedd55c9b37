"""Alarms of the rig's timing: what is wrong is said once, with its remedy, and is over once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusion_server.alarms import Alarms
from fusion_server.synchronize import FrameSet
from fusion_server.timing import Timing
from protocol.messages import ClockReport, Frame, FrameHeader
from protocol.rig import parse_rig

S, MS = 1_000_000_000, 1_000_000
WALL = 1_700_000_000 * S
GOOD = ClockReport(5 * MS, 10_000, 12.0, 80_000, 0)


class Rig:
    """Two nodes with a camera each, in order unless a test changes something; a second passes with each ``step``."""

    def __init__(self, **sync):
        cameras = [{"id": f"cam{i}", "node": f"pc{i}", "driver": "replay"} for i in range(2)]
        self.rig = parse_rig({"name": "t", "calibration": "c.json", "camera": cameras, "fps": 10.0, "sync": sync})
        self.timing = Timing(self.rig, 0.0)
        self.now, self.sequence = 0.0, 0
        self.nodes = {f"pc{i}": {"connected": True, "age_s": 0.1, "take": "", "clock": GOOD} for i in range(2)}
        self.cameras = {
            f"cam{i}": {"node": f"pc{i}", "age_s": 0.05, "captured_fps": 10.0, "captured": 0, "dropped": 0}
            for i in range(2)
        }
        self.pictures = {}  # camera -> the CRC that it sends on and on
        self.ages_ms = {"cam0": 20.0, "cam1": 20.0}
        self.trigger = True
        self.spread_ms, self.missing = 0.5, ()
        self.others = {}

    def step(self, seconds: int = 1) -> list[str]:
        """What was raised (+key) and cleared (-key) meanwhile."""
        said = []
        for _ in range(seconds):
            for i in range(10):
                self.sequence += 1
                at = WALL + round((self.now + i / 10) * S)
                for name, camera in self.cameras.items():
                    if camera["age_s"] is not None and camera["age_s"] < 1:
                        self._frame(name, at)
                spread = round(self.spread_ms * MS)
                made = FrameSet(self.sequence, at, {}, self.missing, spread)
                self.timing.frame_set(made, self.now + i / 10)
            self.now += 1.0
            for camera in self.cameras.values():
                camera["captured"] += 10
            wall = WALL + round(self.now * S)
            changes = self.timing.update(self.cameras, self.nodes, self.now, wall, self.others)
            said += [("+" if change.raised else "-") + change.alarm.key for change in changes]
        return said

    def _frame(self, name: str, at: int) -> None:
        capture = at - round(self.ages_ms[name] * MS)
        trigger = self.sequence if self.trigger else None
        header = FrameHeader(name, "pc", self.sequence, trigger, 0, capture, 0, 10_000, 64, 48)
        self.timing.frame(Frame(header, b"jpeg", self.pictures.get(name, self.sequence)), at)

    def text(self, key: str) -> str:
        return next(alarm.text for alarm in self.timing.active if alarm.key == key)

    def clock(self, node: str, **changes) -> None:
        self.nodes[node]["clock"] = replace(self.nodes[node]["clock"], **changes)


def test_a_rig_in_order_is_silent():
    rig = Rig()
    assert rig.step(40) == [] and rig.timing.active == ()
    assert rig.timing.spread_ms() == {"median": 0.5, "p99": 0.5, "last": 0.5}
    expected = {"offset_ms": 5.0, "sigma_us": 10.0, "drift_ppm": 12.0, "rtt_us": 80.0, "jumps": 0}
    assert rig.timing.clocks() == {"pc0": expected, "pc1": expected}


def test_a_wide_spread_raises_one_alarm_and_ends_it_when_it_is_narrow_again():
    rig = Rig(alarm_ms=2.0)
    rig.step(5)
    rig.spread_ms = 3.5
    assert rig.step(3) == ["+spread"]
    assert "3.5 ms apart (limit 2 ms)" in rig.text("spread")
    assert rig.step(5) == []
    rig.spread_ms = 0.5
    assert rig.step(15) == ["-spread"]


def test_a_single_wide_set_is_no_alarm():
    rig = Rig()
    rig.step(5)
    rig.timing.frame_set(FrameSet(0, WALL, {}, (), 90 * MS), rig.now)
    assert rig.step(10) == []


def test_times_that_are_not_known_yet_say_nothing_about_the_spread():
    rig = Rig()
    header = FrameHeader("cam0", "pc", 1, 1, 0, WALL, 0, 50 * MS, 64, 48)
    for i in range(40):
        rig.timing.frame_set(FrameSet(i, WALL, {"cam0": Frame(header, b"jpeg")}, (), 118 * MS), 0.1)
    assert rig.timing.spread_ms()["last"] is None
    assert rig.step(5) == []


def test_a_limit_of_zero_is_the_tolerance():
    rig = Rig(tolerance_ms=4.0)
    rig.spread_ms = 3.9
    assert rig.step(6) == []
    rig.spread_ms = 4.1
    assert rig.step(6) == ["+spread"]


@pytest.mark.parametrize(
    ("key", "change", "better", "back", "says"),
    [
        ("drift", {"drift_ppm": -230.0}, {"drift_ppm": -170.0}, {"drift_ppm": 20.0}, "-230 ppm"),
        ("uncertain", {"sigma_ns": 5 * MS}, {"sigma_ns": 3 * MS}, {"sigma_ns": 10_000}, "5.00 ms"),
        ("clock", {"sigma_ns": 10**15}, None, {"sigma_ns": 10_000}, "nothing is known of its clock"),
    ],
)
def test_a_nodes_clock_has_alarms_with_hysteresis(key, change, better, back, says):
    rig = Rig()
    rig.step(3)
    rig.clock("pc1", **change)
    assert rig.step(8) == [f"+{key}:pc1"]
    assert says in rig.text(f"{key}:pc1") and "pc1" in rig.text(f"{key}:pc1")
    if better is not None:
        rig.clock("pc1", **better)
        assert rig.step(10) == []  # neither clearly wrong nor clearly right
    rig.clock("pc1", **back)
    assert rig.step(8) == [f"-{key}:pc1"]


def test_a_node_that_never_reported_a_clock_is_named():
    rig = Rig()
    rig.nodes["pc0"]["clock"] = None
    assert rig.step(8) == ["+clock:pc0"]
    assert rig.timing.clocks()["pc0"] is None


def test_a_clock_that_jumped_is_said_with_its_size_for_a_while():
    rig = Rig()
    rig.step(3)
    rig.clock("pc0", offset_ns=5 * MS - 2 * S, jumps=1)
    assert rig.step(4) == ["+jump:pc0"]
    assert "set by +2.000 s" in rig.text("jump:pc0")
    assert rig.step(40) == ["-jump:pc0"]


def test_when_every_nodes_clock_jumps_at_once_it_is_the_servers():
    rig = Rig()
    rig.step(3)
    rig.clock("pc0", offset_ns=5 * MS + 3 * S, jumps=1)
    rig.step()  # reports do not come at the same moment
    rig.clock("pc1", offset_ns=5 * MS + 3 * S, jumps=1)
    assert rig.step(5) == ["+jump"]
    assert "the server's clock was set by +3.000 s" in rig.text("jump")


def test_a_node_that_starts_anew_has_not_jumped():
    rig = Rig()
    rig.clock("pc0", jumps=4)
    rig.step(3)
    rig.clock("pc0", jumps=0)
    assert rig.step(5) == []


@pytest.mark.parametrize(
    ("offsets", "raised", "says"),
    [
        ({"pc1": -37 * S}, "tai:pc1", "37 s ahead of the server's: that is TAI minus UTC"),
        ({"pc1": -37 * S + 400 * MS}, "tai:pc1", "phc2sys"),
        ({"pc1": 37 * S}, "tai:pc1", "37 s behind the server's"),
        ({"pc0": 37 * S, "pc1": 37 * S}, "tai", "the server's clock is 37 s ahead of every node's"),
    ],
)
def test_a_clock_that_counts_tai_is_named_with_its_remedy(offsets, raised, says):
    rig = Rig()
    for node, offset in offsets.items():
        rig.clock(node, offset_ns=offset)
    assert rig.step(4) == [f"+{raised}"]
    assert says in rig.text(raised)


def test_an_offset_of_36_seconds_is_not_tai():
    rig = Rig()
    rig.clock("pc1", offset_ns=-36 * S)
    assert rig.step(6) == []


@pytest.mark.parametrize("age_s", [-37, 37])
def test_a_camera_whose_own_tai_clock_was_believed_is_named(age_s):
    rig = Rig()
    rig.ages_ms["cam1"] = age_s * 1000 + 20
    assert rig.step(4) == ["+tai:cam1"]
    assert "TAI (PTP) and is taken for UTC" in rig.text("tai:cam1")


def test_pictures_from_the_future_are_noticed():
    rig = Rig()
    rig.ages_ms["cam1"] = -300
    assert rig.step(4) == ["+future:cam1"]
    assert "300 ms after they arrived" in rig.text("future:cam1")


def test_a_frozen_camera_is_found_within_a_second_or_so_and_forgiven_when_it_moves():
    rig = Rig()
    rig.step(3)
    rig.pictures["cam1"] = 77
    assert rig.step(2) == ["+frozen:cam1"]
    assert "the same picture" in rig.text("frozen:cam1") and "restart the camera" in rig.text("frozen:cam1")
    assert rig.step(5) == []
    del rig.pictures["cam1"]
    assert rig.step(4) == ["-frozen:cam1"]


def test_a_frame_that_comes_twice_is_not_a_frozen_camera():
    timing = Rig().timing
    header = FrameHeader("cam0", "pc", 1, 1, 0, WALL, 0, 10_000, 64, 48)
    for _ in range(50):  # the very same frame, timestamps and all
        timing.frame(Frame(header, b"jpeg", 5), WALL)
    assert timing._cameras["cam0"].repeats == 0


def test_a_silent_camera_of_a_node_that_is_here():
    rig = Rig()
    rig.step(3)
    rig.cameras["cam0"]["age_s"] = 4.0
    assert rig.step(3) == ["+silent:cam0"]
    assert "since 4 s" in rig.text("silent:cam0")
    rig.cameras["cam0"]["age_s"] = 0.05
    assert rig.step(6) == ["-silent:cam0"]


def test_a_node_that_is_gone_is_one_alarm_and_not_one_for_each_camera():
    rig = Rig()
    rig.step(20)
    rig.nodes["pc0"]["connected"], rig.cameras["cam0"]["age_s"] = False, 9.0
    assert rig.step(10) == ["+away:pc0"]
    assert "cam0" in rig.text("away:pc0")


def test_nodes_may_take_their_time_to_come():
    rig = Rig()
    for node, camera in zip(rig.nodes.values(), rig.cameras.values(), strict=True):
        node.update(connected=False, clock=None)
        camera["age_s"] = None
    assert rig.step(14) == []
    assert rig.step(10) == ["+away:pc0", "+away:pc1"]


def test_a_camera_far_below_the_rate_and_one_whose_pictures_are_dropped():
    rig = Rig()
    rig.step(3)
    rig.cameras["cam0"]["captured_fps"] = 5.0
    assert rig.step(3) == ["+slow:cam0"]
    assert "gives 5.0 pictures a second where the rig has 10" in rig.text("slow:cam0")
    rig.cameras["cam0"]["captured_fps"] = 8.0
    assert rig.step(6) == []
    rig.cameras["cam0"]["captured_fps"] = 10.0
    said = rig.step(6)
    for _ in range(6):
        rig.cameras["cam1"]["dropped"] += 3
        said += rig.step()
    assert said == ["-slow:cam0", "+dropping"]
    assert rig.text("dropping").startswith("pictures of cam1 are dropped at the nodes, of cam1 30 %")
    for camera in rig.cameras.values():
        camera["dropped"] += 5
    assert rig.step() == []
    assert "pictures of cam0, cam1 are dropped" in rig.text("dropping")
    assert rig.step(6) == ["-dropping"]


def test_a_camera_that_fits_no_set():
    rig = Rig()
    rig.step(3)
    rig.missing = ("cam1",)
    assert rig.step(8) == ["+apart:cam1"]
    assert "fit no set" in rig.text("apart:cam1")


def test_a_camera_without_trigger_where_one_is_needed():
    rig = Rig()
    rig.trigger = False
    assert rig.step(3) == ["+untriggered:cam0", "+untriggered:cam1"]
    assert "sync.mode = 'time'" in rig.text("untriggered:cam0")
    by_time = Rig(mode="time")
    by_time.trigger = False
    assert by_time.step(3) == []


def test_alarms_of_others_come_and_go_with_them():
    rig = Rig()
    rig.others = {"disk": "the disk is full"}
    assert rig.step() == ["+other:disk"]
    rig.others = {}
    assert rig.step(5) == ["-other:disk"]


def test_something_that_flickers_is_neither_raised_nor_cleared():
    alarms = Alarms()
    for i in range(20):
        alarms.set("x", i % 2 == 0, "flickers", float(i) / 2, i)
    assert alarms.changes() == [] and alarms.active == ()
    for i in range(3):
        alarms.set("x", True, f"wrong {i}", 20.0 + i, i)
    (raised,) = alarms.changes()
    assert raised.line == "alarm: wrong 1"
    assert [(alarm.text, alarm.since_ns) for alarm in alarms.active] == [("wrong 2", 1)]  # its text follows
    for i in range(20):
        alarms.set("x", i % 2 == 0, "flickers", 30.0 + i, i)
    assert alarms.changes() == []
