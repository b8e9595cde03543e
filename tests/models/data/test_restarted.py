"""Tests that encoding goes on where it ended: finished files are not encoded again, and another day encodes one day."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from random_tables import digests_of, random_tables
from small_tables import DAY_MS, RECIPE, START_MS, merged

from features.files.unfinished import OWNER
from models.data.cache import open_data
from models.data.partitions import run
from models.recipe import Recipe, RecipeError, parse_recipe

ROOT = Path(__file__).parents[3]
Tables = dict[str, pd.DataFrame]
PLACES = {"impressions": "impressions/", "behaviours": "behaviours/", "users": "users/", "items": "items/"}


def write_day(folder: Path, tables: Tables, day: int) -> None:
    """Write the impressions and behaviours of one day, if there are any."""
    for name in ("impressions", "behaviours"):
        rows = tables[name][(tables[name].time_ms - START_MS) // DAY_MS == day]
        place = folder / name / f"date={day}"
        place.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(place / "part-0.parquet", index=False)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Six days of random tables, with users and items in two files each."""
    folder = tmp_path / "log"
    tables = random_tables(3)
    for day in range(6):
        write_day(folder, tables, day)
    for name in ("users", "items"):
        (folder / name).mkdir()
        half = len(tables[name]) // 2
        for part, rows in enumerate((tables[name].iloc[:half], tables[name].iloc[half:])):
            rows.to_parquet(folder / name / f"part-{part}.parquet", index=False)
    return folder


def recipe_of(folder: Path, last_day: int, changes: dict[str, Any] | None = None) -> Recipe:
    """Train on all days but the last two, as a nightly run does."""
    days = {
        "train": [str(day) for day in range(last_day - 1)],
        "validation": [str(last_day - 1)],
        "test": [str(last_day)],
    }
    data = RECIPE["data"] | PLACES | {"dir": str(folder), "split": {"by": "column", "column": "date"} | days}
    return parse_recipe(merged(RECIPE | {"data": data}, changes or {}), "the test")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are encoded, in order."""
    names: list[str] = []
    original = run.encode_file

    def counted(file: Any, folder: Path) -> list[int]:
        names.append(f"{file.role}/{file.file.name}")
        return original(file, folder)

    monkeypatch.setattr(run, "encode_file", counted)
    return names


def test_another_day_encodes_one_day(log: Path, tmp_path: Path, encoded: list[str]) -> None:
    """The split moves with the days, as in a nightly run; the arrays are those of a run from the beginning."""
    open_data(recipe_of(log, 5), tmp_path / "cache")
    assert len(encoded) == 16
    encoded.clear()
    write_day(log, random_tables(3), 6)
    continued = open_data(recipe_of(log, 6), tmp_path / "cache")
    assert encoded == ["impressions/date=6/part-0.parquet", "behaviours/date=6/part-0.parquet"]
    anew = open_data(recipe_of(log, 6), tmp_path / "other")
    assert digests_of(continued) == digests_of(anew)


def test_a_changed_file_is_encoded_again_alone(log: Path, tmp_path: Path, encoded: list[str]) -> None:
    open_data(recipe_of(log, 5), tmp_path / "cache")
    encoded.clear()
    path = log / "behaviours/date=2/part-0.parquet"
    pd.read_parquet(path).head(5).to_parquet(path, index=False)
    open_data(recipe_of(log, 5), tmp_path / "cache")
    assert encoded == ["behaviours/date=2/part-0.parquet"]


def test_other_options_of_the_model_encode_no_file(log: Path, tmp_path: Path, encoded: list[str]) -> None:
    open_data(recipe_of(log, 5), tmp_path / "cache")
    encoded.clear()
    changes = {"model.embedding.min_count": 1, "data.behaviour_lag_s": 60, "features.behaviour.max_length": 3}
    open_data(recipe_of(log, 5, changes), tmp_path / "cache")
    assert encoded == []
    open_data(recipe_of(log, 5, {"features.behaviour.scene_vocabulary": "scene"}), tmp_path / "cache")
    assert encoded == [f"behaviours/date={day}/part-0.parquet" for day in range(6)]


def test_what_was_encoded_before_a_bad_file_stays(log: Path, tmp_path: Path, encoded: list[str]) -> None:
    path = log / "behaviours/date=4/part-0.parquet"
    good = path.read_bytes()
    pd.read_parquet(path).assign(time_ms=5).to_parquet(path, index=False)
    with pytest.raises(RecipeError, match=r"^date=4/part-0\.parquet \(behaviours\): column 'time_ms' holds"):
        open_data(recipe_of(log, 5), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/described.json"))
    encoded.clear()
    path.write_bytes(good)
    open_data(recipe_of(log, 5), tmp_path / "cache")
    assert encoded == ["behaviours/date=4/part-0.parquet", "behaviours/date=5/part-0.parquet"]


@pytest.mark.slow
def test_processes_give_the_same_arrays_and_the_error_of_the_first_bad_file(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds: each process imports torch."""
    alone = open_data(recipe_of(log, 5, {"data.processes": 1}), tmp_path / "alone")
    monkeypatch.setattr(run, "LEAST_BYTES", 0)
    both = open_data(recipe_of(log, 5, {"data.processes": 2}), tmp_path / "both")
    assert digests_of(both) == digests_of(alone)
    for day in (1, 4):
        path = log / f"behaviours/date={day}/part-0.parquet"
        pd.read_parquet(path).assign(time_ms=5).to_parquet(path, index=False)
    with pytest.raises(RecipeError, match=r"^date=1/part-0\.parquet \(behaviours\): column 'time_ms' holds"):
        open_data(recipe_of(log, 5, {"data.processes": 2}), tmp_path / "both")


