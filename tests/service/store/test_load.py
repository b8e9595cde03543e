"""Tests the bulk load and the inspection: rows are loaded as the packing gives them, bad tables are refused by name."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.event_keys import event_keys
from service.store.redis import load
from service.store.redis.inspect import shown
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.redis.load import LoadError, load_folder

BIG = 2**60 + 1  # as a float it would be another number
START_MS = 10**12
ROOT = Path(__file__).parents[3]


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


def items_of(store: redis.Redis, layouts: Layouts, user_id: str) -> list[int]:
    """The item keys of the stored behaviours, newest first."""
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(layouts.fingerprint, user_id), 0, -1)
    return [int(layouts.behaviour.rows(m[8:])["keys"][0][0]) for m in members]


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
    """`service load` of a bundle whose recipe names other columns and another file loads what the plain names load."""
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
        with loading(folder, registry, redis_server.url, "--bundle", f"synthetic/{version}")() as done:
            said = done.communicate()[1]
        assert done.returncode == 0, said
        loaded.append({k: v for k, v in everything(store).items() if b":load:" not in k})
    assert loaded[0] == loaded[1] and loaded[0]
    with loading(renamed, registry, redis_server.url, "--bundle", "synthetic/1")() as done:
        said = done.communicate()[1]
    assert done.returncode == 1
    assert "items.parquet: no column 'item_id', which data.item_id names; nearest: " in said and "Traceback" not in said


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
    table = pa.table(
        {
            "user_id": ["1"] * 50_000,
            "item_id": ["2"] * 50_000,
            "action": ["a"] * 50_000,
            "scene": ["s"] * 50_000,
            "time_ms": START_MS + times,
        }
    )
    pa.parquet.write_table(table, tmp_path / "behaviours.parquet")
    load_folder(tmp_path, schema, redis_server.url)
    found: Any = store.zrevrange(behaviours_key(layouts.fingerprint, "1"), 0, -1, withscores=True)
    assert [at - START_MS for _, at in found] == list(range(49_999, 49_989, -1)), "twice what a ranking reads"


def test_rows_of_one_millisecond_keep_the_tables_order_and_repeats_count_once(
    tmp_path: Path, schema: FeatureSchema, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    items = ["a", "b", "a", "c", "d", "e", "b", "f"]
    table = pa.table(
        {"user_id": ["1"] * 8, "item_id": items, "action": ["x"] * 8, "scene": ["s"] * 8, "time_ms": [10**12] * 8}
    )
    for _ in range(2):
        pa.parquet.write_table(table, tmp_path / "behaviours.parquet")
        load_folder(tmp_path, schema, redis_server.url)
        assert items_of(store, layouts, "1") == [
            layouts.item.rows(layouts.item.pack({"item_id": i}))["keys"][0][0] for i in "fedcba"
        ]


def test_behaviours_with_an_event_id_are_the_events_that_were_sent_with_it(
    tmp_path: Path, schema: FeatureSchema, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    sent = event_keys(["a", "a"], ["x", "x"], ["s", "s"], ["e-1", "e-2"])
    columns = {
        "user_id": ["1"] * 3,
        "item_id": ["a"] * 3,
        "action": ["x"] * 3,
        "scene": ["s"] * 3,
        "time_ms": [10**12] * 3,
    }
    pa.parquet.write_table(pa.table(columns | {"event_id": ["e-1", "e-2", None]}), tmp_path / "behaviours.parquet")
    load_folder(tmp_path, schema, redis_server.url)
    members: Any = store.zrange(behaviours_key(layouts.fingerprint, "1"), 0, -1)
    assert [m[:8] for m in members] == [*sent, *event_keys(["a"], ["x"], ["s"])]


def long_tables(folder: Path, rows: int) -> Path:
    """Items, and behaviours in several row groups."""
    users = np.arange(rows) % 5000
    items = np.arange(rows) % 300
    empty = dict.fromkeys(("tag", "topics", "quality"), pa.nulls(300))
    priced = pa.table({"item_id": np.arange(300), "price": np.arange(300) / 7} | empty)
    pa.parquet.write_table(priced, folder / "items.parquet")
    columns = {
        "user_id": users,
        "item_id": items,
        "action": ["click"] * rows,
        "scene": [1] * rows,
        "time_ms": 10**12 + np.arange(rows),
    }
    pa.parquet.write_table(pa.table(columns), folder / "behaviours.parquet", row_group_size=rows // 4 + 1)
    return folder


def rows_done(store: redis.Redis, layouts: Layouts) -> int:
    noted: Any = [store.hget(key, "behaviours") for key in store.keys(f"fr:{layouts.fingerprint}:load:*")]  # type: ignore[union-attr]
    return int(noted[0] or 0) if noted else 0


def everything(store: redis.Redis) -> dict[bytes, Any]:
    """All rows and behaviours, without the note of which registries loaded them."""
    keys: Any = store.keys("fr:*:*")
    return {key: store.dump(key) for key in keys if not key.endswith(b":registries")}


@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 3)])
def test_a_load_that_is_ended_half_way_goes_on_from_there(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    end: int,
    code: int,
) -> None:
    begin = loading(long_tables(tmp_path, 250_000), registry, redis_server.url)
    with begin() as half:
        kit.wait_until(lambda: rows_done(store, layouts) > 0)
        half.send_signal(end)
        told = half.communicate()[1]
    assert half.returncode == code
    assert "Traceback" not in told
    done = rows_done(store, layouts)
    assert 0 < done < 250_000
    assert '"loaded_at":null' in store.hget(SCHEMAS, layouts.fingerprint).decode()  # type: ignore[union-attr]
    with begin() as rest:
        told = rest.communicate()[1]
    assert rest.returncode == 0, told
    assert f"behaviours: goes on after the {done} rows" in told
    assert "items: goes on after the 300 rows" in told
    assert '"loaded_at":null' not in store.hget(SCHEMAS, layouts.fingerprint).decode()  # type: ignore[union-attr]
    resumed = everything(store)
    store.flushall()
    load_folder(tmp_path, layouts.schema, redis_server.url)
    assert everything(store) == resumed


def loading(tables: Path, registry: Path, redis_url: str, *more: str) -> "Callable[[], subprocess.Popen[str]]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FUNNELRANK_")} | {
        "FUNNELRANK_REDIS_URL": redis_url
    }
    command = [sys.executable, "-m", "service", "load", str(tables), "--registry", str(registry), *more]
    return lambda: subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, FeatureSchema, str], None]:
    """A load, in small batches, that ends after the first one of behaviours."""
    monkeypatch.setattr(load, "BATCH_ROWS", 1000)
    load_behaviours = load._load_behaviours

    def run(tables: Path, schema: FeatureSchema, redis_url: str) -> None:
        batches = iter(range(2))

        def ends(*arguments: Any) -> None:
            if next(batches) == 1:
                raise KeyboardInterrupt
            load_behaviours(*arguments)

        monkeypatch.setattr(load, "_load_behaviours", ends)
        with pytest.raises(KeyboardInterrupt):
            load_folder(tables, schema, redis_url)
        monkeypatch.setattr(load, "_load_behaviours", load_behaviours)

    return run


def test_a_load_goes_on_only_where_nothing_has_changed(
    tmp_path: Path, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis, interrupted: Any, capfd: Any
) -> None:
    tables = long_tables(tmp_path, 5000)
    schema = layouts.schema
    url = redis_server.url

    def again(restart: bool = False) -> str:
        capfd.readouterr()
        load_folder(tables, schema, url, restart)
        return str(capfd.readouterr().err)

    interrupted(tables, schema, url)
    assert rows_done(store, layouts) == 1000
    assert "goes on" not in again(restart=True)
    assert "goes on" not in again()  # the finished load is loaded anew
    assert rows_done(store, layouts) == 0
    interrupted(tables, schema, url)
    assert "goes on after the 1000 rows" in again()
    interrupted(tables, schema, url)
    os.utime(tables / "items.parquet", ns=(0, 0))
    assert "goes on" not in again()
    interrupted(tables, schema, url)
    store.flushall()
    assert "goes on" not in again()


def test_a_redis_that_is_emptied_meanwhile_ends_the_load(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    with loading(long_tables(tmp_path, 250_000), registry, redis_server.url)() as half:
        kit.wait_until(lambda: rows_done(store, layouts) > 0)
        store.flushall()
        told = half.communicate()[1]
    assert half.returncode == 1
    assert "Redis was emptied" in told
    assert rows_done(store, layouts) == 0


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


@pytest.mark.parametrize(
    ("table", "column", "values", "told"),
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
    told: str,
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
    found, text = shown(redis_server.url, "user", "712")
    assert found
    assert layouts.fingerprint in text
    assert "3 behaviours, newest first" in text
    assert "2001-09-09T01:46:40.060+00:00" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("    ")}
    assert lines["age"] == ["31"]
    assert len(lines["interests"]) == 2
    assert "missing" in shown(redis_server.url, "item", "2")[1]
    assert shown(redis_server.url, "item", "nothing")[0] is False
