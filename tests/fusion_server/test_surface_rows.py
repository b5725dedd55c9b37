"""The rows one by one: fused normals, contours, pictures, the solver, the rigid step."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import sparse
from surface_scene import blob, icosphere, ring, skin, turned, views_of

from fusion_server.surface import SurfaceSettings
from fusion_server.surface.bias import Bias
from fusion_server.surface.contour import add_contours, contour_rows
from fusion_server.surface.density import edge_lengths
from fusion_server.surface.maps import MOST, stacked
from fusion_server.surface.observation import look, observe
from fusion_server.surface.photometric import photometric_positions, pictures
from fusion_server.surface.refine import Clock, Step, measured_bias, refine, sigma_normal
from fusion_server.surface.rest import Rest, _patches
from fusion_server.surface.rigid import follow_rigid, rigid_step
from fusion_server.surface.solve import Shape, System, Topology, even_layout, relaxed, unfolded, widened
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh, face_normals, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer

CAMERAS = ring(8, 128)
RASTERIZER = CpuRasterizer()
SETTINGS = SurfaceSettings()


@pytest.fixture(scope="module")
def scene():
    """A subject, its observation, and its own mesh as the surface to be moved."""
    mesh = blob(4)
    views = views_of(mesh, skin(4), CAMERAS, fine=3)
    return mesh, views, observe(views, True), Topology.of(mesh.faces, len(mesh.vertices))


def grown(mesh: Mesh, by: float) -> np.ndarray:
    return mesh.vertices + by * vertex_normals(mesh.vertices, mesh.faces)


def test_the_topology_lists_each_neighbour_once():
    sphere = icosphere(1)
    topology = Topology.of(sphere.faces, len(sphere.vertices))
    assert len(topology.edges) == 120
    for v in range(len(sphere.vertices)):
        span = slice(topology.start[v], topology.start[v + 1])
        touching = {int(i) for f in sphere.faces if v in f for i in f} - {v}
        assert set(topology.neighbour[span].tolist()) == touching
        for n, e in zip(topology.neighbour[span], topology.link[span], strict=True):
            assert set(topology.edges[e].tolist()) == {v, int(n)}
    for face, sides in zip(topology.faces, topology.face_edges, strict=True):
        assert [set(topology.edges[e].tolist()) for e in sides] == [
            {face[0], face[1]}, {face[1], face[2]}, {face[2], face[0]}
        ]  # fmt: skip
    around = topology.around
    wide = around.wide_face[around.wide_start[0] : around.wide_start[1]]
    near = {0, *topology.neighbour[: topology.start[1]].tolist()}
    assert sorted(wide.tolist()) == [f for f, face in enumerate(sphere.faces) if near & set(face.tolist())]


def test_a_shape_has_the_normals_of_its_mesh():
    mesh = blob(3)
    shape = Shape.of(mesh.vertices, Topology.of(mesh.faces, len(mesh.vertices)))
    normals, areas = face_normals(mesh.vertices, mesh.faces)
    np.testing.assert_allclose(shape.face_normals, normals, atol=1e-9)
    np.testing.assert_allclose(shape.areas, areas, atol=1e-12)
    np.testing.assert_allclose(shape.normals, vertex_normals(mesh.vertices, mesh.faces), atol=1e-9)


def test_the_solver_solves_what_the_rows_say():
    mesh = blob(2)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    shape = Shape.of(mesh.vertices, topology)
    draw = np.random.default_rng(0)
    wanted = shape.face_normals + 0.1 * draw.normal(size=shape.face_normals.shape)
    weights = draw.random(len(topology.faces))
    edge, share = np.arange(10, dtype=np.int32), draw.random((3, 10))
    system = System(topology)
    system.add_normals(shape, wanted, weights)
    system.add_edge_points(edge, share[0], share[1], share[2] * 1e-3, np.full(10, 2e4))
    system.add_points(draw.random(len(mesh.vertices)) * 1e-3, draw.random(len(mesh.vertices)) * 1e5)
    system.add_membrane(1e3, 1e3)
    i, j = topology.edges.T
    upper = sparse.coo_matrix((system.off, (i, j)), (len(mesh.vertices),) * 2)
    matrix = (upper + upper.T + sparse.diags(system.diagonal)).tocsc()
    exact = sparse.linalg.spsolve(matrix, system.right)
    np.testing.assert_allclose(system.solve(400), exact, atol=1e-9)
    np.testing.assert_allclose(system.solve(3, start=exact), exact, atol=1e-9)
    # The same least squares, row by row.
    rows, right = [], []
    for f, face in enumerate(topology.faces):
        for a, b in ((0, 1), (1, 2), (2, 0)):
            p, q = face[a], face[b]
            e = mesh.vertices[p] - mesh.vertices[q]
            row = np.zeros(len(mesh.vertices))
            row[p], row[q] = wanted[f] @ shape.normals[p], -wanted[f] @ shape.normals[q]
            scale = np.sqrt(weights[f]) / np.linalg.norm(e)
            rows.append(row * scale)
            right.append(-(wanted[f] @ e) * scale)
    normal_only = System(topology)
    normal_only.add_normals(shape, wanted, weights)
    rows = np.array(rows)
    np.testing.assert_allclose(normal_only.right, rows.T @ right, atol=1e-6)
    np.testing.assert_allclose(normal_only.diagonal, (rows**2).sum(0), rtol=1e-9)


def test_relaxing_stays_in_the_surface():
    sphere = icosphere(3)
    draw = np.random.default_rng(0)
    topology = Topology.of(sphere.faces, len(sphere.vertices))
    vertices = sphere.vertices + 0.02 * draw.normal(size=sphere.vertices.shape)
    shape = Shape.of(vertices / np.linalg.norm(vertices, axis=1, keepdims=True), topology)
    moved = relaxed(shape, topology, even_layout(topology), 0.5) - shape.vertices
    assert np.abs((moved * shape.normals).sum(1)).max() < 1e-12
    assert np.linalg.norm(moved, axis=1).max() > 0.005


def test_a_pose_at_rest_pulls_nowhere_and_another_is_pulled_back_to_it():
    mesh = blob(3)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    shape = Shape.of(mesh.vertices, topology)
    pose = Rest.of(shape, topology, np.zeros(len(mesh.vertices), bool))
    np.testing.assert_allclose(relaxed(shape, topology, pose.layout, 1.0), mesh.vertices, atol=1e-12)
    system = System(topology)
    system.add_bending(shape, pose.height, 1e4)
    np.testing.assert_allclose(system.right, 0, atol=1e-12)
    moved = Shape.of(turned(mesh, 50, (0.1, 0, 0)).vertices, topology)  # turning is no bending
    system.add_bending(moved, pose.height, 1e4)
    np.testing.assert_allclose(system.right, 0, atol=1e-9)
    dented = mesh.vertices.copy()
    dented[40] -= 2e-3 * shape.normals[40]
    dented = Shape.of(dented, topology)
    system.add_bending(dented, pose.height, 1e4)
    system.add_membrane(1e4, 1.0)
    assert system.solve(100)[40] > 0.3e-3


def test_what_nobody_sees_goes_where_the_rest_takes_it():
    mesh = blob(3)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    unseen = mesh.vertices[:, 1] < -0.05
    pose = Rest.of(Shape.of(mesh.vertices, topology), topology, unseen)
    target = turned(mesh, 20, (0.02, 0, 0.01))
    torn = target.vertices.copy()
    torn[unseen] += 0.004 * np.random.default_rng(0).normal(size=(unseen.sum(), 3))
    for _ in range(20):
        torn = pose.carried(torn, topology)
    np.testing.assert_allclose(torn, target.vertices, atol=2e-5)
    swollen = target.vertices.copy()
    swollen[~unseen] += (
        2e-3 * Shape.of(target.vertices, topology).normals[~unseen] * (mesh.vertices[~unseen, 1:2] > -0.06)
    )
    carried = pose.carried(swollen, topology)
    np.testing.assert_array_equal(carried[~unseen], swollen[~unseen])
    rim = widened(~unseen, topology) & unseen
    assert np.linalg.norm(carried - target.vertices, axis=1)[rim].mean() > 0.3e-3


def test_a_hidden_contour_is_left_out():
    """A small sphere behind a large one, its rim just where the large one's outline is."""
    large, small = icosphere(4), icosphere(4)
    eye = CAMERAS[0].center
    away = -eye / np.linalg.norm(eye)
    side = np.cross(away, [0, 1.0, 0])
    vertices = np.vstack([large.vertices * 0.1, small.vertices * 0.03 + 0.15 * away + 0.085 * side])
    faces = np.vstack([large.faces, small.faces + len(large.vertices)]).astype(np.int32)
    observation = observe(views_of(Mesh(vertices, faces), np.full(len(vertices), 120.0), CAMERAS[:1]), False)
    topology = Topology.of(faces, len(vertices))
    seen = look(vertices, topology, observation, RASTERIZER)
    rows = contour_rows(seen.shape, topology, seen.raster.depth, observation.rig, observation.outlines, 60.0, 10e-3)
    assert (topology.edges[rows.edge] < len(large.vertices)).all()


