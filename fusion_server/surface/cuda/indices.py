"""A topology's and a rest pose's index arrays on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fusion_server.surface.solve import Topology
from geometry.device import Library


@dataclass(frozen=True, eq=False)
class Indices:
    """A ``Topology`` there, int32. around: faces at each vertex, start and face, then those at it or its neighbours.
    sides: for each edge ``side[side_start[e]:...]``, 3 * face + corner of the faces that have it. twin: of each
    neighbour, the entry in which it has this vertex for a neighbour."""

    faces: torch.Tensor
    edges: torch.Tensor
    start: torch.Tensor
    neighbour: torch.Tensor
    link: torch.Tensor
    twin: torch.Tensor
    around: tuple[torch.Tensor, ...]
    sides: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, topology: Topology, library: Library) -> Indices:
        """Copy them to a library's device."""
        around, sides = topology.around, topology.face_edges.ravel()
        begin = np.concatenate([[0], np.cumsum(np.bincount(sides, minlength=len(topology.edges)))])
        ends = np.argsort(topology.link, kind="stable").reshape(-1, 2)  # the two entries of each edge
        twin = np.empty(len(topology.link), np.int32)
        twin[ends] = ends[:, ::-1]

        def up(array: np.ndarray) -> torch.Tensor:
            return library.up(array, np.int32)

        return cls(
            up(topology.faces), up(topology.edges), up(topology.start), up(topology.neighbour), up(topology.link),
            up(twin), (up(around.start), up(around.face), up(around.wide_start), up(around.wide_face)),
            (up(begin), up(np.argsort(sides, kind="stable"))),
        )  # fmt: skip


def levelled(marked: np.ndarray, start: np.ndarray, neighbour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The marked vertices (P,) bool, level by level, and where each level starts.

    Within a level none has another for a neighbour, and of two neighbours the one with the smaller number is in the
    earlier level: whoever goes through them level by level does what one does who goes through them by their numbers.
    """
    level = np.full(len(marked), -1, np.int32)
    inner = np.flatnonzero(marked)
    for i in inner:
        near = neighbour[start[i] : start[i + 1]]
        level[i] = level[near[near < i]].max(initial=-1) + 1
    own = level[inner]
    return inner[np.argsort(own, kind="stable")], np.concatenate([[0], np.cumsum(np.bincount(own))])
