"""Owns the bulk load: canonical tables (parquet or CSV) into Redis, packed column by column.

`users` (user_id and user features), `items` (item_id and item features), `behaviours` (user_id, item_id, action, scene, time_ms, and an
event_id where events had one). An interrupted load goes on where it stopped; running a finished one again replaces rows and merges behaviours.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from redis import Redis
from tqdm import tqdm

from features import FeatureError, FeatureSchema, MultiCategorical, RowLayout
from features.keys import text_of
from features.layouts import Entity, Layouts, rows_of
from service.store.event_keys import event_keys
from service.store.redis.checkpoint import Checkpoint, Emptied
from service.store.redis.clients import client, is_cluster, set_values, values_of
from service.store.redis.keys import behaviours_key, item_key, user_key
from service.store.redis.schemas import announce_schema, longest, register_schema
from service.store.redis.writer import ADD_BEHAVIOURS

TABLES = ("items", "users", "behaviours")
BATCH_ROWS = 50_000
_PIPELINE_ROWS = 2_000
_LIST_SEPARATOR = "|"
_BEHAVIOUR_COLUMNS = ("user_id", "item_id", "action", "scene", "time_ms")


class LoadError(Exception):
    """A table that cannot be loaded; the message names the file and, where it is one, the column."""


@dataclass(frozen=True)
class Table:
    """One table on disk; `batches` gives what comes after so many rows."""

    path: Path
    rows: int | None
    columns: tuple[str, ...]
    batches: Callable[[int], Iterator[pa.RecordBatch]]


def load_folder(folder: Path, schema: FeatureSchema, redis_url: str, restart: bool = False) -> dict[str, int]:
    """Load what the folder has of users, items and behaviours; how many rows of each. Raises LoadError and redis' errors.

    The same call goes on where an earlier one was interrupted, unless it shall `restart`. From when the items are in, live writes go to this
    schema too: an event that comes during the load finds the features of its item.
    """
    tables = {name: table for name in TABLES if (table := _find(folder, name)) is not None}
    if not tables:
        raise LoadError(f"{folder} has none of users, items, behaviours (.parquet or .csv)")
    with client(redis_url, 60) as redis:
        redis.ping()
        schema = longest(redis, schema)
        layouts = Layouts.of(schema)
        if layouts.behaviour is None:
            tables.pop("behaviours", None)
        loaders: dict[str, Callable[[pa.RecordBatch], None]] = {
            "items": lambda batch: _load_rows(redis, layouts, "item", batch),
            "users": lambda batch: _load_rows(redis, layouts, "user", batch),
            "behaviours": lambda batch: _load_behaviours(redis, layouts, batch),
        }
        checkpoint = Checkpoint(
            redis, layouts.fingerprint, {name: table.path for name, table in tables.items()}, restart
        )
        loaded = {}
        for name, table in tables.items():
            if name != "items":
                announce_schema(redis, schema)
            loaded[name] = _load_table(name, table, loaders[name], checkpoint)
        register_schema(redis, schema)
        checkpoint.finish()
    return loaded


def _find(folder: Path, name: str) -> Table | None:
    parquet = folder / f"{name}.parquet"
    csv = folder / f"{name}.csv"
    try:
        if parquet.exists():
            file = pa.parquet.ParquetFile(parquet)
            return Table(
                parquet, file.metadata.num_rows, tuple(file.schema_arrow.names), lambda done: _parquet_after(done, file)
            )
        if csv.exists():
            # Everything is read as text first: what a number is, the schema says and not the look of the first rows.
            names = tuple(pa.csv.open_csv(csv).schema.names)
            options = pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            )
            return Table(csv, None, names, lambda done: _after(done, pa.csv.open_csv(csv, convert_options=options)))
    except (pa.ArrowException, OSError) as error:
        raise LoadError(f"{parquet if parquet.exists() else csv}: {error}") from None
    return None


def _parquet_after(done: int, file: "pa.parquet.ParquetFile") -> Iterator[pa.RecordBatch]:
    """Row groups that are done are not even read."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    first = 0
    while first < len(sizes) and sizes[first] <= done:
        done -= sizes[first]
        first += 1
    return _after(
        done, file.iter_batches(BATCH_ROWS, row_groups=list(range(first, len(sizes)))) if first < len(sizes) else ()
    )