def test_a_fold_is_smoothed_away_and_the_rest_left_alone():
    sphere = icosphere(3)
    topology = Topology.of(sphere.faces, len(sphere.vertices))
    vertices = sphere.vertices.copy()
    neighbour = topology.neighbour[topology.start[100]]
    vertices[100] += 2.5 * (sphere.vertices[neighbour] - sphere.vertices[100])  # over its neighbour and beyond
    assert Shape.of(vertices, topology).folded(topology).sum() >= 1
    flat = unfolded(vertices, topology)
    assert not Shape.of(flat, topology).folded(topology).any()
    far = np.linalg.norm(sphere.vertices - sphere.vertices[100], axis=1) > 0.8
    np.testing.assert_array_equal(flat[far], vertices[far])
    assert unfolded(sphere.vertices, topology) is sphere.vertices


def test_a_ring_wider_is_a_vertex_and_its_neighbours():
    sphere = icosphere(2)
    topology = Topology.of(sphere.faces, len(sphere.vertices))
    for vertex in (0, 50, len(sphere.vertices) - 1):
        around = topology.neighbour[topology.start[vertex] : topology.start[vertex + 1]]
        found = widened(np.arange(len(sphere.vertices)) == vertex, topology)
        assert set(np.flatnonzero(found)) == {vertex, *around.tolist()}


