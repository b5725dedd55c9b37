"""Windows as weights: the same numbers as the definition says, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from geometry.cameras import crop_plan
from geometry.resample import PARTS, Taps, area_taps, window_taps


def averages(count: int, size: int, scale: float) -> list[dict[int, float]]:
    """OpenCV's INTER_AREA: how much of each pixel one output has; an edge of less than 1/1000 is left out."""
    rows = []
    for n in range(size):
        low, high = n * scale, (n + 1) * scale
        cell = min(scale, count - low)
        last = min(int(np.floor(high)), count - 1)
        begin = min(int(np.ceil(low)), last)
        row = {pixel: 1 / cell for pixel in range(begin, last)}
        if begin - low > 1e-3:
            row[begin - 1] = (begin - low) / cell
        if high - last > 1e-3:
            row[last] = min(high - last, 1.0, cell) / cell
        rows.append(row)
    return rows


def bilinear(fixed: np.ndarray, count: int, shrink: float) -> list[dict[int, float]]:
    """Between two such averages, or two pixels, at places in 1/1024 pixel that are rounded to 1/32."""
    cells = averages(count, round(count * shrink), 1 / shrink) if shrink < 1 else [{at: 1.0} for at in range(count)]
    rows = []
    for place in np.floor(fixed * (PARTS / 1024) + 0.5) / PARTS:
        low, row = int(np.floor(place)), {}
        for at, weight in ((low, 1 - (place - low)), (low + 1, place - low)):
            if weight and 0 <= at < len(cells):
                for pixel, share in cells[at].items():
                    row[pixel] = row.get(pixel, 0.0) + weight * share
        rows.append(row)
    return rows


def assert_same(taps: Taps, rows: list[dict[int, float]]) -> None:
    """To the last bit, and without room for more taps than the widest row has."""
    assert taps.start.dtype == np.int32 and taps.weight.dtype == np.float32
    assert taps.weight.shape == (len(rows), max((max(row) - min(row) + 1 for row in rows if row), default=1))
    assert [int(at) for at in taps.start] == [min(row, default=0) for row in rows]
    expected = np.zeros_like(taps.weight)
    for n, row in enumerate(rows):
        for pixel, share in row.items():
            expected[n, pixel - taps.start[n]] = share
    np.testing.assert_array_equal(taps.weight, expected)


WINDOWS = {
    "enlarged": (30.0, 20.0, 33.5),
    "one to one": (10.0, -5.0, 64.0),
    "between pixels": (10.37, 7.91, 61.3),
    "shrunk a little": (3.2, 1.7, 80.0),
    "shrunk": (-20.3, 4.4, 203.7),
    "shrunk and much beyond": (-150.0, -260.0, 700.0),
    "over a corner": (140.0, 100.0, 90.0),
    "all outside": (400.0, 500.0, 70.0),
    "all outside, shrunk": (-900.0, 500.0, 300.0),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("width", "height"), [(160, 121), (97, 250)])
def test_a_window_s_weights_are_the_definition_s(window, width, height):
    (x0, y0, side), size = WINDOWS[window], 64
    shrink, back = crop_plan(x0, y0, side, size)
    columns = np.rint(back[0, 0] * np.arange(size) * 1024) + np.rint(back[0, 2] * 1024)
    rows = np.rint((back[1, 1] * np.arange(size) + back[1, 2]) * 1024)
    across, down = window_taps(x0, y0, side, size, width, height)
    assert_same(across, bilinear(columns, width, shrink))
    assert_same(down, bilinear(rows, height, shrink))


@pytest.mark.parametrize(("count", "size"), [(512, 256), (512, 192), (700, 64), (64, 64), (1425, 256), (100, 33)])
def test_averages_are_the_definition_s(count, size):
    assert_same(area_taps(count, size), averages(count, size, count / size))
