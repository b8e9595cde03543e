"""Tests that all readers agree: training, the load, the load test, the path report and JSON.

Whatever the type of a value and its source, every reader gives the same bits, or every reader refuses the same column.
"""

import datetime
import decimal
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from table_readers import as_parquet, readers_agree

from features import FeatureSchema
from features.layouts import Layouts
from loadtest.workload.workload import WorkloadError, read_popularity
from models.data.encoding.entities import Entities
from models.reports.paths import Columns, PathsError, read_events
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.loading.load import LoadError, load_folder
from tables import TableError, find_table

START_MS = 1_651_334_400_000


def of(**columns: Any) -> pa.Table:
    base = {"item_id": pa.array([1, 2, 3]), "tag": pa.nulls(3), "topics": pa.nulls(3), "price": pa.nulls(3)}
    return pa.table(base | columns)


D = decimal.Decimal
TYPES: dict[str, tuple[str, Any]] = {
    "int8": ("tag", pa.array([1, None, 3], pa.int8())),
    "uint64": ("tag", pa.array([1, None, 2**63 + 1], pa.uint64())),
    "float64": ("tag", pa.array([1.0, None, 3.0])),
    "float32": ("tag", pa.array([1.0, None, 3.0], pa.float32())),
    "float16": ("tag", pa.array(np.array([1, np.nan, 3], np.float16))),
    "large float32": ("tag", pa.array([1.0, None, 2.0**24], pa.float32())),
    "fractions": ("tag", pa.array([1.0, None, 0.5])),
    "decimals": ("tag", pa.array([D(1), None, D(3)], pa.decimal128(38, 0))),
    "large decimals": ("tag", pa.array([D(1), None, D(10**30)], pa.decimal128(38, 0))),
    "bool": ("tag", pa.array([True, None, False])),
    "text": ("tag", pa.array(["a", None, "007"])),
    "long text": ("tag", pa.array(["a", None, "x" * 513])),
    "large_string": ("tag", pa.array(["a", None, ""], pa.large_string())),
    "string_view": ("tag", pa.array(["a", None, "b"], pa.string_view())),
    "binary": ("tag", pa.array([b"a", None, b"b"])),
    "binary that is no text": ("tag", pa.array([b"a", None, b"\xff"])),
    "dictionary": ("tag", pa.array(["a", None, "b"]).dictionary_encode()),
    "nulls": ("tag", pa.nulls(3)),
    "timestamp as a category": ("tag", pa.array([1, None, 3], pa.timestamp("us"))),
    "date as a category": ("tag", pa.array([datetime.date(2022, 5, 1)] * 3)),
    "duration": ("tag", pa.array([1, None, 3], pa.duration("s"))),
    "struct": ("tag", pa.array([{"a": 1}] * 3)),
    "list as a category": ("tag", pa.array([[1], None, [2]])),
    "list": ("topics", pa.array([[1, None], None, []])),
    "list of text": ("topics", pa.array([["a", "b", "c", "d"], None, [""]])),
    "list of floats": ("topics", pa.array([[1.0, 2.0], None, [3.0]])),
    "list of fractions": ("topics", pa.array([[0.5], None, [3.0]])),
    "large_list": ("topics", pa.array([["a"], None, ["b"]], pa.large_list(pa.string()))),
    "fixed_size_list": ("topics", pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2))),
    "list of lists": ("topics", pa.array([[[1]], None, [[2]]])),
    "text as a list": ("topics", pa.array(["a|b", None, "c"])),
    "map": ("topics", pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64()))),
    "numbers": ("price", pa.array([1.5, None, 3.0])),
    "numbers as float16": ("price", pa.array(np.array([1.5, np.nan, 3], np.float16))),
    "numbers as integers": ("price", pa.array([2**60 + 1, None, 3])),
    "numbers as decimals": ("price", pa.array([D("4.29"), None, D("3.00")], pa.decimal128(10, 2))),
    "numbers as large decimals": ("price", pa.array([D(10**30), None, D(3)], pa.decimal128(38, 0))),
    "numbers as wide decimals": ("price", pa.array([D("4.29"), None, D(3)], pa.decimal256(60, 20))),
    "numbers as a dictionary": ("price", pa.array([1.5, None, 3.0]).dictionary_encode()),
    "numbers as a duration": ("price", pa.array([1, None, 3], pa.duration("s"))),
    "numbers in lists": ("price", pa.array([[1.5], None, [3.0]])),
    "time of day": ("tag", pa.array([1, None, 3], pa.time32("s"))),
    "bytes of one length": ("tag", pa.array([b"ab", None, b"cd"], pa.binary(2))),
    "dictionary of integers": ("tag", pa.array([1, None, 3]).dictionary_encode()),
    "extension type of text": ("tag", pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None, "[]"]))),
    "list_view": ("topics", pa.array([[1], None, [2, 3]], pa.list_view(pa.int64()))),
    "list of a dictionary": ("topics", pa.ListArray.from_arrays([0, 1, 1, 3], pa.array([1, 2, 1]).dictionary_encode())),
    "list of structs": ("topics", pa.array([[{"a": 1}], None, []])),
    "list of wide decimals": ("topics", pa.array([[D(1)], None, [D(10**30)]], pa.list_(pa.decimal256(60, 0)))),
    "numbers as a timestamp": ("price", pa.array([START_MS, None, START_MS + 1], pa.timestamp("ms"))),
    "numbers as text": ("price", pa.array(["1.5", None, "3"])),
    "numbers as bool": ("price", pa.array([True, None, False])),
    "infinite numbers": ("price", pa.array([1.5, None, float("inf")])),
    "numbers beyond float32": ("price", pa.array([1.5, None, 1e39])),
    "numbers with NaN": ("price", pa.array([1.5, None, float("nan")])),
    "ids as floats": ("item_id", pa.array([1.0, 2.0, 3.0])),
    "ids as decimals": ("item_id", pa.array([D(1), D(2), D(3)], pa.decimal128(38, 0))),
    "ids with a gap": ("item_id", pa.array([1, None, 3])),
    "ids with leading zeros": ("item_id", pa.array(["007", "7", "07"])),
    "fractional ids": ("item_id", pa.array([0.5, 1.0, 2.0])),
    "ids as bool": ("item_id", pa.array([True, False, True])),
}


