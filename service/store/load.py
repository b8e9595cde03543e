"""Owns the bulk load: canonical tables (parquet or CSV) into Redis, packed column by column.

`users` (user_id and user features), `items` (item_id and item features), `behaviours` (user_id, item_id, action, scene, time_ms). Running
it again replaces rows and merges behaviours, so an interrupted load is simply started anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from redis import Redis
from tqdm import tqdm

from features import FeatureError, FeatureSchema, MultiCategorical, RowLayout
from features.keys import text_of
from service.layouts import Entity, Layouts, rows_of
from service.store.clients import client, values_of
from service.store.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.writer import ADD_BEHAVIOURS, event_keys

BATCH_ROWS = 20_000
_PIPELINE_ROWS = 2_000
_LIST_SEPARATOR = "|"
_BEHAVIOUR_COLUMNS = ("user_id", "item_id", "action", "scene", "time_ms")


class LoadError(Exception):
    """A table that cannot be loaded; the message names the file and, where it is one, the column."""


@dataclass(frozen=True)
class Table:
    """One table on disk."""

    path: Path
    rows: int | None
    columns: tuple[str, ...]
    batches: Callable[[], Iterator[pa.RecordBatch]]


def load_folder(folder: Path, schema: FeatureSchema, redis_url: str) -> dict[str, int]:
    """Load what the folder has of users, items and behaviours; how many rows of each. Raises LoadError and redis' errors."""
    tables = {name: table for name in ("items", "users", "behaviours") if (table := _find(folder, name)) is not None}
    if not tables:
        raise LoadError(f"{folder} has none of users, items, behaviours (.parquet or .csv)")
    layouts = Layouts.of(schema)
    with client(redis_url, 60) as redis:
        redis.ping()
        loaders: dict[str, Callable[[pa.RecordBatch], None]] = {
            "items": lambda batch: _load_rows(redis, layouts, "item", batch),
            "users": lambda batch: _load_rows(redis, layouts, "user", batch),
            "behaviours": lambda batch: _load_behaviours(redis, layouts, batch),
        }
        loaded = {name: _load_table(name, table, loaders[name]) for name, table in tables.items() if name != "behaviours" or layouts.behaviour}
        register_schema(redis, schema)
    return loaded


def register_schema(redis: "Redis", schema: FeatureSchema) -> None:
    """Note in Redis that rows of this schema are there; from then on a model of another schema is refused."""
    loaded_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    redis.hset(SCHEMAS, schema.fingerprint, orjson.dumps({"schema": schema.model_dump(mode="json"), "loaded_at": loaded_at}))


def _find(folder: Path, name: str) -> Table | None:
    parquet, csv = folder / f"{name}.parquet", folder / f"{name}.csv"
    try:
        if parquet.exists():
            file = pa.parquet.ParquetFile(parquet)
            return Table(parquet, file.metadata.num_rows, tuple(file.schema_arrow.names), lambda: file.iter_batches(BATCH_ROWS))
        if csv.exists():
            # Everything is read as text first: what a number is, the schema says and not the look of the first rows.
            names = tuple(pa.csv.open_csv(csv).schema.names)
            options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""])
            return Table(csv, None, names, lambda: iter(pa.csv.open_csv(csv, convert_options=options)))
    except (pa.ArrowException, OSError) as error:
        raise LoadError(f"{parquet if parquet.exists() else csv}: {error}") from None
    return None


def _load_table(name: str, table: Table, load: Callable[[pa.RecordBatch], None]) -> int:
    needed = _BEHAVIOUR_COLUMNS if name == "behaviours" else (f"{name[:-1]}_id",)
    if lacking := [c for c in needed if c not in table.columns]:
        raise LoadError(f"{table.path}: no column {', '.join(lacking)}; it has {', '.join(table.columns)}")
    done = 0
    try:
        with tqdm(total=table.rows, desc=name, unit=" rows") as progress:
            for batch in table.batches():
                load(batch)
                done += batch.num_rows
                progress.update(batch.num_rows)
    except FeatureError as error:
        raise LoadError(f"{table.path}: column {error.field}: {error.message}") from None
    except pa.ArrowException as error:
        raise LoadError(f"{table.path}: {error}") from None
    return done


def _ids(batch: pa.RecordBatch, column: str) -> list[str]:
    values = batch.column(column)
    if values.null_count:
        raise FeatureError(column, f"{values.null_count} rows have no id")
    if pa.types.is_integer(values.type):
        return list(values.cast(pa.string()).to_pylist())
    ids = [text_of(v, column) for v in values.to_pylist()]
    if "" in ids:
        raise FeatureError(column, f"{ids.count('')} rows have no id")
    return ids


