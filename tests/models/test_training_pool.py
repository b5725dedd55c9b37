from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from model_doubles import write_sets

from models.training import pool as pool_module
from models.training.dataset import list_sets, load_set
from models.training.pool import Pool
from protocol.errors import HeadstreamError

CPU = torch.device("cpu")
SET_GB = 3 * 64 * 64 * (3 + 3 + 1 + 2) / 1e9


@pytest.fixture
def opened():
    """Pools that are closed at the end, whatever happens."""
    pools = []

    def open_pool(*arguments, **more):
        pools.append(Pool(*arguments, **more))
        return pools[-1]

    yield open_pool
    for one in pools:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "training-reader"]


def lengths(sets) -> set[float]:
    """What tells the sets of write_sets apart: how far away their cameras are, all together."""
    return {round(float(total), 5) for total in np.linalg.norm(sets.t, axis=-1).sum(1)}


def drawn(pool: Pool, until: int, rounds: int = 200) -> set[float]:
    """Different sets that come out of a pool, until there are so many or it has been asked often enough."""
    rng, seen = np.random.default_rng(0), set()
    for _ in range(rounds):
        seen |= lengths(pool.draw(2, 3, rng))
        if len(seen) >= until:
            break
        time.sleep(0.005)
    return seen


def test_a_draw_is_of_sets_as_they_were_written(tmp_path, opened):
    write_sets(tmp_path, 6)
    pool = opened([tmp_path], CPU, 1.0, seed=0)
    sets = pool.draw(4, 2, np.random.default_rng(0))
    assert len(pool) == 5  # one is held out
    assert sets.image.shape == (4, 2, 64, 64, 3) and sets.K.shape == (4, 2, 3, 3)
    written = [load_set(path) for path in list_sets([tmp_path])]
    for b, v in np.ndindex(4, 2):
        camera = np.c_[sets.R[b, v], sets.t[b, v]]
        same = [(one, i) for one in written for i in range(3) if np.allclose(np.c_[one.R[i], one.t[i]], camera)]
        assert len(same) == 1
        one, i = same[0]
        for name in ("image", "normal", "mask", "depth"):
            np.testing.assert_array_equal(getattr(sets, name)[b, v].numpy(), getattr(one, name)[i])
        np.testing.assert_allclose(sets.K[b, v], one.K[i])
    assert all(len({tuple(R.ravel()) for R in sets.R[b]}) == 2 for b in range(4))  # two views of each, not one twice


def test_pictures_of_a_set_come_in_any_order(tmp_path, opened):
    write_sets(tmp_path, 2)
    pool = opened([tmp_path], CPU, 1.0, seed=0)
    sets = pool.draw(40, 3, np.random.default_rng(0))
    assert len({tuple(np.round(R[0].ravel(), 4)) for R in sets.R}) == 3


def test_a_full_pool_takes_in_no_more_than_was_drawn(tmp_path, opened):
    write_sets(tmp_path, 12)
    pool = opened([tmp_path], CPU, 3.5 * SET_GB, seed=0)
    rng = np.random.default_rng(0)
    pool.draw(1, 1, rng)
    for _ in range(4):
        time.sleep(0.05)  # readers are ahead
        before = pool._taken
        pool.draw(1, 1, rng)
        assert pool._taken <= before + 1


def test_more_sets_than_there_are_come_twice(tmp_path, opened):
    write_sets(tmp_path, 3)
    pool = opened([tmp_path], CPU, 1.0, seed=0)
    assert pool.draw(9, 1, np.random.default_rng(0)).image.shape[0] == 9


def test_what_is_written_later_is_drawn_too(tmp_path, opened):
    write_sets(tmp_path, 3)
    pool = opened([tmp_path], CPU, 1.0, seed=0)
    pool.draw(1, 1, np.random.default_rng(0))
    assert len(pool) == 2
    write_sets(tmp_path, 6)
    drawn(pool, until=5, rounds=2000)
    assert len(pool) == 5


def test_a_pool_that_is_full_goes_through_all_the_others(tmp_path, opened):
    write_sets(tmp_path, 9)
    pool = opened([tmp_path], CPU, 3.5 * SET_GB, seed=0)
    seen = drawn(pool, until=8)
    assert len(pool) == 3 and len(seen) == 8
    assert len(drawn(pool, until=8)) == 8  # and again: it reads on, round after round


def test_a_folder_without_sets_is_one_clear_line(tmp_path, opened):
    pool = opened([tmp_path / "nothing"], CPU, 1.0, seed=0)
    with pytest.raises(HeadstreamError, match=r"no training sets in .*nothing"):
        pool.draw(1, 1, np.random.default_rng(0))


def test_half_a_file_is_raised_to_who_draws(tmp_path, opened):
    write_sets(tmp_path, 2)
    path = tmp_path / "000001.npz"
    path.write_bytes(path.read_bytes()[:5000])
    pool = opened([tmp_path], CPU, 1.0, seed=0)
    with pytest.raises(HeadstreamError, match=r"000001\.npz: not a training set"):
        pool.draw(1, 1, np.random.default_rng(0))


def test_a_set_of_another_size_is_named(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(pool_module, "_FIRST", 1)
    write_sets(tmp_path / "a", 2)
    pool = opened([tmp_path / "a", tmp_path / "b"], CPU, 1.0, seed=0)
    pool.draw(1, 1, np.random.default_rng(0))
    write_sets(tmp_path / "b", 2, size=48)
    with pytest.raises(
        HeadstreamError, match=r"b/000001.npz: image is \(3, 48, 48, 3\), of other sets \(3, 64, 64, 3\)"
    ):
        drawn(pool, until=3, rounds=2000)


def test_closing_ends_readers_that_wait_for_room(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(pool_module, "_AHEAD", 1)
    write_sets(tmp_path, 8)
    pool = opened([tmp_path], CPU, 1.0, seed=0, readers=2)
    time.sleep(0.05)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5
