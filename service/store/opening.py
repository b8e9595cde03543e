"""Opens the feature store that a URL names. The stores by scheme are listed in `service/addresses/store_url.py`."""

from collections.abc import Sequence
from importlib import import_module
from urllib.parse import urlsplit

from features.layouts import Entity, Layouts
from service.addresses.store_url import STORES, check_url
from service.settings import Settings
from service.store.base import NEVER, FeatureStore, FeatureWriter, Lifetimes, StoreModule
from service.store.entity_rows import PackedEntity


def open_store(
    url: str, timeout_ms: int, cache_bytes: int = 0, cache_ttl_ms: int = 1000, replica_lag_ms: int = 0
) -> FeatureStore:
    """Open the reading side. Raises ValueError for a URL that cannot be used."""
    return _module_of(url).open_store(url, timeout_ms, cache_bytes, cache_ttl_ms, replica_lag_ms)


def open_writer(url: str, timeout_ms: int, lifetimes: Lifetimes = NEVER) -> FeatureWriter:
    """Open the writing side. Raises ValueError for a URL that cannot be used."""
    return _module_of(url).open_writer(url, timeout_ms, lifetimes)


def lifetimes_of(settings: Settings) -> Lifetimes:
    """Return after how long a silent user's row and sequence expire."""
    return Lifetimes(1000 * settings.user_ttl_s, 1000 * settings.behaviour_ttl_s)


def items_without_row(url: str, fingerprint: str, item_ids: Sequence[str]) -> dict[str, str]:
    """Return the ids that have no row under a schema, each with the nearest id that has one. Raises StoreDown."""
    return _module_of(url).items_without_row(url, fingerprint, item_ids)


def packed_entities(url: str, entity: Entity, entity_id: str, in_use: Sequence[Layouts]) -> list[PackedEntity]:
    """Return what the store has for a user or an item: one entry per schema that it lists or that is `in_use`.

    Raises StoreDown.
    """
    return _module_of(url).packed_entities(url, entity, entity_id, in_use)


def check(url: str) -> None:
    """Raise ValueError if a URL, or a file that it names, cannot be used. Connects to nothing."""
    _module_of(url).check(url)


def _module_of(url: str) -> StoreModule:
    check_url(url)
    # Imported by name, so that a worker imports only the client of its own database.
    module: StoreModule = import_module(STORES[urlsplit(url).scheme])
    return module
