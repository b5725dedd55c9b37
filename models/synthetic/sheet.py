"""A contact sheet of training sets: what the network learns from, to be looked at before it is trained on.

    python -m models.synthetic.sheet --out docs/training-sets.jpg --count 28 --seed 31

Every tile is one camera's picture with the truth normals beside it, coloured as is usual: right is red, up is green,
toward the camera is blue. The sheet is made anew from a seed and a count; nothing is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from models.drawing import normal_colours
from models.synthetic.training_sets import make_set
from protocol.errors import HeadstreamError

_GAP = 6


def sheet(count: int, seed: int, first: int = 0, columns: int = 4, width: int = 1600, size: int = 256) -> np.ndarray:
    """``count`` sets from index ``first`` on, one view of each, beside its normals.  # H,width,3 uint8 RGB"""
    if count < 1 or columns < 1 or width < 80 * columns:
        raise HeadstreamError(f"sheet: {count} sets in {columns} columns of {width} px; needs a set and 80 px a column")
    cell = (width - _GAP * (columns + 1)) // columns
    tile = cell // 2
    rows = -(-count // columns)
    out = np.full((_GAP + rows * (tile + _GAP), width, 3), 255, np.uint8)
    for number in range(count):
        made = make_set(seed, first + number, views=1, size=size)
        pair = np.hstack([made["image"][0], normal_colours(made["normal"][0] / 127, made["mask"][0])])
        shrunk = cv2.resize(pair, (2 * tile, tile), interpolation=cv2.INTER_AREA if size > tile else cv2.INTER_CUBIC)
        top = _GAP + (number // columns) * (tile + _GAP)
        left = _GAP + (number % columns) * (cell + _GAP)
        out[top : top + tile, left : left + 2 * tile] = shrunk
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="draw a contact sheet of training sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=28)
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--first", type=int, default=0, help="index of the first set")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--size", type=int, default=256, help="pixels of a set's pictures")
    parser.add_argument("--quality", type=int, default=80)
    options = parser.parse_args()
    picture = sheet(options.count, options.seed, options.first, options.columns, options.width, options.size)
    ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    if not ok:
        raise HeadstreamError(f"{options.out}: the sheet could not be encoded")
    options.out.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
