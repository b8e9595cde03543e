"""Tests that a join writes only the hours of the log again that have changed, and the same tables as a whole join."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from logged_tables import LOG_SECTION, Rows, Shown
from small_tables import RECIPE, make_tables, merged

from loop.erasure.tables import forget_in_tables
from loop.errors import LogError
from loop.join import pieces as pieces_module
from loop.join.join import PIECES, join
from loop.join.reading import exposures_in
from loop.join.report import JoinReport, lines
from loop.log.hours import HOUR_MS, add_to_hour, hour_file
from models.recipe import parse_recipe
from tables.log_records import RecordKind, batch_of

EXPOSURES, IMPRESSIONS, EVENTS = RecordKind
HOURS = 6


@pytest.fixture(scope="module")
def shown() -> Shown:
    """Fifty impressions in each of six hours."""
    tables = make_tables()
    impressions = tables["impressions"].head(50 * HOURS).copy()
    first = int(impressions["time_ms"].min()) // HOUR_MS * HOUR_MS
    impressions["time_ms"] = [first + n // 50 * HOUR_MS + n % 50 * 1000 for n in range(len(impressions))]
    tables["impressions"] = impressions
    return Shown(tables, RECIPE["features"])


@pytest.fixture
def rows(shown: Shown) -> Rows:
    rows = shown.rows()
    last = max(record["logged_ms"] for record in rows[EXPOSURES]) + 2 * HOUR_MS
    rows[EVENTS].append(rows[EVENTS][0] | {"event_id": "last", "action": "nothing", "time_ms": last, "logged_ms": last})
    return rows


class Log:
    """A log that is joined into `folder/data` again and again."""

    def __init__(self, folder: Path, shown: Shown, rows: Rows) -> None:
        self.folder = folder / "log"
        self.data = folder / "data"
        self._parts = 0
        shown.write(self.folder, {})
        self.add(rows)

    def add(self, rows: Rows) -> None:
        """Compact more records into their hours."""
        self._parts += 1
        for kind, records in rows.items():
            for hour in sorted({record["logged_ms"] // HOUR_MS for record in records}):
                batch = batch_of(kind, [record for record in records if record["logged_ms"] // HOUR_MS == hour])
                path = hour_file(self.folder, hour, kind)
                add_to_hour(path, kind, [f"part {self._parts}"], lambda batch=batch: [batch])

    def join(self, **changes: Any) -> JoinReport:
        recipe = parse_recipe(merged({**RECIPE, "log": LOG_SECTION}, {"data.dir": "none", **changes}), "test")
        return join(self.folder, recipe, self.data, pieces=self.data / PIECES)

    def counts(self, **changes: Any) -> tuple[int, int]:
        report = self.join(**changes)
        return report.hours_written, report.hours_unchanged

    @property
    def tables(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.data.iterdir()) if path.is_file()}


@pytest.fixture
def log(tmp_path: Path, shown: Shown, rows: Rows) -> Log:
    return Log(tmp_path, shown, rows)


def test_a_second_join_writes_no_hour_and_the_same_bytes(log: Log) -> None:
    assert log.counts() == (HOURS, 0)
    before = log.tables
    again = log.join()
    assert (again.hours_written, again.hours_unchanged) == (0, HOURS)
    assert lines(again)[-1] == f"hours: 0 written, {HOURS} unchanged"
    assert log.tables == before


def test_an_hour_that_did_not_change_is_not_read(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.join()

    def read(*_: object) -> None:
        raise AssertionError("wide records were read")

    monkeypatch.setattr(pieces_module, "exposures_in", read)
    log.join()


def test_a_late_event_writes_its_hour_again(log: Log, rows: Rows) -> None:
    log.join()
    clicked = {event["request_id"] for event in rows[EVENTS] if event["action"] == "click"}
    (place, record) = next(
        (n, record) for n, record in enumerate(rows[EXPOSURES]) if record["request_id"] not in clicked and n > 60
    )
    item = rows[IMPRESSIONS][place]["item_id"]
    at = record["time_ms"] + 60_000
    event = rows[EVENTS][0] | {"event_id": "late", "action": "click", "user_id": record["user_id"], "item_id": item}
    log.add({EVENTS: [event | {"request_id": record["request_id"], "time_ms": at, "logged_ms": at + 8 * HOUR_MS}]})
    assert log.counts() == (1, HOURS - 1)
    table = pq.read_table(log.data / "impressions.parquet")
    row = table.column("request_id").to_pylist().index(record["request_id"])
    assert table.column("click")[row].as_py() == 1
    same_as_afresh(log)


def test_a_new_hour_is_written_alone(log: Log, rows: Rows) -> None:
    log.join()
    later = 8 * HOUR_MS
    moved: Rows = {
        kind: [
            record
            | {name: f"{record[name]}-new" for name in ("request_id", "event_id", "impression_id") if name in record}
            | {name: record[name] + later for name in ("time_ms", "logged_ms")}
            for record in rows[kind][:40]
        ]
        for kind in RecordKind
    }
    end = max(record["logged_ms"] for record in rows[EVENTS]) + 2 * later
    moved[EVENTS].append(rows[EVENTS][-1] | {"event_id": "end", "time_ms": end, "logged_ms": end})
    log.add(moved)
    assert log.counts() == (1, HOURS)
    same_as_afresh(log)


def same_as_afresh(log: Log) -> None:
    """Check that the tables are those of a join without pieces, byte for byte."""
    before = log.tables
    shutil.rmtree(log.data / PIECES)
    log.join()
    assert log.tables == before


def test_another_recipe_writes_every_hour_again_and_old_pieces_go(log: Log) -> None:
    log.join()
    assert log.counts(**{"log.seen": {"by": "returned"}}) == (HOURS, 0)
    assert len([path for path in (log.data / PIECES).iterdir() if path.is_dir()]) == HOURS


def test_an_hour_that_was_rewritten_is_written_again(log: Log) -> None:
    log.join()
    path = hour_file(log.folder, min(hours_in(log)), EXPOSURES)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)  # as after an erasure
    assert log.counts() == (1, HOURS - 1)


def hours_in(log: Log) -> list[int]:
    paths = (log.folder / "hours").glob("*/exposures.parquet")
    return [pq.read_table(path).column("logged_ms")[0].as_py() // HOUR_MS for path in paths]


def test_a_join_that_was_killed_leaves_whole_pieces(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def ends(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return exposures_in(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(pieces_module, "exposures_in", ends)
        with pytest.raises(KeyboardInterrupt):
            log.join()
    assert log.counts() == (HOURS - 2, 2)
    same_as_afresh(log)


def test_a_forgotten_user_is_in_no_piece(log: Log, rows: Rows) -> None:
    log.join()
    forget_in_tables(log.data, rows[EXPOSURES][0]["user_id"])
    assert not (log.data / PIECES).exists()


def test_one_join_writes_to_a_folder_at_a_time(log: Log) -> None:
    with pieces_module._alone(log.data / PIECES), pytest.raises(LogError, match="another join writes to"):
        log.join()


@pytest.mark.parametrize(("size", "most"), [(10, 256), (4 << 20, 4)])
def test_records_are_read_in_batches_of_bounded_size(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    sizes: list[int] = []
    path = hour_file(tmp_path, 1, EXPOSURES)
    records = [rows[EXPOSURES][n % 50] | {"user_keys": bytes([n % 256]) * size} for n in range(300 if most > 4 else 12)]
    add_to_hour(path, EXPOSURES, ["a"], lambda: [batch_of(EXPOSURES, records)])
    real: Callable[..., Any] = pq.ParquetFile.iter_batches

    def noting(self: Any, batch_size: int) -> Any:
        sizes.append(batch_size)
        return real(self, batch_size=batch_size)

    class NoRows:
        def execute(self, *_: object) -> "NoRows":
            return self

        def fetchall(self) -> list[Any]:
            return []

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    assert list(exposures_in(NoRows(), "t", [], [path])) == []  # type: ignore[arg-type]
    assert sizes[0] <= most
    assert sizes[0] == 256 or sizes[0] < 10
