"""Subjects for surface tests, textured and the size of a head, rendered into a ring of pinhole cameras; and what tests
of two implementations share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion_server.surface import View, keyframe
from geometry.mesh import Mesh, vertex_normals
from geometry.rasterize.cpu import CpuRasterizer
from protocol.calibration import Camera

_LIGHT = np.array([0.3, 0.8, 0.5]) / np.linalg.norm([0.3, 0.8, 0.5])


def icosphere(times: int) -> Mesh:
    """A unit sphere of 20 * 4**times faces."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    vertices = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners], float)
    near = np.linalg.norm(vertices[:, None] - vertices, axis=-1) < 2.1
    triples = [
        (i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]
    ]
    faces = np.array([t if np.linalg.det(vertices[list(t)]) > 0 else (t[0], t[2], t[1]) for t in triples], np.int32)
    vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    for _ in range(times):
        sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2), axis=1)
        pairs, middle = np.unique(sides, axis=0, return_inverse=True)
        ab, bc, ca = middle.reshape(-1, 3).T + len(vertices)
        a, b, c = faces.T
        vertices = np.vstack([vertices, vertices[pairs].mean(1)])
        vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return Mesh(vertices, faces.astype(np.int32))


def blob(times: int = 5, swell: float = 0.0) -> Mesh:
    """A bumpy ellipsoid 0.16 m wide and 0.22 m tall; ``swell`` (metres) grows a bump as an expression would."""
    sphere = icosphere(times)
    x, y, z = sphere.vertices.T
    radius = 1 + 0.05 * np.sin(5 * x + 1) * np.cos(4 * y) + 0.04 * np.sin(7 * z + 2 * y)
    cheek = np.exp(-((x - 0.5) ** 2 + (y + 0.3) ** 2 + (z - 0.8) ** 2) / 0.15)
    vertices = sphere.vertices * radius[:, None] * (0.08, 0.11, 0.09)
    return Mesh(vertices + swell * cheek[:, None] * sphere.vertices, sphere.faces)


def hollowed(depth: float, wide: float) -> tuple[Mesh, np.ndarray]:
    """``blob(5)`` with a steep hollow of that depth (metres), as the socket of an eye, which every outline hides; and
    which of its vertices are the hollow's floor. wide: of its radius to the blob's.  # P bool"""
    mesh = blob(5)
    out = icosphere(5).vertices
    away = np.linalg.norm(out - (1.0, 0.0, 0.0), axis=1) / wide
    return Mesh(mesh.vertices - depth * np.exp(-(away**8))[:, None] * out, mesh.faces), away < 0.7


def skin(times: int = 5, seed: int = 3) -> np.ndarray:
    """A grey value for each vertex of ``blob(times)``: blotches a few millimetres wide.  # P"""
    points = blob(times).vertices
    draw = np.random.default_rng(seed)
    wave = draw.normal(size=(60, 3)) * 450  # radians a metre: lengths of about a centimetre
    return 130 + 12 * np.sin(points @ wave.T + draw.uniform(0, 2 * np.pi, 60)).sum(1) / np.sqrt(30)


def egg(degrees: float) -> Mesh:
    """A round head, the same all around, that turns on a neck that stays: no normal and no outline ever tells."""
    sphere = icosphere(5)
    x, y, z = (sphere.vertices * (0.09, 0.11, 0.09)).T
    turn = np.radians(degrees) / (1 + np.exp(-(y + 0.03) / 0.012))  # about nothing at the chin's end, all at the top
    c, s = np.cos(turn), np.sin(turn)
    return Mesh(np.stack([c * x + s * z, y, c * z - s * x], 1), sphere.faces)


def marks() -> np.ndarray:
    """Grey values of the egg's vertices: marks of one centimetre to ten, the larger the stronger.  # P"""
    draw = np.random.default_rng(3)
    length = np.geomspace(0.012, 0.1, 80)
    way = draw.normal(size=(80, 3))
    wave = 2 * np.pi * way / np.linalg.norm(way, axis=1, keepdims=True) / length[:, None]
    level = np.sin(egg(0).vertices @ wave.T + draw.uniform(0, 2 * np.pi, 80)) @ np.sqrt(length)
    return 130 + 15 * level / level.std()


