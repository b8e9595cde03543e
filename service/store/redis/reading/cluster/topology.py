"""The nodes of a Redis Cluster as one worker sees them: which node has which slot, and which nodes can be asked.

Several nodes are asked at once which node has which slot, and the most common answer is used, because a node that was
cut off from the others keeps an outdated answer.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from service.addresses.redis_url import Address, RedisAddress
from service.store.base import StoreDown
from service.store.redis.reading.cluster.node import Node
from service.store.redis.reading.connection import OnPush
from service.store.redis.reading.replicas import ReplicaSet
from service.store.redis.reading.wire import packed

log = logging.getLogger("funnelrank.store")

_LEARN_PAUSE_SECONDS = 0.2
_LEARN_TIMEOUT_SECONDS = 1.0
_NODES_ASKED = 5
_RETIRED_SECONDS = 2.0
_LOG_PAUSE_SECONDS = 10.0
_SLOTS = packed("CLUSTER", "SLOTS")

_View = tuple[tuple[int, int, Address], ...]  # first slot, last slot, primary


class Topology:
    """Learns the nodes and their slots at the first request, and again after any sign of a change."""

    def __init__(self, address: RedisAddress, on_push: OnPush | None, replica_lag_ms: int = 0) -> None:
        self._address = address
        self._on_push = on_push
        self._replica_lag_seconds = replica_lag_ms / 1000
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._view: _View = ()
        self._retired: list[Node] = []
        self._learning: asyncio.Task[None] | None = None
        self._learn_after = 0.0
        self._refusal = ""
        self._epoch = 0
        self._views = 0
        self._connections: tuple[int, ...] = ()
        self._logged_away: dict[Address, float] = {}
        self._away: set[Address] = set()

    @property
    def nodes(self) -> list[Node]:
        """The primaries that can be asked now."""
        return [node for node in self._nodes.values() if node.open]

    @property
    def readers(self) -> list[Node]:
        """The nodes from which rankings can read now: each primary, or a replica in its place."""
        return [node.reader for node in self._nodes.values() if node.reader.open]

    @property
    def reads_replica(self) -> bool:
        return any(node.reader is not node for node in self._nodes.values())

    @property
    def staleness_seconds(self) -> float:
        """How old the oldest write may be that one of the readers lacks; 0 if all are primaries."""
        sets = [node.replicas for node in self._nodes.values() if node.replicas is not None]
        return max((replicas.staleness_seconds for replicas in sets), default=0.0)

    def settle_readers(self) -> None:
        """Choose the nodes to read from."""
        for node in self._nodes.values():
            if node.replicas is not None:
                node.replicas.settle()

    def set_aside(self, away: Iterable[Node], error: StoreDown) -> None:
        """Read from the primaries of these replicas for a while."""
        away = set(away)
        for node in self._nodes.values():
            if node.replicas is not None and node.reader in away:
                node.replicas.set_aside(node.reader, error)

    def epoch(self) -> int:
        """A number that changes with every connection made or lost and every slot that moved.

        Values that were cached under an earlier number may be stale.
        """
        readers = [node.reader for node in self._nodes.values()]
        connections = (self._views, *[node.connection if node.open else 0 for node in readers])
        if connections != self._connections:
            self._connections = connections
            self._epoch += 1
        return self._epoch

    def owner(self, key: bytes) -> Node | None:
        """The primary that has this key's slot."""
        return self._owners[key_slot(key)]

    def reader(self, key: bytes) -> Node | None:
        """The node from which rankings read this key."""
        owner = self._owners[key_slot(key)]
        return owner and owner.reader

    async def connect(self, timeout: float) -> None:
        """Wait for the nodes' connections, except for nodes that refused the last attempt.

        Raises StoreDown if no node tells the nodes of the cluster.
        """
        if not self._view:
            await self._first_view(timeout)
        lost = [node for node in self._nodes.values() if not node.open]
        if lost:
            self.learn_soon()
            await asyncio.gather(*(node.connect(timeout) for node in lost if not node.refusal), return_exceptions=True)
            for node in lost:
                if not node.open:
                    node.connect_soon()
        self._log_away()

    def redirected_to(self, where: str, by: Node | None) -> Node:
        """Return the node of a redirection. A redirection without a host means another port of the host that
        was asked.
        """
        host, _, port = where.rpartition(":")
        return self._node((host or (by.address[0] if by else ""), int(port)))

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = Node(self._address, self._on_push, address)
        return self._nodes[address]

    def learn_soon(self) -> None:
        """Ask again which node has which slot, in the background and not too often."""
        if monotonic() >= self._learn_after and (self._learning is None or self._learning.done()):
            self._learn_after = monotonic() + _LEARN_PAUSE_SECONDS
            self._learning = asyncio.create_task(self._learn())

    async def _first_view(self, timeout: float) -> None:
        self.learn_soon()
        assert self._learning is not None
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._learning)
        except TimeoutError:
            raise StoreDown(f"no node of the cluster answers within {timeout * 1000:.0f} ms") from None
        if not self._view:
            raise StoreDown(self._refusal)

    async def _learn(self) -> None:
        nodes = self.nodes
        sample = random.sample(nodes, min(len(nodes), _NODES_ASKED))  # nosec B311 # spreads the load
        views = await self._views_of(sample)
        if not views:
            views = await self._views_of([self._node(address) for address in self._address.nodes])
        if views:
            self._adopt(Counter(views).most_common(1)[0][0])

    async def _views_of(self, nodes: Iterable[Node]) -> list[_View]:
        return [view for view in await asyncio.gather(*map(self._view_of, nodes)) if view]

    async def _view_of(self, node: Node) -> _View:
        """Return the slots and their primaries as one node reports them; empty if it does not."""
        try:
            (reply,) = await node.ask(_SLOTS, 1, _LEARN_TIMEOUT_SECONDS)
        except StoreDown as error:
            self._refusal = f"{node.name}: {error}"
            return ()
        if isinstance(reply, Exception) or not reply:
            self._refusal = f"{node.name} is not a node of a configured cluster: {reply or 'no slots are assigned'}"
            return ()
        try:
            return tuple(sorted((_slot(first), _slot(last), _address(at, node)) for first, last, at, *_ in reply))
        except (TypeError, ValueError, IndexError) as error:
            self._refusal = f"{node.name} answered CLUSTER SLOTS with something else: {error}"
            return ()

    def _adopt(self, view: _View) -> None:
        primaries = {address for _, _, address in view}
        if view == self._view and primaries == self._nodes.keys():
            return
        self._view = view
        self._views += 1
        self._owners = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, address in view:
            self._owners[first : last + 1] = [self._node(address)] * (last + 1 - first)
        for address in self._nodes.keys() - primaries:
            self._retire(self._nodes.pop(address))
        if self._replica_lag_seconds:
            open_replica = partial(Node, self._address, self._on_push, of_replica=True)
            for node in self._nodes.values():
                node.replicas = node.replicas or ReplicaSet(node, open_replica, self._replica_lag_seconds)

    def _retire(self, node: Node) -> None:
        """Close a node's connection after the requests in flight have got their answers."""

        def end() -> None:
            node.close()
            self._retired.remove(node)

        if node.replicas is not None:
            node.replicas.close()
        self._retired.append(node)
        asyncio.get_running_loop().call_later(_RETIRED_SECONDS, end)

    def _log_away(self) -> None:
        """Log nodes that were lost or are back. Frequent changes of a node are logged at intervals."""
        away = {address for address, node in self._nodes.items() if not node.open}
        if away == self._away:
            return
        now = monotonic()
        for address in away - self._away:
            if now - self._logged_away.get(address, -_LOG_PAUSE_SECONDS) >= _LOG_PAUSE_SECONDS:
                self._logged_away[address] = now
                refusal = self._nodes[address].refusal or "not connected yet"
                log.warning("the cluster's node %s:%d is away: %s", *address, refusal)
        for address in (self._away - away) & self._nodes.keys() & self._logged_away.keys():
            log.info("the cluster's node %s:%d answers again", *address)
        self._away = away

    def drop(self, reason: StoreDown) -> None:
        """Close every connection; the next request opens new ones."""
        for node in self._nodes.values():
            node.drop(reason)

    def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
        for node in [*self._nodes.values(), *self._retired]:
            node.close()


def _slot(reply: Any) -> int:
    if type(reply) is not int or not 0 <= reply < REDIS_CLUSTER_HASH_SLOTS:
        raise ValueError(f"{reply!r} is no slot")
    return reply


def _address(reply: Sequence[Any], by: Node) -> Address:
    """Return a node's address from CLUSTER SLOTS; without a host, it is the host that was asked."""
    host = bytes(reply[0] or b"").decode()
    return (by.address[0] if host in ("", "?") else host, int(reply[1]))
