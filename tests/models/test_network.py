from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_doubles import TINY, ball, ring, tiny_network

from models.network import AttentionBlock, NetworkConfig, NormalNetwork, _from_ray_frame
from models.rays import LINE_FEATURES, camera_inputs, ray_frames, stack_cameras


def run(network, images, cameras):
    size = images.shape[1:3]
    inputs = camera_inputs(*stack_cameras(cameras), *size)
    with torch.no_grad():
        output = network.infer(torch.from_numpy(images)[None], *(torch.from_numpy(a)[None] for a in inputs))
    return [value[0].numpy() for value in output]


POINTS = replace(TINY, blocks=4, points=True)
KINDS = {"plain": TINY, "points": POINTS, "pooled": replace(POINTS, pool=2)}


@pytest.fixture(scope="module", params=KINDS)
def network(request) -> NormalNetwork:
    return tiny_network(config=KINDS[request.param])


def test_lite_has_at_most_five_million_parameters():
    assert sum(p.numel() for p in NormalNetwork(NetworkConfig()).parameters()) <= 5_000_000


@pytest.mark.parametrize(("views", "size"), [(1, 32), (3, 48), (16, 32)])
def test_any_number_of_views_and_any_multiple_of_16(network, views, size):
    cameras = ring(views, size)
    images, _, _ = ball(cameras, 0.2, np.random.default_rng(1))
    normal, confidence, mask = run(network, images, cameras)
    assert normal.shape == (views, size, size, 3) and confidence.shape == mask.shape == (views, size, size)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    assert (confidence > 0).all() and (mask >= 0).all() and (mask <= 1).all()


def test_order_of_the_views_does_not_matter(network):
    cameras = ring(4, 48)
    images, _, _ = ball(cameras, 0.2, np.random.default_rng(2))
    order = [2, 0, 3, 1]
    plain = run(network, images, cameras)
    shuffled = run(network, images[order], [cameras[i] for i in order])
    for a, b in zip(plain, shuffled, strict=True):
        np.testing.assert_allclose(a[order], b, atol=2e-4)


def test_views_inform_each_other(network):
    cameras = ring(3, 48)
    images, _, _ = ball(cameras, 0.2, np.random.default_rng(3))
    other = images.copy()
    other[2] = 255 - other[2]
    a, b = run(network, images, cameras), run(network, other, cameras)
    assert np.abs(a[0][0] - b[0][0]).max() > 1e-3


def test_sets_of_a_batch_do_not_inform_each_other(network):
    cameras = ring(2, 32)
    inputs = [torch.from_numpy(a)[None] for a in camera_inputs(*stack_cameras(cameras), 32, 32)]
    images = torch.randint(0, 255, (2, 2, 32, 32, 3), dtype=torch.uint8)
    both = network.infer(images, *(a.expand(2, *a.shape[1:]) for a in inputs))
    alone = network.infer(images[1:], *inputs)
    torch.testing.assert_close(both.normal[1:], alone.normal, atol=1e-4, rtol=0)


def test_a_camera_elsewhere_changes_the_prediction(network):
    cameras = ring(2, 48)
    images, _, _ = ball(cameras, 0.2, np.random.default_rng(4))
    turned = [cameras[0], replace(cameras[1], R=ring(5, 48)[1].R, t=ring(5, 48)[1].t)]
    a, b = run(network, images, cameras), run(network, images, turned)
    assert np.abs(a[0][0] - b[0][0]).max() > 1e-4


def test_head_turns_normals_by_the_ray():
    rng = np.random.default_rng(5)
    direction = rng.normal(size=(1, 1, 4, 4, 3)) * (0.3, 0.3, 0) + (0, 0, 1)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    normal = rng.normal(size=(1, 1, 4, 4, 3))
    expected = np.einsum("...ij,...j->...i", ray_frames(direction), normal)
    got = _from_ray_frame(torch.from_numpy(normal).permute(0, 1, 4, 2, 3), torch.from_numpy(direction))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


class _Thrice(torch.nn.Module):
    """Query, key and value are the token itself."""

    def forward(self, x):
        return torch.cat([x, x, x], -1)


def random_turns(count: int) -> torch.Tensor:
    turn = torch.linalg.qr(torch.randn(count, 3, 3)).Q
    return turn * torch.linalg.det(turn)[:, None, None]


