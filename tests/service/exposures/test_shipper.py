"""Tests the shipper: whole files reach the target, files stay until they are sent, and faults are counted."""

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from log_files import FIRST, crashed, event, write

from service.addresses.log_address import log_address
from service.exposures.folder import keep_schema, prepare
from service.exposures.shipper import Shipper
from service.exposures.spool import Spool, SpoolLimits
from service.exposures.targets.opening import open_target
from service.exposures.targets.target import LogTarget, LogTargetError
from tables.log_records import RecordKind, batch_of


def target_in(folder: Path) -> LogTarget:
    return open_target(log_address(folder.as_uri()))


def stepped(log: Path, target: LogTarget, steps: int = 1) -> tuple[Shipper, float]:
    """A shipper of a log after some steps, and the pause that the last one asked for."""
    with closing(Shipper(log, target)) as shipper:
        for _ in range(steps):
            pause = shipper.step()
    return shipper, pause


def spooled(log: Path) -> list[str]:
    return sorted(path.name for path in (log / "spool").iterdir())


def log_with(log: Path, *names: str) -> Path:
    """A log with a closed file per event."""
    for name in names:
        write(log, event(name, FIRST))
    return log


class FaultyTarget:
    """A target that refuses everything from the file number `good` on, until it is repaired."""

    def __init__(self, good: int = 0) -> None:
        self.good = good
        self.sent: list[str] = []

    def send(self, path: Path) -> int:
        if len(self.sent) >= self.good:
            raise LogTargetError("the store is away")
        self.sent.append(path.name)
        return 0

    def send_schema(self, path: Path) -> None: ...


