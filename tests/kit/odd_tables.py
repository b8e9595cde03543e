"""Makes tables of odd shapes and types, with a recipe for each, for tests of the whole path."""

import decimal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from small_tables import DAY_MS, START_MS, make_tables

Tables = dict[str, pa.Table]
TEST_START_MS = START_MS + 5 * DAY_MS
NUMBERS = 35
WIDTH = 10_000  # of one list


@dataclass
class OddWorld:
    """Tables, the changes of the small recipe that fit them, and what a ranking of all items lacks."""

    tables: Tables
    changes: dict[str, Any] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)


def small_world() -> Tables:
    """The small tables, with several impressions per user and time, and no behaviour in the test part's days."""
    tables = make_tables()
    impressions = tables["impressions"]
    impressions["time_ms"] = impressions.time_ms // 14_400_000 * 14_400_000
    impressions["tab"] = impressions.user_id % 3
    tables["behaviours"] = tables["behaviours"][tables["behaviours"].time_ms < TEST_START_MS]
    return {name: pa.Table.from_pandas(table, preserve_index=False) for name, table in tables.items()}


def replaced(table: pa.Table, **columns: Any) -> pa.Table:
    """The table with some columns replaced or added."""
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return table


def flat(table: pa.Table) -> pa.Table:
    """The table without lists and other types that CSV lacks."""
    for column in table.column_names:
        kind = table.schema.field(column).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lists = table[column].to_pylist()
            texts = [None if values is None else "|".join(map(_text, values)) for values in lists]
            table = replaced(table, **{column: pa.array(texts)})
        elif pa.types.is_dictionary(kind):
            table = replaced(table, **{column: table[column].cast(kind.value_type)})
        elif pa.types.is_string_view(kind):
            table = replaced(table, **{column: table[column].cast(pa.string())})
        elif pa.types.is_float16(kind):
            table = replaced(table, **{column: table[column].cast(pa.float32())})
    return table


def _text(value: object) -> str:
    return "" if value is None else str(value)


def renamed_ids(table: pa.Table, column: str, name: Callable[[int], Any], kind: pa.DataType | None = None) -> pa.Table:
    return replaced(table, **{column: pa.array([name(i) for i in table[column].to_pylist()], kind)})


def mixed_ids() -> OddWorld:
    """Each table has another type of the same ids: integers, decimals, floats, text, a dictionary."""
    tables = small_world()
    kinds = {
        "users": (pa.decimal128(38, 0), pa.string()),
        "items": (pa.int64(), pa.decimal128(20, 0)),
        "behaviours": (pa.float64(), pa.uint8()),
        "impressions": (pa.string(), pa.string()),
    }
    for name, (user, item) in kinds.items():
        for column, kind in (("user_id", user), ("item_id", item)):
            if column in tables[name].column_names:
                convert = str if pa.types.is_string(kind) else decimal.Decimal if pa.types.is_decimal(kind) else None
                tables[name] = renamed_ids(tables[name], column, convert or (lambda i: i), kind)
    items = tables["impressions"]["item_id"].combine_chunks().dictionary_encode()
    tables["impressions"] = replaced(tables["impressions"], item_id=items)
    return OddWorld(tables)


def strange_texts() -> OddWorld:
    """Ids and categories of many scripts, with zeros in front, spaces, quotes, separators and control characters."""
    users = [
        "007",
        "7",
        "٣",
        "é",
        "e\u0301",
        "👩‍👩‍👧",
        " padded ",
        "a|b",
        'say "x"',
        "a,b",
        "tab\there",
        "\u202eright",
        "null",
        "NaN",
    ]
    items = ["0", "00", "ß", "SS", "{1}", "}", "\\N", "true", "1e3", "1.0", "ﬁ", "𝒳", "x" * 256]

    def user(i: int) -> str:
        return users[i] if i < len(users) else f"u-{i}"

    def item(i: int) -> str:
        return items[i] if i < len(items) else f"i-{i}"

    tables = small_world()
    for name in tables:
        for column, text in (("user_id", user), ("item_id", item)):
            if column in tables[name].column_names:
                tables[name] = renamed_ids(tables[name], column, text, pa.string())
    cities = [users[i % len(users)] for i in range(len(tables["users"]))]
    tables["users"] = replaced(tables["users"], city=pa.array(cities).dictionary_encode())
    tabs = [items[i] for i in tables["impressions"]["tab"].to_pylist()]
    tables["impressions"] = replaced(tables["impressions"], tab=pa.array(tabs, pa.large_string()))
    scenes = [items[i] for i in tables["behaviours"]["scene"].to_pylist()]
    tables["behaviours"] = replaced(tables["behaviours"], scene=pa.array(scenes, pa.string_view()))
    return OddWorld(tables)


