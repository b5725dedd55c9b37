"""The multi-view normal network: pictures and cameras in; normals, confidence and masks out.

Parts, and why each is there:

- **Encoder**: EfficientNet-Lite0 up to stride 32. Cheap on CPUs (no squeeze-and-excite, ReLU6), and its ImageNet
  weights have seen real photographs, which synthetic training data has not. Batch normalisation is written as a gain on
  the weights with the statistics frozen (``Conv``): nothing to fold for an engine, no statistics that a small batch of
  views of one head would skew, and one memory pass less per layer in training.
- **Tokens at stride 16**: stride-16 and stride-32 features plus an embedding of the token's ray (Pluecker coordinates
  in the rig frame, camera-frame direction, place in the picture) and of the camera's side and angle of view.
- **Attention**: alternating blocks look within a view (shape from shading and outline needs the whole picture) and
  across all views. Half of the channels that cross views are 3-vectors, turned from the ray frame of the token that
  sends to the rig frame and from there to the ray frame of the token that receives (after GTA, Miyato et al. 2024): a
  normal or a light direction arrives in the receiver's coordinates, and nobody has to learn rotations from data. Each
  head also subtracts a learned multiple of the squared reciprocal product of the two rays (zero when they meet), so
  that tokens find their epipolar lines from the first step on. There is no view index: any number of views in any
  order.
- **Pooling** (``pool``): what is seen of other views are means over squares of tokens, after the turn to the rig frame.
  With squares of two, keys and values are a quarter and the looks across cost a quarter; they say roughly where
  to look, and the own view's tokens keep their places.
- **Points** (``points``): after each look across the views every token says how far along its ray the surface is, and
  is told so by the truth in training: that is what makes it match views and not only average them. From the second
  look on, tokens also attend by the squared distance between their points, and are told where, in their own ray frame,
  the points that they attended to lie on average: what other views triangulated bends the surface here.
- **Decoder**: additive skips and plain 3 x 3 convolutions (faster than depthwise at few channels), to stride 2; the
  last convolution predicts 2 x 2 pixels at once (sub-pixel), a learned upsampling at a fraction of the cost of a convex
  one. It needs no rays of its own, because of the head:
- **Head**: the normal is predicted in the pixel's ray frame and turned by the ray: equal surfaces look equal wherever
  they stand in the picture and whatever the focal length. Confidence is the concentration of the angular von
  Mises-Fisher distribution (Bae, Budvytis, Cipolla, ICCV 2021).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.rays import LINE_FEATURES, STRIDE, TOKEN_FEATURES

_LITE0 = (  # expansion, output channels, repeats, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; the defaults are ``lite``."""

    dim: int = 192
    heads: int = 4
    blocks: int = 4  # alternating: view, rig, view, rig
    expansion: int = 2
    points: bool = False  # coarse depth of every token, and attention between the points it gives
    pool: int = 1  # looks across views see squares of this many tokens a side as one
    decoder: tuple[int, int, int] = (96, 48, 32)  # channels at strides 8, 4, 2

    def to_dict(self) -> dict[str, object]:
        """Plain values, as the weights file's metadata holds them."""
        return asdict(self)


class NetworkOutput(NamedTuple):
    """Per pixel, float32."""

    normal: Tensor  # B,V,H,W,3 unit, camera frame
    confidence: Tensor  # B,V,H,W kappa > 0
    mask: Tensor  # B,V,H,W logit in training, probability in NormalNetwork.infer


