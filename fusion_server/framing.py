"""Which square of each picture the network and the surface look at.

The network sees every view at one fixed size, so the more of that square the head fills, the finer the normals. On a
cold start the whole picture is the square; its mask gives a tighter one; from then on the last mesh does. A window
stays where it is until the head nears its edge or has become small in it: a window that moved each frame would redraw
the resampling noise each frame, and the mesh would shiver with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from geometry.cameras import crop_image, cropped, project
from protocol.calibration import Camera

MARGIN = 0.12  # of the head's larger side, left free around it
NEAR_EDGE = 0.03  # of the window: closer than this and the window moves
NEARLY = 0.06  # of the head's larger side: as near to the picture's border, the window goes there
LOOSE = 1.35  # times the wanted side: larger than this and the window shrinks
SMALLEST_MASK = 0.002  # of the window: less than this is noise and no subject


@dataclass(frozen=True)
class Window:
    """A square of a picture: top-left corner and side in pixels; ``geometry.cameras.cropped`` has the convention."""

    x0: float
    y0: float
    side: float

    def camera(self, camera: Camera, size: int) -> Camera:
        """The camera that sees this window as ``size`` x ``size`` pixels."""
        return cropped(camera, self.x0, self.y0, self.side, size)

    def picture(self, image: np.ndarray, size: int) -> np.ndarray:
        """The window's pixels, ``size`` x ``size``."""
        return crop_image(image, self.x0, self.y0, self.side, size)

    def inside(self, camera: Camera, size: int) -> np.ndarray | None:
        """Which pixels of the window lie in the picture; None when all do.  # S,S bool"""
        if (
            self.x0 >= 0
            and self.y0 >= 0
            and self.x0 + self.side <= camera.width
            and self.y0 + self.side <= camera.height
        ):
            return None
        centers = (np.arange(size) + 0.5) * self.side / size
        columns = (self.x0 + centers >= 0) & (self.x0 + centers <= camera.width)
        rows = (self.y0 + centers >= 0) & (self.y0 + centers <= camera.height)
        return rows[:, None] & columns

    def onto_picture(self, values: np.ndarray, camera: Camera) -> np.ndarray:
        """A map (S, S[, C]) of the window, resampled where it lies in the picture; zeros elsewhere.  # H,W[,C]"""
        scale = values.shape[0] / self.side
        to_window = np.array([[scale, 0.0, (0.5 - self.x0) * scale - 0.5], [0.0, scale, (0.5 - self.y0) * scale - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(np.asarray(values, np.float32), to_window, (camera.width, camera.height), flags=flags)


def whole(camera: Camera) -> Window:
    """The square around the whole picture; what it has beyond the picture is black."""
    side = float(max(camera.width, camera.height))
    return Window((camera.width - side) / 2, (camera.height - side) / 2, side)


def around_mask(mask: np.ndarray, window: Window, camera: Camera) -> Window:
    """The window around the largest thing in a mask (S, S) of ``window``: the same one as long as it will do, or where
    there is nothing."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((mask > 0.5).astype(np.uint8))
    if count < 2:
        return window
    x, y, width, height, area = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    if area < SMALLEST_MASK * mask.size:
        return window
    scale = window.side / mask.shape[0]
    low = np.array([window.x0 + x * scale, window.y0 + y * scale])
    return _fitted(window, low, low + np.array([width, height]) * scale, camera)


def around_points(points: np.ndarray, camera: Camera) -> Window:
    """The window around world points (P, 3), those in front of the camera."""
    low, high = _box(points, camera)
    return _around_box(low, high, camera)


def follow(window: Window, points: np.ndarray, camera: Camera) -> Window:
    """The window to use now that the subject is at ``points``: the same one as long as it will do."""
    return _fitted(window, *_box(points, camera), camera)


def _fitted(window: Window, low: np.ndarray, high: np.ndarray, camera: Camera) -> Window:
    """A window for what lies between two corners: the one given, if it holds it well."""
    wanted = _around_box(low, high, camera)
    if window.side > LOOSE * wanted.side or window.side < wanted.side / LOOSE:
        return wanted
    picture = np.array([camera.width, camera.height], float)
    corner = np.array([window.x0, window.y0])
    edge = NEAR_EDGE * window.side
    # Where the picture itself ends there is nothing more to see, so being near that edge is no reason to move.
    inside_low = (np.maximum(low, 0) >= corner + edge) | (corner <= 0)
    inside_high = (np.minimum(high, picture) <= corner + window.side - edge) | (corner + window.side >= picture)
    return window if inside_low.all() and inside_high.all() else wanted


def _box(points: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    pixels, depth = project(camera, points)
    pixels = pixels[depth > 0]
    if not len(pixels):
        return np.zeros(2), np.array([camera.width, camera.height], float)
    return pixels.min(0) + 0.5, pixels.max(0) + 0.5  # pixel centres -> corners


def _around_box(low: np.ndarray, high: np.ndarray, camera: Camera) -> Window:
    """A square around a box, with margin, no larger than the picture's smaller side and inside the picture."""
    picture = np.array([camera.width, camera.height], float)
    low, high = np.clip(low, 0, picture), np.clip(high, 0, picture)
    largest = float((high - low).max())
    low, high = low - MARGIN * largest, high + MARGIN * largest
    # What it nearly holds it had better hold: a head that the picture cuts may be longer than it seems.
    low = np.where(low < NEARLY * largest, 0, low)
    high = np.where(picture - high < NEARLY * largest, picture, high)
    side = max(min(float((high - low).max()), float(picture.min())), 16.0)
    corner = np.clip((low + high - side) / 2, 0, picture - side)
    return Window(float(corner[0]), float(corner[1]), side)
