"""Sends files of the log to a Kafka topic, in messages that other consumers can read as well.

A message is an Arrow IPC stream of whole records, about half a MiB, keyed by its file. Its headers say the `kind` and
the `name`: that of the file with the number of the part, so that a reader knows a message that was sent twice. A schema
is a message of the kind `schema`.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.ipc
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from service.addresses.log_address import LogAddress
from service.exposures.folder import SUFFIX
from service.exposures.stream import OPEN_SUFFIX
from service.exposures.targets.target import LogTargetError

log = logging.getLogger("funnelrank.exposures")
SCHEMA_KIND: Final = "schema"
# Brokers take messages of 1 MB by default; a single record may be larger.
_PART_BYTES = 512 << 10
_LARGEST_BYTES = 64 << 20
_MESSAGES_AT_ONCE = 16  # in memory, and in one timeout
_TIMEOUT_SECONDS = 20


def client_options(address: LogAddress) -> dict[str, Any]:
    """The properties of a client: the brokers, and those of the file that the address names. Raises LogTargetError."""
    options: dict[str, Any] = {"bootstrap.servers": address.brokers, "log_level": 2, "error_cb": lambda _error: None}
    if not address.config:
        return options
    try:
        lines = Path(address.config).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise LogTargetError(f"{address.config}: {error}") from None
    for number, line in enumerate(lines, start=1):
        name, equals, value = line.partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not equals:
            raise LogTargetError(f"{address.config}, line {number}: write name=value, a property of librdkafka")
        options[name.strip()] = value.strip()
    return options


class KafkaTarget:
    """Produces the records of each file, and waits until every broker that has to has them."""

    def __init__(self, address: LogAddress) -> None:
        """No call is made yet. Raises LogTargetError."""
        options = {
            "acks": "all",
            "compression.type": "zstd",
            "message.max.bytes": _LARGEST_BYTES,
            "message.timeout.ms": _TIMEOUT_SECONDS * 1000,
        }
        try:
            self._producer = Producer(options | client_options(address))
        except (KafkaException, ValueError, TypeError) as error:
            raise LogTargetError(f"{address.brokers}: {error}") from None
        self._topic = address.topic
        self._waiting = 0
        self._failed: list[tuple[KafkaError, int]] = []

    def send(self, path: Path) -> int:
        base = path.name.removesuffix(OPEN_SUFFIX).removesuffix(SUFFIX)
        kind = base.partition("-")[0]
        self._failed = []
        for number, (content, rows) in enumerate(parts_of(path)):
            self._produce(base, {"kind": kind, "name": f"{base}.{number:04}{SUFFIX}"}, content, rows)
        self._wait(0)
        refused = self._refused()
        if refused:
            log.error("%d records of %s are larger than the topic %s permits", refused, path.name, self._topic)
        return refused

    def send_schema(self, path: Path) -> None:
        # Sent with every file, because the topic forgets old messages.
        self._failed = []
        self._produce(path.name, {"kind": SCHEMA_KIND, "name": path.name}, path.read_bytes(), 0)
        self._wait(0)
        self._refused()

    def _produce(self, key: str, headers: Mapping[str, str], content: bytes, rows: int) -> None:
        """Queue a message, after as many others have arrived as is needed for room. Raises LogTargetError."""
        self._wait(_MESSAGES_AT_ONCE - 1)

        def arrived(error: KafkaError | None, _message: Message) -> None:
            self._waiting -= 1
            if error is not None:
                self._failed.append((error, rows))

        encoded: list[tuple[str, str | bytes | None]] = [(name, value.encode()) for name, value in headers.items()]
        queued = False
        while not queued:
            try:
                self._producer.produce(self._topic, content, key, on_delivery=arrived, headers=encoded)
                self._waiting += 1
                queued = True
            except KafkaException as error:
                self._failed.append((error.args[0], rows))
                return
            except BufferError as error:
                # The properties may bound the client's queue to fewer messages or bytes than are sent at once.
                if not self._waiting:
                    problem = f"the client's queue is smaller than one message of {len(content):,} bytes ({error})"
                    raise LogTargetError(
                        f"topic {self._topic}: {problem}; raise queue.buffering.max.messages or .kbytes"
                    ) from None
                self._wait(self._waiting - 1)

    def _wait(self, at_most: int) -> None:
        """Wait until at most so many messages are on their way; each arrives or fails before the timeout."""
        while self._waiting > at_most:
            self._producer.poll(1.0)

    def _refused(self) -> int:
        """How many records are too large. Raises LogTargetError for any other failure."""
        for error, _ in self._failed:
            if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise LogTargetError(f"topic {self._topic}: {error.str()}")
        return sum(rows for _, rows in self._failed)


def parts_of(path: Path) -> Iterator[tuple[bytes, int]]:
    """The records of a file as streams of about `_PART_BYTES`, each with its number of records.

    The same file always has the same parts. What cannot be read, such as the end of a file of a killed worker, is left
    out.
    """
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in _batches(path):
        for piece in _pieces(batch):
            if group and size + piece.nbytes > _PART_BYTES:
                yield _stream(group)
                group = []
                size = 0
            group.append(piece)
            size += piece.nbytes
    if group:
        yield _stream(group)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            yield from stream
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        if not path.name.endswith(OPEN_SUFFIX):
            log.error("%s is damaged, and what can be read of it was sent: %s", path, " ".join(str(error).split()))


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Halves of a batch until each is small enough, or one record."""
    if batch.nbytes <= _PART_BYTES or batch.num_rows == 1:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _pieces(batch.slice(0, middle))
    yield from _pieces(batch.slice(middle))


def _stream(batches: list[pa.RecordBatch]) -> tuple[bytes, int]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes(), sum(batch.num_rows for batch in batches)
