"""Pictures and their truth: what is rendered agrees with the geometry that it was rendered from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from geometry.cameras import pixel_rays, project
from models.synthetic.lighting import Lamp, Lighting, ambient_visibility, sky_from, sphere_directions, with_shadows
from models.synthetic.noise import fbm, noise_gradient, value_noise
from models.synthetic.photography import Sensor, develop, draw_rig, look_at
from models.synthetic.render import Bystander, Surface, render

DARK = np.zeros((9, 3), np.float32)


def egg(size=(0.09, 0.12, 0.1), level=5) -> Surface:
    ball = trimesh.creation.icosphere(level)
    vertices = np.asarray(ball.vertices * size, np.float32)
    normals = ball.vertices / size
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    count = len(vertices)
    material = np.tile(np.float32([0, 0.8, 0, 1]), (count, 1))
    return Surface(
        vertices,
        np.asarray(ball.faces, np.int32),
        normals.astype(np.float32),
        np.full((count, 3), 0.5, np.float32),
        material,
    )


def camera(size=96):
    return look_at("front", (0.25, 0.1, 0.7), (0, 0, 0), 2.4 * size, (size, size), roll=0.2)


def test_truth_normals_are_those_of_the_depth():
    front = camera()
    (view,) = render(egg(), [front], Lighting(DARK, ()))
    rays = pixel_rays(front)
    points = rays / rays[..., 2:] * view.depth[..., None]
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    measured = np.cross(down, across)
    measured /= np.linalg.norm(measured, axis=-1, keepdims=True) + 1e-12
    inner = view.mask.copy()
    for axis in (0, 1):
        inner &= np.roll(view.mask, 1, axis) & np.roll(view.mask, -1, axis)
    inner = inner[1:-1, 1:-1]
    cosine = (measured * view.normal[1:-1, 1:-1]).sum(-1)[inner]
    assert inner.sum() > 1500
    assert np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))) < 1.5
    assert (view.normal[1:-1, 1:-1][inner][:, 2] < 0.2).all()


def test_mask_depth_and_normal_cover_the_same_pixels():
    (view,) = render(egg(), [camera()], Lighting(DARK, ()))
    assert (view.mask == (view.depth > 0)).all()
    length = np.linalg.norm(view.normal, axis=-1)
    assert np.allclose(length[view.mask], 1, atol=1e-4)
    assert (length[~view.mask] == 0).all()


def test_drawn_cameras_see_points_where_they_project():
    surface = egg(level=4)
    cameras = draw_rig(np.random.default_rng(3), surface.vertices, 4, 96)
    seen = 0
    for view, eye in zip(render(surface, cameras, Lighting(DARK, ())), cameras, strict=True):
        toward = eye.center - surface.vertices
        facing = (toward * surface.normals).sum(1) / np.linalg.norm(toward, axis=1) > 0.6
        pixels, depth = project(eye, surface.vertices[facing])
        inside = ((pixels > 1) & (pixels < 94)).all(1)
        column, row = np.rint(pixels[inside]).astype(int).T
        assert np.median(np.abs(view.depth[row, column] - depth[inside])) < 1e-3
        seen += inside.sum()
    assert seen > 500


def test_even_light_from_everywhere_is_its_own_irradiance():
    directions = sphere_directions(400)
    sky = sky_from(directions, np.tile([0.2, 0.5, 0.9], (400, 1)))
    assert np.allclose(sky[0], [0.2, 0.5, 0.9], atol=1e-4)
    assert np.abs(sky[1:]).max() < 0.01


def test_sky_matches_the_integral_of_a_soft_light():
    directions = sphere_directions(4000)
    colors = np.clip(directions @ np.array([0.3, 0.9, 0.2]), 0, None)[:, None] * np.ones(3)
    sky = sky_from(directions, colors)[:, 0]
    for n in sphere_directions(12):
        x, y, z = n
        terms = np.array([1, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y])
        integral = (np.clip(directions @ n, 0, None) * colors[:, 0]).mean() * 4
        assert terms @ sky == pytest.approx(integral, abs=0.03)


def test_a_plate_throws_its_shadow_and_light_falls_with_the_square_of_distance():
    ball = egg((0.1, 0.1, 0.1))
    side = np.float32([[-0.3, 0.3, -0.3], [0.3, 0.3, -0.3], [0.3, 0.3, 0.3], [-0.3, 0.3, 0.3]])
    count = len(ball.vertices)
    plate_faces = np.array([[0, 2, 1], [0, 3, 2]], np.int32) + count
    vertices, faces = np.vstack([ball.vertices, side]), np.vstack([ball.faces, plate_faces])
    front = look_at("front", (0, 0, 0.8), (0, 0, 0), 200, (64, 64))
    above = Lighting(DARK, (Lamp("far", (0, 1, 0.3), (1, 1, 1), 0.0),))
    (lit,) = render(ball, [front], with_shadows(above, ball.vertices, ball.faces))
    (dark,) = render(ball, [front], with_shadows(above, vertices, faces))
    assert lit.light[20, 32, 0] > 0.1
    assert dark.light[lit.mask].max() < 0.05 * lit.light.max()

    near, far = (
        render(ball, [front], Lighting(DARK, (Lamp("near", (0, 0, z), (1, 1, 1), 0.0, shadow=False, reach=1.0),)))[0]
        for z in (0.6, 1.1)
    )
    assert near.light[32, 32, 0] / far.light[32, 32, 0] == pytest.approx(4, rel=0.05)  # the ball's front is at 0.1


def test_a_hollow_sees_less_sky_than_a_hill():
    ball = trimesh.creation.icosphere(4)
    dent = 1 - 0.8 * np.exp(-((1 - ball.vertices[:, 2]) / 0.08))
    vertices = (ball.vertices * dent[:, None]).astype(np.float32)
    mesh = trimesh.Trimesh(vertices, ball.faces, process=False)
    visible = ambient_visibility(vertices, np.asarray(mesh.vertex_normals), np.asarray(ball.faces, np.int32), 40)
    assert visible[np.argmax(ball.vertices[:, 2])] < 0.5
    assert visible[np.argmin(ball.vertices[:, 2])] > 0.95
    assert visible.max() <= 1 + 1e-5


def test_noise_is_even_repeatable_and_smooth():
    points = np.random.default_rng(0).uniform(-5, 5, (20000, 3)).astype(np.float32)
    values = fbm(points, 3.0, 3, 9)
    assert abs(values.mean()) < 0.03
    assert 0.2 < values.std() < 0.6
    assert (values == fbm(points, 3.0, 3, 9)).all()
    assert (values != fbm(points, 3.0, 3, 10)).mean() > 0.99
    assert np.abs(fbm(points + 1e-4, 3.0, 3, 9) - values).max() < 0.02


def test_skipping_faces_that_point_away_changes_nothing_on_a_closed_surface():
    lighting = Lighting(sky_from(np.eye(3), np.ones((3, 3))), (Lamp("far", (1, 1, 1), (1, 1, 1), 0.1, shadow=False),))
    (whole,), (front,) = (render(egg(), [camera()], lighting, closed=closed) for closed in (False, True))
    assert whole.mask.sum() > 1500
    assert (whole.mask != front.mask).sum() <= 2
    both = whole.mask & front.mask
    assert np.abs(whole.light - front.light)[both].max() < 1e-3


def test_developing_blends_edges_clips_softly_and_adds_the_asked_noise():
    light = np.zeros((64, 64, 3), np.float32)
    light[:, :32] = 0.2
    mask = light[..., 0] > 0
    background = np.full((64, 64, 3), 0.9, np.float32)
    rng = np.random.default_rng(0)
    clean = Sensor((1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 90, 0.6)
    picture = develop(light, mask, background, clean, rng).astype(int)
    assert abs(picture[32, 5, 0] - 255 * 0.2 ** (1 / 2.2)) < 2
    assert abs(picture[32, 60, 0] - 0.9 * 255) < 2
    alike = develop(light, mask, np.full((64, 64, 3), 0.2 ** (1 / 2.2), np.float32), clean, rng).astype(int)
    assert np.ptp(alike) <= 1  # no dark seam between subject and background
    assert develop(light * 100, mask, background, clean, rng)[32, 5, 0] == 255
    noisy = develop(light, mask, background, replace(clean, noise=8.0), rng).astype(int)
    assert 1 < (noisy - picture)[:, :30].std() < 8


def engraved(height: float, cells: float, level: int = 5) -> Surface:
    plain = egg(level=level)
    finish = np.tile(np.float32([0.0, height]), (len(plain.vertices), 1))
    return replace(plain, grain=np.hstack([plain.vertices * np.float32(cells), finish]))


def test_the_gradient_of_the_noise_is_its_slope():
    step = 1e-2
    for x, y, z in np.random.default_rng(0).uniform(-4, 4, (40, 3)):
        slope = [
            (value_noise(x + a * step, y + b * step, z + c * step, 5) - value_noise(x, y, z, 5)) / step
            for a, b, c in np.eye(3)
        ]
        assert np.allclose(noise_gradient(x, y, z, 5), slope, atol=0.12)


def test_fine_relief_bends_the_truth_as_the_displaced_surface_would():
    height, cells = 0.0015, 45.0
    surface = engraved(height, cells, 6)
    noise = [value_noise(*(p * cells), 5) + value_noise(*(p * cells * 2.1), 6) / 2.1 for p in surface.vertices]
    moved = surface.vertices + height * np.float32(noise)[:, None] * surface.normals
    mesh = trimesh.Trimesh(moved, surface.faces, process=False)
    real = replace(surface, vertices=moved, normals=np.asarray(mesh.vertex_normals, np.float32), grain=None)
    dark = Lighting(DARK, ())
    flat, bent, true = (render(s, [camera(256)], dark)[0] for s in (egg(level=6), surface, real))
    both = flat.mask & true.mask
    angle = lambda a, b: np.degrees(np.arccos(np.clip((a.normal * b.normal).sum(-1)[both], -1, 1)))  # noqa: E731
    assert np.median(angle(flat, true)) > 4
    assert np.median(angle(bent, true)) < 0.25 * np.median(angle(flat, true))
    assert (flat.mask == bent.mask).all()


def test_relief_finer_than_a_pixel_fades():
    dark = Lighting(DARK, ())
    flat, coarse, fine = (render(s, [camera()], dark)[0] for s in (egg(), engraved(5e-4, 60), engraved(5e-4, 3000)))
    assert np.abs(coarse.normal - flat.normal).max() > 0.02
    assert np.abs(fine.normal - flat.normal).max() < 1e-5


def test_a_bystander_hides_the_subject_and_is_in_no_mask():
    small = replace(egg(), vertices=(egg().vertices * 0.3).astype(np.float32))
    front = camera()

    def moved(place):
        return replace(small, vertices=(small.vertices + np.float32(place)).astype(np.float32))

    lighting = Lighting(sky_from(np.eye(3), np.ones((3, 3))), ())
    (alone,) = render(egg(), [front], lighting)
    toward = front.center / np.linalg.norm(front.center)
    before = replace(egg(), beside=(Bystander(moved(0.2 * toward), always=True),))
    (hidden,) = render(before, [front], lighting)
    assert 50 < (alone.mask & ~hidden.mask).sum() < 0.9 * alone.mask.sum()
    assert not (hidden.mask & ~alone.mask).any()
    assert (hidden.light[..., 1] > 0)[alone.mask].all()
    (spared,) = render(replace(egg(), beside=(Bystander(moved(0.2 * toward)),)), [front], lighting)
    assert (spared.mask == alone.mask).all()
    aside = replace(egg(), beside=(Bystander(moved([-0.17, 0.0, -0.12])),))
    (seen,) = render(aside, [front], lighting)
    assert (seen.mask == alone.mask).all()
    assert ((seen.light[..., 1] > 0) & ~seen.mask).sum() > 30


def test_a_fine_surface_is_the_same_picture_with_softer_edges():
    lighting = Lighting(sky_from(np.eye(3), np.ones((3, 3))), ())
    (plain,) = render(egg(), [camera()], lighting)
    (fine,) = render(replace(egg(), fine=True), [camera()], lighting)
    assert (plain.mask != fine.mask).sum() < 0.03 * plain.mask.sum()
    both = plain.mask & fine.mask
    assert np.abs(plain.depth - fine.depth)[both].mean() < 5e-4
    assert np.abs(plain.light - fine.light)[both].mean() < 0.01
    assert (plain.normal * fine.normal).sum(-1)[both].mean() > 0.999
    assert np.allclose(np.linalg.norm(fine.normal, axis=-1)[fine.mask], 1, atol=1e-4)
    assert (fine.light[~fine.mask] >= 0).all()
    assert (fine.light[..., 1] > 0)[fine.mask].all()
