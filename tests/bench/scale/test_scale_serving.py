"""Tests the scale benchmark of serving at a small size: every figure is measured, and tables are shared."""

import json
from pathlib import Path

import pytest

from bench.scale.parts import ScaleSizes
from bench.scale.run import run_scale


@pytest.mark.slow  # publishers, workers and services are processes of their own
def test_the_command_measures_and_judges_serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.scale.serving_processes._PHASE_S", 4.0)
    monkeypatch.setattr("bench.scale.serving._SWAP_TURNS", 1)
    out = tmp_path / "scale.json"
    run_scale(ScaleSizes(serving_keys=600_000), ("serving",), out)
    measured = json.loads(out.read_text())["parts"]["serving"]
    large = measured["large"]
    small = measured["small"]
    table_mib = 600_000 * 32 * 4 / 2**20
    assert large["bytes"] / 2**20 > table_mib > small["bytes"] / 2**20
    # A further worker has nothing of the table for itself, and its share of what all of them have mapped.
    own = [of["further_worker_mib"] for of in (large, small)]
    assert own[0]["private"] < own[1]["private"] + 10
    assert own[0]["proportional"] > own[1]["proportional"] + table_mib / 4
    assert large["swap"]["swaps_versions"] == small["swap"]["swaps_versions"] == 2
    assert len(measured["verdicts"]) == 5
    printed = capsys.readouterr().out
    assert printed.count("PASS") + printed.count("MISS") == 5
