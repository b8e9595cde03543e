"""Tests the scale benchmark of logs at small sizes: its figures, and that a log is the same for the same seed."""

import json
import multiprocessing
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.scale import logs
from bench.scale.log_tables import LogShape, day_name, log_recipe, write_day, write_log
from bench.scale.parts import ScaleError, ScaleSizes, answer_of
from bench.scale.run import run_scale
from funnelrank.main import main, message_of
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


@pytest.mark.slow  # a process that imports torch starts others that do
def test_a_log_beyond_the_memory_limit_is_refused_in_one_line_with_what_to_set(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ScaleError) as refused:
        logs.measure(ScaleSizes(behaviours=(20_000,), memory_gib=0.00001, folder=str(tmp_path)))
    expected = (
        r"encoding 20,000 behaviours: data\.memory_gib: the index of [0-9,]+ ids \(users\) would take 0\.0 MiB of "
        r"memory, and the limit allows 0\.0 MiB for it; set data\.memory_gib higher "
        r"\(here by --memory-gib, which is 1e-05\)"
    )
    assert re.fullmatch(expected, message_of(refused.value) or "")
    assert "Traceback" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ended_without_an_answer_is_one_line() -> None:
    own_end, other = multiprocessing.Pipe()
    other.close()
    with own_end, pytest.raises(ScaleError) as refused:
        answer_of(own_end, "encoding 20,000 behaviours")
    assert message_of(refused.value) == (
        "encoding 20,000 behaviours: the process ended without an answer; "
        "its message is above, or the system ended it for want of memory"
    )


@pytest.mark.parametrize(("words", "memory_gib"), [([], 0.5), (["--full"], 1), (["--full", "--memory-gib", "2"], 2)])
def test_the_memory_limit_suits_the_size_of_the_logs(
    monkeypatch: pytest.MonkeyPatch, words: list[str], memory_gib: float
) -> None:
    given: list[float] = []

    def record(sizes: ScaleSizes, *_: object) -> bool:
        given.append(sizes.memory_gib)
        return True

    monkeypatch.setattr("bench.scale.run.run_scale", record)
    assert main(["bench-scale", "--part", "logs", *words]) == 0
    assert given == [memory_gib]


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
