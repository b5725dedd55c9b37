"""The filter in time: noise goes, motion stays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from surface_scene import blob, turned

from fusion_server.surface.steady import _TREND, steadied
from geometry.align import rigid_motion

NOISE = 0.1e-3


def played(frames, noise=NOISE):
    """What the filter makes of vertices frame after frame, each with its own noise.  # N,P,3"""
    draw = np.random.default_rng(0)
    memory, out = None, []
    for vertices in frames:
        memory = steadied(memory, vertices + noise * draw.normal(size=vertices.shape))
        out.append(memory.vertices)
    return np.stack(out)


def test_a_still_head_shakes_two_fifths_as_much():
    out = played([blob(3).vertices] * 60)
    assert out[20:].std(0).mean() < 0.4 * NOISE
    assert np.abs(out[20:].mean(0) - blob(3).vertices).mean() < 0.3 * NOISE


def test_a_head_that_turns_is_not_held_back():
    frames = [turned(blob(3), 10.0 * n, (0.004 * n, 0, 0)).vertices for n in range(8)]  # a nod of 300 degrees a second
    np.testing.assert_allclose(played(frames, 0.0), frames, atol=1e-9)
    shaken = played(frames)
    assert np.linalg.norm(shaken[7] - frames[7], axis=1).mean() < 1.2 * NOISE


@pytest.mark.parametrize("degrees", [0.0, 10.0])  # a head that turns by so much a frame
@pytest.mark.parametrize("speed", [0.2e-3, 1e-3])  # 6 and 30 mm a second
def test_a_cheek_that_moves_on_lags_by_less_than_half_a_frame(speed, degrees):
    def pose(n, swell):
        return turned(blob(3, swell=swell), degrees * n, (0, 0, 0)).vertices

    swells = [speed * max(n - 10, 0) for n in range(30)]
    frames = np.stack([pose(n, swell) for n, swell in enumerate(swells)])
    direction = np.stack([pose(n, 1e-3) - pose(n, 0.0) for n in range(30)])
    cheek = np.linalg.norm(direction[0], axis=1) > 0.7e-3
    along = direction[:, cheek] / np.linalg.norm(direction[:, cheek], axis=2, keepdims=True)
    lag = ((frames[16:, cheek] - played(frames)[16:, cheek]) * along[16:]).sum(2).mean()
    assert abs(lag) < 0.5 * speed * np.linalg.norm(direction[0, cheek], axis=1).mean() / 1e-3


def test_the_face_of_a_head_that_turns_is_filtered_as_if_it_did_not():
    draw = np.random.default_rng(1)
    frames = [blob(3, swell=1e-3 * n).vertices + NOISE * draw.normal(size=blob(3).vertices.shape) for n in range(8)]
    turns = [Rotation.from_euler("yx", (40.0 * n, 10.0 * n), degrees=True) for n in range(8)]
    turning = played([turn.apply(vertices) for turn, vertices in zip(turns, frames, strict=True)], 0.0)
    for turned_one, still in zip(turning, played(frames, 0.0), strict=True):
        np.testing.assert_allclose(rigid_motion(turned_one, still)(turned_one), still, atol=1e-9)


def wobbling(size: float, still: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A head that is shaken as one piece by so many metres and the noise of its vertices: truth and what comes out."""
    draw = np.random.default_rng(2)
    head = blob(3).vertices
    frames = []
    for _ in range(still):
        turn = Rotation.from_rotvec(size / 0.1 * draw.normal(size=3))
        frames.append(turn.apply(head) + size * draw.normal(size=3))
    return head, played(frames)


def test_a_wobble_of_the_whole_head_is_noise_too():
    head, out = wobbling(NOISE)
    raw = np.hypot(np.hypot(NOISE, NOISE), NOISE)  # a vertex's own, the shift's, and about as much from the turn
    assert out[20:].std(0).mean() < 0.45 * raw
    assert np.abs(out[20:].mean(0) - head).mean() < 0.3 * raw


@pytest.mark.parametrize(("speed", "frames_late"), [(0.2e-3, 1.0), (0.5e-3, 0.3), (2e-3, 0.05)])  # 6 to 60 mm a second
def test_a_head_that_drifts_is_held_back_by_less_than_its_noise(speed, frames_late):
    frames = np.stack([blob(3).vertices + (speed * max(n - 10, 0), 0, 0) for n in range(40)])
    late = (frames[16:] - played(frames)[16:])[..., 0].mean() / speed
    assert 0 <= late < frames_late


def test_what_opens_wide_does_not_drag_the_rest_along():
    frames = [blob(3).vertices] * 5 + [blob(3, swell=20e-3).vertices]
    rest = np.linalg.norm(frames[-1] - frames[0], axis=1) < 0.1e-3
    assert rest.mean() > 0.3
    assert np.linalg.norm(played(frames, 0.0)[-1] - frames[-1], axis=1)[rest].max() < 0.2e-3


def test_a_shout_in_three_frames_arrives():
    opened = blob(3, swell=20e-3).vertices
    frames = [blob(3).vertices] * 15 + [blob(3, swell=s).vertices for s in (7e-3, 14e-3)] + [opened] * 4
    out = played(frames)
    error = np.linalg.norm(out - np.stack(frames), axis=2).max(1)
    assert error[15:18].max() < 2.5e-3
    assert error[18:].max() < 1e-3


def test_a_face_that_begins_to_move_arrives_at_once():
    """All that moves scatters too; a filter that took that for noise would hold back most of the first frames."""
    draw = np.random.default_rng(3)
    frames = [blob(3).vertices] * 15 + [blob(3).vertices + 0.8e-3 * draw.normal(size=blob(3).vertices.shape)]
    late = np.linalg.norm(played(frames)[-1] - frames[-1], axis=1)
    assert np.median(late) < 1.2 * 1.54 * NOISE  # half of normally distributed points are farther than 1.54


def test_pictures_that_repeat_do_not_make_noise_look_like_motion():
    draw = np.random.default_rng(4)
    head, memory, out = blob(3).vertices, None, []
    for n in range(60):
        noisy = memory.vertices if n in (20, 21, 22) else head + NOISE * draw.normal(size=head.shape)
        memory = steadied(memory, noisy)
        out.append(memory.vertices)
    assert np.stack(out)[30:].std(0).mean() < 0.5 * NOISE


def test_what_noise_is_like_is_remembered_over_a_jump():
    draw = np.random.default_rng(5)
    memory, head = None, blob(3).vertices
    for n in range(20):
        memory = steadied(memory, head + NOISE * draw.normal(size=head.shape), jumped=n == 10)
    jumped = steadied(memory, head, jumped=True)
    assert jumped.vertices is head
    assert 0 < jumped.scatter < 2 * NOISE
    assert jumped.scatter == memory.scatter


def test_a_turn_drifts_by_as_much_as_its_vertices_move():
    mesh = blob(3)
    turn = turned(mesh, 1.0).vertices
    drift = steadied(steadied(None, mesh.vertices), turn).drift
    reach = np.sqrt(((mesh.vertices - mesh.vertices.mean(0)) ** 2).sum(1).mean())
    assert np.linalg.norm(drift[3:]) == pytest.approx(_TREND * np.radians(1.0) * reach, rel=1e-3)


def test_another_topology_starts_anew():
    memory = steadied(None, blob(3).vertices)
    other = blob(2).vertices
    assert steadied(memory, other).vertices is other
