"""Renders a shaded surface into calibrated cameras: linear light, with the truth that belongs to each pixel.

One fused numba kernel a view: a z-buffer, then per-pixel shading (diffuse with a soft, skin-like terminator, a glossy
lobe, spherical-harmonics sky with ambient occlusion, shadow maps, an inverse-square flash). Truth normals are the
interpolated normals of the displaced surface, bent by the relief that is too fine for the mesh (``Surface.grain``), and
they are the same that shade the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geometry.compiled import kernel
from geometry.rasterize.base import NEAR
from models.synthetic.lighting import Lighting
from models.synthetic.noise import noise_gradient, value_noise
from protocol.calibration import Camera


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh with what its material needs, per vertex; metres, linear RGB.

    vertices, normals, albedo (P, 3); faces (F, 3) int32; material (P, 4): specular strength, roughness 0..1,
    translucency 0..1 (how far light bleeds over the terminator), ambient visibility 0..1. grain (P, 4 or 5) or None: a
    place in noise cells and the strength of a fine colour noise made per pixel, finer than vertices could carry; the
    fifth column is the height in metres of a fine relief on the same cells, independent of the colour: it bends the
    normal, and both fade where their cells become smaller than a pixel. beside: things in the picture that are not the
    subject; they hide it where they stand before it, and are in no mask. fine: it has parts thinner than a pixel, such
    as hair, so that every pixel is the mean of four.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    albedo: np.ndarray
    material: np.ndarray
    grain: np.ndarray | None = None
    beside: tuple[Bystander, ...] = ()
    fine: bool = False


@dataclass(frozen=True, eq=False)
class Bystander:
    """A thing that is not the subject. always: drawn in every view, else only where it stands behind the subject."""

    surface: Surface
    always: bool = False

    def seen(self, camera: Camera, middle: np.ndarray) -> bool:
        """Whether it is drawn: nothing that would fill the picture of a camera close to it."""
        far = self.surface.vertices @ camera.R[2].astype(np.float32) + camera.t[2]
        return bool(far.min() > (0.15 if self.always else camera.R[2] @ middle + camera.t[2]))


@dataclass(frozen=True, eq=False)
class Rendering:
    """One view. light (H, W, 3) linear, above 0 wherever something is; normal (H, W, 3) camera frame and depth (H, W)
    metres, both of the subject and 0 elsewhere."""

    light: np.ndarray
    normal: np.ndarray
    depth: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Where the subject is.  # H,W bool"""
        return self.depth > 0

    def emptied(self) -> Rendering:
        """The same view with nobody in it."""
        rest = np.where(self.mask[..., None], np.float32(0), self.light)
        return Rendering(rest, np.zeros_like(self.normal), np.zeros_like(self.depth))


def render(surface: Surface, cameras: Sequence[Camera], lighting: Lighting, *, closed: bool = False) -> list[Rendering]:
    """Render every camera. Cameras are pinholes (distortion is refused with ValueError).

    closed: the surface has no border that a camera could look into, so faces that point away are skipped.
    """
    if surface.fine:
        coarse = replace(surface, fine=False)
        return [_averaged(view) for view in render(coarse, [_doubled(c) for c in cameras], lighting, closed=closed)]
    own = _attributes(surface)
    faces = np.ascontiguousarray(surface.faces, np.int32)
    if not surface.beside:
        return [_render_view(own, faces, len(faces), camera, lighting, closed) for camera in cameras]
    middle = surface.vertices[::20].mean(0)
    own = _wide(own)
    others = [(other, _wide(_attributes(other.surface))) for other in surface.beside]
    out = []
    for camera in cameras:
        rows, triangles = [own], [faces]
        for other, attributes in others:
            if other.seen(camera, middle):
                triangles.append((other.surface.faces + sum(len(row) for row in rows)).astype(np.int32))
                rows.append(attributes)
        view = _render_view(np.concatenate(rows), np.concatenate(triangles), len(faces), camera, lighting, closed)
        out.append(view)
    return out


def _doubled(camera: Camera) -> Camera:
    """The camera with twice the pixels each way: pixel i becomes 2 i and 2 i + 1."""
    K = camera.K.copy()
    K[:2] *= 2
    K[:2, 2] += 0.5
    return replace(camera, width=2 * camera.width, height=2 * camera.height, K=K)


