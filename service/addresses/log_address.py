"""Reads the address of an exposure log: a folder, an object store or a Kafka topic."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

OBJECT_STORES: Final = ("s3", "gs", "az", "file")
KAFKA: Final = "kafka"
_EXTRAS = {"objects": "obstore", "kafka": "confluent_kafka"}
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class LogAddress:
    """The address of a target that closed files of the log are sent to.

    `brokers`, `topic` and `config` (a file of librdkafka's properties, or empty) are those of a Kafka topic.
    """

    uri: str
    scheme: str
    brokers: str = ""
    topic: str = ""
    config: str = ""

    @property
    def extra(self) -> str:
        """The extra of this project that the target needs."""
        return "kafka" if self.scheme == KAFKA else "objects"


def is_uri(address: str) -> bool:
    """Return whether an address names a target, and not a folder."""
    return "://" in address


def log_folder(address: str, spool: Path | None) -> Path | None:
    """The folder in which workers write the log: the log itself, or the spool of one that is sent on."""
    if is_uri(address):
        return spool
    return Path(address) if address else None


def log_address(uri: str) -> LogAddress:
    """Read the URI of a target. Raises ValueError."""
    parts = urlsplit(uri)
    if parts.scheme in OBJECT_STORES:
        if parts.scheme != "file" and not parts.netloc:
            raise ValueError(f"the address names no bucket; write {parts.scheme}://bucket/prefix")
        if parts.query or parts.username or parts.password:
            raise ValueError("the address of an object store is scheme, bucket and prefix; credentials come otherwise")
        return LogAddress(uri, parts.scheme)
    if parts.scheme != KAFKA:
        known = ", ".join(f"{scheme}://" for scheme in (*OBJECT_STORES, KAFKA))
        raise ValueError(f"a folder or one of {known} is needed")
    topic = parts.path.strip("/")
    options = parse_qs(parts.query, keep_blank_values=True)
    if not parts.netloc or "@" in parts.netloc or not _TOPIC.fullmatch(topic) or options.keys() - {"config"}:
        raise ValueError("write kafka://broker:9092,broker:9092/topic or kafka://broker:9092/topic?config=FILE")
    return LogAddress(uri, KAFKA, parts.netloc, topic, options.get("config", [""])[0])


def missing_extra(address: LogAddress) -> str:
    """Return what to install for a target; empty if it is installed."""
    if importlib.util.find_spec(_EXTRAS[address.extra]) is not None:
        return ""
    return f"{address.scheme}:// needs the extra '{address.extra}': pip install 'funnelrank[{address.extra}]'"
