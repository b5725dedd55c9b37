"""Sets of sequence numbers as spans: sorted pairs (first, last), both included, that neither touch nor overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Spans: TypeAlias = tuple[Span, ...]


def join(spans: Iterable[Span]) -> Spans:
    """Any pairs, in any order, as spans; pairs whose last is before their first are nothing."""
    joined: list[Span] = []
    for first, last in sorted(spans):
        if last < first:
            continue
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def of_numbers(numbers: Iterable[int]) -> Spans:
    """Single numbers, in any order, as spans."""
    return join((number, number) for number in numbers)


def without(spans: Spans, other: Spans) -> Spans:
    """What is in ``spans`` and not in ``other``."""
    left: list[Span] = []
    at = 0
    for first, last in spans:
        while at < len(other) and other[at][1] < first:
            at += 1
        i = at
        while i < len(other) and other[i][0] <= last:
            if first < other[i][0]:
                left.append((first, other[i][0] - 1))
            first = other[i][1] + 1
            i += 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


def common(spans: Spans, other: Spans) -> Spans:
    """What is in both."""
    return without(spans, without(spans, other))


def count(spans: Spans) -> int:
    """How many numbers they hold."""
    return sum(last - first + 1 for first, last in spans)


def holds(spans: Spans, number: int) -> bool:
    """Whether a number is among them."""
    return any(first <= number <= last for first, last in spans)


def numbers(spans: Spans) -> Iterator[int]:
    """Every number, ascending."""
    for first, last in spans:
        yield from range(first, last + 1)


def first_few(spans: Spans, most: int) -> Spans:
    """The first ``most`` numbers of them."""
    few: list[Span] = []
    for first, last in spans:
        if most <= 0:
            break
        few.append((first, min(last, first + most - 1)))
        most -= last - first + 1
    return tuple(few)
