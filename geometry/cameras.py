"""What one does with a calibrated camera: project, cast rays, crop, resize, undistort.

Everything but ``undistort`` treats the camera as a pinhole: pictures are undistorted once, when decoded, and from then
on travel with the camera that ``without_distortion`` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from protocol.calibration import Camera


def projection_matrix(camera: Camera) -> np.ndarray:
    """K [R | t]: world point to homogeneous pixel, metres in.  # 3,4"""
    return camera.K @ np.hstack([camera.R, camera.t[:, None]])


def project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World points (N, 3) to pixels (N, 2) and depth along z (N,) in metres. Points behind have depth <= 0."""
    at = points @ camera.R.T + camera.t  # N,3
    depth = at[:, 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    pixels = (at / safe[:, None]) @ camera.K.T
    return pixels[:, :2], depth


def pixel_rays(camera: Camera) -> np.ndarray:
    """Unit viewing directions in the camera frame, one per pixel centre.  # H,W,3 float32"""
    x, y = np.meshgrid(np.arange(camera.width, dtype=np.float64), np.arange(camera.height, dtype=np.float64))
    pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
    rays = pixels @ np.linalg.inv(camera.K).T
    return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)


def without_distortion(camera: Camera) -> Camera:
    """The pinhole camera of the undistorted picture."""
    return replace(camera, dist=np.zeros(5))


def cropped(camera: Camera, x0: float, y0: float, side: float, size: int) -> Camera:
    """The camera of a square window of ``side`` pixels resampled to ``size`` x ``size``.

    (x0, y0) is the window's top-left corner, that is, half a pixel up and left of its first pixel's centre; it may lie
    outside the picture. ``crop_image`` makes the picture.
    """
    scale = size / side
    K = camera.K.copy()
    K[:2] *= scale
    K[0, 2] = (camera.K[0, 2] + 0.5 - x0) * scale - 0.5
    K[1, 2] = (camera.K[1, 2] + 0.5 - y0) * scale - 0.5
    return replace(camera, K=K, width=size, height=size)


def at_most(camera: Camera, size: int) -> Camera:
    """The camera with ``size`` pixels along its larger side; itself when it is no larger."""
    scale = min(size / max(camera.width, camera.height), 1.0)
    K = camera.K.copy()
    K[:2] *= scale
    K[:2, 2] = (camera.K[:2, 2] + 0.5) * scale - 0.5
    return replace(camera, K=K, width=int(np.ceil(camera.width * scale)), height=int(np.ceil(camera.height * scale)))


def crop_plan(x0: float, y0: float, side: float, size: int) -> tuple[float, np.ndarray]:
    """How ``crop_image`` makes a window's picture: by how much the whole picture is shrunk first (by area averages; 1:
    not at all), and where the window's pixels lie in what that leaves (bilinear there).  # 2,3"""
    scale = size / side
    shrink = scale if scale < 0.75 else 1.0  # bilinear sampling has no prefilter
    back = np.array(
        [
            [shrink / scale, 0.0, (x0 + 0.5 / scale) * shrink - 0.5],
            [0.0, shrink / scale, (y0 + 0.5 / scale) * shrink - 0.5],
        ]
    )
    return shrink, back


def crop_image(image: np.ndarray, x0: float, y0: float, side: float, size: int) -> np.ndarray:
    """The window of ``cropped`` out of a picture; outside the picture it is black. Area-filtered when shrinking."""
    shrink, back = crop_plan(x0, y0, side, size)
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, back, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def undistort(camera: Camera, image: np.ndarray) -> np.ndarray:
    """The picture that ``without_distortion(camera)`` would have taken; the picture itself where there is none."""
    if not np.any(camera.dist):
        return image
    return cv2.undistort(image, camera.K, camera.dist)


def rig_center(cameras: Sequence[Camera]) -> np.ndarray:
    """The world point nearest to every optical axis (least squares), where the subject sits.  # 3

    Raises ValueError when the axes do not fix a point (one camera, or all parallel).
    """
    axes = np.array([camera.R[2] for camera in cameras])  # N,3
    centers = np.array([camera.center for camera in cameras])
    away = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # N,3,3 projectors off each axis
    system = away.sum(0)
    if np.linalg.cond(system) > 1e6:
        raise ValueError("the optical axes of these cameras do not meet: at least two must look from different sides")
    return np.linalg.solve(system, np.einsum("nij,nj->i", away, centers))
