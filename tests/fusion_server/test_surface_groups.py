"""Groups of vertices: a partition, and a system that is solved."""

from __future__ import annotations

import numpy as np
import pytest
from surface_scene import blob, icosphere

from fusion_server.surface.groups import Groups
from fusion_server.surface.solve import Topology


@pytest.mark.parametrize("mesh", [icosphere(1), icosphere(3), blob(4)], ids=["80", "1280", "blob"])
def test_groups_are_all_vertices_once_and_touch_where_edges_cross(mesh):
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    groups = Groups.of_mesh(topology)
    count = len(groups.start) - 1
    assert sorted(groups.member) == list(range(len(mesh.vertices)))
    assert count < len(mesh.vertices) / 4
    crossing = np.zeros((count, count))
    for i, j in topology.edges:
        a, b = groups.of[i], groups.of[j]
        if a != b:
            crossing[a, b] += 1
            crossing[b, a] += 1
    linked = np.zeros((count, count))
    for g in range(count):
        assert np.all(groups.of[groups.member[groups.first[g] : groups.first[g + 1]]] == g)
        row = slice(groups.start[g], groups.start[g + 1])
        linked[g, groups.neighbour[row]] = groups.links[row]
    assert np.array_equal(linked, crossing)


def test_the_system_is_solved(monkeypatch):
    """Against a dense solver, with enough steps."""
    draw = np.random.default_rng(5)
    topology = Topology.of(icosphere(3).faces, 642)
    groups = Groups.of_mesh(topology)
    count = len(groups.start) - 1
    rows = draw.normal(size=(count, 2, 3))
    blocks, right = np.einsum("gri,grj->gij", rows, rows), draw.normal(size=(count, 3))
    alike = 0.3 * groups.links
    dense = np.zeros((count, 3, count, 3))
    for g in range(count):
        dense[g, :, g] += blocks[g] + 1e-2 * np.eye(3)
        for n in range(groups.start[g], groups.start[g + 1]):
            dense[g, :, g] += alike[n] * np.eye(3)
            dense[g, :, groups.neighbour[n]] -= alike[n] * np.eye(3)
    wanted = np.linalg.solve(dense.reshape(3 * count, -1), right.ravel()).reshape(count, 3)
    monkeypatch.setattr("fusion_server.surface.groups._STEPS", 300)
    found = groups.solve(blocks.copy(), right, 0.3)
    assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()
