"""Owns the connections to a Redis Cluster: which node has which slot, who is asked what, and where a node sends us instead.

Every ranking asks all nodes at once, those of which nothing is wanted with a PING: what a node told of changed rows lies before its reply, and
a node that does not answer is known for it.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from hiredis import ReplyError
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from service.redis_url import Address, Seeds
from service.store.redis.wire import StoreDown, Wire, packed, retrieve

log = logging.getLogger("funnelrank.store")

_LEARN_PAUSE_SECONDS = 0.2
_LEARN_TIMEOUT_SECONDS = 1.0
_REDIRECTIONS = 3
_ASKED_FOR_SLOTS = 5
_RETIRED_SECONDS = 2.0
_PING = packed("PING")
_ASKING = packed("ASKING")
_SLOTS = packed("CLUSTER", "SLOTS")

Command = tuple[bytes, bytes]  # the key that decides on the node, and the packed command
Took = Callable[[Sequence[int], list[Any]], None]
_Routes = dict[
    tuple["Node | None", bool], list[int]
]  # (whom to ask, whether for a slot on its way there) -> places of commands
_View = tuple[tuple[int, int, Address], ...]  # first slot, last slot, primary


class Node(Wire):
    """The connection to one node."""

    def __init__(self, seeds: Seeds, address: Address, told: Callable[[list[Any]], None] | None) -> None:
        super().__init__(seeds.at(address), told)
        self.address = address
        self.name = "{}:{}".format(*address)


@dataclass(slots=True)
class _Asked:
    """Commands, the replies so far, and the nodes that gave none."""

    commands: Sequence[Command]
    took: Took | None
    replies: list[Any]
    silent: set[Node] = field(default_factory=set)

    def came(self, places: Sequence[int], replies: list[Any]) -> None:
        for place, reply in zip(places, replies, strict=True):
            self.replies[place] = reply
        if self.took is not None:
            self.took(places, replies)


class Cluster:
    """The nodes of a cluster as one worker sees them; learns who they are when first asked, and again when something speaks against it."""

    def __init__(self, seeds: Seeds, told: Callable[[list[Any]], None] | None) -> None:
        self._seeds = seeds
        self._told = told
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._view: _View = ()
        self._retired: list[Node] = []
        self._learning: asyncio.Task[None] | None = None
        self._learn_after = 0.0
        self._refusal = ""
        self._away: set[Address] = set()
        self._views = self._epoch = 0
        self._seen: tuple[int, ...] = ()

    @property
    def nodes(self) -> list[Node]:
        """Those that can be asked now."""
        return [node for node in self._nodes.values() if node.open]

    def epoch(self) -> int:
        """A number that changes with every connection made or lost and every slot that moved: what was kept before may be stale after."""
        seen = (self._views, *[node.connection if node.open else 0 for node in self._nodes.values()])
        if seen != self._seen:
            self._seen = seen
            self._epoch += 1
        return self._epoch

    def owner(self, key: bytes) -> Node | None:
        """The primary that has this key's slot."""
        return self._owners[key_slot(key)]

    async def connect(self, timeout: float) -> None:
        """See to it that all nodes are connected. Raises StoreDown where nobody says who they are; nobody waits for a node that refused last."""
        if not self._view:
            await self._first_view(timeout)
        lost = [node for node in self._nodes.values() if not node.open]
        if lost:
            self.learn_soon()
            await asyncio.gather(*(node.connect(timeout) for node in lost if not node.refusal), return_exceptions=True)
            for node in lost:
                if not node.open:
                    node.connect_soon()
        self._note_away()

    async def ask(
        self, commands: Sequence[Command], timeout: float, took: Took | None = None, everywhere: bool = False
    ) -> tuple[list[Any], set[Node]]:
        """The replies in the order of the commands, and the nodes that did not answer.

        A reply that did not come is a StoreDown in its place, one that the node refuses a ReplyError. `took` gets places and replies the moment
        they are read, before anything that the node sent after them. With `everywhere` the other nodes are asked too, for a sign of life.
        """
        asked = _Asked(commands, took, [None] * len(commands))
        routes: _Routes = {(node, False): [] for node in self.nodes} if everywhere else {}
        for place, (key, _) in enumerate(commands):
            routes.setdefault((self.owner(key), False), []).append(place)
        for _ in range(1 + _REDIRECTIONS):
            await self._ask_along(routes, asked, timeout)
            routes = self._redirected(asked)
            if not routes:
                break
            await asyncio.gather(
                *(node.connect(timeout) for node, _ in routes if node and not node.open), return_exceptions=True
            )
        return asked.replies, asked.silent

    async def _ask_along(self, routes: _Routes, asked: _Asked, timeout: float) -> None:
        """Send to every node first, then wait for all of them."""
        waiting: list[tuple[Node, Sequence[int], asyncio.Future[list[Any]]]] = []
        for (node, asking), places in routes.items():
            try:
                if node is None:
                    raise StoreDown("no node of the cluster has this key's slot")
                waiting.append((node, places, _sent(node, asking, places, asked)))
            except StoreDown as error:
                self._failed(asked, node, places, error)
        late = asyncio.get_running_loop().call_later(timeout, _too_late, waiting, timeout)
        try:
            for silent, unanswered, answered in waiting:
                try:
                    await answered
                except StoreDown as error:
                    self._failed(asked, silent, unanswered, error)
        finally:
            late.cancel()
            for _, _, answered in waiting:  # what is left where the caller was cancelled
                retrieve(answered) if answered.done() else answered.cancel()

    def _failed(self, asked: _Asked, node: Node | None, places: Sequence[int], error: StoreDown) -> None:
        if node is not None:
            asked.silent.add(node)
            error = StoreDown(f"{node.name}: {error}")
        for place in places:
            asked.replies[place] = error
        self.learn_soon()

    def _redirected(self, asked: _Asked) -> _Routes:
        """The commands that their node sent elsewhere."""
        routes: _Routes = {}
        for place, reply in enumerate(asked.replies):
            if isinstance(reply, ReplyError):
                word, *told = str(reply).split()
                if word in ("MOVED", "ASK") and len(told) == 2:
                    routes.setdefault(
                        (self._named(told[1], self.owner(asked.commands[place][0])), word == "ASK"), []
                    ).append(place)
                self.learn_soon()
        return routes

    def _named(self, where: str, by: Node | None) -> Node:
        """The node of a redirection; one that names no host means another port of the host that was asked."""
        host, _, port = where.rpartition(":")
        return self._node((host or (by.address[0] if by else ""), int(port)))

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = Node(self._seeds, address, self._told)
        return self._nodes[address]

    # Who has which slot is asked of several nodes at once and the most common answer counts: one that was cut off from the others goes on
    # telling how things were.

    def learn_soon(self) -> None:
        """Ask again who has which slot, beside whatever goes on and not too often."""
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
        views = await self._views_of(random.sample(nodes, min(len(nodes), _ASKED_FOR_SLOTS)))  # nosec B311 # spreads the load
        if not views:
            views = await self._views_of([self._node(seed) for seed in self._seeds.nodes])
        if views:
            self._adopt(Counter(views).most_common(1)[0][0])

    async def _views_of(self, nodes: Iterable[Node]) -> list[_View]:
        return [view for view in await asyncio.gather(*map(self._view_of, nodes)) if view]

    async def _view_of(self, node: Node) -> _View:
        """Who has which slot, as one node says; nothing where it does not."""
        try:
            (reply,) = await node.ask(_SLOTS, 1, _LEARN_TIMEOUT_SECONDS)
        except StoreDown as error:
            self._refusal = f"{node.name}: {error}"
            return ()
        if isinstance(reply, Exception) or not reply:
            self._refusal = f"{node.name} is no node of a cluster that is set up: {reply or 'no slots are assigned'}"
            return ()
        return tuple(sorted((first, last, _address(primary, node)) for first, last, primary, *_ in reply))

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

    def _retire(self, node: Node) -> None:
        """Requests in work still get their answers."""

        def end() -> None:
            node.close()
            self._retired.remove(node)

        self._retired.append(node)
        asyncio.get_running_loop().call_later(_RETIRED_SECONDS, end)

    def _note_away(self) -> None:
        away = {address for address, node in self._nodes.items() if not node.open}
        if away == self._away:
            return
        for address in away - self._away:
            log.warning(
                "the cluster's node %s:%d is away: %s", *address, self._nodes[address].refusal or "not connected yet"
            )
        for address in (self._away - away) & self._nodes.keys():
            log.info("the cluster's node %s:%d answers again", *address)
        self._away = away

    def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
        for node in [*self._nodes.values(), *self._retired]:
            node.close()


def _sent(node: Node, asking: bool, places: Sequence[int], asked: _Asked) -> "asyncio.Future[list[Any]]":
    """Ask one node for the commands at `places`, or for a sign of life. Raises StoreDown."""
    if not places:
        return node.send(_PING, 1, _nothing)
    commands = [asked.commands[place][1] for place in places]
    if not asking:
        return node.send(b"".join(commands), len(commands), partial(asked.came, places))
    return node.send(
        _ASKING.join([b"", *commands]), 2 * len(commands), lambda replies: asked.came(places, replies[1::2])
    )


def _nothing(_replies: list[Any]) -> None:
    """A sign of life says nothing."""


def _too_late(waiting: Sequence[tuple[Node, Sequence[int], "asyncio.Future[list[Any]]"]], timeout: float) -> None:
    for node, _, answered in waiting:
        node.too_late(answered, timeout)


def _address(told: Sequence[Any], by: Node) -> Address:
    """A node as CLUSTER SLOTS tells it; without a host it is the host that was asked."""
    host = bytes(told[0] or b"").decode()
    return (by.address[0] if host in ("", "?") else host, int(told[1]))
