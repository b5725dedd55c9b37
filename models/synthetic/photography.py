"""From light to a picture: random cameras and rigs, backgrounds, exposure, white balance, blur, sensor noise, JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from geometry.compiled import kernel
from protocol.calibration import Camera


def look_at(name: str, place, target, focal: float, size: tuple[int, int], roll: float = 0.0) -> Camera:
    """A pinhole at ``place`` looking at ``target`` (metres), Y up, rolled by ``roll`` radians.

    focal in pixels; size is (width, height).
    """
    place, target = np.asarray(place, np.float64), np.asarray(target, np.float64)
    z = target - place
    z /= np.linalg.norm(z)
    x = np.cross(z, [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    c, s = np.cos(roll), np.sin(roll)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ R
    width, height = size
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Camera(name, width, height, K, np.zeros(5), R, -R @ place)


def draw_cameras(rng: np.random.Generator, points: np.ndarray, views: int, size: int) -> list[Camera]:
    """Cameras of a training set: four fifths are rigs that come as near as 0.3 m, a fifth have nothing in common.

    Independent cameras stand anywhere from 30 degrees below to 58 above, 0.3 to 2.4 m away, each with a distance, a
    framing and a roll of its own. No lens is shorter than 20 mm (as on 35 mm film). At the long end a picture is a
    window cut from one, as the live system cuts it, and may be longer than any lens. Scenes for evaluation are drawn by
    ``draw_rig`` as it always was, or their scores could not be compared over time.
    """
    if rng.random() >= _INDEPENDENT:
        return draw_rig(rng, points, views, size, nearest=0.21, clear=_CLEAR, shortest=_SHORTEST)
    framed = _framed_part(rng, points)
    middle = (framed.min(0) + framed.max(0)) / 2
    cameras = []
    for k in range(views):
        azimuth, sine = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.85)
        cosine = np.sqrt(1 - sine * sine)
        toward = np.array([np.sin(azimuth) * cosine, sine, np.cos(azimuth) * cosine])
        far = max(np.exp(rng.uniform(np.log(0.3), np.log(2.4))), _reach(points, middle, toward) + _CLEAR)
        roll = rng.uniform(-np.pi, np.pi) if rng.random() < 0.1 else rng.normal(0, 0.2)
        target = middle + rng.normal(0, 0.012, 3)
        camera = look_at(f"cam{k:02d}", middle + far * toward, target, 1000.0, (size, size), roll)
        cameras.append(_framing(rng, camera, framed, rng.uniform(0.45, 1.1), _SHORTEST))
    return cameras


def draw_rig(
    rng: np.random.Generator,
    points: np.ndarray,
    views: int,
    size: int,
    nearest: float = 0.45,
    clear: float = 0.0,
    shortest: float = 0.0,
) -> list[Camera]:
    """A random rig about a subject (points (N, 3) of it), of which ``views`` cameras are kept, in random order.

    5 to 12 azimuths with jitter around all or part of the circle, elevations from -22 to 48 degrees, 0.5 to 2.4 m away,
    focal lengths such that the subject (or its head) fills half to all of the picture, some cut at the border. Half of
    the rigs keep rather those cameras that see the face, as rigs are built.

    nearest: metres before a head's face, give or take 15 %; clear: at least so far before all of the subject, where
    above 0; shortest: focal length, in pictures' widths.
    """
    whole, points = points, _framed_part(rng, points)
    middle = (points.min(0) + points.max(0)) / 2
    count = max(int(rng.integers(5, 13)), views)
    arc = rng.choice([2 * np.pi, rng.uniform(np.pi * 0.6, 2 * np.pi)], p=[0.6, 0.4])
    start = rng.uniform(0, 2 * np.pi) if arc > 6.2 or rng.random() < 0.3 else -arc / 2 + rng.normal(0, 0.2)
    distance = np.exp(rng.uniform(np.log(nearest), np.log(2.0)))
    fill = rng.uniform(0.58, 1.0)
    tilt = rng.uniform(-10, 25)
    sideways = rng.random() < 0.08  # a rig of upright pictures stored lying
    cameras, weights = [], []
    liking = rng.choice([0.0, rng.uniform(0.5, 3.0)])
    for k in range(count):
        azimuth = start + arc * (k + rng.normal(0, 0.12)) / count
        weights.append(1 + liking * max(np.cos(azimuth), 0))
        elevation = np.radians(np.clip(tilt + rng.normal(0, 10), -22, 48))
        far = distance * rng.uniform(0.85, 1.15) + 0.12
        toward = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        if clear > 0:
            far = max(far, _reach(whole, middle, toward) + clear)
        place = middle + far * toward
        roll = np.radians(rng.normal(0, 5)) + (np.pi / 2 * rng.choice([-1, 1]) if sideways else 0)
        target = middle + rng.normal(0, 0.012, 3)
        camera = look_at(f"cam{k:02d}", place, target, 1000.0, (size, size), roll)
        cameras.append(_framing(rng, camera, points, fill, shortest))
    return [cameras[k] for k in rng.choice(count, views, replace=False, p=np.array(weights) / sum(weights))]


_INDEPENDENT = 0.2  # of the training sets
_CLEAR = 0.15  # metres between a camera and a subject of any shape
_SHORTEST = 20 / 36  # pictures' widths: 20 mm on film that is 36 mm wide


def _framed_part(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """What the cameras are framed on: some two thousand of the points, of the upper part in most sets."""
    if rng.random() < 0.7:  # a head, whatever stands below it
        points = points[points[:, 1] > min(rng.uniform(-0.2, -0.11), points[:, 1].max() - 0.12)]
    return points[:: max(1, len(points) // 2000)]


def _reach(points: np.ndarray, middle: np.ndarray, toward: np.ndarray) -> float:
    """How far points (N, 3) stretch from ``middle`` in a unit direction, metres."""
    return float(((points - middle) @ toward).max())


def _framing(rng: np.random.Generator, camera: Camera, points: np.ndarray, fill: float, shortest: float) -> Camera:
    """The camera with a focal length such that points fill about ``fill`` of the picture, and off its middle; now and
    then a tight crop, cut by the border."""
    size = camera.width
    at = points @ camera.R.T + camera.t
    plane = at[:, :2] / at[:, 2:]
    low, high = plane.min(0), plane.max(0)
    focal = fill * rng.uniform(0.92, 1.08) * size / (high - low).max()
    middle_of = (low + high) / 2
    shift = rng.normal(0, 0.03, 2) * size
    if rng.random() < 0.12:
        focal *= rng.uniform(1.1, 1.9)
        shift += rng.normal(0, 0.12, 2) * size
    focal = max(focal, shortest * size)
    K = np.array(
        [
            [focal, 0, (size - 1) / 2 - focal * middle_of[0] + shift[0]],
            [0, focal, (size - 1) / 2 - focal * middle_of[1] + shift[1]],
            [0, 0, 1],
        ]
    )
    return Camera(camera.name, size, size, K, camera.dist, camera.R, camera.t)


@dataclass(frozen=True)
class Sensor:
    """How one camera turns light into a JPEG."""

    gain: tuple[float, ...]  # exposure and white balance, linear
    contrast: float  # 1 as the sRGB curve, more is steeper
    blur: float  # pixels, sigma
    noise: float  # at middle grey, of 255
    quality: int
    edge: float  # softness of the matte, pixels
    streak: tuple[float, float] = (0.0, 0.0)  # motion during the exposure, pixels
    vignette: float = 0.0  # darkening of the corners, 0..1
    sharpen: float = 0.0  # unsharp masking in the camera
    saturation: float = 1.0  # 0 for a monochrome camera
    haze: float = 0.0  # stray light, display-referred

    @classmethod
    def draw(cls, rng: np.random.Generator, rig: np.random.Generator) -> Sensor:
        """``rig``: draws common to all cameras (pass a generator in the same state to each)."""
        common = np.exp(rig.normal(0, 0.12, 3)) * np.exp(rig.normal(0, 0.25))
        noisy, quality, soft, contrast = (
            rig.exponential(3.0),
            rig.uniform(50, 96),
            rig.exponential(0.35),
            rig.normal(1, 0.12),
        )
        uneven = rig.choice([0.04, 0.1], p=[0.75, 0.25])  # how alike the cameras of a rig are
        own = np.exp(rng.normal(0, uneven, 3)) * np.exp(rng.normal(0, 2.2 * uneven))
        sharpen = rig.choice([0.0, rig.uniform(0.2, 1.2)], p=[0.6, 0.4])
        saturation = rig.choice([1.0, rig.uniform(0.6, 1.4), 0.0], p=[0.5, 0.45, 0.05])
        haze = rig.choice([0.0, rig.uniform(0, 0.08)], p=[0.7, 0.3])
        vignette = rig.choice([0.0, rig.uniform(0, 0.35)], p=[0.6, 0.4])
        moving = rig.random() < 0.12
        return cls(
            gain=tuple(float(x) for x in common * own),
            contrast=float(np.clip(contrast, 0.75, 1.35)),
            blur=float(np.clip(soft * rng.uniform(0.5, 1.5), 0, 1.6)),
            noise=float(np.clip(noisy * rng.uniform(0.7, 1.3), 0, 14)),
            quality=int(np.clip(quality + rng.normal(0, 3), 50, 96)),
            edge=float(rng.uniform(0.4, 0.75)),
            streak=(float(rng.normal(0, 1.3)), float(rng.normal(0, 1.0))) if moving else (0.0, 0.0),
            vignette=float(vignette),
            sharpen=float(sharpen),
            saturation=float(saturation),
            haze=float(haze),
        )


def develop(
    light: np.ndarray, mask: np.ndarray, background: np.ndarray, sensor: Sensor, rng: np.random.Generator
) -> np.ndarray:
    """Linear light (H, W, 3) over a display-referred background (H, W, 3) to the picture before JPEG.  # H,W,3 uint8

    The background shows where ``mask`` (H, W) is False and no light comes from a rendered thing.
    """
    mask = mask | (light[..., 1] > 0)
    shown = np.empty(light.shape, np.float32)
    _expose(light, np.array(sensor.gain, np.float32), _gamma(), shown)
    solid = mask.astype(np.float32)
    cover = cv2.GaussianBlur(solid, (5, 5), sensor.edge)
    # The subject's colour goes a little beyond its silhouette, so that the soft edge blends it and not black.
    spread = cv2.GaussianBlur(shown, (5, 5), 1.0)
    weight = cv2.GaussianBlur(solid, (5, 5), 1.0)
    _matte(np.asarray(background, np.float32), spread, weight, mask, cover, np.float32(sensor.contrast), shown)
    image = cv2.GaussianBlur(shown, (0, 0), sensor.blur) if sensor.blur > 0.25 else shown
    image = _through_lens(image, sensor)
    out = np.empty(light.shape, np.uint8)
    _quantize(image, _grain(), int(rng.integers(_GRAIN)), np.float32(sensor.noise / 255), out)
    return out


def _through_lens(image: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Motion, corners, stray light, colour and sharpening, where the sensor has any.  # H,W,3 float32"""
    if abs(sensor.streak[0]) + abs(sensor.streak[1]) > 0.3:
        kernel = np.zeros((9, 9), np.float32)
        for t in np.linspace(-0.5, 0.5, 17):
            x, y = (4 + np.clip(t * np.array(sensor.streak), -4, 3.99)).tolist()
            i, j, u, v = int(y), int(x), y - int(y), x - int(x)
            kernel[i : i + 2, j : j + 2] += np.outer([1 - u, u], [1 - v, v])[: 9 - i, : 9 - j].astype(np.float32)
        image = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    if sensor.vignette > 0:
        image = image * (1 - np.float32(sensor.vignette) * _corners(image.shape[:2]))
    if sensor.saturation != 1:
        grey = image @ np.float32([0.3, 0.59, 0.11])
        image = grey[..., None] + np.float32(sensor.saturation) * (image - grey[..., None])
    if sensor.haze > 0:
        image = np.float32(sensor.haze) + np.float32(1 - sensor.haze) * image
    if sensor.sharpen > 0:
        image = image + np.float32(sensor.sharpen) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    return np.clip(image, 0, 1)


