"""Tests files and values as other programs write them: each is read right, or refused with what it is."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from table_files import csv, only, parquet

from models.data.encoding.entities import id_keys
from tables import TableError, find_table


@pytest.mark.parametrize("text", ["19,62", "1.234,50", "1,234.50", "-1 234,5", "1'234,50"])
def test_a_decimal_comma_is_told_how_numbers_are_written(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError, match=r"; numbers are written with a point and without separators, as in 1234\.5"):
        only(csv(tmp_path, f'price,more\n"{text}",x\n')).numbers("price")


def test_a_label_of_words_is_told_what_a_label_is(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="column 'click' holds 'yes'; a label is a number: 0 or 1 for a probability"):
        only(csv(tmp_path, "click,more\nyes,x\n")).labels("click")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, kind: str) -> None:
    """A writer in the middle of a row would give half an id, silently."""
    table = csv(tmp_path, "item_id\n1\n2\n") if kind == "csv" else parquet(tmp_path, {"item_id": ["1", "2"]})
    batches = table.batches(["item_id"])
    next(batches)
    with table.path.open("ab") as file:
        file.write(b"3")
    with pytest.raises(TableError, match="changed while it was read; run the command again once it is complete"):
        list(batches)


def test_a_file_that_was_replaced_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    table = parquet(tmp_path, {"item_id": ["1", "2"]})
    parquet(tmp_path, {"item_id": ["1", "2", "3"]})
    with pytest.raises(TableError, match="changed while it was read"):
        list(table.batches(["item_id"]))


@pytest.mark.parametrize("name", ["items.csv.gz", "Items.CSV"])
def test_a_table_under_another_name_is_not_taken_for_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"item_id\n1\n")
    with pytest.raises(TableError, match=r"a table is one file, or a folder, items\.parquet or items\.csv"):
        find_table(tmp_path, "items")


def test_an_empty_folder_under_the_tables_name_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").mkdir()
    with pytest.raises(TableError, match="there is no such file, and nothing in such a folder"):
        find_table(tmp_path, "items")


@pytest.mark.parametrize("length", [256, 257])
def test_an_id_is_as_long_as_a_request_can_say_it(tmp_path: Path, length: int) -> None:
    batch = only(csv(tmp_path, f"item_id,more\n{'x' * length},1\n"))
    readers = [batch.ids, lambda column: id_keys(batch, column)]
    for read in readers:
        if length == 256:
            assert len(read("item_id")) == 1
            continue
        with pytest.raises(TableError, match=r"an id has at most 256 characters, this one 257 \(row 1\)"):
            read("item_id")


DATES = pa.array([[datetime.datetime(2022, 1, 1, tzinfo=datetime.UTC)]])
INEXACT = {
    "float16": (
        pa.array(np.array([3, 2049, 5], np.float16)),
        "2048.0 is a float16 that no longer holds every digit",
        2,
    ),
    "list of float32": (pa.array([[1.0], None, [2.0**24]], pa.list_(pa.float32())), "16777216.0 is a float32 that", 3),
    "list of float16": (pa.array([np.array([1, 2049], np.float16)]), "2048.0 is a float16 that", 1),
    "list of times": (DATES, "a category is text or an integer, not the type list<", None),
}


@pytest.mark.parametrize("kind", INEXACT)
def test_a_category_that_has_lost_its_digits_or_is_a_time_is_refused_in_lists_too(tmp_path: Path, kind: str) -> None:
    column, message, row = INEXACT[kind]
    batch = only(parquet(tmp_path, {"tags": column}))
    with pytest.raises(TableError) as refused:
        batch.lists("tags") if kind.startswith("list") else batch.categories("tags")
    assert message in str(refused.value)
    assert (refused.value.column, refused.value.row) == ("tags", row)


def test_whole_floats_that_hold_every_digit_are_categories(tmp_path: Path) -> None:
    small = pa.array([np.array([2047], np.float16)])
    assert list(only(parquet(tmp_path, {"tags": small})).lists("tags")) == [[2047.0]]
