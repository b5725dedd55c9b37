"""Windows: where the network looks, and that cameras and pictures of a window agree."""

import numpy as np
import pytest

from fusion_server.framing import MARGIN, Window, _around_box, around_mask, around_points, follow, whole
from geometry.cameras import project
from protocol.calibration import Camera


@pytest.fixture
def camera():
    K = np.array([[900.0, 0, 319.5], [0, 900.0, 239.5], [0, 0, 1]])
    return Camera("front", 640, 480, K, np.zeros(5), np.eye(3), np.array([0, 0, 1.0]))


def dot(camera, x, y):
    """A picture with a soft bright dot at pixel (x, y)."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    return np.repeat(value[:, :, None], 3, axis=2).astype(np.uint8)


def center_of_mass(image):
    weights = image[..., 0].astype(float) if image.ndim == 3 else image.astype(float)
    columns, rows = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


@pytest.mark.parametrize("window", [Window(200, 100, 300), Window(-80, -160, 800), Window(280.5, 210.25, 97)])
def test_a_window_s_camera_sees_what_its_picture_shows(camera, window):
    point = np.array([[0.01, 0.02, 0.0]])
    x, y = project(camera, point)[0][0]
    picture = window.picture(dot(camera, x, y), 256)
    expected = project(window.camera(camera, 256), point)[0][0]
    assert np.abs(center_of_mass(picture) - expected).max() < 0.15


def test_a_map_goes_back_to_where_it_came_from(camera):
    window = Window(200, 100, 300)
    (x, y) = project(camera, np.array([[0.01, 0.02, 0.0]]))[0][0]
    back = window.onto_picture(window.picture(dot(camera, x, y), 256)[..., 0], camera)
    assert back.shape == (480, 640)
    assert np.abs(center_of_mass(back) - (x, y)).max() < 0.1


def test_the_whole_window_holds_the_picture(camera):
    window = whole(camera)
    assert window == Window(0, -80, 640)


def test_the_largest_thing_of_a_mask_is_framed_with_a_margin(camera):
    mask = np.zeros((256, 256), np.float32)
    mask[100:140, 110:150] = 1.0
    mask[5:9, 5:9] = 1.0  # an island
    window = around_mask(mask, whole(camera), camera)
    scale = 640 / 256
    assert window.side == pytest.approx(40 * scale * (1 + 2 * MARGIN))
    assert window.x0 + window.side / 2 == pytest.approx(130 * scale)
    assert window.y0 + window.side / 2 == pytest.approx(-80 + 120 * scale)


@pytest.mark.parametrize("mask", [np.zeros((64, 64)), np.eye(64) * (np.arange(64) == 3)])
def test_without_a_subject_the_window_stays(camera, mask):
    assert around_mask(mask.astype(np.float32), whole(camera), camera) == whole(camera)


def test_a_window_holds_still_while_the_head_moves_a_little_and_follows_when_it_must(camera):
    head = np.array([[x, y, z] for x in (-0.1, 0.1) for y in (-0.12, 0.12) for z in (-0.1, 0.1)])
    window = around_points(head, camera)
    assert follow(window, head + [0.004, 0, 0], camera) is window
    moved = follow(window, head + [0.06, 0, 0], camera)
    assert moved is not window
    assert follow(moved, head + [0.06, 0, 0], camera) is moved
    far = follow(window, head * 0.5, camera)
    assert far.side < window.side


def test_a_head_cut_by_the_picture_s_border_does_not_make_the_window_hunt(camera):
    head = np.array([[x, y, 0.0] for x in (-0.5, 0.1) for y in (-0.12, 0.12)])
    window = around_points(head, camera)
    assert window.x0 >= 0 and window.x0 + window.side <= camera.width
    assert follow(window, head, camera) is window


def test_what_lies_beyond_the_picture_is_known_as_such(camera):
    assert Window(10, 10, 400).inside(camera, 64) is None
    inside = whole(camera).inside(camera, 256)  # 640 x 480 in a square of 640
    assert inside[:, 0].sum() == 192 and inside[32:224].all() and not inside[:32].any() and not inside[224:].any()


def test_a_window_that_nearly_holds_the_picture_s_border_goes_there(camera):
    low, high = np.array([200.0, 30.0]), np.array([440.0, camera.height - 50.0])
    near = _around_box(low, high, camera)
    assert near.y0 == 0 and near.y0 + near.side == pytest.approx(camera.height)
    free = _around_box(low, np.array([440.0, camera.height - 110.0]), camera)
    assert free.y0 + free.side < camera.height