@pytest.mark.parametrize("kind", TYPES)
def test_training_and_load_make_the_same_bits_of_every_type_or_refuse_the_same_column(
    tmp_path: Path, server: EmbeddedRedis, kind: str
) -> None:
    column, values = TYPES[kind]
    items = of(**{column: values})
    if kind == "ids as bool":
        items = items.slice(0, 2)  # a third id would repeat the first
    read = readers_agree(tmp_path, server, items, as_parquet)
    if isinstance(read, tuple):
        assert read[0] == column


def test_the_ids_of_every_type_are_one_text_for_load_load_test_and_paths(tmp_path: Path) -> None:
    ids = [7, 8, 9]
    texts = [str(i) for i in ids]
    writings = {
        "int64": pa.array(ids),
        "float64": pa.array([float(i) for i in ids]),
        "float32": pa.array([float(i) for i in ids], pa.float32()),
        "uint64": pa.array(ids, pa.uint64()),
        "decimal": pa.array([D(i) for i in ids], pa.decimal128(38, 0)),
        "text": pa.array(texts),
        "dictionary": pa.array(texts).dictionary_encode(),
        "csv": None,
        "csv of floats": None,
    }
    for kind, values in writings.items():
        folder = tmp_path / kind
        folder.mkdir()
        events = {name: pa.array(ids) if values is None else values for name in ("user_id", "item_id", "action")}
        table = pa.table(events | {"scene": pa.nulls(3), "time_ms": pa.array([START_MS] * 3)})
        if values is None:
            frame = table.to_pandas()
            floats = dict.fromkeys(events, float) if kind == "csv of floats" else {}
            frame.astype(floats).to_csv(folder / "behaviours.csv", index=False)
        else:
            pa.parquet.write_table(table, folder / "behaviours.parquet")
        (path,) = folder.iterdir()
        shutil.copy(path, folder / f"items{path.suffix}")
        source = find_table(folder, "items")
        assert source is not None
        assert [i for batch in source.batches(["item_id"]) for i in batch.ids("item_id")] == texts, kind
        popularity = read_popularity(folder, "items", "item_id", 1.0, np.random.default_rng(0))
        assert sorted(popularity.ids) == texts, kind
        log, incomplete = read_events(path, Columns())
        assert incomplete == 0
        assert [log[c].tolist() for c in ("user_id", "item_id", "action")] == [texts] * 3, kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"item_id\ncaf\xe9\n", "column 'item_id' holds bytes that are not UTF-8: b'caf\\xe9' (row 1)"),
        ("sku\n1\n", "no column 'item_id'"),
        ("", "cannot be read: Empty CSV file"),
        ("item_id,item_id\n1,2\n", "column 'item_id' occurs twice"),
        ('item_id,tag\n"1,2\n', "cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_refused_alike_by_every_reader(
    tmp_path: Path, server: EmbeddedRedis, content: str | bytes, message: str
) -> None:
    raw = content.encode() if isinstance(content, str) else content
    for name in ("items", "behaviours"):
        (tmp_path / f"{name}.csv").write_bytes(raw)
    schema = FeatureSchema.model_validate(
        {"item": [{"name": "item_id", "type": "categorical"}], "item_id_feature": "item_id"}
    )
    messages = []
    entities = Entities(tmp_path / "packed", Layouts.of(schema).item, "item_id")
    with pytest.raises(TableError) as refused:
        entities.read(find_table(tmp_path, "items"), "item_id")  # type: ignore[arg-type]
    entities.close()
    messages.append(str(refused.value))
    with pytest.raises(LoadError) as not_loaded:
        load_folder(tmp_path, schema, server.url)
    messages.append(str(not_loaded.value))
    with pytest.raises(WorkloadError) as not_asked:
        read_popularity(tmp_path, "items", "item_id", 1.0, np.random.default_rng(0))
    messages.append(str(not_asked.value))
    for text in messages:
        assert "items.csv" in text and message in text and "\n" not in text
    columns = Columns() if "no column" in message else Columns(**dict.fromkeys(asdict(Columns()), "item_id"))
    with pytest.raises(PathsError, match=r"items.csv|the log has no column"):
        read_events(tmp_path / "items.csv", columns)
