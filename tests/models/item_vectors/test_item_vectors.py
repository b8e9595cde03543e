"""Tests `funnelrank item-vectors`: what it reads and leaves out, that it repeats bit for bit, and what it refuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from small_tables import DAY_MS, RECIPE, START_MS, make_tables, merged, write_tables

from features import Vector
from funnelrank.main import main
from models.data.cache import open_data
from models.recipe import load_recipe
from tables import open_table
from tables.vectors import vectors_of

END_MS = START_MS + 4 * DAY_MS  # of the training part
WIDTH = 8
QUICK = ("--width", str(WIDTH), "--epochs", "2")
Tables = dict[str, pd.DataFrame]
Write = Callable[..., Path]


@pytest.fixture
def recipe_of(tmp_path: Path) -> Write:
    """Write tables and a recipe into a folder of `tmp_path`; return the recipe's path."""

    def write(tables: Tables | None = None, folder: str = "data", **changes: Any) -> Path:
        place = write_tables(tmp_path / folder, tables or make_tables())
        named = {path.replace("__", "."): value for path, value in changes.items()}
        (place / "recipe.yaml").write_text(yaml.safe_dump(merged(RECIPE, {"data.dir": str(place)} | named)))
        return place / "recipe.yaml"

    return write


def learnt(recipe: Path, *options: str) -> pa.Table:
    """The table that the command writes beside the recipe."""
    out = recipe.with_name("items-w2v.parquet")
    assert main(["item-vectors", str(recipe), "--out", str(out), *QUICK, *options]) == 0
    return pq.read_table(out)


