"""Asks the nodes of a Redis Cluster: sends each command to the node that has its key's slot, and follows redirections.

A ranking asks all nodes at once; a node without a command gets a PING. A node's announcements of changed rows arrive
before its reply, and a node that does not answer is known to be away.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hiredis import ReplyError

from service.store.base import StoreDown
from service.store.redis.reading.cluster.node import Node
from service.store.redis.reading.cluster.topology import Topology
from service.store.redis.reading.replies import is_refusal
from service.store.redis.reading.wire import packed, retrieve

_REDIRECTIONS = 3
_PING = packed("PING")
_ASKING = packed("ASKING")


class ReplicaDown(StoreDown):
    """Replicas did not answer; `nodes` names them."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(f"no answer from replica {', '.join(node.name for node in nodes)}")
        self.nodes = nodes


Command = tuple[bytes, bytes]  # the key that decides on the node, and the packed command
# Converts one node's replies to a part of the result when they are parsed: (positions of the commands, replies, whether
# the node is the one that rankings read and that announces changes) -> part.
DecodePart = Callable[[Sequence[int], list[Any], bool], Any]
# (node, whether ASKING precedes each command) -> positions of the commands
_Routes = dict[tuple[Node | None, bool], list[int]]


@dataclass(slots=True)
class Answers:
    """The replies in the order of the commands, the parts of the result by node, and the nodes without an answer.

    A missing reply is represented by a StoreDown, a refused command by a ReplyError.
    """

    replies: list[Any]
    parts: list[Any] = field(default_factory=list)
    silent: set[Node] = field(default_factory=set)


@dataclass(slots=True)
class _Sent:
    """Commands that were sent to one node. The answer is (their replies, the part of the result made from them)."""

    node: Node
    places: Sequence[int]
    answer: "asyncio.Future[Any]"


async def ask(
    topology: Topology,
    commands: Sequence[Command],
    timeout: float,
    decode: DecodePart | None = None,
    everywhere: bool = False,
    replicas: bool = False,
) -> Answers:
    """Send commands to their nodes and wait for all of them, at most `timeout` seconds per redirection.

    `decode` runs before anything that the node sends after its replies. With `everywhere`, the other nodes are asked
    too, to see whether they answer. With `replicas`, a replica may be asked in place of a primary; what it refuses or
    does not have is asked of the primary. Raises ReplicaDown.
    """
    answers = Answers([None] * len(commands))
    routes: _Routes = {(node, False): [] for node in topology.readers} if everywhere else {}
    node_of = topology.reader if replicas else topology.owner
    for place, (key, _) in enumerate(commands):
        routes.setdefault((node_of(key), False), []).append(place)
    for _ in range(1 + _REDIRECTIONS):
        await _ask_along(topology, routes, commands, answers, timeout, decode)
        away = [node for node in answers.silent if node.is_replica]
        if away:
            raise ReplicaDown(away)
        sent_routes = routes
        routes = _redirections(topology, commands, answers.replies)
        if replicas:
            _add_primaries(topology, sent_routes, commands, answers.replies, routes)
        if not routes:
            break
        unconnected = [node for node, _ in routes if node and not node.open]
        await asyncio.gather(*(node.connect(timeout) for node in unconnected), return_exceptions=True)
    return answers


async def _ask_along(
    topology: Topology,
    routes: _Routes,
    commands: Sequence[Command],
    answers: Answers,
    timeout: float,
    decode: DecodePart | None,
) -> None:
    # Send to every node before waiting for any.
    sent: list[_Sent] = []
    for (node, asking), places in routes.items():
        if node is None:
            _fail(answers, places, StoreDown("no node of the cluster has this key's slot"))
            continue
        try:
            sent.append(_send(node, asking, places, commands, decode))
        except StoreDown as error:
            _fail(answers, places, error, node)

    # Wait for all of them, with one timer.
    late = asyncio.get_running_loop().call_later(timeout, _give_up, sent, timeout)
    try:
        for each in sent:
            try:
                replies, part = await each.answer
            except StoreDown as error:
                _fail(answers, each.places, error, each.node)
                continue
            for place, reply in zip(each.places, replies, strict=False):  # a PING's reply has no place
                answers.replies[place] = reply
            if part is not None:
                answers.parts.append(part)
    finally:
        late.cancel()
        for each in sent:  # what is left where the caller was cancelled
            if each.answer.done():
                retrieve(each.answer)
            else:
                each.answer.cancel()
    if answers.silent or len(sent) < len(routes):
        topology.learn_soon()


def _send(
    node: Node, asking: bool, places: Sequence[int], commands: Sequence[Command], decode: DecodePart | None
) -> _Sent:
    """Send a node the commands at these positions, or a PING if there are none. Raises StoreDown."""
    if not places:
        return _Sent(node, places, node.send(_PING, 1, _undecoded))
    own_commands = [commands[place][1] for place in places]
    if decode is None and not asking and not node.is_replica:
        return _Sent(node, places, node.send(b"".join(own_commands), len(places), _undecoded))

    def decode_replies(replies: list[Any]) -> tuple[list[Any], Any]:
        answers = replies[1::2] if asking else replies
        if node.is_replica:
            answers = [StoreDown("the replica has no such row") if _is_absent(reply) else reply for reply in answers]
        return answers, None if decode is None else decode(places, answers, node.reader is node)

    if asking:
        return _Sent(node, places, node.send(_ASKING.join([b"", *own_commands]), 2 * len(places), decode_replies))
    return _Sent(node, places, node.send(b"".join(own_commands), len(places), decode_replies))


def _undecoded(replies: list[Any]) -> tuple[list[Any], None]:
    return replies, None


def _fail(answers: Answers, places: Sequence[int], error: StoreDown, node: Node | None = None) -> None:
    if node is not None:
        answers.silent.add(node)
        error = StoreDown(f"{node.name}: {error}")
    for place in places:
        answers.replies[place] = error


def _redirections(topology: Topology, commands: Sequence[Command], replies: Sequence[Any]) -> _Routes:
    """Return the commands that their node redirected to another one."""
    routes: _Routes = {}
    for place, reply in enumerate(replies):
        if isinstance(reply, ReplyError):
            word, *arguments = str(reply).split()
            if word in ("MOVED", "ASK") and len(arguments) == 2 and arguments[1].rpartition(":")[2].isdigit():
                node = topology.redirected_to(arguments[1], topology.owner(commands[place][0]))
                routes.setdefault((node, word == "ASK"), []).append(place)
            topology.learn_soon()
    return routes


def _is_absent(reply: Any) -> bool:
    """Return whether there is no such key. A slot that moves is missing from the replicas before its move is known."""
    return reply is None or reply in ([], {}, [None])


def _add_primaries(
    topology: Topology, sent_routes: _Routes, commands: Sequence[Command], replies: Sequence[Any], routes: _Routes
) -> None:
    """Add to `routes` the commands that a replica has refused or has no row for, except for redirected ones."""
    redirected = {place for places in routes.values() for place in places}
    for (node, _), places in sent_routes.items():
        if node is None or not node.is_replica:
            continue
        for place in places:
            if is_refusal(replies[place]) and place not in redirected:
                routes.setdefault((topology.owner(commands[place][0]), False), []).append(place)


def _give_up(sent: Sequence[_Sent], timeout: float) -> None:
    for each in sent:
        each.node.give_up(each.answer, timeout)
