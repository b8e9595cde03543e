"""Tests the encoding: nothing leaks, nothing is lost, and tables that do not fit are refused by name."""

import shutil

import numpy as np
import pandas as pd
import pytest

from features import RowLayout
from models.data.batches import gather
from models.data.cache import open_data
from models.data.encoding import encoding, entities, fit, rows, visible
from models.data.encoding.visible import visible_range
from models.data.encoding.vocabulary import key_column_vocabularies
from models.recipe import RecipeError
from tables import reading as table_reading


def every(data, part="train"):
    n = len(data.parts[part])
    return gather(data, data.parts[part], np.arange(n))


def test_a_sequence_holds_the_users_newest_behaviours_strictly_before_the_impression(tiny_recipe, tables, tmp_path):
    lag_s = 3600
    recipe = tiny_recipe(tables, {"data.behaviour_lag_s": lag_s})
    data = open_data(recipe, tmp_path / "cache")
    part = data.parts["train"]
    batch = every(data)
    events = tables["behaviours"].drop_duplicates()
    train = tables["impressions"].merge(pd.DataFrame({"time_ms": np.asarray(part.time)}), on="time_ms")
    assert len(train) == len(part)
    by_time = train.set_index("time_ms")
    for row in range(0, len(part), 7):
        time = int(part.time[row])
        earlier = events[(events.user_id == by_time.user_id[time]) & (events.time_ms < time - lag_s * 1000)]
        expected = earlier.time_ms.sort_values(ascending=False).head(5).tolist()
        seen = [t for t in batch["behaviour_times"][row].tolist() if t]
        assert seen == expected


def test_the_order_and_repetition_of_rows_in_the_tables_change_nothing(tiny_recipe, tables, tmp_path):
    plain = every(open_data(tiny_recipe(tables), tmp_path / "cache"))
    shuffled = {name: table.sample(frac=1, random_state=5) for name, table in tables.items() if name != "impressions"}
    shuffled = {name: pd.concat([table, table.head(20)]) for name, table in shuffled.items()}
    data = open_data(tiny_recipe(tables | shuffled), tmp_path / "cache")
    for name, values in every(data).items():
        np.testing.assert_array_equal(values.numpy(), plain[name].numpy(), err_msg=name)
    assert data.described["users"]["repeated"] == 20
    assert data.described["behaviours"]["repeated"] > 0


def test_the_last_row_of_a_repeated_id_counts(tiny_recipe, tables, tmp_path):
    newer = tables["users"].head(1).assign(fans=123.0)
    recipe = tiny_recipe(tables | {"users": pd.concat([tables["users"], newer])})
    data = open_data(recipe, tmp_path / "cache")
    part = data.parts["train"]
    numerics = every(data)["user_numerics"].numpy()
    of_user = tables["impressions"].set_index("time_ms").user_id[np.asarray(part.time)].to_numpy() == 0
    assert (numerics[of_user, 0] == 123).all()
    assert of_user.any()


def test_an_unknown_user_or_item_gets_the_default_row_with_its_own_id(tiny_recipe, tables, tmp_path):
    cut = {"users": tables["users"].iloc[1:], "items": tables["items"].iloc[1:]}
    data = open_data(tiny_recipe(tables | cut), tmp_path / "cache")
    assert data.described["users"]["without_row"] == 1
    assert data.described["items"]["without_row"] == 1
    whole = open_data(tiny_recipe(tables), tmp_path / "cache")
    layout = RowLayout(data.recipe.features.user)
    vocabulary = data.encoding.vocabulary
    unknown = np.array(
        [vocabulary.unknown_rows[n] for n in key_column_vocabularies(data.recipe.features.user)], np.int32
    )
    expected = vocabulary.rows_of(layout.rows(layout.pack({"user_id": 0}))["keys"], unknown)
    users = tables["impressions"].set_index("time_ms").user_id[np.asarray(data.parts["train"].time)].to_numpy()
    batch = every(data)
    row = int(np.flatnonzero(users == 0)[0])
    np.testing.assert_array_equal(batch["user_rows"][row].numpy(), expected[0])
    assert np.isnan(batch["user_numerics"][row].numpy()).all()
    assert len(whole.parts["train"]) == len(data.parts["train"])


