"""Tests `bench-behaviours`: it trains, serves and measures both models at every length."""

from pathlib import Path

import pytest

from bench.behaviours import LENGTHS, RECIPES, Measured, measure_behaviours, table


def test_a_row_has_the_length_the_bytes_and_every_cost() -> None:
    costs = {"kuairand-sim graph": 1.5, "kuairand-sim ranking": 2.25}
    lines = table(200, [Measured(50, 2048, costs), Measured(1000, 40960, costs)]).splitlines()
    assert lines[0].startswith("200 candidates, CPU ms per request")
    assert lines[1].split() == ["behaviours", "KiB", "read", "kuairand-sim", "graph", "kuairand-sim", "ranking"]
    assert lines[2].split() == ["50", "2.0", "1.50", "2.25"] and lines[3].split()[:2] == ["1000", "40.0"]


@pytest.mark.slow
def test_both_models_are_measured_at_every_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the command sets it too, for the whole process
    rows = measure_behaviours(candidates=20, rounds=1, runs=tmp_path)
    assert [row.behaviours for row in rows] == list(LENGTHS)
    assert rows[-1].read_bytes == 20 * rows[0].read_bytes
    for row in rows:
        assert list(row.costs_ms) == [f"{recipe} {part}" for recipe in RECIPES for part in ("graph", "ranking")]
        assert all(cost > 0 for cost in row.costs_ms.values())
        assert all(row.costs_ms[f"{recipe} ranking"] > row.costs_ms[f"{recipe} graph"] / 4 for recipe in RECIPES)