def _averaged(view: Rendering) -> Rendering:
    """Means of two by two pixels: normals and depth over the subject's, light over all that is something."""
    height, width = (side // 2 for side in view.depth.shape)
    light, normal = np.zeros((2, height, width, 3), np.float32)
    depth = np.zeros((height, width), np.float32)
    _average(view.light, view.normal, view.depth, light, normal, depth)
    return Rendering(light, normal, depth)


@kernel(fastmath=True)
def _average(light, normal, depth, mean_light, mean_normal, mean_depth):
    for y in range(mean_depth.shape[0]):
        for x in range(mean_depth.shape[1]):
            mine, lit, far = 0, 0, np.float32(0)
            for i in range(2 * y, 2 * y + 2):
                for j in range(2 * x, 2 * x + 2):
                    far += depth[i, j]
                    mine += int(depth[i, j] > 0)
                    lit += int(light[i, j, 1] > 0)
            if lit >= 2 or mine >= 2:
                for k in range(3):
                    total = light[2 * y, 2 * x, k] + light[2 * y, 2 * x + 1, k]
                    total += light[2 * y + 1, 2 * x, k] + light[2 * y + 1, 2 * x + 1, k]
                    mean_light[y, x, k] = total / max(lit, 1)
            if mine < 2:
                continue
            mean_depth[y, x] = far / mine
            length = np.float32(1e-12)
            for k in range(3):
                total = normal[2 * y, 2 * x, k] + normal[2 * y, 2 * x + 1, k]
                total += normal[2 * y + 1, 2 * x, k] + normal[2 * y + 1, 2 * x + 1, k]
                mean_normal[y, x, k] = total
                length += total * total
            for k in range(3):
                mean_normal[y, x, k] /= np.sqrt(length)


def _attributes(surface: Surface) -> np.ndarray:
    """What the kernel interpolates.  # P,13 or 17 or 18"""
    columns = [surface.vertices, surface.normals, surface.albedo, surface.material]
    if surface.grain is not None:
        columns.append(surface.grain)
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _wide(attributes: np.ndarray) -> np.ndarray:
    return np.pad(attributes, ((0, 0), (0, 18 - attributes.shape[1])))


def _render_view(attributes, faces, own: int, camera: Camera, lighting: Lighting, closed: bool) -> Rendering:
    if np.any(camera.dist):
        raise ValueError(f"camera {camera.name} has distortion; rendering needs pinholes")
    shape = (camera.height, camera.width)
    light = np.zeros((*shape, 3), np.float32)
    normal = np.zeros((*shape, 3), np.float32)
    depth = np.zeros(shape, np.float32)
    matrix = (camera.K @ np.hstack([camera.R, camera.t[:, None]])).astype(np.float32)
    center = camera.center.astype(np.float32)
    _draw(
        attributes,
        faces,
        own,
        np.float32(camera.K[0, 0]),
        matrix,
        camera.R.astype(np.float32),
        center,
        lighting.lamps_for(center, camera.R),
        lighting.sky,
        lighting.shadow_maps,
        lighting.shadow_matrices,
        closed,
        light,
        normal,
        depth,
    )
    return Rendering(light, normal, depth)


@kernel(fastmath=True)
def _draw(
    attributes, faces, own, focal, matrix, R, center, lamps, sky, shadow_maps, shadow_matrices, closed, light, normal,
    depth,
):  # fmt: skip
    height, width = depth.shape
    screen = np.empty((attributes.shape[0], 3), np.float32)  # x, y in pixels, 1 / z
    for i in range(attributes.shape[0]):
        x, y, z = attributes[i, 0], attributes[i, 1], attributes[i, 2]
        w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if w < NEAR:
            screen[i, 2] = -1
            continue
        screen[i, 0] = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / w
        screen[i, 1] = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / w
        screen[i, 2] = 1 / w
    nearest = np.zeros((height, width), np.float32)
    owner = np.full((height, width), -1, np.int32)
    bary = np.empty((height, width, 2), np.float32)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, aw = screen[a, 0], screen[a, 1], screen[a, 2]
        bx, by, bw = screen[b, 0], screen[b, 1], screen[b, 2]
        cx, cy, cw = screen[c, 0], screen[c, 1], screen[c, 2]
        if aw < 0 or bw < 0 or cw < 0:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx))))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx))))
        y0 = max(0, int(np.ceil(min(ay, by, cy))))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy))))
        if (x0 > x1) | (y0 > y1):  # no pixel's middle: most faces of a fine mesh; one jump that is easy to foresee
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9 or (closed and area > 0):  # rows grow downward: outward faces have a negative area
            continue
        inverse = 1 / area
        for py in range(y0, y1 + 1):
            for px in range(x0, x1 + 1):
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
                w = 1 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                near = u * aw + v * bw + w * cw
                if near <= nearest[py, px]:
                    continue
                nearest[py, px] = near
                owner[py, px] = f
                bary[py, px, 0] = u * aw / near
                bary[py, px, 1] = v * bw / near
    value = np.empty(attributes.shape[1], np.float32)
    for py in range(height):
        for px in range(width):
            f = owner[py, px]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            u, v = bary[py, px, 0], bary[py, px, 1]
            w = 1 - u - v
            for k in range(value.size):
                value[k] = u * attributes[a, k] + v * attributes[b, k] + w * attributes[c, k]
            if value.size > 17:
                _engrave(value, attributes, a, b, c, 1 / (nearest[py, px] * focal), center)
            elif value.size > 13 and value[16] > 0:
                gx, gy, gz = value[13], value[14], value[15]
                noise = value_noise(gx, gy, gz, 1) + np.float32(0.6) * value_noise(gx * 2.1, gy * 2.1, gz * 2.1, 2)
                for k in range(6, 9):
                    value[k] *= max(1 + value[16] * noise, np.float32(0.2))
            _shade(value, attributes, a, b, c, center, lamps, sky, shadow_maps, shadow_matrices, light[py, px])
            if f >= own:
                light[py, px, 1] = max(light[py, px, 1], np.float32(1e-5))
                continue
            depth[py, px] = 1 / nearest[py, px]
            for k in range(3):
                normal[py, px, k] = R[k, 0] * value[3] + R[k, 1] * value[4] + R[k, 2] * value[5]
    if own < faces.shape[0]:
        _blend_borders(owner, own, light)