class Conv(nn.Module):
    """A convolution whose weights carry a gain per output channel (a batch normalisation with frozen statistics)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.gain = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride, self.groups, self.padding = stride, groups, kernel // 2
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the gain into the weights for good: an engine then does not do it for every picture."""
        if self.gain is not None:
            self.weight.mul_(self.gain[:, None, None, None])
            self.gain = None

    def forward(self, x: Tensor) -> Tensor:
        """Input B,C,H,W; output B,C',H',W'."""
        weight = self.weight if self.gain is None else self.weight * self.gain[:, None, None, None]
        if self.groups > 1 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):  # there, bf16 backward of depthwise is 3 to 7 times slower
                return F.conv2d(x.float(), weight, self.bias, self.stride, self.padding, groups=self.groups)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class InvertedResidual(nn.Module):
    """EfficientNet-Lite's block: expand, depthwise, project, with a residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Conv(inputs, wide) if expansion > 1 else None
        self.depthwise = Conv(wide, wide, kernel, stride, groups=wide)
        self.project = Conv(wide, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Input B,C,H,W; output B,C',H/stride,W/stride."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Encoder(nn.Module):
    """EfficientNet-Lite0 without its last stage and classifier; features at strides 2, 4, 8, 16, 32."""

    channels = (16, 24, 40, 112, 192)

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        self.taps: list[int] = []
        inputs = 32
        for stage, (expansion, outputs, repeats, stride, kernel) in enumerate(_LITE0):
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride if i == 0 else 1, kernel))
                inputs = outputs
            if stage != 3:  # stages 3 and 4 share stride 16
                self.taps.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures B,3,H,W, about -1..1."""
        x = F.relu6(self.stem(x))
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                features.append(x)
        return features


