"""Tests the scale benchmark of logs at small sizes: its figures, and that a log is the same for the same seed."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.scale import logs
from bench.scale.log_tables import LogShape, day_name, log_recipe, write_day, write_log
from bench.scale.parts import ScaleSizes
from bench.scale.run import run_scale
from models.data.cache import open_data


@pytest.mark.slow  # each size starts a process that imports torch
def test_the_command_measures_and_judges_the_encoding_of_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scale.json"
    run_scale(ScaleSizes(behaviours=(20_000, 40_000), memory_gib=0.01), ("logs",), out)
    measured = json.loads(out.read_text())["parts"]["logs"]
    steps = ["split", "files", "entities", "impressions", "behaviours", "ranges", "vocabulary", "rows"]
    for size, behaviours in zip(measured["sizes"], (20_000, 40_000), strict=True):
        assert size["rows"] == behaviours * 6 // 5
        assert list(size["steps"]) == list(size["next_day_steps"]) == steps
        assert size["encoded"]["impressions"]["train"] == behaviours // 5 * 18 // 20
    memory, files = measured["verdicts"]
    assert memory["passed"], "a small log takes less than the program"
    assert files["value"] == 2
    assert capsys.readouterr().out.count("logs:") == 2


@pytest.mark.parametrize(("seconds", "speed"), [((12, 14, 18), 1), ((12, 14, 20), 2 / 3)])
def test_linear_cost_is_that_of_further_rows(seconds: tuple[int, int, int], speed: float) -> None:
    """What it takes to start does not count."""
    sizes = [{"rows": n, "steps": {"a": {"cpu_s": s}}} for n, s in zip((1_000, 2_000, 4_000), seconds, strict=True)]
    assert logs._speed(sizes) == pytest.approx(speed)


def test_a_log_is_the_same_for_the_same_seed_and_each_day_by_itself(tmp_path: Path) -> None:
    shape = LogShape(2_000, days=4)
    write_log(shape, tmp_path / "a", seed=1)
    write_log(shape, tmp_path / "b", seed=1)
    write_day(shape, tmp_path / "alone", seed=1, day=2)
    write_log(shape, tmp_path / "other", seed=2)
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet"))
    assert len(names) == 2 + 2 * 4
    for name in names:
        assert pq.read_table(tmp_path / "a" / name).equals(pq.read_table(tmp_path / "b" / name))
        assert not pq.read_table(tmp_path / "a" / name).equals(pq.read_table(tmp_path / "other" / name))
    for table in ("impressions", "behaviours"):
        name = Path(table) / f"day={day_name(2)}" / "part-000.parquet"
        assert pq.read_table(tmp_path / "alone" / name).equals(pq.read_table(tmp_path / "a" / name))


def test_a_log_has_what_logs_have(tmp_path: Path) -> None:
    """Ids without a row, behaviours of one second, repeated users: otherwise the steps measure less than they do."""
    shape = LogShape(20_000, days=4)
    write_log(shape, tmp_path / "log", seed=1)
    data = open_data(log_recipe(tmp_path / "log", 4, memory_gib=0.5), tmp_path / "cache")
    described = data.described
    assert described["users"]["without_row"] > 0
    assert described["items"]["without_row"] > 0
    assert sum(described["impressions"][part] for part in ("train", "validation", "test")) == shape.impressions
    assert described["behaviours"]["rows"] > shape.behaviours * 9 // 10
    length = (data.parts["test"].end - data.parts["test"].start).mean()
    assert length > 5
