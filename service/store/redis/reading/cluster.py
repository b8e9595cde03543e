"""Asks the nodes of a Redis Cluster: each command goes to the node with its key's slot, or to where that sends it.

A ranking asks all nodes at once, those of which it wants nothing with a PING: what a node announced of changed rows
lies before its reply, and a node that does not answer is known for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hiredis import ReplyError

from service.store.base import StoreDown
from service.store.redis.reading.topology import Node, Topology
from service.store.redis.reading.wire import packed, retrieve

_REDIRECTIONS = 3
_PING = packed("PING")
_ASKING = packed("ASKING")

Command = tuple[bytes, bytes]  # the key that decides on the node, and the packed command
# Makes a part of the result of one node's replies when they are parsed: (places of the commands, replies) -> part.
DecodePart = Callable[[Sequence[int], list[Any]], Any]
# (which node, whether ASKING precedes each command) -> places of the commands
_Routes = dict[tuple[Node | None, bool], list[int]]


@dataclass(slots=True)
class Answers:
    """The replies in the order of the commands, what was made of them node by node, and the nodes that gave none.

    A reply that did not come is a StoreDown in its place, one that the node refuses a ReplyError.
    """

    replies: list[Any]
    parts: list[Any] = field(default_factory=list)
    silent: set[Node] = field(default_factory=set)


@dataclass(slots=True)
class _Sent:
    """Commands on their way to one node. The answer is (their replies, the part that was made of them)."""

    node: Node
    places: Sequence[int]
    answer: "asyncio.Future[Any]"


async def ask(
    topology: Topology,
    commands: Sequence[Command],
    timeout: float,
    decode: DecodePart | None = None,
    everywhere: bool = False,
) -> Answers:
    """Send commands to their nodes and wait for all of them, at most `timeout` seconds per redirection.

    `decode` runs before anything that the node sent after its replies. With `everywhere` the other nodes are asked too,
    for a sign of life.
    """
    answers = Answers([None] * len(commands))
    routes: _Routes = {(node, False): [] for node in topology.nodes} if everywhere else {}
    for place, (key, _) in enumerate(commands):
        routes.setdefault((topology.owner(key), False), []).append(place)
    for _ in range(1 + _REDIRECTIONS):
        await _ask_along(topology, routes, commands, answers, timeout, decode)
        routes = _redirections(topology, commands, answers.replies)
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
    """Send one node the commands at `places`, or a PING if there are none. Raises StoreDown."""
    if not places:
        return _Sent(node, places, node.send(_PING, 1, _undecoded))
    own_commands = [commands[place][1] for place in places]
    if decode is None and not asking:
        return _Sent(node, places, node.send(b"".join(own_commands), len(places), _undecoded))

    def decode_replies(replies: list[Any]) -> tuple[list[Any], Any]:
        own = replies[1::2] if asking else replies
        return own, None if decode is None else decode(places, own)

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
    """The commands that their node sent elsewhere."""
    routes: _Routes = {}
    for place, reply in enumerate(replies):
        if isinstance(reply, ReplyError):
            word, *arguments = str(reply).split()
            if word in ("MOVED", "ASK") and len(arguments) == 2 and arguments[1].rpartition(":")[2].isdigit():
                node = topology.redirected_to(arguments[1], topology.owner(commands[place][0]))
                routes.setdefault((node, word == "ASK"), []).append(place)
            topology.learn_soon()
    return routes


def _give_up(sent: Sequence[_Sent], timeout: float) -> None:
    for each in sent:
        each.node.give_up(each.answer, timeout)
