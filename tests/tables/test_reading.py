"""Tests the one reader: canonical types, CSV dialects, bounded batches, and errors that name their place."""

import bz2
import datetime
import decimal
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from table_files import csv, only, parquet

from tables import TableError, find_table, open_table

START_MS = 1_651_334_400_000


DECIMALS = [decimal.Decimal(39), None, decimal.Decimal(7)]
TEXTS = ["39", None, "7"]
CATEGORIES = {
    "int8": pa.array([39, None, 7], pa.int8()),
    "uint64": pa.array([39, None, 7], pa.uint64()),
    "float64": pa.array([39.0, None, 7.0]),
    "float32": pa.array([39.0, None, 7.0], pa.float32()),
    "float16": pa.array(np.array([39.0, np.nan, 7.0], np.float16)),
    "decimal128": pa.array(DECIMALS, pa.decimal128(38, 0)),
    "decimal256": pa.array(DECIMALS, pa.decimal256(50, 0)),
    "decimal of scale 2": pa.array(DECIMALS, pa.decimal128(20, 2)),
    "text": pa.array(TEXTS),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "binary": pa.array([b"39", None, b"7"]),
    "binary_view": pa.array([b"39", None, b"7"], pa.binary_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "dictionary of integers": pa.array([39, None, 7]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", CATEGORIES)
def test_a_category_has_one_text_in_every_type(tmp_path: Path, kind: str) -> None:
    assert only(parquet(tmp_path, {"tag": CATEGORIES[kind]})).texts("tag") == ["39", "", "7"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("39.0\n\n7.0\n", ["39", "", "7"]),
        ("39\n\n7.0\n", ["39", "", "7"]),
        ("True\n\nFalse\n", ["1", "", "0"]),
        ("true\n\nfalse\n", ["1", "", "0"]),
        ("-0.0\n\n-3.0\n", ["0", "", "-3"]),
        ("007\n\n7.0\n", ["007", "", "7.0"]),
        ("007\n\n8\n", ["007", "", "8"]),
        ("1.0\n\n1.1\n", ["1.0", "", "1.1"]),
        ("true\n\nmaybe\n", ["true", "", "maybe"]),
        ("True\n\nfalse\n", ["True", "", "false"]),
        ("1e5\n\n7\n", ["1e5", "", "7"]),
        ('""\n\nNA\n', ["", "", "NA"]),
    ],
)
def test_a_csv_column_is_read_as_what_all_its_values_show(tmp_path: Path, content: str, texts: list[str]) -> None:
    content = "".join(f"{line},x\n" for line in content.split("\n")[:-1])
    assert only(csv(tmp_path, f"tag,more\n{content}")).texts("tag") == texts


def test_what_a_column_was_is_decided_by_the_whole_file_and_not_by_its_beginning(tmp_path: Path) -> None:
    rows = "".join(f"{i}.0,{'y' * 100}\n" for i in range(60_000))
    table = csv(tmp_path, f"tag,more\n{rows}7.5,y\n")
    texts = [text for batch in table.batches(["tag"]) for text in batch.texts("tag")]
    assert texts[:2] == ["0.0", "1.0"] and texts[-1] == "7.5"


def test_a_float_that_has_lost_digits_is_no_id(tmp_path: Path) -> None:
    for values in (pa.array([1.0, 2.0**53]), pa.array([1.0, 2.0**24], pa.float32())):
        with pytest.raises(TableError, match=r"items.parquet \(items\): column '?tag'?.* \(row 2\)") as refused:
            only(parquet(tmp_path, {"tag": values})).texts("tag")
        assert (refused.value.column, refused.value.row) == ("tag", 2)
    with pytest.raises(TableError, match="row 2"):
        only(csv(tmp_path, "tag\n1.0\n1.2345678901234568e+16\n")).texts("tag")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime.date(2022, 5, 1)]),
        pa.array([START_MS], pa.timestamp("ms")),
        pa.array([START_MS], pa.duration("ms")),
        pa.array([{"a": 1}]),
        pa.array([0.5]),
        pa.array([[1]]),
    ],
)
def test_a_type_that_is_no_category_is_refused_by_name(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(TableError, match="tag") as refused:
        only(parquet(tmp_path, {"tag": column})).texts("tag")
    assert refused.value.column == "tag" and refused.value.file == tmp_path / "items.parquet"


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_a_quoted_line_break_is_read_wherever_a_block_ends(tmp_path: Path, length: int) -> None:
    rows = "".join(
        f'{i},"{"x" * (length + i % 17)}\n101,a,9999,set of {"y" * (length + i % 13)}",1.5\n' for i in range(60_000)
    )
    table = csv(tmp_path, f"item_id,description,price\n{rows}")
    assert table.path.stat().st_size > 1 << 20
    ids = [text for batch in table.batches(["item_id"]) for text in batch.ids("item_id")]
    assert ids == [str(i) for i in range(60_000)]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert csv(tmp_path, b"\xef\xbb\xbfitem_id,tag\n1,a\n").columns == ("item_id", "tag")


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_either_end_of_line_is_read(tmp_path: Path, line: str) -> None:
    assert only(csv(tmp_path, line.join(["item_id", "1", "2", ""]))).ids("item_id") == ["1", "2"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_head_alone_is_a_table_without_rows(tmp_path: Path, mark: bytes, end: bytes) -> None:
    table = csv(tmp_path, mark + b"item_id,tag" + end)
    assert table.columns == ("item_id", "tag")
    assert sum(len(batch) for batch in table.batches(["item_id", "tag"], lists=["tag"])) == 0


def test_a_whole_decimal_beyond_64_bits_is_a_number(tmp_path: Path) -> None:
    values = pa.array([decimal.Decimal(10) ** 30, None, decimal.Decimal(3)], pa.decimal256(60, 0))
    for column in (values, values.dictionary_encode()):
        numbers = only(parquet(tmp_path, {"price": column})).numbers("price")
        assert numbers[0] == 1e30 and np.isnan(numbers[1]) and numbers[2] == 3


def read_all(folder: Path, content: bytes) -> None:
    table = csv(folder, content)
    table.require({"item_id": "data.item_id"})
    list(table.batches(["item_id", "tag"] if "tag" in table.columns else ["item_id"]))


@pytest.mark.parametrize(
    ("content", "message", "column", "row"),
    [
        (b"item_id,tag\n1,a\n2,caf\xe9\n", "column 'tag' holds bytes that are not UTF-8", "tag", 2),
        ("item_id,tag\n1,2".encode("utf-16"), "is UTF-16; a CSV is UTF-8", None, None),
        (b"", "cannot be read: Empty CSV file", None, None),
        (b"item_id,item_id\n1,2\n", "column 'item_id' occurs twice", "item_id", None),
        (b"item_id;tag\n1;2\n", "the head is one column, separated by ';'", None, None),
        (b"item_id;price\n1;2,5\n", "a CSV is separated by commas, and its numbers have a point", None, None),
        (b"item_id\tprice\n1\t2,5\n", "the head is one column, separated by a tab", None, None),
        ("item_id,tag\n1,2\n".encode("utf-16-le"), "is UTF-16; a CSV is UTF-8", None, None),
        (gzip.compress(b"item_id,tag\n1,2\n", mtime=0), "is compressed with gzip; unpack it", None, None),
        (bz2.compress(b"item_id,tag\n1,2\n"), "is compressed with bzip2; unpack it", None, None),
        (b"PK\x03\x04 xl/workbook.xml", "is a zip archive or an Excel workbook", None, None),
        ("item_id,tag\n1,2".encode("utf-32"), "is UTF-32; a CSV is UTF-8", None, None),
        (b"sep=;\nitem_id;tag\n1;2\n", "the first line is 'sep=;', which only Excel reads; remove it", None, None),
        (b"item_id,caf\xe9\n1,2\n", "the head holds bytes that are not UTF-8: b'caf\\xe9'", None, None),
        (b"tag, item_id\n1,2\n", "no column 'item_id', which data.item_id names; nearest: ' item_id'", "item_id", None),
        (b"\xef\xbb\xbf\xef\xbb\xbfitem_id,tag\n1,2\n", r"nearest: '\ufeffitem_id'", "item_id", None),
        (b"item_id,tag,\n1,2\n", "Expected 3 columns, got 2", None, None),
        (b"\n", "cannot be read: CSV parse error: Empty CSV file", None, None),
        (b"PAR1", "is a Parquet file; name it .parquet", None, None),
        (b"id,tag\n1,2\n", "no column 'item_id', which data.item_id names; nearest: id", "item_id", None),
        (b"item_id,tag\n1,2\n3\n", "Expected 2 columns, got 1", None, None),
        (b'item_id,tag\n"1,2\n3,4\n', "cannot be read: ", None, None),
    ],
)
def test_a_csv_that_cannot_be_read_ends_in_one_line_with_its_place(
    tmp_path: Path, content: bytes, message: str, column: str | None, row: int | None
) -> None:
    with pytest.raises(TableError, match="items.csv") as refused:
        read_all(tmp_path, content)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert (refused.value.column, refused.value.row) == (column, row)


def test_a_parquet_file_that_breaks_while_it_is_read_ends_in_one_line(tmp_path: Path) -> None:
    table = parquet(tmp_path, {"item_id": np.arange(100_000)}, row_group_size=1000)
    whole = bytearray(table.path.read_bytes())
    whole[2000:60_000] = bytes(58_000)
    table.path.write_bytes(bytes(whole))
    with pytest.raises(TableError, match=r"items.parquet \(items\): cannot be read"):
        list(table.batches(["item_id"]))
    table.path.write_bytes(b"PAR1 not really")
    with pytest.raises(TableError, match=r"items.parquet \(items\): cannot be read"):
        open_table(table.path, "items")


def test_an_error_of_the_reader_of_batches_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    table = parquet(tmp_path, {"item_id": [1, 2]})

    def breaks() -> None:
        for _ in table.batches(["item_id"]):
            raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        breaks()


LISTS = {
    "list": pa.array([[1, None], None, [], [3]]),
    "large_list": pa.array([[1, None], None, [], [3]], pa.large_list(pa.int16())),
    "list of text": pa.array([["1", None], None, [], ["3"]]),
    "list of decimals": pa.array([[decimal.Decimal(1), None], None, [], [decimal.Decimal(3)]]),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_every_layout_are_read(tmp_path: Path, kind: str) -> None:
    values = only(parquet(tmp_path, {"tags": LISTS[kind]})).lists("tags").tolist()
    assert [v if v is None else [None if e is None else str(e) for e in v] for v in values] == [
        ["1", None],
        None,
        [],
        ["3"],
    ]


def test_lists_of_a_csv_stand_between_bars(tmp_path: Path) -> None:
    assert only(csv(tmp_path, "id,tags\n1,a|b\n2,\n3,c\n"), "tags").lists("tags").tolist() == [["a", "b"], None, ["c"]]
    numbers = only(csv(tmp_path, "id,tags\n1,1.0|2.0\n2,\n3,7.0\n"), "tags").lists("tags").tolist()
    assert numbers == [[1.0, 2.0], None, [7.0]]
    with pytest.raises(TableError, match=r"a list is written a\|b\|c.*row 1"):
        only(csv(tmp_path, "id,tags\n1,\"['a', 'b']\"\n"), "tags").lists("tags")


@pytest.mark.parametrize(
    ("content", "numbers"),
    [("1.5\n\n 3 \n", [1.5, None, 3]), ("+5\n\n.5\n", [5, None, 0.5]), ("3.0\n\n1e3\n", [3, None, 1000])],
)
def test_numbers_of_a_csv_are_those_nearest_to_their_text(
    tmp_path: Path, content: str, numbers: list[float | None]
) -> None:
    rows = "".join(f"{line},x\n" for line in content.split("\n")[:-1])
    batch = only(csv(tmp_path, f"price,more\n{rows}"))
    assert [None if np.isnan(v) else v for v in batch.numbers("price").tolist()] == numbers


@pytest.mark.parametrize("text", ["cheap", "1_000", "\\N", "NULL", "NA", "1,5", "0x10", "١٢"])
def test_text_that_is_no_number_is_refused_with_its_row(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError, match="which is no number") as refused:
        only(csv(tmp_path, f'price,more\n1,x\n"{text}",x\n')).numbers("price")
    assert (refused.value.column, refused.value.row) == ("price", 2)


@pytest.mark.parametrize("after", [0, 1, 3, 4, 7, 10])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_rows_that_are_done_are_skipped_to_the_row(tmp_path: Path, kind: str, after: int) -> None:
    letters = list("abcdefghij")
    if kind == "csv":
        table = csv(tmp_path, "item_id\n" + "\n".join(letters))
    else:
        table = parquet(tmp_path, {"item_id": letters}, row_group_size=3)
    read = list(table.batches(["item_id"], after=after, batch_rows=2))
    assert [i for batch in read for i in batch.ids("item_id")] == letters[after:]
    assert all(len(batch) <= 2 for batch in read)
    assert [batch.first_row + i for batch in read for i in range(len(batch))] == list(range(after, 10))


def test_a_selection_names_the_rows_of_the_table(tmp_path: Path) -> None:
    batch = only(parquet(tmp_path, {"item_id": ["a", "b", None, "d"]}))
    part = batch.selection(np.array([0, 2, 3])).selection(np.array([1, 2]))
    with pytest.raises(TableError, match="missing id") as refused:
        part.ids("item_id")
    assert refused.value.row == 3


def test_a_folders_table_is_found_under_its_name_as_parquet_or_csv(tmp_path: Path) -> None:
    assert find_table(tmp_path, "items") is None
    csv(tmp_path, "item_id\n1\n")
    table_file = find_table(tmp_path, "items")
    assert table_file is not None and table_file.is_csv
    parquet(tmp_path, {"item_id": [1]})
    table_file = find_table(tmp_path, "items")
    assert table_file is not None and table_file.path.name == "items.parquet" and table_file.rows == 1
    named = find_table(tmp_path, "items", "items.csv")
    assert named is not None and named.is_csv
    with pytest.raises(TableError, match=r"'people.xlsx' is neither .parquet nor .csv"):
        open_table(tmp_path / "people.xlsx", "users")
