"""Tests a log that goes through a Kafka topic: the shipper produces, and a compaction in another process consumes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import thread_time

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from kafka_cluster import KafkaCluster, kafka_cluster
from log_files import EVENTS, FIRST, HOUR, crashed, event, write

from loop.errors import LogError
from loop.log.compact import compact
from loop.log.hours import hour_files
from loop.log.kafka import KafkaSource
from loop.log.sources import opened
from service.addresses.log_address import log_address
from service.exposures.folder import keep_schema
from service.exposures.shipper import Shipper
from service.exposures.targets import kafka as target_module
from service.exposures.targets.kafka import KafkaTarget, parts_of
from service.exposures.targets.target import LogTargetError


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as running:
        yield running


@pytest.fixture
def uri(cluster: KafkaCluster, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return cluster.uri(request.node.name.replace("[", "-").replace("]", ""))


def ship(log: Path, uri: str) -> Shipper:
    with closing(Shipper(log, KafkaTarget(log_address(uri)))) as shipper:
        shipper.step()
    assert list((log / "spool").iterdir()) == []
    return shipper


def taken(log: Path, uri: str, group: Path | None = None) -> int:
    """Compact what a topic has; return how many foreign messages it has."""
    with opened(f"{uri}?config={group}" if group else uri) as source:
        return compact(log, source=source).foreign


def compacted(log: Path) -> list[str]:
    paths = hour_files(log, EVENTS)
    return sorted(name for path in paths for name in pq.read_table(path).column("event_id").to_pylist())


def group_of(folder: Path, name: str) -> Path:
    """The file of properties of a consumer group."""
    path = folder / f"{name}.properties"
    path.write_text(f"# a group of the test's own\n\ngroup.id = {name}\n")
    return path


def test_a_second_process_takes_what_was_sent(tmp_path: Path, uri: str) -> None:
    spool = tmp_path / "spooled"
    write(spool, event("a", FIRST), event("b", FIRST + HOUR))
    crashed(write(spool, event("c", FIRST), event("lost", FIRST), batches=2), cut=8)
    keep_schema(spool, "s1", b"{}")
    ship(spool, uri)
    log = tmp_path / "log"
    group = group_of(tmp_path, "second-process")
    command = [sys.executable, "-m", "funnelrank", "compact", "--log", str(log), "--source", f"{uri}?config={group}"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert compacted(log) == ["a", "b", "c"]
    assert "compacted 0 files" in done.stdout
    assert (log / "schemas" / "s1.json").read_bytes() == b"{}"


def test_what_was_sent_twice_is_taken_once(tmp_path: Path, uri: str) -> None:
    spool = tmp_path / "spooled"
    path = write(spool, *(event(f"{i}", FIRST) for i in range(20)), batches=5)
    content = path.read_bytes()
    ship(spool, uri)
    group = group_of(tmp_path, "twice")
    taken(tmp_path / "log", uri, group)
    path.write_bytes(content)  # as if the shipper had been killed before it removed the file
    ship(spool, uri)
    taken(tmp_path / "log", uri, group)
    assert len(compacted(tmp_path / "log")) == 20


def test_a_compaction_that_was_ended_before_its_hours_were_written_begins_again(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "spooled", event("a", FIRST))
    ship(tmp_path / "spooled", uri)
    group = group_of(tmp_path, "ended")

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("loop.log.compact.add_to_hour", ends)
        with pytest.raises(KeyboardInterrupt):
            taken(tmp_path / "log", uri, group)
    taken(tmp_path / "other-log", uri, group)
    assert compacted(tmp_path / "other-log") == ["a"]


def test_more_than_one_round_takes_everything_once(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write(tmp_path / "spooled", event(f"{i}", FIRST))
    ship(tmp_path / "spooled", uri)
    monkeypatch.setattr("loop.log.kafka._ROUND_BYTES", 1)
    taken(tmp_path / "log", uri, group_of(tmp_path, "rounds"))
    assert compacted(tmp_path / "log") == [f"{i}" for i in range(3)]


def test_a_file_is_cut_into_the_same_small_parts_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_PART_BYTES", 4000)
    rows = [event(f"{i}-{'x' * 100}", FIRST) for i in range(100)]
    path = write(tmp_path, *rows, event("y" * 9000, FIRST), batches=7)
    parts = list(parts_of(path))
    assert parts == list(parts_of(path))
    names: list[str] = []
    for content, count in parts:
        with pa.ipc.open_stream(content) as stream:
            part = stream.read_all().column("event_id").to_pylist()
        assert len(part) == count
        assert len(content) < 12_000 or count == 1
        names += part
    assert names == [row["event_id"] for row in rows] + ["y" * 9000]


def test_the_time_to_cut_a_file_grows_with_its_batches_alone(tmp_path: Path) -> None:
    seconds = []
    for batches in (500, 1000):
        path = write(tmp_path / f"{batches}", *(event(f"{i}", FIRST) for i in range(batches)), batches=batches)
        samples = []
        for _ in range(3):
            started = thread_time()
            assert sum(count for _, count in parts_of(path)) == batches
            samples.append(thread_time() - started)
        seconds.append(min(samples))
    assert seconds[1] / seconds[0] < 2.5


def test_what_can_be_read_of_a_damaged_file_is_sent(tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "spooled", event("a", FIRST), event("b", FIRST), batches=2)
    path.write_bytes(path.read_bytes()[:-20])
    ship(tmp_path / "spooled", uri)
    assert "is damaged" in caplog.text
    taken(tmp_path / "log", uri, group_of(tmp_path, "damaged"))
    assert compacted(tmp_path / "log") == ["a"]


def test_a_record_that_is_too_large_for_the_topic_is_counted_and_holds_up_no_other(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "_PART_BYTES", 100)  # a part for each record
    write(tmp_path / "spooled", event("a", FIRST), event("b" * 5000, FIRST), event("c", FIRST))
    properties = tmp_path / "small.properties"
    properties.write_text("message.max.bytes=4000\ncompression.type=none\n")
    assert ship(tmp_path / "spooled", f"{uri}?config={properties}").counts.refused_records == 1
    taken(tmp_path / "log", uri, group_of(tmp_path, "small"))
    assert compacted(tmp_path / "log") == ["a", "c"]


@pytest.mark.parametrize(("unit", "most"), [("messages", 1), ("kbytes", 6)])
def test_a_queue_that_is_smaller_than_what_is_sent_at_once_is_waited_for(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, unit: str, most: int
) -> None:
    monkeypatch.setattr(target_module, "_PART_BYTES", 100)  # a message for each record
    names = [f"{i}-{'x' * 1000}" for i in range(20)]
    write(tmp_path / "spooled", *(event(name, FIRST) for name in names))
    properties = tmp_path / "small.properties"
    properties.write_text(f"queue.buffering.max.{unit}={most}\n")
    shipper = ship(tmp_path / "spooled", f"{uri}?config={properties}")
    assert (shipper.counts.sent_files, shipper.counts.refused_records) == (1, 0)
    taken(tmp_path / "log", uri, group_of(tmp_path, f"few-{unit}"))
    assert compacted(tmp_path / "log") == sorted(names)


def test_a_queue_that_takes_no_message_keeps_the_file_and_names_the_property(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "spooled", event("x" * 5000, FIRST))
    properties = tmp_path / "small.properties"
    properties.write_text("queue.buffering.max.kbytes=1\n")
    with closing(Shipper(tmp_path / "spooled", KafkaTarget(log_address(f"{uri}?config={properties}")))) as shipper:
        pauses = [shipper.step() for _ in range(3)]
    assert path.exists()
    assert shipper.counts.failed_attempts == 3
    assert pauses[2] >= 4  # seconds: it is tried ever more rarely
    assert "raise queue.buffering.max.messages or .kbytes" in caplog.text


def test_foreign_messages_are_counted_and_left_alone(tmp_path: Path, uri: str) -> None:
    producer = Producer({"bootstrap.servers": log_address(uri).brokers})
    for name in ("../../evil.arrows", "notes.txt"):
        producer.produce(log_address(uri).topic, b"x", headers=[("name", name.encode()), ("kind", b"schema")])
    producer.produce(log_address(uri).topic, b"x")
    assert producer.flush(20) == 0
    write(tmp_path / "spooled", event("a", FIRST))
    ship(tmp_path / "spooled", uri)
    assert taken(tmp_path / "log", uri, group_of(tmp_path, "foreign")) == 3
    assert compacted(tmp_path / "log") == ["a"]
    assert not (tmp_path / "evil.arrows").exists()


def test_brokers_that_are_away_keep_the_files_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr("loop.log.kafka._TIMEOUT_SECONDS", 1.0)
    path = write(tmp_path / "spooled", event("a", FIRST))
    with kafka_cluster() as cluster:
        uri = cluster.uri("t")
        with closing(Shipper(tmp_path / "spooled", KafkaTarget(log_address(uri)))) as shipper:
            with cluster.away():
                shipper.step()
                assert path.exists()
                assert shipper.counts.failed_attempts == 1
                with pytest.raises(LogError, match="kafka://"):
                    taken(tmp_path / "log", uri)
            while path.exists():
                shipper.step()
        monkeypatch.undo()
        taken(tmp_path / "log", uri)
    assert compacted(tmp_path / "log") == ["a"]


@pytest.mark.parametrize(
    ("properties", "message"),
    [("no-such-property=1", "no-such-property"), ("acks", "line 1: write name=value"), (None, "No such file")],
)
def test_properties_that_cannot_be_used_are_named(tmp_path: Path, properties: str | None, message: str) -> None:
    path = tmp_path / "kafka.properties"
    if properties is not None:
        path.write_text(properties)
    address = log_address(f"kafka://127.0.0.1:1/t?config={path}")
    with pytest.raises(LogTargetError, match=message):
        KafkaTarget(address)
    with pytest.raises(LogError, match=message):
        KafkaSource(address)


@pytest.mark.parametrize("uri", ["kafka://b", "kafka:///t", "kafka://b/t?acks=1", "kafka://u:p@b/t", "kafka://b/a/c"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(LogError, match="write kafka://"), opened(uri):
        pass
