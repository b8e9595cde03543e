"""Tests tables of many files: folders, partitions, patterns and object stores as one table, and bad files named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.data.tables import existing
from tables import Table, TableError, find_table, open_table


def _part(folder: Path, name: str, columns: dict[str, object]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".csv"):
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]  # type: ignore[call-overload]
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table(columns), path)


def _texts(table: Table, column: str) -> list[str]:
    return [text for batch in table.batches([column]) for text in batch.texts(column)]


@pytest.fixture(params=["parquet", "csv"])
def days(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three days of two files each, in Hive's folders, with the notes that Spark leaves."""
    folder = tmp_path / "log"
    for day in range(3):
        for part in range(2):
            ids = [100 * day + 10 * part + i for i in range(3)]
            _part(folder, f"date=043{day}/part-{part}.{request.param}", {"item_id": ids, "click": [0, 1, 0]})
        _part(folder, f"date=043{day}/part-2.{request.param}", {"item_id": [], "click": []})
    (folder / "_SUCCESS").touch()
    (folder / "date=0430" / ".part-0.crc").touch()
    return folder


def test_a_folder_is_one_table_in_the_order_of_names(days: Path) -> None:
    table = open_table(days, "impressions")
    expected = [str(100 * day + 10 * part + i) for day in range(3) for part in range(2) for i in range(3)]
    assert _texts(table, "item_id") == expected
    assert table.rows == (None if table.is_csv else 18)
    assert table.columns == ("item_id", "click", "date")


def test_the_names_of_folders_are_a_column_of_text(days: Path) -> None:
    table = open_table(days, "impressions")
    assert _texts(table, "date") == [f"043{day}" for day in range(3) for _ in range(6)]
    numbers = np.concatenate([batch.numbers("date") for batch in table.batches(["date", "item_id"])])
    assert numbers.tolist() == [430.0 + day for day in range(3) for _ in range(6)]
    labels = np.concatenate([batch.labels("date") for batch in table.batches(["date"])])
    assert labels.tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("pattern", "days_read"),
    [
        ("date=0430", {"0430"}),
        ("date=043[01]", {"0430", "0431"}),
        ("date=043[!0]/part-?.*", {"0431", "0432"}),
        ("date=043[!1-9]", {"0430"}),
        ("*/part-0.*", {"0430", "0431", "0432"}),
        ("**/part-*", {"0430", "0431", "0432"}),
    ],
)
def test_a_pattern_reads_the_days_that_it_names(days: Path, pattern: str, days_read: set[str]) -> None:
    assert set(_texts(open_table(days / pattern, "impressions"), "date")) == days_read


def test_a_file_in_a_folder_whose_name_is_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    _part(tmp_path, "run[1]/items.parquet", {"item_id": [7]})
    _part(tmp_path, "run1/items.parquet", {"item_id": [8]})
    assert _texts(open_table(tmp_path / "run[1]" / "items.parquet", "items"), "item_id") == ["7"]


def test_a_uri_of_an_object_store_reads_the_same_rows(days: Path) -> None:
    local = open_table(days, "impressions")
    for uri in (f"file://{days}", f"file://{days}/", f"file://{days}/date=*/part-*"):
        table = open_table(uri, "impressions")
        assert table.files[0].is_object
        for column in ("item_id", "click", "date"):
            assert _texts(table, column) == _texts(local, column)
    name = local.files[0].name
    assert _texts(open_table(f"file://{days}/{name}", "impressions"), "item_id") == ["0", "1", "2"]


def test_an_object_store_that_does_not_answer_is_named() -> None:
    with pytest.raises(TableError, match=r"cannot be read: nowhere://bucket/log: Generic URL error"):
        open_table("nowhere://bucket/log/", "impressions")


def test_rows_after_the_first_are_counted_over_all_files(days: Path) -> None:
    table = open_table(days, "impressions")
    every = _texts(table, "item_id")
    for after in (0, 1, 3, 5, 17, 18):
        read = [text for batch in table.batches(["item_id"], after=after) for text in batch.texts("item_id")]
        assert read == every[after:]