@kernel(fastmath=True)
def _blend_borders(owner, own, light):
    """Where the subject and another thing meet, a pixel sees a little of both, as a lens would show it."""
    height, width = owner.shape
    before = light.copy()
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if owner[y, x] < 0:
                continue
            mine = owner[y, x] < own
            other, count = np.float32(0), np.float32(0)
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if owner[y + dy, x + dx] >= 0:
                        count += 1
                        other += np.float32((owner[y + dy, x + dx] < own) != mine)
            if other < 1:
                continue
            for k in range(3):
                total = np.float32(0)
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        if owner[y + dy, x + dx] >= 0:
                            total += before[y + dy, x + dx, k]
                light[y, x, k] = np.float32(0.45) * before[y, x, k] + np.float32(0.55) * total / count


@kernel(fastmath=True)
def _engrave(value, attributes, a, b, c, footprint, center):
    """Fine colour noise and fine relief of one pixel, ``footprint`` metres wide, in place in ``value``.

    The noise cells are a linear map of the triangle, so the relief's slope along the surface follows from the noise's
    derivative and the triangle's edges (the metric's inverse raises the index); the normal is bent against the slope.
    """
    strength, height = value[16], value[17]
    if strength <= 0 and height <= 0:
        return
    e11, e12, e22 = np.float32(0), np.float32(0), np.float32(0)
    for k in range(3):
        e1, e2 = attributes[b, k] - attributes[a, k], attributes[c, k] - attributes[a, k]
        e11 += e1 * e1
        e12 += e1 * e2
        e22 += e2 * e2
    det = e11 * e22 - e12 * e12
    if det < 1e-20:
        return
    stretch = np.float32(0)  # squared cells a metre
    for k in range(13, 16):
        d1, d2 = attributes[b, k] - attributes[a, k], attributes[c, k] - attributes[a, k]
        stretch += (d1 * d1 * e22 - 2 * d1 * d2 * e12 + d2 * d2 * e11) / det
    cells = np.sqrt(stretch) * footprint  # a pixel's width in noise cells
    gx, gy, gz = value[13], value[14], value[15]
    coarse = min(max(np.float32(1.5) - np.float32(1.5) * cells, np.float32(0)), np.float32(1))
    fine = min(max(np.float32(1.5) - np.float32(3.1) * cells, np.float32(0)), np.float32(1))
    if coarse <= 0:
        return
    if strength > 0:
        noise = coarse * value_noise(gx, gy, gz, 1)
        if fine > 0:
            noise += np.float32(0.6) * fine * value_noise(gx * 2.1, gy * 2.1, gz * 2.1, 2)
        for k in range(6, 9):
            value[k] *= max(1 + strength * noise, np.float32(0.2))
    if height <= 0:
        return
    sx, sy, sz = noise_gradient(gx, gy, gz, 5)
    sx, sy, sz = sx * coarse, sy * coarse, sz * coarse
    if fine > 0:
        tx, ty, tz = noise_gradient(gx * 2.1, gy * 2.1, gz * 2.1, 6)
        sx, sy, sz = sx + fine * tx, sy + fine * ty, sz + fine * tz  # half the height, twice the frequency
    h1, h2 = np.float32(0), np.float32(0)
    for k, s in enumerate((sx, sy, sz)):
        h1 += s * (attributes[b, 13 + k] - attributes[a, 13 + k])
        h2 += s * (attributes[c, 13 + k] - attributes[a, 13 + k])
    along1, along2 = height * (e22 * h1 - e12 * h2) / det, height * (e11 * h2 - e12 * h1) / det
    length = np.sqrt(value[3] ** 2 + value[4] ** 2 + value[5] ** 2) + np.float32(1e-12)
    slope = np.float32(0)
    for k in range(3):
        s = along1 * (attributes[b, k] - attributes[a, k]) + along2 * (attributes[c, k] - attributes[a, k])
        slope += s * s
    most = np.float32(1.1) / max(np.sqrt(slope), np.float32(1.1))  # no slope above 48 degrees
    facing, distance = np.float32(0), np.float32(0)
    for k in range(3):
        s = along1 * (attributes[b, k] - attributes[a, k]) + along2 * (attributes[c, k] - attributes[a, k])
        value[3 + k] = value[3 + k] / length - most * s
        toward = center[k] - value[k]
        facing += value[3 + k] * toward
        distance += toward * toward
    flat = value[3] ** 2 + value[4] ** 2 + value[5] ** 2
    least = np.float32(0.05) * np.sqrt(flat * distance)
    if -least < facing < least:  # a slope that would turn its back is not seen: end at the edge
        lift = (least - facing) / distance
        for k in range(3):
            value[3 + k] += lift * (center[k] - value[k])