def test_closed_files_reach_an_object_store_byte_for_byte_and_leave_the_spool(tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = [write(log, event(name, FIRST)) for name in "ab"]
    keep_schema(log, "s1", b"{}")
    content = {path.name: path.read_bytes() for path in paths}
    shipper, _ = stepped(log, target_in(tmp_path / "store"))
    there = {path.name: path.read_bytes() for path in (tmp_path / "store" / "spool").iterdir()}
    assert there == content
    assert (tmp_path / "store" / "schemas" / "s1.json").read_bytes() == b"{}"
    assert spooled(log) == []
    assert (shipper.counts.sent_files, shipper.counts.failed_attempts) == (2, 0)


def test_a_file_that_is_written_to_is_not_sent_and_one_of_a_killed_worker_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    dead = crashed(write(log, event("a", FIRST)))
    spool = Spool(log, {"events": lambda rows: batch_of(RecordKind.EVENTS, rows)}, SpoolLimits())
    with closing(spool):
        spool.write("events", [event("b", FIRST)])
        stepped(log, target_in(tmp_path / "store"))
        (left,) = spooled(log)
        assert left.endswith(".open")
    assert [path.name for path in (tmp_path / "store" / "spool").iterdir()] == [dead.name]


def test_a_file_of_a_killed_worker_is_sent_although_the_clock_was_set_back(tmp_path: Path) -> None:
    dead = crashed(write(tmp_path / "log", event("a", FIRST)))
    tomorrow = time.time() + 86_400
    os.utime(dead, (tomorrow, tomorrow))
    shipper, _ = stepped(tmp_path / "log", target_in(tmp_path / "store"))
    assert shipper.counts.sent_files == 1


def test_a_target_that_is_away_keeps_the_files_and_is_asked_ever_more_rarely(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name in "abc":
        write(log, event(name, FIRST))
    before = spooled(log)
    target = FaultyTarget(good=1)
    with closing(Shipper(log, target)) as shipper:
        pauses = [shipper.step() for _ in range(8)]
        assert spooled(log) == sorted(set(before) - set(target.sent))
        # Each pause is between half and all of 2, 4, 8 ... and at most 60 seconds.
        for pause, longest in zip(pauses, (2, 4, 8, 16, 32, 60, 60, 60), strict=True):
            assert longest / 2 <= pause <= longest
        counts = json.loads((log / "shipped.json").read_bytes())["counts"]
        assert (counts["sent_files"], counts["failed_attempts"], counts["waiting_files"]) == (1, 8, 2)
        target.good = 3
        assert shipper.step() == 1
    assert spooled(log) == []
    assert len(target.sent) == 3


def test_a_target_that_is_away_is_reported_once_until_a_file_is_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    target = FaultyTarget()
    with closing(Shipper(log_with(log, "a"), target)) as shipper:
        shipper.step()
        # No file waits for a moment: the limit has removed it, or its worker writes to it again.
        (log / "spool" / spooled(log)[0]).unlink()
        shipper.step()
        write(log, event("b", FIRST))
        shipper.step()
        assert caplog.text.count("the target refuses them") == 1
        target.good = 1
        shipper.step()
        write(log, event("c", FIRST))
        shipper.step()
    assert caplog.text.count("the target refuses them") == 2


def test_a_file_that_the_limit_removes_while_it_is_sent_holds_up_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, second = sorted(write(log, event(name, FIRST)) for name in "ab")

    class Removing(FaultyTarget):
        def send(self, path: Path) -> int:
            if path == first:
                path.unlink()
            return super().send(path)

    target = Removing(good=0)
    stepped(log, target)
    target.good = 1
    stepped(log, target)
    assert target.sent == [second.name]


@pytest.mark.parametrize("spoil", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to(path)])
@pytest.mark.parametrize("suffix", ["", ".open"])
def test_a_file_that_cannot_be_read_holds_up_no_other(
    tmp_path: Path, spoil: Callable[[Path], object], suffix: str
) -> None:
    log = tmp_path / "log"
    prepare(log)
    bad = log / "spool" / f"events-0000000000001-{'a' * 12}.arrows{suffix}"
    spoil(bad)
    os.utime(bad, (0, 0), follow_symlinks=False)
    for name in "ab":
        write(log, event(name, FIRST))
    target = FaultyTarget(good=9)
    shipper, _ = stepped(log, target, steps=4)
    assert len(target.sent) == 2
    assert spooled(log) == [bad.name]
    assert shipper.counts.sent_files == 2


def test_a_file_that_the_target_refuses_holds_up_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, *others = sorted(write(log, event(name, FIRST)) for name in "abc")

    class Refusing(FaultyTarget):
        def send(self, path: Path) -> int:
            if path == first:
                raise LogTargetError("the object is too large")
            return super().send(path)

    target = Refusing(good=9)
    shipper, pause = stepped(log, target, steps=2)
    assert target.sent == [path.name for path in others]
    assert (shipper.counts.failed_attempts, spooled(log)) == (2, [first.name])
    assert pause <= 2, "the others are sent at their pace"


def test_a_spool_that_was_removed_is_a_fault_and_ends_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    prepare(log)
    with closing(Shipper(log, FaultyTarget(good=9))) as shipper:
        (log / "spool").rmdir()
        shipper.step()
        assert shipper.counts.failed_attempts == 1
        write(log, event("a", FIRST))
        assert shipper.step() == 1
        assert shipper.counts.sent_files == 1


def test_two_shippers_of_one_folder_send_each_file_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, event("a", FIRST))
    with closing(Shipper(log, FaultyTarget())) as first:
        first.step()
        waiting = FaultyTarget(good=9)
        stepped(log, waiting)
        assert waiting.sent == []
    stepped(log, waiting)
    assert len(waiting.sent) == 1


def test_a_store_that_cannot_be_written_to_is_a_named_fault(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = write(log, event("a", FIRST))
    (tmp_path / "store").write_text("")  # a file in place of the folder
    with pytest.raises(LogTargetError, match="store"):
        target_in(tmp_path / "store").send(path)


class Bucket(BaseHTTPRequestHandler):
    """Takes objects over the protocol of S3, after `refusals` answers that it has no time."""

    refusals = 0
    objects: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if Bucket.refusals:
            Bucket.refusals -= 1
            self.send_response(503)
        else:
            Bucket.objects[self.path] = content
            self.send_response(200)
            self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_files_are_put_into_a_bucket_after_a_while_of_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    path = write(log, event("a", FIRST))
    content = path.read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        Bucket.refusals = 4  # more than one step tries again
        target = open_target(log_address("s3://bucket/some/prefix"))
        with closing(Shipper(log, target)) as shipper:
            shipper.step()
            assert path.exists()
            shipper.step()
        server.shutdown()
    assert Bucket.objects == {f"/bucket/some/prefix/spool/{path.name}": content}
    assert not path.exists()
    assert (shipper.counts.sent_files, shipper.counts.failed_attempts) == (1, 1)


def test_a_full_disk_takes_only_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    prepare(log)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.exposures.shipper.write_whole", full)
    assert stepped(log, FaultyTarget())[1] == 1
