"""Tests the open-loop load: when requests are due, and the search for the highest rate."""

import asyncio

import pytest

from bench.measuring.open_loop import Load, due_times, highest_rate


def highest(possible: float, start: float, **more: int) -> tuple[float, int]:
    """The rate that is found where `possible` is the highest one, and the number of tries."""
    tried = []

    async def meets(rate: float) -> bool:
        tried.append(rate)
        return rate <= possible

    return asyncio.run(highest_rate(meets, start, 2.0, **more)), len(tried)


@pytest.mark.parametrize("start", [3.0, 100.0, 4000.0])
def test_the_highest_rate_is_found_from_below_and_from_above(start: float) -> None:
    rate, tries = highest(137.0, start, bisections=4)
    assert 137 / 2 ** (1 / 16) <= rate <= 137
    assert tries <= 12


def test_the_search_ends_in_both_directions() -> None:
    assert highest(1e9, 1.0, steps=5) == (32.0, 6)
    with pytest.raises(RuntimeError, match=r"not even 0.25 a second"):
        highest(0.0, 8.0, steps=5)


def test_requests_are_due_evenly_or_by_a_seed() -> None:
    assert list(due_times(4, 1, None)) == [0, 0.25, 0.5, 0.75]
    times = list(due_times(500, 10, 7))
    assert times == sorted(times) == list(due_times(500, 10, 7)) != list(due_times(500, 10, 8))
    assert 4700 < len(times) < 5300 and times[-1] < 10
    # The gaps of a Poisson process deviate as much as their mean.
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.2)


def test_a_load_counts_refused_and_late_requests_as_not_in_time() -> None:
    load = Load(2.0, {200: [1.0, 5.0, 50.0], 503: [0.1]})
    assert load.requests == 4
    assert load.in_time(10) == 0.5
    assert load.goodput(10) == 1.0
