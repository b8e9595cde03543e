"""Tests packed rows from tables: they equal rows packed from JSON, and required features are checked."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from features import FeatureSchema, RowLayout
from tables import TableError, open_table, packed_rows

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
