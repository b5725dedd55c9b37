"""Normals, subdivision and PLY files of meshes one can draw."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from shapes import octahedron_sphere, square, tetrahedron

from geometry.mesh import (
    Mesh,
    edges,
    face_normals,
    in_order,
    loop_matrix,
    loop_subdivide,
    read_ply,
    vertex_normals,
    write_ply,
)
from protocol.errors import HeadstreamError


def test_faces_of_a_tetrahedron_look_outwards():
    mesh = tetrahedron()
    normals, areas = face_normals(mesh.vertices, mesh.faces)
    np.testing.assert_allclose(normals[:3], [[0, 0, -1], [0, -1, 0], [-1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(normals[3], np.ones(3) / np.sqrt(3))
    np.testing.assert_allclose(areas, [0.5, 0.5, 0.5, np.sqrt(3) / 2])


def test_a_degenerate_face_has_no_normal():
    normals, areas = face_normals(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    np.testing.assert_allclose(normals, 0, atol=1e-12)
    assert areas[0] == pytest.approx(0)


def test_vertex_normals_of_a_sphere_point_away_from_its_middle():
    sphere = octahedron_sphere(4, 0.1)
    normals = vertex_normals(sphere.vertices, sphere.faces)
    assert (normals * sphere.vertices).sum(1).min() > 0.0999


def test_vertex_normals_weigh_faces_by_area():
    mesh = tetrahedron()
    small, large = np.array([0, 0, -0.5]), np.array([0.5, 0.5, 0.5])
    expected = small + np.array([0, -0.5, 0]) + large  # faces at vertex 1: below, front, slanted
    np.testing.assert_allclose(vertex_normals(mesh.vertices, mesh.faces)[1], expected / np.linalg.norm(expected))


def test_edges_stand_once():
    assert edges(square().faces).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]]


def test_in_order_neighbours_stand_near_each_other_and_the_surface_is_the_same():
    sphere = octahedron_sphere(4)
    draw = np.random.default_rng(0)
    number = draw.permutation(len(sphere.vertices)).astype(np.int32)
    vertices = np.empty_like(sphere.vertices)
    vertices[number] = sphere.vertices
    mixed = Mesh(vertices, draw.permutation(number[sphere.faces]))
    tidy = in_order(mixed)

    def corners(mesh):  # of each face from its first corner on, so that a turned or turned-over face is another
        return sorted(map(tuple, mesh.vertices[mesh.faces].reshape(-1, 9).round(12).tolist()))

    assert corners(tidy) == corners(mixed)
    apart = [np.abs(np.diff(edges(mesh.faces), axis=1)).mean() for mesh in (mixed, tidy)]
    assert apart[1] < 0.15 * apart[0]
    faces = [np.abs(np.diff(mesh.faces.mean(1))).mean() for mesh in (mixed, tidy)]
    assert faces[1] < 0.1 * faces[0]


def test_subdividing_keeps_corners_of_texture_and_quadruples_faces():
    fine = loop_subdivide(square(), 2)
    assert len(fine.faces) == 32
    assert len(fine.uv) == len(fine.vertices)
    np.testing.assert_allclose(fine.uv.min(0), 0)
    np.testing.assert_allclose(fine.uv.max(0), 1)


def test_subdividing_a_flat_square_stays_flat_and_keeps_its_outline_straight():
    fine = loop_subdivide(square(), 1)
    np.testing.assert_allclose(fine.vertices[:, 2], 0)
    middle = fine.vertices[len(square().vertices) :]
    assert any(np.allclose(point, (0.5, 0, 0)) for point in middle)


def test_the_subdivision_matrix_reproduces_constants():
    mesh = octahedron_sphere(1)
    matrix, faces = loop_matrix(mesh.faces, len(mesh.vertices))
    np.testing.assert_allclose(matrix.sum(1), 1)
    assert faces.max() == matrix.shape[0] - 1


def test_subdividing_an_inscribed_octahedron_gives_a_rounder_shape():
    coarse = octahedron_sphere(0)
    radius = np.linalg.norm(loop_subdivide(coarse, 3).vertices, axis=1)
    assert np.ptp(radius) < 0.2
    assert radius.max() < 1


def test_a_mesh_comes_back_from_its_file(tmp_path):
    mesh = octahedron_sphere(2, 0.1)
    write_ply(tmp_path / "deep" / "a.ply", mesh)
    back = read_ply(tmp_path / "deep" / "a.ply")
    np.testing.assert_array_equal(back.faces, mesh.faces)
    np.testing.assert_allclose(back.vertices, mesh.vertices, atol=1e-7)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.ply"]


@pytest.mark.parametrize("content", [b"", b"ply\nformat binary_little_endian 1.0\nend_header\n", b"solid nothing"])
def test_a_file_that_is_no_mesh_is_named(tmp_path, content):
    path = tmp_path / "broken.ply"
    path.write_bytes(content)
    with pytest.raises(HeadstreamError, match=r"broken\.ply"):
        read_ply(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(HeadstreamError, match=r"none\.ply"):
        read_ply(tmp_path / "none.ply")


def test_half_a_file_is_no_mesh(tmp_path):
    path = tmp_path / "cut.ply"
    write_ply(path, octahedron_sphere(2))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HeadstreamError, match=r"cut\.ply"):
        read_ply(path)


def test_a_mesh_knows_its_parts():
    mesh = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32))
    assert mesh.uv is None


def test_ply_keeps_colours(tmp_path):
    mesh = octahedron_sphere(0)
    colours = np.arange(3 * len(mesh.vertices), dtype=np.uint8).reshape(-1, 3)
    write_ply(tmp_path / "a.ply", mesh, colours)
    again = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=1e-6)
    assert np.array_equal(again.faces, mesh.faces)
    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    assert np.array_equal(loaded.visual.vertex_colors[:, :3], colours)


@pytest.mark.parametrize("colours", [None, np.full((6, 3), 77, np.uint8)], ids=["plain", "coloured"])
def test_ply_keeps_texture_coordinates_of_corners_and_each_vertex_once(tmp_path, colours):
    """Seams everywhere: no two faces agree on the coordinates of the vertices that they share."""
    ball = octahedron_sphere(0)
    corners = np.arange(48.0).reshape(8, 3, 2) / 48
    write_ply(tmp_path / "a.ply", Mesh(ball.vertices, ball.faces, corner_uv=corners), colours)
    again = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(again.vertices, ball.vertices, atol=1e-6)
    assert np.array_equal(again.faces, ball.faces)
    np.testing.assert_allclose(again.corner_uv, corners, atol=1e-6)
    apart = trimesh.load(tmp_path / "a.ply", process=False)  # as others read it: a vertex a corner
    np.testing.assert_allclose(apart.visual.uv[apart.faces], corners, atol=1e-6)
    np.testing.assert_allclose(apart.vertices[apart.faces], ball.vertices[ball.faces], atol=1e-6)


def test_ply_without_texture_coordinates_has_none(tmp_path):
    write_ply(tmp_path / "a.ply", octahedron_sphere(0))
    assert read_ply(tmp_path / "a.ply").corner_uv is None
