"""Tests tables in object stores of each protocol over HTTP: they have the rows of the same files on a disk."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from object_dialects import DIALECTS
from object_store import PREFIX, ObjectStore, empty_bucket

from tables import Table, TableError, open_table
from tables.files import objects


@pytest.fixture(params=DIALECTS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with empty_bucket(monkeypatch, request.param) as store:
        # A process opens a store once.
        objects._store.cache_clear()
        yield store
        objects._store.cache_clear()


@pytest.fixture(params=["parquet", "csv"])
def log(request: pytest.FixtureRequest, tmp_path: Path, bucket: ObjectStore) -> Path:
    """Two days, in a folder and in the bucket. The rows of a day are more than a buffer."""
    rows = 100_000
    for day in range(2):
        path = tmp_path / "log" / f"date=0{day}" / f"part-0.{request.param}"
        path.parent.mkdir(parents=True)
        table = pa.table({"item_id": [f"item-{(7 * i + day) % rows}" for i in range(rows)], "n": list(range(rows))})
        if request.param == "csv":
            pa.csv.write_csv(table, path)
        else:
            pq.write_table(table, path, row_group_size=30_000)
        bucket.objects[f"{PREFIX}{path.relative_to(tmp_path)}"] = path.read_bytes()
    bucket.objects[f"{PREFIX}log/_SUCCESS"] = b""
    return tmp_path / "log"


def _texts(table: Table, column: str, after: int = 0) -> list[str]:
    return [text for batch in table.batches([column], after=after) for text in batch.texts(column)]


def test_a_table_in_a_bucket_has_the_rows_of_the_files(log: Path, bucket: ObjectStore) -> None:
    local = open_table(log, "items")
    remote = open_table(f"{bucket.uri}/log/", "items")
    assert [file.name for file in remote.files] == [file.name for file in local.files]
    assert remote.columns == local.columns == ("item_id", "n", "date")
    assert remote.rows == local.rows
    for column in remote.columns:
        assert _texts(remote, column) == _texts(local, column)
    assert _texts(remote, "n", after=150_000) == _texts(local, "n", after=150_000)
    one_day = open_table(f"{bucket.uri}/log/date=*1/*", "items")
    assert set(_texts(one_day, "date")) == {"01"}


def test_an_object_that_changes_while_it_is_read_is_refused(log: Path, bucket: ObjectStore) -> None:
    table = open_table(f"{bucket.uri}/log/", "items")
    key = next(key for key in bucket.objects if "date=01" in key)
    other = next(key for key in bucket.objects if "date=00" in key)
    bucket.objects[key] = bucket.objects[other]
    with pytest.raises(TableError, match=r"^date=01/part-0\.\w+ \(items\): changed while it was read"):
        _texts(table, "n")


def test_a_bucket_that_refuses_is_named(log: Path, bucket: ObjectStore) -> None:
    bucket.fault = lambda method, key: 403
    with pytest.raises(TableError, match=rf"cannot be read: {bucket.uri}/log: .*403"):
        open_table(f"{bucket.uri}/log/", "items")


@pytest.mark.parametrize("name", ["log//x.parquet", "log/date=01//x.parquet", "log/../x.parquet"])
def test_a_name_that_the_client_cannot_read_is_named(log: Path, bucket: ObjectStore, name: str) -> None:
    """Its rows would be missing, so the table is refused, and the next table is not."""
    bucket.objects[f"{PREFIX}{name}"] = b""
    refusal = rf'cannot be read: {bucket.uri}/log: .*"{PREFIX}{name}".*; rename or remove the object$'
    with pytest.raises(TableError, match=refusal):
        open_table(f"{bucket.uri}/log/", "items")
    day = log / "date=00"
    assert open_table(f"{bucket.uri}/log/date=00/", "items").rows == open_table(day, "items").rows


@pytest.mark.parametrize("status", [429, 503])
def test_a_bucket_without_time_is_asked_again(log: Path, bucket: ObjectStore, status: int) -> None:
    answers = [status] * 2
    bucket.fault = lambda method, key: answers.pop() if answers else None
    table = open_table(f"{bucket.uri}/log/", "items")
    assert not answers
    answers += [status] * 2
    assert _texts(table, "n") == _texts(open_table(log, "items"), "n")
    assert not answers


@pytest.mark.parametrize("status", [412, 503])
def test_a_bucket_that_never_has_time_is_named_with_the_file(
    log: Path, bucket: ObjectStore, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_RETRIES", {"max_retries": 2, "retry_timeout": timedelta(seconds=5)})
    table = open_table(f"{bucket.uri}/log/", "items")
    bucket.fault = lambda method, key: status if "date=01" in key else None
    # The first file is read, the second one ends the table: no part of it is taken for the whole.
    with pytest.raises(TableError, match=rf"^date=01/part-0\.\w+ \(items\): .*{status}"):
        _texts(table, "n")
    with pytest.raises(TableError, match=rf"^date=01/part-0\.\w+ \(items\): .*{status}"):
        open_table(f"{bucket.uri}/log/", "items")


def test_a_truncated_object_is_named(log: Path, bucket: ObjectStore) -> None:
    # A CSV has no foot, and ends where it ends.
    key = next(key for key in bucket.objects if "date=01" in key)
    bucket.objects[key] = bucket.objects[key][:-10] if key.endswith(".parquet") else b""
    with pytest.raises(TableError, match=r"^date=01/part-0\.\w+ \(items\): cannot be read: "):
        open_table(f"{bucket.uri}/log/", "items")