@cache
def _corners(shape: tuple[int, int]) -> np.ndarray:
    """0 in the middle to 1 in the corners, with the square of the distance.  # H,W,1 float32"""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return ((x * x + y * y) / 2).astype(np.float32)[..., None]


_GRAIN = 1 << 20


@cache
def _grain() -> np.ndarray:
    """Normal noise to start from anywhere: drawing it anew for every picture would cost more than the rest."""
    return np.random.default_rng(1).standard_normal(_GRAIN, np.float32)


@cache
def _gamma() -> np.ndarray:
    """Display value of (i / 4095) squared: the square root spends the table's entries on the dark tones."""
    return (np.linspace(0, 1, 4096) ** (2 / 2.2)).astype(np.float32)


@kernel(fastmath=True)
def _expose(light, gain, gamma, out):
    for y in range(light.shape[0]):
        for x in range(light.shape[1]):
            for k in range(3):
                value = light[y, x, k] * gain[k]
                value /= 1 + max(value - np.float32(0.6), np.float32(0)) * np.float32(
                    0.55
                )  # a shoulder before the clip
                out[y, x, k] = gamma[int(np.sqrt(min(max(value, np.float32(0)), np.float32(1))) * 4095 + 0.5)]


@kernel(fastmath=True)
def _matte(background, spread, weight, mask, cover, contrast, image):
    half = np.float32(0.5)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            share = cover[y, x]
            for k in range(3):
                value = background[y, x, k]
                if share > 0:
                    inside = image[y, x, k] if mask[y, x] else spread[y, x, k] / max(weight[y, x], np.float32(1e-3))
                    value += (inside - value) * share
                value = half + (min(max(value, np.float32(0)), np.float32(1)) - half) * contrast
                image[y, x, k] = min(max(value, np.float32(0)), np.float32(1))


@kernel(fastmath=True)
def _quantize(image, grain, start, noise, out):
    last = grain.shape[0] - 1
    n = start
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for k in range(3):
                n = (n + 1) & last
                value = image[y, x, k]
                value += grain[n] * noise * np.sqrt(value * np.float32(1.6) + np.float32(0.1))  # shot and read noise
                out[y, x, k] = np.uint8(
                    min(max(value, np.float32(0)), np.float32(1)) * np.float32(255) + np.float32(0.5)
                )


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG.  # H,W,3 uint8 RGB"""
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not ok:
        raise ValueError("a picture could not be encoded")
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def exposure_for(lights: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """The gain that brings the subject's upper middle tones (70th percentile, all views) to linear 0.32."""
    values = np.concatenate(
        [light[mask][::3].max(1) for light, mask in zip(lights, masks, strict=True) if mask.any()] or [np.ones(1)]
    )
    return float(np.clip(0.32 / max(np.percentile(values, 70), 1e-4), 0.02, 50))
