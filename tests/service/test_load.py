"""Owns the promises of the bulk load and of inspection: what is loaded is what the packing gives, and bad tables are told."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import redis

from features import FeatureSchema
from service.embedded_redis import EmbeddedRedis
from service.layouts import Layouts
from service.store.inspect import shown
from service.store.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.load import LoadError, load_folder

BIG = 2**60 + 1  # as a float it would be another number


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pa.Table]:
    users = {"user_id": [712, 9], "gender": ["f", None], "interests": [["a", "b"], []], "age": [31, None], "not_a_feature": [1, 2]}
    items = {"item_id": [1, 2, BIG], "tag": pa.array([39, None, BIG], pa.int64()), "topics": [["x", "y", "z"], None, ["x"]], "price": [1.5, None, 3]}
    events = [(712, 1, "click", 1, 50), (9, 2, "like", None, 20), (712, BIG, "click", 2, 40), (712, 77, "click", 1, 60)]
    names = ("user_id", "item_id", "action", "scene", "time_ms")
    behaviours = {n: [e[i] for e in events] for i, n in enumerate(names)}
    return {"users": pa.table(users), "items": pa.table(items), "behaviours": pa.table(behaviours)}


def as_parquet(folder: Path, tables: dict[str, pa.Table]) -> None:
    for name, table in tables.items():
        pa.parquet.write_table(table, folder / f"{name}.parquet")


def as_csv(folder: Path, tables: dict[str, pa.Table]) -> None:
    """Lists separated by a bar, as a person would write them."""
    for name, table in tables.items():
        flat = {}
        for column in table.column_names:
            values = table[column].to_pylist()
            flat[column] = ["|".join(v) if isinstance(v, list) else v for v in values]
        pa.csv.write_csv(pa.table(flat), folder / f"{name}.csv")


@pytest.mark.parametrize("write", [as_parquet, as_csv])
def test_what_is_loaded_is_what_the_packing_gives(
    tmp_path: Path, tables: dict[str, pa.Table], write: Any, schema: FeatureSchema, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    write(tmp_path, tables)
    assert load_folder(tmp_path, schema, redis_server.url) == {"items": 3, "users": 2, "behaviours": 4}
    fp = layouts.fingerprint
    items = {
        "1": layouts.item.pack({"item_id": "1", "tag": 39, "topics": ["x", "y", "z"], "price": 1.5}),
        "2": layouts.item.pack({"item_id": "2"}),
        str(BIG): layouts.item.pack({"item_id": BIG, "tag": BIG, "topics": ["x"], "price": 3}),
    }
    for item_id, row in items.items():
        assert store.get(item_key(fp, item_id)) == row
    assert store.get(user_key(fp, "712")) == layouts.user.pack({"user_id": 712, "gender": "f", "interests": ["a", "b"], "age": 31})
    assert store.get(user_key(fp, "9")) == layouts.user.pack({"user_id": 9})
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(fp, "712"), 0, -1)
    unknown = layouts.item.pack({"item_id": 77})
    expected = [(unknown, 1, 60), (items["1"], 1, 50), (items[str(BIG)], 2, 40)]
    assert [m[8:] for m in members] == [layouts.behaviour.pack_event(row, "click", scene, at) for row, scene, at in expected]
    assert store.hexists(SCHEMAS, fp)


def test_loading_again_changes_nothing(
    tmp_path: Path, tables: dict[str, pa.Table], schema: FeatureSchema, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    as_parquet(tmp_path, tables)
    load_folder(tmp_path, schema, redis_server.url)
    before = {k: store.dump(k) for k in store.keys("fr:*:*")}  # type: ignore[union-attr]
    load_folder(tmp_path, schema, redis_server.url)
    assert {k: store.dump(k) for k in store.keys("fr:*:*")} == before  # type: ignore[union-attr]


def test_a_long_history_is_cut_to_the_newest(
    tmp_path: Path, schema: FeatureSchema, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    times = np.random.default_rng(0).permutation(50_000)
    table = pa.table({"user_id": ["1"] * 50_000, "item_id": ["2"] * 50_000, "action": ["a"] * 50_000, "scene": ["s"] * 50_000, "time_ms": times})
    pa.parquet.write_table(table, tmp_path / "behaviours.parquet")
    load_folder(tmp_path, schema, redis_server.url)
    found: Any = store.zrevrange(behaviours_key(layouts.fingerprint, "1"), 0, -1, withscores=True)
    assert [at for _, at in found] == [49_999, 49_998, 49_997, 49_996, 49_995]


@pytest.mark.parametrize(
    ("table", "column", "values", "told"),
    [
        ("items", "price", ["cheap", "dear", "1"], "column price"),
        ("items", "tag", [1.5, 2, 3], "column tag"),
        ("items", "item_id", ["1", None, "3"], "1 rows have no id"),
        ("users", "age", [float("inf"), 2], "column age"),
        ("behaviours", "time_ms", [1, 2, None, 4], "column time_ms"),
        ("behaviours", "time_ms", ["a", "b", "c", "d"], "column time_ms"),
    ],
)
def test_a_bad_value_is_told_with_its_file_and_column(
    tmp_path: Path, tables: dict[str, pa.Table], schema: FeatureSchema, redis_server: EmbeddedRedis, table: str, column: str, values: Any, told: str
) -> None:
    place = tables[table].column_names.index(column)
    tables[table] = tables[table].set_column(place, column, pa.array(values))
    as_parquet(tmp_path, tables)
    with pytest.raises(LoadError, match=f"{table}.parquet: .*{told}"):
        load_folder(tmp_path, schema, redis_server.url)


def test_missing_columns_files_and_broken_files_are_told(
    tmp_path: Path, tables: dict[str, pa.Table], schema: FeatureSchema, redis_server: EmbeddedRedis
) -> None:
    with pytest.raises(LoadError, match="none of users, items, behaviours"):
        load_folder(tmp_path, schema, redis_server.url)
    as_parquet(tmp_path, tables | {"behaviours": tables["behaviours"].drop_columns(["scene"])})
    with pytest.raises(LoadError, match="no column scene; it has user_id"):
        load_folder(tmp_path, schema, redis_server.url)
    (tmp_path / "items.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(LoadError, match=r"items.parquet"):
        load_folder(tmp_path, schema, redis_server.url)


def test_inspection_shows_numbers_keys_and_behaviours_with_their_times(
    tmp_path: Path, tables: dict[str, pa.Table], schema: FeatureSchema, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    assert shown(redis_server.url, "user", "712")[0] is False
    as_parquet(tmp_path, tables)
    load_folder(tmp_path, schema, redis_server.url)
    found, text = shown(redis_server.url, "user", "712")
    assert found
    assert layouts.fingerprint in text
    assert "3 behaviours, newest first" in text
    assert "1970-01-01T00:00:00.060+00:00" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("    ")}
    assert lines["age"] == ["31"]
    assert len(lines["interests"]) == 2
    assert "missing" in shown(redis_server.url, "item", "2")[1]
    assert shown(redis_server.url, "item", "nothing")[0] is False