def odd_times() -> OddWorld:
    """Timestamps with and without zones in other units, and a date of birth of 1970 among the numbers."""
    tables = small_world()
    moments = tables["impressions"]["time_ms"].to_pylist()
    zone = pa.timestamp("us", tz="Asia/Kolkata")
    tables["impressions"] = replaced(tables["impressions"], time_ms=pa.array([1000 * at for at in moments], zone))
    behaved = tables["behaviours"]["time_ms"].to_pylist()
    nanoseconds = pa.array([1_000_000 * at for at in behaved], pa.timestamp("ns", tz="America/New_York"))
    tables["behaviours"] = replaced(tables["behaviours"], time_ms=nanoseconds)
    return OddWorld(tables)


def many_numbers() -> OddWorld:
    """35 numbers of an item: constant, missing, NaN, huge, tiny, negative zero, booleans, decimals, halves."""
    tables = small_world()
    n = len(tables["items"])
    rng = np.random.default_rng(5)
    makers: list[Callable[[], pa.Array]] = [
        lambda: pa.array([3.0] * n),
        lambda: pa.nulls(n),
        lambda: pa.nulls(n, pa.float64()),
        lambda: pa.array(np.full(n, np.nan)),
        lambda: pa.array([-0.0, 0.0] * (n // 2)),
        lambda: pa.array([2**63 - 1 - int(i) for i in rng.integers(0, 99, n)]),
        lambda: pa.array([2**64 - 1 - int(i) for i in rng.integers(0, 99, n)], pa.uint64()),
        lambda: pa.array([-(2**63) + int(i) for i in rng.integers(0, 99, n)]),
        lambda: pa.array(rng.normal(size=n) * 1e38),
        lambda: pa.array(rng.normal(size=n) * 1e-45),
        lambda: pa.array([decimal.Decimal(int(i)) / 100 for i in rng.integers(-999, 999, n)], pa.decimal128(9, 2)),
        lambda: pa.array(rng.normal(size=n).astype(np.float16)),
        lambda: pa.array(rng.integers(-128, 127, n), pa.int8()),
        lambda: pa.array(rng.integers(0, 3, n)).dictionary_encode(),
        lambda: pa.array([None if i % 3 else float(i) for i in range(n)]),
        lambda: pa.array([1.0] + [None] * (n - 1)),
        lambda: pa.array([16777217.0 + i for i in range(n)]),
    ]
    columns = {f"x{i}": makers[i % len(makers)]() for i in range(NUMBERS)}
    tables["items"] = replaced(tables["items"], **columns)
    numbers = [{"name": name, "type": "numeric"} for name in columns]
    item = [
        {"name": "item_id", "type": "categorical"},
        {"name": "tags", "type": "multi_categorical", "max_values": 2},
        {"name": "length", "type": "numeric"},
        *numbers,
    ]
    return OddWorld(tables, {"features.item": item})


def odd_lists() -> OddWorld:
    """Lists that are empty, missing, of missing values, of one value again and again, and of 10,000 values."""
    tables = small_world()
    n = len(tables["items"])
    lists: list[list[int | None] | None] = [[], None, [None], [7, 7, 7, 7], list(range(WIDTH)), [None, 1, None, 2]]
    tags = pa.array([lists[i % len(lists)] for i in range(n)], pa.large_list(pa.int64()))
    tables["items"] = replaced(tables["items"], tags=tags)
    return OddWorld(tables)


def few_rows() -> OddWorld:
    """One item and one user have rows, no behaviour is known, and the impressions name others too."""
    tables = small_world()
    tables["users"] = tables["users"].slice(0, 1)
    tables["items"] = tables["items"].slice(0, 1)
    tables["behaviours"] = tables["behaviours"].slice(0, 0)
    return OddWorld(tables, degraded=["unknown_user", "unknown_items:29"])


def no_rows() -> OddWorld:
    """The tables of users, items and behaviours have columns and no row."""
    tables = small_world()
    for name in ("users", "items", "behaviours"):
        tables[name] = tables[name].slice(0, 0)
    return OddWorld(tables, degraded=["unknown_user", "unknown_items:30"])


def repeated_rows() -> OddWorld:
    """Impressions and behaviours that stand in their tables twice."""
    tables = small_world()
    for name in ("behaviours", "impressions"):
        tables[name] = pa.concat_tables([tables[name], tables[name].slice(0, 200)])
    return OddWorld(tables)


def constant_columns() -> OddWorld:
    """Every category and every number has one value."""
    tables = small_world()
    users = len(tables["users"])
    items = len(tables["items"])
    shown = len(tables["impressions"])
    tables["users"] = replaced(tables["users"], city=pa.array(["x"] * users), fans=pa.array([0.0] * users))
    tables["items"] = replaced(tables["items"], tags=pa.array([["x"]] * items), length=pa.array([float(2**24)] * items))
    tables["impressions"] = replaced(
        tables["impressions"], tab=pa.array([0] * shown), battery=pa.array([None] * shown, pa.float32())
    )
    return OddWorld(tables)


WORLDS: dict[str, Callable[[], OddWorld]] = {
    made.__name__: made
    for made in (
        mixed_ids,
        strange_texts,
        odd_times,
        many_numbers,
        odd_lists,
        few_rows,
        no_rows,
        repeated_rows,
        constant_columns,
    )
}