def refusal(recipe: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The message of a refused command, which leaves no file behind."""
    before = sorted(recipe.parent.iterdir())
    out = recipe.with_name("items-w2v.parquet")
    assert main(["item-vectors", str(recipe), "--out", str(out), *QUICK, *options]) == 1
    assert sorted(recipe.parent.iterdir()) == before
    return capsys.readouterr().err


def test_the_items_table_gets_a_column_that_training_reads(recipe_of, tmp_path, capsys):
    tables = make_tables()
    # An item that nobody saw, one that was seen seldom, and ids without a row in the table.
    items = tables["items"] = pd.concat([tables["items"], pd.DataFrame({"item_id": [998, 999], "length": 1.0})])
    rare = pd.DataFrame({"user_id": 1, "item_id": [999, 77, 77, 77, 77, 77, 77], "action": "click", "scene": 1})
    tables["behaviours"] = pd.concat([tables["behaviours"], rare.assign(time_ms=END_MS - 1 - rare.index)])
    recipe = recipe_of(tables)
    table = learnt(recipe)
    assert table.drop_columns(["w2v"]).equals(pq.read_table(tmp_path / "data" / "items.parquet"))
    assert table.schema.field("w2v").type == pa.list_(pa.float32())
    assert table["item_id"].to_pylist() == items["item_id"].tolist()
    vectors = table["w2v"].to_pylist()
    assert vectors[-2:] == [None, None]
    assert all(len(vector) == WIDTH and np.isfinite(vector).all() for vector in vectors[:-2])
    output = capsys.readouterr()
    assert f"items-w2v.parquet: 32 items, 30 with {WIDTH} numbers in 'w2v'" in output.out
    assert "of 40 users before 2022-05-04T16:00:00+00:00, without repeats; 690 later ones were left out" in output.out
    # The recipe that reads it: of an item without an embedding of its own, in the behaviours too.
    vector = {"name": "w2v", "type": "vector", "width": WIDTH}
    features = {"features.item_id_feature": None, "features.item": [vector, *RECIPE["features"]["item"][1:]]}
    behaviour = {"features.behaviour.item_features": ["w2v", "tags"], "data.items": "items-w2v.parquet"}
    changed = merged(RECIPE, {"data.dir": str(tmp_path / "data")} | features | behaviour)
    recipe.write_text(yaml.safe_dump(changed))
    data = open_data(load_recipe(recipe), tmp_path / "cache")
    np.testing.assert_array_equal(data.item_numerics[: len(items) - 2, :WIDTH], np.array(vectors[:-2], np.float32))
    assert data.behaviours is not None and data.behaviours.numerics.shape[1] == WIDTH


def test_no_behaviour_of_validation_or_test_changes_a_vector(recipe_of):
    tables = make_tables()
    before = learnt(recipe_of(tables))
    late = tables["behaviours"]["time_ms"] >= END_MS
    assert 100 < late.sum() < len(late)
    others = tables["behaviours"].copy()
    others.loc[late, "item_id"] = 3
    more = others[~late].head(200).assign(time_ms=END_MS)  # the first moment that is too late
    for behaviours in (others, others[~late], pd.concat([more, others])):
        assert learnt(recipe_of(tables | {"behaviours": behaviours})).equals(before)
    # One moment earlier they count.
    counted = pd.concat([more.assign(time_ms=END_MS - 1), others])
    assert not learnt(recipe_of(tables | {"behaviours": counted})).equals(before)


def test_a_split_by_a_column_ends_where_another_part_begins(recipe_of):
    tables = make_tables()
    shown = tables["impressions"]
    shown["part"] = np.where(shown["time_ms"] < END_MS, "train", np.where(shown["user_id"] % 2, "validation", "test"))
    split = {"by": "column", "column": "part"}
    whole = learnt(recipe_of(tables, data__split=split))
    last = shown.loc[shown["part"] == "train", "time_ms"].max()
    behaviours = tables["behaviours"]
    assert learnt(recipe_of(tables | {"behaviours": behaviours[behaviours["time_ms"] <= last]})).equals(whole)
    # A test impression among those of training: nothing from its time on is read.
    middle = START_MS + DAY_MS
    shown.loc[shown.index[shown["time_ms"] >= middle][0], ["part", "time_ms"]] = ["test", middle]
    cut = learnt(recipe_of(tables, data__split=split))
    assert not cut.equals(whole)
    early = tables | {"behaviours": behaviours[behaviours["time_ms"] < middle]}
    assert learnt(recipe_of(early, data__split=split)).equals(cut)


def test_the_same_seed_gives_the_same_bits_in_any_process(recipe_of, tmp_path):
    """One other process, which imports torch and gensim, takes most of the time."""
    recipe = recipe_of()
    first = learnt(recipe)
    assert learnt(recipe).equals(first)
    assert not learnt(recipe, "--seed", "2").equals(first)
    out = tmp_path / "there.parquet"
    words = [sys.executable, "-m", "funnelrank", "item-vectors", str(recipe), "--out", str(out), *QUICK]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": "123"}, timeout=60)
    assert pq.read_table(out).equals(first)


def test_files_and_their_order_change_nothing(recipe_of, tmp_path):
    tables = make_tables()
    tables["behaviours"]["time_ms"] += np.arange(len(tables["behaviours"]))  # all times differ
    whole = learnt(recipe_of(tables))
    # Shuffled rows in a folder of two files, items in two files, and the same as CSV.
    apart = recipe_of({name: tables[name] for name in ("users", "impressions")}, "apart")
    shuffled = tables["behaviours"].sample(frac=1, random_state=1)
    for role, rows in (("behaviours", shuffled), ("items", tables["items"])):
        folder = tmp_path / "apart" / role
        folder.mkdir()
        rows[:20].to_parquet(folder / "a.parquet", index=False)
        rows[20:].to_parquet(folder / "b.parquet", index=False)
    folders = ("--set", "data.behaviours=behaviours/", "--set", "data.items=items/")
    assert learnt(apart, *folders)["w2v"].equals(whole["w2v"])
    assert learnt(apart, *folders, "--set", f"data.dir=file://{apart.parent}")["w2v"].equals(whole["w2v"])
    texts = recipe_of({name: tables[name] for name in ("users", "impressions")}, "texts")
    shuffled.to_csv(texts.with_name("behaviours.csv"), index=False)
    items = tables["items"].assign(tags=["|".join(map(str, tags)) for tags in tables["items"]["tags"]])
    items.to_csv(texts.with_name("items.csv"), index=False)
    out = texts.with_name("items-w2v.csv")
    assert main(["item-vectors", str(texts), "--out", str(out), *QUICK]) == 0
    assert pd.read_csv(out).drop(columns="w2v").equals(pd.read_csv(texts.with_name("items.csv")))
    (batch,) = open_table(out, "items").batches(["w2v"], {"w2v"})
    read = vectors_of(batch, Vector(name="w2v", type="vector", width=WIDTH), "w2v")
    np.testing.assert_array_equal(read, np.array(whole["w2v"].to_pylist(), np.float32))


def test_items_that_follow_each_other_lie_near_each_other(recipe_of):
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(60), 40)
    items = rng.integers(0, 15, len(users)) + 15 * (users % 2)
    times = START_MS + np.arange(len(users)) * 1000
    behaviours = pd.DataFrame({"user_id": users, "item_id": items, "action": "click", "scene": 0, "time_ms": times})
    table = learnt(recipe_of(make_tables() | {"behaviours": behaviours}), "--epochs", "20")
    vectors = np.array(table["w2v"].to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    of_one_group = np.arange(30)[:, None] // 15 == np.arange(30) // 15
    assert similar[of_one_group].mean() > similar[~of_one_group].mean() + 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-count", "5000"), "--min-count 5000: no item has so many behaviours before the end of the training"),
        (("--column", "length"), "items.parquet (items): column 'length' exists already; choose another --column"),
        (("--column", "w 2v"), "--column 'w 2v': a feature's name has"),
        (("--out", "v.csv"), "--out v.csv: the items table is written as it is read; name it 'v.parquet'"),
        (("--set", "data.behaviours=null"), "data.behaviours is null, but the vectors are learnt from behaviours"),
        (("--set", "data.behaviours=clicks.parquet"), "data.behaviours: no file 'clicks.parquet'"),
        (("--set", "data.items=null"), "data.items is null, but the vectors are a column of that table"),
        (("--set", "data.served=true"), "data.served: the tables hold rows as they were served"),
        (("--set", "data.time_ms=when"), "no column 'when', which data.time_ms names"),
    ],
)
def test_a_refusal_says_what_to_set(recipe_of, capsys, options, message):
    assert message in refusal(recipe_of(), capsys, *options)


def test_behaviours_from_which_nothing_can_be_learnt_are_refused(recipe_of, capsys):
    tables = make_tables()
    behaviours = tables["behaviours"]
    late = behaviours.assign(time_ms=behaviours["time_ms"].clip(lower=END_MS))
    error = refusal(recipe_of(tables | {"behaviours": late}), capsys)
    assert "no behaviour is older than 2022-05-04T16:00:00+00:00, where the training part of data.split ends" in error
    alone = pd.concat([behaviours.assign(user_id=7, item_id=7), behaviours.head(1).assign(user_id=8)])
    error = refusal(recipe_of(tables | {"behaviours": alone}), capsys, "--min-count", "1")
    assert "no user has behaviours of two items" in error
    other = behaviours.assign(item_id="i" + behaviours["item_id"].astype(str))
    error = refusal(recipe_of(tables | {"behaviours": other}), capsys)
    assert "no item with a vector has a row in the table" in error
    error = refusal(recipe_of(tables | {"items": tables["items"].head(0)}), capsys)
    assert "no item with a vector has a row in the table" in error
    missing = behaviours.assign(item_id=behaviours["item_id"].astype("Int64").where(behaviours.index != 4))
    error = refusal(recipe_of(tables | {"behaviours": missing}), capsys)
    assert "behaviours.parquet (behaviours): column 'item_id' has a missing id (row 5)" in error


def test_a_result_among_the_files_of_the_items_is_refused(recipe_of, tmp_path, capsys):
    recipe = recipe_of()
    (tmp_path / "data" / "items").mkdir()
    (tmp_path / "data" / "items.parquet").rename(tmp_path / "data" / "items" / "a.parquet")
    inside = str(tmp_path / "data" / "items" / "b.parquet")
    assert "lies in the folder" in refusal(recipe, capsys, "--set", "data.items=items/", "--out", inside)
