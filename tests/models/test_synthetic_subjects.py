"""Heads, hats and solids: shapes that are closed, people that are symmetric, expressions that move what they name."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from geometry.align import rigid_motion
from geometry.mesh import edges, face_normals
from models.synthetic.bake import BakeSettings, render_frame
from models.synthetic.heads import draw_expression
from models.synthetic.performance import PERFORMANCES, perform
from models.synthetic.scenes import turn
from models.synthetic.shapes import hat, plinth, random_solid, sharpened
from models.synthetic.subject import Subject
from models.synthetic.topology import band_limited, capture_mesh, smooth_normals, split_edges, topology


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.draw(np.random.default_rng(5))


def test_a_person_is_a_head_at_the_origin_facing_z(subject):
    top = topology()
    skin = subject.neutral[: len(top.basis.part)][top.basis.part == 0]
    assert 0.09 < skin[:, 1].max() < 0.14
    assert np.abs(skin[:, 0].mean()) < 0.005
    nose = skin[np.argmax(skin[:, 2] * (np.abs(skin[:, 0]) < 0.01) * (np.abs(skin[:, 1]) < 0.08))]
    assert nose[2] > 0.07
    eyes = top.sites[0].eyes
    assert eyes[0, 0] > 0.02
    assert eyes[1, 0] == pytest.approx(-eyes[0, 0], abs=1e-3)


def test_the_same_draw_is_the_same_person_and_another_is_not():
    one, again, other = (Subject.draw(np.random.default_rng(seed)).neutral for seed in (1, 1, 2))
    assert (one == again).all()
    assert np.abs(one - other).max() > 0.003


def test_left_and_right_of_a_face_are_tied():
    top = topology()
    points = top.sites[0].points
    distance, mirror = cKDTree(points).query(points * [-1, 1, 1])
    twins = (distance < 1e-4) & top.sites[0].skin
    assert twins.sum() > 2000
    uneven = []
    for seed in range(6):
        shape = Subject.draw(np.random.default_rng(seed)).neutral
        uneven.append(np.abs(shape[twins] * [-1, 1, 1] - shape[mirror[twins]]).mean())
    assert max(uneven) < 0.004
    assert np.mean(uneven) > 1e-4  # but nobody is exactly symmetric


def test_expressions_move_their_own_side(subject):
    top = topology()
    moved = np.linalg.norm(subject.pose({"eyeBlinkLeft": 1.0}) - subject.neutral, axis=1)
    sites = top.sites[0]
    left, right = ((np.linalg.norm(sites.points - eye, axis=1) < 0.027) & sites.skin for eye in sites.eyes)
    assert moved[left].max() > 0.003
    assert moved[right].max() < 0.001


def test_drawn_expressions_are_even_and_both_eyes_look_the_same_way():
    names = set(topology().basis.action_labels)
    rng = np.random.default_rng(2)
    drawn = [draw_expression(rng) for _ in range(200)]
    blinks, used = 0, set()
    for actions in drawn:
        assert set(actions) <= names and all(0 <= value <= 1 for value in actions.values())
        assert actions["eyeLookOutLeft"] == actions["eyeLookInRight"]
        assert min(actions["eyeLookOutLeft"], actions["eyeLookInLeft"]) == 0
        assert min(actions["eyeLookUpLeft"], actions["eyeLookDownLeft"]) == 0
        blinks += actions.get("eyeBlinkLeft") == actions.get("eyeBlinkRight") == 1.0
        moved = {name for name, value in actions.items() if "eyeLook" not in name and value > 0.02}
        used |= moved
        for name in moved:
            if name.endswith("Left"):
                other = actions[name.removesuffix("Left") + "Right"]
                assert 0.7 < actions[name] / other < 1.4, name
    assert 10 < blinks < 80 and len(used) > 15


def test_the_head_turns_and_the_chest_stays(subject):
    top = topology()
    moved = np.linalg.norm(subject.pose(None, turn(np.radians(20), 0, 0)) - subject.neutral, axis=1)
    assert moved[top.sites[0].points[:, 1] < -0.26].max() < 1e-6
    assert moved[top.sites[0].points[:, 1] > 0].max() > 0.02


@pytest.mark.parametrize("name", PERFORMANCES)
def test_what_a_performance_does_is_known_to_the_face(name):
    actions = {action for phase in np.linspace(0, 1, 40) for action in PERFORMANCES[name](phase, 1.5).actions}
    assert actions <= set(topology().basis.action_labels)


def test_a_nod_turns_the_head_by_ten_degrees_from_frame_to_frame(subject):
    before, after = (PERFORMANCES["nod"](n / 36, 1.2) for n in (12, 13))
    skull = topology().sites[0].points[:, 1] > 0.03
    shapes = [subject.pose(each.actions, turn(*each.angles), each.shift)[: len(skull)] for each in (before, after)]
    R = rigid_motion(*(shape[skull] for shape in shapes)).turn
    assert np.degrees(np.arccos((np.trace(R) - 1) / 2)) == pytest.approx(10, abs=0.5)


def test_the_performance_closes_its_loop_and_never_jumps():
    names = topology().basis.action_labels
    phases = np.linspace(0, 1, 301)
    moments = [perform(phase, 10.0) for phase in phases]
    rows = np.array([[moment.actions.get(name, 0.0) for name in names] for moment in moments])
    angles = np.degrees([moment.angles for moment in moments])
    assert set(moments[0].actions) <= set(names)
    assert np.allclose(rows[0], rows[-1], atol=1e-9)
    assert np.allclose(angles[0], angles[-1], atol=1e-9)
    assert np.allclose(moments[0].shift, moments[-1].shift, atol=1e-9)
    assert np.abs(np.diff(rows, axis=0)).max() < 0.55  # a blink closes in three frames
    assert np.abs(np.diff(angles, axis=0)).max() < 2.0
    assert 15 < np.abs(angles[:, 0]).max() <= 21
    blinks = rows[:, names.index("eyeBlinkLeft")]
    assert ((blinks[1:] > 0.5) & (blinks[:-1] <= 0.5)).sum() >= 4
    assert rows[:, names.index("jawOpen")].max() > 0.4


@pytest.mark.parametrize(
    "make", [random_solid, lambda rng: hat(rng, (0.08, 0.1)), plinth], ids=["solid", "hat", "plinth"]
)
def test_shapes_are_closed_and_turned_outward(make):
    for seed in range(6):
        vertices, faces = make(np.random.default_rng(seed))
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        assert mesh.is_watertight
        assert mesh.volume > 1e-5
        assert 0.03 < np.ptp(vertices, axis=0).max() < 0.8


def test_sharpened_keeps_the_corners_of_a_box_crisp():
    box = trimesh.creation.box((1, 1, 1))
    vertices, faces, normals = sharpened(np.asarray(box.vertices, np.float32), np.asarray(box.faces, np.int32))
    assert np.allclose(np.abs(normals).max(1), 1, atol=1e-5)
    assert np.allclose(vertices[faces], box.vertices[box.faces])


def test_splitting_some_edges_leaves_no_cracks_and_the_same_surface():
    ball = trimesh.creation.icosphere(2)
    faces = np.asarray(ball.faces, np.int32)
    every = edges(faces)
    some = every[np.random.default_rng(0).random(len(every)) < 0.4]
    matrix, finer = split_edges(faces, len(ball.vertices), some, smooth=False)
    split = trimesh.Trimesh(matrix @ ball.vertices, finer, process=False)
    assert split.is_watertight
    assert split.area == pytest.approx(ball.area, rel=1e-6)
    assert split.volume == pytest.approx(ball.volume, rel=1e-6)
    assert len(finer) == len(faces) + 2 * len(some)


def test_the_capture_mesh_is_one_surface_sampled_twice(subject):
    level = capture_mesh()
    vertices = level.shape @ subject.neutral
    fine = level.paint @ vertices
    assert (fine[: len(vertices)] == vertices).all()
    coarse, finer = (
        trimesh.Trimesh(v, f, process=False) for v, f in ((vertices, level.faces), (fine, level.fine_faces))
    )
    assert finer.area == pytest.approx(coarse.area, rel=1e-5)


def test_band_limiting_keeps_long_waves_and_drops_what_alternates():
    ball = trimesh.creation.icosphere(5)  # 10,242 vertices
    points, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    level = np.full(len(points), 3.0)
    np.testing.assert_allclose(band_limited(level, faces), level, rtol=1e-9)
    wave = np.sin(4 * points[:, 1])  # some 45 edges long
    np.testing.assert_allclose(band_limited(wave, faces), wave, atol=0.03)
    noise = np.random.default_rng(0).normal(size=len(points))
    ends = np.concatenate([edges(faces), edges(faces)[:, ::-1]])
    around = np.bincount(ends[:, 0], noise[ends[:, 1]]) / np.bincount(ends[:, 0])
    alternates = noise - around  # no long waves in it
    assert band_limited(alternates, faces).std() < 0.25 * alternates.std()


def test_the_demo_s_subject_is_shaded_by_its_own_surface():
    """Normals that turn away from the faces below them would be a truth that contradicts itself: hair once did."""
    mesh, _ = render_frame(BakeSettings(cameras=1, size=32), 0)
    normal, area = face_normals(mesh.vertices, mesh.faces)
    corners = smooth_normals(mesh.vertices, mesh.faces)[mesh.faces].mean(1)
    cosine = (normal * corners).sum(1) / np.linalg.norm(corners, axis=1)
    away = np.degrees(np.arccos(cosine.clip(-1, 1)))
    area = area * (mesh.vertices[mesh.faces].mean(1)[:, 1] > -0.2)  # the bust's flat bottom has a sharp edge
    assert np.average(away, weights=area) < 4
    assert np.average(away > 8, weights=area) < 0.08
