"""Tests the records that workers share: sums over living and ended workers, faults of the folder, damaged records."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from child_process import child

from service.metrics.families import Families, page_of
from service.metrics.record_file import RecordFile, is_alive, read_record
from service.metrics.workers import WorkerRecords

StartWorker = Callable[[Path, int], "subprocess.Popen[str]"]
WORKER = """
import os, sys
from pathlib import Path
from service.metrics.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics.workers.set(1)
metrics.model_info.labels("m", "1", "stable", "").set(int(sys.argv[2]))
for seconds in (0.001, 0.02):
    metrics.stages["score"].observe(seconds)
metrics.events.inc(int(sys.argv[2]))
metrics.tallies.bring_over()
metrics._write()
metrics.records.set_status({"pid": os.getpid()})
metrics._write()
sys.stdout.write("written\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start a worker process that writes its record and waits to be ended."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as started:

        def start(folder: Path, count: int) -> "subprocess.Popen[str]":
            command = [sys.executable, "-c", WORKER, str(folder), str(count)]
            worker = started.enter_context(child(command, **pipes, text=True))
            assert worker.stdout is not None
            assert worker.stdout.readline() == "written\n"
            return worker

        yield start


def kill_worker(worker: "subprocess.Popen[str]") -> None:
    worker.kill()
    worker.wait()


def values(records: WorkerRecords) -> dict[str, float]:
    lines = page_of(records.families({})).decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_gauges_count_the_living_and_counters_everybody(tmp_path: Path, start_worker: StartWorker) -> None:
    reader = WorkerRecords(tmp_path)
    workers = [start_worker(tmp_path, count) for count in (1, 2, 3)]
    bucket = 'funnelrank_stage_duration_seconds_bucket{le="0.004",stage="score"}'
    before = values(reader)
    assert before["funnelrank_workers"] == 3
    assert before['funnelrank_model_info{name="m",role="stable",version="1"}'] == 3
    assert (before["funnelrank_events_total"], before[bucket]) == (6, 3)
    assert sorted(status["pid"] for status in reader.statuses()) == sorted(worker.pid for worker in workers)
    kill_worker(workers[2])
    for _ in range(3):  # the first page adds the ended worker to the sums, the later ones read them
        after = values(reader)
        assert after["funnelrank_workers"] == 2
        assert after['funnelrank_model_info{name="m",role="stable",version="1"}'] == 2
        assert (after["funnelrank_events_total"], after[bucket]) == (6, 3)
    assert len(list(tmp_path.glob("worker-*.json"))) == 2, "the record of the ended worker is removed"
    assert len(reader.statuses()) == 2
    for worker in workers[:2]:
        kill_worker(worker)
    assert values(reader)["funnelrank_events_total"] == 6
    assert list(tmp_path.glob("worker-*.json")) == []
    assert "funnelrank_workers" not in values(reader)


def test_a_process_that_has_the_number_of_an_ended_worker_does_not_count_as_it(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    worker = start_worker(tmp_path, 1)
    (record,) = tmp_path.glob("worker-*.json")
    kill_worker(worker)
    os.rename(record, tmp_path / f"worker-{os.getpid()}.00000000.json")  # this process lives
    assert "funnelrank_workers" not in values(WorkerRecords(tmp_path))


def test_a_record_that_was_added_and_could_not_be_removed_is_not_added_again(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    worker = start_worker(tmp_path, 5)
    (record,) = tmp_path.glob("worker-*.json")
    content = record.read_bytes()
    kill_worker(worker)
    reader = WorkerRecords(tmp_path)
    assert values(reader)["funnelrank_events_total"] == 5
    record.write_bytes(content)
    other = start_worker(tmp_path, 7)
    kill_worker(other)
    for _ in range(2):
        assert values(reader)["funnelrank_events_total"] == 12


def test_a_folder_that_is_removed_is_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    records = WorkerRecords(folder)
    own: Families = {"a": {"type": "counter", "help": "", "over_workers": "sum", "samples": [["a_total", {}, 1.0]]}}
    for _ in range(2):
        records.write(own)
        (record,) = folder.glob("worker-*.json")
        record.unlink()
        folder.rmdir()
        assert records.families(own) == own
    records.write(own)
    assert len(list(folder.glob("worker-*.json"))) == 1
    assert WorkerRecords(folder).families({})["a"]["samples"] == [["a_total", {}, 1.0]]


def test_a_folder_that_takes_nothing_costs_one_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    records = WorkerRecords(tmp_path / "file" / "folder")
    for _ in range(5):
        records.write({})
        assert records.families({}) == {}
    assert len(caplog.records) == 1
    assert "rankings go on" in caplog.text


def test_what_no_worker_wrote_is_passed_over(tmp_path: Path, start_worker: StartWorker) -> None:
    (tmp_path / "worker-1.json").mkdir()
    (tmp_path / "worker-2.json").write_bytes(b"")
    (tmp_path / "worker-3.json").write_bytes(os.urandom(1000))
    os.mkfifo(tmp_path / "worker-4.json")
    (tmp_path / "ended.json").write_bytes(b"{")
    worker = start_worker(tmp_path, 1)
    assert values(WorkerRecords(tmp_path))["funnelrank_events_total"] == 1
    kill_worker(worker)


def test_a_torn_record_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.json"
    record = RecordFile(path, b"first")
    assert (read_record(path), is_alive(path)) == (b"first", True)
    record.write(b"second")
    record.write(b"third")
    assert read_record(path) == b"third"
    content = bytearray(path.read_bytes())
    content[content.index(b"third") + 1] ^= 1
    path.write_bytes(content)
    assert read_record(path) == b"second"
    record.close()
    assert not is_alive(path)
    path.write_bytes(bytes(len(content)))
    assert read_record(path) is None


def test_a_record_that_outgrows_its_file_gets_a_larger_one(tmp_path: Path) -> None:
    records = WorkerRecords(tmp_path)
    for count in (1, 10_000):
        records.set_status({"pid": 1, "text": "x" * count * 20})
        records.write({})
    (path,) = tmp_path.glob("worker-*.json")
    content = read_record(path)
    assert content is not None
    assert len(content) > 200_000
    assert is_alive(path)
