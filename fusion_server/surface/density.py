"""Where a mesh of a given number of vertices needs them: where the surface bends, and where anybody sees it."""

from __future__ import annotations

import numpy as np

from fusion_server.surface.observation import Look
from fusion_server.surface.solve import Topology

_POWER = 0.4  # of the curvature; see edge_lengths
_FINEST, _COARSEST = 0.6, 1.6  # times the length at median curvature
_UNSEEN = 2.0  # times as long where fewer than two cameras see the surface: it is closed by guess
_RINGS = 4  # of neighbours over which curvature is averaged, and then the lengths


def edge_lengths(seen: Look, topology: Topology) -> np.ndarray:
    """How long edges should be at each vertex, relative to one another.  # P

    Between a triangle of edge h and a surface of curvature k lies about k h^2, and 1 / h^2 vertices are spent on an
    area. The mean error is least where h is as k^-1/4, the largest one where h is as k^-1/2; this is in between.
    """
    shape = seen.shape
    i, j = topology.edges.T
    along = np.linalg.norm(shape.vertices[i] - shape.vertices[j], axis=1)
    bend = np.linalg.norm(shape.normals[i] - shape.normals[j], axis=1) / np.maximum(along, 1e-9)
    curvature = _spread(_at_vertices(bend, topology), topology)
    views = np.zeros(len(topology.faces), np.int64)
    for face in seen.raster.face:
        views[np.unique(face[face >= 0])] += 1
    visible = np.zeros(len(curvature), np.bool_)
    visible[topology.faces[views >= 2]] = True
    usual = np.median(curvature[visible]) if visible.any() else np.median(curvature)
    length = np.clip((usual / np.maximum(curvature, 1e-9)) ** _POWER, _FINEST, _COARSEST)
    return np.exp(_spread(np.log(np.where(visible, length, _UNSEEN)), topology))


def _at_vertices(values: np.ndarray, topology: Topology) -> np.ndarray:
    """The mean of the edges' values at each vertex.  # P"""
    ends, count = topology.edges.ravel(), len(topology.start) - 1
    return np.bincount(ends, np.repeat(values, 2), count) / np.maximum(np.bincount(ends, minlength=count), 1)


def _spread(values: np.ndarray, topology: Topology) -> np.ndarray:
    """Values of vertices averaged over some rings of neighbours.  # P"""
    for _ in range(_RINGS):
        values = 0.5 * values + 0.5 * _at_vertices(values[topology.edges].mean(1), topology)
    return values
