"""The contact sheet of training sets."""

from __future__ import annotations

import numpy as np
import pytest

from models.drawing import normal_colours
from models.synthetic.sheet import sheet
from protocol.errors import HeadstreamError


def test_normals_are_coloured_right_up_and_toward_the_camera():
    normal = np.array([[[127, 0, 0], [0, -127, 0], [0, 0, -127], [0, 0, -127]]], np.int8)
    shown = normal_colours(normal / 127, np.array([[1, 1, 1, 0]]))
    assert [int(pixel.argmax()) for pixel in shown[0, :3]] == [0, 1, 2]
    assert (shown[0, 3] == 0).all()


def test_a_sheet_is_as_wide_as_asked_and_the_same_again():
    one, again = (sheet(3, 5, columns=2, width=200, size=32) for _ in range(2))
    assert one.shape[1] == 200
    assert (one == again).all()
    assert one.std() > 20


def test_a_sheet_without_sets_or_room_is_refused():
    with pytest.raises(HeadstreamError, match="0 sets"):
        sheet(0, 1)
    with pytest.raises(HeadstreamError, match="80 px a column"):
        sheet(4, 1, columns=8, width=100)