def test_marked_vertices_fall_into_what_hangs_together():
    sphere = icosphere(3)
    topology = Topology.of(sphere.faces, len(sphere.vertices))
    caps = [np.flatnonzero(side * sphere.vertices[:, 2] > 0.9) for side in (1, -1)]
    marked = np.zeros(len(sphere.vertices), np.bool_)
    marked[np.concatenate(caps)] = True
    found = sorted(_patches(marked, topology), key=lambda patch: -sphere.vertices[patch[0], 2])
    assert len(found) == 2
    for patch, cap in zip(found, caps, strict=True):
        np.testing.assert_array_equal(patch, cap)


def test_trust_has_mean_one_over_the_masks_and_an_end():
    views = views_of(icosphere(2), skin(2), CAMERAS[:2])
    inside = np.stack([view.mask > 0.5 for view in views])
    for view in views:
        view.confidence[...] = 2.0
    inside[0, 5, 5], views[0].confidence[5, 5] = False, 1e4
    trust = stacked(views, inside)[1]
    assert trust[inside].mean() == pytest.approx(1) and trust[0, 5, 5] == MOST
    for view in views:
        view.confidence[...] = 0.0
    assert (stacked(views, inside)[1] == 1).all()


def test_a_smaller_picture_has_nothing_beyond_its_border(monkeypatch):
    views = views_of(icosphere(2), skin(2), CAMERAS[:2], fine=2)
    small = replace(views[1], image=np.full((60, 70), 200, np.uint8))
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 7, dtype))  # memory is seldom clean
    grey = pictures([views[0], small], np.zeros(3)).grey
    assert grey[1, :60, :70].min() > 190
    assert not grey[1, 60:].any() and not grey[1, :, 70:].any()


def test_what_no_smoothing_unfolds_is_not_drawn_together():
    """A ring of three sides, all askew. Smoothed as long as a face was folded, it shrank to a point."""
    around, side = np.divmod(np.arange(24), 3)
    turn, lean = 2 * np.pi * around / 8, 2 * np.pi * side / 3
    radius = 1 + 0.3 * np.cos(lean)
    ring = np.stack([radius * np.cos(turn), radius * np.sin(turn), 0.3 * np.sin(lean)], 1)
    beside, up = (around + 1) % 8 * 3 + side, around * 3 + (side + 1) % 3
    across = (around + 1) % 8 * 3 + (side + 1) % 3
    faces = np.concatenate([np.stack([np.arange(24), beside, across], 1), np.stack([np.arange(24), across, up], 1)])
    topology = Topology.of(faces.astype(np.int32), 24)
    vertices = ring + 0.3 * np.random.default_rng(0).normal(size=ring.shape)
    before = Shape.of(vertices, topology).folded(topology).sum()
    flat = unfolded(vertices, topology)
    assert Shape.of(flat, topology).folded(topology).sum() < before
    assert np.ptp(flat, axis=0).max() > 0.5


