"""Distances are exact, and angles too."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import octahedron_sphere, square, tetrahedron

from geometry.measure import (
    Attached,
    DistanceSummary,
    Jitter,
    SurfaceIndex,
    at_places,
    depth_differences,
    normal_error_degrees,
    point_to_mesh,
    sample_places,
    sample_surface,
    surface_distance,
)
from geometry.mesh import Mesh, vertex_normals
from geometry.rasterize import make_rasterizer
from protocol.calibration import Camera


@pytest.mark.parametrize(
    ("point", "distance"),
    [
        ((0.3, 0.6, 2.0), 2.0),  # above the inside
        ((0.5, -3.0, 4.0), 5.0),  # nearest to an edge
        ((4.0, 4.0, 0.0), np.sqrt(18)),  # nearest to a corner
        ((0.5, 0.5, 0.0), 0.0),  # on the diagonal that both triangles share
        ((-1.0, 0.5, 0.0), 1.0),
    ],
)
def test_distance_to_a_square(point, distance):
    assert point_to_mesh(np.array([point]), square())[0] == pytest.approx(distance, abs=1e-12)


def test_distances_are_those_of_a_dense_sampling():
    mesh = octahedron_sphere(2, 0.1)
    draw = np.random.default_rng(1)
    points = draw.normal(size=(40, 3)) * 0.1
    steps = np.linspace(0, 1, 30)
    u, v = (grid.ravel() for grid in np.meshgrid(steps, steps))
    weights = np.stack([1 - u - v, u, v], 1)[u + v <= 1]
    dense = np.einsum("wk,fkd->fwd", weights, mesh.vertices[mesh.faces]).reshape(-1, 3)
    sampled = np.sqrt(((points[:, None] - dense) ** 2).sum(-1).min(1))
    exact = point_to_mesh(points, mesh)
    assert (exact <= sampled + 1e-12).all()
    np.testing.assert_allclose(exact, sampled, atol=6e-4)


def test_the_nearest_point_and_face_are_named():
    mesh = square()
    near, distance, face = SurfaceIndex(mesh).closest(np.array([[0.9, 0.2, 1.0], [0.1, 0.8, -2.0]]))
    np.testing.assert_allclose(near, [[0.9, 0.2, 0], [0.1, 0.8, 0]])
    np.testing.assert_allclose(distance, [1, 2])
    assert face.tolist() == [0, 1]


def test_far_away_and_many_points():
    sphere = octahedron_sphere(5, 0.1)
    points = np.random.default_rng(0).normal(size=(5000, 3))
    points *= (50 / np.linalg.norm(points, axis=1))[:, None]
    np.testing.assert_allclose(SurfaceIndex(sphere).distances(points), 49.9, atol=1e-3)


def test_what_vertices_have_is_had_between_them():
    mesh = square()
    places = sample_places(mesh, 500)
    np.testing.assert_allclose(at_places(mesh.vertices, mesh.faces, *places), sample_surface(mesh, 500))
    ones = at_places(np.ones((len(mesh.vertices), 2)), mesh.faces, *places)
    np.testing.assert_allclose(ones, 1)


@pytest.mark.parametrize("corners", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0), (0, 1, 2)])
def test_a_face_without_area_is_as_far_as_its_edge(corners):
    line = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    mesh = Mesh(line[list(corners)], np.array([[0, 1, 2]], np.int32))
    points = np.random.default_rng(3).normal(size=(200, 3))
    along = np.clip(points[:, 0], 0, max(line[list(corners), 0]))
    expected = np.hypot(points[:, 0] - along, np.hypot(points[:, 1], points[:, 2]))
    np.testing.assert_allclose(point_to_mesh(points, mesh), expected, atol=1e-12)


def test_a_mesh_without_faces_is_refused():
    with pytest.raises(ValueError, match="without faces"):
        SurfaceIndex(Mesh(np.zeros((3, 3)), np.zeros((0, 3), np.int32)))


def test_samples_spread_by_area_and_lie_on_the_surface():
    mesh = tetrahedron()
    points = sample_surface(mesh, 4000)
    assert point_to_mesh(points, mesh).max() < 1e-12
    slanted = np.abs(points.sum(1) - 1) < 1e-9
    assert slanted.mean() == pytest.approx(np.sqrt(3) / (3 + np.sqrt(3)), abs=0.01)
    np.testing.assert_array_equal(points, sample_surface(mesh, 4000))


def test_two_spheres_are_as_far_apart_as_their_radii():
    small, large = octahedron_sphere(5, 0.1), octahedron_sphere(5, 0.102)
    both = surface_distance(small, large, 2000)
    assert both.forward.median == pytest.approx(2e-3, abs=5e-5)
    assert both.backward.median == pytest.approx(2e-3, abs=5e-5)
    assert both.forward.count == 2000


def test_a_part_is_near_the_whole_but_not_the_other_way():
    sphere = octahedron_sphere(4, 0.1)
    upper = sphere.faces[(sphere.vertices[sphere.faces][:, :, 1] > -0.01).all(1)]
    both = surface_distance(Mesh(sphere.vertices, upper), sphere, 2000)
    assert both.forward.p95 < 1e-6
    assert both.backward.p95 > 0.05


def test_a_summary_reads_in_millimetres():
    summary = DistanceSummary.of(np.array([0.001, 0.002, 0.003, 0.010]))
    assert str(summary) == "median 2.500 mm, mean 4.000, 95 % 8.950"
    with pytest.raises(ValueError, match="at least one"):
        DistanceSummary.of(np.array([]))


def test_angles_between_normals():
    a = np.zeros((2, 2, 3))
    a[..., 2] = -1
    b = a.copy()
    b[0, 1] = (0, np.sin(np.radians(10)), -np.cos(np.radians(10)))
    b[1, 0] = (5, 0, 0)
    b[1, 1] = (0, 0, 1)
    mask = np.array([[True, True], [True, False]])
    np.testing.assert_allclose(normal_error_degrees(a, b, mask), [0, 10, 90], atol=1e-9)


def test_tiny_angles_keep_their_digits():
    a = np.array([[0, 0, -1]], np.float32)
    b = np.array([[0, 1e-4, -1]], np.float32)
    assert normal_error_degrees(a, b, np.array([True]))[0] == pytest.approx(np.degrees(1e-4), rel=1e-3)


def test_nailed_points_notice_what_slides_along_a_surface():
    """A plane that shifts within itself by 3 mm: no distance to it changes."""
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2) * 0.01
    corner = np.array([[i + 5 * j, i + 1 + 5 * j, i + 5 * (j + 1)] for i in range(4) for j in range(4)])
    faces = np.concatenate([corner, corner[:, [1, 2, 1]] + np.array([0, 0, 5])])
    mesh = Mesh(np.c_[grid, np.zeros(25)], faces.astype(np.int32))
    points = np.array([[0.012, 0.017, 0.0004], [0.031, 0.022, 0.0], [0.02, 0.02, 0.01]])
    nails = Attached.of(points, mesh, 1e-3)
    assert list(nails.points) == [0, 1]
    assert nails.away(points, mesh.vertices) == pytest.approx([0.0004, 0.0], abs=1e-12)
    assert nails.away(points, mesh.vertices + [0.003, 0, 0]) == pytest.approx([np.hypot(0.003, 0.0004), 0.003])
    assert nails.away(points + [0.003, 0, 0], mesh.vertices + [0.003, 0, 0]) == pytest.approx([0.0004, 0.0], abs=1e-12)


def moving_head(frame: int) -> Mesh:
    """A ball of 10 cm that turns and shifts ever faster: from frame to frame up to 10 degrees and centimetres."""
    ball = octahedron_sphere(4, 0.1)
    angle = 0.02 * frame**2
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return Mesh(ball.vertices @ turn.T + [0.004 * frame**2, 0, 0], ball.faces)


def jitter_of(meshes: dict[int, Mesh]) -> tuple[float, float] | None:
    jitter = Jitter()
    for frame, mesh in meshes.items():
        jitter.add(frame, mesh, moving_head(frame))
    return jitter.rms()


def test_jitter_is_the_noise_and_not_the_motion():
    draw = np.random.default_rng(4)
    heads = {frame: moving_head(frame) for frame in range(6)}
    assert jitter_of(heads) == pytest.approx((0, 0), abs=1e-9)
    across = {f: Mesh(m.vertices + draw.normal(0, 1e-4, m.vertices.shape), m.faces) for f, m in heads.items()}
    assert jitter_of(across) == pytest.approx((1e-4, np.sqrt(3) * 1e-4), rel=0.05)
    along = {
        f: Mesh(m.vertices + vertex_normals(m.vertices, m.faces) * draw.normal(0, 1e-4, (len(m.vertices), 1)), m.faces)
        for f, m in heads.items()
    }
    noise, whole = jitter_of(along)
    assert whole == pytest.approx(1e-4, rel=0.05) and 0.9 * whole < noise <= whole


def test_vertices_that_slide_evenly_do_not_tremble():
    """Each frame the ball of our vertices has turned a little less than the true one."""
    heads = {frame: moving_head(frame) for frame in range(5)}
    late = {}
    for frame, head in heads.items():
        middle, angle = head.vertices.mean(0), -0.002 * frame
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        late[frame] = Mesh((head.vertices - middle) @ turn.T + middle, head.faces)
    assert np.linalg.norm(late[4].vertices - heads[4].vertices, axis=1).max() > 7e-4
    assert jitter_of(late)[1] < 2e-5


def test_jitter_wants_three_frames_in_a_row_of_one_topology():
    heads = {frame: moving_head(frame) for frame in range(9)}
    other = {frame: Mesh(mesh.vertices, mesh.faces[::-1]) for frame, mesh in heads.items()}
    assert jitter_of({frame: heads[frame] for frame in (0, 2, 4, 6, 7)}) is None
    assert jitter_of({0: heads[0], 1: heads[1], 2: other[2], 3: other[3], 4: heads[4]}) is None
    far = {frame: Mesh(mesh.vertices * 1.1, mesh.faces) for frame, mesh in heads.items()}
    assert jitter_of(far) is None  # none of it is on the skin
    assert jitter_of({frame: heads[frame] for frame in (0, 1, 3, 4, 5)}) == pytest.approx((0, 0), abs=1e-9)


def test_depths_differ_by_what_a_plane_was_moved():
    """Seen by two cameras of different sizes; half of the plane does not count, and what one surface lacks neither."""
    K = np.array([[100.0, 0, 31.5], [0, 100, 31.5], [0, 0, 1]])
    cameras = [Camera(str(n), n, n, K, np.zeros(5), np.diag([1.0, -1, -1]), np.array([-0.5, 0.5, 2])) for n in (64, 48)]
    truth, moved = square(), Mesh(square().vertices * [0.8, 1, 1] + [0, 0, 0.003], square().faces)
    rasterizer = make_rasterizer("cpu")
    whole = depth_differences(moved, np.array([True, True]), truth, cameras, rasterizer)
    half = depth_differences(moved, np.array([True, False]), truth, cameras[:1], rasterizer)
    np.testing.assert_allclose(whole, 0.003, atol=1e-6)
    np.testing.assert_allclose(half, 0.003, atol=1e-6)
    assert len(half) == pytest.approx(40 * 50 / 2, rel=0.05)
    smaller = 40 * (48 - 7)  # 50 pixels a metre; this picture ends before the plane does
    assert len(whole) == pytest.approx(40 * 50 + smaller, rel=0.05)
    far = Mesh(truth.vertices + [9, 0, 0], truth.faces)
    assert len(depth_differences(far, np.array([True, True]), truth, cameras, rasterizer)) == 0
