"""Tests that the figures of a plan are measured: the quick form writes a file that a plan is made from."""

from pathlib import Path

import pytest

from funnelrank.main import main
from loadtest.capacity.figures import read_figures


@pytest.mark.slow  # services, loads and a Redis of its own
def test_the_command_measures_and_the_plan_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert main(["bench-capacity", "--quick", "--out", str(out)]) == 0
    figures = read_figures(out)
    for cost in (figures.ranking_ms, figures.redis_ms, figures.request_bytes, figures.answer_bytes, figures.log_bytes):
        assert cost.at(200, 0) > 0
    assert figures.ranking_ms.per_candidate > 0 and figures.redis_bytes.per_missing_item > 100
    # A busy machine changes times, and neither the bytes nor what a cache holds.
    hits = next(check for check in figures.checks if check.what.startswith("hits"))
    assert abs(hits.error) < 0.15
    demand = ("--users", "1e6", "--items", "1e5", "--qps", "100", "--candidates", "200")
    assert main(["plan", "--figures", str(out), *demand, "--simulate"]) == 0
    assert "hosts" in capsys.readouterr().out
