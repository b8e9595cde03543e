"""Tests a bulk load that is interrupted: the same command continues it, unless the files or Redis have changed."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import redis
from bulk_load import contents_of, loading
from redis_proxy import RedisProxy

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import SCHEMAS
from service.store.redis.loading import load
from service.store.redis.loading.load import load_folder

BIG = 2**60 + 1  # as a float it would be another number
START_MS = 10**12


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


ROWS = 120_000  # three batches


@pytest.fixture
def slow_redis(redis_server: EmbeddedRedis) -> Iterator[str]:
    """A proxy that delays Redis' replies by 40 ms: a batch, which needs 25 requests or more, takes over a second."""
    with RedisProxy(redis_server.port, delay_s=0.04).running() as proxy:
        yield proxy.url


def rows_done(store: redis.Redis, layouts: Layouts) -> int:
    noted: Any = [store.hget(key, "behaviours") for key in store.keys(f"fr:{layouts.fingerprint}:load:*")]  # type: ignore[union-attr]
    return int(noted[0] or 0) if noted else 0


@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 3)])
def test_a_load_that_is_ended_half_way_goes_on_from_there(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    slow_redis: str,
    store: redis.Redis,
    end: int,
    code: int,
) -> None:
    tables = long_tables(tmp_path, ROWS)
    with loading(tables, registry, slow_redis) as half:
        kit.wait_until(lambda: rows_done(store, layouts) > 0)
        half.send_signal(end)
        stderr = half.communicate()[1]
    assert half.returncode == code
    assert "Traceback" not in stderr
    done = rows_done(store, layouts)
    assert 0 < done < ROWS
    assert '"loaded_at":null' in store.hget(SCHEMAS, layouts.fingerprint).decode()  # type: ignore[union-attr]
    with loading(tables, registry, redis_server.url) as rest:
        stderr = rest.communicate()[1]
    assert rest.returncode == 0, stderr
    assert f"behaviours: continues after the {done} rows" in stderr
    assert "items: continues after the 300 rows" in stderr
    assert '"loaded_at":null' not in store.hget(SCHEMAS, layouts.fingerprint).decode()  # type: ignore[union-attr]
    resumed = contents_of(store)
    store.flushall()
    load_folder(tmp_path, layouts.schema, redis_server.url)
    assert contents_of(store) == resumed


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, FeatureSchema, str], None]:
    """A load, in small batches, that stops after the first batch of behaviours."""
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
    assert "continues after" not in again(restart=True)
    assert "continues after" not in again()  # the finished load is loaded anew
    assert rows_done(store, layouts) == 0
    interrupted(tables, schema, url)
    assert "continues after the 1000 rows" in again()
    interrupted(tables, schema, url)
    os.utime(tables / "items.parquet", ns=(0, 0))
    assert "continues after" not in again()
    interrupted(tables, schema, url)
    store.flushall()
    assert "continues after" not in again()


def test_a_redis_that_is_emptied_meanwhile_ends_the_load(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    layouts: Layouts,
    slow_redis: str,
    store: redis.Redis,
) -> None:
    with loading(long_tables(tmp_path, ROWS), registry, slow_redis) as half:
        kit.wait_until(lambda: rows_done(store, layouts) > 0)
        store.flushall()
        stderr = half.communicate()[1]
    assert half.returncode == 1
    assert "Redis was emptied" in stderr
    assert rows_done(store, layouts) == 0
