"""Pixels of two views that show the same point of a surface, drawn at random on the device of the depth maps.

``models.matches`` finds all of them, for evaluation; a step of training needs some, of many sets at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_pairs(
    depth: Tensor, normal: Tensor, K: Tensor, R: Tensor, t: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Places in flat maps (V, H, W) of a pixel and of the nearest one in another view that sees its point.  # B,P,2

    depth: (B, V, H, W) along z, 0 where nothing is; normal: (B, V, H, W, 3) of any length, in camera frames; K, R
    (B, V, 3, 3), t (B, V, 3): pinholes. Looks at ``count`` random pixels of each set; -1 where there is nothing, or the
    other view does not show it: as in ``matches.surface_matches`` the point must face both views, and the four pixels
    around its place must have depth and lie, interpolated, within one pixel's footprint of it.
    """
    batch, views, height, width = depth.shape
    if views == 1:
        return depth.new_full((batch, count, 2), -1, dtype=torch.int64)

    def draw(below: int) -> Tensor:
        return torch.randint(below, (batch, count), generator=generator, device=depth.device)

    def of(values: Tensor, view: Tensor) -> Tensor:
        """What belongs to a view each: (B, V, ...) -> (B, P, ...)."""
        return values[torch.arange(batch, device=depth.device)[:, None], view]

    one, row, column = draw(views), draw(height), draw(width)
    other = (one + 1 + draw(views - 1)) % views
    depths = depth.float().flatten(1)  # B,VHW
    first = (one * height + row) * width + column
    z = depths.gather(1, first)
    pixel = torch.stack([column, row, torch.ones_like(row)], -1).float()
    rays = (of(torch.linalg.inv_ex(K)[0], one) @ pixel[..., None])[..., 0]  # inv would make the host wait
    turn, back = of(R, one), of(R, other)
    points = ((rays * z[..., None] - of(t, one))[..., None, :] @ turn)[..., 0, :]  # B,P,3 world
    way = normal.flatten(1, 3).gather(1, first[..., None].expand(-1, -1, 3)).float()
    eye = -(of(t, other)[..., None, :] @ back)[..., 0, :]
    facing = ((way[..., None, :] @ turn)[..., 0, :] * (eye - points)).sum(-1) > 0
    there = (back @ points[..., None])[..., 0] + of(t, other)
    ahead = there[..., 2].clamp(min=1e-6)
    lens = of(K, other)
    at = (lens @ (there / ahead[..., None])[..., None])[..., :2, 0]
    corner = at.floor()
    inside = (corner >= 0).all(-1) & (corner[..., 0] < width - 1) & (corner[..., 1] < height - 1)
    corner = torch.where(inside[..., None], corner, 0.0)
    right, down = (at - corner).unbind(-1)
    left, top = corner.long().unbind(-1)
    far, nearest = torch.zeros_like(z), torch.full_like(z, torch.inf)
    for y, x, weight in (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    ):
        shown = depths.gather(1, (other * height + top + y) * width + left + x)
        far, nearest = far + weight * shown, torch.minimum(nearest, shown)
    seen = (z > 0) & facing & (there[..., 2] > 0) & inside & (nearest > 0)
    seen &= (far - ahead).abs() < ahead / lens[..., 0, 0]
    second = (other * height + top + down.round().long()) * width + left + right.round().long()
    return torch.where(seen[..., None], torch.stack([first, second], -1), -1)
