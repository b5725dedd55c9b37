"""A network that has grown answers as before, and its new room learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_doubles import ball, ring, tiny_network

from models.network import NetworkConfig, NormalNetwork
from models.rays import camera_inputs, stack_cameras
from models.training.config import load_config
from models.training.grow import grown
from models.training.train import Trainer
from models.weights import load_network, save_weights
from protocol.errors import HeadstreamError

SMALL = NetworkConfig(dim=48, heads=4, blocks=4, points=True, pool=2, decoder=(16, 12, 8))
GROWTH = {
    "wider": {"dim": 96, "heads": 8},
    "three times as wide": {"dim": 144, "heads": 12},
    "expansion": {"expansion": 3},
    "deeper": {"blocks": 12},
    "decoder": {"decoder": (24, 12, 20)},
    "all": {"dim": 96, "heads": 8, "blocks": 8, "expansion": 4, "decoder": (32, 24, 16)},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """So small a network takes two threads on a busy machine fifty times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(config: NetworkConfig = SMALL) -> NormalNetwork:
    """A network of which no parameter is as it was made: each channel of each layer is another."""
    network = tiny_network(config=config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_((0.2 if parameter.ndim == 1 else 0.05) * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def seen() -> list[torch.Tensor]:
    """Pictures of three views of a ball, and what the network knows of the cameras. Five tokens a side: pools overlap
    the edge."""
    cameras = ring(3, 80)
    images, _, _ = ball(cameras, 0.2, np.random.default_rng(4))
    return [torch.from_numpy(a)[None] for a in (images, *camera_inputs(*stack_cameras(cameras), 80, 80))]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def answers(network: NormalNetwork, seen: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    with torch.no_grad():
        output, depths = network.with_depths(*seen)
    return list(output), depths


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_small_network_uses_all_that_must_be_kept(seen):
    """Else the tests below would say nothing: other views, heads, points, every part of the decoder count."""
    network = trained()
    (normal, _, _), depths = answers(network, seen)
    assert normal.std(dim=(2, 3)).max() > 0.1 and all(depth.std() > 0.05 for depth in depths)
    for name in (
        "blocks.1.sharpness",
        "blocks.3.closeness",
        "blocks.3.offset.weight",
        "depths.0.weight",
        "depths.1.bias",
    ):
        other = trained()
        other.get_parameter(name).data.add_(1.0)
        (changed, _, _), changed_depths = answers(other, seen)
        worst = max(
            float((a - b).abs().max()) for a, b in zip([changed, *changed_depths], [normal, *depths], strict=True)
        )
        assert worst > 1e-2, name


@pytest.mark.parametrize("growth", GROWTH.values(), ids=GROWTH)
def test_a_grown_network_answers_as_before(seen, growth):
    small = trained()
    large = grown(small, replace(SMALL, **growth), generator())
    assert large.config == replace(SMALL, **growth)
    output, depths = answers(small, seen)
    grown_output, grown_depths = answers(large, seen)
    assert_same(grown_output, output)
    pairs = large.config.blocks // 2
    assert_same(grown_depths, [depths[0]] * (pairs // 2) + [depths[1]] * (pairs // 2))


@pytest.mark.parametrize(("old", "new"), [(3, 4), (3, 5), (4, 5), (5, 8), (6, 8), (2, 7)])
def test_any_number_of_blocks_grows(seen, old, new):
    config = replace(SMALL, blocks=old)
    small = trained(config)
    large = grown(small, replace(config, blocks=new), generator())
    assert_same(answers(large, seen)[0], answers(small, seen)[0])


def test_without_points_and_pool_a_network_grows_too(seen):
    config = replace(SMALL, points=False, pool=1)
    small = trained(config)
    large = grown(small, replace(config, **GROWTH["all"]), generator())
    assert_same(answers(large, seen)[0], answers(small, seen)[0])


def test_the_same_generator_grows_the_same_network():
    config = replace(SMALL, **GROWTH["all"])
    first, again = (grown(trained(), config, generator()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def learn(network: NormalNetwork, seen: list[torch.Tensor]) -> None:
    """One step of gradient descent."""
    output, depths = network.with_depths(*seen)
    wanted = torch.randn(output.normal.shape, generator=generator())
    loss = (output.normal * wanted).mean() + output.mask.square().mean() + output.confidence.mean()
    (loss + sum(depth.square().mean() for depth in depths)).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()


def test_copies_learn_different_things(seen):
    """Not only in length: Adam makes steps of one length from gradients of any. Row by row, each with its copy."""
    large = grown(trained(), replace(SMALL, dim=96, heads=8), generator())
    before = {name: value.clone() for name, value in large.state_dict().items()}
    learn(large, seen)
    steps = {name: value - before[name] for name, value in large.state_dict().items()}
    for block in ("blocks.2.", "blocks.3."):
        for part in ("norm1.weight", "norm2.bias"):
            assert unlike(*steps[block + part].chunk(2)) > 0.01, block + part
        assert unlike(*steps[block + "mlp.0.weight"].chunk(2)) > 0.1, block
        assert unlike(*steps[block + "out.weight"].chunk(2)) > 0.01, block
    for name in ("lift.weight", "embed.0.weight"):
        assert unlike(*steps[name].chunk(2)) > 0.01, name
    for part in steps["blocks.2.qkv.weight"].chunk(3):  # each by head
        assert unlike(*part.chunk(2)) > 0.1
    for part in steps["blocks.3.qkv.weight"].chunk(3):  # x, y, z and three scalars, each by head
        assert unlike(*part.unflatten(0, (6, 2, -1)).unbind(1)) > 0.05
    for name in ("sharpness", "closeness"):
        first, second = steps["blocks.3." + name].chunk(2)
        assert (first != second).all() and first.all(), name


def unlike(first: torch.Tensor, second: torch.Tensor) -> float:
    """One less the cosine between two vectors or, on average, between the rows of two matrices."""
    first, second = first.squeeze(), second.squeeze()
    return 1 - float(torch.cosine_similarity(first, second, dim=-1).mean())


@pytest.mark.parametrize(
    ("growth", "name", "room"),
    [
        ("expansion", "blocks.1.mlp.2.weight", np.s_[:, 96:]),
        ("deeper", "blocks.2.out.weight", np.s_[:]),
        ("deeper", "blocks.3.mlp.2.weight", np.s_[:]),
        ("deeper", "blocks.3.offset.weight", np.s_[:]),
        ("decoder", "decoder.head.weight", np.s_[:, 8:]),
        ("decoder", "decoder.narrow.1.weight", np.s_[:, 16:]),
    ],
)
def test_new_room_starts_silent_and_is_used_after_a_step(seen, growth, name, room):
    config = replace(SMALL, **GROWTH[growth])
    large = grown(trained(), config, generator())
    layer = large.get_parameter(name)
    assert not layer[room].any()
    learn(large, seen)
    assert layer[room].flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dim": 72, "heads": 6}, "dim 48 and heads 4 to 72 and 6"),
        ({"dim": 96}, "dim 48 and heads 4 to 96 and 4: not by one whole factor"),
        ({"dim": 24, "heads": 2}, "dim 48 and heads 4 to 24 and 2"),
        ({"blocks": 2}, "blocks 4 to 2: fewer"),
        ({"expansion": 1}, "expansion 2 to 1: less"),
        ({"decoder": (16, 12, 4)}, r"decoder \[16, 12, 8\] to \[16, 12, 4\]: fewer channels"),
        ({"points": False}, "points True and pool 2 to False and 2"),
        ({"pool": 1}, "points True and pool 2 to True and 1"),
    ],
)
def test_what_cannot_grow_is_refused_by_its_sizes(other, message):
    with pytest.raises(HeadstreamError, match=f"cannot grow {message}") as caught:
        grown(trained(), replace(SMALL, **other), generator())
    assert "\n" not in str(caught.value)


def test_one_block_has_no_look_across_to_copy():
    config = replace(SMALL, blocks=1, points=False)
    with pytest.raises(HeadstreamError, match="blocks 1 to 2"):
        grown(trained(config), replace(config, blocks=2), generator())


CONFIG = """
out = "run"
data = "sets"
start = "small.safetensors"
pictures = 4
threads = 1
views = [1, 2]
[network]
"""


def begun(folder, network: str, said: list[str] | None = None) -> NormalNetwork:
    """What a run that starts from ``small.safetensors`` begins with."""
    path = folder / "run.toml"
    path.write_text(CONFIG + network)
    return Trainer(load_config(path), (said if said is not None else []).append).network.cpu()


def test_a_run_starts_as_the_smaller_network_that_it_is_given(tmp_path, seen):
    save_weights(trained(), tmp_path / "small.safetensors")
    said: list[str] = []
    network = begun(
        tmp_path, "dim = 96\nheads = 8\nblocks = 6\nexpansion = 3\npoints = true\npool = 2\ndecoder = [16, 16, 8]", said
    )
    assert_same(answers(network, seen)[0], answers(load_network(tmp_path / "small.safetensors"), seen)[0])
    (line,) = said
    arrays = len(network.state_dict())
    assert line.endswith(f"small.safetensors, grown: {arrays} of {arrays} arrays")


def test_a_run_takes_what_fits_where_points_and_pool_differ(tmp_path):
    save_weights(trained(replace(SMALL, points=False, pool=1)), tmp_path / "small.safetensors")
    theirs = load_network(tmp_path / "small.safetensors").state_dict()
    said: list[str] = []
    ours = begun(tmp_path, "dim = 48\npoints = true\npool = 2\ndecoder = [16, 12, 8]", said).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert said[0].endswith(f"small.safetensors: {len(theirs)} of {len(ours)} arrays")
    assert theirs.keys() < ours.keys()


def test_a_run_says_which_weights_do_not_grow(tmp_path):
    save_weights(trained(), tmp_path / "small.safetensors")
    with pytest.raises(HeadstreamError, match=r"small.safetensors: cannot grow dim 48 and heads 4 to 72 and 4"):
        begun(tmp_path, "dim = 72\npoints = true\npool = 2\ndecoder = [16, 12, 8]")
