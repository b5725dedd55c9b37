"""Surfaces put together and taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.synthetic.render import Surface


def join(pieces: Sequence[Surface]) -> Surface:
    """Several surfaces as one, with grain of five columns.

    What stands beside them stands beside the whole; one fine piece makes it fine.
    """
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    return Surface(
        np.concatenate([piece.vertices for piece in pieces]),
        np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=True)]).astype(np.int32),
        np.concatenate([piece.normals for piece in pieces]),
        np.concatenate([piece.albedo for piece in pieces]),
        np.concatenate([piece.material for piece in pieces]),
        np.concatenate([_grain(piece) for piece in pieces]),
        tuple(other for piece in pieces for other in piece.beside),
        any(piece.fine for piece in pieces),
    )


def compact(surface: Surface) -> Surface:
    """Drop vertices that no face uses."""
    used = np.zeros(len(surface.vertices), bool)
    used[surface.faces.ravel()] = True
    faces = (np.cumsum(used) - 1).astype(np.int32)[surface.faces]
    pick = (surface.vertices, surface.normals, surface.albedo, surface.material, surface.grain)
    vertices, normals, albedo, material, grain = (
        None if array is None else np.ascontiguousarray(array[used], np.float32) for array in pick
    )
    return replace(
        surface, vertices=vertices, faces=faces, normals=normals, albedo=albedo, material=material, grain=grain
    )


def _grain(piece: Surface) -> np.ndarray:
    if piece.grain is None:
        return np.zeros((len(piece.vertices), 5), np.float32)
    return np.pad(piece.grain, ((0, 0), (0, 5 - piece.grain.shape[1]))).astype(np.float32)
