"""Takes the records of a log from a Kafka topic."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.files.writing import write_whole
from loop.errors import LogError
from service.addresses.log_address import LogAddress
from service.exposures.folder import FEATURE_SCHEMAS, SPOOL, STREAM_NAME
from service.exposures.targets.kafka import SCHEMA_KIND, client_options
from service.exposures.targets.target import LogTargetError

_GROUP = "funnelrank-compact"
_ROUND_BYTES = 1 << 30  # taken before they are compacted, so that the spool needs no more room
_TIMEOUT_SECONDS = 20.0
_SCHEMA_NAME = re.compile(r"[0-9A-Za-z_-]{1,128}\.json")


class KafkaSource:
    """The messages of a log in a topic, from where the last compaction ended to the present end.

    Offsets are those of the group `funnelrank-compact`; they are committed when the hours are written.
    """

    def __init__(self, address: LogAddress) -> None:
        """Raises LogError."""
        options = {
            "group.id": _GROUP,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        try:
            self._consumer = Consumer(options | client_options(address))
        except (KafkaException, ValueError, TypeError, LogTargetError) as error:
            raise LogError(f"{address.uri}: {error}") from None
        self._uri = address.uri
        self._topic = address.topic
        self._next: dict[int, int] = {}  # by partition, the offset after the last message that was taken
        self.foreign = 0

    def close(self) -> None:
        self._consumer.close()

    def take(self, folder: Path) -> Sequence[str]:
        with self._named():
            unfinished = self._assign()
        (folder / FEATURE_SCHEMAS).mkdir(exist_ok=True)
        places: list[str] = []
        size = 0
        waited_since = time.monotonic()
        while unfinished and size < _ROUND_BYTES:
            with self._named():
                message = self._consumer.poll(1.0)
            if message is None:
                if time.monotonic() - waited_since > _TIMEOUT_SECONDS:
                    raise LogError(f"{self._uri}: no message within {_TIMEOUT_SECONDS:g} s")
                continue
            waited_since = time.monotonic()
            partition = message.partition()
            assert partition is not None
            error = message.error()
            if error is None:
                self._write(folder, message)
                places.append(f"{partition}/{message.offset()}")
                size += len(message.value() or b"")
                self._next[partition] = (message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(partition)
            elif not error.retriable():
                raise LogError(f"{self._uri}: {error.str()}")
        return places

    def remove(self, taken: Sequence[str]) -> None:
        """Commit the offsets; the topic itself forgets its messages by its own rule."""
        with self._named():
            places = [TopicPartition(self._topic, *place) for place in self._next.items() if place[1] >= 0]
            self._consumer.commit(offsets=places, asynchronous=False)

    def _assign(self) -> set[int]:
        """Read every partition from its committed offset on; return the partitions."""
        topics = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_SECONDS).topics
        problem = topics[self._topic].error
        if problem is not None:
            raise LogError(f"{self._uri}: {problem.str()}")
        partitions = [TopicPartition(self._topic, partition) for partition in topics[self._topic].partitions]
        for place in self._consumer.committed(partitions, timeout=_TIMEOUT_SECONDS):
            self._next.setdefault(place.partition, place.offset if place.offset >= 0 else OFFSET_BEGINNING)
        self._consumer.assign([TopicPartition(self._topic, *place) for place in self._next.items()])
        return set(self._next)

    def _write(self, folder: Path, message: Message) -> None:
        """Write a message to a file of the log; a foreign one is counted."""
        headers = dict(message.headers() or [])
        name = _text(headers.get("name"))
        content = message.value() or b""
        assert isinstance(content, bytes)
        if _text(headers.get("kind")) == SCHEMA_KIND and _SCHEMA_NAME.fullmatch(name):
            path = folder / FEATURE_SCHEMAS / name
            if not path.exists():
                write_whole(path, content)
        elif STREAM_NAME.fullmatch(name):
            write_whole(folder / SPOOL / name, content)
        else:
            self.foreign += 1

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the topic in its errors."""
        try:
            yield
        except KafkaException as error:
            raise LogError(f"{self._uri}: {error}") from None


def _text(header: str | bytes | None) -> str:
    return header.decode(errors="replace") if isinstance(header, bytes) else header or ""
