"""What a warm frame needs on a device, by name: what comes in, goes out, is kept by a track, and room to work in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from fusion_server.surface import comparable, photometric, silhouette, skin
from fusion_server.surface.base import View
from fusion_server.surface.cuda.indices import levelled
from fusion_server.surface.cuda.memory import Packed
from fusion_server.surface.refine import Step
from fusion_server.surface.warm import Track
from geometry.device import Library

F64, F32, I64, I32, I8, U8 = torch.float64, torch.float32, torch.int64, torch.int32, torch.int8, torch.uint8
SUMS = 14  # a face and height keeps, as in photometric.cu: 4 sums, 4 of squares, 6 of products
RIGID_SUMS, CHUNKS, CONTOUR_CHUNKS = 27, 2048, 8192  # as in pixels.cu and rigid.cu
THREADS = 256  # of a block, as in kernel.h
SLOTS, PLACE, VIEWS = 4, 12, 3  # as in photometric.cu
_LEAST_SIZES = 2  # of pictures: iterations of a head that moved far compare halved ones


@dataclass(frozen=True, eq=False)
class Level:
    """Maps of all views at one resolution, their cameras, and what a rasteriser draws there. times: metres a pixel, to
    those of the finest."""

    times: float
    normal: torch.Tensor
    trust: torch.Tensor
    distance: torch.Tensor
    inside: torch.Tensor
    matrix: torch.Tensor
    focal: torch.Tensor
    intrinsics: torch.Tensor
    known: torch.Tensor
    screen: torch.Tensor
    words: torch.Tensor
    large: torch.Tensor
    large_count: torch.Tensor
    face: torch.Tensor
    bary: torch.Tensor
    depth: torch.Tensor


@dataclass(frozen=True)
class Sizes:
    """Of views (height, width: of their maps; picture: a picture's shape) and of a topology; groups: of vertices that
    follow the skin alike, none where it is not followed."""

    views: int
    height: int
    width: int
    picture: tuple[int, ...]
    vertices: int
    faces: int
    edges: int
    groups: int

    @property
    def pyramid(self) -> list[tuple[int, int]]:
        """Rows and columns of the pictures and of each half of them, as far as one is worth to be compared."""
        sizes = [(self.picture[0], self.picture[1])]
        while len(sizes) < _LEAST_SIZES or (self.groups and min(sizes[-1]) > 2 * comparable.AROUND):
            rows, columns = sizes[-1]
            sizes.append((-(-rows // 2), -(-columns // 2)))
        return sizes

    @classmethod
    def of(cls, views: Sequence[View], track: Track, photometric: bool) -> Sizes:
        """Of a track's frames; without photometry a picture is one pixel."""
        picture = views[0].picture_shape if photometric else (1, 1)
        height, width = views[0].shape
        topology = track.topology
        vertices, faces, edges = len(topology.start) - 1, len(topology.faces), len(topology.edges)
        groups = len(track.skin.groups.start) - 1 if photometric and track.skin is not None else 0
        return cls(len(views), height, width, picture, vertices, faces, edges, groups)

    def inbox(self, device: torch.device) -> Packed:
        """What a frame brings: numbers and pictures, and last the maps, which may be on the device already."""
        v, maps = self.views, (self.views, self.height, self.width)
        cameras = {
            "matrix": (v, 3, 4), "rotation": (v, 3, 3), "center": (v, 3), "focal": (v,), "intrinsics": (v, 4),
            "inverse": (v, 3, 3), "known": (v, 4), "fine_matrix": (v, 3, 4), "fine_center": (v, 3), "fine_focal": (v,),
            "start": (self.vertices, 3), "rest": (6,), "share": (1,),
        }  # fmt: skip
        spec = {name: (shape, F64) for name, shape in cameras.items()}
        spec |= {"image": ((v, *self.picture), U8), "normal": ((*maps, 3), F32)}
        return Packed(spec | {"confidence": (maps, F32), "mask": (maps, F32)}, device)

    def outbox(self, device: torch.device) -> Packed:
        """What a frame gives; see ``warm.Warm`` and ``quality.Fit``. moved: whether it took an iteration more.
        likeness: what ``skin.uncorrelated`` takes."""
        numbers = {
            "vertices": (self.vertices, 3), "middle": (3,), "share": (1,), "wanted": (6,), "residual": (1,),
            "likeness": (6,),
        }  # fmt: skip
        counts = {"counts": ((self.views, 2), I64), "inverted": ((1,), I64), "moved": ((1,), I32)}
        return Packed(
            {name: (shape, F64) for name, shape in numbers.items()} | counts | {"blind": ((self.views,), I8)}, device
        )

    def levels(self, library: Library, inbox: Packed) -> tuple[Level, Level, Level]:
        """The finest maps, those of half the size, and those of a quarter."""
        made = []
        v, height, width = self.views, self.height, self.width
        for times in (1.0, 2.0, 4.0):
            maps = v, height, width
            given = {
                "normal": ((*maps, 3), F32), "matrix": ((v, 12), F64), "focal": ((v,), F64),
                "intrinsics": ((v, 4), F64), "known": ((v, 4), F64),
            }  # fmt: skip
            own = {
                "trust": (maps, F32), "distance": (maps, F32), "inside": (maps, I8),
                "screen": ((v, self.vertices, 3), F64), "words": (maps, I64), "large": ((v * self.faces,), I32),
                "large_count": ((1,), I32), "face": (maps, I32), "bary": ((*maps, 2), F32), "depth": (maps, F32),
            }  # fmt: skip
            tensors = {name: library.empty(*kind) for name, kind in own.items()}
            tensors |= {n: inbox[n] if times == 1.0 else library.empty(*kind) for n, kind in given.items()}
            made.append(Level(times, **tensors))
            height, width = -(-height // 2), -(-width // 2)
        return made[0], made[1], made[2]

    def buffers(self, library: Library, steps: Sequence[Step]) -> dict[str, torch.Tensor]:
        """Room to work in, for iterations of these kinds."""
        v, p, f, e = self.views, self.vertices, self.faces, self.edges
        maps, half = (v, self.height, self.width), (v, -(-self.height // 2), -(-self.width // 2))
        places, blocks = v * (e + p), -(-p // THREADS)
        heights = max(2 * round(step.reach / step.step) + 1 for step in steps)
        turns = max(step.solver_steps for step in steps)
        pictures = v, *self.picture[:2]
        sizes, g = self.pyramid, self.groups
        pixels = [v * height * width for height, width in sizes]
        kinds = {
            F64: {
                "x1": (p, 3), "x2": (p, 3), "normals": (p, 3), "face_normals": (f, 3), "areas": (f,), "lengths": (f,),
                "edge": (1,), "mean_area": (1,), "row_trust": (v, self.height), "mean_trust": (1,), "away": (v,),
                "fine_away": (v,), "pixel": (2,), "fine_pixel": (2,), "fused": (f, 3), "fused_weight": (f,),
                "agreement": (f,), "center": (3,), "rendered": (*half, 3), "parts": (v, RIGID_SUMS, CHUNKS),
                "rigid_sums": (v, RIGID_SUMS), "contour_parts": (RIGID_SUMS, CONTOUR_CHUNKS),
                "contour_sums": (RIGID_SUMS,), "contour_weight": (1,), "step": (6,), "motion": (12,), "largest": (1,),
                "share": (places,), "gradient": (places, 3), "want": (places,), "weight": (places,), "off": (places,),
                "off_middle": (2,), "tilt_sums": (2,), "search": (6,), "samples": (9, 2), "places": (f, SLOTS, PLACE),
                "points": (p, 3), "variance": (p,), "point_want": (p,), "point_weight": (p,), "pull": (p,),
                "agreed": (f,), "agreed_middle": (2,), "pull_middle": (2,), "trusted": (1,), "wanted": (f, 3),
                "wanted_weight": (f,), "diagonal": (p,), "beside": (e,), "right": (p,), "move": (p,), "cg_r": (p,),
                "cg_z": (p,), "cg_p": (2, p), "cg_q": (p,), "cg_parts": (2 + 2 * turns, blocks), "pose_sums": (12,),
                "carried": (p, 3), "residuals": (f,), "matrices": (len(sizes), v, 12), "covers0": (1,), "covers1": (1,),
                "asked": (p if g else 0, 9), "group_system": (g, 6), "group_right": (g, 3), "group_diagonal": (g, 6),
                "group_inverse": (g, 6), "group_r": (g, 3), "group_z": (g, 3), "group_p": (g, 3), "group_q": (g, 3),
                "motions": (g, 3), "ways": (g,), "between": (2,), "usual": (1,), "most": (1,), "onto": (v, 6),
            },
            F32: {
                "across": maps, "soft": maps, "grey_across": pictures, "greys": (sum(pixels),),
                "comparable0": pictures if g else (0,), "comparable1": pictures if g else (0,),
                "facing": (v, p if g else 0),
                "sums": (f, SUMS, heights), "flatness": (p, heights), "curves0": (p, heights), "curves1": (p, heights),
                "contrast0": (p,), "contrast1": (p,),
            },
            I64: {"area": maps, "pieces": (v, 4), "votes": (f, 4), "residual_counts": (f,)},
            I32: {"label": maps, "off_count": (1,), "level0": (1,), "level1": (1,)},
            I8: {"slots": (f, SLOTS), "best": (p, VIEWS), "folded": (f,), "marked": (p,),
                 "on_subject": pictures if g else (0,)},
        }  # fmt: skip
        made = {n: library.zeros(shape, kind) for kind, shapes in kinds.items() for n, shape in shapes.items()}
        assert max(step.halvings for step in steps) < len(sizes)
        for n, (part, size) in enumerate(zip(made["greys"].split(pixels), sizes, strict=True)):
            made |= {f"grey{n}": part.view(v, *size), f"matrix{n}": made["matrices"][n]}
        made["pull"].fill_(-1.0)  # where pictures are not compared, they pull nowhere
        return made


def kept_of(track: Track, cameras: Sequence[str], library: Library) -> dict[str, torch.Tensor]:
    """What a track keeps of its keyframe (``Rest``, ``Bias``, ``Skin``; by cameras in this order), and tables."""
    pose, bias, topology = track.pose, track.bias, track.topology
    none = np.zeros(len(topology.edges) + len(pose.vertices))
    inner, inner_start = levelled(pose.unseen, topology.start, topology.neighbour)
    middle = pose.vertices[~pose.unseen].mean(0) if not pose.unseen.all() else np.zeros(3)
    arrays = {
        "tilt": (bias.tilt, np.float64), "height_bias": (bias.height, np.float64),
        "outline": (np.stack([bias.outline.get(name, none) for name in cameras]), np.float64),
        "pose": (pose.vertices, np.float64), "pose_middle": (middle, np.float64), "unseen": (pose.unseen, np.int8),
        "rest_height": (pose.height, np.float64), "layout": (pose.layout, np.float64),
        "inner": (inner, np.int32), "inner_start": (inner_start, np.int32),
        "quantile": (silhouette._NORMAL_QUANTILE, np.float32), "mask_taps": (_taps(silhouette._BLUR), np.float32),
        "picture_taps": (_taps(photometric._BLUR), np.float32),
    }  # fmt: skip
    if track.skin is not None:
        groups = track.skin.groups
        for size in range(len(skin._FOOTPRINTS)):
            arrays[f"expected{size}"] = track.skin.expected(cameras, size), np.float32
        arrays["links"] = groups.links, np.float64
        for name in ("of", "first", "member", "start", "neighbour"):
            arrays[f"group_{name}"] = getattr(groups, name), np.int32
    return {name: library.up(array, kind) for name, (array, kind) in arrays.items()}


def _taps(sigma: float) -> np.ndarray:
    """The half of cv2's Gaussian of float pictures, from the middle on."""
    size = round(8 * sigma + 1) | 1
    return cv2.getGaussianKernel(size, sigma, cv2.CV_32F)[size // 2 :, 0]
