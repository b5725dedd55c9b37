from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import spans

sets = st.sets(st.integers(0, 60))


@settings(deadline=None, derandomize=True)
@given(sets, sets)
def test_spans_are_sets(one, other):
    a, b = spans.of_numbers(one), spans.of_numbers(other)
    assert list(spans.numbers(a)) == sorted(one)
    assert spans.count(a) == len(one)
    assert spans.without(a, b) == spans.of_numbers(one - other)
    assert spans.common(a, b) == spans.of_numbers(one & other)
    assert spans.join([*a, *b]) == spans.of_numbers(one | other)
    assert all(spans.holds(a, number) == (number in one) for number in range(62))


@settings(deadline=None, derandomize=True)
@given(sets, st.integers(-1, 70))
def test_the_first_few(one, most):
    few = spans.first_few(spans.of_numbers(one), most)
    assert list(spans.numbers(few)) == sorted(one)[: max(0, most)]


def test_joined_spans_neither_touch_nor_overlap_and_nothing_is_nothing():
    assert spans.join([(5, 6), (0, 2), (3, 4), (9, 8), (8, 8)]) == ((0, 6), (8, 8))
