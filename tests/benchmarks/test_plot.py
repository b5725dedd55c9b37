"""Curves are drawn where they belong."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks._plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Panel, _dashes, plot

RED, BLUE = (0, 0, 255), (255, 0, 0)


def places(picture, colour, panel):
    """Columns and rows of a colour's pixels in a panel, from its upper left corner."""
    part = picture[-HEIGHT:, panel * WIDTH : (panel + 1) * WIDTH]
    rows, columns = np.nonzero(np.abs(part.astype(int) - colour).max(2) < 40)
    return columns, rows


def test_axes_begin_at_nothing_and_end_at_the_farthest(tmp_path):
    falling, flat = Line([0, 1, 100], [10.0, 1.0, 0.1], RED), Line([0, 10], [1.0, 1.0], BLUE)
    plot("title", [("one", RED), ("two", BLUE)], [Panel([falling, flat], "steps", "mm", 1.0)], tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    columns, rows = places(picture, RED, 0)
    assert columns.min() == pytest.approx(LEFT, abs=5) and columns.max() == pytest.approx(WIDTH - RIGHT, abs=5)
    left, right = rows[columns == columns.min() + 3], rows[columns == columns.max() - 3]
    assert left.mean() < TOP + 30 and right.mean() > HEIGHT - BOTTOM - 30  # what is large is above
    columns, rows = places(picture, BLUE, 0)
    share = np.log(11) / np.log(101)  # logarithmic above the knee, with a place for zero
    assert columns.max() == pytest.approx(LEFT + share * (WIDTH - LEFT - RIGHT), abs=5)
    assert rows.max() - rows.min() < 12
    assert rows.mean() == pytest.approx((TOP + HEIGHT - BOTTOM) / 2, abs=5)


def test_panels_share_their_heights(tmp_path):
    panels = [Panel([Line([0, end], [2.0, 2.0], RED), Line([0, end], [1.0, low], BLUE)], "", "", 1.0)
              for end, low in ((5, 1.0), (50, 0.1))]  # fmt: skip
    plot("title", [], panels, tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture.shape[1] == 2 * WIDTH
    assert places(picture, RED, 0)[1].mean() == pytest.approx(places(picture, RED, 1)[1].mean(), abs=1)


def test_dashes_leave_gaps_and_go_on_over_corners():
    points = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 3.0], [100.0, 60.0]])
    pieces = _dashes(points)
    covered = sum(np.linalg.norm(b - a) for a, b in pieces)
    assert covered == pytest.approx(160 * 9 / 16, abs=9)
    starts = [abs(a - [0, 0]).sum() for a, _ in pieces]
    assert starts == sorted(starts) and starts[0] == 0


def test_nothing_to_plot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no curve"):
        plot("title", [], [Panel([], "", "", 1.0)], tmp_path / "plot.png")