@kernel(fastmath=True)
def _shade(value, attributes, a, b, c, center, lamps, sky, shadow_maps, shadow_matrices, out):
    """Light leaving one point toward the camera. value: interpolated attributes; its normal is made a unit here."""
    x, y, z = value[0], value[1], value[2]
    vx, vy, vz = center[0] - x, center[1] - y, center[2] - z
    distance = np.sqrt(vx * vx + vy * vy + vz * vz)
    vx, vy, vz = vx / distance, vy / distance, vz / distance
    length = np.sqrt(value[3] ** 2 + value[4] ** 2 + value[5] ** 2) + np.float32(1e-12)
    # The inside of an open surface shows its back: turn the normal to the side that is seen.
    e1x, e1y, e1z = (
        attributes[b, 0] - attributes[a, 0],
        attributes[b, 1] - attributes[a, 1],
        attributes[b, 2] - attributes[a, 2],
    )
    e2x, e2y, e2z = (
        attributes[c, 0] - attributes[a, 0],
        attributes[c, 1] - attributes[a, 1],
        attributes[c, 2] - attributes[a, 2],
    )
    facing = (e1y * e2z - e1z * e2y) * vx + (e1z * e2x - e1x * e2z) * vy + (e1x * e2y - e1y * e2x) * vz
    if facing < 0:
        length = -length
    nx, ny, nz = value[3] / length, value[4] / length, value[5] / length
    value[3], value[4], value[5] = nx, ny, nz
    strength, roughness, translucency, visible = value[9], value[10], value[11], value[12]
    shininess = 2 / max(roughness * roughness * roughness * roughness, np.float32(1e-3))
    nv = max(nx * vx + ny * vy + nz * vz, np.float32(0.02))
    fresnel = strength * (np.float32(0.25) + np.float32(0.75) * (1 - nv) ** 4)

    # Sky: irradiance as second-order spherical harmonics, and its blurred mirror image along the reflection.
    rx, ry, rz = 2 * nv * nx - vx, 2 * nv * ny - vy, 2 * nv * nz - vz
    for k in range(3):
        sky_diffuse = (
            sky[0, k]
            + sky[1, k] * ny
            + sky[2, k] * nz
            + sky[3, k] * nx
            + sky[4, k] * nx * ny
            + sky[5, k] * ny * nz
            + sky[6, k] * (3 * nz * nz - 1)
            + sky[7, k] * nx * nz
            + sky[8, k] * (nx * nx - ny * ny)
        )
        mirror = sky[0, k] + np.float32(1.5) * (sky[1, k] * ry + sky[2, k] * rz + sky[3, k] * rx)
        out[k] = visible * (value[6 + k] * max(sky_diffuse, 0) + fresnel * max(mirror, 0))

    for i in range(lamps.shape[0]):
        lx, ly, lz = lamps[i, 1], lamps[i, 2], lamps[i, 3]
        power = np.float32(1)
        if lamps[i, 0] > 0:  # a lamp at a place; lamps[i, 8] is the distance at which its colour holds
            lx, ly, lz = lx - x, ly - y, lz - z
            far = np.sqrt(lx * lx + ly * ly + lz * lz)
            lx, ly, lz = lx / far, ly / far, lz / far
            power = (lamps[i, 8] / far) ** 2
        nl = nx * lx + ny * ly + nz * lz
        soft = lamps[i, 7]
        if nl <= -soft - np.float32(0.5) * translucency:
            continue
        if lamps[i, 9] >= 0:
            which = int(lamps[i, 9])
            lift = np.float32(0.001)
            lit = _lit(
                x + nx * lift, y + ny * lift, z + nz * lift, shadow_maps[which], shadow_matrices[which], lamps[i, 10]
            )
            steep = min(max(nl * np.float32(7), np.float32(0)), np.float32(1))  # near the terminator the bleed decides
            power *= steep * lit + (1 - steep)
        if power <= 0:
            continue
        hx, hy, hz = lx + vx, ly + vy, lz + vz
        h = np.sqrt(hx * hx + hy * hy + hz * hz) + np.float32(1e-6)
        nh = max((nx * hx + ny * hy + nz * hz) / h, 0)
        vh = max((vx * hx + vy * hy + vz * hz) / h, 0)
        lobe = (shininess + 2) * np.float32(0.125) * nh**shininess * max(nl, 0)
        lobe *= strength * (np.float32(0.2) + np.float32(0.8) * (1 - vh) ** 5)
        for k in range(3):
            # Red light travels furthest under skin: it bleeds furthest past the terminator.
            bleed = soft + translucency * (np.float32(0.32) - np.float32(0.12) * k)
            diffuse = max(nl + bleed, 0) / (1 + bleed)
            out[k] += power * lamps[i, 4 + k] * (value[6 + k] * diffuse + lobe)


@kernel(fastmath=True)
def _lit(x, y, z, shadow_map, matrix, blur):
    """Share of a lamp that a point sees: percentage-closer filtering of 3 x 3 texels ``blur`` texels apart."""
    size = shadow_map.shape[0]
    column = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
    row = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
    count = 0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            px = int(column + dx * blur + np.float32(0.5))
            py = int(row + dy * blur + np.float32(0.5))
            if px < 0 or py < 0 or px >= size or py >= size or shadow_map[py, px] > depth - np.float32(0.003):
                count += 1
    return np.float32(count) / np.float32(9)
