"""What stands behind a subject: walls, curtains, rooms out of focus, leaves, lights, clutter.

Pictures of the world are mostly things that hide one another at every scale, hence the "leaves" style (the dead leaves
model: Lee, Mumford and Huang 2001, occluding shapes with radii distributed as 1 / r^3), and mostly muted colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_KINDS = ("plain", "gradient", "wall", "curtain", "leaves", "room", "bokeh", "noise", "clutter")
_SHARES = (0.14, 0.16, 0.1, 0.06, 0.18, 0.12, 0.06, 0.06, 0.12)


@dataclass(frozen=True)
class Backdrop:
    """What stands behind a subject: the style that all cameras of one set share. Colours are display-referred."""

    kind: str  # "black" or one of _KINDS
    base: tuple[float, ...]
    other: tuple[float, ...]
    contrast: float
    palette: tuple[tuple[float, ...], ...]
    blur: float  # sigma as a share of the picture
    things: int

    @classmethod
    def draw(cls, rng: np.random.Generator, dark: bool) -> Backdrop:
        """``dark``: the room of a flash picture."""
        kind = "black" if dark and rng.random() < 0.6 else str(rng.choice(_KINDS, p=_SHARES))
        dim = 0.25 if dark else 1.0
        saturation = rng.choice(
            [rng.uniform(0, 0.15), rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.0)], p=[0.45, 0.4, 0.15]
        )
        lightest = rng.uniform(0.3, 0.95)
        palette = [_color(rng, saturation, lightest) * dim for _ in range(7)]
        base = np.clip((0.02 if dark else rng.uniform(0.02, 0.9)) * rng.uniform(0.85, 1.15, 3), 0, 1)
        return cls(
            kind,
            tuple(base) if rng.random() < 0.5 else tuple(palette[0]),
            tuple(palette[1]),
            float(rng.uniform(0.2, 1)),
            tuple(tuple(color) for color in palette),
            float(rng.choice([0.0, rng.uniform(0.002, 0.03)], p=[0.25, 0.75])),
            int(rng.choice([0, rng.integers(1, 5), rng.integers(4, 12)], p=[0.45, 0.35, 0.2])),
        )

    def picture(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """One camera's background, display-referred 0..1.  # size,size,3 float32"""
        base, other = np.float32(self.base), np.float32(self.other)
        if self.kind == "black":
            return np.full((size, size, 3), rng.uniform(0, 0.02), np.float32)
        image = np.tile(base * np.float32(rng.uniform(0.9, 1.1)), (size, size, 1))
        draw = {"plain": _plain, "gradient": _gradient, "wall": _wall, "curtain": _curtain, "leaves": _leaves,
                "room": _room, "bokeh": _bokeh, "noise": _noise, "clutter": _clutter}[self.kind]  # fmt: skip
        image = draw(image, rng, self)
        things = max(self.things, 2) if self.kind == "clutter" else self.things
        for _ in range(things if self.kind not in ("plain", "gradient") else things // 2):
            _thing(image, rng, base, other, self.contrast, self.palette)
        blur = self.blur * size * rng.uniform(0.6, 1.4)
        if blur > 0.3:
            image = cv2.GaussianBlur(image, (0, 0), blur)
        if self.kind == "bokeh":
            _lights(image, rng)
        return image


def _color(rng, saturation: float, lightest: float) -> np.ndarray:
    """Muted as most things are: saturation 0..1 of a random hue, any value up to ``lightest``.  # 3"""
    hue = rng.uniform(0, 3)
    pure = np.clip(1 - np.abs((np.arange(3) - hue + 1.5) % 3 - 1.5), 0, 1)
    grey = 1 - saturation * rng.uniform(0.4, 1)
    return np.float32(np.clip(rng.uniform(0.03, lightest) * (grey + (1 - grey) * 1.6 * pure), 0, 1))


def _plain(image, rng, backdrop):
    return image


def _gradient(image, rng, backdrop):
    size = image.shape[0]
    ramp = rng.random((int(rng.integers(2, 4)),) * 2).astype(np.float32)
    ramp = cv2.resize(ramp, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    return image + (np.float32(backdrop.other) - image) * np.clip(ramp, 0, 1)


def _wall(image, rng, backdrop):
    """A lit wall with a floor, and sometimes its paint or bricks."""
    size = image.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    glow = np.exp(-rng.uniform(1, 6) * ((x - rng.normal(0, 0.3)) ** 2 + (y - rng.normal(0, 0.3)) ** 2))
    image = image * (0.55 + rng.uniform(0.2, 0.9) * glow)[..., None]
    slope, at = rng.normal(0, 0.1), rng.uniform(0.1, 0.6)
    floor = np.clip((y + slope * x - at) / rng.choice([0.005, 0.08]), 0, 1)[..., None]
    image = image + (np.float32(backdrop.other) * glow[..., None] - image) * floor
    if rng.random() < 0.3:
        rows = np.floor(y * rng.uniform(6, 14))
        joint = (np.abs((y * 10) % 1 - 0.5) > 0.44) | (np.abs((x * 5 + 0.5 * (rows % 2)) % 1 - 0.5) > 0.47)
        image = np.where((joint & (floor[..., 0] < 0.5))[..., None], image * np.float32(0.7), image)
    return (image * (1 + 0.03 * backdrop.contrast * _spectrum(rng, size, 0.8))).astype(np.float32)


def _curtain(image, rng, backdrop):
    size = image.shape[0]
    x = np.arange(size, dtype=np.float32)[None] / size + np.arange(size, dtype=np.float32)[:, None] / size * rng.normal(
        0, 0.1
    )
    folds = sum(np.sin(x * rng.uniform(15, 90) + rng.uniform(0, 6)) * rng.uniform(0.2, 1) for _ in range(4))
    return image * (1 + 0.25 * backdrop.contrast * folds[..., None].astype(np.float32))


def _leaves(image, rng, backdrop):
    size = image.shape[0]
    canvas = np.ascontiguousarray(cv2.resize(image, (128, 128)))
    palette = np.float32(backdrop.palette)
    count = int(rng.integers(60, 260))
    smallest = rng.uniform(2, 7)
    radii = np.minimum(smallest / np.sqrt(1 - rng.random(count)), 50)
    places = rng.uniform(-10, 138, (count, 2)).astype(int)
    colors = palette[rng.integers(len(palette), size=count)] * rng.uniform(0.6, 1.3, (count, 1))
    straight = rng.random() < 0.5
    lengths, angles = rng.uniform(0.25, 1, count), rng.uniform(0, 180, count)
    for radius, place, color, share, angle in zip(radii, places, colors.tolist(), lengths, angles, strict=True):
        if straight:
            corners = cv2.boxPoints(
                ((float(place[0]), float(place[1])), (2 * radius, 2 * radius * share), float(angle))
            )
            cv2.fillConvexPoly(canvas, corners.astype(np.int32), color)
        else:
            axes = (max(1, int(radius)), max(1, int(radius * share)))
            cv2.ellipse(canvas, (int(place[0]), int(place[1])), axes, float(angle), 0, 360, color, -1)
    canvas = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_LINEAR)
    shade = 1 + 0.35 * backdrop.contrast * _spectrum(rng, size, 1.6)
    return (canvas * shade).astype(np.float32)


def _room(image, rng, backdrop):
    """Boxes with straight edges, each with a gradient: shelves, doors, windows, screens."""
    size = image.shape[0]
    image = _gradient(image, rng, backdrop)
    upright = rng.normal(0, 0.05)
    for _ in range(rng.integers(3, 12)):
        color = np.float32(backdrop.palette[rng.integers(7)]) * np.float32(rng.uniform(0.6, 1.4))
        w, h = rng.uniform(0.03, 0.6, 2) * size
        x, y = rng.uniform(-0.1, 1.1, 2) * size
        box = np.array([[0, 0], [w, 0], [w, h], [0, h]]) + [x, y]
        box[:, 0] += upright * box[:, 1]
        box[:, 1] += rng.normal(0, 0.08) * box[:, 0]
        mask = cv2.fillConvexPoly(np.zeros((size, size), np.uint8), box.astype(np.int32), 1).astype(bool)
        ramp = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.8, 1.3), size, dtype=np.float32)[:, None, None]
        image[mask] = np.broadcast_to(color * ramp, image.shape)[mask]
        if rng.random() < 0.3:
            cv2.polylines(image, [box.astype(np.int32)], True, (0.06, 0.06, 0.06), int(rng.integers(1, 4)))
    return (image * (1 + 0.08 * _spectrum(rng, size, 1.2))).astype(np.float32)