def _distinct(values: list[str]) -> tuple[list[str], np.ndarray]:
    """The distinct ids, and for each value the place of its id among them."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _column(batch: pa.RecordBatch, name: str, numeric: bool, many: bool) -> np.ndarray:
    """A column as RowLayout.pack_columns takes it. Integers with gaps stay integers, which a float column would not keep exact."""
    values = batch.column(name)
    if many and not pa.types.is_nested(values.type):
        split = [None if v is None else str(v).split(_LIST_SEPARATOR) for v in values.to_pylist()]
        return _objects(split)
    if numeric and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        try:
            values = values.cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise FeatureError(name, f"not a number: {error}") from None
    if pa.types.is_floating(values.type) or (pa.types.is_integer(values.type) and not values.null_count):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    return _objects(values.to_pylist())


def _objects(values: list[Any]) -> np.ndarray:
    """An object array `[n]`, also where the entries are lists of equal length."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def columns_of(layout: RowLayout, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The layout's features that a table has, as `pack_columns` takes them."""
    return {
        f.name: _column(batch, f.name, f.type == "numeric", isinstance(f, MultiCategorical)) for f in layout.features if f.name in batch.schema.names
    }


def _load_rows(redis: "Redis", layouts: Layouts, entity: Entity, batch: pa.RecordBatch) -> None:
    layout, id_feature = layouts.layout(entity), layouts.id_feature(entity)
    ids = _ids(batch, f"{entity}_id")
    columns = columns_of(layout, batch)
    if id_feature is not None:
        columns[id_feature] = _objects(list(ids))
    packed, size = layout.pack_columns(columns, len(ids)).tobytes(), layout.dtype.itemsize
    key_of = user_key if entity == "user" else item_key
    for start in range(0, len(ids), _PIPELINE_ROWS):
        with redis.pipeline(transaction=False) as pipeline:
            for place in range(start, min(start + _PIPELINE_ROWS, len(ids))):
                pipeline.set(key_of(layouts.fingerprint, ids[place]), packed[place * size : (place + 1) * size])
            pipeline.execute()


def _load_behaviours(redis: "Redis", layouts: Layouts, batch: pa.RecordBatch) -> None:
    """Behaviours of a batch, each with the features that Redis now holds for its item."""
    assert layouts.behaviour is not None
    users, items = _ids(batch, "user_id"), _ids(batch, "item_id")
    actions, scenes = (_column(batch, c, numeric=False, many=False) for c in ("action", "scene"))
    times = _times(batch)
    rows = layouts.behaviour.of_items(_item_rows(redis, layouts, items), actions, scenes, times)
    events, packed, size = event_keys(items, actions.tolist(), scenes.tolist()), rows.tobytes(), rows.dtype.itemsize
    distinct, owner = _distinct(users)
    stamps = times.tolist()
    order = np.lexsort((-times, owner))
    starts = np.searchsorted(owner[order], np.arange(len(distinct) + 1))
    for first in range(0, len(distinct), _PIPELINE_ROWS // 10):
        with redis.pipeline(transaction=False) as pipeline:
            for user in range(first, min(first + _PIPELINE_ROWS // 10, len(distinct))):
                args: list[Any] = [layouts.max_behaviours]
                for place in order[starts[user] : starts[user + 1]][: layouts.max_behaviours].tolist():
                    args += [stamps[place], events[place] + packed[place * size : (place + 1) * size]]
                key = behaviours_key(layouts.fingerprint, distinct[user])
                pipeline.execute_command("EVAL", ADD_BEHAVIOURS, 1, key, *args)  # type: ignore[no-untyped-call]
            pipeline.execute()


def _times(batch: pa.RecordBatch) -> np.ndarray:
    values = batch.column("time_ms")
    if values.null_count:
        raise FeatureError("time_ms", "a behaviour without a time cannot be put in order")
    try:
        return np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as error:
        raise FeatureError("time_ms", f"milliseconds since 1970 as an integer are expected: {error}") from None


def _item_rows(redis: "Redis", layouts: Layouts, items: list[str]) -> np.ndarray:
    distinct, place = _distinct(items)
    size, found = layouts.item.dtype.itemsize, []
    for start in range(0, len(distinct), _PIPELINE_ROWS):
        ids = distinct[start : start + _PIPELINE_ROWS]
        rows = values_of(redis, [item_key(layouts.fingerprint, i) for i in ids])
        found += [r if r is not None and len(r) == size else layouts.unknown_row("item", i) for i, r in zip(ids, rows, strict=True)]
    return np.asarray(rows_of(layouts.item, b"".join(found), len(found))[place])
