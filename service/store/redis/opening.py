"""Opens the feature store in one Redis or in a Redis Cluster."""

from collections.abc import Sequence

from features.layouts import Entity, Layouts
from service.addresses.redis_url import address_of
from service.store.base import FeatureStore, FeatureWriter, Lifetimes
from service.store.entity_rows import PackedEntity
from service.store.redis import inspect, item_check
from service.store.redis.reading.cluster.reader import ClusterReader
from service.store.redis.reading.single_reader import SingleReader
from service.store.redis.writing.writer import RedisWriter


def check(url: str) -> None:
    """Raise ValueError if the URL, or a TLS file that it names, cannot be used."""
    _ = address_of(url).tls_context


def open_store(url: str, timeout_ms: int, cache_bytes: int, cache_ttl_ms: int, replica_lag_ms: int = 0) -> FeatureStore:
    address = address_of(url)
    kind = ClusterReader if address.is_cluster else SingleReader
    return kind(address, timeout_ms, cache_bytes, cache_ttl_ms, replica_lag_ms)


def open_writer(url: str, timeout_ms: int, lifetimes: Lifetimes) -> FeatureWriter:
    return RedisWriter(url, timeout_ms, lifetimes)


def items_without_row(url: str, fingerprint: str, item_ids: Sequence[str]) -> dict[str, str]:
    return item_check.items_without_row(url, fingerprint, item_ids)


def packed_entities(url: str, entity: Entity, entity_id: str, in_use: Sequence[Layouts]) -> list[PackedEntity]:
    return inspect.packed_entities(url, entity, entity_id, in_use)
