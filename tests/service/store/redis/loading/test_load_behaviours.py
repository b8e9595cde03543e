"""Tests the bulk load of behaviours: their order, duplicates, and how many are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import redis
from bulk_load import items_of

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.event_keys import event_keys
from service.store.redis.keys import behaviours_key
from service.store.redis.loading.load import load_folder

START_MS = 10**12


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
    stored: Any = store.zrevrange(behaviours_key(layouts.fingerprint, "1"), 0, -1, withscores=True)
    assert [at - START_MS for _, at in stored] == list(range(49_999, 49_989, -1)), "twice what a ranking reads"


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
