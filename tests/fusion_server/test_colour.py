"""Colours from pictures: right where a camera looks, none through what hides it, one exposure for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from surface_scene import blob, ring

from fusion_server.colour import LiveColours, Photo, Sampler, blend, encoded, filled, solve_gains, vertex_colours
from geometry.mesh import Mesh, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer

RASTERIZER = CpuRasterizer()


def paint(points: np.ndarray) -> np.ndarray:
    """A smooth colour for each point, linear light.  # P,3"""
    x, y, z = points.T / 0.1
    return 0.25 + 0.15 * np.stack([np.sin(2 * x), np.cos(3 * y), np.sin(2 * z + 1)], 1)


def photographs(mesh: Mesh, colour: np.ndarray, gains=None, count=6) -> list[Photo]:
    cameras = ring(count, 160)
    pictures = RASTERIZER.rasterize(mesh.vertices, mesh.faces, cameras).interpolate(mesh.faces, colour)
    gains = np.ones((len(cameras), 3)) if gains is None else gains
    return [Photo(c, encoded(p * g)) for c, p, g in zip(cameras, pictures, gains, strict=True)]


@pytest.fixture(scope="module")
def subject() -> Mesh:
    return blob(4)


def test_vertices_have_the_colour_that_was_painted_on_them(subject):
    truth = paint(subject.vertices)
    found = vertex_colours(subject.vertices, subject.faces, photographs(subject, truth), RASTERIZER)
    assert found.dtype == np.float32
    error = np.abs(found - truth).max(1)
    assert np.median(error) < 0.005 and np.percentile(error, 95) < 0.05


def test_exposures_of_cameras_are_found_up_to_a_common_one(subject):
    exposures = np.array([[1, 1, 1], [0.6, 0.6, 0.6], [1.4, 1.4, 1.2], [1, 1.1, 1], [0.8, 0.8, 0.9], [1.2, 1, 1]])
    truth = paint(subject.vertices)
    photos = photographs(subject, truth, exposures)
    samples = Sampler(subject.vertices, subject.faces, photos, RASTERIZER).at(
        subject.vertices, vertex_normals(subject.vertices, subject.faces)
    )
    gains = solve_gains(samples)
    level = gains * exposures
    np.testing.assert_allclose(level / level.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(np.log(gains).mean(0), 0, atol=1e-3)
    with_gains, without = blend(samples, gains)[0], blend(samples, np.ones((6, 3)))[0]
    seen = blend(samples, gains)[1] > 0
    common = level.mean(0)
    error = [np.median(np.abs(c[seen] / common - truth[seen])) for c in (with_gains, without)]
    assert error[0] < 0.005 and 5 * error[0] < error[1]


def test_a_camera_that_shares_nothing_keeps_its_exposure(subject):
    photos = photographs(subject, paint(subject.vertices))
    sampler = Sampler(subject.vertices, subject.faces, photos, RASTERIZER)
    samples = sampler.at(subject.vertices, vertex_normals(subject.vertices, subject.faces))
    samples.weight[2] = 0
    gains = solve_gains(samples)
    np.testing.assert_allclose(gains[2], 1, atol=1e-6)


def test_nothing_is_seen_through_what_stands_before_it(subject):
    """A red plate before a camera colours nothing behind it."""
    truth = paint(subject.vertices)
    camera = ring(6, 160)[0]
    ahead = (camera.center / np.linalg.norm(camera.center)) * 0.16
    right, down = camera.R[0] * 0.06, camera.R[1] * 0.06
    plate = np.array([ahead - right - down, ahead + right - down, ahead + right + down, ahead - right + down])
    vertices = np.vstack([subject.vertices, plate])
    count = len(subject.vertices)
    faces = np.vstack([subject.faces, np.array([[0, 2, 1], [0, 3, 2]]) + count])
    both = Mesh(vertices, faces.astype(np.int32))
    colours = np.vstack([truth, np.tile([0.9, 0.0, 0.0], (4, 1))])
    found = vertex_colours(vertices, both.faces, photographs(both, colours), RASTERIZER)[:count]
    assert np.percentile(np.abs(found - truth).max(1), 95) < 0.08
    through = Sampler(subject.vertices, subject.faces, photographs(both, colours), RASTERIZER)
    samples = through.at(subject.vertices, vertex_normals(subject.vertices, subject.faces))
    seen = samples.weight[0] > 0
    assert (samples.colour[0, seen, 0] > 0.8).mean() > 0.2, "the plate hides nothing: the scene does not test it"


def test_what_one_picture_alone_claims_counts_little(subject):
    truth = paint(subject.vertices)
    photos = photographs(subject, truth, count=12)
    spoiled = photos[1].image.copy()
    spoiled[60:100, 60:100] = 255
    photos[1] = replace(photos[1], image=spoiled)
    normals = vertex_normals(subject.vertices, subject.faces)
    samples = Sampler(subject.vertices, subject.faces, photos, RASTERIZER).at(subject.vertices, normals)
    hit = (samples.colour[1].min(1) > 0.95) & ((samples.weight > 0).sum(0) >= 3)
    assert hit.sum() > 20
    plain = (samples.colour * samples.weight[..., None]).sum(0) / np.maximum(samples.weight.sum(0), 1e-9)[:, None]
    robust = blend(samples, np.ones((12, 3)))[0]
    error = [np.median(np.abs(c[hit] - truth[hit]).max(1)) for c in (robust, plain)]
    assert error[0] < 0.2 * error[1]


def test_unseen_vertices_take_their_neighbours_colour():
    faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [5, 6, 7]], np.int32)
    colour = np.zeros((8, 3), np.float32)
    colour[0] = 0.8
    known = np.arange(8) == 0
    out = filled(colour, known, faces)
    np.testing.assert_allclose(out[:5], 0.8)
    np.testing.assert_allclose(out[5:], 0.8)  # out of reach: the mean
    assert colour[1].max() == 0 and known.sum() == 1, "what was handed in is left alone"


def test_light_becomes_srgb():
    assert encoded(np.array([0.0, 1.0, 2.0, -1.0])).tolist() == [0, 255, 255, 0]
    assert abs(int(encoded(np.array([0.2140]))[0]) - 127) <= 1


def test_live_colours_are_refreshed_now_and_then_and_at_once_on_another_topology(subject):
    dark, bright = (photographs(subject, np.full((len(subject.vertices), 3), value)) for value in (0.2, 0.4))
    live = LiveColours(RASTERIZER, period=0.4)

    def level(photos, now, faces=subject.faces) -> float:
        return float(np.median(live.of(subject.vertices, faces, photos, now)))

    assert level(dark, 0.0) == pytest.approx(0.2, abs=0.01)
    assert level(bright, 0.3) == pytest.approx(0.2, abs=0.01)
    assert level(bright, 0.5) == pytest.approx(0.3, abs=0.01)  # half of the way, so that nothing flickers
    assert level(bright, 1.0) == pytest.approx(0.35, abs=0.01)
    assert level(dark, 1.1, subject.faces[::-1]) == pytest.approx(0.2, abs=0.01)


def test_live_exposures_follow_the_cameras_that_there_are(subject):
    exposures = np.ones((6, 3))
    exposures[3] = 1.5
    photos = photographs(subject, paint(subject.vertices), exposures)
    fewer = photos[:3] + photos[4:]
    live = LiveColours(RASTERIZER, period=0.0)
    first = live.of(subject.vertices, subject.faces, photos, 0.0)
    found = live.of(subject.vertices, subject.faces, fewer, 1.0)
    wanted = 0.5 * (first + vertex_colours(subject.vertices, subject.faces, fewer, RASTERIZER))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
