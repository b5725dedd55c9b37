"""What cameras see of a surface: near side, not the far one, and nothing beyond the picture."""

import numpy as np
import trimesh

from geometry.rasterize import make_rasterizer
from geometry.visibility import views_of
from protocol.calibration import Camera


def camera(z, flip):
    R = np.diag([-1.0, 1, -1]) if flip else np.eye(3)
    K = np.array([[600.0, 0, 299.5], [0, 600, 299.5], [0, 0, 1]])
    return Camera("c", 600, 600, K, np.zeros(5), R, np.array([0, 0, z]))


def test_each_side_of_a_ball_is_seen_by_the_camera_on_that_side():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.1)
    front, back = camera(0.5, False), camera(0.5, True)
    rasterizer = make_rasterizer("cpu")
    seen = views_of(ball.vertices, ball.faces, [front], rasterizer)
    z = ball.vertices[:, 2]  # the camera stands at z = -0.5 and sees the cap nearer than the tangent circle
    assert (seen[z < -0.05] == 1).all() and (seen[z > 0.03] == 0).all()
    both = views_of(ball.vertices, ball.faces, [front, back], rasterizer)
    assert (both[np.abs(z) > 0.05] == 1).all()


def test_what_lies_beyond_the_picture_is_not_seen():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    seen = views_of(ball.vertices + [1.0, 0, 0], ball.faces, [camera(0.5, False)], make_rasterizer("cpu"))
    assert (seen == 0).all()