def ring(count: int = 8, size: int = 128, distance: float = 0.9, field: float = 0.34) -> tuple[Camera, ...]:
    """Cameras around the origin, alternately a little above and below, that see ``field`` metres there."""
    return tuple(
        camera_at(
            f"cam{n}",
            distance * np.array([np.sin(a), 0.35 * (-1) ** n, np.cos(a)]),
            size,
            size * distance * 1.06 / field,
        )
        for n, a in enumerate(np.arange(count) * 2 * np.pi / count)
    )


def camera_at(name: str, eye: np.ndarray, size: int, focal: float) -> Camera:
    """A camera that looks at the origin."""
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1]])
    return Camera(name, size, size, K, np.zeros(5), R, -R @ eye)


def turned(mesh: Mesh, degrees: float, shift: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """The mesh turned about the vertical axis and shifted (metres)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Mesh(mesh.vertices @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + shift, mesh.faces)


def views_of(mesh: Mesh, grey: np.ndarray, cameras: tuple[Camera, ...], fine: int = 2) -> list[View]:
    """Truth maps of a mesh, and pictures ``fine`` times finer with its grey values (P,) under a fixed light."""
    sharp = [resized(camera, fine) for camera in cameras]
    raster = CpuRasterizer().rasterize(mesh.vertices, mesh.faces, sharp)
    normals = vertex_normals(mesh.vertices, mesh.faces)
    values = np.hstack([normals, grey[:, None]])
    maps = raster.interpolate(mesh.faces, values)  # V,h,w,4
    views = []
    for camera, picture_camera, map_, face in zip(cameras, sharp, maps, raster.face, strict=True):
        height, width = camera.height, camera.width
        shade = np.clip(map_[..., :3] @ _LIGHT, 0, 1) * 0.5 + 0.5
        picture = np.where(face >= 0, map_[..., 3] * shade, 40).astype(np.uint8)
        blocks = (height, fine, width, fine)
        mask = (face >= 0).reshape(blocks).mean((1, 3)).astype(np.float32)
        normal = (map_[..., :3] @ camera.R.T.astype(np.float32)).reshape(*blocks, 3).mean((1, 3))
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        ones = np.ones((height, width), np.float32)
        views.append(View(camera, normal.astype(np.float32), ones, mask, picture, picture_camera))
    return views


def wrong_alike(views: list[View]) -> list[View]:
    """With normals that are off by a dozen degrees which change within centimetres, in all views alike, as a network's
    are: no view contradicts another."""
    out = []
    for view in views:
        world = view.normal @ view.camera.R
        world += 0.3 * np.sin(8 * world[..., [1, 2, 0]]) * (view.mask > 0)[..., None]
        wrong = world / np.maximum(np.linalg.norm(world, axis=-1, keepdims=True), 1e-6) @ view.camera.R.T
        out.append(replace(view, normal=wrong.astype(np.float32)))
    return out


def resized(camera: Camera, times: int) -> Camera:
    """The camera with ``times`` as many pixels each way over the same field."""
    K = camera.K.copy()
    K[:2] *= times
    K[:2, 2] = (camera.K[:2, 2] + 0.5) * times - 0.5
    return Camera(camera.name, camera.width * times, camera.height * times, K, camera.dist, camera.R, camera.t)


def numpy(tensor) -> np.ndarray:
    """A tensor of any device as an array."""
    return tensor.cpu().numpy()


class Remeshing:
    """Remeshing decides by the last digit which of two equal edges goes first. So the outcomes of one track's keyframe
    are recorded and handed to a second one, when the same went into them."""

    def __init__(self, monkeypatch):
        self._patch, self._remesh = monkeypatch, keyframe.remesh
        self.left = []  # what went in and what came out, until it is handed on

    def record(self):
        """From now on."""

        def remesh(mesh, *rest, **named):
            self.left.append((mesh, self._remesh(mesh, *rest, **named)))
            return self.left[-1][1]

        self._patch.setattr(keyframe, "remesh", remesh)

    def replay(self, furthest: float = 2e-6):
        """From now on, in the same order; furthest: metres that a vertex which went in may be elsewhere."""

        def remesh(mesh, *rest, **named):
            before, came = self.left.pop(0)
            np.testing.assert_array_equal(mesh.faces, before.faces)
            assert np.linalg.norm(mesh.vertices - before.vertices, axis=1).max() < furthest
            return came

        self._patch.setattr(keyframe, "remesh", remesh)
