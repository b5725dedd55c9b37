"""Remeshing gives even triangles, keeps the shape, and keeps it closed."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import octahedron_sphere, square, tetrahedron, torus

from geometry.measure import point_to_mesh
from geometry.mesh import Mesh, edges
from geometry.remesh import edge_length_for, is_closed_manifold, remesh, vertices_for


def lengths(mesh: Mesh) -> np.ndarray:
    pairs = edges(mesh.faces)
    return np.linalg.norm(mesh.vertices[pairs[:, 0]] - mesh.vertices[pairs[:, 1]], axis=1)


def test_closed_means_every_edge_has_two_sides():
    assert is_closed_manifold(tetrahedron().faces)
    assert is_closed_manifold(torus().faces)
    assert not is_closed_manifold(square().faces)
    assert not is_closed_manifold(tetrahedron().faces[:3])
    assert not is_closed_manifold(np.zeros((0, 3), np.int32))


def test_a_face_the_wrong_way_round_is_not_manifold():
    faces = tetrahedron().faces.copy()
    faces[0] = faces[0, ::-1]
    assert not is_closed_manifold(faces)


def test_two_bodies_that_touch_in_a_point_are_not_manifold():
    first = tetrahedron().faces
    second = np.where(first == 0, 0, first + 3)  # shares vertex 0 only
    assert not is_closed_manifold(np.concatenate([first, second]))
    assert is_closed_manifold(np.concatenate([first, first + 4]))


@pytest.mark.parametrize("vertices", [400, 1500, 6000])
def test_a_torus_remeshed_finer_or_coarser(vertices):
    mesh = torus()
    length = edge_length_for(mesh, vertices)
    assert vertices_for(mesh, length) == vertices
    even = remesh(mesh, length)
    assert is_closed_manifold(even.faces)
    assert len(even.vertices) - len(even.faces) // 2 == 0  # Euler: still one hole
    assert len(even.vertices) == pytest.approx(vertices, rel=0.15)
    spread = lengths(even) / length
    assert spread.min() > 0.4
    assert spread.max() < 1.7
    assert np.std(spread) < 0.15
    assert point_to_mesh(even.vertices, mesh).max() < 1e-9
    middles = even.vertices[even.faces].mean(1)
    assert np.percentile(point_to_mesh(middles, mesh), 95) < 0.12 * length


def test_a_tube_thinner_than_the_triangles_is_not_pinched_shut():
    thin = torus(60, 5, minor=0.04)
    coarse = remesh(thin, 0.2)
    assert is_closed_manifold(coarse.faces)
    assert len(coarse.vertices) - len(coarse.faces) // 2 == 0
    assert len(coarse.vertices) < 0.8 * len(thin.vertices)


def test_slivers_become_even():
    sphere = octahedron_sphere(4, 0.1)
    squeezed = Mesh(sphere.vertices * (1, 1, 0.25), sphere.faces)
    even = remesh(squeezed, edge_length_for(squeezed, 1000))
    valence = np.bincount(even.faces.ravel())
    assert (np.abs(valence - 6) <= 1).mean() > 0.97
    assert np.std(lengths(even)) / lengths(even).mean() < 0.15


def test_edges_are_as_long_as_is_wanted_at_each_place():
    sphere = octahedron_sphere(5, 0.1)
    relative = np.exp(np.log(2.0) * np.clip(sphere.vertices[:, 2] / 0.05, -1, 1))  # four times as long at one pole
    graded = remesh(sphere, edge_length_for(sphere, 2000, relative))
    assert is_closed_manifold(graded.faces)
    assert len(graded.vertices) == pytest.approx(2000, rel=0.15)
    pairs = edges(graded.faces)
    height = graded.vertices[pairs, 2].mean(1)
    fine, coarse = (np.median(lengths(graded)[side]) for side in (height < -0.06, height > 0.06))
    assert coarse / fine == pytest.approx(4, rel=0.15)
    np.testing.assert_allclose(np.linalg.norm(graded.vertices, axis=1), 0.1, atol=1e-3)


def test_vertices_of_three_faces_go_even_when_they_sit_within_each_other():
    sphere = octahedron_sphere(3, 0.1)
    vertices, faces = list(sphere.vertices), sphere.faces.tolist()
    for face in (7, 100):
        for _ in range(3):  # into a face, then into one of the three that it left, and again
            a, b, c = faces[face]
            vertices.append(np.mean([vertices[a], vertices[b], vertices[c]], axis=0))
            new = len(vertices) - 1
            faces[face] = [a, b, new]
            faces += [[b, c, new], [c, a, new]]
    spiky = Mesh(np.array(vertices), np.array(faces, np.int32))
    assert np.bincount(spiky.faces.ravel()).min() == 3
    clean = remesh(spiky, 0.01, rounds=0)
    assert is_closed_manifold(clean.faces)
    assert len(clean.vertices) == len(sphere.vertices)
    assert np.bincount(clean.faces.ravel()).min() > 3


def test_the_result_can_lie_on_another_surface():
    from geometry.measure import SurfaceIndex

    rough, smooth = octahedron_sphere(3, 0.1), octahedron_sphere(6, 0.1)
    even = remesh(rough, edge_length_for(rough, 800), surface=SurfaceIndex(smooth))
    np.testing.assert_allclose(np.linalg.norm(even.vertices, axis=1), 0.1, atol=3e-5)


def test_an_open_mesh_is_refused():
    with pytest.raises(ValueError, match="closed manifold"):
        remesh(square(), 0.1)
