"""Tests packed rows from tables: they equal rows packed from JSON, and required features are checked."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from features import FeatureSchema, RowLayout
from tables import TableError, open_table, packed_rows
from tables.key64 import key64_field

ITEM = FeatureSchema.model_validate(
    {
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "tag", "type": "categorical", "required": True},
            {"name": "topics", "type": "multi_categorical", "max_values": 2, "required": True},
            {"name": "price", "type": "numeric", "required": True},
        ],
        "item_id_feature": "item_id",
    }
).item
GOOD = {"item_id": [1, 2], "tag": ["a", "b"], "topics": [["x"], ["y", "z"]], "price": [1.5, 2.0]}


def packed(folder: Path, columns: dict[str, object]) -> list[bytes]:
    pa.parquet.write_table(pa.table(columns), folder / "items.parquet")
    table = open_table(folder / "items.parquet", "items")
    layout = RowLayout(ITEM)
    return [row.tobytes() for batch in table.batches(table.columns) for row in packed_rows(layout, batch)]


def test_rows_of_a_table_are_those_of_the_same_values_in_json(tmp_path: Path) -> None:
    rows = [dict(zip(GOOD, values, strict=True)) for values in zip(*GOOD.values(), strict=True)]
    assert packed(tmp_path, dict(GOOD)) == [RowLayout(ITEM).pack(row) for row in rows]


@pytest.mark.parametrize(("column", "values"), [("tag", ["a", ""]), ("topics", [["x"], []]), ("price", [1.5, None])])
def test_a_required_feature_that_is_missing_is_refused_with_its_row(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    with pytest.raises(TableError, match="a value is required") as refused:
        packed(tmp_path, GOOD | {column: values})
    assert (refused.value.column, refused.value.row) == (column, 2)


def test_values_beyond_the_bound_of_a_list_are_not_looked_at(tmp_path: Path) -> None:
    cut = packed(tmp_path, GOOD | {"topics": [[1.0, None, 2.0, 0.5], [3.0]]})
    assert cut[0] == RowLayout(ITEM).pack({"item_id": 1, "tag": "a", "topics": [1, None, 2, 0.5], "price": 1.5})


def test_served_rows_may_lack_a_required_value_whatever_their_columns_are(tmp_path: Path) -> None:
    """A group of numbers alone has no column of keys that would show that the table was served."""
    user = FeatureSchema.model_validate(
        {"user": [{"name": "age", "type": "numeric", "required": True}], "item": [{"name": "price", "type": "numeric"}]}
    ).user
    layout = RowLayout(user)
    pa.parquet.write_table(pa.table({"age": [None, 30.0]}), tmp_path / "users.parquet")
    (batch,) = open_table(tmp_path / "users.parquet", "users").batches(["age"])
    rows = packed_rows(layout, batch, served=True)
    np.testing.assert_array_equal(rows["numerics"], np.array([[np.nan], [30.0]], np.float32))
    with pytest.raises(TableError, match="a value is required"):
        packed_rows(layout, batch)


def test_a_column_of_keys_does_not_excuse_a_missing_required_value(tmp_path: Path) -> None:
    layout = RowLayout(ITEM)
    columns = {name: pa.array(values) for name, values in (GOOD | {"price": [1.5, None]}).items()}
    fields = [key64_field("tag") if name == "tag" else pa.field(name, a.type) for name, a in columns.items()]
    columns["tag"] = pa.array([7, 8])
    pa.parquet.write_table(pa.table(columns, schema=pa.schema(fields)), tmp_path / "items.parquet")
    table = open_table(tmp_path / "items.parquet", "items")
    (batch,) = table.batches(table.columns)
    with pytest.raises(TableError, match="a value is required") as refused:
        packed_rows(layout, batch)
    assert (refused.value.column, refused.value.row) == ("price", 2)
    assert np.isnan(packed_rows(layout, batch, served=True)["numerics"][1, 0])