def _after(done: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if done < batch.num_rows:
            yield batch.slice(done)
        done = max(0, done - batch.num_rows)


def _load_table(name: str, table: Table, load: Callable[[pa.RecordBatch], None], checkpoint: Checkpoint) -> int:
    needed = _BEHAVIOUR_COLUMNS if name == "behaviours" else (f"{name[:-1]}_id",)
    if lacking := [c for c in needed if c not in table.columns]:
        raise LoadError(f"{table.path}: no column {', '.join(lacking)}; it has {', '.join(table.columns)}")
    done = checkpoint.done[name]
    try:
        with tqdm(total=table.rows, initial=done, desc=name, unit=" rows") as progress:
            if done:
                progress.write(
                    f"{name}: goes on after the {done} rows that an interrupted load brought in; --restart begins anew",
                    file=sys.stderr,
                )
            for batch in table.batches(done):
                load(batch)
                done += batch.num_rows
                checkpoint.note(name, done)
                progress.update(batch.num_rows)
    except FeatureError as error:
        raise LoadError(f"{table.path}: column {error.field}: {error.message}") from None
    except pa.ArrowException as error:
        raise LoadError(f"{table.path}: {error}") from None
    except Emptied:
        raise LoadError(
            "Redis was emptied, or restarted empty, while it was loaded; run the same command again: it begins anew"
        ) from None
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
        f.name: _column(batch, f.name, f.type == "numeric", isinstance(f, MultiCategorical))
        for f in layout.features
        if f.name in batch.schema.names
    }


def _load_rows(redis: "Redis", layouts: Layouts, entity: Entity, batch: pa.RecordBatch) -> None:
    layout = layouts.layout(entity)
    id_feature = layouts.id_feature(entity)
    ids = _ids(batch, f"{entity}_id")
    columns = columns_of(layout, batch)
    if id_feature is not None:
        columns[id_feature] = _objects(list(ids))
    packed = layout.pack_columns(columns, len(ids)).tobytes()
    size = layout.dtype.itemsize
    key_of = user_key if entity == "user" else item_key
    for start in range(0, len(ids), _PIPELINE_ROWS):
        places = range(start, min(start + _PIPELINE_ROWS, len(ids)))
        set_values(
            redis,
            {key_of(layouts.fingerprint, ids[place]): packed[place * size : (place + 1) * size] for place in places},
        )


def _load_behaviours(redis: "Redis", layouts: Layouts, batch: pa.RecordBatch) -> None:
    """Behaviours of a batch, each with the features that Redis now holds for its item."""
    assert layouts.behaviour is not None
    users = _ids(batch, "user_id")
    items = _ids(batch, "item_id")
    actions, scenes = (_column(batch, c, numeric=False, many=False) for c in ("action", "scene"))
    event_ids = (
        _column(batch, "event_id", numeric=False, many=False).tolist() if "event_id" in batch.schema.names else None
    )
    times = _times(batch)
    rows = layouts.behaviour.of_items(_item_rows(redis, layouts, items), actions, scenes, times)
    events = event_keys(items, actions.tolist(), scenes.tolist(), event_ids)
    packed = rows.tobytes()
    size = rows.dtype.itemsize
    distinct, owner = _distinct(users)
    stamps = times.tolist()
    order = _newest_first(owner, times, np.frombuffer(b"".join(events), dtype=np.int64))
    starts = np.searchsorted(owner[order], np.arange(len(distinct) + 1))
    # A cluster's client takes no EVALSHA into a pipeline; one Redis is spared the script's text per user.
    add = ("EVAL", ADD_BEHAVIOURS) if is_cluster(redis) else ("EVALSHA", redis.script_load(ADD_BEHAVIOURS))
    for first in range(0, len(distinct), _PIPELINE_ROWS // 10):
        with redis.pipeline(transaction=False) as pipeline:
            for user in range(first, min(first + _PIPELINE_ROWS // 10, len(distinct))):
                args: list[Any] = [layouts.max_behaviours]
                for place in reversed(order[starts[user] : starts[user + 1]][: layouts.max_behaviours].tolist()):
                    args += [stamps[place], events[place] + packed[place * size : (place + 1) * size]]
                pipeline.execute_command(*add, 1, behaviours_key(layouts.fingerprint, distinct[user]), *args)  # type: ignore[no-untyped-call]
            pipeline.execute()


def _newest_first(owner: np.ndarray, times: np.ndarray, events: np.ndarray) -> np.ndarray:
    """The places of a batch's rows by owner, each owner's newest first; of equal times the later row is newer. Repeats are left out."""
    place = np.arange(len(times))
    by_event = np.lexsort((place, events, times, owner))
    alike = [np.diff(column[by_event]) == 0 for column in (owner, times, events)]
    first = np.ones(len(times), dtype=bool)
    first[by_event[1:]] = ~np.logical_and.reduce(alike)
    order = np.lexsort((-place, -times, owner))
    return np.asarray(order[first[order]])


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
    found: list[bytes] = []
    for start in range(0, len(distinct), _PIPELINE_ROWS):
        ids = distinct[start : start + _PIPELINE_ROWS]
        rows = values_of(redis, [item_key(layouts.fingerprint, i) for i in ids])
        found += [layouts.row_or_unknown("item", i, row) for i, row in zip(ids, rows, strict=True)]
    return np.asarray(rows_of(layouts.item, b"".join(found), len(found))[place])
