"""Tests that plain numbers, when copied, give the same metrics as counting one by one."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.metrics.tally import Tallies

BOUNDS = (0.001, 0.01, 0.1, 1.0)


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 10))), st.integers(0, 50))
def test_brought_over_is_what_observing_one_by_one_gives(values: list[float], split: int) -> None:
    pages = []
    for plain in (False, True):
        registry = CollectorRegistry()
        tallies = Tallies()
        seconds = Histogram("seconds", "s", ["stage"], buckets=BOUNDS, registry=registry).labels("store")
        asked = Counter("asked", "a", registry=registry)
        distribution = tallies.distribution(seconds)
        count = tallies.count(asked)
        for place, value in enumerate(values):
            (distribution if plain else seconds).observe(value)
            (count if plain else asked).inc()
            if place == split:
                tallies.bring_over()
        tallies.bring_over()
        page = generate_latest(registry).decode()
        pages.append([line for line in page.splitlines() if "_created" not in line and "_sum" not in line])
        assert abs(registry.get_sample_value("seconds_sum", {"stage": "store"}) - sum(values)) < 1e-9  # type: ignore[operator]
    assert pages[0] == pages[1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 3))), st.integers(0, 20))
def test_labelled_counts_are_those_of_the_counter(counted: list[tuple[str, str, int]], split: int) -> None:
    pages = []
    for plain in (False, True):
        registry = CollectorRegistry()
        tallies = Tallies()
        requests = Counter("requests", "r", ["route", "outcome"], registry=registry)
        counts = tallies.labelled(requests)
        for place, (route, outcome, amount) in enumerate(counted):
            if plain:
                counts.inc(route, outcome, amount=amount)
            else:
                requests.labels(route, outcome).inc(amount)
            if place == split:
                tallies.bring_over()
        tallies.bring_over()
        page = generate_latest(registry).decode()
        pages.append(sorted(line for line in page.splitlines() if "_created" not in line))
    assert pages[0] == pages[1]


async def test_what_was_counted_is_in_the_metrics_within_a_moment() -> None:
    tallies = Tallies()
    asked = Counter("asked", "a", registry=(registry := CollectorRegistry()))

    tallies.count(asked).inc()
    tallies.soon()
    tallies.soon()
    for _ in range(1000):
        if registry.get_sample_value("asked_total") == 1:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nothing was brought over")
