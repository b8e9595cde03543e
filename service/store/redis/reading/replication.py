"""Reads INFO replication: how many of the primary's writes a node has applied, and which replicas a primary has."""

from dataclasses import dataclass
from typing import Any

from service.addresses.redis_url import Address
from service.store.base import StoreDown
from service.store.redis.reading.replies import refusal
from service.store.redis.reading.wire import packed

INFO = packed("INFO", "replication")


@dataclass(frozen=True, slots=True)
class Replication:
    """What a node says of itself. Positions of two nodes can be compared if their `history` is the same.

    `position` is the number of bytes of the history that the node has applied. `following` says whether a replica is
    connected with its primary. `replicas` are those that get every write from this node.
    """

    history: str
    position: int
    is_primary: bool
    following: bool
    replicas: tuple[Address, ...]


def replication(reply: Any) -> Replication:
    """Read the reply to `INFO`. Raises StoreDown."""
    if type(reply) is not bytes:
        raise refusal(reply, "INFO replication")
    lines = reply.decode(errors="replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    try:
        is_primary = fields["role"] == "master"
        return Replication(
            history=fields["master_replid"],
            position=int(fields["master_repl_offset" if is_primary else "slave_repl_offset"]),
            is_primary=is_primary,
            following=fields.get("master_link_status") == "up" and fields.get("master_sync_in_progress") == "0",
            replicas=tuple(_online(fields)) if is_primary else (),
        )
    except (KeyError, ValueError) as error:
        raise StoreDown(f"Redis answered INFO replication with something else: {error!r}") from None


def _online(fields: dict[str, str]) -> list[Address]:
    """The replicas of a primary, from lines as `slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0`."""
    replicas = []
    for name, text in fields.items():
        if name.removeprefix("slave").isdecimal():
            replica = dict(part.split("=", 1) for part in text.split(","))
            if replica["state"] == "online":
                replicas.append((replica["ip"], int(replica["port"])))
    return replicas