def test_a_crease_is_smoothed_until_no_face_is_near_folding():
    sphere = icosphere(3)
    topology = Topology.of(sphere.faces, len(sphere.vertices))
    vertices = sphere.vertices.copy()
    pushed = np.linalg.norm(vertices - vertices[100], axis=1) < 0.35
    vertices[pushed] += 0.3 * np.random.default_rng(0).normal(size=(pushed.sum(), 3))
    assert Shape.of(vertices, topology).folded(topology).sum() > 3
    flat = unfolded(vertices, topology, 0.4)
    assert not Shape.of(flat, topology).folded(topology, 0.4).any()


def test_folds_of_a_track_go_back_to_the_shape_that_was_there(scene):
    mesh, _, _, topology = scene
    turn = turned(mesh, 30.0, (0.02, 0, 0)).vertices
    vertices = turn.copy()
    pushed = np.linalg.norm(mesh.vertices - mesh.vertices[100], axis=1) < 15e-3
    vertices[pushed] += 10e-3 * np.random.default_rng(0).normal(size=(pushed.sum(), 3))
    assert Shape.of(vertices, topology).folded(topology).sum() > 3
    pose = Rest.of(Shape.of(mesh.vertices, topology), topology, np.zeros(len(vertices), np.bool_))
    flat = pose.unfolded(vertices, topology)
    assert not Shape.of(flat, topology).folded(topology).any()
    assert (
        np.linalg.norm(flat - turn, axis=1)[pushed].mean()
        < 0.5 * np.linalg.norm(vertices - turn, axis=1)[pushed].mean()
    )
    far = np.linalg.norm(mesh.vertices - mesh.vertices[100], axis=1) > 80e-3
    np.testing.assert_array_equal(flat[far], vertices[far])
    assert pose.unfolded(turn, topology) is turn


def test_vertices_go_where_the_surface_bends_and_somebody_sees_it():
    mesh = blob(4)
    front = tuple(camera for camera in CAMERAS if camera.center[2] > 0.3)
    observation = observe(views_of(mesh, skin(4), front), False)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    seen = look(mesh.vertices, topology, observation, RASTERIZER)
    length = edge_lengths(seen, topology)
    behind, before = mesh.vertices[:, 2] < -0.06, mesh.vertices[:, 2] > 0.06
    np.testing.assert_allclose(length[behind], 2.0)
    assert length[before].max() < 1.8
    i, j = topology.edges.T
    bend = np.linalg.norm(seen.shape.normals[i] - seen.shape.normals[j], axis=1)
    bend /= np.linalg.norm(mesh.vertices[i] - mesh.vertices[j], axis=1)
    near = before[i] & before[j]
    assert np.corrcoef(bend[near], np.log(length[i])[near])[0, 1] < -0.6


def test_fused_normals_are_those_of_the_subject(scene):
    mesh, _, observation, topology = scene
    fused = look(mesh.vertices, topology, observation, RASTERIZER).fused
    seen = fused.weight > 0.3
    assert seen.mean() > 0.9
    cosine = (fused.normal * face_normals(mesh.vertices, mesh.faces)[0]).sum(1)[seen]
    assert np.degrees(np.arccos(np.percentile(cosine, 10))) < 5
    assert fused.disagreement() < np.radians(3)


def test_votes_that_disagree_count_little_and_are_noticed(scene):
    mesh, views, observation, topology = scene
    draw = np.random.default_rng(0)
    noisy = []
    for view in views:
        tilt = view.normal + 0.3 * draw.normal(size=3).astype(np.float32)  # each view its own way
        noisy.append(replace(view, normal=tilt / np.linalg.norm(tilt, axis=-1, keepdims=True)))
    fused = look(mesh.vertices, topology, observe(noisy, False), RASTERIZER).fused
    clean = look(mesh.vertices, topology, observation, RASTERIZER).fused
    assert fused.disagreement() > 3 * clean.disagreement()
    assert fused.weight.mean() < 0.9 * clean.weight.mean()


