"""Loads canonical tables (Parquet or CSV) into Redis, packed column by column.

The tables are `users` (user_id and user features), `items` (item_id and item features) and `behaviours` (user_id,
item_id, action, scene, time_ms, and event_id if events have one). An interrupted load continues where it stopped;
repeating a finished load replaces rows and merges behaviours.
"""

from collections.abc import Callable
from pathlib import Path
from time import time_ns

import numpy as np
import pyarrow as pa
from redis import Redis

from features import FeatureSchema
from features.layouts import Entity, Layouts, rows_of
from features.times import latest_now_ms
from service.store.base import NEVER, Lifetimes
from service.store.event_keys import event_keys
from service.store.redis.clients import Call, client, run_script, set_values, values_of
from service.store.redis.keys import behaviours_key, item_key, user_key
from service.store.redis.loading.checkpoint import Checkpoint, Emptied
from service.store.redis.loading.claims import claim
from service.store.redis.loading.progress import note, progress
from service.store.redis.loading.schemas import announce_schema, longest, register_schema
from service.store.redis.writing.scripts import ADD_BEHAVIOURS, add_behaviours_arguments, behaviours_to_send
from tables import Batch, Table, TableError, TableNames, find_table, packed_rows
from tables.packing import feature_columns, list_columns

TABLES = ("items", "users", "behaviours")
BATCH_ROWS = 50_000
_PIPELINE_ROWS = 2_000
_EVENT_ID = "event_id"  # an optional column of behaviours


class LoadError(Exception):
    """A table that cannot be loaded; the message names the file and, if one column is at fault, the column."""


def load_folder(
    folder: Path,
    schema: FeatureSchema,
    redis_url: str,
    restart: bool = False,
    names: TableNames | None = None,
    registry: Path | None = None,
    lifetimes: Lifetimes = NEVER,
) -> dict[str, int]:
    """Load the users, items and behaviours of a folder; return the number of rows of each.

    Raises LoadError and redis' errors. After an interruption the same call continues where it stopped, unless
    `restart`. Once the items are loaded, live writes go to this schema too, so that an event that arrives during the
    load finds the features of its item. `names` are the recipe's names of tables and columns. With `registry`, the rows
    are recorded as that registry's, and no other registry removes them. Loaded users and sequences expire after
    `lifetimes`.
    """
    names = names or TableNames()
    try:
        tables = _tables(folder, names)
        with client(redis_url, 60) as redis:
            redis.ping()
            if registry is not None:
                claim(redis, schema.fingerprint, registry)
            return _load(redis, longest(redis, schema), tables, names, restart, lifetimes)
    except TableError as error:
        raise LoadError(f"{error.file}: {error.detail}") from error


def _tables(folder: Path, names: TableNames) -> dict[str, Table]:
    tables = {}
    absent = []
    for role in TABLES:
        table = find_table(folder, role, names.file_of(role))
        if table is not None:
            tables[role] = table
        else:
            absent.append(role)
    if not tables:
        raise LoadError(f"{folder} has none of users, items, behaviours (.parquet or .csv)")
    for role in absent:
        note(f"{role}: no {role}.parquet or {role}.csv in {folder}, so none are loaded")
    return tables


def _load(
    redis: "Redis",
    schema: FeatureSchema,
    tables: dict[str, Table],
    names: TableNames,
    restart: bool,
    lifetimes: Lifetimes,
) -> dict[str, int]:
    layouts = Layouts.of(schema)
    if layouts.behaviour is None:
        tables.pop("behaviours", None)
    # The columns of every table are checked before a row is written.
    needed = {name: _needed(name, table, layouts, names) for name, table in tables.items()}
    loaders: dict[str, Callable[[Batch], None]] = {
        "items": lambda batch: _load_rows(redis, layouts, "item", batch, names.item_id, 0),
        "users": lambda batch: _load_rows(redis, layouts, "user", batch, names.user_id, lifetimes.user_ms),
        "behaviours": lambda batch: _load_behaviours(redis, layouts, batch, names, lifetimes),
    }
    states = {name: table.states for name, table in tables.items()}
    checkpoint = Checkpoint(redis, layouts.fingerprint, states, restart)
    loaded = {}
    for name, table in tables.items():
        if name != "items":
            announce_schema(redis, schema)
        lists = frozenset() if name == "behaviours" else list_columns(layouts.layout(_entity(name)))
        loaded[name] = _load_table(name, table, needed[name], lists, loaders[name], checkpoint)
    register_schema(redis, schema)
    checkpoint.finish()
    return loaded


def _entity(table: str) -> Entity:
    return "user" if table == "users" else "item"


