"""Sends many commands of one key each to the nodes of a cluster, all nodes at once.

The pipeline of redis-py's cluster client asks a node for the keys of each EVAL first, with the script and all
arguments, and MSET and MGET become one command per slot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis import Redis, RedisCluster
from redis.exceptions import AskError, NoScriptError, ResponseError, TryAgainError

Command = tuple[bytes | str | int, ...]


@dataclass(frozen=True)
class _Sent:
    """The positions of the commands that were sent to one node, and the connection that has their replies."""

    pool: Any
    connection: Any
    places: list[int]


def ask_nodes(
    redis: "Redis",
    keys: Sequence[str],
    commands: Sequence[Command],
    again: Callable[[Command], Command] = lambda command: command,
) -> list[Any]:
    """Send each command to the node of its key, and return the replies. Raises RedisError and OSError.

    A command that a node redirects, because its slot moves, or whose script it lacks, is sent by the cluster's client
    in the form that `again` gives it.
    """
    cluster = cast(RedisCluster, redis)
    places_of: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        node = cluster.get_node_from_key(key)  # type: ignore[no-untyped-call]
        if node is None:
            raise ResponseError(f"CLUSTERDOWN no node has the slot of {key}")
        places_of.setdefault(node.name, []).append(place)

    # Send to every node before waiting for any.
    replies: list[Any] = [None] * len(commands)
    sent: list[_Sent] = []
    try:
        for name, places in places_of.items():
            node = cluster.get_node(node_name=name)  # type: ignore[no-untyped-call]
            pool = cluster.get_redis_connection(node).connection_pool
            sent.append(_Sent(pool, pool.get_connection(), places))
            packed = [hiredis.pack_command(commands[place]) for place in places]  # type: ignore[arg-type]
            sent[-1].connection.send_packed_command([b"".join(packed)])
        for each in sent:
            for place in each.places:
                replies[place] = _reply(each.connection)
    except BaseException:
        for each in sent:  # what is still to come would be taken for the reply to a later command
            each.connection.disconnect()
        raise
    finally:
        for each in sent:
            each.pool.release(each.connection)

    for place, reply in enumerate(replies):
        if isinstance(reply, AskError | TryAgainError | NoScriptError):  # a MovedError is an AskError
            replies[place] = cluster.execute_command(*again(commands[place]))  # type: ignore[no-untyped-call]
        elif isinstance(reply, ResponseError):
            raise reply
    return replies


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