def test_pixels_without_confidence_have_no_vote(scene):
    mesh, views, _, topology = scene
    wrong = np.zeros_like(views[0].normal)
    wrong[..., 2] = -1
    doubtful = [replace(view, normal=wrong, confidence=view.confidence * 0.001) for view in views[:4]]
    fused = look(mesh.vertices, topology, observe([*doubtful, *views[4:]], False), RASTERIZER).fused
    seen = fused.weight > 0.3
    cosine = (fused.normal * face_normals(mesh.vertices, mesh.faces)[0]).sum(1)[seen]
    assert np.degrees(np.arccos(np.percentile(cosine, 5))) < 8


@pytest.mark.parametrize("off", [-3e-3, 3e-3])
def test_contours_pull_a_surface_of_the_wrong_size_back(scene, off):
    mesh, _, observation, topology = scene
    seen = look(grown(mesh, off), topology, observation, RASTERIZER)
    rows = contour_rows(seen.shape, topology, seen.raster.depth, observation.rig, observation.outlines, 8.0, 10e-3)
    system = System(topology)
    add_contours(system, seen.shape, topology, rows)
    system.add_membrane(1.0, 1e-3)
    moved = system.solve(200)
    touched = np.unique(topology.edges[rows.edge])
    assert len(touched) > 300
    assert np.median(moved[touched]) == pytest.approx(-off, abs=0.4e-3)


def test_the_outline_of_a_coarse_mesh_is_that_of_the_smooth_surface_through_its_vertices():
    """A chord lies within a round outline: a surface that is where it belongs must not be pushed out for that."""
    fine, coarse = (icosphere(times) for times in (5, 2))
    observation = observe(views_of(Mesh(0.1 * fine.vertices, fine.faces), skin(5), CAMERAS, fine=3), False)
    topology = Topology.of(coarse.faces, len(coarse.vertices))
    seen = look(0.1 * coarse.vertices, topology, observation, RASTERIZER)
    rows = contour_rows(seen.shape, topology, seen.raster.depth, observation.rig, observation.outlines, 8.0, 10e-3)
    assert len(rows.want) > 100
    assert abs(np.median(rows.want)) < 0.2e-3  # its edges are 30 mm long, their middles a millimetre within


@pytest.mark.parametrize(("scale", "power"), [(4e-3, 30), (10e-3, 0)])
def test_a_contour_that_runs_astray_of_its_outline_has_little_or_no_say(scale, power):
    """A sphere against the outline of one that stands beside it: where the two cross, the outline is another part's.
    Far from the answer, where the residuals' scale is wide, only what is beyond 60 degrees is left out."""
    mesh = icosphere(4)
    beside = Mesh(0.1 * mesh.vertices + (0.12, 0.0, 0.0), mesh.faces)
    observation = observe(views_of(beside, skin(4), CAMERAS, fine=3), False)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    seen = look(0.1 * mesh.vertices, topology, observation, RASTERIZER)
    rows = contour_rows(seen.shape, topology, seen.raster.depth, observation.rig, observation.outlines, 60.0, scale)
    own = (rows.share > 0) & (rows.share < 1)  # of edges; vertices outside a mask have rows of their own
    i, j = topology.edges[rows.edge[own]].T
    share = rows.share[own, None]
    normal = (1 - share) * seen.shape.normals[i] + share * seen.shape.normals[j]
    sizes = np.linalg.norm(normal, axis=1) * np.linalg.norm(rows.gradient[own], axis=1)
    cosine = -np.vecdot(normal, rows.gradient[own]) / sizes
    assert cosine.min() < 0.8 and cosine.min() >= 0.5
    alone = 1 / (1 + (rows.want[own] / scale) ** 2)
    np.testing.assert_allclose(rows.weight[own], alone * cosine**power, rtol=1e-6, atol=1e-12)