def test_a_csv_column_has_one_type_in_all_files(tmp_path: Path) -> None:
    """`3.0` is the integer 3 only if no file has a text, as it is within one file."""
    _part(tmp_path, "log/a.csv", {"tag": ["3.0", "4.0"], "n": [1, 2]})
    _part(tmp_path, "log/b.csv", {"tag": ["5.0", "6.0"], "n": [3, 4]})
    assert _texts(open_table(tmp_path / "log", "items"), "tag") == ["3", "4", "5", "6"]
    _part(tmp_path, "log/c.csv", {"tag": ["x"], "n": [5]})
    assert _texts(open_table(tmp_path / "log", "items"), "tag") == ["3.0", "4.0", "5.0", "6.0", "x"]


def test_a_missing_partition_is_a_missing_value_and_names_are_unescaped(tmp_path: Path) -> None:
    _part(tmp_path, "log/scene=__HIVE_DEFAULT_PARTITION__/a.parquet", {"x": [1]})
    _part(tmp_path, "log/scene=a%2Fb/a.parquet", {"x": [2]})
    assert _texts(open_table(tmp_path / "log", "items"), "scene") == ["", "a/b"]


def test_a_column_of_the_file_hides_one_of_its_folder(tmp_path: Path) -> None:
    _part(tmp_path, "log/date=1/a.parquet", {"date": ["own"]})
    assert _texts(open_table(tmp_path / "log", "items"), "date") == ["own"]


def test_a_truncated_file_among_many_is_named_before_a_row_is_read(tmp_path: Path) -> None:
    for day in range(40):
        _part(tmp_path, f"log/date={day:02}/a.parquet", {"x": list(range(100))})
    broken = tmp_path / "log/date=17/a.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"^date=17/a\.parquet \(impressions\): cannot be read: ") as raised:
        open_table(tmp_path / "log", "impressions")
    assert raised.value.file == broken


def test_a_broken_csv_among_many_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The types of a CSV's columns follow from all files, so every file is read before the first row is given."""
    monkeypatch.setattr("tables.files.csv_files.BLOCK_BYTES", 1024)  # more than a head is read at the start
    for day in range(4):
        path = tmp_path / f"log/date={day}/a.csv"
        path.parent.mkdir(parents=True)
        path.write_text("item_id,click\n" + "1,0\n" * 1000 + ("3\n" if day == 2 else ""))
    table = open_table(tmp_path / "log", "impressions")
    with pytest.raises(
        TableError, match=r"^date=2/a\.csv \(impressions\): cannot be read: .*Expected 2 columns"
    ) as error:
        next(iter(table.batches(["click"])))
    assert error.value.file == tmp_path / "log/date=2/a.csv"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"item_id": ["a"], "click": [1]},
            "column 'item_id' is string here and int64 in 'date=0/a.parq",
        ),
        ({"item_id": [[1]], "click": [1]}, "column 'item_id' is list"),
        ({"click": [1]}, "no column 'item_id', which data.item_id names and which 2 of the 3 files have"),
    ],
)
def test_a_partition_with_another_schema_is_named(tmp_path: Path, other: dict[str, object], message: str) -> None:
    for day in (0, 2):
        _part(tmp_path, f"log/date={day}/a.parquet", {"item_id": [1, 2], "click": [0, 1]})
    _part(tmp_path, "log/date=1/a.parquet", other)
    table = open_table(tmp_path / "log", "impressions")
    with pytest.raises(TableError, match=rf"^date=1/a\.parquet \(impressions\): {message}"):
        table.require({"item_id": "data.item_id"})


def test_a_partition_without_values_or_with_gaps_has_the_schema_of_the_others(tmp_path: Path) -> None:
    """pandas writes an empty column without a type, and integers with gaps as floats."""
    _part(tmp_path, "log/a.parquet", {"tag": pa.array([1, 2])})
    _part(tmp_path, "log/b.parquet", {"tag": pa.nulls(1)})
    _part(tmp_path, "log/c.parquet", {"tag": pa.array([3.0, None])})
    table = open_table(tmp_path / "log", "items")
    table.require({"tag": "features.item"})
    assert _texts(table, "tag") == ["1", "2", "", "3", ""]


