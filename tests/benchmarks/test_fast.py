"""The fast motions are as fast as they say, and their parts are named where they are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fast import FPS, MOTIONS
from models.synthetic.performance import PERFORMANCES

NOD, SHOUT = MOTIONS


def moments(motion):
    return [PERFORMANCES[motion.name](n / motion.frames, motion.seconds) for n in range(motion.frames)]


def steps(values):
    """From each frame to the one before, in a loop."""
    return np.abs(np.array(values) - np.roll(values, 1, axis=0))


def test_a_nod_is_of_three_hundred_degrees_a_second_there_and_back():
    pitch = np.degrees([moment.angles[1] for moment in moments(NOD)])
    assert steps(pitch).max() * FPS == pytest.approx(300, abs=2)
    assert 30 < np.ptp(pitch) < 35
    assert NOD.largest_turn() == pytest.approx(10, abs=0.1)
    assert pitch[0] == pytest.approx(pitch.min()) and pitch[-1] == pytest.approx(pitch[0])
    assert np.argmax(pitch) == 15


def test_a_mouth_opens_within_three_frames():
    jaw = np.array([moment.actions["jawOpen"] for moment in moments(SHOUT)])
    np.testing.assert_allclose(jaw[9:13], [0, 1 / 3, 2 / 3, 1], atol=1e-9)
    assert (jaw[:10] == 0).all() and jaw[12:22] == pytest.approx(np.ones(10)) and jaw[27:] == pytest.approx(0)
    assert all(0 <= value <= 1 for moment in moments(SHOUT) for value in moment.actions.values())


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.name)
def test_what_moves_fast_is_in_the_stages_and_nothing_else(motion):
    frames = moments(motion)
    signal = np.array([[moment.angles[1], moment.actions.get("jawOpen", 0.0)] for moment in frames])
    fast = set(np.flatnonzero(steps(signal).max(1) > 1e-6))
    phases = {phase.name: set(phase.frames) for phase in motion.phases()}
    assert fast == set().union(*(phases[stage.name] for stage in motion.stages if stage.fast))
    assert sum(map(len, phases.values())) == motion.frames == len(set().union(*phases.values()))
    rest = np.degrees(steps([moment.angles[0] for moment in frames])).max()
    assert 0 < rest < 1  # a head at rest is never still


@pytest.mark.parametrize("name", PERFORMANCES)
def test_every_performance_is_a_loop(name):
    first, last = (PERFORMANCES[name](phase, 1.5) for phase in (0.0, 1.0))
    assert first.angles == pytest.approx(last.angles)
    assert first.shift == pytest.approx(last.shift)
    assert first.actions == pytest.approx(last.actions)
