"""Tests the bulk load and the inspection: loaded rows equal packed ones, bad tables are refused by name."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import redis
from bulk_load import contents_of, items_of, loading

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.inspect import shown
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.redis.loading.load import LoadError, load_folder

BIG = 2**60 + 1  # as a float it would be another number
START_MS = 10**12


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pa.Table]:
    users = {
        "user_id": [712, 9],
        "gender": ["f", None],
        "interests": [["a", "b"], []],
        "age": [31, None],
        "not_a_feature": [1, 2],
    }
    items = {
        "item_id": [1, 2, BIG],
        "tag": pa.array([39, None, BIG], pa.int64()),
        "topics": [["x", "y", "z"], None, ["x"]],
        "price": [1.5, None, 3],
        "quality": pa.nulls(3),
    }
    events = [
        (712, 1, "click", 1, START_MS + 50),
        (9, 2, "like", None, START_MS + 20),
        (712, BIG, "click", 2, START_MS + 40),
        (712, 77, "click", 1, START_MS + 60),
    ]
    names = ("user_id", "item_id", "action", "scene", "time_ms")
    behaviours = {n: [e[i] for e in events] for i, n in enumerate(names)}
    return {"users": pa.table(users), "items": pa.table(items), "behaviours": pa.table(behaviours)}


def as_parquet(folder: Path, tables: dict[str, pa.Table]) -> None:
    for name, table in tables.items():
        pa.parquet.write_table(table, folder / f"{name}.parquet")


def as_csv(folder: Path, tables: dict[str, pa.Table]) -> None:
    """Write lists separated by a bar, as a person would."""
    for name, table in tables.items():
        flat = {}
        for column in table.column_names:
            values = table[column].to_pylist()
            flat[column] = ["|".join(v) if isinstance(v, list) else v for v in values]
        pa.csv.write_csv(pa.table(flat), folder / f"{name}.csv")


@pytest.mark.parametrize("write", [as_parquet, as_csv])
def test_what_is_loaded_is_what_the_packing_gives(
    tmp_path: Path,
    tables: dict[str, pa.Table],
    write: Any,
    schema: FeatureSchema,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
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
    assert store.get(user_key(fp, "712")) == layouts.user.pack(
        {"user_id": 712, "gender": "f", "interests": ["a", "b"], "age": 31}
    )
    assert store.get(user_key(fp, "9")) == layouts.user.pack({"user_id": 9})
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(fp, "712"), 0, -1)
    unknown = layouts.item.pack({"item_id": 77})
    expected = [(unknown, 1, 60), (items["1"], 1, 50), (items[str(BIG)], 2, 40)]
    assert [m[8:] for m in members] == [
        layouts.behaviour.pack_event(row, "click", scene, START_MS + at) for row, scene, at in expected
    ]
    assert store.hexists(SCHEMAS, fp)


def test_tables_are_read_under_the_names_that_the_bundle_carries(
    tmp_path: Path, tables: dict[str, pa.Table], redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> None:
    """`service load` of a bundle whose recipe has other column and file names loads the same rows as the
    default names.
    """
    names = {"user_id": "uid", "item_id": "sku", "time_ms": "ts", "users": "people.parquet"}
    plain = tmp_path / "plain"
    renamed = tmp_path / "renamed"
    for folder, columns in ((plain, {}), (renamed, names)):
        folder.mkdir()
        for name, table in tables.items():
            table = table.rename_columns([columns.get(column, column) for column in table.column_names])  # noqa: PLW2901
            pa.parquet.write_table(table, folder / columns.get(name, f"{name}.parquet"))
    registry = tmp_path / "registry"
    kit.publish(registry, "1")
    kit.publish(registry, "2", change=lambda manifest: manifest.update(tables=names))
    kit.go_live(registry, "1")
    loaded = []
    for folder, version in ((plain, "1"), (renamed, "2")):
        store.flushall()
        with loading(folder, registry, redis_server.url, "--bundle", f"synthetic/{version}") as done:
            output = done.communicate()[1]
        assert done.returncode == 0, output
        loaded.append({k: v for k, v in contents_of(store).items() if b":load:" not in k})
    assert loaded[0] == loaded[1] and loaded[0]
    with loading(renamed, registry, redis_server.url, "--bundle", "synthetic/1") as done:
        output = done.communicate()[1]
    assert done.returncode == 1
    assert (
        "items.parquet: no column 'item_id', which data.item_id names; nearest: " in output
        and "Traceback" not in output
    )


def test_loading_again_changes_nothing(
    tmp_path: Path, tables: dict[str, pa.Table], schema: FeatureSchema, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    as_parquet(tmp_path, tables)
    load_folder(tmp_path, schema, redis_server.url)
    before = {k: store.dump(k) for k in store.keys("fr:*:*")}  # type: ignore[union-attr]
    load_folder(tmp_path, schema, redis_server.url)
    assert {k: store.dump(k) for k in store.keys("fr:*:*")} == before  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("items", "price", ["cheap", "dear", "1"], "column price"),
        ("items", "tag", [1.5, 2, 3], "column tag"),
        ("items", "item_id", ["1", None, "3"], r"column 'item_id' has a missing id \(row 2\)"),
        ("users", "age", [float("inf"), 2], "column age"),
        ("behaviours", "time_ms", [START_MS, START_MS, None, START_MS], "column 'time_ms' has no time in 1 of 4 rows"),
        ("behaviours", "time_ms", ["a", "b", "c", "d"], "column 'time_ms' must hold whole milliseconds"),
        ("behaviours", "time_ms", [START_MS // 1000] * 4, "column 'time_ms' holds .*; did you mean seconds"),
        ("behaviours", "time_ms", [10**14] * 4, "column 'time_ms' holds .*the latest time"),
    ],
)
def test_a_bad_value_is_told_with_its_file_and_column(
    tmp_path: Path,
    tables: dict[str, pa.Table],
    schema: FeatureSchema,
    redis_server: EmbeddedRedis,
    table: str,
    column: str,
    values: Any,
    message: str,
) -> None:
    place = tables[table].column_names.index(column)
    tables[table] = tables[table].set_column(place, column, pa.array(values))
    as_parquet(tmp_path, tables)
    with pytest.raises(LoadError, match=f"{table}.parquet: .*{message}"):
        load_folder(tmp_path, schema, redis_server.url)


def test_missing_columns_files_and_broken_files_are_told(
    tmp_path: Path, tables: dict[str, pa.Table], schema: FeatureSchema, redis_server: EmbeddedRedis
) -> None:
    with pytest.raises(LoadError, match="none of users, items, behaviours"):
        load_folder(tmp_path, schema, redis_server.url)
    as_parquet(tmp_path, tables | {"behaviours": tables["behaviours"].drop_columns(["scene"])})
    with pytest.raises(LoadError, match="no column 'scene', which features.behaviour names; nearest: user_id"):
        load_folder(tmp_path, schema, redis_server.url)
    (tmp_path / "items.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(LoadError, match=r"items.parquet"):
        load_folder(tmp_path, schema, redis_server.url)


def test_inspection_shows_numbers_keys_and_behaviours_with_their_times(
    tmp_path: Path,
    tables: dict[str, pa.Table],
    schema: FeatureSchema,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    assert shown(redis_server.url, "user", "712")[0] is False
    as_parquet(tmp_path, tables)
    load_folder(tmp_path, schema, redis_server.url)
    exit_code, text = shown(redis_server.url, "user", "712")
    assert exit_code
    assert layouts.fingerprint in text
    assert "3 behaviours, newest first" in text
    assert "2001-09-09T01:46:40.060+00:00" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("    ")}
    assert lines["age"] == ["31"]
    assert len(lines["interests"]) == 2
    assert "missing" in shown(redis_server.url, "item", "2")[1]
    assert shown(redis_server.url, "item", "nothing")[0] is False


def test_a_schema_that_reads_fewer_behaviours_does_not_cut_what_another_keeps(
    tmp_path: Path,
    tables: dict[str, pa.Table],
    schema: FeatureSchema,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    assert schema.behaviour is not None
    shorter = schema.model_copy(update={"behaviour": schema.behaviour.model_copy(update={"max_length": 1})})
    assert shorter.fingerprint == schema.fingerprint
    as_parquet(tmp_path, tables)
    load_folder(tmp_path, schema, redis_server.url)
    load_folder(tmp_path, shorter, redis_server.url)
    assert len(items_of(store, layouts, "712")) == 3
