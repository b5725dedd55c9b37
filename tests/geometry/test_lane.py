"""Lanes and hand-overs on the CPU, and to a device without memory (torch's meta device), which shows what is copied.

Streams and events are a GPU's; ``tests/fusion_server/test_sight_order.py`` follows their order on paper.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geometry.device import Handover, Lane, Laps

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def parts():
    return {
        "normal": torch.arange(2 * 3 * 3 * 3, dtype=torch.float32).view(2, 3, 3, 3),
        "mask": torch.rand((2, 3, 3)),
        "fine": torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8),
        "checksum": torch.tensor([2**40, -7]),
    }


def test_a_hand_over_keeps_what_it_was_given_when_the_giver_goes_on(parts):
    kept = {name: part.clone() for name, part in parts.items()}
    handed = Handover(Lane(CPU), **parts)
    for part in parts.values():
        part.zero_()
    there = handed.on(Lane(CPU))
    assert there.keys() == kept.keys()
    for name, part in kept.items():
        assert there[name].dtype == part.dtype and torch.equal(there[name], part)
        np.testing.assert_array_equal(handed.host(name), part.numpy())


def test_on_its_own_device_nothing_is_copied(parts):
    handed = Handover(Lane(CPU), **parts)
    one, other = handed.on(Lane(CPU)), handed.on(Lane(CPU))
    assert all(one[name].data_ptr() == other[name].data_ptr() for name in parts)
    assert len({tensor.untyped_storage().data_ptr() for tensor in one.values()}) == 1  # one buffer
    assert handed.host("mask") is handed.host("mask")


def test_to_another_device_goes_one_copy_for_all_who_ask(parts, monkeypatch):
    handed = Handover(Lane(CPU), **parts)
    copies = []
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a, **k: (copies.append((self.nbytes, a, k)), to(self, *a, **k))[1]
    )
    first, second = handed.on(Lane(META)), handed.on(Lane(META))
    ((size, where, how),) = copies
    assert where == (META,) and how == {"non_blocking": True}
    assert sum(part.nbytes for part in parts.values()) <= size < sum(part.nbytes for part in parts.values()) + 4 * 256
    for name, part in parts.items():
        assert first[name].device == META and second[name].shape == part.shape and first[name].dtype == part.dtype
    np.testing.assert_array_equal(handed.host("mask"), parts["mask"].numpy())  # still to be had where it was made


def test_laps_are_summed_by_stage():
    lane, laps = Lane(CPU), Laps()
    marks = [lane.mark() for _ in range(4)]
    for n, mark in enumerate(marks):
        mark._at = float(n * n)  # 0, 1, 4, 9 s
    laps.add("cut", marks[0], marks[1])
    laps.add("normals", marks[1], marks[2])
    laps.add("cut", marks[2], marks[3])
    assert laps.seconds() == {"cut": 6.0, "normals": 3.0}
