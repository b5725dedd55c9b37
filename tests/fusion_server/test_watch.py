"""The watch: alarms are logged and told once each, and stand in the status while they last."""

import logging
import time

from fusion_server.watch import Watch
from protocol.messages import ClockReport, Frame, FrameHeader
from protocol.rig import parse_rig

RIG = parse_rig(
    {"name": "t", "calibration": "c.json", "camera": [{"id": "cam0", "node": "pc0", "driver": "replay"}], "fps": 10.0}
)


def test_an_alarm_is_logged_and_told_when_it_comes_and_when_it_goes(monkeypatch, caplog):
    told, now = [], [time.monotonic()]
    watch = Watch(RIG, told.append)
    monkeypatch.setattr("fusion_server.watch.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    camera = {"node": "pc0", "age_s": 0.1, "captured_fps": 10.0, "captured": 0, "dropped": 0}
    node = {"connected": True, "age_s": 0.1, "take": "", "clock": ClockReport(5_000_000, 10_000, 2.0, 80_000, 0)}

    def second(pictures):
        for i, crc in enumerate(pictures):
            wall = time.time_ns()
            watch.frame(Frame(FrameHeader("cam0", "pc0", i, i, 0, wall - i, 0, 10_000, 64, 48), b"jpeg", crc))
        now[0] += 1.0
        watch.update({"cam0": camera}, {"pc0": node})

    second(range(20))
    assert watch.status()["alarms"] == [] and told == []
    second([7] * 20)
    (alarm,) = watch.status()["alarms"]
    assert alarm["key"] == "frozen:cam0" and abs(alarm["since_ns"] - time.time_ns()) < 60 * 10**9
    second([7] * 20)
    for _ in range(3):
        second(range(20))
    assert watch.status()["alarms"] == []
    assert [line.partition(" is frozen")[0] for line in told] == ["alarm: camera cam0", "alarm over: camera cam0"]
    assert [r.levelname for r in caplog.records if "frozen" in r.getMessage()] == ["WARNING", "INFO"]
    assert watch.status()["clocks"]["pc0"]["drift_ppm"] == 2.0
    assert watch.status()["timecode"] == ""
