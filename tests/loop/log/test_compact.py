"""Tests the compaction: every record occurs once, however it ends, and every incomplete file is named."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from log_files import EVENTS, FIRST, HOUR, crashed, event, write
from small_disk import files_of_at_most

from funnelrank.main import main
from loop.errors import LogError
from loop.log import compact as compaction
from loop.log import hours as hour_folders
from loop.log.compact import Compaction, compact
from loop.log.hours import hour_files
from service.exposures.folder import prepare
from service.exposures.spool import Spool, SpoolLimits
from tables.log_records import LATER_COLUMNS, SCHEMAS, RecordKind, batch_of


def compacted(log: Path, kind: RecordKind = EVENTS) -> list[str]:
    """The ids of the records in the files of all hours."""
    return [name for path in hour_files(log, kind) for name in pq.read_table(path).column("event_id").to_pylist()]


def test_each_record_goes_to_the_hour_in_which_it_was_logged(tmp_path: Path) -> None:
    write(tmp_path, event("a", FIRST), event("b", FIRST + HOUR), event("c", FIRST + 1))
    write(tmp_path, event("d", FIRST + 2))
    done = compact(tmp_path)
    assert [path.parent.name for path in hour_files(tmp_path, EVENTS)] == ["2022-04-26T16", "2022-04-26T17"]
    assert sorted(compacted(tmp_path)) == ["a", "b", "c", "d"]
    assert (done.files, done.rows[EVENTS], done.faulty) == (2, 4, [])
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_second_run_changes_no_byte_and_a_late_file_joins_its_hour(tmp_path: Path) -> None:
    write(tmp_path, event("a", FIRST))
    compact(tmp_path)
    (path,) = hour_files(tmp_path, EVENTS)
    before = path.read_bytes()
    assert compact(tmp_path) == Compaction(rows=dict.fromkeys(RecordKind, 0))
    assert path.read_bytes() == before
    write(tmp_path, event("late", FIRST + 5))
    compact(tmp_path)
    assert compacted(tmp_path) == ["a", "late"]


@pytest.mark.parametrize("ended_at", ["the second hour", "the removal of the sources"])
def test_a_compaction_that_was_ended_half_way_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_at: str
) -> None:
    write(tmp_path, event("a", FIRST), event("b", FIRST + HOUR))
    write(tmp_path, event("c", FIRST), event("d", FIRST + HOUR))
    calls = 0
    name = "add_to_hour" if ended_at == "the second hour" else "_put_away"
    real = getattr(compaction, name)

    def ends(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(compaction, name, ends)
    with pytest.raises(KeyboardInterrupt):
        compact(tmp_path)
    monkeypatch.undo()
    compact(tmp_path)
    assert sorted(compacted(tmp_path)) == ["a", "b", "c", "d"]
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_file_of_a_killed_worker_is_read_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    rows = [event(str(i), FIRST + i) for i in range(10)]
    crashed(write(tmp_path, *rows, batches=10))
    crashed(write(tmp_path, *(event(f"x{i}", FIRST) for i in range(3)), batches=3), cut=7)
    done = compact(tmp_path)
    assert compacted(tmp_path) == [*map(str, range(10)), "x0", "x1"]
    (faulty,) = done.faulty
    assert (faulty.cut, faulty.damaged, faulty.rows) == (True, False, 2)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_file_that_a_living_worker_writes_is_left_alone(tmp_path: Path) -> None:
    path = crashed(write(tmp_path, event("a", FIRST)))
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        done = compact(tmp_path)
    assert done.in_use == [path]
    assert path.exists()
    path.touch()  # made a moment ago, and not locked yet
    assert compact(tmp_path).in_use == [path]
    os.utime(path, (0, 0))
    assert compact(tmp_path).rows[EVENTS] == 1


def test_foreign_and_damaged_files_are_named_and_cost_no_other_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, event("a", FIRST))
    (tmp_path / "spool" / "notes.txt").write_text("not ours")
    other = tmp_path / "spool" / f"events-{FIRST}-{'0' * 12}.arrows"
    with pa.OSFile(str(other), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("x", pa.int64())])):
        pass
    damaged = write(tmp_path, *(event(str(i), FIRST) for i in range(4)), batches=4)
    content = bytearray(damaged.read_bytes())
    content[-700:-600] = b"\xee" * 100
    damaged.write_bytes(content)
    assert main(["compact", "--log", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    for path in (tmp_path / "spool" / "notes.txt", other, damaged):
        assert str(path) in printed.err
    assert "foreign, left alone" in printed.err
    assert "damaged, moved to damaged/" in printed.err
    assert "a" in compacted(tmp_path)
    assert other.exists()
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == [damaged.name]


def test_what_is_no_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", "--log", str(tmp_path)]) == 1
    assert "is no exposure log" in capsys.readouterr().err


def test_one_compaction_runs_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, event("a", FIRST))
    with (tmp_path / ".compact.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LogError, match="another compaction"):
            compact(tmp_path)


def test_a_file_of_an_hour_that_cannot_be_read_stops_the_compaction_and_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path, event("a", FIRST))
    compact(tmp_path)
    (path,) = hour_files(tmp_path, EVENTS)
    path.write_bytes(path.read_bytes()[:-10])
    source = write(tmp_path, event("b", FIRST))
    with pytest.raises(LogError, match=r"events\.parquet cannot be read"):
        compact(tmp_path)
    assert source.exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("suffix", ["", ".open"])
def test_what_is_no_regular_file_stays_in_the_spool_and_is_named(
    tmp_path: Path, make: Callable[[Path], object], suffix: str
) -> None:
    log = tmp_path / "log"
    write(log, event("a", FIRST))
    odd = log / "spool" / f"events-0000000000001-{'a' * 12}.arrows{suffix}"
    make(odd)
    os.utime(odd, (0, 0))
    done = compact(log)
    assert [(check.path, check.problem) for check in done.faulty] == [(odd, "it is not a regular file")]
    assert (done.files, odd.exists()) == (1, True)


@pytest.mark.parametrize("size", [0, 300, 3000])
def test_a_full_disk_ends_a_compaction_in_one_line_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    write(tmp_path, event("a", FIRST))
    compact(tmp_path)
    (path,) = hour_files(tmp_path, EVENTS)
    before = path.read_bytes()
    sources = [write(tmp_path, event(f"{i}-{os.urandom(2000).hex()}", FIRST), event("b", FIRST + HOUR)) for i in "cd"]
    with files_of_at_most(size):
        assert main(["compact", "--log", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "File too large" in printed
    assert "events.parquet" in printed
    assert path.read_bytes() == before
    assert all(source.exists() for source in sources)
    assert not list((tmp_path / "hours").glob("*/.*"))
    assert main(["compact", "--log", str(tmp_path)]) == 0
    names = [name.partition("-")[0] for name in compacted(tmp_path)]
    # The two sources may have been written in one millisecond, and then they have no order.
    assert [names[0], *sorted(names[1:3]), *names[3:]] == ["a", "c", "d", "b", "b"]


def test_retention_by_age_and_by_bytes_removes_the_oldest_hours(tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    ages = {"old": 50, "older": 80, "new": 1}
    for name, hours in ages.items():
        write(tmp_path, event(name, now - hours * HOUR))
    assert len(compact(tmp_path, keep_hours=60).removed) == 1
    assert sorted(compacted(tmp_path)) == ["new", "old"]
    size = hour_files(tmp_path, EVENTS)[-1].stat().st_size
    assert len(compact(tmp_path, keep_bytes=size + 10).removed) == 1
    assert compacted(tmp_path) == ["new"]


def test_a_log_without_records_is_compacted_to_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert compact(tmp_path).hours == set()
    shutil.rmtree(tmp_path / "spool")
    with pytest.raises(LogError):
        compact(tmp_path)


def test_records_of_an_earlier_release_are_compacted_beside_new_ones(tmp_path: Path) -> None:
    exposures = RecordKind.EXPOSURES
    known = SCHEMAS[exposures]
    earlier = pa.schema([field for field in known if field.name not in LATER_COLUMNS], metadata=known.metadata)

    def before(rows: list[dict[str, Any]]) -> pa.RecordBatch:
        batch = batch_of(exposures, rows)
        return pa.RecordBatch.from_arrays([batch.column(name) for name in earlier.names], schema=earlier)

    record = {"request_id": "old", "time_ms": FIRST, "logged_ms": FIRST}
    prepare(tmp_path)
    spool = Spool(tmp_path, {exposures: before}, SpoolLimits())
    spool.write(exposures, [record])
    spool.close()
    assert compact(tmp_path).faulty == []
    # An hour file of the earlier release, to which new records are added.
    (path,) = hour_files(tmp_path, exposures)
    pq.write_table(pq.read_table(path).select(earlier.names), path)
    write(tmp_path, record | {"request_id": "new", "ranked_before": 3}, kind=exposures)
    assert compact(tmp_path).faulty == []
    rows = pq.read_table(path).to_pylist()
    assert [(row["request_id"], row["ranked_before"]) for row in rows] == [("old", None), ("new", 3)]


def test_records_of_an_hour_are_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One exposure may have a MiB, and a row group of the rewritten hour is as large as what is read at once."""
    exposures = RecordKind.EXPOSURES
    rows = [
        {"request_id": str(n), "time_ms": FIRST, "logged_ms": FIRST, "item_keys": bytes(50_000)} for n in range(300)
    ]
    write(tmp_path, *rows, kind=exposures)
    compact(tmp_path)
    monkeypatch.setattr(hour_folders, "_GROUP_BYTES", 1 << 20)
    write(tmp_path, rows[0] | {"request_id": "new"}, kind=exposures)
    compact(tmp_path)
    (path,) = hour_files(tmp_path, exposures)
    metadata = pq.read_metadata(path)
    assert max(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)) <= 64
    assert metadata.num_rows == 301
