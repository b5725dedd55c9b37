"""Hair grows out of the head, in closed locks, the same for the same draw."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from models.synthetic.hair import STYLES, Body, Cut, grow, grow_beard
from models.synthetic.render import Surface
from models.synthetic.skin import beard_field
from models.synthetic.subject import Subject
from models.synthetic.topology import refine, smooth_normals, topology


@pytest.fixture(scope="module")
def ball() -> Surface:
    mesh = trimesh.creation.icosphere(5, radius=0.1)
    vertices = np.asarray(mesh.vertices, np.float32)
    count = len(vertices)
    return Surface(
        vertices,
        np.asarray(mesh.faces, np.int32),
        vertices / 0.1,
        np.full((count, 3), 0.5, np.float32),
        np.ones((count, 4), np.float32),
    )


def field(ball: Surface) -> np.ndarray:
    return (ball.vertices[:, 1] > 0.03).astype(np.float32)


@pytest.mark.parametrize("style", STYLES)
def test_locks_stay_outside_the_head_and_face_outward(ball, style):
    rng = np.random.default_rng(4)
    hair = grow(rng, Cut.draw(rng, style), ball, field(ball), (0.1, 0.05, 0.02), 0.3)
    far = np.linalg.norm(hair.vertices, axis=1)
    assert far.min() > 0.08
    assert (far > 0.1).mean() > 0.6
    assert np.isfinite(hair.normals).all()
    assert np.allclose(np.linalg.norm(hair.normals, axis=1), 1, atol=1e-3)
    assert trimesh.Trimesh(hair.vertices, hair.faces, process=False).volume > 0
    assert hair.grain.shape == (len(hair.vertices), 5)


def test_a_beard_hangs_from_the_whole_jaw_and_is_not_pushed_up_from_it():
    subject = Subject.draw(np.random.default_rng(3))
    top = topology()
    vertices, faces, sites = refine(subject.pose(), 1), top.faces[1], top.sites[1]
    blank = np.ones((len(vertices), 4), np.float32)
    head = Surface(vertices, faces, smooth_normals(vertices, faces), blank[:, :3], blank)
    beard = grow_beard(np.random.default_rng(5), head, beard_field(sites), (0.1, 0.1, 0.1), 0.3)
    chin = vertices[(beard_field(sites) > 0.9) & (sites.points[:, 2] > 0.06)][:, 1]
    heights = beard.vertices[beard.vertices[:, 2] > 0.05, 1]
    assert (heights < np.median(chin)).mean() > 0.35
    assert (heights > chin.max() + 0.01).mean() < 0.05


def test_the_same_draw_is_the_same_hair_and_a_bald_head_has_none(ball):
    def made(seed):
        rng = np.random.default_rng(seed)
        return grow(rng, Cut.draw(rng), ball, field(ball), (0.1, 0.05, 0.02), 0.3)

    assert (made(1).vertices == made(1).vertices).all()
    assert made(1).vertices.shape != made(2).vertices.shape or (made(1).vertices != made(2).vertices).any()
    rng = np.random.default_rng(0)
    assert grow(rng, Cut.draw(rng), ball, 0 * field(ball), (0.1, 0.05, 0.02), 0.3) is None


def test_a_beard_hangs_below_where_it_grows(ball):
    chin = ((ball.vertices[:, 1] < -0.03) & (ball.vertices[:, 2] > 0.03)).astype(np.float32)
    beard = grow_beard(np.random.default_rng(2), ball, chin, (0.1, 0.1, 0.1), 1.0)
    assert beard.vertices[:, 1].min() < -0.11
    assert beard.vertices[:, 2].mean() > 0.03


def test_a_body_pushes_out_of_the_head_and_up_from_the_shoulders(ball):
    x, z = np.meshgrid(np.linspace(-0.2, 0.2, 60), np.linspace(-0.2, 0.2, 60))
    shoulders = np.stack([x.ravel(), np.full(x.size, -0.16), z.ravel()], 1).astype(np.float32)
    body = Body.of(np.vstack([ball.vertices, shoulders]))
    layer = np.full((3, 1), 0.002, np.float32)
    points = np.float32([[0, 0.05, 0.0], [0.15, -0.17, 0.0], [0.2, 0.2, 0.0]])
    moved, out = body.outside(points.copy(), layer)
    assert np.linalg.norm(moved[0]) > 0.09
    assert moved[1, 1] == pytest.approx(-0.158, abs=1e-4)
    assert out[1, 1] > 0.3
    assert (moved[2] == points[2]).all()