class AttentionBlock(nn.Module):
    """Pre-norm attention and MLP; tokens see all views, with camera geometry (``across``), or only their own.

    points: tokens that look across also weigh how near their points in space are. pool: what they see are means over
    squares of this many tokens a side.
    """

    def __init__(self, dim: int, heads: int, expansion: int, across: bool, points: bool = False, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        self.heads, self.across, self.head_dim = heads, across, dim // heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))
        if across:
            self.sharpness = nn.Parameter(torch.linspace(0.0, 4.0, heads))  # log of the epipolar weight
        if points:
            self.closeness = nn.Parameter(torch.linspace(-1.0, 3.0, heads))  # log of the weight of squared distance
            self.offset = nn.Linear(3 * heads, dim, bias=False)
            nn.init.zeros_(self.offset.weight)
        for layer in (self.out, self.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02 / 2)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, grid: tuple[int, int], frames: Tensor, lines: Tensor, points: Tensor | None = None
    ) -> Tensor:
        """Tokens B,V,N,C of rows x columns = grid; frames B,V,N,9; lines B,V,N,2,LINE_FEATURES; points B,V,N,3 in the
        rig frame."""
        x = x + (self._across(x, grid, frames, lines, points) if self.across else self._within(x))
        return x + self.mlp(self.norm2(x))

    def _within(self, x: Tensor) -> Tensor:
        batch, views, count, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch * views, count, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each BV,h,N,c
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, views, count, dim))

    def _across(
        self, x: Tensor, grid: tuple[int, int], frames: Tensor, lines: Tensor, points: Tensor | None = None
    ) -> Tensor:
        batch, views, count, dim = x.shape
        total = views * count
        # Six groups of channels: x, y, z of vectors, and three of scalars. A head takes its share of every group.
        groups = self.qkv(self.norm1(x)).reshape(batch, total, 3, 6, dim // 6)
        turn = frames.reshape(batch, total, 1, 9, 1)
        qkv = torch.cat([_rotate(groups[:, :, :, :3], turn, inverse=False), groups[:, :, :, 3:]], dim=3)
        q = self._by_head(qkv[:, :, 0])
        k, v = (self._by_head(part) for part in self._seen(qkv[:, :, 1:], views, grid).unbind(2))
        near = lines.reshape(batch, total, 2, LINE_FEATURES).to(q.dtype)
        weight = self.sharpness.exp().to(q.dtype)[:, None, None]
        q = torch.cat([q * self.head_dim**-0.5, near[:, None, :, 0] * weight], -1)
        k = torch.cat([k, self._seen(near[:, :, 1], views, grid)[:, None].expand(-1, self.heads, -1, -1)], -1)
        if points is not None:  # -w |p_i - p_j|^2 but for what is the same for all j: w (2 p_i p_j - |p_j|^2)
            place = points.reshape(batch, 1, total, 3).to(q.dtype)
            weight = self.closeness.exp().to(q.dtype)[:, None, None]
            q = torch.cat([q, 2 * weight * place, -weight.expand(batch, -1, total, 1)], -1)
            here = torch.cat([place, place.square().sum(-1, keepdim=True).to(q.dtype)], -1)[:, 0]
            here = self._seen(here, views, grid)[:, None].expand(-1, self.heads, -1, -1)
            k = torch.cat([k, here], -1)
            v = torch.cat([v, here[..., :3]], -1)
        v = F.pad(v, (0, q.shape[-1] - v.shape[-1]))  # fused attention wants one width
        seen = F.scaled_dot_product_attention(q, k, v, scale=1.0)  # B,h,VN,c; keys and values are fewer where pooled
        y = seen[..., : self.head_dim].reshape(batch, self.heads, total, 6, -1)
        y = y.permute(0, 2, 3, 1, 4).reshape(batch, total, 1, 6, dim // 6)
        y = torch.cat([_rotate(y[:, :, :, :3], turn, inverse=True), y[:, :, :, 3:]], dim=3)
        out = self.out(y.reshape(batch, views, count, dim))
        if points is not None:
            offset = (seen[..., self.head_dim : self.head_dim + 3] - place).permute(0, 2, 3, 1)  # B,VN,3,h
            offset = _rotate(offset, turn[:, :, 0], inverse=True).reshape(batch, views, count, 3 * self.heads)
            out = out + self.offset(offset)
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        """Channels in six groups, B,T,6,dim/6 -> B,h,T,c: every head takes its share of every group."""
        batch, total = x.shape[:2]
        return x.reshape(batch, total, 6, self.heads, -1).permute(0, 3, 1, 2, 4).reshape(batch, self.heads, total, -1)

    def _seen(self, x: Tensor, views: int, grid: tuple[int, int]) -> Tensor:
        """What tokens (B, T, ...) look like from other views: means over squares.  # B,T',..."""
        if self.pool == 1:
            return x
        batch, _, *shape = x.shape
        maps = x.reshape(batch * views, *grid, -1).permute(0, 3, 1, 2)
        maps = F.avg_pool2d(maps, self.pool, ceil_mode=True, count_include_pad=False)
        return maps.permute(0, 2, 3, 1).reshape(batch, -1, *shape)


class Decoder(nn.Module):
    """From stride 16 to stride 2 with skips, then 2 x 2 pixels at once; five raw values a pixel."""

    def __init__(self, dim: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        inputs = (dim, *channels[:-1])
        skips = Encoder.channels[2::-1]  # strides 8, 4, 2
        self.narrow = nn.ModuleList(Conv(a, b) for a, b in zip(inputs, channels, strict=True))
        self.skip = nn.ModuleList(Conv(a, b) for a, b in zip(skips, channels, strict=True))
        self.refine = nn.ModuleList(
            nn.ModuleList(Conv(c, c, 3) for _ in range(repeats)) for c, repeats in zip(channels, (2, 2, 1), strict=True)
        )
        self.head = Conv(channels[-1], 5 * 4, 3)
        nn.init.normal_(self.head.weight, std=0.01)
        with torch.no_grad():
            self.head.bias.view(5, 4).copy_(torch.tensor([0.0, 0.0, -0.5, 4.0, 0.0])[:, None])  # facing the camera

    def forward(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Tokens as an image B,C,H/16,W/16 and encoder features; output B,5,H,W."""
        for narrow, skip, refine, feature in zip(self.narrow, self.skip, self.refine, features[2::-1], strict=True):
            x = F.interpolate(narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False) + skip(feature)
            y = x
            for conv in refine:
                y = conv(F.relu(y))
            x = x + y
        return F.pixel_shuffle(self.head(F.relu(x)), 2)


class NormalNetwork(nn.Module):
    """See the module's text. Sizes in ``NetworkConfig``; the lite network has about 4 million parameters."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        if config.dim % (6 * config.heads):
            raise ValueError(f"dim is {config.dim}; it must be a multiple of 6 x {config.heads} heads")
        if config.pool < 1:
            raise ValueError(f"pool is {config.pool}; it must be 1 or more tokens a side")
        dim = config.dim
        self.encoder = Encoder()
        self.lift = Conv(self.encoder.channels[3], dim)
        self.lift_coarse = Conv(self.encoder.channels[4], dim)
        self.embed = nn.Sequential(nn.Linear(TOKEN_FEATURES, dim), nn.GELU(), nn.Linear(dim, dim))
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            AttentionBlock(
                dim, config.heads, config.expansion, i % 2 == 1, config.points and i % 2 == 1 and i > 1, config.pool
            )
            for i in range(config.blocks)
        )
        self.depths = nn.ModuleList(nn.Linear(dim, 1) for _ in range(config.blocks // 2 if config.points else 0))
        for head in self.depths:
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, -0.4)  # in front of the middle of what the cameras look at
        self.decoder = Decoder(dim, config.decoder)

    def forward(
        self, images: Tensor, direction: Tensor, tokens: Tensor, frames: Tensor, lines: Tensor
    ) -> NetworkOutput:
        """Pictures B,V,H,W,3 RGB 0..255 (uint8 or float) and ``rays.CameraInputs`` with a batch axis in front.

        H and W are multiples of 16. The mask is a logit.
        """
        return self.with_depths(images, direction, tokens, frames, lines)[0]

    def with_depths(
        self, images: Tensor, direction: Tensor, tokens: Tensor, frames: Tensor, lines: Tensor
    ) -> tuple[NetworkOutput, list[Tensor]]:
        """As ``forward``, and each token's depth (B, V, N) as it was known after every look across the views.

        Depth is what ``rays.depth_along`` gives: in units of the rig, along the ray, from where it passes the rig's
        middle. Without ``points`` the list is empty.
        """
        batch, views, height, width, _ = images.shape
        kind = self.encoder.stem.weight.dtype  # float32 but in an engine that has made the network smaller
        x = images.to(kind)  # first: TensorRT can do nothing else to uint8
        x = x.reshape(batch * views, height, width, 3).permute(0, 3, 1, 2)
        x = ((x - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        features = self.encoder(x)
        x = self.lift(features[3])
        coarse = self.lift_coarse(features[4])
        x = x + F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
        rows, columns = height // STRIDE, width // STRIDE
        x = x.flatten(2).transpose(1, 2).reshape(batch, views, rows * columns, -1)
        x = self.norm_in(x) + self.embed(tokens.to(kind))
        depths: list[Tensor] = []
        points = None
        for i, block in enumerate(self.blocks):
            x = block(x, (rows, columns), frames, lines, points if block.across else None)
            if self.config.points and block.across:
                depths.append(self.depths[i // 2](x).squeeze(-1).float())
                points = _points(tokens, depths[-1].detach())
        x = self.norm_out(x).reshape(batch * views, rows, columns, -1).permute(0, 3, 1, 2)
        raw = self.decoder(x, features).float().reshape(batch, views, 5, height, width)
        unit = F.normalize(raw[:, :, :3], dim=2, eps=1e-6)  # here planes lie apart: across three neighbours it is slow
        normal = _from_ray_frame(unit, direction)
        return NetworkOutput(normal, F.softplus(raw[:, :, 3]) + 0.05, raw[:, :, 4]), depths

    def infer(self, images: Tensor, direction: Tensor, tokens: Tensor, frames: Tensor, lines: Tensor) -> NetworkOutput:
        """As ``forward``, with the mask as a probability."""
        output = self(images, direction, tokens, frames, lines)
        return output._replace(mask=output.mask.sigmoid())


def _rotate(vectors: Tensor, turn: Tensor, inverse: bool) -> Tensor:
    """Rotate channel groups (..., 3, c) by matrices (..., 9, 1), or by their transposes."""
    x, y, z = vectors.unbind(-2)
    m = turn.unbind(-2)
    order = (0, 3, 6, 1, 4, 7, 2, 5, 8) if inverse else range(9)
    a, b, c, d, e, f, g, h, i = (m[k] for k in order)
    return torch.stack([a * x + b * y + c * z, d * x + e * y + f * z, g * x + h * y + i * z], -2)


def _points(tokens: Tensor, depth: Tensor) -> Tensor:
    """Where the tokens' rays are at a depth (B, V, N), in the rig frame.  # B,V,N,3"""
    ray, moment = tokens[..., :3], tokens[..., 3:6]
    return torch.linalg.cross(ray, moment) + depth[..., None] * ray


def _from_ray_frame(normal: Tensor, direction: Tensor) -> Tensor:
    """Ray-frame vectors (B, V, 3, H, W) to the camera frame (B, V, H, W, 3), by ``rays.ray_frames`` written out."""
    u, v, w = normal.unbind(2)
    x, y, z = direction.permute(0, 1, 4, 2, 3).unbind(2)  # engines split and join planes for nothing, pixels dearly
    side = u * x + v * y
    bend = side / (1 + z) - w
    return torch.stack([u - x * bend, v - y * bend, w * z - side], 2).permute(0, 1, 3, 4, 2)