def test_an_outline_leaves_out_vertices_without_a_normal(scene):
    """Where the faces around a vertex cancel out it has none, and nothing runs along it."""
    mesh, _, observation, topology = scene
    seen = look(mesh.vertices, topology, observation, RASTERIZER)
    given = (topology, seen.raster.depth, observation.rig, observation.outlines, 8.0, 4e-3)
    normals = seen.shape.normals.copy()
    normals[topology.edges[contour_rows(seen.shape, *given).edge[::2]].ravel()[::2]] = 0.0
    rows = contour_rows(replace(seen.shape, normals=normals), *given)
    assert len(rows.want) > 50
    assert np.isfinite(rows.weight).all() and np.isfinite(rows.want).all()


def test_a_surface_that_stands_beside_its_masks_is_pulled_as_a_whole():
    """However many vertices are outside: how they are numbered must not say which of them are heard."""
    mesh, count = blob(4), len(blob(4).vertices)
    small = Mesh(0.4 * mesh.vertices + (0, 0.05, 0), mesh.faces)
    observation = observe(views_of(small, skin(4), CAMERAS), False)
    beside, pulls = small.vertices - (0, 0.1, 0), []
    for vertices, faces in ((beside, mesh.faces), (beside[::-1].copy(), count - 1 - mesh.faces)):
        topology = Topology.of(faces, count)
        seen = look(vertices, topology, observation, RASTERIZER)
        rows = contour_rows(seen.shape, topology, seen.raster.depth, observation.rig, observation.outlines, 64.0, 10e-3)
        assert len(np.unique(topology.edges[rows.edge])) > 0.99 * count
        pulls.append((rows.weight * rows.want) @ rows.gradient)
    np.testing.assert_allclose(*pulls, rtol=1e-9)
    assert pulls[0][1] > 10 * np.abs(pulls[0][[0, 2]]).max()  # up, where the masks are


def test_a_contour_in_front_of_the_subject_is_not_its_outline():
    """A small sphere before a large one: its contour lies inside the mask and says nothing."""
    large, small = icosphere(4), icosphere(3)
    vertices = np.vstack([large.vertices * 0.1, small.vertices * 0.02 + (0, 0, 0.14)])
    faces = np.vstack([large.faces, small.faces + len(large.vertices)])
    mesh = Mesh(vertices, faces.astype(np.int32))
    observation = observe(views_of(mesh, np.full(len(vertices), 120.0), CAMERAS[:1]), False)
    topology = Topology.of(mesh.faces, len(vertices))
    seen = look(vertices, topology, observation, RASTERIZER)
    rows = contour_rows(seen.shape, topology, seen.raster.depth, observation.rig, observation.outlines, 60.0, 10e-3)
    assert len(rows.edge) > 100
    assert (topology.edges[rows.edge] < len(large.vertices)).all()


@pytest.mark.parametrize("off", [-0.8e-3, 0.0, 1.0e-3])
def test_pictures_say_how_far_the_surface_is_off(scene, off):
    mesh, _, observation, topology = scene
    seen = look(grown(mesh, off), topology, observation, RASTERIZER)
    found = photometric_positions(
        seen.shape, topology, observation.pictures, observation.rig, seen.raster.depth, 2e-3, 0.5e-3
    )
    height = ((found.points - seen.shape.vertices) * seen.shape.normals).sum(1)
    good = np.isfinite(found.variance)
    assert good.mean() > 0.5
    assert np.median(height[good]) == pytest.approx(-off, abs=0.1e-3)
    assert np.median(np.abs(height[good] + off)) < 0.2e-3


def test_texture_weaker_than_a_sensor_s_noise_says_nothing(scene):
    mesh, views, _, topology = scene
    faint = [replace(view, image=np.where(view.image > 100, 91, 90).astype(np.uint8)) for view in views]
    flat = observe(faint, True)
    seen = look(mesh.vertices, topology, flat, RASTERIZER)
    found = photometric_positions(seen.shape, topology, flat.pictures, flat.rig, seen.raster.depth, 2e-3, 0.5e-3)
    assert np.isinf(found.variance).all()


def test_an_iteration_brings_a_wrong_surface_nearer(scene):
    mesh, _, observation, topology = scene
    index = SurfaceIndex(mesh)
    x, y, z = mesh.vertices.T
    dented = (
        mesh.vertices
        + (2e-3 * np.sin(40 * x + 30 * y) * np.cos(35 * z))[:, None] * Shape.of(mesh.vertices, topology).normals
    )
    before = np.median(index.distances(dented))
    step = Step(gate=10.0, scale=4e-3, relax=0.1, reach=3e-3)
    after, held = refine(look(dented, topology, observation, RASTERIZER), topology, step, SETTINGS, Clock())
    first = np.median(index.distances(after))
    assert first < 0.4 * before
    again, reused = refine(look(after, topology, observation, RASTERIZER), topology, step, SETTINGS, Clock(), held)
    assert reused is held
    assert np.median(index.distances(again)) < first