def _bokeh(image, rng, backdrop):
    return _gradient(image * np.float32(0.35), rng, backdrop) * np.float32(0.5)


def _lights(image, rng) -> None:
    """Lamps out of focus: discs that add."""
    size = image.shape[0]
    radius = rng.uniform(0.01, 0.07) * size
    layer = np.zeros_like(image)
    for _ in range(rng.integers(4, 40)):
        x, y = (int(v) for v in rng.uniform(0, size, 2))
        color = np.clip(rng.uniform(0.1, 0.9) * np.array([1, 0.85, 0.65]) ** rng.uniform(-0.5, 2), 0, 1)
        disc = np.zeros((size, size), np.uint8)
        cv2.circle(disc, (x, y), max(1, int(radius * rng.uniform(0.8, 1.1))), 1, -1, cv2.LINE_AA)
        layer[disc > 0] += color.astype(np.float32)
    image += cv2.GaussianBlur(layer, (0, 0), 0.8)


def _noise(image, rng, backdrop):
    size = image.shape[0]
    image = _gradient(image, rng, backdrop)
    rough = rng.uniform(0.6, 1.6)
    image = image + 0.18 * backdrop.contrast * _spectrum(rng, size, rough)
    if rng.random() < 0.4:
        image = image + 0.1 * backdrop.contrast * np.dstack([_spectrum(rng, size, rough)[..., 0] for _ in range(3)])
    return image.astype(np.float32)