def test_vocabulary_and_scaling_know_the_training_part_only(tiny_recipe, tables, tmp_path):
    late = tables["impressions"].time_ms >= 1_651_680_000_000  # 5 May, +08:00
    changed = tables["impressions"].copy()
    changed.loc[late, "tab"] = 77
    changed.loc[late, "battery"] = 1e6
    plain = open_data(tiny_recipe(tables), tmp_path / "cache").encoding
    other = open_data(tiny_recipe(tables | {"impressions": changed}), tmp_path / "cache").encoding
    np.testing.assert_array_equal(plain.vocabulary.keys, other.vocabulary.keys)
    np.testing.assert_array_equal(plain.numerics["context"].mean, other.numerics["context"].mean)


def test_keys_are_counted_by_the_training_impressions_that_show_them(tiny_recipe, tables, tmp_path):
    data = open_data(
        tiny_recipe(tables, {"model.embedding.min_count": 60, "features.behaviour": None}), tmp_path / "cache"
    )
    train = tables["impressions"][tables["impressions"].time_ms.isin(np.asarray(data.parts["train"].time))]
    layout = RowLayout(data.recipe.features.item)
    vocabulary = data.encoding.vocabulary
    counts = train.item_id.value_counts()
    for item in range(30):
        key = layout.rows(layout.pack({"item_id": item}))["keys"][0, 0]
        assert (key in vocabulary.keys) == (counts.get(item, 0) >= 60), item


def test_csv_and_parquet_give_the_same_arrays(tiny_recipe, tables, tmp_path):
    plain = every(open_data(tiny_recipe(tables), tmp_path / "cache"))
    for name, table in tables.items():
        written = table.copy()
        if "tags" in written:
            written["tags"] = ["|".join(str(t) for t in tags) for tags in written["tags"]]
            written["length"] = [repr(float(v)) for v in written["length"]]
        written.to_csv(tmp_path / "data" / f"{name}.csv", index=False)
    files = {f"data.{name}": f"{name}.csv" for name in tables}
    recipe = tiny_recipe(tables, files)
    for name, values in every(open_data(recipe, tmp_path / "cache")).items():
        np.testing.assert_array_equal(values.numpy(), plain[name].numpy(), err_msg=name)


def test_reading_in_small_pieces_gives_the_same_arrays(tiny_recipe, tables, tmp_path, monkeypatch):
    plain = open_data(tiny_recipe(tables), tmp_path / "cache")
    for module in (encoding, fit, rows, visible):
        monkeypatch.setattr(module, "CHUNK", 37)
    monkeypatch.setattr(table_reading, "BATCH_ROWS", 37)
    monkeypatch.setattr(entities, "ROWS_AT_ONCE", 37)
    monkeypatch.setattr(entities, "MOST_LATE", 3)
    pieces = open_data(tiny_recipe(tables), tmp_path / "other-cache")
    for name, values in every(pieces).items():
        np.testing.assert_array_equal(values.numpy(), every(plain)[name].numpy(), err_msg=name)
    for group, stats in pieces.encoding.numerics.items():
        np.testing.assert_allclose(stats.mean, plain.encoding.numerics[group].mean, rtol=1e-6)


def test_64_bit_ids_with_gaps_keep_every_digit(tiny_recipe, tables, tmp_path):
    big = 2**60
    for name, column in (("users", "user_id"), ("behaviours", "user_id"), ("impressions", "user_id")):
        tables[name] = tables[name].assign(**{column: (tables[name][column] + big).astype("Int64")})
    data = open_data(tiny_recipe(tables), tmp_path / "cache")
    assert data.described["users"] == {"rows": 40, "repeated": 0, "without_row": 0}


def test_visible_range_agrees_with_counting():
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 9, 20)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    times = np.concatenate([np.sort(rng.integers(0, 30, n)) for n in sizes])
    user = rng.integers(0, 20, 500)
    before = rng.integers(-1, 32, 500)
    start, end = visible_range(times, starts, user, before, 4)
    for u, b, s, e in zip(user, before, start, end, strict=True):
        older = int((times[starts[u] : starts[u + 1]] < b).sum())
        assert (s, e) == (starts[u] + max(0, older - 4), starts[u] + older)


def _column(table, old, new):
    return lambda tables: {table: tables[table].rename(columns={old: new})}


def _value(table, column, value):
    return lambda tables: {table: tables[table].assign(**{column: value})}


def _nothing(tables):
    return {}


