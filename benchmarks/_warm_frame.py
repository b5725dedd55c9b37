"""The warm frame that stays on a device: its launches group by group against memory's floor, captured or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fusion_server.sight.resident import resident
from fusion_server.surface import SurfaceSettings, View
from fusion_server.surface.cuda import CudaKernels
from fusion_server.surface.cuda.frame import WarmFrame
from fusion_server.surface.warm import WARM, Track
from geometry.device import Lane
from geometry.rasterize.cuda import CudaRasterizer

Timed = Callable[[Callable[[], Any]], tuple[float, float]]  # milliseconds by the wall, by CUDA events


def groups_of(frame: WarmFrame, track: Track, views: Sequence[View]) -> dict[str, tuple[Callable[[], None], float]]:
    """Groups of launches in a frame's order, and the bytes that each must at least read and write on a device."""
    go, (fine, half, _) = frame.launches, frame.launches.levels
    pixels, coarse, pictures = fine.trust.numel(), half.trust.numel(), sum(view.image.size for view in views)
    grey = sum(view.image.shape[0] * view.image.shape[1] for view in views)
    count, faces, ends = len(track.vertices), len(track.topology.faces), len(track.topology.neighbour)
    edges, inner = ends // 2, int(track.pose.unseen.sum())
    places, heights = len(views) * (edges + count), 2 * round(WARM.reach / WARM.step) + 1
    pose = count * 48 + faces * (12 + 24 + 8 + 8)  # vertices in, normals out; corners in, face normals and areas out
    drawn = len(views) * (count * 48 + faces * 84)
    contours = len(views) * (edges * 8 + count * 48) + places * 8
    seen = len(views) * (count * 0.4)  # vertices that a view sees well, about
    x = frame.outbox["vertices"]
    sums = go.buffer["sums"]

    def settle() -> None:
        go.refine(WARM, compare=False)

    skin = go.skin
    follow = {} if skin is None else {
        # Pictures as coarse as those that are compared, their sums, one round of groups.
        "following the skin": (
            skin.follow,
            32 * grey / 4 ** int(go.buffer["level1"]) + seen * (8 + 48) + count * (48 + 2 * 72 + 4 * 24 + 24),
        ),
    }  # fmt: skip
    return {
        "masks, maps, pictures": (go.observe, pixels * 17 + 2 * coarse * 21 + pictures + 4 * grey),
        "a pose's normals": (lambda: go.shape(x), pose),
        "look: rasterise, fuse": (lambda: go.look(fine), pose + drawn + pixels * (3 * 8 + 16 + 24) + faces * 96),
        "a rigid step": (
            lambda: go.rigid_step(half, x, 10e-3, 0.3, 1.0, go.buffer["step"]),
            pose + drawn + coarse * (3 * 8 + 16 + 36 + 24 * 2) + contours + places * 8,
        ),
        **follow,
        "contours and their median": (lambda: go.contours(fine, x, WARM.gate, WARM.scale), contours),
        "search on the pictures": (
            lambda: go.compare(WARM), 4 * grey + 2 * sums.nbytes + faces * 384 * 2 + count * heights * 4 * 8
        ),
        "the rest of an iteration": (
            settle,
            contours + 2 * places * 8 + count * 200 + ends * 40 + faces * 120
            + WARM.solver_steps * (ends * 16 + count * 72) + 4 * pose + 5 * count * 48,
        ),
        "what nobody sees": (go.carry, count * 96 + 20 * inner * 24 * 8),
        "the last look": (
            go.judge, pose + drawn + coarse * (3 * 8 + 16 + 36 + 24 * 3) + contours + faces * 150
        ),
    }  # fmt: skip


def room_of(frame: WarmFrame) -> int:
    """Bytes that a frame holds on its device."""
    go = frame.launches
    levels = [value for level in go.levels for value in vars(level).values() if isinstance(value, torch.Tensor)]
    held = [*levels, *go.buffer.values(), *go.kept.values(), frame.inbox["image"], frame.outbox["vertices"]]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())


def measured(
    kernels: CudaKernels,
    rasterizer: CudaRasterizer,
    track: Track,
    views: Sequence[View],
    settings: SurfaceSettings,
    timed: Timed,
    speed: float,
) -> dict[str, Any]:
    """Milliseconds: groups of launches, and whole frames (wall, device) launched one by one, as a graph, and as a graph
    with maps that are on the device. How many launches a frame is, how many of them had something to do (0 where a GPU
    does not tell), and the bytes that it holds there. speed: bytes a second."""
    report: dict[str, Any] = {"groups": {}, "frames": {}}
    with kernels.stream():
        plain = kernels.warm_frame(track, views, rasterizer, settings, graph=False)
        libraries = plain.launches.libraries.values()
        before = np.sum([library.launched for library in libraries], 0)
        first = plain(views, track)
        report["launches"], report["at_work"] = (np.sum([each.launched for each in libraries], 0) - before).tolist()
        report["bytes"] = room_of(plain)
        for name, (call, moved) in groups_of(plain, track, views).items():
            wall, event = timed(call)
            report["groups"][name] = {"call_ms": wall, "device_ms": event, "floor_ms": 1e3 * moved / speed}
        captured = kernels.warm_frame(track, views, rasterizer, settings)
        captured(views, track)
        there = resident(views, Lane(plain.inbox["normal"].device))
        ways = {"launched": (plain, views), "captured": (captured, views), "captured, maps there": (captured, there)}
        for name, (frame, given) in ways.items():
            if frame is captured and not captured.captured:
                continue  # no GPU, no graph
            wall, _ = timed(partial(frame, given, track))
            last = frame(given, track)
            assert first is not None and last is not None
            same = bool(np.array_equal(first.vertices, last.vertices))
            report["frames"][name] = {"wall_ms": wall, **frame.milliseconds(), "same_bits": same}
    return report
