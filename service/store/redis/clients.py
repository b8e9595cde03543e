"""Owns redis-py's clients, for whatever is not a ranking's reading: of one Redis or of a cluster, by the form of the address.

A cluster's client stands in for one Redis' here: it has the same commands, of which MGET over several keys and, in a pipeline, EVALSHA do not work.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import redis.asyncio
from redis import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException, RedisError

from service.redis_url import seeds_of

REDIS_ERRORS = (RedisError, RedisClusterException, OSError)


def client(url: str, timeout_seconds: float) -> "Redis":
    """A client for commands that wait no longer than this. Raises RedisError where no node of a cluster answers."""
    seeds = seeds_of(url)
    if seeds is None:
        return Redis.from_url(url, socket_timeout=timeout_seconds)
    nodes = [ClusterNode(*address) for address in seeds.nodes]  # type: ignore[no-untyped-call]
    chosen: dict[str, Any] = {"startup_nodes": nodes, "socket_timeout": timeout_seconds, "require_full_coverage": False}
    try:
        return cast("Redis", RedisCluster.from_url(seeds.at(seeds.nodes[0]), **chosen))
    except RedisClusterException as error:  # no RedisError, and raised by the constructor, which asks who the nodes are
        raise RedisError(str(error)) from None


def async_client(url: str, timeout_seconds: float) -> redis.asyncio.Redis:
    """The same for an event loop; a command that fails for the connection's sake is tried once more."""
    seeds = seeds_of(url)
    chosen: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 1),
    }
    if seeds is None:
        return redis.asyncio.Redis.from_url(url, **chosen)
    nodes = [AsyncClusterNode(*address) for address in seeds.nodes]
    chosen |= {"startup_nodes": nodes, "require_full_coverage": False}
    return cast(redis.asyncio.Redis, redis.asyncio.RedisCluster.from_url(seeds.at(seeds.nodes[0]), **chosen))


def values_of(redis: "Redis", keys: Sequence[str]) -> list[bytes | None]:
    """What the keys hold; a cluster is asked slot by slot."""
    found: Any = cast(Any, redis).mget_nonatomic(keys) if is_cluster(redis) else redis.mget(keys)
    return list(found)


def set_values(redis: "Redis", values: Mapping[str, bytes]) -> None:
    """Have the keys hold these; a cluster is told slot by slot."""
    cast(Any, redis).mset_nonatomic(values) if is_cluster(redis) else redis.mset(values)


def is_cluster(redis: "Redis") -> bool:
    """Whether this is a cluster's client."""
    return isinstance(cast(object, redis), RedisCluster)