@pytest.mark.parametrize(
    ("changes", "broken", "message"),
    [
        (
            {},
            _column("users", "city", "town"),
            "users.parquet (users): no column 'city', which features.user names; nearest: ",
        ),
        (
            {},
            _column("impressions", "like", "liked"),
            "no column 'like', which a task or extra_evaluations names; nearest: liked",
        ),
        (
            {},
            _column("behaviours", "scene", "page"),
            "behaviours.parquet (behaviours): no column 'scene', which features.behaviour names",
        ),
        (
            {},
            _value("impressions", "click", 2),
            "impressions.parquet (impressions): label 'click' must be 0 or 1 in every row of the split, found 2",
        ),
        (
            {},
            _value("impressions", "click", "yes"),
            "column 'click' holds 'yes'; a label is a number: 0 or 1 for a probability (row 1)",
        ),
        ({}, _value("impressions", "user_id", None), "column 'user_id' has a missing id"),
        (
            {},
            _value("items", "length", float("inf")),
            "items.parquet (items): column length: a numeric value lies within",
        ),
        ({}, _value("items", "tags", "1,2"), "items.parquet (items): column tags: a multi-valued feature is a list"),
        ({"data.behaviours": None}, _nothing, "data.behaviours is null, but features.behaviour needs"),
        ({"data.items": None}, _nothing, "data.items is null, but features.item names 'tags'"),
        ({"data.users": "people.parquet"}, _nothing, "data.users: no file 'people.parquet'"),
        ({"data.items": "vectors.parquet", "data.how_to_get": "make it"}, _nothing, "users.parquet; make it"),
        ({"data.users": "users.xlsx"}, _nothing, "data.users: no file 'users.xlsx'"),
        (
            {"data.split": {"by": "column", "column": "part"}},
            _nothing,
            "no column 'part', which data.split.column names",
        ),
        (
            {"data.split": {"by": "column", "column": "tab", "train": [0], "validation": [1], "test": [9]}},
            _nothing,
            "the test part is empty",
        ),
    ],
)
def test_tables_that_do_not_fit_the_recipe_are_refused_by_name(tiny_recipe, tables, tmp_path, changes, broken, message):
    with pytest.raises(RecipeError) as refused:
        open_data(tiny_recipe(tables | broken(tables), changes), tmp_path / "cache")
    assert message in str(refused.value)
    assert not list((tmp_path / "cache").glob("*")), "nothing half-built is left"


def test_missing_data_says_how_to_make_it(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, {"data.impressions": "views.parquet"})
    with pytest.raises(RecipeError, match=r"python -m models\.prepare"):
        open_data(recipe, tmp_path / "cache")


def test_an_encoded_data_set_is_reused_until_content_or_schema_change(tiny_recipe, tables, tmp_path):
    first = open_data(tiny_recipe(tables), tmp_path / "cache").described["hash"]
    assert open_data(tiny_recipe(tables, {"training.epochs": 9}), tmp_path / "cache").described["hash"] == first
    assert (
        open_data(tiny_recipe(tables, {"model.embedding.min_count": 3}), tmp_path / "cache").described["hash"] != first
    )
    tables["users"].loc[0, "fans"] = 5.0
    assert open_data(tiny_recipe(tables), tmp_path / "cache").described["hash"] != first


def test_a_data_set_encoded_from_a_copy_is_named_by_the_folder_that_was_asked_for(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    shutil.copytree(recipe.data.dir, tmp_path / "copy")
    copied = recipe.model_copy(update={"data": recipe.data.model_copy(update={"dir": str(tmp_path / "copy")})})
    assert [open_data(r, tmp_path / "cache").described["folder"] for r in (copied, recipe)] == [
        str(tmp_path / "copy"),
        recipe.data.dir,
    ]


def test_position_is_clipped_and_crossed_with_values_of_the_training_part(tiny_recipe, tables, tmp_path):
    tables["impressions"].loc[tables["impressions"].index[::9], "place"] = 0
    recipe = tiny_recipe(tables, {"position": {"column": "place", "cross": "tab", "max_position": 10, "head": "pctr"}})
    data = open_data(recipe, tmp_path / "cache")
    batch = every(data)
    assert data.cross_values == 3
    assert set(batch["position"].tolist()) == set(range(11))
    assert set(batch["position_cross"].tolist()) == {1, 2, 3}
