"""The protocol of a feature store: reads for a ranking, writes while serving, and the error of a store that is down.

A store for another database is a folder that implements `FeatureStore` and `FeatureWriter`, and one line in
`service/addresses/store_url.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from features.layouts import Entity, Layouts
from service.store.counters import CounterWrites, StoredCounters
from service.store.entity_rows import PackedEntity
from service.store.item_rows import ItemRows


class StoreDown(Exception):  # noqa: N818 - a state, not a mistake
    """The store cannot be reached, refuses a read, gives an invalid answer, or misses the deadline."""


@dataclass(slots=True)
class StoredRows:
    """The rows of one request. An absent row is None; a row that does not fit the schema counts as absent.

    `behaviours` are the members of the user's sequence (8-byte event key + packed row), newest first. `items` has one
    row per candidate, which is the row of an unknown item if the store has none: see `items.states`. `corrupt` counts
    rows that do not fit the schema by kind (`user`, `behaviour`, `item`, `shown`). `unread` counts rows that are
    missing because their node is away. `shown` has the packed entries of the items that the user was shown, if
    requested and present. `counters` has the cells of the schema's counters, if it has any.
    """

    user: bytes | None
    behaviours: list[bytes]
    items: ItemRows
    corrupt: dict[str, int]
    unread: int = 0
    shown: bytes | None = None
    counters: StoredCounters | None = None


@dataclass(frozen=True)
class Lifetimes:
    """After how long without a load or a write a user's row and sequence expire, in milliseconds; 0: never."""

    user_ms: int = 0
    behaviours_ms: int = 0


NEVER = Lifetimes()


class FeatureStore(Protocol):
    """The reading side for one worker. Every read raises StoreDown."""

    async def fetch(
        self,
        layouts: Layouts,
        user_id: str,
        item_ids: Sequence[str],
        timeout: float,
        before: int | None = None,
        shown: bool = False,
        scene: str | None = None,
    ) -> StoredRows:
        """Read the rows of one request. `timeout` is in seconds; behaviours are older than `before` (ms; None: now).

        With `shown`, the items that the user was shown are read in the same round trip, and so are the counters of the
        schema, those of `scene` included.
        """
        ...

    async def item_rows(self, layouts: Layouts, item_ids: Sequence[str]) -> list[bytes]:
        """Read the packed rows of items; an item without a row gets the default row."""
        ...

    async def schemas(self) -> dict[str, str]:
        """The schemas that the store holds rows of: fingerprint -> JSON."""
        ...

    def cache_counts(self) -> dict[str, int]:
        """The counts of the item caches and of reads from replicas since the last call, and present sizes."""
        ...

    def close(self) -> None: ...


class FeatureWriter(Protocol):
    """The writing side for one worker. Every write raises StoreUnavailable."""

    async def merge_rows(self, layouts: Layouts, entity: Entity, values: Mapping[str, Mapping[str, object]]) -> None:
        """Merge checked raw values onto the rows of `{id: {feature: value}}`."""
        ...

    async def add_behaviours(self, layouts: Layouts, by_user: Mapping[str, Sequence[tuple[int, bytes]]]) -> int:
        """Add behaviours `{user_id: [(time in ms, event key + packed row)]}`. Returns how many of them are new and
        stored.
        """
        ...

    async def claim_ids(self, kind: str, ids: Sequence[bytes]) -> list[bool]:
        """Record ids of 16 bytes; return which of them are new. The set is bounded and expires, so old ids may count as
        new.
        """
        ...

    async def add_shown(self, by_user: Mapping[str, bytes], keep_ms: int) -> int:
        """Add packed entries of shown items `{user_id: entries}`, and drop a user's entries after `keep_ms` without a
        new one.

        Returns how many entries are new.
        """
        ...

    async def add_counts(self, layouts: Layouts, writes: CounterWrites) -> None:
        """Add increments to the cells of a schema's counters; each key changes as a whole or not at all."""
        ...

    async def record_uses(self, times_ms: Mapping[str, int]) -> None:
        """Record the time of the last use of callers' keys `{key id: time in ms}`."""
        ...

    async def last_uses(self) -> dict[str, int]:
        """Return the time of the last use (ms) by key id."""
        ...

    async def close(self) -> None: ...


class StoreModule(Protocol):
    """What the module of a store offers; `service/addresses/store_url.py` names it. Each function raises ValueError."""

    def check(self, url: str) -> None:
        """Refuse a URL that cannot be used. Connects to nothing."""
        ...

    def open_store(
        self, url: str, timeout_ms: int, cache_bytes: int, cache_ttl_ms: int, replica_lag_ms: int = 0
    ) -> FeatureStore:
        """Open the reading side. With `replica_lag_ms`, `fetch` may read from replicas that lack no older write."""
        ...

    def open_writer(self, url: str, timeout_ms: int, lifetimes: Lifetimes) -> FeatureWriter: ...

    def items_without_row(self, url: str, fingerprint: str, item_ids: Sequence[str]) -> dict[str, str]:
        """Return the ids without a row, each with the nearest id that has one, `""` if none is near or was sought.

        Connects for this call alone and takes seconds at most. Raises StoreDown.
        """
        ...

    def packed_entities(
        self, url: str, entity: Entity, entity_id: str, in_use: Sequence[Layouts]
    ) -> list[PackedEntity]:
        """Return what the store has for a user or an item, one entry per schema that it lists or that is `in_use`.

        Connects for this call alone and takes seconds at most. Raises StoreDown.
        """
        ...