def test_a_value_in_error_is_named_with_the_row_of_its_file(tmp_path: Path) -> None:
    _part(tmp_path, "log/date=0/a.parquet", {"t": [1_700_000_000_000] * 5})
    _part(tmp_path, "log/date=1/a.parquet", {"t": [1_700_000_000_000, 1_700_000_000]})
    _, second = open_table(tmp_path / "log", "items").batches(["t"])
    with pytest.raises(TableError, match=r"^date=1/a\.parquet \(items\): column 't' holds .* \(row 2\)$"):
        second.times("t")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b.csv", "is beside 'a.parquet', but a table is all Parquet or all CSV"),
        ("b.parquet.gz", "'b.parquet.gz' is neither .parquet nor .csv"),
    ],
)
def test_files_of_other_formats_are_refused(tmp_path: Path, name: str, message: str) -> None:
    _part(tmp_path, "log/a.parquet", {"x": [1]})
    (tmp_path / "log" / name).write_text("x\n1\n")
    with pytest.raises(TableError, match=message):
        open_table(tmp_path / "log", "items")


def test_a_place_without_files_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "*.parquet", tmp_path / "none.parquet"):
        with pytest.raises(TableError, match="there is no such file"):
            open_table(place, "items")


def test_a_changed_file_among_many_is_named(tmp_path: Path) -> None:
    _part(tmp_path, "log/a.parquet", {"x": [1]})
    _part(tmp_path, "log/b.parquet", {"x": [2]})
    table = open_table(tmp_path / "log", "items")
    _part(tmp_path, "log/b.parquet", {"x": [2, 3]})
    with pytest.raises(TableError, match=r"^b\.parquet \(items\): changed while it was read"):
        _texts(table, "x")


def test_the_load_finds_a_folder_under_the_name_of_the_recipe(tmp_path: Path) -> None:
    _part(tmp_path, "log/a.parquet", {"x": [1]})
    table = find_table(tmp_path, "items", "log/")
    assert table is not None
    assert _texts(table, "x") == ["1"]


@pytest.mark.parametrize("named", [None, "items.parquet"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_folder_under_the_default_name_is_the_table(tmp_path: Path, named: str | None, suffix: str) -> None:
    folder = tmp_path / f"items{suffix}"
    if suffix == ".parquet":
        for number in range(3):
            _part(tmp_path, f"items.parquet/part-{number}.parquet", {"item_id": [str(number)]})
    else:
        folder.mkdir()
        for number in range(3):
            (folder / f"part-{number}.csv").write_text(f"item_id\n{number}\n")
    table = find_table(tmp_path, "items", named)
    assert table is not None
    assert [value for batch in table.batches(["item_id"]) for value in batch.ids("item_id")] == ["0", "1", "2"]
    assert existing(str(tmp_path), "items.parquet") == str(folder)


def test_a_whole_table_is_copied_as_its_files_have_it(tmp_path: Path) -> None:
    typed = {"item_id": pa.array([1, 2], pa.int32()), "kind": pa.array(["a", "b"]).dictionary_encode()}
    _part(tmp_path, "items/day=01/a.parquet", typed)
    _part(tmp_path, "items/day=02/b.parquet", {"item_id": pa.array([3], pa.int64()), "price": [0.5]})
    whole = open_table(f"{tmp_path}/items/", "items").as_stored(("item_id",))
    assert whole.schema.field("item_id").type == pa.int64() and pa.types.is_dictionary(whole.schema.field("kind").type)
    assert whole.to_pylist() == [
        {"item_id": 1, "kind": "a", "day": "01", "price": None},
        {"item_id": 2, "kind": "b", "day": "01", "price": None},
        {"item_id": 3, "kind": None, "day": "02", "price": 0.5},
    ]
    # A CSV has text alone, digit by digit.
    _part(tmp_path, "texts/day=01/a.csv", {"item_id": ["007"], "price": ["1.50"]})
    assert open_table(f"{tmp_path}/texts", "items").as_stored().to_pylist() == [
        {"item_id": "007", "price": "1.50", "day": "01"}
    ]
    _part(tmp_path, "items/day=03/c.parquet", {"item_id": [4], "price": ["dear"]})
    with pytest.raises(TableError, match=r"items \(items\): cannot be read: .*price"):
        open_table(f"{tmp_path}/items", "items").as_stored()
