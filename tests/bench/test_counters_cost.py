"""Tests that the benchmark of the counters measures what it says."""

import pytest

from bench import counters


def test_the_counters_of_a_ranking_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_TIMES", 2)
    cost = counters.counters_ms()
    assert cost > 0
    assert counters.verdict(cost).bound == 0.3
