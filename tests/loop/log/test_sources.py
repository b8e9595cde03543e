"""Tests a compaction that takes the files of a log from an object store."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from log_files import EVENTS, FIRST, HOUR, crashed, event, write

from funnelrank.main import main
from loop.errors import LogError
from loop.log import compact as compaction
from loop.log.compact import Compaction, compact
from loop.log.hours import hour_files
from loop.log.sources import opened
from service.addresses.log_address import log_address
from service.exposures.folder import keep_schema
from service.exposures.shipper import Shipper
from service.exposures.targets.opening import open_target


def ship(log: Path, store: Path) -> None:
    """Send every file of a spool to an object store."""
    with closing(Shipper(log, open_target(log_address(store.as_uri())))) as shipper:
        shipper.step()
    assert list((log / "spool").iterdir()) == []


def taken(log: Path, store: Path, **more: Any) -> Compaction:
    with opened(store.as_uri()) as source:
        return compact(log, source=source, **more)


def compacted(log: Path) -> list[str]:
    return [name for path in hour_files(log, EVENTS) for name in pq.read_table(path).column("event_id").to_pylist()]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool-of-a-service"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_log_that_was_sent_gives_the_same_hours_as_one_that_stayed(tmp_path: Path, spool: Path, store: Path) -> None:
    write(spool, event("a", FIRST), event("b", FIRST + HOUR))
    crashed(write(spool, event("c", FIRST), event("d", FIRST + 1), batches=2), cut=8)
    keep_schema(spool, "s1", b"{}")
    shutil.copytree(spool, tmp_path / "stayed", copy_function=shutil.copy2)
    compact(tmp_path / "stayed")
    ship(spool, store)
    done = taken(tmp_path / "log", store)
    assert compacted(tmp_path / "log") == compacted(tmp_path / "stayed") == ["a", "c", "b"]
    assert [check.cut for check in done.faulty] == [True]
    for here, there in zip(hour_files(tmp_path / "log", EVENTS), hour_files(tmp_path / "stayed", EVENTS), strict=True):
        assert here.read_bytes() == there.read_bytes()
    assert (tmp_path / "log" / "schemas" / "s1.json").read_bytes() == b"{}"
    assert list((store / "spool").iterdir()) == []


def test_a_run_that_was_ended_before_the_store_was_cleared_takes_no_record_twice(
    tmp_path: Path, spool: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(spool, event("a", FIRST))
    ship(spool, store)
    log = tmp_path / "log"
    with monkeypatch.context() as patched, opened(store.as_uri()) as source:
        patched.setattr(source, "remove", lambda taken: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compact(log, source=source)
    assert len(list((store / "spool").iterdir())) == 1
    taken(log, store)
    assert compacted(log) == ["a"]
    assert list((store / "spool").iterdir()) == []


def test_a_run_that_was_ended_before_the_hours_were_written_loses_nothing(
    tmp_path: Path, spool: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(spool, event("a", FIRST))
    ship(spool, store)

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "add_to_hour", ends)
        with pytest.raises(KeyboardInterrupt):
            taken(tmp_path / "log", store)
    assert len(list((store / "spool").iterdir())) == 1
    taken(tmp_path / "log", store)
    assert compacted(tmp_path / "log") == ["a"]


def test_more_than_one_round_takes_everything_once(
    tmp_path: Path, spool: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":
        write(spool, event(name, FIRST))
    ship(spool, store)
    monkeypatch.setattr("loop.log.objects._ROUND_BYTES", 1)
    assert taken(tmp_path / "log", store).files == 5
    assert sorted(compacted(tmp_path / "log")) == list("abcde")


def test_foreign_objects_are_left_alone(tmp_path: Path, spool: Path, store: Path) -> None:
    write(spool, event("a", FIRST))
    ship(spool, store)
    (store / "spool" / "notes.txt").write_text("mine")
    foreign = f"events-{FIRST}-{'0' * 12}.arrows"
    (store / "spool" / foreign).write_text("no stream")
    done = taken(tmp_path / "log", store)
    assert done.foreign == 1
    assert compacted(tmp_path / "log") == ["a"]
    assert [check.path.name for check in done.faulty] == [foreign]
    assert (store / "spool" / "notes.txt").read_text() == "mine"


def test_the_command_takes_a_uri_and_names_what_it_cannot_use(
    tmp_path: Path, spool: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(spool, event("a", FIRST))
    ship(spool, store)
    log = tmp_path / "log"
    assert main(["compact", "--log", str(log), "--source", store.as_uri()]) == 0
    assert "compacted 1 files" in capsys.readouterr().out
    assert main(["compact", "--log", str(log), "--source", "ftp://host/logs"]) == 1
    assert "a folder or one of s3://" in capsys.readouterr().err


def test_a_store_that_cannot_be_read_is_a_named_fault(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(LogError, match="store"):
        taken(tmp_path / "log", tmp_path / "store")


def test_what_else_lies_in_the_store_stops_no_compaction(tmp_path: Path, spool: Path, store: Path) -> None:
    path = write(spool, event("a", FIRST))
    keep_schema(spool, "s1", b"{}")
    ship(spool, store)
    # A copy of somebody else, one level deeper, and a document that no service has sent.
    for name in ("spool", "schemas"):
        (store / name / "copy").mkdir()
    (store / "spool" / "copy" / path.name).write_bytes(b"x")
    (store / "schemas" / "copy" / "s2.json").write_bytes(b"x")
    (store / "schemas" / "notes.txt").write_bytes(b"x")
    done = taken(tmp_path / "log", store)
    assert (compacted(tmp_path / "log"), done.foreign) == (["a"], 1)
    assert [schema.name for schema in (tmp_path / "log" / "schemas").iterdir()] == ["s1.json"]
    assert (store / "spool" / "copy" / path.name).exists()