def test_normals_are_trusted_by_about_the_error_that_they_have(scene):
    """Errors of views that know nothing of each other: what is claimed may be twice the truth and not less than it."""
    mesh, views, _, topology = scene
    draw = np.random.default_rng(4)

    def tilted(normal: np.ndarray) -> np.ndarray:
        smooth = [cv2.GaussianBlur(draw.normal(size=normal.shape[:2]), (0, 0), 7) for _ in range(3)]
        normal = normal + np.radians(5) * np.stack([each / each.std() for each in smooth], -1)
        return (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)

    noisy = [replace(view, normal=tilted(view.normal)) for view in views]
    seen = look(mesh.vertices, topology, observe(noisy, False), RASTERIZER)
    sure = seen.fused.weight > 0.3
    off = np.linalg.norm(seen.fused.normal - seen.shape.face_normals, axis=1)[sure]
    actual = np.sqrt((off**2).mean() / 2)  # of each of the two ways that a normal can tilt
    assert actual > np.radians(2)
    assert 1 <= sigma_normal(seen.fused, SETTINGS) / actual < 2


def test_normals_that_all_views_have_wrong_alike_yield_to_pictures(scene):
    """A network's own idea of a shape: every view sees rings that are not there, and they agree."""
    mesh, _, _, topology = scene
    ringed = Mesh(mesh.vertices * (1 - 0.1 * np.cos(70 * mesh.vertices[:, 1:2])), mesh.faces)
    views = [
        replace(view, normal=false.normal)
        for view, false in zip(scene[1], views_of(ringed, skin(4), CAMERAS, fine=3), strict=True)
    ]
    step, index = Step(gate=10.0, scale=4e-3, relax=0.1, reach=3e-3), SurfaceIndex(mesh)
    errors = []
    for photometric in (True, False):
        observation, vertices = observe(views, photometric), mesh.vertices
        for _ in range(6):
            seen = look(vertices, topology, observation, RASTERIZER)
            vertices, _ = refine(seen, topology, step, SETTINGS, Clock())
        errors.append(np.median(index.distances(vertices)))
    assert errors[0] < 0.2e-3
    assert errors[1] > 2 * errors[0]


def test_the_rigid_step_of_a_surface_in_place_is_nearly_none(scene):
    mesh, _, observation, topology = scene
    step = rigid_step(look(mesh.vertices, topology, observation, RASTERIZER), topology, SETTINGS)
    assert np.linalg.norm(step[:3]) < 3e-3
    assert np.linalg.norm(step[3:]) < 2e-4


@pytest.mark.parametrize(
    ("degrees", "shift"), [(12.0, (0.012, -0.006, 0.008)), (0.0, (-0.025, 0.0, 0.0)), (-20.0, (0, 0, 0))]
)
def test_the_rigid_motion_of_a_head_is_found(scene, degrees, shift):
    mesh, _, _, topology = scene
    target = turned(mesh, degrees, shift)
    coarse = observe(views_of(target, skin(4), CAMERAS), False).coarser()
    moved, _ = follow_rigid(mesh.vertices, topology, coarse, RASTERIZER, SETTINGS, np.zeros(6), rounds=4)
    off = np.linalg.norm(moved - target.vertices, axis=1)
    assert np.linalg.norm(mesh.vertices - target.vertices, axis=1).mean() > 8e-3
    assert off.mean() < 0.7e-3


def test_what_a_surface_at_rest_wants_is_no_motion(scene):
    """Normals that are all tilted the same way would turn the surface a little every frame."""
    mesh, views, _, topology = scene
    c, s = np.cos(np.radians(4)), np.sin(np.radians(4))
    tilt = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    tilted = [
        replace(view, normal=(view.normal @ (view.camera.R @ tilt @ view.camera.R.T).T).astype(np.float32))
        for view in views
    ]
    observation = observe(tilted, False)
    rest = rigid_step(look(mesh.vertices, topology, observation, RASTERIZER), topology, SETTINGS)
    creeping, _ = follow_rigid(mesh.vertices, topology, observation, RASTERIZER, SETTINGS, np.zeros(6))
    still, _ = follow_rigid(mesh.vertices, topology, observation, RASTERIZER, SETTINGS, rest)
    assert np.abs(creeping - mesh.vertices).max() > 1e-4
    assert np.abs(still - mesh.vertices).max() < 1e-9


