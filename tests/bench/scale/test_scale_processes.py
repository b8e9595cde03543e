"""Tests the scale benchmark of processes at a small size: both groups are measured, and judged."""

import json
from pathlib import Path

import pytest

from bench.scale.parts import ScaleSizes
from bench.scale.run import run_scale


@pytest.mark.slow  # three processes import torch
def test_the_command_measures_and_judges_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scale.json"
    passed = run_scale(ScaleSizes(dim=4, steps=20, batch_size=64), ("processes",), out)
    measured = json.loads(out.read_text())["parts"]["processes"]
    one, two = measured["counts"]
    assert (one["processes"], two["processes"]) == (1, 2)
    (verdict,) = measured["verdicts"]
    assert verdict["value"] == pytest.approx(two["rows_per_s"] / one["rows_per_s"])
    assert verdict["passed"] == passed
    assert "with 2 processes / with 1" in capsys.readouterr().out
