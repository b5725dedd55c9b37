"""Refusals: each kind said once, the rest in sums, whatever strangers make up."""

import pytest

from fusion_server import refusals
from fusion_server.refusals import Refusals
from protocol.messages import MessageError


@pytest.fixture
def clock(monkeypatch):
    """The seconds that summaries go by."""
    now = [100.0]
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now[0])
    return now


def said(caplog):
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_the_first_of_a_kind_is_said_and_the_rest_summed_up(clock, caplog):
    kept = Refusals()
    kept.summarise()
    for _ in range(5):
        kept.add(MessageError("crc", "camera a: damaged"), "a")
    kept.add(MessageError("crc", "camera b: damaged"), "b")
    kept.add_unnamed("unknown_key", 3)
    kept.add_unnamed("unknown_key", 0)
    assert said(caplog) == ["refused (crc): camera a: damaged", "refused (crc): camera b: damaged"]
    assert kept.counts() == {"crc": 6, "unknown_key": 3}
    clock[0] += 9.9
    kept.summarise()
    assert said(caplog) == []
    clock[0] += 0.2
    kept.summarise()
    assert said(caplog) == ["refused in the last 10 s: 4 x crc of a, 3 x unknown_key of others"]
    clock[0] += 20
    kept.summarise()
    assert said(caplog) == [], "nothing came since"


def test_made_up_names_are_bounded(clock, caplog):
    kept = Refusals()
    kept.summarise()
    for i in range(1000):
        kept.add(MessageError("unknown_camera", f"camera {i}"), str(i))
    assert len(said(caplog)) == 256 == len(kept._logged)
    assert kept._unsaid == {("unknown_camera", "others"): 744}
    kept.add(MessageError("unknown_camera", "camera 0"), "0")
    clock[0] += 11
    kept.summarise()
    assert said(caplog) == ["refused in the last 10 s: 744 x unknown_camera of others, 1 x unknown_camera of 0"]
