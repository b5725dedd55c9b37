"""What goes into the surface and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from isal.isal_zlib import crc32  # zlib's CRC-32, six times as fast

from geometry.cameras import projection_matrix
from protocol.calibration import Camera
from protocol.errors import HeadstreamError


class SurfaceError(HeadstreamError):
    """No surface can be made of what was observed; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class View:
    """What one camera knows of one frame.

    camera: the pinhole that the maps were made for. normal: (H, W, 3) float32, camera frame, facing means z < 0.
    confidence: (H, W) float32 >= 0, the larger the surer; only ratios within one frame count. mask: (H, W) float32,
    probability of the subject. image: (h, w) or (h, w, 3) uint8 for photometry, taken by image_camera, which stands
    where camera stands and may be finer. valid: (H, W) bool where the picture has something to show, None for
    everywhere; what lies beyond it, or beyond the map, is unknown and no background.
    """

    camera: Camera
    normal: np.ndarray
    confidence: np.ndarray
    mask: np.ndarray
    image: np.ndarray
    image_camera: Camera
    valid: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the normal map."""
        height, width, _ = self.normal.shape
        return height, width

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Of ``image``."""
        return self.image.shape

    @property
    def checksum(self) -> int:
        """Another number when the picture is another."""
        return crc32(np.ascontiguousarray(self.image))


@dataclass(frozen=True)
class Quality:
    """How well the surface explains its frame.

    silhouette_iou: overlap of rendered and observed masks, all views together. normal_residual_deg: median angle
    between surface and observed normals. photometric_residual: how little pictures show of what the keyframe saw at
    its vertices, 0 the same, 1 nothing in common (``skin.unlikeness``); of a keyframe, how little its cameras see
    alike; NaN where no skin is followed. inverted: faces turned against the fused normals or folded over. confidence: 0
    to 1, from these. flags: what a person should know, short words: "lost" (not to be trusted), "uncertain",
    "strange skin" (the shape fits, but its vertices are elsewhere on the skin, or the light is another), "inverted",
    "blind:<camera>" (a view that saw nothing), "disagrees:<camera>" (its mask fits worse than the others'),
    "stuck:<camera>" (its picture no longer changes; left out if enough others are there), "recovered", "new topology".
    """

    silhouette_iou: float
    normal_residual_deg: float
    inverted: int
    confidence: float
    flags: tuple[str, ...] = ()
    photometric_residual: float = float("nan")


@dataclass(frozen=True, eq=False)
class SurfaceFrame:
    """The surface of one frame: world metres, faces counter-clockwise from outside, closed and manifold.

    uv belongs to the corners of faces, not to vertices (USD calls it faceVarying): the atlas has seams, the mesh has
    none. It stays the same object while the topology does.
    """

    vertices: np.ndarray  # P,3
    faces: np.ndarray  # F,3 int32
    uv: np.ndarray | None  # F,3,2 float32
    normals: np.ndarray  # P,3
    kind: str  # "keyframe" or "warm"
    quality: Quality
    seconds: dict[str, float] = field(default_factory=dict)
    iterations: int = 0


@dataclass(frozen=True)
class SurfaceSettings:
    """How the surface is made.

    vertices: of the mesh, about; 0 for as many as the pictures can tell apart. iterations: of a warm frame.
    keyframe_iterations: at full resolution. photometric: whether pictures are compared. polish: iterations more that a
    keyframe gets on pictures of each size, from the usual to the finest, in which normals tell relief alone. stereo:
    sweeps over the pictures for depths: for those that carve a keyframe's hull, before anything else, and for those
    that it is laid onto in the end; 0 for none. The sigmas are the best case; each frame raises them to what its views
    disagree by.
    skin: whether vertices follow what they look like along the surface; it takes ``photometric``.
    hull_cells: along the hull's longest side. uv: whether keyframes get a texture atlas. steady:
    whether what is handed out is filtered against jitter (the track itself never is).
    """

    vertices: int = 10_000
    iterations: int = 1
    keyframe_iterations: int = 12
    polish: int = 0
    stereo: int = 0
    photometric: bool = True
    skin: bool = True
    sigma_normal: float = 0.05  # radians
    sigma_silhouette: float = 0.5  # pixels of the maps
    sigma_photometric: float = 0.15e-3  # metres
    hull_cells: int = 128
    uv: bool = True
    steady: bool = True


@dataclass(frozen=True, eq=False)
class Rig:
    """The cameras of one frame's views as arrays, for kernels."""

    matrix: np.ndarray  # V,3,4 world to homogeneous pixel
    rotation: np.ndarray  # V,3,3 world to camera
    center: np.ndarray  # V,3
    focal: np.ndarray  # V pixels

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> Rig:
        """Stack cameras."""
        return cls(
            np.stack([projection_matrix(camera) for camera in cameras]),
            np.stack([camera.R for camera in cameras]).astype(np.float64),
            np.stack([camera.center for camera in cameras]),
            np.array([0.5 * (camera.K[0, 0] + camera.K[1, 1]) for camera in cameras]),
        )

    def footprint(self, point: np.ndarray) -> float:
        """Metres that a pixel of the middle camera covers at a point (3,)."""
        return float(np.median(np.linalg.norm(self.center - point, axis=1) / self.focal))
