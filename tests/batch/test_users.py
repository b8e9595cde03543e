"""Tests the users' own lists of candidates: ids are written as those of a column, and none is made of a gap."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.users import open_users
from tables import TableError


def write_lists(path: Path, lists: pa.Array) -> str:
    pq.write_table(pa.table({"user_id": [f"u{user}" for user in range(len(lists))], "candidates": lists}), path)
    return str(path)


@pytest.mark.parametrize(
    "lists",
    [
        pa.array([["12"], ["7", "8"], None]),
        pa.array([[12], [7, 8], []]),
        pa.array([[12.0], [7.0, 8.0], []]),  # what pandas makes of integers with gaps
    ],
)
def test_an_id_in_a_list_is_written_as_one_in_a_column(tmp_path: Path, lists: pa.Array) -> None:
    (partition,) = open_users(write_lists(tmp_path / "users.parquet", lists), None)[0].partitions(3)
    assert partition.candidates() == [["12"], ["7", "8"], []]


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (None, "column 'candidates' has a missing id: element 2"),
        ("", "column 'candidates' has a missing id: element 2"),
        (float("nan"), "column 'candidates' has a missing id: element 2"),
        (2.5, "not the fraction 2.5"),
    ],
)
def test_an_id_in_a_list_that_is_missing_or_no_category_is_refused_with_its_row(
    tmp_path: Path, element: object, message: str
) -> None:
    first = 1.0 if isinstance(element, float) else "1"
    path = write_lists(tmp_path / "users.parquet", pa.array([[first], [first], [first, element]]))
    _, partition = open_users(path, None)[0].partitions(2)
    with pytest.raises(TableError) as caught:
        partition.candidates()
    assert "users.parquet" in str(caught.value) and message in str(caught.value) and "row 3" in str(caught.value)