def _needed(name: str, table: Table, layouts: Layouts, names: TableNames) -> list[str]:
    """Return the columns to read. Raises TableError if the table lacks a column of the schema, as training does."""
    if name == "behaviours":
        needed = {names.user_id: "data.user_id", names.item_id: "data.item_id", names.time_ms: "data.time_ms"}
        table.require(needed | dict.fromkeys(("action", "scene"), "features.behaviour"))
        optional = [_EVENT_ID] if _EVENT_ID in table.columns else []
        return [*needed, "action", "scene", *optional]
    entity = _entity(name)
    key = names.user_id if entity == "user" else names.item_id
    features = feature_columns(layouts.layout(entity), layouts.id_feature(entity))
    table.require({key: f"data.{entity}_id"} | dict.fromkeys(features, f"features.{entity}"))
    return [key, *features]


def _load_table(
    name: str,
    table: Table,
    columns: list[str],
    lists: frozenset[str],
    load: Callable[[Batch], None],
    checkpoint: Checkpoint,
) -> int:
    done = checkpoint.done[name]
    try:
        with progress(name, "rows", table.rows, done) as advance:
            if done:
                note(f"{name}: continues after the {done} rows of an interrupted load; --restart begins anew")
            for batch in table.batches(columns, lists, after=done, batch_rows=BATCH_ROWS):
                load(batch)
                done += len(batch)
                checkpoint.note(name, done)
                advance(len(batch))
    except Emptied:
        raise LoadError(
            "Redis was emptied, or restarted empty, while it was loaded; run the same command again: it begins anew"
        ) from None
    return done


def _distinct(values: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the distinct ids, and for each value the index of its id among them."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _load_rows(
    redis: "Redis", layouts: Layouts, entity: Entity, batch: Batch, id_column: str, lifetime_ms: int
) -> None:
    layout = layouts.layout(entity)
    ids = batch.ids(id_column)
    packed = packed_rows(layout, batch, layouts.id_feature(entity), id_column).tobytes()
    size = layout.dtype.itemsize
    key_of = user_key if entity == "user" else item_key
    for start in range(0, len(ids), _PIPELINE_ROWS):
        places = range(start, min(start + _PIPELINE_ROWS, len(ids)))
        set_values(
            redis,
            {key_of(layouts.fingerprint, ids[place]): packed[place * size : (place + 1) * size] for place in places},
            lifetime_ms,
        )


def _load_behaviours(redis: "Redis", layouts: Layouts, batch: Batch, names: TableNames, lifetimes: Lifetimes) -> None:
    """Load the behaviours of a batch, each with the features that Redis now has for its item."""
    assert layouts.behaviour is not None
    users = batch.ids(names.user_id)
    items = batch.ids(names.item_id)
    actions = batch.texts("action")
    scenes = batch.texts("scene")
    event_ids = [text or None for text in batch.texts(_EVENT_ID)] if _EVENT_ID in batch.types else None
    now_ms = time_ns() // 1_000_000
    times = batch.times(names.time_ms, latest_now_ms())
    item_rows = _item_rows(redis, layouts, items)
    rows = layouts.behaviour.of_items(item_rows, np.array(actions, object), np.array(scenes, object), times)
    events = event_keys(items, actions, scenes, event_ids)
    packed = rows.tobytes()
    size = rows.dtype.itemsize
    stamps = times.tolist()

    # The rows of each user stay in the table's order: of equal times the later row counts as newer.
    distinct, owner = _distinct(users)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(distinct) + 1))

    keep = layouts.kept_behaviours
    for first in range(0, len(distinct), _PIPELINE_ROWS // 10):
        calls: list[Call] = []
        for user in range(first, min(first + _PIPELINE_ROWS // 10, len(distinct))):
            places = order[starts[user] : starts[user + 1]].tolist()
            of_user = ((stamps[place], events[place] + packed[place * size : (place + 1) * size]) for place in places)
            sent = behaviours_to_send(of_user, keep, now_ms)
            keys = [key_of(layouts.fingerprint, distinct[user]) for key_of in (behaviours_key, user_key)]
            calls.append((keys, add_behaviours_arguments(sent, keep, now_ms, lifetimes)))
        run_script(redis, ADD_BEHAVIOURS, calls)


def _item_rows(redis: "Redis", layouts: Layouts, items: list[str]) -> np.ndarray:
    distinct, place = _distinct(items)
    packed: list[bytes] = []
    for start in range(0, len(distinct), _PIPELINE_ROWS):
        ids = distinct[start : start + _PIPELINE_ROWS]
        rows = values_of(redis, [item_key(layouts.fingerprint, i) for i in ids])
        packed += [layouts.row_or_unknown("item", i, row) for i, row in zip(ids, rows, strict=True)]
    return np.asarray(rows_of(layouts.item, b"".join(packed), len(packed))[place])