@pytest.mark.parametrize("pool", [1, 2])
def test_attention_hands_vectors_over_in_the_receivers_frame(pool):
    torch.manual_seed(0)
    block = AttentionBlock(48, 4, 2, across=True, pool=pool)
    block.qkv, block.norm1, block.out = _Thrice(), torch.nn.Identity(), torch.nn.Identity()
    tokens, frames = torch.randn(10, 6, 8), random_turns(10)  # 6 groups: x, y, z of vectors, three of scalars
    lines = torch.zeros(1, 1, 10, 2, LINE_FEATURES)

    def attend(tokens, frames):
        tokens, frames = tokens.reshape(1, 1, 10, 48), frames.reshape(1, 1, 10, 9)
        return block._across(tokens, (2, 5), frames, lines).reshape(10, 6, 8)

    plain = attend(tokens, frames)
    common = random_turns(1)[0]
    torch.testing.assert_close(attend(tokens, common @ frames), plain, atol=1e-5, rtol=1e-5)  # the world turned

    own = random_turns(10)  # every token's axes turned by its own rotation, its vectors told in the new axes
    told, expected = tokens.clone(), plain.clone()
    told[:, :3] = torch.einsum("tji,tjc->tic", own, tokens[:, :3])
    expected[:, :3] = torch.einsum("tji,tjc->tic", own, plain[:, :3])
    torch.testing.assert_close(attend(told, frames @ own), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(attend(told, frames), expected, atol=1e-2)


def test_points_attend_to_what_is_near_and_tell_where_it_is():
    torch.manual_seed(0)
    block = AttentionBlock(48, 4, 2, across=True, points=True)
    torch.nn.init.zeros_(block.qkv.weight), torch.nn.init.zeros_(block.qkv.bias), torch.nn.init.zeros_(block.out.weight)
    block.closeness.data.fill_(8.0)  # so sharp that only the nearest count
    block.offset.weight.data = torch.eye(48)[:, :12].clone()
    frames, lines = random_turns(4).reshape(1, 1, 4, 9), torch.zeros(1, 1, 4, 2, LINE_FEATURES)
    points = torch.tensor([[0.0, 0, 0], [0.02, 0, 0], [1.0, 0, 0], [1.0, 0.02, 0]]).reshape(1, 1, 4, 3)
    told = block._across(torch.randn(1, 1, 4, 48), (1, 4), frames, lines, points)[0, 0, :, :12].reshape(4, 3, 4)
    pull = torch.softmax(torch.tensor([0.0, -(0.02**2) * np.exp(8.0)]), 0)[1] * 0.02
    world = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]) * pull
    expected = torch.einsum("tji,tj->ti", frames.reshape(4, 3, 3), world)  # in the receiver's ray frame
    torch.testing.assert_close(told, expected[..., None].expand(-1, -1, 4), atol=1e-5, rtol=1e-3)


def test_pooled_tokens_are_means_over_squares_and_what_is_left_at_the_edges():
    block = AttentionBlock(48, 4, 2, across=True, pool=2)
    tokens = torch.arange(2 * 3 * 5, dtype=torch.float32).reshape(1, 2 * 15, 1)  # two views of 3 x 5 tokens
    first = [(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2, (10 + 11) / 2, (12 + 13) / 2, 14]
    expected = torch.tensor(first + [value + 15 for value in first])
    torch.testing.assert_close(block._seen(tokens, 2, (3, 5))[0, :, 0], expected)


def test_depths_come_with_points_only():
    cameras = ring(2, 32)
    inputs = [torch.from_numpy(a)[None] for a in camera_inputs(*stack_cameras(cameras), 32, 32)]
    images = torch.randint(0, 255, (1, 2, 32, 32, 3), dtype=torch.uint8)
    assert tiny_network().with_depths(images, *inputs)[1] == []
    network = tiny_network(config=POINTS)
    output, depths = network.with_depths(images, *inputs)
    assert [depth.shape for depth in depths] == [(1, 2, 4)] * 2
    torch.testing.assert_close(network(images, *inputs).normal, output.normal)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 6 x 4"):
        NormalNetwork(replace(TINY, dim=64))
    with pytest.raises(ValueError, match="pool is 0"):
        NormalNetwork(replace(TINY, pool=0))
