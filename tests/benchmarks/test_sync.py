"""The sync benchmark's simulated half, shortened: nothing is matched wrongly whatever the clocks do."""

import re

import pytest

from benchmarks import sync


@pytest.mark.parametrize(("mode", "lost"), [("time", 0), ("trigger", 6)])
def test_a_simulated_minute_is_matched_whole(mode, lost, monkeypatch, capsys):
    monkeypatch.setattr(sync, "MINUTES", 1)
    sync.match(mode, 5)
    said = capsys.readouterr().out
    usable, mixed, whole = (
        int(re.search(pattern, said)[1])
        for pattern in (
            r"(\d+) exposures with enough",
            r"sets, (\d+) mixed",
            r"(\d+) exposures with exactly",
        )
    )
    assert mixed == 0
    assert usable - lost <= whole <= usable  # counters that start anywhere are placed within 0.2 s
    others = re.search(r"the others are numbers ([\d, ]+)", said)
    assert (others is not None) == (whole < usable)
    assert all(int(number) < lost for number in others[1].split(", ")) if others else True
    median = float(re.search(r"median +([\d.]+) us", said)[1])
    assert median < 20
