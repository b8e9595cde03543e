"""Opens the feature store that a URL names. A store for another database adds its scheme here."""

from service.redis_url import address_of
from service.store.base import FeatureStore, FeatureWriter
from service.store.redis.reading.cluster_reader import ClusterReader
from service.store.redis.reading.single_reader import SingleReader
from service.store.redis.writer import RedisWriter


def open_store(url: str, timeout_ms: int, cache_bytes: int = 0, cache_ttl_ms: int = 1000) -> FeatureStore:
    """Open the reading side. Raises ValueError for a URL that cannot be used."""
    address = address_of(url)
    kind = ClusterReader if address.is_cluster else SingleReader
    return kind(address, timeout_ms, cache_bytes, cache_ttl_ms)


def open_writer(url: str, timeout_ms: int) -> FeatureWriter:
    """Open the writing side. Raises ValueError for a URL that cannot be used."""
    return RedisWriter(url, timeout_ms)