POOLED = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "tests/kit")
from models.data.cache import open_data
from models.data.partitions import run
from models.recipe import load_recipe

def slow(file, folder):
    print(os.getpid(), flush=True)
    time.sleep(60)

run.encode_file = slow
run.LEAST_BYTES = 0
if __name__ == "__main__":
    open_data(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_the_processes_of_a_killed_encoding_end_with_it(log: Path, tmp_path: Path) -> None:
    """Seconds: each process imports torch."""
    import yaml

    recipe = recipe_of(log, 5, {"data.processes": 2})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)))
    (tmp_path / "pooled.py").write_text(POOLED)
    command = [sys.executable, str(tmp_path / "pooled.py"), str(tmp_path / "recipe.yaml"), str(tmp_path / "cache")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        workers = [Path("/proc") / process.stdout.readline().strip() for _ in range(2)]
        assert all(worker.exists() for worker in workers)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while any(worker.exists() for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert len(unfinished_in(tmp_path / "cache")) == 3
    open_data(recipe_of(log, 5), tmp_path / "cache")
    assert unfinished_in(tmp_path / "cache") == []


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests/kit")
from models.data.cache import open_data
from models.data.partitions import run
from models.recipe import load_recipe

original = run.encode_file
files = 0

def killed(file, folder):
    global files
    files += 1
    batches = original(file, folder)
    if files == 9:
        os.kill(os.getpid(), 9)
    return batches

run.encode_file = killed
open_data(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def unfinished_in(cache: Path) -> list[Path]:
    return [path.parent for path in cache.rglob(OWNER)]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_file_that_it_had_not_finished(
    log: Path, tmp_path: Path, encoded: list[str]
) -> None:
    """Seconds: a process of its own imports torch."""
    import yaml

    recipe = recipe_of(log, 5)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)))
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path / "cache")], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(unfinished_in(tmp_path / "cache")) == 2, "the whole, and the file that it encoded"
    data = open_data(recipe, tmp_path / "cache")
    assert unfinished_in(tmp_path / "cache") == []
    assert len(encoded) == 16 - 8
    assert digests_of(data) == digests_of(open_data(recipe, tmp_path / "other"))