def _clutter(image, rng, backdrop):
    image = _gradient(image, rng, backdrop)
    return _noise(image, rng, backdrop) if rng.random() < 0.5 else image


def _spectrum(rng, size: int, power: float) -> np.ndarray:
    """Noise whose amplitude falls as 1 / frequency^power, spread 1.  # size,size,1 float32"""
    out = np.zeros((size, size), np.float32)
    cells, amplitude = 3, 1.0
    while cells < size:
        layer = rng.standard_normal((cells, cells), np.float32)
        out += np.float32(amplitude) * cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, amplitude = cells * 2, amplitude * 0.5**power
    return (out / max(float(out.std()), 1e-6))[..., None]


def _thing(image: np.ndarray, rng, base, other, contrast, palette) -> None:
    """Draw one object: bar, box, ball with shading, ring, pole, polygon."""
    size = image.shape[0]
    color = base + (np.float32(palette[rng.integers(len(palette))]) - base) * contrast if rng.random() < 0.8 else other
    skin_like = rng.random() < 0.15
    color = np.float32([0.8, 0.6, 0.5]) * rng.uniform(0.3, 1.1) if skin_like else color
    color = tuple(float(x) for x in color)
    x, y = (int(v) for v in rng.integers(-size // 8, size + size // 8, 2))
    w, h = (int(v) for v in rng.integers(4, size // 2, 2))
    kind = rng.integers(6)
    if kind == 0:
        cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
    elif kind == 1:
        far = tuple(int(v) for v in rng.integers(0, size, 2))
        cv2.line(image, (x, y), far, color, int(rng.integers(1, max(2, size // 12))), cv2.LINE_AA)
    elif kind == 2:
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(image, (x, y), (max(2, w // 2), max(2, h // 2)), angle, 0, 360, color, -1, cv2.LINE_AA)
    elif kind == 3:  # a lit ball or egg: what a second head looks like
        a, b = max(6, w // 2), max(6, int(w / 2 * rng.uniform(0.9, 1.5)))
        rows, columns = np.arange(max(0, y - b), min(size, y + b)), np.arange(max(0, x - a), min(size, x + a))
        if not len(rows) or not len(columns):
            return
        yy, xx = np.float32(rows)[:, None], np.float32(columns)[None]
        u, v = (xx - x) / a, (yy - y) / b
        inside = u * u + v * v < 1
        if inside.any():
            z = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
            light = rng.normal(size=3)
            light /= np.linalg.norm(light)
            shade = np.clip(0.25 + 0.9 * np.clip(u * light[0] + v * light[1] + z * abs(light[2]), 0, 1), 0, 1.2)
            patch = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            patch[inside] = (shade[..., None] * np.float32(color))[inside]
    elif kind == 4:
        angle = float(rng.uniform(0, 180))
        thickness = int(rng.integers(1, max(2, size // 20)))
        cv2.ellipse(image, (x, y), (max(2, w // 2), max(2, h // 2)), angle, 0, 360, color, thickness, cv2.LINE_AA)
    else:
        corners = (np.array([x, y]) + rng.integers(-size // 3, size // 3, (int(rng.integers(3, 6)), 2))).astype(
            np.int32
        )
        cv2.fillPoly(image, [corners], color, cv2.LINE_AA)
