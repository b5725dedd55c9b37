import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_nodes.drivers.counters import BlockCounter


def counts(*blocks):
    counter = BlockCounter()
    return [counter.add(block) for block in blocks]


def test_the_first_picture_keeps_its_number_and_gaps_are_counted():
    assert counts(7, 8, 11) == [(7, 0), (8, 0), (11, 2)]


def test_sixteen_bits_wrap_to_one():
    assert counts(65534, 65535, 1, 2) == [(65534, 0), (65535, 0), (65536, 0), (65537, 0)]
    assert counts(65534, 3) == [(65534, 0), (65538, 3)]  # 65535, 1 and 2 were lost


def test_cameras_that_go_through_zero():
    assert counts(0, 1, 65535, 0, 1)[-3:] == [(65536, 65533), (65537, 0), (65538, 0)]


def test_long_numbers_do_not_wrap():
    assert counts(65535, 65536, 65537)[-1] == (65537, 0)
    assert counts(70_000, 1, 2) == [(70_000, 0), (70_001, 0), (70_002, 0)]


def test_a_camera_that_started_again_goes_on_from_where_it_was():
    assert counts(500, 501, 1, 2) == [(500, 0), (501, 0), (502, 0), (503, 0)]
    counter = BlockCounter()
    counter.add(500)
    counter.restart()
    assert counter.add(1) == (501, 0)
    counter.restart()
    assert counter.add(900) == (900, 0)


def test_the_same_number_twice_is_another_picture():
    assert counts(5, 5) == [(5, 0), (6, 0)]


def test_no_number_is_below_zero():
    with pytest.raises(ValueError):
        BlockCounter().add(-1)


@given(st.lists(st.integers(0, 70_000), max_size=50))
def test_whatever_comes_the_count_grows(blocks):
    counter, last = BlockCounter(), -1
    for block in blocks:
        count, skipped = counter.add(block)
        assert count > last and skipped >= 0 and (last < 0 or count - skipped == last + 1)
        last = count


@given(st.integers(1, 65535), st.lists(st.integers(1, 1000), min_size=1, max_size=200))
def test_steps_are_found_across_wraps(first, steps):
    counter, sent = BlockCounter(), first
    expected, _ = counter.add(first)
    for step in steps:
        sent = (sent - 1 + step) % 65535 + 1
        expected += step
        assert counter.add(sent) == (expected, step - 1)