def test_a_surface_follows_what_changes_and_not_what_it_was_told_at_rest(scene):
    """Normals tilted, one mask too wide: told to be this subject's errors, they move nothing; a dent still shows."""
    mesh, views, _, topology = scene
    c, s = np.cos(np.radians(8)), np.sin(np.radians(8))
    tilt = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])

    def spoiled(view):
        normal = (view.normal @ (view.camera.R @ tilt @ view.camera.R.T).T).astype(np.float32)
        wide = cv2.dilate(view.mask, np.ones((5, 5))) if view.camera.name == "cam2" else view.mask
        return replace(view, normal=normal, mask=wide)

    step = Step(gate=10.0, scale=4e-3, relax=0.0, reach=3e-3)
    observation = observe([spoiled(view) for view in views], True)
    seen = look(mesh.vertices, topology, observation, RASTERIZER)
    rest = Rest.of(seen.shape, topology, np.zeros(len(mesh.vertices), bool))
    bias = measured_bias(seen, topology, step, SETTINGS)
    without, _ = refine(seen, topology, step, SETTINGS, Clock(), rest=rest)
    still, _ = refine(seen, topology, step, SETTINGS, Clock(), rest=rest, bias=bias)
    assert np.percentile(np.abs(without - mesh.vertices), 95) > 0.05e-3
    assert np.percentile(np.abs(still - mesh.vertices), 99) < 0.002e-3

    fewer = observe([spoiled(view) for view in views if view.camera.name != "cam2"], True)
    seen = look(mesh.vertices, topology, fewer, RASTERIZER)  # a camera is gone: its outline asks for nothing
    less, _ = refine(seen, topology, step, SETTINGS, Clock(), rest=rest, bias=bias)
    assert np.percentile(np.abs(less - mesh.vertices), 90) < 0.05e-3

    dented = mesh.vertices - 0.4e-3 * vertex_normals(mesh.vertices, mesh.faces)
    seen = look(dented, topology, observation, RASTERIZER)
    back, _ = refine(seen, topology, step, SETTINGS, Clock(), rest=rest, bias=bias)
    off = [np.median(np.linalg.norm(vertices - mesh.vertices, axis=1)) for vertices in (dented, back)]
    assert off[1] < 0.5 * off[0]


def test_errors_that_stay_are_told_from_noise(scene):
    mesh, views, _, topology = scene
    draw = np.random.default_rng(8)

    def noisy(view):
        return replace(view, normal=(view.normal + draw.normal(0, 0.2, view.normal.shape)).astype(np.float32))

    def seen_in(views):
        return look(mesh.vertices, topology, observe(views, False), RASTERIZER)

    noise = [noisy(view) for view in views]
    first = seen_in(noise)
    bias = Bias.of_normals(first, topology)
    stays = fades = bias
    for _ in range(6):
        stays = stays.seen_again(first.fused, first.shape, topology)
        other = seen_in([noisy(view) for view in views])
        fades = fades.seen_again(other.fused, other.shape, topology)
    assert stays.share == pytest.approx(1.0)
    assert fades.share < 0.4
    off = first.fused.normal - bias.off_normals(first.fused, first.shape, topology).normal
    assert np.abs(off).max() > 0.05
    untilted = bias.off_normals(first.fused, first.shape, topology).normal
    np.testing.assert_allclose(
        untilted[first.fused.weight > 0], first.shape.face_normals[first.fused.weight > 0], atol=1e-6
    )


def test_a_vertex_whose_faces_have_no_area_has_a_pose_too():
    mesh = icosphere(2)
    topology = Topology.of(mesh.faces, len(mesh.vertices))
    vertices = mesh.vertices.copy()
    around = np.append(topology.neighbour[topology.start[5] : topology.start[6]], 5)
    vertices[around] = vertices[5]
    rest = Rest.of(Shape.of(vertices, topology), topology, np.zeros(len(vertices), bool))
    assert np.isfinite(rest.height).all() and np.isfinite(rest.layout).all()
