"""Tests columns of vectors: every form of a list in Parquet and CSV, and refusals by column and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import RowLayout, Vector
from tables import TableError, find_table
from tables.packing import list_columns, packed_rows

FEATURE = Vector(name="text", type="vector", width=2)
LAYOUT = RowLayout([FEATURE])


def read(folder, layout=LAYOUT):
    table = find_table(folder, "items")
    batches = table.batches(["text"], list_columns(layout))
    return np.concatenate([packed_rows(layout, batch)["numerics"] for batch in batches])


def parquet(folder, values):
    pq.write_table(pa.table({"item_id": pa.array(range(len(values))), "text": values}), folder / "items.parquet")


EXPECTED = np.array([[0.5, -1], [np.nan, np.nan], [3, 4]], np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float16()),
    ],
    ids=str,
)
def test_every_parquet_list_gives_the_same_vectors(tmp_path, kind):
    values = [[0.5, -1.0], None, [3.0, 4.0]]
    if pa.types.is_float16(kind.value_type):
        values = [None if v is None else np.array(v, np.float16) for v in values]
    parquet(tmp_path, pa.array(values, kind))
    np.testing.assert_array_equal(read(tmp_path), EXPECTED)


def test_integers_and_a_column_without_values_are_vectors(tmp_path):
    parquet(tmp_path, pa.array([[1, 2], None], pa.list_(pa.int32())))
    np.testing.assert_array_equal(read(tmp_path), np.array([[1, 2], [np.nan, np.nan]], np.float32))
    parquet(tmp_path, pa.nulls(2))
    assert np.isnan(read(tmp_path)).all()


def test_a_csv_has_the_numbers_between_bars(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,text\n1,0.5|-1\n2,\n3,3|4.0\n")
    np.testing.assert_array_equal(read(tmp_path), EXPECTED)
    (tmp_path / "items.csv").write_text("item_id,text\n1,1|2\n2,\n3,1e-3|4\n")
    np.testing.assert_array_equal(read(tmp_path), np.array([[1, 2], [np.nan, np.nan], [1e-3, 4]], np.float32))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([[1.0, 2.0], None, [1.0]], "column text: a vector has 2 numbers, this one 1"),
        ([[1.0, 2.0], None, []], "column text: a vector has 2 numbers, this one 0"),
        ([[1.0, 2.0], None, [1.0, None]], "column text: element 2 is null; a vector is whole"),
        ([[1.0, 2.0], None, [np.nan, 1.0]], "column text: element 1 is NaN; a vector is whole"),
        ([[1.0, 2.0], None, [np.nan, np.nan]], "column text: element 1 is NaN; a vector is whole"),
        ([[1.0, 2.0], None, [1.0, np.inf]], "column text: element 2: a numeric value lies within"),
        ([[1.0, 2.0], None, [1.0, 1e39]], "column text: element 2: a numeric value lies within"),
    ],
)
def test_a_bad_vector_is_refused_with_its_row(tmp_path, values, problem):
    parquet(tmp_path, pa.array(values, pa.list_(pa.float64())))
    with pytest.raises(TableError) as error:
        read(tmp_path)
    assert error.value.detail.startswith(problem)
    assert (error.value.column, error.value.row) == ("text", 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1|x", "column text: element 2 is 'x', which is no number"),
        ("1||2", "column text: a vector has 2 numbers, this one 3"),
        ("1|", "column text: element 2 is '', which is no number"),
        ("nan|1", "column text: element 1 is NaN; a vector is whole"),
        ("[0.5|1]", "column text: element 1 is '[0.5', which is no number"),
    ],
)
def test_a_bad_vector_of_a_csv_is_refused_with_its_row(tmp_path, text, problem):
    (tmp_path / "items.csv").write_text(f"item_id,text\n1,0.5|1\n2,\n3,{text}\n")
    with pytest.raises(TableError) as error:
        read(tmp_path)
    assert error.value.detail.startswith(problem)
    assert (error.value.column, error.value.row) == ("text", 3)


def test_a_column_of_another_type_and_a_required_vector_are_refused(tmp_path):
    parquet(tmp_path, pa.array([None, "1|2"]))
    with pytest.raises(TableError, match="a vector is a list of 2 numbers or null, not string"):
        read(tmp_path)
    parquet(tmp_path, pa.array([["1", "2"]]))
    with pytest.raises(TableError, match="not a list of string"):
        read(tmp_path)
    parquet(tmp_path, pa.array([[1.0, 2.0], None]))
    with pytest.raises(TableError, match="column text: a value is required"):
        read(tmp_path, RowLayout([FEATURE.model_copy(update={"required": True})]))
