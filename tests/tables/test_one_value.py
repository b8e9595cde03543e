"""Tests that a value is the same in JSON, Parquet and CSV, for training and the load, or that one field is refused."""

import decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_readers import Read, as_parquet, in_json, in_the_load, in_training, readers_agree

from service.sample.embedded_redis import EmbeddedRedis

D = decimal.Decimal
# Text of which at least one value is recognisable as text: a CSV of `1` and `2.0` contains only numbers.
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), min_size=1, max_size=12)
GAPS = st.none()
CATEGORIES = st.one_of(
    st.tuples(st.just("int"), st.lists(st.one_of(GAPS, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=4)),
    st.tuples(
        st.just("small int"), st.lists(st.one_of(GAPS, st.integers(-(2**53) + 1, 2**53 - 1)), min_size=1, max_size=4)
    ),
    st.tuples(st.just("bool"), st.lists(st.one_of(GAPS, st.booleans()), min_size=1, max_size=4)),
    st.tuples(st.just("text"), st.lists(st.one_of(GAPS, WORDS), max_size=3).map(lambda values: [*values, "x-0"])),
    st.tuples(
        st.just("float"),
        st.lists(st.one_of(GAPS, st.floats(allow_nan=False), st.integers(-9, 9).map(float)), min_size=1, max_size=4),
    ),
)
NUMBERS = st.one_of(
    st.tuples(st.just("int"), st.lists(st.one_of(GAPS, st.integers(-(2**53), 2**53)), min_size=1, max_size=4)),
    st.tuples(st.just("float"), st.lists(st.one_of(GAPS, st.floats(allow_nan=False)), min_size=1, max_size=4)),
    st.tuples(st.just("bool"), st.lists(st.booleans(), min_size=1, max_size=4)),
)
ARROW = {
    "int": [pa.int64()],
    "small int": [pa.int64(), pa.float64(), pa.decimal128(38, 0), pa.string()],
    "bool": [pa.bool_()],
    "text": [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    "float": [pa.float64()],
}


def arrow(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(kind):
        return pa.array([None if v is None else D(v) for v in values], kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode()
    if pa.types.is_string(kind) and any(isinstance(v, int) for v in values):
        return pa.array([None if v is None else str(v) for v in values], kind)
    return pa.array(values, kind)


def survives_csv(kind: str, values: list[Any]) -> bool:
    """Whether a CSV shows what the values were: a fraction becomes text, and pandas writes integers with gaps as
    floats.
    """
    if kind == "int":
        return None not in values
    if kind == "float":
        return all(v is None or (v.is_integer() and abs(v) < 2**53) for v in values)
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(category=CATEGORIES, number=NUMBERS)
def test_a_value_is_one_value_by_every_way_in(
    tmp_path_factory: pytest.TempPathFactory, server: EmbeddedRedis, category: Any, number: Any
) -> None:
    (tag_kind, tags), (_, prices) = category, number
    n = min(len(tags), len(prices))
    tags = tags[-n:]
    prices = prices[-n:]
    ids = [f"i-{i}" for i in range(n)]
    expected = in_json({"item_id": ids, "tag": tags, "topics": [None] * n, "price": prices})

    def agrees(read: Read) -> bool:
        both_refuse = isinstance(read, tuple) and isinstance(expected, tuple) and read[0] == expected[0]
        return both_refuse or read == expected

    base = {"item_id": pa.array(ids), "topics": pa.nulls(n)}
    for kind in ARROW[tag_kind]:
        items = pa.table(base | {"tag": arrow(tags, kind), "price": pa.array(prices)})
        folder = tmp_path_factory.mktemp("parquet")
        read = readers_agree(folder, server, items, as_parquet)
        # With two bad columns, either may be named first.
        assert agrees(read) or (isinstance(read, tuple) and isinstance(expected, tuple)), (kind, read, expected)
    if survives_csv(tag_kind, tags):
        frame = pd.DataFrame({"item_id": ids, "tag": tags, "topics": None, "price": prices})
        folder = tmp_path_factory.mktemp("csv")
        frame.to_csv(folder / "items.csv", index=False)
        trained = in_training(folder)
        assert in_the_load(folder, server, ids) == trained
        assert agrees(trained) or (isinstance(trained, tuple) and isinstance(expected, tuple)), (trained, expected)


ONE_VALUE = {
    "a csv of integers with gaps": ("tag\n2.0\n\n", [2, None]),
    "a csv of booleans": ("tag\nTrue\nFalse\n", [True, False]),
    "a csv of zeros in front": ("tag\n007\n7\n", ["007", "7"]),
}


@pytest.mark.parametrize("case", ONE_VALUE)
def test_a_csv_column_and_the_same_values_in_json_are_one_row(tmp_path: Path, server: EmbeddedRedis, case: str) -> None:
    content, values = ONE_VALUE[case]
    head, *lines = content.split("\n")[:-1]
    rows = [f"{i},{line},,\n" for i, line in enumerate(lines)]
    (tmp_path / "items.csv").write_text(f"item_id,{head},topics,price\n{''.join(rows)}")
    expected = in_json(
        {"item_id": [str(i) for i in range(len(values))], "tag": values, "topics": [None] * 2, "price": [None] * 2}
    )
    assert in_training(tmp_path) == expected
    assert in_the_load(tmp_path, server, list(expected)) == expected
