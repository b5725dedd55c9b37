"""The tracking policy in tables: what a fit is worth, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_server.surface.base import Quality
from fusion_server.surface.quality import Fit, is_found, is_found_again, is_registered, judged, wants_search

FACES = 1000
KEY = Quality(0.96, 4.0, 0, 1.0, (), 0.2)  # what this subject allows
NAMES = ("left", "right")


def fit(overlap=0.96, residual=4.0, inverted=0, unlike=0.2, blind=(False, False), both=None) -> Fit:
    both = np.array([1000.0 * overlap] * 2 if both is None else both)
    return Fit(both, np.array([1000.0, 1000.0]), np.array(blind), residual, inverted, unlike)


@pytest.mark.parametrize(
    ("seen", "flags"),
    [
        (fit(), ()),
        (fit(overlap=0.9, residual=10.0, inverted=8, unlike=0.55), ()),  # worse, and still what it was
        (fit(overlap=0.83), ("lost",)),  # 0.12 below the keyframe's is too much
        (fit(residual=24.1), ("lost",)),  # and so are 20 degrees more
        (fit(overlap=0.845, residual=22.0), ("uncertain",)),  # not lost by any of both
        (fit(inverted=21), ("inverted",)),
        (fit(unlike=0.59), ()),  # halfway from 0.2 to nothing in common is 0.6
        (fit(unlike=0.61), ("strange skin",)),
        (fit(unlike=float("nan")), ()),  # no pictures
        (fit(overlap=0.5, unlike=1.0), ("lost", "strange skin")),
        (fit(blind=(False, True)), ("blind:right",)),
        (fit(both=(990.0, 770.0)), ("disagrees:right",)),
    ],
)
def test_a_warm_frame_is_judged_by_its_keyframe(seen, flags):
    quality = judged(seen, FACES, NAMES, KEY)
    assert quality.flags == flags
    assert is_found(quality) == (not {"lost", "strange skin"} & set(flags))


def test_a_skin_without_marks_is_never_strange():
    plain = Quality(0.96, 4.0, 0, 1.0, (), 0.97)  # its cameras see nothing alike but noise
    assert judged(fit(unlike=1.02), FACES, NAMES, plain).flags == ()
    assert judged(fit(unlike=1.0), FACES, NAMES, Quality(0.96, 4.0, 0, 1.0)).flags == ()  # and nobody looked


@pytest.mark.parametrize(
    ("seen", "flags"),
    [(fit(overlap=0.61), ("uncertain",)), (fit(overlap=0.59), ("lost",)), (fit(residual=41.0), ("lost",))],
)
def test_a_keyframe_is_judged_by_what_a_surface_can_be(seen, flags):
    assert judged(seen, FACES, NAMES).flags == flags


def test_confidence_falls_with_everything_that_gets_worse():
    best = judged(fit(), FACES, NAMES, KEY).confidence
    assert best == 1.0
    for worse in (fit(overlap=0.9), fit(residual=12.0), fit(inverted=15), fit(unlike=0.7)):
        assert 0 < judged(worse, FACES, NAMES, KEY).confidence < best


@pytest.mark.parametrize(
    ("flags", "apart", "again", "registered"),
    [
        ((), 4e-3, True, False),
        ((), 2e-3, True, True),
        ((), 11e-3, False, False),  # another subject
        (("uncertain",), 2e-3, False, True),
        (("strange skin",), 2e-3, False, True),  # a new keyframe is where it is; which points these are, nobody knows
        (("lost",), 2e-3, False, False),
        (("inverted",), 2e-3, True, False),
    ],
)
def test_an_old_topology_is_taken_again_where_it_is_the_same_subject(flags, apart, again, registered):
    quality = Quality(0.9, 5.0, 0, 0.8, flags)
    assert is_found_again(quality, apart) == again
    assert is_registered(quality, apart) == registered


def test_a_search_that_was_in_vain_is_repeated_more_and_more_seldom():
    strange = [missed for missed in range(200) if wants_search(missed, lost=False)]
    assert strange == [0, 1, 2, 4, 8, 16, 32, 64, 128]
    lost = [missed for missed in range(200) if wants_search(missed, lost=True)]
    assert set(strange) < set(lost) and np.diff(lost).max() == 32
