"""Tests data that cannot be used for training: it is refused before training, or a warning names what is
there instead.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.times import LATEST_AHEAD_MS
from models.data.cache import open_data
from models.data.encoding.encoding import no_edges, standardisation
from models.data.encoding.fit import _sums
from models.recipe import RecipeError, parse_recipe
from models.train import train
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.loading.load import LoadError, load_folder
from tables import TableError

START_MS = 1_651_334_400_000
DAY_MS = 86_400_000
VALUE = {"type": "independent", "name": "watch", "label": "watch_s", "space": "click", "kind": "value"}


def days(tables):
    """The impressions with their day as `0430`, local time."""
    local = pd.to_datetime(tables["impressions"].time_ms, unit="ms") + pd.Timedelta(hours=8)
    return tables | {"impressions": tables["impressions"].assign(day=local.dt.strftime("%m%d"))}


def by_day(**parts):
    return {"data.split": {"by": "column", "column": "day", "validation": ["0505"], "test": ["0506"]} | parts}


def test_days_that_yaml_reads_as_octal_are_refused_with_the_hint(tiny_recipe, tables, tmp_path):
    recipe = tiny_recipe(days(tables), by_day(train=[0o430, 0o501, "0502", 0o503]))
    with pytest.raises(RecipeError) as refused:
        open_data(recipe, tmp_path / "cache")
    assert str(refused.value) == (
        "data.split.train: 280, 321, 323 do not occur in column 'day'; "
        "0430 without quotes is octal in YAML and means 280: write '0430'"
    )


def test_every_value_of_the_split_that_no_row_has_is_told_with_the_nearest(tiny_recipe, tables, tmp_path):
    recipe = tiny_recipe(days(tables), by_day(train=["0501", "0502", "05-03"]) | {"training.epochs": 1})
    data = open_data(recipe, tmp_path / "cache")
    expected_message = "data.split.train: 05-03 does not occur in column 'day'; nearest: 0503"
    assert data.described["unmatched"] == [expected_message]
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert expected_message in metrics["warnings"]


def test_a_part_whose_values_never_come_is_refused_with_them(tiny_recipe, tables, tmp_path):
    with pytest.raises(RecipeError, match=r"the test part is empty .*0612 does not occur in column 'day'; nearest: "):
        open_data(tiny_recipe(days(tables), by_day(train=["0501"], test=["0612"])), tmp_path / "cache")


@pytest.mark.parametrize(("part", "day"), [("train", range(4)), ("validation", [4])])
def test_a_task_without_an_impression_of_its_space_is_refused_before_training(tiny_recipe, tables, tmp_path, part, day):
    impressions = tables["impressions"]
    impressions["watch_s"] = np.where(impressions.click > 0, 20.0, 0.0)
    empty = ((impressions.time_ms - START_MS) // DAY_MS).isin(day)
    impressions.loc[empty, ["click", "watch_s"]] = 0
    recipe = tiny_recipe(tables, {"tasks": [VALUE], "extra_evaluations": []})
    with pytest.raises(RecipeError, match=rf"the {part} part has no impression where 'click' is 1"):
        train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [123456.789, 20220501.0, 1_650_000_000.0, 14.62, 99.99, -3e9, 1e-9, 0.0])
@pytest.mark.parametrize("log1p", [False, True])
def test_a_constant_column_has_deviation_one_whatever_its_size_and_count(value, log1p):
    for count in (1, 2, 3, *range(900, 1000), 65_536):
        sums = _sums(np.full((count, 1), value, np.float32), np.ones(count, np.int64), np.array([log1p]))
        assert standardisation(*sums, no_edges(1)).deviation[0] == 1


def test_a_constant_column_has_deviation_one_in_an_encoded_data_set(tiny_recipe, tables, tmp_path):
    context = [{"name": "tab", "type": "categorical"}, {"name": "budget", "type": "numeric"}]
    tables["impressions"]["budget"] = 123456.789
    data = open_data(tiny_recipe(tables, {"features.context": context}), tmp_path / "cache")
    stats = data.encoding.numerics["context"]
    assert stats.deviation[0] == 1 and stats.mean[0] == np.float32(123456.789)


def test_a_narrow_column_far_from_zero_keeps_its_deviation(tiny_recipe, tables, tmp_path):
    """Days such as 20220501: their squares have 15 digits, their deviation is about 4."""
    context = [{"name": "tab", "type": "categorical"}, {"name": "day", "type": "numeric"}]
    day = 20220500 + 2 * np.random.default_rng(1).integers(0, 8, len(tables["impressions"]))
    tables["impressions"]["day"] = day
    data = open_data(tiny_recipe(tables, {"features.context": context}), tmp_path / "cache")
    train_rows = tables["impressions"].time_ms.isin(np.asarray(data.parts["train"].time))
    stats = data.encoding.numerics["context"]
    assert stats.deviation[0] == pytest.approx(day[train_rows].std(), rel=1e-6)


def test_a_key_column_is_named_by_the_key_that_renames_it_in_all_tables(tiny_recipe, tables, tmp_path):
    renamed = {"items": tables["items"].rename(columns={"item_id": "sku"})}
    with pytest.raises(RecipeError) as refused:
        open_data(tiny_recipe(tables | renamed, {"data.item_id": "sku"}), tmp_path / "cache")
    assert "no column 'sku', which data.item_id names; nearest: " in str(refused.value)
    assert str(refused.value).endswith("; data.item_id names the column in all tables")


def test_a_recipe_of_other_names_reads_tables_of_those_names(tiny_recipe, tables, tmp_path):
    names = {"user_id": "uid", "item_id": "sku", "time_ms": "at"}
    plain = open_data(tiny_recipe(tables), tmp_path / "cache")
    renamed = {name: table.rename(columns=names) for name, table in tables.items()}
    data = open_data(tiny_recipe(renamed, {f"data.{key}": name for key, name in names.items()}), tmp_path / "cache")
    np.testing.assert_array_equal(data.parts["train"].labels, plain.parts["train"].labels)
    np.testing.assert_array_equal(data.item_rows, plain.item_rows)
    np.testing.assert_array_equal(data.behaviours.rows, plain.behaviours.rows)


def test_a_folder_of_csv_files_is_read_without_being_told(tiny_recipe, tables, tmp_path):
    plain = open_data(tiny_recipe(tables), tmp_path / "cache")
    recipe = tiny_recipe(tables)
    for name, table in tables.items():
        lists = {"tags": ["|".join(map(str, tags)) for tags in table["tags"]]} if "tags" in table else {}
        table.assign(**lists).to_csv(tmp_path / "data" / f"{name}.csv", index=False)
        (tmp_path / "data" / f"{name}.parquet").unlink()
    data = open_data(recipe, tmp_path / "cache")
    assert set(data.described["tables"]) == {f"{name}.csv" for name in tables}
    np.testing.assert_array_equal(data.parts["train"].labels, plain.parts["train"].labels)


def test_users_without_a_table_are_nothing_to_warn_of(tiny_recipe, tables, tmp_path):
    changes = {"data.users": None, "features.user": [{"name": "user_id", "type": "categorical"}], "training.epochs": 1}
    metrics = train(
        tiny_recipe(tables, changes), tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0
    )
    assert metrics["data"]["users"]["without_row"] > 0
    assert not any("users have no row" in warning for warning in metrics["warnings"])


def test_a_negative_seed_is_refused(tiny_recipe, tables):
    raw = tiny_recipe(tables).model_dump(mode="json")
    raw["training"]["seed"] = -1
    with pytest.raises(RecipeError, match=r"training.seed: .*greater than or equal to 0"):
        parse_recipe(raw, "the test")


AHEAD_MS = time.time_ns() // 1_000_000 + 3_600_000
BROKEN = {
    "a time that is infinite": ("behaviours", "time_ms", float("inf"), "time_ms"),
    "a time in seconds": ("behaviours", "time_ms", 1_651_334_400, "did you mean seconds"),
    "a missing time": ("behaviours", "time_ms", None, "has no time in"),
    "a behaviour that is an hour ahead": ("behaviours", "time_ms", AHEAD_MS, "the latest time accepted here"),
    "an impression that is an hour ahead": ("impressions", "time_ms", AHEAD_MS, "the latest time accepted here"),
    "an impression in seconds": ("impressions", "time_ms", 1_651_334_400, "did you mean seconds"),
    "a long scene": ("behaviours", "scene", "x" * 600, "at most 512 characters"),
    "a fractional action": ("behaviours", "action", 0.5, r"not the fraction 0\."),
    "a fractional split": ("impressions", "part", 0.5, r"not the fraction 0\."),
    "a fractional cross": ("impressions", "page", 0.5, r"not the fraction 0\."),
    "a fractional id": ("impressions", "user_id", 0.5, r"not the fraction 0\."),
    "a position that is text": ("impressions", "place", "first", "which is no number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_value_is_refused_with_file_table_column_and_row(tiny_recipe, tables, tmp_path, case):
    role, column, value, message = BROKEN[case]
    changes = {"position": {"column": "place", "cross": "page", "head": "pctr"}}
    tables["impressions"]["page"] = 1
    if column == "part":
        changes |= {"data.split": {"by": "column", "column": "part"}}
    values = tables[role].get(column, pd.Series(["train"] * len(tables[role])))
    plain = isinstance(value, int) or value is None
    tables[role][column] = values.astype("Int64" if plain else "float64" if values.dtype.kind in "iu" else object)
    if isinstance(value, str):
        tables[role][column] = tables[role][column].astype(object).map(str)
    if column in ("part", "action"):
        tables[role][column] = 0.25
    tables[role].loc[tables[role].index[7], column] = value
    with pytest.raises(RecipeError, match=message) as refused:
        open_data(tiny_recipe(tables, changes), tmp_path / "cache")
    cause = refused.value.__cause__
    assert isinstance(cause, TableError)
    assert (cause.file.name, cause.table, cause.column) == (f"{role}.parquet", role, column)
    assert cause.row is not None


def test_training_and_load_accept_a_behaviour_up_to_the_same_time(tiny_recipe, tables, tmp_path):
    """A clock may be five minutes ahead. The behaviours of users without impressions count for the limits too."""
    with EmbeddedRedis() as server:
        for ahead_ms, accepted in ((LATEST_AHEAD_MS - 60_000, True), (LATEST_AHEAD_MS + 60_000, False)):
            row = {"user_id": 999, "time_ms": time.time_ns() // 1_000_000 + ahead_ms}
            later = pd.concat([tables["behaviours"], tables["behaviours"].head(1).assign(**row)])
            recipe = tiny_recipe(tables | {"behaviours": later})
            refusals = []
            try:
                open_data(recipe, tmp_path / "cache")
            except RecipeError as error:
                refusals.append(error.__cause__.detail)
            try:
                load_folder(Path(recipe.data.dir), recipe.features, server.url)
            except LoadError as error:
                refusals.append(error.__cause__.detail)
            assert len(refusals) == (0 if accepted else 2)
            assert len({refusal.partition(", later than")[0] for refusal in refusals}) <= 1


def test_impressions_without_a_row_are_told_as_such(tiny_recipe, tables, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.impressions: the table has no rows"):
        open_data(tiny_recipe(tables | {"impressions": tables["impressions"].iloc[:0]}), tmp_path / "cache")
