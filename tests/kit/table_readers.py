"""Reads a table of items with every reader, for the tests that compare their packed rows or refusals."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import redis

from features import FeatureError, FeatureSchema
from features.layouts import Layouts
from models.data.encoding.entities import Entities
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import item_key
from service.store.redis.loading.load import LoadError, load_folder
from tables import TableError, find_table

START_MS = 1_651_334_400_000
SCHEMA = FeatureSchema.model_validate(
    {
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "tag", "type": "categorical"},
            {"name": "topics", "type": "multi_categorical", "max_values": 3},
            {"name": "price", "type": "numeric"},
        ],
        "behaviour": {"max_length": 50, "item_features": ["item_id", "tag"]},
        "item_id_feature": "item_id",
    }
)
LAYOUTS = Layouts.of(SCHEMA)
Read = dict[str, bytes] | tuple[str, str]


def in_training(folder: Path) -> Read:
    """The packed row of every item in training, or the refused column and the reason."""
    entities = Entities(folder / "packed", LAYOUTS.item, "item_id")
    try:
        table = find_table(folder, "items")
        assert table is not None
        entities.read(table, "item_id")
        rows = entities.finished()
    except TableError as error:
        return str(error.column), error.detail
    finally:
        entities.close()
    ids = [text for batch in table.batches(["item_id"]) for text in batch.ids("item_id")]
    return {name: row.tobytes() for name, row in zip(ids, rows, strict=True)}


def in_the_load(folder: Path, server: EmbeddedRedis, ids: list[str]) -> Read:
    """The rows in Redis after a load, or the refused column and the reason."""
    with redis.Redis.from_url(server.url) as store:
        store.flushall()
        try:
            load_folder(folder, SCHEMA, server.url)
        except LoadError as error:
            cause = error.__cause__
            if not isinstance(cause, TableError):
                raise
            return str(cause.column), cause.detail
        stored: Any = {name: store.get(item_key(LAYOUTS.fingerprint, name)) for name in ids}
    return {name: row for name, row in stored.items() if row is not None}


def in_json(columns: dict[str, list[Any]]) -> Read:
    """The rows made from these values by `PUT /features/items` and by a candidate's own features, or the
    refused field.
    """
    rows = {}
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        try:
            packed = LAYOUTS.item.pack(row)
        except FeatureError as error:
            return error.field, error.message
        rows[str(row["item_id"])] = packed
    return rows


def readers_agree(folder: Path, server: EmbeddedRedis, items: pa.Table, write: Any) -> Read:
    """The common result of training and load for a table of items."""
    write(items, folder)
    trained = in_training(folder)
    ids = list(trained) if isinstance(trained, dict) else []
    assert in_the_load(folder, server, ids) == trained
    return trained


def as_parquet(items: pa.Table, folder: Path) -> None:
    pa.parquet.write_table(items, folder / "items.parquet")


def as_csv(items: pa.Table, folder: Path) -> None:
    """Write as pandas does: integers with gaps as floats, lists with bars."""
    frame = items.to_pandas()
    if "topics" in frame:
        lists = [None if v is None else "|".join(map(str, v)) for v in items["topics"].to_pylist()]
        frame = frame.assign(topics=lists)
    frame.to_csv(folder / "items.csv", index=False)
