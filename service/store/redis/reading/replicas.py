"""Chooses the replica from which a worker reads: one that has applied every write older than a bound.

The primary is asked again and again for its position, and each replica for its own. A replica that has reached the
position that the primary had when it was asked has every write that was answered before that moment. So the worker's
clock alone measures the bound, whatever delays the replica.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from service.addresses.redis_url import Address
from service.store.base import StoreDown
from service.store.redis.reading.connection import WrongReply
from service.store.redis.reading.replication import INFO, Replication, replication
from service.store.redis.reading.wire import Wire

log = logging.getLogger("funnelrank.store")

_LOOKS_PER_BOUND = 8
_ASIDE_SECONDS = 1.0
_LOG_PAUSE_SECONDS = 10.0
AnyWire = TypeVar("AnyWire", bound=Wire)


@dataclass(slots=True)
class ReplicaCounts:
    """Reads that replicas answered, and reads that the primary answered because a replica failed."""

    reads: int = 0
    fallbacks: int = 0

    def taken(self, staleness_seconds: float) -> dict[str, int]:
        """Return the counts since the last call, and the present staleness."""
        counts = {
            "replica_reads": self.reads,
            "replica_fallbacks": self.fallbacks,
            "replica_staleness_ms": round(1000 * staleness_seconds),
        }
        self.reads = 0
        self.fallbacks = 0
        return counts


@dataclass(slots=True, eq=False)
class _Replica(Generic[AnyWire]):
    """A replica. It has every write that was answered before `seen` (monotonic seconds).

    This holds on the `connection` on which the replica gave its position: one that was started again may be empty.
    """

    address: Address
    wire: AnyWire
    following: "asyncio.Task[None] | None" = None
    seen: float = float("-inf")
    connection: int = 0
    aside_until: float = 0.0


class ReplicaSet(Generic[AnyWire]):
    """A primary and its replicas, for one worker. `reader` is the one to read from; `settle` chooses it.

    A worker stays with one replica while it can, because its item cache begins anew with each other reader.
    """

    def __init__(self, primary: AnyWire, open_replica: Callable[[Address], AnyWire], bound_seconds: float) -> None:
        self.reader = primary
        self._primary = primary
        self._open_replica = open_replica
        self._bound = bound_seconds
        self._replicas: dict[Address, _Replica[AnyWire]] = {}
        self._chosen: _Replica[AnyWire] | None = None
        # When the primary was asked, and what it answered.
        self._written: deque[tuple[float, Replication]] = deque()
        self._looking: asyncio.Task[None] | None = None
        self._quiet_until = 0.0

    @property
    def reads_replica(self) -> bool:
        return self.reader is not self._primary

    @property
    def staleness_seconds(self) -> float:
        """How old the oldest write may be that the reader lacks; 0 for the primary."""
        return monotonic() - self._chosen.seen if self._chosen is not None else 0.0

    def settle(self) -> None:
        """Choose the reader. The first call begins to watch the replicas."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._watch_primary())
        now = monotonic()
        chosen = self._chosen
        if chosen is not None and self._is_fresh(chosen, now, self._bound):
            return
        # Another reader has to be well within the bound, so that the choice does not change with every look.
        fresh = [replica for replica in self._replicas.values() if self._is_fresh(replica, now, self._bound / 2)]
        self._chosen = random.choice(fresh) if fresh else None  # nosec B311 # spreads the workers
        self.reader = self._chosen.wire if self._chosen is not None else self._primary
        if self._chosen is not chosen:
            self._log_choice(chosen)

    def _is_fresh(self, replica: _Replica[AnyWire], now: float, bound: float) -> bool:
        wire = replica.wire
        same = wire.open and wire.connection == replica.connection
        return same and now < replica.seen + bound and now >= replica.aside_until

    def set_aside(self, wire: Wire, error: StoreDown) -> None:
        """Read from another node for a while, because a read from this replica failed."""
        for replica in self._replicas.values():
            if replica.wire is wire:
                replica.aside_until = monotonic() + _ASIDE_SECONDS
                replica.seen = float("-inf")
        if isinstance(error, WrongReply):
            wire.drop(error)
        self.settle()

    async def _watch_primary(self) -> None:
        """Ask the primary for its position and its replicas until the set is closed."""
        while True:
            asked_at = monotonic()
            written = await self._state_of(self._primary)
            if written is not None and written.is_primary:
                self._written.append((asked_at, written))
                self._meet(set(written.replicas))
            while self._written and self._written[0][0] < asked_at - self._bound:
                self._written.popleft()
            await asyncio.sleep(self._bound / _LOOKS_PER_BOUND)

    async def _watch(self, replica: _Replica[AnyWire]) -> None:
        """Ask a replica for its position. Each has its own task, so that one that hangs does not delay the others."""
        while True:
            applied = await self._state_of(replica.wire)
            if replica.connection != replica.wire.connection:
                replica.seen = float("-inf")
                replica.connection = replica.wire.connection
            if applied is not None and applied.following:
                replica.seen = max(replica.seen, self._seen_by(applied))
            await asyncio.sleep(self._bound / _LOOKS_PER_BOUND)

    async def _state_of(self, wire: Wire) -> Replication | None:
        try:
            (reply,) = await wire.ask(INFO, 1, self._bound)
            return replication(reply)
        except StoreDown as error:
            self._log_refusal(error)
            return None

    def _seen_by(self, applied: Replication) -> float:
        """Return the last moment at which the primary had no write that the replica has not applied."""
        for asked_at, written in reversed(self._written):
            if written.history == applied.history and written.position <= applied.position:
                return asked_at
        return float("-inf")

    def _meet(self, addresses: set[Address]) -> None:
        """Begin to watch new replicas, and leave those that the primary has no more."""
        for address in addresses - self._replicas.keys():
            replica = _Replica(address, self._open_replica(address))
            replica.following = asyncio.create_task(self._watch(replica))
            self._replicas[address] = replica
        for address in self._replicas.keys() - addresses:
            _end(self._replicas.pop(address))

    def _log_choice(self, before: _Replica[AnyWire] | None) -> None:
        if self._chosen is not None:
            log.info("rankings read from the replica %s:%d", *self._chosen.address)
        elif before is not None and monotonic() >= self._quiet_until:
            self._quiet_until = monotonic() + _LOG_PAUSE_SECONDS
            address = "{}:{}".format(*before.address)
            log.warning("rankings read from the primary: replica %s fails or is too far behind", address)

    def _log_refusal(self, error: StoreDown) -> None:
        if self._chosen is None and monotonic() >= self._quiet_until:
            self._quiet_until = monotonic() + _LOG_PAUSE_SECONDS
            log.warning("no replica can be read: %s", error)

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for replica in self._replicas.values():
            _end(replica)
        self._replicas.clear()
        self._chosen = None
        self.reader = self._primary


def _end(replica: _Replica[AnyWire]) -> None:
    if replica.following is not None:
        replica.following.cancel()
    replica.wire.close()
