"""Tests recipes whose tables are many files: the encoded arrays are those of the same rows in one file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import DAY_MS, START_MS, make_tables

from models.data.cache import Data, open_data
from models.recipe import Recipe, RecipeError

Tables = dict[str, pd.DataFrame]
MakeRecipe = Callable[..., Recipe]
PLACES = {"data.impressions": "impressions/", "data.behaviours": "behaviours/**/*.parquet", "data.users": "users"}
BY_DAY = {
    "data.split": {
        "by": "column",
        "column": "day",
        "train": ["00", "01", "02", "03"],
        "validation": ["04"],
        "test": ["05"],
    }
}


def arrays_of(data: Data) -> Mapping[str, np.ndarray]:
    """Every array of the encoded data, by the file that holds it."""
    folder = data.kept_rows.parent
    arrays = {
        path.name: np.fromfile(path, np.uint8) for path in folder.iterdir() if path.suffix not in (".npz", ".json")
    }
    for name in ("encoding", "kept_rows"):
        with np.load(folder / f"{name}.npz") as stored:
            arrays |= {f"{name}/{key}": stored[key] for key in stored}
    return arrays


def assert_equal(one: Data, other: Data) -> None:
    first = arrays_of(one)
    second = arrays_of(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def write_days(folder: Path, tables: Tables) -> None:
    """Write impressions and behaviours by day and users in two files, beside the items."""
    for name in ("impressions", "behaviours"):
        for day, rows in tables[name].groupby((tables[name].time_ms - START_MS) // DAY_MS):
            place = folder / name / f"day={day:02}"
            place.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(place / "part-0.parquet", index=False)
    (folder / "users").mkdir(exist_ok=True)
    for part in range(2):
        rows = tables["users"].iloc[20 * part : 20 * part + 20]
        rows.to_parquet(folder / "users" / f"part-{part}.parquet", index=False)


@pytest.fixture
def in_order() -> Tables:
    """Tables whose rows stand by day, as partitions have them."""
    tables = make_tables()
    order = ((tables["impressions"].time_ms - START_MS) // DAY_MS).argsort(kind="stable")
    return tables | {name: tables[name].iloc[order] for name in ("impressions", "behaviours")}


@pytest.mark.parametrize("root", ["", "file://"])
def test_partitions_encode_to_the_arrays_of_one_file(
    tiny_recipe: MakeRecipe, in_order: Tables, tmp_path: Path, root: str
) -> None:
    whole = tiny_recipe(in_order)
    write_days(tmp_path / "data", in_order)
    split = tiny_recipe(in_order, PLACES | ({"data.dir": f"{root}{tmp_path / 'data'}"} if root else {}))
    assert_equal(open_data(whole, tmp_path / "cache"), open_data(split, tmp_path / "cache"))


def test_a_split_by_partition_reads_the_names_of_the_folders(
    tiny_recipe: MakeRecipe, in_order: Tables, tmp_path: Path
) -> None:
    write_days(tmp_path / "data", in_order)
    by_day: dict[str, Any] = BY_DAY | PLACES
    by_time = open_data(tiny_recipe(in_order), tmp_path / "cache")
    by_name = open_data(tiny_recipe(in_order, by_day), tmp_path / "cache")
    assert len(by_name.parts["train"]) == len(by_time.parts["train"]) > 0
    np.testing.assert_array_equal(by_name.parts["train"].time, by_time.parts["train"].time)
    np.testing.assert_array_equal(by_name.parts["train"].labels, by_time.parts["train"].labels)


def test_a_partition_with_another_schema_is_refused_by_its_name(
    tiny_recipe: MakeRecipe, in_order: Tables, tmp_path: Path
) -> None:
    write_days(tmp_path / "data", in_order)
    path = tmp_path / "data/behaviours/day=03/part-0.parquet"
    pd.read_parquet(path).astype({"item_id": str}).to_parquet(path)
    with pytest.raises(RecipeError, match=r"^day=03/part-0\.parquet \(behaviours\): column 'item_id' is .*string here"):
        open_data(tiny_recipe(in_order, PLACES), tmp_path / "cache")


def test_a_new_day_is_another_data_set(tiny_recipe: MakeRecipe, in_order: Tables, tmp_path: Path) -> None:
    """The cache is found again for the same files alone."""
    write_days(tmp_path / "data", in_order)
    recipe = tiny_recipe(in_order, PLACES)
    before = open_data(recipe, tmp_path / "cache")
    assert open_data(recipe, tmp_path / "cache").kept_rows == before.kept_rows
    rows = in_order["impressions"].assign(time_ms=in_order["impressions"].time_ms + 1)
    place = tmp_path / "data/impressions/day=99"
    place.mkdir()
    rows.head(10).to_parquet(place / "part-0.parquet", index=False)
    assert open_data(recipe, tmp_path / "cache").kept_rows != before.kept_rows
